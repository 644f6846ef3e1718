import itertools
import math

import numpy as np
import pytest
import torch

from srpo_env.policy.tokens import (
    NUM_BINS,
    actions_to_bins,
    actions_to_tokens,
    log_probs,
    log_probs_and_entropies,
    sample_tokens,
    tokens_to_actions,
)


def test_zero_and_both_limits_are_exact():
    tokens = torch.tensor([[1, 128, 255, 128, 128, 128, 1]])
    assert tokens_to_actions(tokens)[0, 0].tolist() == [-1, 0, 1, 0, 0, 0, -1]


def test_lowest_token_stays_in_the_range():
    assert tokens_to_actions(torch.zeros(1, 7, dtype=torch.int64)).min() == -1


def test_tokens_survive_conversion_to_actions_and_back():
    tokens = torch.arange(1, NUM_BINS)[:252].view(1, 252)
    assert actions_to_tokens(tokens_to_actions(tokens)).equal(tokens)


def test_error_of_an_action_is_at_most_half_a_bin():
    actions = torch.rand(16, 8, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1
    error = (tokens_to_actions(actions_to_tokens(actions)) - actions).abs().max()
    assert error <= 0.5 / 127 + 1e-6


def test_actions_out_of_range_are_clipped():
    assert actions_to_bins(torch.tensor([[[-3.0, 3.0]]])).tolist() == [[1, 255]]


def test_tokens_are_ordered_by_step_and_then_by_dimension():
    tokens = torch.arange(100, 114).view(1, 14)
    actions = tokens_to_actions(tokens)
    assert actions.shape == (1, 2, 7)
    assert actions[0, 1, 0] == pytest.approx((107 - 128) / 127)


def test_incomplete_actions_are_refused():
    with pytest.raises(ValueError, match="multiple of `action_dim` = 7, got 13"):
        tokens_to_actions(torch.zeros(1, 13, dtype=torch.int64))


def test_log_probabilities_equal_a_hand_calculation():
    logits = torch.tensor([[[math.log(1.0), math.log(3.0)]]])
    tokens = torch.tensor([[1]])
    assert log_probs(logits, tokens).item() == pytest.approx(math.log(3 / 4))
    # Half the temperature squares the odds: 9 to 1.
    assert log_probs(logits, tokens, temperature=0.5).item() == pytest.approx(math.log(9 / 10))


def test_entropy_equals_a_hand_calculation():
    logits = torch.log(torch.tensor([[[0.25, 0.75], [0.5, 0.5]]]))
    chosen, entropies = log_probs_and_entropies(logits, torch.tensor([[0, 0]]))
    torch.testing.assert_close(chosen, torch.log(torch.tensor([[0.25, 0.5]])))
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    torch.testing.assert_close(entropies, torch.tensor([[expected, math.log(2)]]))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_sampled_with_their_probabilities(temperature):
    weights = torch.tensor([1.0, 2.0, 4.0, 8.0])
    logits = weights.log().expand(20000, 1, 4)
    tokens = sample_tokens(logits, temperature, torch.Generator().manual_seed(0))
    frequencies = tokens.flatten().bincount(minlength=4) / 20000
    expected = weights ** (1 / temperature)
    # Five standard errors of a frequency of 1/2 are 0.018.
    torch.testing.assert_close(frequencies, expected / expected.sum(), atol=0.018, rtol=0)


@pytest.mark.parametrize("correlation", [0.5, 0.99])
def test_correlated_tokens_have_their_probabilities(correlation):
    weights = torch.tensor([1.0, 2.0, 4.0, 8.0])
    logits = weights.log().expand(5000, 8 * 7, 4)
    tokens = sample_tokens(logits, 0.5, torch.Generator().manual_seed(0), correlation)
    expected = weights**2 / (weights**2).sum()
    for step in (0, 3, 7):  # the standard errors over 35,000 tokens are below 0.003
        frequencies = tokens[:, 7 * step : 7 * step + 7].flatten().bincount(minlength=4) / 35000
        torch.testing.assert_close(frequencies, expected, atol=0.015, rtol=0)


def test_correlation_is_between_the_steps_of_an_action_dimension():
    logits = torch.zeros(4000, 5 * 3, 256)  # steps of three action dimensions
    tokens = sample_tokens(logits, 1.0, torch.Generator().manual_seed(0), 0.8, action_dim=3)
    measured = np.corrcoef(tokens.T.numpy()).reshape(5, 3, 5, 3)
    steps = np.arange(5)
    # The correlation of two uniform quantiles of normal variables with correlation r.
    expected = 6 / np.pi * np.arcsin(0.8 ** np.abs(steps[:, None] - steps) / 2)
    for first, second in itertools.product(range(3), repeat=2):
        wanted = expected if first == second else np.zeros((5, 5))
        np.testing.assert_allclose(measured[:, first, :, second], wanted, atol=0.08)


@pytest.mark.parametrize("correlation", [-0.1, 1.0, math.nan])
def test_correlation_must_be_in_its_range(correlation):
    with pytest.raises(ValueError, match="`correlation` must be at least 0 and below 1"):
        sample_tokens(torch.zeros(1, 56, 4), correlation=correlation)


def test_equal_seeds_sample_equal_tokens():
    logits = torch.zeros(4, 56, NUM_BINS)
    first, second = (sample_tokens(logits, 1.0, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.equal(second)
    assert not first.equal(sample_tokens(logits, 1.0, torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_must_be_positive(temperature):
    logits, tokens = torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.int64)
    for call in (
        lambda: sample_tokens(logits, temperature),
        lambda: log_probs(logits, tokens, temperature),
        lambda: log_probs_and_entropies(logits, tokens, temperature),
    ):
        with pytest.raises(ValueError, match=f"`temperature` must be positive, got {temperature}"):
            call()
