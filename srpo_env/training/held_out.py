"""Evaluations of a policy on held-out initial states, every so many iterations of a run."""

from __future__ import annotations

from typing import Any

from srpo_env.libero.suites import get_suite
from srpo_env.policy.base import Policy
from srpo_env.training.console import print_new_findings
from srpo_env.training.diagnosis import SUCCESS_RATE, TASK
from srpo_env.training.distributed import Ranks
from srpo_env.training.evaluation import Evaluation, evaluate, held_out_episodes
from srpo_env.training.progress_bar import progress_bar
from srpo_env.training.run import TrainingRun


class HeldOutEvaluation:
    """Evaluates greedily, with the suite's own limit of control steps and in exact physics."""

    def __init__(
        self,
        envs: Any,
        policy: Policy,
        num_episodes: int,
        every: int,
        last: int,
        ranks: Ranks | None = None,
    ) -> None:
        """Prepares the episodes.

        Args:
            envs: Vector environment of a LIBERO suite with autoreset disabled.
            policy: The policy that is trained.
            num_episodes: Number of episodes, spread evenly over the tasks.
            every: Number of iterations between two evaluations.
            last: Iteration that is evaluated in any case.
            ranks: The learners, each of which runs its share; None: this process alone.

        Raises:
            ValueError: If there are not so many held-out episodes.
        """
        self.envs, self.policy, self.every, self.last = envs, policy, every, last
        self.ranks = ranks or Ranks()
        self.episodes = held_out_episodes(envs.num_tasks, num_episodes)

    def is_due(self, run: TrainingRun) -> bool:
        """Returns whether the policy has to be evaluated now, and has not been yet."""
        due = run.iteration % self.every == 0 or run.iteration == self.last
        return due and not any(
            record["iteration"] == run.iteration and SUCCESS_RATE in record
            for record in run.log.records
        )

    def evaluate(self, run: TrainingRun) -> Evaluation:
        """Evaluates the policy, then logs and prints the result; environments must be reset."""
        in_training = {name: self.envs.get_attr(name) for name in ("max_steps", "physics")}
        self.envs.set_attr("max_steps", get_suite(self.envs.suite).max_steps)
        self.envs.set_attr("physics", "exact")
        own = self.episodes[self.ranks.rank :: self.ranks.size]
        with progress_bar("held-out episodes", len(own)) as show:
            result = evaluate(self.policy.act, self.envs, own, on_step=show)
        parts = self.ranks.gather(result.episodes)
        result = Evaluation.of(episode for part in parts for episode in part)
        for name, values in in_training.items():
            self.envs.set_attr(name, list(values))
        log_evaluation(run, result)
        print_new_findings(run)
        return result


def log_evaluation(run: TrainingRun, result: Evaluation) -> None:
    """Logs and prints success rates, in all and by task."""
    tasks = result.by_task()
    by_task = {f"{TASK}{task}": part.success_rate for task, part in tasks.items()}
    run.write({SUCCESS_RATE: result.success_rate, **by_task})
    print(f"held-out success {result} episodes; by task {result.counts_by_task()}", flush=True)
