"""Rewritten instructions of all forty tasks."""

import dataclasses
import re

import pytest

from srpo_env.libero.perturbations import LEVELS, Language
from srpo_env.libero.perturbations.instructions import rewritten
from srpo_env.libero.suites import get_suite
from srpo_env.policy.text import MAX_WORDS

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")

pytestmark = pytest.mark.libero


def tasks():
    found = [task for suite in SUITES for task in get_suite(suite).tasks]
    assert len(found) == 40
    return found


def texts_of(task):
    return [text for level in LEVELS for text in rewritten(task.instruction, level)]


def test_each_task_has_at_least_twenty_different_texts_and_four_of_each_level():
    for task in tasks():
        texts = texts_of(task)
        assert len(set(texts)) == len(texts) >= 20, task.name
        assert min(len(rewritten(task.instruction, level)) for level in LEVELS) >= 4, task.name
        assert task.instruction not in texts


def test_no_text_stands_for_two_tasks():
    # "put the cream cheese in the bowl" and its like: each text must name its own goal.
    for suite in SUITES:
        texts = [text for task in get_suite(suite).tasks for text in set(texts_of(task))]
        assert len(texts) == len(set(texts)), suite


def test_the_policy_can_read_every_text():
    for task in tasks():
        for text in texts_of(task):
            assert 1 <= len(re.findall(r"[^\W_]+", text)) <= MAX_WORDS, text
            assert not re.search(r"[{}\"]|  |^\s|\s$", text), text


def test_the_levels_say_less_and_less_of_the_task():
    # Words of the instruction that a text repeats, without the most frequent ones.
    common = {"the", "and", "it", "in", "on", "of", "to", "put", "pick", "up", "place"}

    def words_of(text):
        return set(re.findall(r"[^\W_]+", text))

    def shared(task, level):
        words = words_of(task.instruction) - common
        texts = rewritten(task.instruction, level)
        return sum(len(words & words_of(text)) / len(words) for text in texts) / len(texts)

    means = [sum(shared(task, level) for task in tasks()) / 40 for level in LEVELS]
    assert means[1] == means[2] == 1.0
    assert means[0] > means[3] > means[4]


def test_a_draw_selects_a_text_of_its_level():
    task = get_suite("libero_object").tasks[0]
    for level in LEVELS:
        drawn = {
            Language(level=level, draw=draw).instruction(task, task.instruction)
            for draw in range(80)
        }
        assert drawn == set(rewritten(task.instruction, level))


def test_an_exact_text_and_level_0():
    task = get_suite("libero_goal").tasks[0]
    assert Language(text="Do it.", draw=0).instruction(task, task.instruction) == "Do it."
    assert Language(draw=0).instruction(task, task.instruction) == task.instruction


def test_other_tasks_have_only_texts_around_their_instruction():
    task = dataclasses.replace(get_suite("libero_goal").tasks[0], instruction="wave")
    assert "wave" in Language(level=2, draw=0).instruction(task, "wave")
    with pytest.raises(ValueError, match=r"no texts of level 5 .*: use level 2 or 3, or `text`"):
        Language(level=5, draw=0).instruction(task, "wave")
