"""Gymnasium: environments of one question and one response, and the reward as a wrapper."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from srpo_env.reflection.grading import exact_match
from srpo_env.reflection.parsing import parse
from srpo_env.reflection.reward import ReflectionReward

Mode = Literal["replace", "add"]


class SingleTurnTextEnv(gymnasium.Env[dict[str, Any], str]):
    """Asks one question per episode; the action is the whole response.

    Observation: ``{"question": text}``, and ``"image"`` if there are images. The info of `reset`
    and of `step` has ``"gold"``, the right answer. An episode has one step, whose reward is 1 if
    the last answer block of the response is the right answer, and else 0.

    The action space describes what ``sample`` draws: printable ASCII and the characters of the
    questions. `step` grades any string, because a language model can write any character.

    Examples:
        >>> env = SingleTurnTextEnv(["What is 2 + 2?"], ["4"])
        >>> observation, info = env.reset(seed=0)
        >>> observation, info
        ({'question': 'What is 2 + 2?'}, {'problem': 0, 'gold': '4'})
        >>> env.step("<think>2 + 2</think><answer>4</answer>")[1]
        1.0
    """

    def __init__(
        self,
        questions: Sequence[str],
        answers: Sequence[str],
        images: npt.NDArray[np.uint8] | None = None,
        max_length: int = 16_384,
    ) -> None:
        """Initialises the spaces.

        Args:
            questions: One text per problem.
            answers: The right answers, one per problem.
            images: RGB images of equal size, shape ``(num_problems, height, width, 3)``, uint8.
            max_length: Number of characters of the longest response that ``sample`` draws.

        Raises:
            ValueError: If there is no problem, or there are not as many answers or images as
                questions, or the images have another shape or type.
        """
        if not len(questions) or len(questions) != len(answers):
            raise ValueError(
                "There must be one answer per question, and at least one, got "
                f"{len(questions)} questions and {len(answers)} answers"
            )
        self.questions, self.answers, self.images = list(questions), list(answers), images
        charset = "".join(sorted(set(string.printable).union(*self.questions)))
        longest = max(map(len, self.questions))
        # An empty question is valid, beside a picture.
        question = spaces.Text(max(longest, 1), min_length=0, charset=charset)
        parts: dict[str, spaces.Space[Any]] = {"question": question}
        if images is not None:
            shape = images.shape
            if (
                images.dtype != np.uint8
                or len(shape) != 4
                or shape[3] != 3
                or shape[0] != len(questions)
            ):
                raise ValueError(
                    f"`images` must be uint8 of shape ({len(questions)}, height, width, 3), got "
                    f"{images.dtype} of shape {shape}"
                )
            parts["image"] = spaces.Box(0, 255, shape[1:], np.uint8)
        self.observation_space = spaces.Dict(parts)
        self.action_space = spaces.Text(max_length, min_length=0, charset=charset)
        self._problem: int | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Draws a problem, or asks the one whose index is ``options["problem"]``.

        Raises:
            ValueError: If there is no problem of this index.
        """
        super().reset(seed=seed)
        problem = (options or {}).get("problem")
        if problem is None:
            problem = self.np_random.integers(len(self.questions))
        elif not 0 <= problem < len(self.questions):
            raise ValueError(
                f'`options["problem"]` must be an index below {len(self.questions)}, got {problem}'
            )
        self._problem = int(problem)
        return self._observe(self._problem), self._info(self._problem)

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Grades the response and ends the episode.

        Raises:
            RuntimeError: If the question was answered already.
            TypeError: If the response is not a string.
        """
        if self._problem is None:
            raise RuntimeError("An episode has one step: call `reset` before the next response")
        if not isinstance(action, str):
            raise TypeError(f"A response must be a string, got {action!r}")
        problem, self._problem = self._problem, None
        trace = parse(action)
        answer = trace.answer1 if trace.answer2 is None else trace.answer2
        is_right = answer is not None and exact_match(answer, self.answers[problem])
        # Copies: vector environments and Gymnasium's checker demand other objects than in `reset`.
        return self._observe(problem), float(is_right), True, False, self._info(problem)

    def _observe(self, problem: int) -> dict[str, Any]:
        observation: dict[str, Any] = {"question": self.questions[problem]}
        if self.images is not None:
            observation["image"] = self.images[problem].copy()
        return observation

    def _info(self, problem: int) -> dict[str, Any]:
        return {"problem": problem, "gold": self.answers[problem]}


class ReflectionRewardWrapper(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Rewards the response that is the action of an environment with a `ReflectionReward`.

    Not a ``RewardWrapper``, which sees the number only. The info of `step` gains
    ``"reward_components"``, a dict, and ``"base_reward"``, what the environment paid.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        reward: ReflectionReward | None = None,
        *,
        gold_key: str = "gold",
        mode: Mode = "replace",
    ) -> None:
        """Wraps ``env``.

        Args:
            env: Its actions are strings.
            reward: None for the paper's.
            gold_key: Key of the right answer in the info of `step`.
            mode: ``"replace"`` pays the reflection reward only, ``"add"`` both.

        Raises:
            TypeError: If ``reward`` is not a `ReflectionReward`.
            ValueError: If the mode is unknown.
        """
        RecordConstructorArgs.__init__(self, reward=reward, gold_key=gold_key, mode=mode)
        super().__init__(env)
        if not (reward is None or isinstance(reward, ReflectionReward)):
            raise TypeError(f"`reward` must be a ReflectionReward, got {reward!r}")
        if mode not in get_args(Mode):
            raise ValueError(f"`mode` must be one of {get_args(Mode)}, got {mode!r}")
        self.reflection_reward = ReflectionReward.paper() if reward is None else reward
        self.gold_key, self.mode = gold_key, mode

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Steps the environment, and grades the action.

        Raises:
            ValueError: If the info has no right answer, or one that cannot be used.
        """
        observation, base, terminated, truncated, info = self.env.step(action)
        if self.gold_key not in info:
            raise ValueError(
                f"The info of `step` must have the right answer as {self.gold_key!r}, got "
                f"{sorted(info)}: pass gold_key=..."
            )
        assessment = self.reflection_reward.assess(action, info[self.gold_key])
        if assessment is None:
            raise ValueError(
                f"The right answer must be usable, got {info[self.gold_key]!r}: leave it out"
            )
        added = {"reward_components": assessment.components, "base_reward": float(base)}
        total = assessment.total + (float(base) if self.mode == "add" else 0.0)
        return observation, total, terminated, truncated, {**info, **added}
