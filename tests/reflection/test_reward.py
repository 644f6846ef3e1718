"""The reward against the numbers of the paper (arXiv:2506.01713v3), which are written out here."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_env.reflection import ReflectionReward, parse
from srpo_env.reflection.parsing import render
from tests.reflection.responses import CASES, LABEL, RIGHT, WRONG, response

PAPER = ReflectionReward.paper()
NAMES = ("format", "accuracy", "reflection_format", "effectiveness", "brevity")

# Eqs. 4 to 8: format 0.5, accuracy 0.5 of the first answer, I_ref 0.25, I_eff, alpha = 0.1.
PAPER_TERMS = {
    "rr": (0.5, 0.5, 0.25, 0.25, 0.1),
    "wr": (0.5, 0.0, 0.25, 0.50, 0.1),
    "rw": (0.5, 0.5, 0.25, -0.25, 0.1),
    "ww": (0.5, 0.0, 0.25, 0.0, 0.1),
}
PAPER_TOTALS = {"rr": 1.60, "wr": 1.35, "rw": 1.10, "ww": 0.85}


def released(**settings):
    with pytest.warns(UserWarning, match="pays more for a wrong first answer"):
        return ReflectionReward.released(**settings)


@pytest.mark.parametrize("case", CASES)
def test_four_cases_earn_what_the_paper_pays(case):
    assessment = PAPER.assess(response(*CASES[case]), LABEL)
    assert assessment.components == dict(zip(NAMES, PAPER_TERMS[case], strict=True))
    assert assessment.total == pytest.approx(PAPER_TOTALS[case])
    assert (assessment.first_correct, assessment.final_correct) == (case[0] == "r", case[1] == "r")


@pytest.mark.parametrize(
    ("ratio", "factor"),
    # L = S, 1.5 S, 2 S, 2.5 S, 3 S. S itself is no length of a response with five blocks.
    [(1.0, 0.018), (1.5, 0.368), (2.0, 1.0), (2.5, 0.368), (3.0, 0.018)],
)
def test_length_term_has_the_values_of_the_paper(ratio, factor):
    assert PAPER.length_factor(ratio * 20, 20) == pytest.approx(factor, abs=5e-4)
    if ratio > 1:
        assessment = PAPER.assess(response(ratio=ratio), LABEL)
        assert assessment.length_ratio == ratio
        assert assessment.components["brevity"] == pytest.approx(0.1 * factor, abs=5e-5)


def test_length_term_of_extreme_lengths_is_zero():
    assert PAPER.length_factor(1e300, 1e-5) == 0.0
    assert PAPER.length_factor(1e6, 1) == 0.0


def test_length_counts_all_blocks_and_no_tags():
    # S = 3 + 1 words, L = 3 + 1 + 2 + 1 + 1.
    text = render("a b c", RIGHT, "d e", "f", RIGHT)
    assert PAPER.assess(text, LABEL).length_ratio == 8 / 4
    assert ReflectionReward(length=len).assess(text, LABEL).length_ratio == (5 + 1 + 3 + 1 + 1) / 6


@pytest.mark.parametrize(
    ("first", "final", "expected"), [(1, 1, 0.25), (0, 1, 0.5), (1, 0, -0.25), (0, 0, 0)]
)
def test_effectiveness_is_half_the_second_minus_a_quarter_of_the_first(first, final, expected):
    assert PAPER.effectiveness(bool(first), bool(final)) == expected == 0.5 * final - 0.25 * first


# Accuracy and I_eff of each case, from the released code run on its own.
@pytest.mark.parametrize(("case", "paid"), [("rr", 0.75), ("wr", 1.0), ("rw", 0.25), ("ww", 0.0)])
def test_released_preset_has_the_table_of_the_released_code(case, paid):
    first, final = case[0] == "r", case[1] == "r"
    assert paid == 0.25 * first + final - 0.5 * first * final
    # Format 0.5 and length 0.1 beside it, and no I_ref.
    assert released().score(response(*CASES[case]), LABEL) == pytest.approx(paid + 0.6)


@pytest.mark.parametrize(("case", "paid"), [("rr", 0.75), ("wr", 0.75), ("rw", 0.0), ("ww", 0.0)])
def test_final_only_ignores_the_first_answer(case, paid):
    reward = ReflectionReward.final_only()
    assert reward.score(response(*CASES[case]), LABEL) == pytest.approx(paid + 0.85)


def test_presets_take_other_settings():
    assert ReflectionReward.paper(brevity=0).brevity == 0
    assert released(fix=0.9) == replace(released(), fix=0.9)
    assert ReflectionReward.final_only(label_column="solution").label_column == "solution"


def test_single_answer_counts_as_first_answer_and_the_missing_second_as_wrong():
    text = f"<think>a</think><answer>{RIGHT}</answer>"
    assert PAPER.score(text, LABEL) == 0.5 - 0.25
    assert PAPER.score(text.replace(RIGHT, WRONG), LABEL) == 0.0


def test_empty_label_is_not_matched_by_a_missing_answer():
    assert not PAPER.assess("no answer", "").first_correct


@given(st.text())
def test_scores_of_any_text_are_in_the_range_of_the_paper(text):
    assert 0.0 <= PAPER.score(text, LABEL) <= 1.6


# --- Malformed responses ---

PIECES = [
    *(f"<{slash}{name}>" for name in ("think", "answer", "reflection") for slash in ("", "/")),
    *("<reflect>", "</", "<answer", ">", " ", "\n", "\x00", "\ud800", "π", RIGHT, WRONG, "a b c"),
]


def damaged(rng):
    """Returns a response after random insertions, deletions, swaps and repetitions of its parts."""
    first, final = rng.choice([RIGHT, WRONG], size=2)
    parts = response(first, final, rng.choice([1.5, 2.0, 3.0])).replace("<", "\n<").split("\n")
    for _ in range(rng.integers(1, 5)):
        at, other = rng.integers(len(parts) + 1), rng.integers(len(parts) + 1)
        kind = rng.integers(5)
        if kind == 0:
            parts.insert(at, PIECES[rng.integers(len(PIECES))])
        elif kind == 1:
            del parts[at : at + rng.integers(1, 4)]
        elif kind == 2:
            parts[at:at] = parts[other : other + rng.integers(1, 4)]
        elif kind == 3:
            parts[min(at, other) : max(at, other)] = parts[min(at, other) : max(at, other)][::-1]
        else:
            text = "".join(parts)
            cut = rng.integers(len(text) + 1)
            parts = [text[:cut], PIECES[rng.integers(len(PIECES))], text[cut + rng.integers(3) :]]
    return "".join(parts)


# The last one punishes a spoilt answer by more than all that form pays.
REWARDS = [PAPER, ReflectionReward.final_only(), ReflectionReward(mislead=-3.0, fail=-1.0)]


def test_damaged_responses_never_earn_more_than_the_well_formed_one_with_their_answers():
    rewards = [*REWARDS, released()]
    rng = np.random.default_rng(0)
    num_malformed, cases = 0, set()
    while num_malformed < 10_000:
        text = damaged(rng)
        trace = parse(text)
        if trace.well_formed:
            continue
        num_malformed += 1
        cases.add((trace.answer1, trace.answer2))
        # A missing answer is a wrong one. So long a rest earns nothing for brevity.
        first, final = trace.answer1 or WRONG, trace.answer2 or WRONG
        well_formed = render("a", first, "b " * 99, "c", final)
        for reward in rewards:
            assert reward.score(text, LABEL) <= reward.score(well_formed, LABEL), text
    both = {(first, final) for first in (RIGHT, WRONG) for final in (RIGHT, WRONG, None)}
    assert both <= cases


# --- Labels that cannot be used, and wrong arguments ---


def only_numbers(answer, label):
    return answer == label if label.isdigit() else None


def test_row_whose_label_cannot_be_used_has_no_reward():
    reward = ReflectionReward(verify=only_numbers)
    assert reward.score(response(), None) is None
    assert reward.score(response(), "seven") is None
    assert reward.score("no answer at all", "seven") is None
    assert reward.score(response(), "7") == 1.6


def test_label_may_be_a_number():
    assert PAPER.score(response(), 7) == 1.6


@pytest.mark.parametrize("name", ["format", "keep", "brevity", "target_ratio"])
@pytest.mark.parametrize("value", [math.nan, math.inf, "1", None])
def test_weights_must_be_finite_numbers(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a finite number, got"):
        ReflectionReward(**{name: value})


@pytest.mark.parametrize("name", ["format", "reflection_format", "brevity"])
def test_form_must_not_cost_anything(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 0, got -0.1"):
        ReflectionReward(**{name: -0.1})


@pytest.mark.parametrize("ratios", [(1.0, 2.0), (2.0, 2.0), (3.0, 2.0)])
def test_ratios_must_be_in_order(ratios):
    with pytest.raises(ValueError, match="1 < `target_ratio` < `max_ratio`"):
        ReflectionReward(target_ratio=ratios[0], max_ratio=ratios[1])


@pytest.mark.parametrize("name", ["verify", "length"])
def test_callables_are_checked(name):
    with pytest.raises(TypeError, match=f"`{name}` must be callable, got 3"):
        ReflectionReward(**{name: 3})


def test_return_values_of_callables_are_checked():
    with pytest.raises(TypeError, match="`verify` must return a bool or None, got"):
        ReflectionReward(verify=lambda answer, label: 0.5).score(response(), LABEL)
    for length in (lambda text: 0, lambda text: math.nan, lambda text: None):
        with pytest.raises(ValueError, match="check `length`"):
            ReflectionReward(length=length).score(response(), LABEL)
    assert ReflectionReward(verify=lambda a, b: np.bool_(a == b)).score(response(), LABEL) == 1.6


def test_response_that_is_no_string_is_an_error():
    with pytest.raises(TypeError, match="A response must be a string, got None"):
        PAPER.score(None, LABEL)


def test_reward_survives_pickling():
    assert pickle.loads(pickle.dumps(PAPER)) == PAPER
