import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from srpo_env.policy import PolicyConfig, SmallPolicy
from srpo_env.policy.modules import BODY_FEATURES, body_features
from srpo_env.policy.tokens import sample_tokens
from tests.policy.fakes import INSTRUCTION, make_observations, make_policy


def rows(inputs, index):
    return {name: value[index] for name, value in inputs.items()}


def test_default_policy_has_a_few_million_parameters():
    count = sum(parameter.numel() for parameter in SmallPolicy().parameters())
    assert 1e6 < count < 7.5e6  # 15 MB in half precision


def test_logits_have_one_row_per_token_of_a_chunk():
    policy = make_policy()
    logits = policy.logits(policy.prepare(make_observations(3), [INSTRUCTION] * 3))
    assert logits.shape == (3, 56, 256)
    assert torch.isfinite(logits).all()


def test_logits_do_not_depend_on_the_rest_of_the_batch():
    policy = make_policy()
    inputs = policy.prepare(make_observations(4), ["a b", "c d e", "a b", "f"])
    together = policy.logits(inputs)
    alone = torch.cat([policy.logits(rows(inputs, slice(i, i + 1))) for i in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_logits_are_equal_in_train_and_eval_mode():
    policy = make_policy()
    inputs = policy.prepare(make_observations(2), [INSTRUCTION] * 2)
    assert policy.train().logits(inputs).equal(policy.eval().logits(inputs))


def test_log_probabilities_of_sampling_and_of_updates_agree():
    policy = make_policy()
    inputs = policy.prepare(make_observations(3), [INSTRUCTION] * 3)
    tokens, sampled = policy.sample(inputs, 0.7, torch.Generator().manual_seed(0))
    computed, entropies = policy.log_probs(inputs, tokens, 0.7)
    torch.testing.assert_close(sampled, computed)
    assert not sampled.requires_grad
    assert computed.requires_grad
    assert entropies.shape == tokens.shape == (3, 56)


def test_steps_of_a_sampled_chunk_are_correlated():
    policy = make_policy()
    inputs = policy.prepare(make_observations(3), [INSTRUCTION] * 3)
    tokens, _ = policy.sample(inputs, 0.7, torch.Generator().manual_seed(0), 0.99)
    generator = torch.Generator().manual_seed(0)
    expected = sample_tokens(policy.logits(inputs), 0.7, generator, 0.99, policy.action_dim)
    assert tokens.equal(expected)


def test_act_returns_the_most_likely_actions():
    policy = make_policy()
    observations, instructions = make_observations(2), [INSTRUCTION] * 2
    actions = policy.act(observations, instructions)
    tokens = policy.logits(policy.prepare(observations, instructions)).argmax(dim=-1)
    np.testing.assert_array_equal(actions, policy.actions(tokens))
    assert actions.shape == (2, 8, 7)
    assert actions.dtype == np.float32
    assert np.abs(actions).max() <= 1


@pytest.mark.parametrize("changed", ["agentview", "wrist", "proprio", "instruction"])
def test_logits_depend_on_every_input(changed):
    policy = make_policy()
    inputs = policy.prepare(make_observations(1, seed=0), ["pick up the milk"])
    others = policy.prepare(make_observations(1, seed=1), ["pick up the soup"])
    mixed = {**inputs, changed: others[changed]}
    assert not torch.allclose(policy.logits(inputs), policy.logits(mixed), atol=1e-6)


def test_gradient_reaches_every_weight():
    policy = make_policy()
    inputs = policy.prepare(make_observations(2), [INSTRUCTION, "another one"])
    tokens, _ = policy.sample(inputs)
    policy.log_probs(inputs, tokens)[0].sum().backward()
    without = {n for n, p in policy.named_parameters() if p.grad is None or not p.grad.any()}
    # A softmax does not depend on a common offset, so this gradient is 0 up to rounding.
    assert without <= {"text.weight.bias"}


def test_images_of_another_size_are_resized():
    policy = make_policy()
    large = make_observations(2, size=64)
    for name in ("agentview", "wrist"):  # resizing restores the small image
        small = make_observations(2)[name]
        large[name] = small.repeat(2, axis=1).repeat(2, axis=2)
    resized = policy.prepare(large, [INSTRUCTION] * 2)
    assert resized["agentview"].shape == (2, 32, 32, 3)
    assert resized["agentview"].dtype == torch.uint8
    flat = np.full((1, 48, 48, 3), 7, np.uint8)
    observations = {**make_observations(1), "agentview": flat, "wrist": flat}
    assert (policy.prepare(observations, [INSTRUCTION])["wrist"] == 7).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"wrist": None}, KeyError, "must hold 'wrist'"),
        ({"wrist": np.zeros((2, 32, 32), np.uint8)}, ValueError, r"`wrist` must be uint8 of shape"),
        ({"wrist": np.zeros((2, 32, 32, 3))}, ValueError, r"`wrist` must be uint8 of shape"),
        ({"proprio": np.zeros((2, 9))}, ValueError, r"`proprio` must have shape \(B, 8\)"),
        (
            {"proprio": np.zeros((3, 8))},
            ValueError,
            "one row for each of the 2 instructions, got 3",
        ),
    ],
)
def test_invalid_observations_are_refused(change, error, message):
    observations = {**make_observations(2), **change}
    observations = {name: value for name, value in observations.items() if value is not None}
    with pytest.raises(error, match=message):
        make_policy().prepare(observations, [INSTRUCTION] * 2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"image_size": 100}, "`image_size` must be a multiple of 8"),
        ({"channels": (8, 8)}, "`channels` must be three"),
        ({"chunk": 0}, "`chunk` must be at least 1, got 0"),
        ({"text_width": 30}, "`text_width` must be a multiple of 4, got 30"),
    ],
)
def test_invalid_sizes_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        PolicyConfig(**config)


def test_orientation_features_are_two_columns_of_the_rotation_matrix():
    axis_angle = np.array([[0.3, -2.0, 1.1], [0.0, 0.0, 0.0], [3.1, 0.2, -0.1]], np.float32)
    proprio = np.concatenate([np.zeros((3, 3)), axis_angle, np.zeros((3, 2))], axis=1)
    features = body_features(torch.tensor(proprio, dtype=torch.float32))
    assert features.shape == (3, BODY_FEATURES)
    matrices = Rotation.from_rotvec(axis_angle).as_matrix()
    expected = np.concatenate([matrices[:, :, 0], matrices[:, :, 1]], axis=1)
    np.testing.assert_allclose(features[:, 3:9], expected, atol=1e-5)


def test_orientation_features_are_continuous_at_half_a_turn():
    just_under = torch.tensor([[0.0, 0, 0, np.pi - 1e-4, 0, 0, 0, 0]])
    just_over = torch.tensor([[0.0, 0, 0, -np.pi + 1e-4, 0, 0, 0, 0]])
    torch.testing.assert_close(
        body_features(just_under), body_features(just_over), atol=1e-3, rtol=0
    )
