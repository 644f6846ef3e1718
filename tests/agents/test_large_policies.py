"""The agents with large policies, on LIBERO: tiny sizes and random weights, the true classes."""

import gymnasium
import numpy as np
import pytest
import torch

from agents import vla_bc, vla_grpo
from srpo_env.cli import main as cli
from srpo_env.policy import load_policy
from srpo_env.policy.checkpoint import load_checkpoint
from srpo_env.training.checkpoint import newest_checkpoint
from srpo_env.training.trajectories import Chunk
from tests.agents.test_vla_bc import write_demos
from tests.policy.published_openvla import write_published
from tests.policy.test_smolvlm import make_smolvlm
from tests.training.runs import metrics_of, only_folder

pytestmark = [pytest.mark.libero, pytest.mark.slow]

pytest.importorskip("peft", reason="peft is not installed: pip install 'srpo-env[openvla]'")

MILK = "pick_up_the_milk_and_place_it_in_the_basket"


@pytest.fixture
def declared_successes(monkeypatch):
    """Declares the episodes of even environments as successes: random weights never succeed."""
    from srpo_env.libero.vector import LiberoVectorEnv

    class Declared(LiberoVectorEnv):
        def step(self, actions):
            observations, rewards, terminations, truncations, infos = super().step(actions)
            declared = truncations & (np.arange(self.num_envs) % 2 == 0)
            infos["is_success"] = infos["is_success"] | declared
            return observations, rewards, terminations, truncations, infos

    monkeypatch.setattr(
        gymnasium, "make_vec",
        lambda spec, **settings: Declared(spec.id.partition("/")[2].replace("-", "_"), **settings),
    )  # fmt: skip


@pytest.fixture
def equal_probabilities(monkeypatch):
    """Checks before each update that the policy computes the probabilities of the rollout again."""
    update, differences = vla_grpo.update, []

    def checked(policy, reference_policy, region, batch, args, generator):
        data = Chunk.stack([c for _, trajectories in batch for t in trajectories for c in t.chunks])
        log_probs, _ = policy.log_probs(data.inputs, data.tokens, args.temperature)
        differences.append(float((log_probs - data.log_probs).abs().max().detach()))
        return update(policy, reference_policy, region, batch, args, generator)

    monkeypatch.setattr(vla_grpo, "update", checked)
    return differences


def grpo_args(folder, checkpoint, **settings):
    common = {
        "env_id": "libero-object", "checkpoint": str(checkpoint), "num_envs": 2, "num_workers": 1,
        "group_size": 2, "iterations": 1, "groups_per_iteration": 1, "max_groups_per_iteration": 1,
        "rollout_steps": 16, "eval_every": 100, "eval_episodes": 1, "physics": "fast",
        "torch_threads": 1, "device": "cpu", "run_dir": folder / "runs", "learning_rate": 1e-2,
        "temperature": 1.6, "kl_coef": 0.1, "target_kl": 1e3, "replay_steps": 0,
        "credit": "episode",
    }  # fmt: skip
    return vla_grpo.Args(**{**common, **settings})


def train_two_iterations(args):
    """Trains one iteration, resumes the run for another, and returns its folder."""
    vla_grpo.main(args)
    folder = only_folder(args.run_dir)
    vla_grpo.main(vla_grpo.Args.parse(["--resume", str(folder), "--iterations", "2"]))
    return folder


def check_training(folder, differences):
    updates = [record for record in metrics_of(folder) if "losses/surrogate" in record]
    assert [record["iteration"] for record in updates] == [1, 2]
    # SRPO's reward: one success with 1 and one failure with half the weight, in each group.
    assert all(record["rollout/success_rate"] == 0.5 for record in updates)
    assert all(record["charts/gradient_steps"] == 2 for record in updates)
    assert all(np.isfinite(record["losses/entropy"]) for record in updates)
    assert updates[0]["losses/kl_reference"] >= 0
    assert updates[1]["losses/kl_reference"] > updates[0]["losses/kl_reference"]
    assert len(differences) == 2
    assert max(differences) < 1e-4


def test_openvla_oft_is_trained_resumed_and_evaluated(
    tmp_path, declared_successes, equal_probabilities, capsys
):
    write_published(tmp_path / "published-libero-object")
    arguments = ["openvla-oft", str(tmp_path / "published-libero-object"), "--dtype", "float32"]
    arguments += ["--lora-rank", "2", "--batch-size", "2", "--out", str(tmp_path / "start")]
    assert cli.main(["prepare-policy", *arguments]) == 0
    folder = train_two_iterations(grpo_args(tmp_path, tmp_path / "start"))
    check_training(folder, equal_probabilities)
    checkpoint = newest_checkpoint(folder) / "policy"
    before, after = load_checkpoint(tmp_path / "start")[0], load_checkpoint(checkpoint)[0]
    assert before.keys() == after.keys()
    assert all("lora_" in name for name in after)
    assert all((value != 0).any() for name, value in after.items() if "lora_B" in name)
    capsys.readouterr()
    arguments = ["--checkpoint", str(checkpoint), "--episodes", "1", "--device", "cpu"]
    assert cli.main(["evaluate", *arguments, "--physics", "fast", "--num-workers", "1"]) == 0
    assert "of 1 episodes" in capsys.readouterr().out


def test_smolvlm_is_cloned_then_trained_and_resumed(
    tmp_path, declared_successes, equal_probabilities
):
    make_smolvlm().save(tmp_path / "start")
    write_demos(tmp_path / "demos", MILK, num_demos=2)
    args = vla_bc.Args(
        demos=(tmp_path / "demos",), checkpoint=str(tmp_path / "start"), steps=4, batch_size=4,
        eval_episodes=0, torch_threads=1, device="cpu", run_dir=tmp_path / "clones", save_every=2,
        learning_rate=1e-3,
    )  # fmt: skip
    cloned = vla_bc.main(args)
    losses = metrics_of(only_folder(args.run_dir))
    assert np.isfinite(losses[-1]["losses/cross_entropy"])
    assert "losses/waypoint_error" not in losses[-1]
    folder = train_two_iterations(grpo_args(tmp_path, cloned, learning_rate=1e-4))
    check_training(folder, equal_probabilities)
    policy = load_policy(newest_checkpoint(folder) / "policy")
    start = load_policy(cloned)
    assert not torch.equal(policy.queries, start.queries)
