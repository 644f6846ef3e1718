import pytest

from srpo_env.libero.suites import SUITES, tasks_of
from srpo_env.policy.text import MAX_WORDS, PADDING, VOCABULARY_SIZE, tokenize


def test_case_and_punctuation_are_ignored():
    assert tokenize(["Pick up, the MILK!"]).equal(tokenize(["pick up the milk"]))


def test_word_order_is_kept():
    assert not tokenize(["put milk on soup"]).equal(tokenize(["put soup on milk"]))


def test_rows_are_padded():
    tokens = tokenize(["put it away", "stop"])
    assert tokens.shape == (2, MAX_WORDS)
    assert (tokens != PADDING).sum(dim=1).tolist() == [3, 1]
    assert int(tokens.max()) < VOCABULARY_SIZE


def test_letters_of_other_languages_form_words():
    assert (tokenize(["nimm die süße Größe 2"]) != PADDING).sum() == 5


def test_tokens_are_crc_32_on_every_machine():
    # 0xCBF43926 is the check value of the CRC-32 standard.
    assert tokenize(["123456789"])[0, 0] == 1 + 0xCBF43926 % (VOCABULARY_SIZE - 1)


@pytest.mark.parametrize("instruction", ["", " ?! ", " ".join(["word"] * (MAX_WORDS + 1))])
def test_too_few_or_too_many_words_are_refused(instruction):
    with pytest.raises(ValueError, match=f"must have 1 to {MAX_WORDS} words, got "):
        tokenize(["fine", instruction])


@pytest.mark.libero
def test_words_of_libero_have_different_tokens():
    instructions = [task.instruction for suite in SUITES for task in tasks_of(suite)]
    words = sorted({word for instruction in instructions for word in instruction.split()})
    assert len(words) > 50
    assert len(set(tokenize(words)[:, 0].tolist())) == len(words)
