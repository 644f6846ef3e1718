"""The reflection-aware reward for language models that answer, reflect and answer again.

"SRPO: Enhancing Multimodal LLM Reasoning via Reflection-Aware Reinforcement Learning"
(arXiv:2506.01713v3), Eqs. 4 to 8. Not the SRPO of robot policies, which is in `srpo_env.rewards`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from srpo_env.reflection.grading import (
    COMPONENTS,
    Assessment,
    Verify,
    count_words,
    exact_match,
    is_right,
    mean_metrics,
)
from srpo_env.reflection.parsing import parse, text_of


@dataclass(frozen=True)
class ReflectionReward:
    """The reward of a response with two answers and a reflection in between.

    The defaults are the paper's. Ablations are arguments, such as ``ReflectionReward(brevity=0)``.
    The object is a reward function of TRL's ``GRPOTrainer``; `compute_score` is one of verl.

    Raises:
        TypeError: If ``verify`` or ``length`` is not callable.
        ValueError: If a weight is not finite, one that pays for form is negative, or the ratios are
            not ``1 < target_ratio < max_ratio``.

    Source: arXiv:2506.01713v3, Eqs. 4 to 8 and section 4.1.

    Examples:
        >>> response = (
        ...     "<think>2 + 2 = 5</think><answer>5</answer>"
        ...     "<reflection>Off by 1.</reflection><think>It is</think><answer>4</answer>"
        ... )
        >>> for name, value in ReflectionReward.paper().assess(response, "4").components.items():
        ...     print(name, value)
        format 0.5
        accuracy 0.0
        reflection_format 0.25
        effectiveness 0.5
        brevity 0.1
    """

    format: float = 0.5
    """R_format: paid if all five blocks are in order, and nothing else."""
    accuracy: float = 0.5
    """R_accuracy: paid if the first answer is right."""
    reflection_format: float = 0.25
    """I_ref: paid if there is one properly tagged reflection."""
    keep: float = 0.25
    """I_eff of a right first and a right second answer."""
    fix: float = 0.5
    """I_eff of a wrong first and a right second answer."""
    fail: float = 0.0
    """I_eff of two wrong answers."""
    mislead: float = -0.25
    """I_eff of a right first and a wrong second answer."""
    brevity: float = 0.1
    """alpha: factor of f_len, which is 1 at the target length."""
    target_ratio: float = 2.0
    """T_target / S: the length that earns most, relative to that of the first think and answer."""
    max_ratio: float = 2.5
    """T_max / S: relative length at which f_len has fallen to 1/e."""
    verify: Verify = exact_match
    """Compares an answer with the label. It must accept every string, the empty one included, and
    returns None if the label cannot be used: such rows get no reward instead of a wrong one."""
    length: Callable[[str], float] = count_words
    """Length of the text of one block, for example in tokens. Tags are not counted."""
    label_column: str = "answer"
    """Column of the data set that holds the labels, for TRL."""

    def __post_init__(self) -> None:
        """Validates the settings."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("verify", "length"):
                if not callable(value):
                    raise TypeError(f"`{field.name}` must be callable, got {value!r}")
            elif field.name != "label_column" and not _is_finite(value):
                raise ValueError(f"`{field.name}` must be a finite number, got {value!r}")
        # With a negative one, a malformed response would earn more than the well-formed one.
        for name in ("format", "reflection_format", "brevity"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)!r}")
        if not 1 < self.target_ratio < self.max_ratio:
            raise ValueError(
                "The ratios must be 1 < `target_ratio` < `max_ratio`, because a response is longer "
                f"than its first part, got {self.target_ratio!r} and {self.max_ratio!r}"
            )

    @classmethod
    def paper(cls, **settings: Any) -> ReflectionReward:
        """Returns the reward as the paper states it: at most 1.6."""
        return cls(**settings)

    @classmethod
    def released(cls, **settings: Any) -> ReflectionReward:
        """Returns the weights of the authors' released OpenRLHF reward, for study only.

        A response that is wrong at first and right in the end earns 0.25 more than one that is
        right twice, and a reflection earns nothing by its form. Warns about it.

        The parser and the lengths are those of this package: the released code also counts the
        tags in the length, and gives 0 to every response with one answer or one think block.

        Source: ``srpo_reward_func.py`` of SUSTechBruce/SRPO_MLLMs at 23dab54.
        """
        warnings.warn(
            "ReflectionReward.released() pays more for a wrong first answer than for a right one "
            "if the second is right: use paper() to train a model",
            stacklevel=2,
        )
        return cls(**{"fix": 1.0, "reflection_format": 0.0} | settings)

    @classmethod
    def final_only(cls, **settings: Any) -> ReflectionReward:
        """Returns a control: 0.75 for a right second answer, nothing for the first."""
        weights = {"accuracy": 0.0, "keep": 0.75, "fix": 0.75, "fail": 0.0, "mislead": 0.0}
        return cls(**weights | settings)

    @property
    def __name__(self) -> str:
        """Name in the logs of TRL."""
        return "reflection_reward"

    def effectiveness(self, first_correct: bool, final_correct: bool) -> float:
        """Returns I_eff. Eq. 7."""
        if first_correct:
            return self.keep if final_correct else self.mislead
        return self.fix if final_correct else self.fail

    def length_factor(self, length: float, first_length: float) -> float:
        """Computes f_len from the lengths of a response and of its first part. Eq. 8.

        Args:
            length: L, the length of all five blocks.
            first_length: S, the length of the first two; above 0.

        Returns:
            A factor in [0, 1]: 1 at ``target_ratio * S``, 1/e at ``max_ratio * S``.

        Raises:
            ValueError: If S is not above 0.
        """
        if not first_length > 0:
            raise ValueError(
                "The length of the first think and answer must be above 0, got "
                f"{first_length!r}: check `length`"
            )
        deviation = length / first_length - self.target_ratio
        x = deviation / (self.max_ratio - self.target_ratio)
        return math.exp(-x * x)  # `x**2` raises an OverflowError if x is large

    def assess(self, text: str, label: Any) -> Assessment | None:
        """Computes the components of the reward of one response.

        A malformed response gets its accuracy and its effectiveness, so that no damage to the form
        avoids the penalty of ``mislead``, and neither format nor brevity: it never earns more than
        the well-formed response with the same two answers.

        Args:
            text: The response; every string is valid.
            label: The right answer; None if there is none.

        Returns:
            The assessment, or None if the label is None or ``verify`` returns None for it.

        Raises:
            TypeError: If the response is not a string, or ``verify`` returns neither bool nor None.
            ValueError: If ``length`` returns invalid lengths.
        """
        if not isinstance(text, str):
            raise TypeError(f"A response must be a string, got {text!r}")
        trace = parse(text)
        first = is_right(trace.answer1, label, self.verify)
        final = is_right(trace.answer2, label, self.verify)
        if first is None or final is None:
            return None
        length_factor, ratio = 0.0, math.nan
        if trace.well_formed:
            lengths = [self._length_of(block) for block in trace.blocks if block is not None]
            length_factor = self.length_factor(sum(lengths), sum(lengths[:2]))
            ratio = sum(lengths) / sum(lengths[:2])
        values = (
            self.format * trace.well_formed,
            self.accuracy * first,
            self.reflection_format * trace.reflection_ok,
            self.effectiveness(first, final),
            self.brevity * length_factor,
        )
        components = dict(zip(COMPONENTS, map(float, values), strict=True))
        return Assessment(components, first, final, ratio, trace)

    def score(self, text: str, label: Any) -> float | None:
        """Returns the reward of one response, the sum of its components; None as in `assess`."""
        assessment = self.assess(text, label)
        return None if assessment is None else assessment.total

    def __call__(
        self,
        completions: Sequence[Any],
        *,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Computes the rewards of a batch: a reward function of TRL's ``GRPOTrainer``.

        Args:
            completions: Responses, each a string or a list with one message of a chat.
            log_metric: Receives the mean of each component, and the shares of right answers.
            **columns: Columns of the data set, each of the length of ``completions``; that of the
                labels is named by ``label_column``. Everything else that TRL passes is ignored.

        Returns:
            One reward per completion; None, which TRL leaves out, where the label cannot be used.

        Raises:
            TypeError: If a completion is neither a string nor one message.
            ValueError: If the labels are missing, or of another length.
        """
        labels = columns.get(self.label_column)
        if labels is None:
            raise ValueError(
                f"The data set must have a column {self.label_column!r} with the labels, got "
                f"{sorted(columns)}: rename it, or pass label_column=..."
            )
        if len(labels) != len(completions):
            raise ValueError(
                f"There must be one label per completion, got {len(labels)} and {len(completions)}"
            )
        texts = [text_of(completion) for completion in completions]
        assessments = [self.assess(text, label) for text, label in zip(texts, labels, strict=True)]
        if log_metric is not None:
            for name, value in mean_metrics(assessments).items():
                log_metric(f"reflection/{name}", value)
        return [None if assessment is None else assessment.total for assessment in assessments]

    def compute_score(
        self, data_source: Any, solution_str: str, ground_truth: Any, extra_info: Any = None
    ) -> dict[str, float]:
        """Computes the reward of one response: verl's ``custom_reward_function``.

        Args:
            data_source: Not used.
            solution_str: The response.
            ground_truth: The label.
            extra_info: Not used.

        Returns:
            The reward as ``"score"``, and its components, which verl logs.

        Raises:
            ValueError: If the label cannot be used; verl has no rows without a reward.
        """
        assessment = self.assess(solution_str, ground_truth)
        if assessment is None:
            raise ValueError(
                f"verl needs a label for every row, got {ground_truth!r}: leave such rows out"
            )
        return {"score": assessment.total, **assessment.metrics}

    def _length_of(self, block: str) -> float:
        length = self.length(block)
        if not _is_finite(length) or length < 0:
            raise ValueError(
                f"The length of a block must be finite and at least 0, got {length!r} for "
                f"{block!r}: check `length`"
            )
        return length


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)
