import numpy as np
import pytest

from srpo_env.reflection import Reflection, parse, reflection_data


def answers(num_right, num_wrong):
    """Returns first responses of problems 0, 1, ...: the right ones first. All labels are 1."""
    values = [1] * num_right + [0] * num_wrong
    return [(i, f"<think>t{i}</think><answer>{v}</answer>", "1") for i, v in enumerate(values)]


def teacher(first):
    return Reflection(f"reflection on {first.trace.think1}", "again")


def build(responses, num_examples=20, teacher=teacher, seed=0, **settings):
    rng = np.random.default_rng(seed)
    return list(reflection_data(responses, teacher, num_examples, rng, **settings))


def test_three_of_ten_first_answers_are_right():
    examples = build(answers(50, 50))
    assert [example.first_correct for example in examples].count(True) == 6
    assert len({example.problem for example in examples}) == 20
    for example in examples:
        assert example.first_correct == (example.problem < 50)


def test_share_can_be_chosen():
    for share in (0.0, 0.5, 1.0):
        examples = build(answers(20, 20), right_share=share)
        assert sum(example.first_correct for example in examples) == 20 * share


def test_target_is_the_first_response_the_reflection_and_the_label():
    (example,) = build(answers(0, 1), 1)
    assert example.text == (
        "<think>t0</think><answer>0</answer><reflection>reflection on t0</reflection>"
        "<think>again</think><answer>1</answer>"
    )
    assert parse(example.text).well_formed


def test_second_think_may_be_missing_as_in_the_data_of_the_paper():
    (example,) = build(answers(0, 1), 1, lambda first: Reflection("r"))
    assert example.text == (
        "<think>t0</think><answer>0</answer><reflection>r</reflection><answer>1</answer>"
    )


def test_teacher_knows_whether_the_answer_is_right_and_the_label():
    seen = []
    build(answers(10, 10), 10, lambda first: seen.append(first) or teacher(first))
    assert len(seen) == 10  # and is not called for responses that are not used
    assert all(first.correct == (first.problem < 10) and first.label == "1" for first in seen)


def test_order_and_choice_depend_on_the_generator_only():
    assert build(answers(30, 30)) == build(answers(30, 30))
    assert build(answers(30, 30)) != build(answers(30, 30), seed=1)
    first_correct = [example.first_correct for example in build(answers(30, 30))]
    assert first_correct not in (sorted(first_correct), sorted(first_correct, reverse=True))


@pytest.mark.parametrize(
    "reply",
    [None, Reflection(""), Reflection("<answer>1</answer>"), Reflection("r", "</think>")],
    ids=["none", "empty", "answer in it", "tag in the second think"],
)
def test_other_response_takes_the_place_of_one_without_a_usable_reflection(reply):
    examples = build(
        answers(20, 20), 10, lambda first: teacher(first) if first.problem % 2 else reply
    )
    assert len(examples) == 10
    assert all(example.problem % 2 for example in examples)


def test_too_few_first_answers_are_an_error_before_the_teacher_is_called():
    def never(first):
        raise AssertionError

    with pytest.raises(ValueError, match="too few right first answers, 6 are needed, got 5"):
        reflection_data(answers(5, 50), never, 20, np.random.default_rng(0))
    with pytest.raises(ValueError, match="too few wrong first answers, 14 are needed, got 13"):
        reflection_data(answers(50, 13), never, 20, np.random.default_rng(0))


def test_examples_before_the_usable_responses_run_out_are_kept():
    def teacher_of_problem_0(first):
        return None if first.problem else teacher(first)

    rng = np.random.default_rng(0)
    data = reflection_data(answers(0, 3), teacher_of_problem_0, 2, rng, right_share=0)
    assert next(data).problem == 0
    with pytest.raises(ValueError, match="too few wrong first answers, the teacher returned no"):
        next(data)


def test_malformed_responses_and_unusable_labels_are_left_out():
    responses = [
        *answers(3, 0),
        (3, "<answer>1</answer>", "1"),
        (4, "1", "1"),
        (5, "<think>t</think><answer>1</answer>", "one"),
        (6, "<think>t</think><answer>1</answer>", None),
    ]
    with pytest.raises(ValueError, match="got 3"):
        build(
            responses,
            4,
            right_share=1.0,
            verify=lambda answer, label: answer == label if label.isdigit() else None,
        )


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_share_outside_its_range_is_an_error(share):
    with pytest.raises(ValueError, match=r"`right_share` must be in \[0, 1\], got"):
        build(answers(1, 1), right_share=share)
