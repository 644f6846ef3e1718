"""Runs LIBERO environments in parallel: one process per core, several environments in each.

Compiled tasks take most of the memory and the start-up time, and the environments of a process
share them. The number of processes therefore depends on the cores, and the number of environments
on the policy's batch size.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from srpo_env.libero.assets import check_suite, resolve_assets
from srpo_env.libero.dispatch import Dispatcher
from srpo_env.libero.env import LiberoEnv
from srpo_env.libero.perturbations import as_text
from srpo_env.libero.progress import ProgressBar
from srpo_env.libero.shared_observations import SharedObservations
from srpo_env.libero.suites import SUITES
from srpo_env.libero.vector_arguments import VectorArguments, checked_counts
from srpo_env.libero.worker import Call, Command, Outcome, Reset, SetAttr, Setup, Step
from srpo_env.libero.worker_handle import Pending, Worker
from srpo_env.libero.worker_process import END_SECONDS, WorkerProcess
from srpo_env.types import Array

Observations = dict[str, Array]

MAX_STARTED = 2
"""Maximum number of steps that were started in an environment and are not returned."""


class LiberoVectorEnv(VectorEnv[Observations, Array, Array]):
    """``num_envs`` `LiberoEnv` of one suite, in ``num_workers`` processes.

    Environments can have different tasks:
    ``reset(options={"task_id": .., "init_state_id": .., "reset_mask": ..})`` takes for each option
    one value for all, or an array of shape ``(num_envs,)``; an id that is left out is drawn from
    each environment's generator. With ``fixtures="random"``, ``fixture_seed`` is an option too, and
    episodes that are compared with each other should have the same one. ``reset_mask`` selects the
    environments to reset, while the episodes of the others continue. ``perturbation`` is one
    perturbation, or a tuple of several, for all environments, or a list with one entry for each.

    A worker that dies, hangs or raises does not end the run. It is logged with its task, state and
    traceback, and replaced; its episodes are returned as truncated, with
    ``infos["worker_error"]``. After three failures of the same kind in a row, the environment
    raises an error.

    With autoreset disabled, an environment whose episode has ended waits for its reset: ``step``
    does nothing there, and returns the end of the episode again, with reward 0.

    With `start_step` and `await_step`, a policy can decide for some environments while the others
    are simulated. `step` still returns the results of all of them.

    An exception during a call, such as a KeyboardInterrupt, loses the results of that call only:
    after an interrupted ``reset`` or ``step``, all environments must be reset.
    """

    _owner: int | None = None  # process that uses the workers; None until they are started

    def __init__(
        self,
        suite: str | None = None,
        num_envs: int = 8,
        *,
        num_workers: int | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        timeout: float = 120.0,
        wrap: Callable[[LiberoEnv], Any] | None = None,
        **env_kwargs: Any,
    ) -> None:
        """Starts the workers, which compile a task at the first reset to it.

        Args:
            suite: Name of the suite, LIBERO's or your own; default: ``libero_object``.
            num_envs: Number of environments.
            num_workers: Number of processes; default: one per usable core (respecting a container's
                CPU quota), at most ``num_envs``.
            autoreset_mode: Gymnasium's autoreset mode.
            timeout: Maximum time in seconds for a worker's answer to a command; five times as long
                for a reset, which may compile tasks.
            wrap: Wraps each environment in its worker, and keeps its spaces; must be picklable, as
                `EncodeEpisodes` is.
            **env_kwargs: Further arguments of `LiberoEnv`, such as ``bddl`` for a task of your own.

        Raises:
            ValueError: If an argument is out of its range.
            FileNotFoundError: If assets of the suite are missing.
            ModuleNotFoundError: If LIBERO is not installed.
            WorkerStartError: If the system starts no process.
        """
        num_envs, num_workers = checked_counts(num_envs, num_workers, timeout)
        # Checks all arguments before a process is started; compiles nothing.
        single = LiberoEnv(suite, **env_kwargs)
        assets = resolve_assets()
        if single.suite in SUITES:
            check_suite(assets, single.suite)
        # The workers get the suite itself, because they do not know the user's suites by name.
        own_task = {"bddl", "init_states"}
        env_kwargs = {name: env_kwargs[name] for name in env_kwargs.keys() - own_task}
        self.task_suite = single.task_suite
        """The suite; `suite` is its name."""
        if single.perturbation:
            env_kwargs["perturbation"] = as_text(single.perturbation)
        self._env_kwargs = {"suite": self.task_suite, **env_kwargs}
        self.wrap = wrap
        """Wraps each environment in its worker; None: they stay as they are."""
        self.assets = assets.kind
        """``"libero"``, ``"modified"`` or ``"placeholder"``: the kind of assets in use."""
        self.conditions = {"assets": assets.kind, **single.conditions}
        """What images and states depend on: ``assets``, ``look``, ``visuals``, ``physics``,
        ``fixtures`` and ``mujoco``."""
        self.fixtures = single.fixtures
        self.suite, self.num_tasks, self.num_envs = single.suite, single.num_tasks, num_envs
        self.num_workers = num_workers
        self.metadata = {**single.metadata, "autoreset_mode": AutoresetMode(autoreset_mode)}
        self.render_mode = single.render_mode
        self.single_observation_space = single.observation_space
        self.single_action_space = single.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        action_shape = self.action_space.shape
        assert action_shape is not None
        self._arguments = VectorArguments(num_envs, action_shape, self.task_suite, self.fixtures)
        self._buffers = np.zeros(num_envs, dtype=int)
        """Shared buffer that has the observation which was returned last, of each environment."""
        self._was_interrupted = False
        self._owner = os.getpid()
        self._shared = SharedObservations(self.single_observation_space, num_envs)
        show_progress = ProgressBar()
        self._dispatcher = Dispatcher(self.suite, num_envs, timeout)
        try:
            for part in np.array_split(np.arange(num_envs), num_workers):
                worker = self._start_worker(tuple(part.tolist()), show_progress)
                self._dispatcher.workers.append(worker)
        except BaseException:
            self.close()
            raise

    @property
    def gl(self) -> str:
        """OpenGL's vendor, renderer and version in the first worker."""
        self._check_open()
        return str(self._finish(self._start({0: Call("gl")}))[0].value)

    @property
    def timeout(self) -> float:
        """Maximum time for a worker's answer to a command, in seconds."""
        return self._dispatcher.timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._dispatcher.timeout = seconds

    @property
    def worker_pids(self) -> list[int]:
        """Process id of each worker."""
        processes = (worker.process for worker in self._dispatcher.workers)
        return [process.pid for process in processes if isinstance(process, WorkerProcess)]

    # --- Gymnasium's interface --------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observations, dict[str, Any]]:
        """Starts episodes: in all environments, or in those of ``options["reset_mask"]``.

        Raises:
            ValueError: If an option is unknown or of the wrong shape, or there is no such task or
                initial state.
            gymnasium.error.ResetNeeded: If the last reset or step was interrupted, and the mask
                does not select all environments.
        """
        self._check_open()
        commands = self._arguments.resets(seed, options)
        if len(commands) < self.num_envs:
            self._check_not_interrupted()
        self._was_interrupted = True  # until all results are known
        for slot in commands:
            self._dispatcher.started[slot].clear()
        outcomes = self._finish(self._start(commands))
        observations = self._observe(outcomes)
        failed = {
            slot: outcome for slot, outcome in outcomes.items() if "worker_error" in outcome.info
        }
        if failed:
            self._was_interrupted = False
            report = next(iter(failed.values())).info["worker_error"]
            raise RuntimeError(f"environments could not be reset: {report}")
        infos: dict[str, Any] = {}
        for slot, outcome in outcomes.items():
            infos = self._add_info(infos, outcome.info, slot)
        self._was_interrupted = False
        return observations, infos

    def step(self, actions: Array) -> tuple[Observations, Array, Array, Array, dict[str, Any]]:
        """Executes one chunk in every environment.

        Raises:
            ValueError: If the actions' shape is not ``(num_envs, chunk, 7)``, or they are not
                finite.
            gymnasium.error.ResetNeeded: Before the first reset, when all episodes have ended and
                autoreset is disabled, or if the last reset or step was interrupted.
        """
        self._check_open()
        actions = self._arguments.actions(actions, range(self.num_envs))
        self._check_is_reset()
        mode, started_steps = self.metadata["autoreset_mode"], self._dispatcher.started
        ended = np.array([last is not None and last.has_ended for last in self._dispatcher.last])
        ended &= [not started for started in started_steps]
        if mode == AutoresetMode.DISABLED and ended.all():
            raise gymnasium.error.ResetNeeded(
                "all episodes have ended: call `reset`, for some of them with "
                "options={'reset_mask': ...}"
            )
        for slot, started in enumerate(started_steps):
            if started and not np.array_equal(started[0].command.action, actions[slot]):
                raise ValueError(
                    "`step` must get the actions that `start_step` was given, got others for "
                    f"environment {slot}"
                )
        commands: dict[int, Command] = {
            slot: Reset() if ended[slot] else Step(actions[slot])
            for slot in range(self.num_envs)
            if not (started_steps[slot] or (mode == AutoresetMode.DISABLED and ended[slot]))
        }
        self._was_interrupted = True  # until all results are known
        pending = {slot: started.popleft() for slot, started in enumerate(started_steps) if started}
        outcomes = self._finish({**pending, **self._start(commands)})
        for slot in range(self.num_envs):
            if slot not in outcomes:
                last = self._dispatcher.last[slot]
                assert last is not None
                outcomes[slot] = replace(last, reward=0.0)
        rewards = np.array([outcomes[slot].reward for slot in range(self.num_envs)])
        terminations = np.array([outcomes[slot].terminated for slot in range(self.num_envs)])
        truncations = np.array([outcomes[slot].truncated for slot in range(self.num_envs)])
        infos: dict[str, Any] = {}
        if mode == AutoresetMode.SAME_STEP:
            outcomes, infos = self._reset_ended(outcomes, terminations | truncations)
        for slot in range(self.num_envs):
            infos = self._add_info(infos, outcomes[slot].info, slot)
        observations = self._observe(outcomes)
        self._was_interrupted = False
        return observations, rewards, terminations, truncations, infos

    def start_step(self, actions: Array, mask: npt.NDArray[np.bool_]) -> None:
        """Starts the next step in some environments, and does not wait for it.

        The `step` that follows must get the same actions for them, and returns the results of all
        environments as if it had started all of them. After `await_step`, one more step can be
        started before that `step`.

        Args:
            actions: As for `step`; those of other environments are ignored.
            mask: The environments to step, shape ``(num_envs,)``.

        Raises:
            ValueError: If the autoreset mode is not DISABLED, an action is wrong, or the last
                started step of an environment was not awaited, or two were not returned.
            gymnasium.error.ResetNeeded: If an episode has ended or not started, or the last reset
                or step was interrupted.
        """
        slots = self._arguments.slots(mask)
        self._check_open()
        actions = self._arguments.actions(actions, slots)
        self._check_is_reset()
        if self.metadata["autoreset_mode"] != AutoresetMode.DISABLED:
            raise ValueError(
                "`start_step` needs autoreset_mode=AutoresetMode.DISABLED, got "
                f"{self.metadata['autoreset_mode']}"
            )
        for slot in slots:
            started, last = self._dispatcher.started[slot], self._dispatcher.last[slot]
            if any(step.answer is None for step in started):
                raise ValueError(
                    f"environment {slot} is still in a step: call `await_step` before the next one"
                )
            if len(started) == MAX_STARTED:
                raise ValueError(
                    f"at most {MAX_STARTED} steps of an environment can wait for `step`, which "
                    f"environment {slot} has: call `step`"
                )
            if last is not None and last.has_ended:
                raise gymnasium.error.ResetNeeded(
                    f"the episode of environment {slot} has ended: call `reset` with "
                    "options={'reset_mask': ...}"
                )
        self._was_interrupted = True
        for slot, step in self._start({slot: Step(actions[slot]) for slot in slots}).items():
            self._dispatcher.started[slot].append(step)
        self._was_interrupted = False

    def await_step(self, mask: npt.NDArray[np.bool_]) -> tuple[Observations, npt.NDArray[np.bool_]]:
        """Waits for the steps that `start_step` has started last in some environments.

        Args:
            mask: The environments, shape ``(num_envs,)``.

        Returns:
            The observations of these n environments, in their order, each of shape ``(n, ...)``,
            and whether their episodes have ended, shape ``(n,)``.

        Raises:
            ValueError: If no step was started in one of them.
        """
        slots = self._arguments.slots(mask)
        for slot in slots:
            if not self._dispatcher.started[slot]:
                raise ValueError(f"no step was started in environment {slot}: call `start_step`")
        outcomes = self._finish({slot: self._dispatcher.started[slot][-1] for slot in slots})
        buffers = np.array([outcomes[slot].buffer for slot in slots], dtype=int)
        ended = np.array([outcomes[slot].has_ended for slot in slots], dtype=np.bool_)
        return self._shared.read(np.array(slots, dtype=int), buffers), ended

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Calls a method of each environment, or reads an attribute.

        Raises:
            RuntimeError: If an environment raises an error; the other environments have executed
                the call.
        """
        self._check_open()
        calls: dict[int, Command] = dict.fromkeys(range(self.num_envs), Call(name, args, kwargs))
        outcomes = self._finish(self._start(calls))
        return tuple(outcomes[slot].value for slot in range(self.num_envs))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Reads an attribute of each environment."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Sets an attribute of each environment, from one value or a list of ``num_envs``.

        A worker that replaces another one sets them as well.
        """
        self._check_open()
        values = self._arguments.values(values)
        self._finish(self._start({slot: SetAttr(name, value) for slot, value in enumerate(values)}))
        for worker in self._dispatcher.workers:
            for slot in worker.slots:
                worker.setup.attributes.setdefault(slot, {})[name] = values[slot]

    def render(self) -> tuple[Any, ...] | None:
        """Returns the agent view of each environment, or None without a ``render_mode``."""
        return None if self.render_mode is None else self.call("render")

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the workers."""
        if os.getpid() != self._owner:
            return  # a fork of the process that uses the workers
        for worker in self._dispatcher.workers:
            worker.process.close_connection()
        deadline = time.monotonic() + END_SECONDS
        for worker in self._dispatcher.workers:
            worker.process.wait(max(0.0, deadline - time.monotonic()))
            worker.process.kill()
        self._shared.close()

    def _start_worker(
        self, slots: tuple[int, ...], show_progress: Callable[[Any], object]
    ) -> Worker:
        """Starts a worker with some of the environments."""
        setup = Setup(self._env_kwargs, slots, self.num_envs, self.wrap, self._shared.descriptor)
        return Worker(setup, show_progress)

    # --- Commands and their outcomes --------------------------------------------------------------

    def _start(self, commands: Mapping[int, Command]) -> dict[int, Pending]:
        with self._closed_if_broken():
            return self._dispatcher.start(commands)

    def _finish(self, pending: Mapping[int, Pending]) -> dict[int, Outcome]:
        with self._closed_if_broken():
            return self._dispatcher.finish(pending)

    @contextmanager
    def _closed_if_broken(self) -> Iterator[None]:
        """Closes the environment after an error that each command would raise again."""
        try:
            yield
        except Exception:
            if self._dispatcher.is_broken:
                self.close()
            raise

    def _reset_ended(
        self, outcomes: dict[int, Outcome], dones: npt.NDArray[np.bool_]
    ) -> tuple[dict[int, Outcome], dict[str, Any]]:
        infos: dict[str, Any] = {}
        if not dones.any():
            return outcomes, infos
        last = self._observe(outcomes)
        ended = [int(slot) for slot in np.flatnonzero(dones)]
        for slot in ended:
            final = {
                "final_obs": {name: last[name][slot] for name in last},
                "final_info": outcomes[slot].info,
            }
            infos = self._add_info(infos, final, slot)
        # A step can return only one end of an episode, so a reset that fails is repeated here,
        # until the worker has failed too often.
        while ended:
            resets = self._finish(self._start({slot: Reset() for slot in ended}))
            outcomes = {**outcomes, **resets}
            ended = [slot for slot in ended if "worker_error" in outcomes[slot].info]
        return outcomes, infos

    def _observe(self, outcomes: Mapping[int, Outcome]) -> Observations:
        """Returns the observations of results to return, and the last ones of the others."""
        for slot, outcome in outcomes.items():
            self._buffers[slot] = outcome.buffer
        return self._shared.read(np.arange(self.num_envs), self._buffers)

    # --- Checks of the state ----------------------------------------------------------------------

    def _check_open(self) -> None:
        if self.closed:
            raise gymnasium.error.ClosedEnvironmentError("the environment is closed")

    def _check_not_interrupted(self) -> None:
        if self._was_interrupted:
            raise gymnasium.error.ResetNeeded(
                "the last `reset` or `step` was interrupted, and its results are lost: call "
                "`reset` for all environments"
            )

    def _check_is_reset(self) -> None:
        self._check_not_interrupted()
        if any(outcome is None for outcome in self._dispatcher.last):
            raise gymnasium.error.ResetNeeded(
                "call `reset` for all environments before the first `step`"
            )
