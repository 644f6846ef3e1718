"""Sends commands to the workers of a `LiberoVectorEnv`, and collects their outcomes.

A worker that dies, hangs or raises an error in a reset or a step becomes the end of its episodes,
and is replaced. What the outcomes mean for Gymnasium's interface is up to `LiberoVectorEnv`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence

from srpo_env.libero.gl import OpenGLError
from srpo_env.libero.worker import Command, Failure, Outcome, Reset, Step
from srpo_env.libero.worker_handle import Pending, Worker
from srpo_env.libero.worker_process import WorkerStartError, dumps

logger = logging.getLogger(__name__)

MAX_FAILURES_IN_A_ROW = 3
"""Number of failures of the same kind in one worker after which an error is raised."""

RESET_TIMEOUTS = 5
"""Multiple of the timeout for a reset, which may have to compile a task for each environment."""


class Dispatcher:
    """The workers of one vector environment, and the commands under way."""

    def __init__(self, suite: str, num_envs: int, timeout: float) -> None:
        """Initialises without workers.

        Args:
            suite: Name of the suite, for messages.
            num_envs: Number of environments.
            timeout: As in `LiberoVectorEnv`, in seconds.
        """
        self.suite, self.timeout = suite, timeout
        self.workers: list[Worker] = []
        """They have all environments; to be filled by the caller."""
        self.last: list[Outcome | None] = [None] * num_envs
        """Result of each environment's last reset or step, which may wait to be returned."""
        self.started: list[deque[Pending]] = [deque() for _ in range(num_envs)]
        """Steps whose results the caller will ask for, of each environment."""
        self.is_broken = False
        """Whether an error was raised that the next command would raise again."""
        self._lost: dict[int, Failure] = {}
        """Environments whose worker ended during an episode: the next step ends the episode."""

    def start(self, commands: Mapping[int, Command]) -> dict[int, Pending]:
        """Sends at most one command to each environment; `finish` waits for the results.

        Raises:
            WorkerStartError: If the worker processes cannot be started.
        """
        for worker in self.workers:
            if any(slot in commands for slot in worker.slots):
                self._make_ready(worker)
        pending = {slot: Pending(command) for slot, command in commands.items()}
        for slot, command in commands.items():
            if isinstance(command, Step) and slot in self._lost:
                self._answer(slot, pending[slot], self._lost[slot])
            if isinstance(command, Step | Reset):
                self._lost.pop(slot, None)
        requests = []
        for worker in self.workers:
            slots = [slot for slot in worker.slots if slot in pending]
            request = {slot: pending[slot] for slot in slots if pending[slot].answer is None}
            if request:
                pickled = dumps([pending.command for pending in request.values()])
                requests.append((worker, request, dumps((list(request), pickled))))
        for worker, request, message in requests:  # all could be pickled
            worker.requests[worker.process.send(message)] = request
        return pending

    def finish(self, pending: Mapping[int, Pending]) -> dict[int, Outcome]:
        """Waits for the results of commands.

        A failure of a reset or a step becomes the end of the episode. All results are received
        before an error is raised.

        Raises:
            RuntimeError: If a call fails, or if a worker fails too often.
            WorkerStartError: If the worker processes cannot be started.
            OpenGLError: If they cannot render.
        """
        for worker in self.workers:
            waiting = [pending[slot] for slot in worker.slots if slot in pending]
            while any(command.answer is None for command in waiting):
                self._receive(worker)
        outcomes: dict[int, Outcome] = {}
        errors = []
        for slot, command in sorted(pending.items()):
            answer = command.answer
            if isinstance(answer, Outcome):
                outcomes[slot] = answer
            elif isinstance(answer, Failure):
                errors.append(
                    f"environment {slot} raised {answer.kind}: {answer.message}\n{answer.traceback}"
                )
        if errors:
            raise RuntimeError(errors[0])
        return outcomes

    def _receive(self, worker: Worker) -> None:
        """Waits for one of a worker's replies."""
        may_compile = any(isinstance(sent.command, Reset) for sent in worker.under_way)
        try:
            number, answers = worker.receive(self.timeout * (RESET_TIMEOUTS if may_compile else 1))
        except WorkerStartError:  # the others would fail in the same way
            self.is_broken = True
            raise
        if isinstance(answers, Failure):
            self._replace(worker, answers)
            return
        for answer in answers.values():
            if isinstance(answer, Failure) and answer.kind == OpenGLError.__name__:
                self.is_broken = True  # the others would fail in the same way
                raise OpenGLError(answer.message)
        request = worker.requests.pop(number, {})
        for slot, pending in request.items():
            self._answer(slot, pending, answers[slot])
        self._check_failures(worker, list(request.values()))

    def _answer(self, slot: int, pending: Pending, answer: Outcome | Failure) -> None:
        if isinstance(pending.command, Step | Reset):
            if isinstance(answer, Failure):
                answer = self._worker_error(slot, answer)
            self.last[slot] = answer
        pending.answer = answer

    def _make_ready(self, worker: Worker) -> None:
        """Waits for the replies to interrupted commands, which are not returned to anybody."""
        if not worker.process.is_in_sync:
            self._replace(worker, Failure("Interrupted", "its worker was interrupted", ""))
        while any(
            all(pending not in self.started[slot] for slot, pending in request.items())
            for request in worker.requests.values()
        ):
            self._receive(worker)

    def _replace(self, worker: Worker, failure: Failure) -> None:
        """Replaces a process that has ended, and with it all of its episodes and commands."""
        last = {slot: self.last[slot] for slot in worker.slots}
        running = {
            slot for slot, outcome in last.items() if outcome is not None and not outcome.has_ended
        }
        requests, sent = list(worker.requests.values()), worker.under_way
        worker.replace()
        for request in requests:
            for slot, pending in request.items():
                self._answer(slot, pending, failure)
                if isinstance(pending.command, Step | Reset):
                    running.discard(slot)
        # The next step of the other episodes, also of those without a command, ends them.
        self._lost.update(dict.fromkeys(running, failure))
        self._check_failures(worker, sent)

    def _worker_error(self, slot: int, failure: Failure) -> Outcome:
        last = self.last[slot]
        info = (
            {"task_id": -1, "init_state_id": -1, "control_steps": 0}
            if last is None
            else dict(last.info)
        )
        task_id, state_id = info["task_id"], info["init_state_id"]
        report = (
            f"environment {slot} ({self.suite} task {task_id}, initial state {state_id}) failed "
            f"with {failure.kind}: {failure.message}\n{failure.traceback}"
        )
        logger.error("%s", report)
        error = {"is_success": False, "worker_error": report, "worker_error_kind": failure.kind}
        buffer = 0 if last is None else last.buffer
        return Outcome(truncated=True, info={**info, **error}, buffer=buffer)

    def _check_failures(self, worker: Worker, answered: Sequence[Pending]) -> None:
        """Raises an error if a worker's last commands failed in the same way."""
        outcomes = [p.answer for p in answered if isinstance(p.answer, Outcome)]
        failed = [outcome.info for outcome in outcomes if "worker_error" in outcome.info]
        if not failed:
            if len(outcomes) == len(answered):
                worker.failures.clear()
            return
        # The death of a worker ends all of its episodes, and counts as one failure.
        kind = failed[-1]["worker_error_kind"]
        worker.failures.append(kind)
        if worker.failures[-MAX_FAILURES_IN_A_ROW:] == [kind] * MAX_FAILURES_IN_A_ROW:
            self.is_broken = True
            raise RuntimeError(
                f"{MAX_FAILURES_IN_A_ROW} failures in a row of the same kind; the last: "
                f"{failed[-1]['worker_error']}"
            )
