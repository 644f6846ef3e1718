"""Whole runs of the agent, on a suite without a simulator."""

import dataclasses
import json
import re

import gymnasium
import numpy as np
import pytest
import torch
import tyro

from agents.vla_grpo import Args, Rollout, TaskSampler, main, rewarded
from srpo_env import PixelEncoder, SelfReferentialProgressWrapper
from srpo_env.policy import load_policy
from srpo_env.policy.checkpoint import load_checkpoint
from srpo_env.training.checkpoint import newest_checkpoint
from srpo_env.training.decisions import Decider
from srpo_env.training.episode_files import read_recordings
from srpo_env.training.task_sampler import reset_options
from tests.agents.toy_suite import CHUNK, ToySuite, registered_toy, toy_args
from tests.policy.fakes import make_policy
from tests.training.runs import assert_same_run


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(ToySuite, "count", 0)
    with registered_toy() as suite:
        yield suite


@pytest.fixture
def args(toy, tmp_path):
    return toy_args(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a run of two iterations, and its settings; not to be changed."""
    with registered_toy():
        args = toy_args(tmp_path_factory.mktemp("finished"))
        return run(args), args


def run(args):
    """Runs the agent and returns its folder."""
    main(args)
    return folder_of(args)


def folder_of(args):
    (folder,) = args.run_dir.iterdir()
    return folder


def history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def iterations(folder, metric):
    return [record["iteration"] for record in history(folder) if metric in record]


def test_episodes_are_recorded(finished):
    folder, args = finished
    recordings = read_recordings(folder)
    assert [recording.iteration for recording in recordings] == [1, 2]
    group = recordings[0].groups[0]
    assert len(group.rewards) == args.group_size
    for failure, success in group.pairs:
        assert not group.successes[failure]
        assert success is None or group.successes[success]
        episode = group.episodes[failure]
        assert episode.num_steps == 2 * CHUNK
        assert episode.frame_steps.tolist() == [0, CHUNK]


# --- The command line ---


@pytest.mark.parametrize("env_id", ["libero-object", "srpo_env/libero-object", "libero_object"])
def test_cleanrl_benchmark_flags_are_accepted(env_id):
    args = tyro.cli(Args, args=["--reward", "binary", "--env-id", env_id, "--seed", "3"])
    assert (args.gym_id, args.seed, args.reward) == ("srpo_env/libero-object", 3, "binary")


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(Args, args=["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--group-size INT episodes per group; M in the paper (default: 8)" in shown
    for name in ("env", *(f.name.replace("_", "-") for f in dataclasses.fields(Args))):
        assert f" --{name} " in shown or f" --{name}, " in shown
    assert not re.findall(r"--[a-z-]+ \S+ \(default", shown)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env_id": "libero-wood"}, "--env must be one of srpo_env/libero-10, "),
        ({"env_id": "libero"}, "--env must be one of srpo_env/libero-10, "),
        ({"num_envs": 0}, "--num-envs must be above 0, got 0"),
        ({"group_size": 1}, "--group-size must be at least 2, got 1"),
        ({"temperature": float("nan")}, "--temperature must be above 0, got nan"),
        ({"kl_coef": -1.0}, "--kl-coef must be at least 0, got -1.0"),
        ({"stop_at": 95.0}, "--stop-at must be at most 1, got 95.0"),
        ({"correlation": 1.0}, "--correlation must be at most 0.999, got 1.0"),
        ({"update_epochs": 0, "replay_steps": 0}, "--update-epochs 0 learns nothing unless "),
        ({"max_groups_per_iteration": 1}, "--max-groups-per-iteration must be at least 12, got 1"),
        ({"track": True}, "--track needs Weights & Biases: run `pip install wandb`"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Args(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoint": "lost"}, "a checkpoint must be a path to NAME.safetensors"),
        ({"eval_episodes": 21}, "the number of held-out episodes must be in 1..20, got 21"),
    ],
)
def test_failed_setup_prints_one_sentence_and_leaves_no_folder(args, settings, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(dataclasses.replace(args, **settings))
    assert end.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"vla_grpo.py: {message}")
    assert shown.count("\n") == 1
    assert not args.run_dir.exists()


def test_missing_libero_prints_how_to_install_it(args, monkeypatch, capsys):
    def make_vec(*_, **__):
        raise ModuleNotFoundError("LIBERO is not installed: run `pip install ...`", name="libero")

    monkeypatch.setattr(gymnasium, "make_vec", make_vec)
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "vla_grpo.py: LIBERO is not installed: run `pip install ...`\n"
    )


# --- Resuming ---


def test_resumed_run_keeps_settings_unless_flags_change_them(finished, toy):
    folder, args = finished
    resumed = Args.parse(["--resume", str(folder), "--iterations", "5"])
    assert resumed == dataclasses.replace(args, resume=folder, iterations=5)


@pytest.mark.parametrize(
    "flags",
    [
        ["--seed", "2"],
        ["--reward", "binary"],
        ["--env", "libero-10"],
        ["--encoder", "random"],
        ["--look", "mujoco"],
    ],
)
def test_resumed_run_cannot_change_what_its_results_stand_for(finished, toy, flags, capsys):
    folder, _ = finished
    with pytest.raises(SystemExit) as end:
        Args.parse(["--resume", str(folder), *flags])
    assert end.value.code == 2
    assert "start a new run" in capsys.readouterr().err


def test_look_and_graphics_are_recorded(finished):
    folder, _ = finished
    conditions = json.loads((folder / "conditions.json").read_text())
    assert conditions["look"] == "libero"
    assert conditions["gl"] == ToySuite.gl
    provenance = load_checkpoint(newest_checkpoint(folder) / "policy")[1]["provenance"]
    assert provenance["conditions"] == {"assets": "placeholder", "look": "libero"}


def test_a_start_from_a_policy_of_another_look_is_a_warning(args, caplog):
    make_policy().save(args.checkpoint, {"conditions": {"look": "mujoco"}})
    run(dataclasses.replace(args, iterations=0))
    assert "was trained on images with look='mujoco' and now sees look='libero'" in caplog.text


def test_finished_run_that_is_resumed_does_nothing(args):
    folder = run(args)
    before = history(folder)
    main(dataclasses.replace(args, resume=folder))
    assert history(folder) == before


def test_metrics_after_the_checkpoint_are_dropped_on_resume(args, monkeypatch):
    args = dataclasses.replace(args, iterations=3)
    save = Rollout.state_dict

    def fail_after_two_iterations(self):
        if len(history(folder_of(args))) == 4:  # evaluation, iteration, evaluation, iteration
            raise RuntimeError("disk full")
        return save(self)

    with monkeypatch.context() as patch:
        patch.setattr(Rollout, "state_dict", fail_after_two_iterations)
        with pytest.raises(RuntimeError, match="disk full"):
            main(args)
    folder = folder_of(args)
    assert iterations(folder, "rollout/success_rate") == [1, 2]
    main(dataclasses.replace(args, resume=folder))
    assert iterations(folder, "rollout/success_rate") == [1, 2, 3]
    assert iterations(folder, "eval/success_rate") == [0, 1, 2, 3]


def test_run_stops_when_the_success_rate_is_reached(args):
    folder = run(dataclasses.replace(args, iterations=50, stop_at=1e-9))
    rates = [r["eval/success_rate"] for r in history(folder) if "eval/success_rate" in r]
    assert rates[-1] > 0
    assert all(rate == 0 for rate in rates[:-1])
    assert len(rates) < 51


def test_only_the_checkpoints_of_evaluations_are_kept(args):
    folder = run(dataclasses.replace(args, iterations=4, eval_every=3))
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["iteration_0000", "iteration_0003", "iteration_0004"]
    load_policy(newest_checkpoint(folder) / "policy")


def test_evaluations_are_exact_whatever_training_uses(args, monkeypatch):
    used = {"training": set(), "evaluation": set()}
    step = ToySuite.step

    def recorded_step(envs, actions):
        used["training" if envs.max_steps == 160 else "evaluation"].add(envs.physics)
        return step(envs, actions)

    monkeypatch.setattr(ToySuite, "step", recorded_step)
    folder = run(dataclasses.replace(args, physics="fast"))
    assert used == {"training": {"fast"}, "evaluation": {"exact"}}
    assert json.loads((folder / "args.json").read_text())["physics"] == "fast"


# --- Output ---


def test_output_to_a_file_is_one_line_per_iteration(args, capsys):
    run(args)
    shown = capsys.readouterr().out
    assert "\r" not in shown
    lines = [line for line in shown.splitlines() if "steps/s" in line]
    assert [line.split()[0] for line in lines] == ["1/2", "2/2"]
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize("reward", ["srpo", "binary", "oracle"])
def test_every_reward_trains_and_logs_its_statistics(args, reward):
    folder = run(dataclasses.replace(args, reward=reward, iterations=1))
    (record,) = (r for r in history(folder) if "rollout/success_rate" in r)
    assert 0 < record["charts/encoding_share"] < 1
    assert record["charts/gradient_steps"] > 0
    assert (record["rollout/shaped"] > 0) == (reward != "binary")
    assert {name.partition("/")[0] for name in record if "/" in name} == {
        "rollout", "losses", "charts"
    }  # fmt: skip


# --- Rollouts ---


def make_rollout(libero, args):
    envs = SelfReferentialProgressWrapper(libero, PixelEncoder(), group_size=4)
    sampler = TaskSampler(2, range(3), seed=0)
    generator = torch.Generator().manual_seed(0)
    return Rollout(envs, Decider(envs, make_policy(), generator, 1.0, False), sampler, args)


def test_imitation_alone_takes_no_step_of_the_policy_gradient(args):
    folder = run(dataclasses.replace(args, update_epochs=0, replay_steps=4, correlation=0.9))
    records = history(folder)
    assert sum(record.get("charts/replay_steps", 0) for record in records) > 0
    assert not any("losses/kl" in record for record in records)


def test_decisions_are_sampled_with_correlated_noise():
    policy, envs = make_policy(), ToySuite(4)
    starts = {slot: (0, 0, "") for slot in range(4)}
    observations, infos = envs.reset(options=reset_options(starts, 4))
    instructions = list(infos["task"])

    def generator():
        return torch.Generator().manual_seed(0)

    decider = Decider(envs, policy, generator(), 1.0, False, 0.9)
    decisions, _ = decider.step(observations, instructions, ahead=False)
    inputs = policy.prepare(observations, instructions)
    assert decisions.tokens.equal(policy.sample(inputs, 1.0, generator(), 0.9)[0])
    assert not decisions.tokens.equal(policy.sample(inputs, 1.0, generator())[0])


def test_run_with_imitation_and_correlated_noise_resumes_to_the_bit(toy, tmp_path):
    settings = {"replay_steps": 4, "correlation": 0.9}
    whole = run(toy_args(tmp_path / "whole", **settings))
    parts = toy_args(tmp_path / "parts", **settings)
    folder = run(dataclasses.replace(parts, iterations=1))
    main(dataclasses.replace(parts, resume=folder))
    assert_same_run(whole, folder)


def test_oracle_ranks_failures_by_their_highest_progress(args):
    libero = ToySuite(4, true_progress=True)
    rollout = make_rollout(libero, args)
    rollout.start_episodes()
    # Two succeed. Both failures end below 0; the first was higher before.
    for heights in ((1, 1, 0.9, 0.2), (1, 1, -1, -1)):
        libero.move = heights
        rollout.step()
    (group,) = rollout.envs.pop_groups()
    trajectories = [rollout.trajectories[episode.episode_id] for episode in group.episodes]
    rewards = rewarded(group, trajectories, "oracle").rewards
    assert rewards[:2].tolist() == [1.0, 1.0]
    assert 0.8 > rewards[2] > rewards[3] > 0


def test_episode_whose_simulator_crashed_is_run_again(args):
    libero = ToySuite(4)
    rollout = make_rollout(libero, args)
    rollout.start_episodes()
    assert rollout.step() == 4 * 8
    libero.crash_slot = 2
    assert rollout.step() == 3 * 8
    assert rollout.envs.pop_groups() == []
    rollout.start_episodes()
    for _ in range(2):
        rollout.step()
    (group,) = rollout.envs.pop_groups()
    assert sorted(episode.env_index for episode in group.episodes) == [0, 0, 1, 3]
    chunks = [rollout.trajectories[episode.episode_id].chunks for episode in group.episodes]
    assert [len(kept) for kept in chunks] == [2, 2, 2, 2]
    assert all(chunk.mask.all() for kept in chunks for chunk in kept)


def test_restored_rollout_continues_running_episodes_to_the_bit(args, monkeypatch):
    monkeypatch.setattr(ToySuite, "chunks_of_task", (3, 5))
    straight = make_rollout(ToySuite(6), args)
    for _ in range(4):
        straight.start_episodes()
        straight.step()
    restored = make_rollout(ToySuite(6), args)
    restored.load_state_dict(straight.state_dict())
    restored.envs.load_state_dict(straight.envs.state_dict())
    restored.decider.generator.set_state(straight.decider.generator.get_state())
    restored.sampler.rng.bit_generator.state = straight.sampler.rng.bit_generator.state
    for rollout in (straight, restored):
        rollout.collect()
    first, second = straight.state_dict(), restored.state_dict()
    assert len(first["trajectories"]) > 0
    for name in first:
        np.testing.assert_equal(np.asarray(second[name]), np.asarray(first[name]))


# --- Perturbations ---


def test_a_group_shares_its_perturbation(args):
    rollout = make_rollout(ToySuite(8), args)
    rollout.sampler.perturb = ("camera", "noise")
    groups = []
    for _ in range(20):
        rollout.start_episodes()
        rollout.step()
        rollout.step()
        groups += rollout.envs.pop_groups()
    assert len(groups) >= 20
    starts = [
        [rollout.trajectories[e.episode_id].start for e in group.episodes] for group in groups
    ]
    assert all(len(set(members)) == 1 for members in starts)
    texts = {members[0][2] for members in starts}
    assert "" in texts
    assert len(texts) > 8
    for group, members in zip(groups, starts, strict=True):
        assert group.key == members[0] if members[0][2] else group.key == members[0][:2]


def test_a_perturbed_run_resumes_to_the_bit(toy, tmp_path):
    args = toy_args(tmp_path / "whole", perturb="all", iterations=3)
    whole = run(args)
    before = toy_args(tmp_path / "parts", perturb="all", iterations=2)
    parts = run(before)
    main(dataclasses.replace(before, resume=parts, iterations=3))
    for first, second in zip(history(whole), history(parts), strict=True):
        names = [n for n in first if not n.startswith("charts/") and n != "seconds"]
        assert {n: first[n] for n in names} == {n: second[n] for n in names}
    one, other = (load_policy(newest_checkpoint(folder) / "policy") for folder in (whole, parts))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=0, atol=0)
    perturbed = [g.perturbation for r in read_recordings(whole) for g in r.groups]
    assert perturbed == [g.perturbation for r in read_recordings(parts) for g in r.groups]
    assert any(perturbed)


def test_an_unknown_dimension_is_one_sentence(args, capsys):
    with pytest.raises(SystemExit) as end:
        main(dataclasses.replace(args, perturb="sound"))
    assert end.value.code == 2
    assert "--perturb must be all or some of camera, robot" in capsys.readouterr().err
    assert not args.run_dir.exists()
