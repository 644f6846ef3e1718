import pytest

from srpo_env.reflection import parse
from srpo_env.reflection.parsing import is_first_response, render, text_of
from tests.reflection.responses import response

BLOCKS = ("t1", "a1", "r", "t2", "a2")
GOOD = render(*BLOCKS)


def test_well_formed_response_is_split_into_its_blocks():
    trace = parse(GOOD)
    assert trace.blocks == BLOCKS
    assert trace.well_formed
    assert trace.reflection_ok


def test_whitespace_between_and_inside_blocks_is_ignored():
    trace = parse("\n " + GOOD.replace("<", " \n<").replace(">", ">\t") + "\n")
    assert trace.blocks == BLOCKS
    assert trace.well_formed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        GOOD + " and more",
        "Well: " + GOOD,
        GOOD.replace("</answer><reflection>", "</answer>so<reflection>"),
        GOOD + GOOD,
        GOOD.replace("<reflection>r</reflection>", "<reflection>r</reflection>" * 2),
        "<think>t1</think><answer>a1</answer>",
        "<think>t1</think><answer>a1</answer><reflection>r</reflection><answer>a2</answer>",
        "<answer>a1</answer><think>t1</think><reflection>r</reflection><think>t</think><answer>a</answer>",
        GOOD.replace("<think>t1", "<think><think>t1"),
        GOOD.replace("t1", "<answer>3</answer>"),
        GOOD.replace("</reflection>", ""),
        GOOD.replace("</reflection>", "<reflection>"),
        GOOD.replace("reflection", "reflect"),
        GOOD.replace("think", "THINK"),
        *(GOOD.replace(f">{block}<", ">  <") for block in BLOCKS),
    ],
)
def test_anything_else_is_malformed(text):
    assert not parse(text).well_formed


def test_answers_of_a_malformed_response_are_its_first_and_its_last():
    trace = parse("<answer>1</answer><answer>2</answer> x <answer>3</answer>")
    assert (trace.answer1, trace.answer2) == ("1", "3")
    assert parse("<answer>1</answer>").answer2 is None
    assert parse("<answer>1<answer>2</answer>").answer1 == "2"  # its next tag closes it


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The second think is missing, as in the paper's data of stage 1.
        ("<think>t</think><answer>a</answer><reflection>r</reflection><answer>b</answer>", True),
        ("<reflection>r</reflection><answer>a</answer><answer>b</answer>", False),
        ("<answer>a</answer><answer>b</answer><reflection>r</reflection>", False),
        ("<answer>a</answer><reflection> </reflection><answer>b</answer>", False),
        ("<answer>a</answer><reflection>r</reflection>", False),
        ("<answer>a</answer><reflection>r</reflection></reflection><answer>b</answer>", False),
    ],
)
def test_reflection_counts_if_it_is_the_only_one_and_between_two_answers(text, expected):
    assert parse(text).reflection_ok == expected


def test_time_grows_with_the_length_only():
    # A pattern that backtracks would take hours.
    assert not parse("<think>" * 200_000).well_formed
    assert not parse("<think" * 200_000).well_formed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>t</think><answer>a</answer>", True),
        (" <think>t</think> <answer>a</answer>\n", True),
        ("<think>t</think><answer></answer>", False),
        ("<think>t</think><answer>a</answer>.", False),
        (response(), False),
        ("a", False),
    ],
)
def test_first_response_has_one_think_and_one_answer(text, expected):
    assert is_first_response(text) == expected


@pytest.mark.parametrize(
    "completion",
    [
        "text",
        [{"role": "assistant", "content": "text"}],
        [{"role": "assistant", "content": [{"type": "text", "text": "text"}]}],
        [{"content": [{"type": "text", "text": "t"}, {"type": "text", "text": "ext"}]}],
    ],
)
def test_text_of_strings_and_chats(completion):
    assert text_of(completion) == "text"


@pytest.mark.parametrize(
    "completion",
    [None, 7, b"text", [], ["text"], [{"content": None}], [{"content": "a"}, {"content": "b"}]],
)
def test_other_completions_are_errors(completion):
    with pytest.raises(TypeError, match="A completion must be a string, or a list with one"):
        text_of(completion)
