import numpy as np
import pytest
import torch

from srpo_env.training.trust_region import ADAPTATION, WARMUP_STEPS, TrustRegion
from tests.policy.fakes import INSTRUCTION, make_observations, make_policy


def make_region(target_kl, rate=1e-3):
    policy = make_policy()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=rate)
    region = TrustRegion(policy, optimizer, target_kl, 4 * rate)
    inputs = policy.prepare(make_observations(4), [INSTRUCTION] * 4)
    region.begin(inputs, torch.ones(4, 56, dtype=torch.bool))
    return region, inputs


def loss_of(region, inputs):
    return region.policy.logits(inputs).square().mean()


def state_of(region):
    moments = [v for state in region.optimizer.state.values() for v in state.values()]
    return [x.detach().clone() for x in (*region.policy.parameters(), *moments)]


def test_divergence_is_that_of_whole_decisions():
    region, inputs = make_region(target_kl=np.inf)
    before = region.policy.logits(inputs).log_softmax(-1)
    assert region.step(loss_of(region, inputs), 1.0)
    now = region.policy.logits(inputs).log_softmax(-1)
    by_token = (before.exp() * (before - now)).sum(-1)
    assert region.kl == pytest.approx(56 * by_token.mean().item(), rel=1e-3)


def test_steps_beyond_the_target_are_undone_with_the_optimizer():
    region, inputs = make_region(target_kl=np.inf)
    assert region.step(loss_of(region, inputs), 1.0)
    region.target_kl, before = 0.0, state_of(region)
    assert not region.step(loss_of(region, inputs), 1.0)
    assert all(a.equal(b) for a, b in zip(before, state_of(region), strict=True))


def test_undone_first_step_leaves_no_moments():
    region, inputs = make_region(target_kl=0.0)
    before = [parameter.clone() for parameter in region.policy.parameters()]
    assert not region.step(loss_of(region, inputs), 1.0)
    assert all(a.equal(b) for a, b in zip(before, region.policy.parameters(), strict=True))
    assert not region.optimizer.state


def test_rate_warms_up_linearly():
    region, inputs = make_region(target_kl=np.inf, rate=1e-5)
    rates = []
    for _ in range(WARMUP_STEPS + 2):
        region.step(loss_of(region, inputs), 1.0)
        rates.append(region.optimizer.param_groups[0]["lr"])
    expected = [1e-5 * min(1, (n + 1) / WARMUP_STEPS) for n in range(WARMUP_STEPS + 2)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    ("num_steps", "kl", "factor"),
    [
        (2, 0.01, ADAPTATION),  # all steps were taken, and moved the policy little
        (2, 0.08, 1),  # all steps were taken, and used most of the region
        (4, 0.01, 1),  # half of the steps were taken
        (5, 0.01, 1 / ADAPTATION),  # less than half of them
    ],
)
def test_rate_adapts_to_the_update(num_steps, kl, factor):
    region, _ = make_region(target_kl=0.1)
    region.steps, region.kl = 2, kl
    region.end(num_steps)
    assert region.learning_rate == pytest.approx(1e-3 * factor)


def test_rate_has_an_upper_bound():
    region, _ = make_region(target_kl=0.1)
    for _ in range(9):
        region.end(0)
    assert region.learning_rate == pytest.approx(4e-3)


def test_state_survives_a_round_trip():
    region, inputs = make_region(target_kl=np.inf)
    region.step(loss_of(region, inputs), 1.0)
    region.end(9)
    other, _ = make_region(target_kl=np.inf)
    other.load_state_dict(region.state_dict())
    assert (other.learning_rate, other.steps) == (region.learning_rate, 1)
