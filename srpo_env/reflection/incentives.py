"""Checks what a reflection reward pays for right answers, before a model is trained on it."""

from __future__ import annotations

from dataclasses import dataclass

from srpo_env.reflection.reward import ReflectionReward


@dataclass(frozen=True)
class Incentives:
    """What the four cases of a right or wrong first and second answer earn, at equal form."""

    right_right: float
    """Both answers are right."""
    wrong_right: float
    """The reflection repairs a wrong answer."""
    right_wrong: float
    """The reflection spoils a right answer."""
    wrong_wrong: float
    """Both answers are wrong."""

    @property
    def problems(self) -> list[str]:
        """What is wrong with the reward; empty if nothing is."""
        problems = []
        for final, right, wrong in (
            ("right", self.right_right, self.wrong_right),
            ("wrong", self.right_wrong, self.wrong_wrong),
        ):
            if right < wrong:
                problems.append(
                    f"A right first answer costs {wrong - right:g} if the second is {final}"
                )
        for first, right, wrong in (
            ("right", self.right_right, self.right_wrong),
            ("wrong", self.wrong_right, self.wrong_wrong),
        ):
            if right < wrong:
                problems.append(
                    f"A right second answer costs {wrong - right:g} if the first is {first}"
                )
            elif right == wrong:
                problems.append(f"A right second answer earns nothing if the first is {first}")
        return problems


def incentives(reward: ReflectionReward) -> Incentives:
    """Computes what the four cases of two answers earn by accuracy and effectiveness.

    Form and length are left out: they are the same in each case.

    Examples:
        >>> incentives(ReflectionReward.paper())
        Incentives(right_right=0.75, wrong_right=0.5, right_wrong=0.25, wrong_wrong=0.0)
        >>> incentives(ReflectionReward(keep=0, fix=0, mislead=0)).problems[0]
        'A right second answer earns nothing if the first is right'
    """

    def paid(first: bool, final: bool) -> float:
        return reward.accuracy * first + reward.effectiveness(first, final)

    return Incentives(paid(True, True), paid(False, True), paid(True, False), paid(False, False))
