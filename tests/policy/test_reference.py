"""The reference policy of the KL term."""

import pytest
import torch

from srpo_env.policy import ReferencePolicy
from tests.policy.fakes import INSTRUCTION, make_observations, make_policy


@pytest.fixture
def policy():
    return make_policy()


def test_reference_keeps_the_policy_as_it_was(policy):
    inputs = policy.prepare(make_observations(), [INSTRUCTION] * 3)
    tokens = torch.full((3, 56), 130)
    before, entropies = (value.detach() for value in policy.log_probs(inputs, tokens, 1.5))
    reference = ReferencePolicy(policy)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1)
    changed = policy.log_probs(inputs, tokens, 1.5)[0]
    log_probs, reference_entropies = reference.log_probs(inputs, tokens, 1.5)
    assert log_probs.equal(before)
    assert reference_entropies.equal(entropies)
    assert not log_probs.requires_grad
    assert not changed.equal(before)


def test_reference_between_forward_and_backward_changes_no_gradient(policy):
    inputs = policy.prepare(make_observations(), [INSTRUCTION] * 3)
    tokens = torch.full((3, 56), 130)
    reference, gradients = ReferencePolicy(policy), []
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)
    for with_reference in (False, True):
        loss = policy.log_probs(inputs, tokens)[0].mean()
        if with_reference:
            reference.log_probs(inputs, tokens)
        policy.zero_grad()
        loss.backward()
        gradients.append([p.grad for p in policy.parameters() if p.grad is not None])
    assert all(map(torch.equal, *gradients))


def test_only_what_is_trained_is_copied(policy):
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(name == "bin_bias")
    reference = ReferencePolicy(policy)
    assert sum(value.numel() for value in reference.copies.values()) == policy.bin_bias.numel()
