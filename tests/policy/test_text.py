import subprocess
import sys

import pytest

from srpo_env.libero.suites import SUITES, tasks_of
from srpo_env.policy.text import MAX_WORDS, PADDING, VOCABULARY_SIZE, tokenize


def test_case_and_punctuation_do_not_matter():
    assert tokenize(["Pick up, the MILK!"]).equal(tokenize(["pick up the milk"]))


def test_word_order_does():
    assert not tokenize(["put milk on soup"]).equal(tokenize(["put soup on milk"]))


def test_the_rest_of_a_row_is_padding():
    tokens = tokenize(["put it away", "stop"])
    assert tokens.shape == (2, MAX_WORDS)
    assert (tokens != PADDING).sum(dim=1).tolist() == [3, 1]
    assert int(tokens.max()) < VOCABULARY_SIZE


def test_words_of_any_language_are_words():
    assert (tokenize(["nimm die süße Größe 2"]) != PADDING).sum() == 5


def test_tokens_are_the_same_in_every_process():
    code = "from srpo_env.policy.text import tokenize; print(tokenize(['pick up the milk'])[0, :4])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONHASHSEED": "7"})
    assert done.stdout.strip() == str(tokenize(["pick up the milk"])[0, :4]), done.stderr


@pytest.mark.parametrize("instruction", ["", " ?! ", " ".join(["word"] * (MAX_WORDS + 1))])
def test_too_few_or_too_many_words_are_refused(instruction):
    with pytest.raises(ValueError, match=f"must have 1 to {MAX_WORDS} words, got "):
        tokenize(["fine", instruction])


@pytest.mark.libero
def test_no_two_words_of_liberos_tasks_share_a_token():
    instructions = [task.instruction for suite in SUITES for task in tasks_of(suite)]
    words = sorted({word for instruction in instructions for word in instruction.split()})
    assert len(words) > 50
    assert len(set(tokenize(words)[:, 0].tolist())) == len(words)
