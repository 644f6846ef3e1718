"""Policies that lerobot has saved, in our simulator: `make test-lerobot` installs lerobot."""

import copy
import json
import sys

import numpy as np
import pytest

from srpo_env.cli import main as cli

IMAGE, WRIST, STATE = "observation.images.image", "observation.images.image2", "observation.state"
SIZE, CHUNK = 64, 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "lerobot:nowhere"], "run `pip install 'lerobot>=0.6.1'`"),
        (["--policy", "lerobot:nowhere", "--temperature", "1"], "leave out --temperature, got 1"),
        (["--policy", "lerobot:nowhere", "--rename", "state"], "--rename must be OURS=THEIRS"),
        (["--rename", "a=b"], "--rename is for policies of lerobot"),
    ],
)
@pytest.mark.libero
def test_what_is_wrong_is_one_sentence(arguments, message, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lerobot", None)
    assert cli.main(["evaluate", *arguments]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


# --- With lerobot ---


@pytest.fixture(scope="module")
def lerobot():
    return pytest.importorskip("lerobot", reason="needs lerobot: run `make test-lerobot`")


def save_act(folder, names=(IMAGE, WRIST), **settings):
    """Saves a small ACT with random weights, and its processors."""
    import torch
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies import make_pre_post_processors
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    torch.manual_seed(0)
    image = PolicyFeature(type=FeatureType.VISUAL, shape=(3, SIZE, SIZE))
    config = ACTConfig(
        input_features={
            **dict.fromkeys(names, image),
            STATE: PolicyFeature(type=FeatureType.STATE, shape=(8,)),
        },
        output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=(7,))},
        chunk_size=10, dim_model=32, n_heads=2, dim_feedforward=32, n_encoder_layers=1,
        n_vae_encoder_layers=1, latent_dim=4, pretrained_backbone_weights=None, device="cpu",
        **{"n_action_steps": CHUNK, **settings},
    )  # fmt: skip
    rng = np.random.default_rng(0)
    stats = {
        name: {"mean": rng.uniform(-0.1, 0.1, shape), "std": rng.uniform(0.5, 1, shape)}
        for name, shape in {
            **dict.fromkeys(names, (3, 1, 1)), STATE: (8,), "action": (7,)
        }.items()
    }  # fmt: skip
    stats = {
        name: {kind: torch.tensor(value, dtype=torch.float32) for kind, value in of.items()}
        for name, of in stats.items()
    }
    policy = ACTPolicy(config)
    policy.save_pretrained(folder)
    for processor in make_pre_post_processors(config, dataset_stats=stats):
        processor.save_pretrained(folder)
    return policy


@pytest.fixture(scope="module")
def saved(lerobot, tmp_path_factory):
    folder = tmp_path_factory.mktemp("act")
    save_act(folder)
    return folder


def lerobots_actions(folder, observations, instructions):
    """Returns the next actions ``(B, CHUNK, 7)`` as `lerobot-eval` computes them."""
    from lerobot.configs import PreTrainedConfig
    from lerobot.envs import make_env_pre_post_processors, preprocess_observation
    from lerobot.envs.configs import LiberoEnv
    from lerobot.policies import make_pre_post_processors
    from lerobot.policies.act.modeling_act import ACTPolicy

    config = PreTrainedConfig.from_pretrained(folder)
    policy = ACTPolicy.from_pretrained(folder, config=config)
    before, after = make_pre_post_processors(config, str(folder))
    from_env, _ = make_env_pre_post_processors(LiberoEnv(), config)
    policy.reset()
    actions = []
    for _ in range(CHUNK):  # it decides in the first step only
        batch = {**preprocess_observation(observations), "task": list(instructions)}
        actions.append(after(policy.select_action(before(from_env(batch)))).numpy())
        observations = {**observations, "pixels": observations["pixels"]}
    return np.stack(actions, axis=1)


def test_actions_are_those_of_lerobots_own_evaluation(saved):
    from srpo_env.adapters.lerobot_policy import LerobotPolicy

    rng = np.random.default_rng(0)
    upright = {
        name: rng.integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
        for name in ("agentview", "wrist")
    }
    quaternions = rng.normal(size=(3, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    halves = np.arccos(quaternions[:, 3:])
    axis_angles = 2 * halves * quaternions[:, :3] / np.sin(halves)
    positions, fingers = rng.normal(size=(3, 3)), rng.normal(size=(3, 2))
    proprio = np.hstack([positions, axis_angles, fingers]).astype(np.float32)
    policy = LerobotPolicy(saved)
    assert (policy.chunk, policy.image_size) == (CHUNK, SIZE)
    found = policy.act({**upright, "proprio": proprio}, ["lift"] * 3)
    raw = {
        "pixels": {
            name: upright[ours][:, ::-1].copy()
            for ours, name in (("agentview", "image"), ("wrist", "image2"))
        },
        "robot_state": {
            "eef": {"pos": positions, "quat": quaternions}, "gripper": {"qpos": fingers}
        },
    }  # fmt: skip
    expected = lerobots_actions(saved, raw, ["lift"] * 3)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected.clip(-1, 1), atol=1e-5)


@pytest.mark.libero
def test_the_simulator_shows_a_policy_what_lerobots_environment_shows_it(lerobot):
    from srpo_env.libero.assets import prepare_libero
    from srpo_env.libero.env import LiberoEnv
    from srpo_env.libero.gl import choose_gl

    prepare_libero()
    choose_gl()
    from lerobot.envs.libero import LiberoEnv as TheirEnv
    from lerobot.envs.libero import _get_suite
    from lerobot.envs.utils import preprocess_observation
    from lerobot.processor.env_processor import LiberoProcessorStep

    theirs = TheirEnv(
        _get_suite("libero_object"), 0, "libero_object", obs_type="pixels_agent_pos",
        observation_width=SIZE, observation_height=SIZE, episode_index=3,
    )  # fmt: skip
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 7)).astype(np.float32)
    # One after the other, because robosuite keeps one OpenGL context and does not make it current.
    expected = [copy.deepcopy(theirs.reset()[0])]
    expected += [copy.deepcopy(theirs.step(action)[0]) for action in actions]
    theirs.close()
    ours = LiberoEnv(
        "libero_object", image_size=SIZE, chunk=1, visuals="exact", look="mujoco"
    )  # fmt: skip
    found = [ours.reset(options={"task_id": 0, "init_state_id": 3})[0]]
    found += [ours.step(action[None])[0] for action in actions]
    for observation, raw in zip(found, expected, strict=True):
        np.testing.assert_array_equal(observation["agentview"], raw["pixels"]["image"][::-1])
        np.testing.assert_array_equal(observation["wrist"], raw["pixels"]["image2"][::-1])
        batched = {"robot_state": {
            part: {name: value[None] for name, value in values.items()}
            for part, values in raw["robot_state"].items()
        }}  # fmt: skip
        state = LiberoProcessorStep().observation(preprocess_observation(batched))[STATE]
        np.testing.assert_allclose(observation["proprio"], state[0].numpy(), atol=1e-5)


@pytest.mark.libero
@pytest.mark.slow
def test_evaluate_runs_a_policy_of_lerobot(saved, tmp_path, capsys):
    arguments = ["--policy", f"lerobot:{saved}", "--episodes", "1", "--num-envs", "1"]
    assert cli.main(["evaluate", *arguments, "--json", str(tmp_path / "result.json")]) == 0
    content = json.loads((tmp_path / "result.json").read_text())
    (episode,) = content["episodes"]
    assert (episode["task_id"], episode["init_state_id"]) == (0, 40)
    assert episode["control_steps"] == 280
    assert f"lerobot:{saved} on libero_object" in capsys.readouterr().out


def test_observations_can_be_renamed(lerobot, tmp_path):
    from srpo_env.adapters.lerobot_policy import LerobotPolicy

    camera = "observation.images.camera1"
    save_act(tmp_path, names=(camera,))
    with pytest.raises(ValueError, match=rf"needs {camera}: rename one with --rename"):
        LerobotPolicy(tmp_path)
    policy = LerobotPolicy(tmp_path, rename={IMAGE: camera})
    black, white = (np.full((1, SIZE, SIZE, 3), value, np.uint8) for value in (0, 255))
    proprio = np.zeros((1, 8), np.float32)
    first, second = (
        policy.act({"agentview": image, "wrist": black, "proprio": proprio}, ["lift"])
        for image in (black, white)
    )
    assert not np.allclose(first, second)


def test_policies_with_a_state_between_chunks_are_refused(lerobot, tmp_path):
    from srpo_env.adapters.lerobot_policy import LerobotPolicy

    save_act(tmp_path, n_action_steps=1, temporal_ensemble_coeff=0.01)
    with pytest.raises(ValueError, match=r"decide from one observation.*ensemble_coeff=0\.01"):
        LerobotPolicy(tmp_path)


def test_a_folder_without_a_policy_is_refused(lerobot, tmp_path):
    from srpo_env.adapters.lerobot_policy import LerobotPolicy

    with pytest.raises(FileNotFoundError, match=r"folder with config\.json"):
        LerobotPolicy(tmp_path)
