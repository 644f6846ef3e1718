"""Whole runs of the agent, on a suite that needs no simulator."""

import dataclasses
import io
import json
import re
import sys

import gymnasium
import numpy as np
import pytest
import torch
import tyro

from agents import vla_grpo
from agents.vla_grpo import (
    Args,
    Log,
    Rollout,
    ScoredGroup,
    TaskSampler,
    TrainingState,
    main,
    parse_args,
)
from srpo_env import PixelEncoder, SelfReferentialProgressWrapper
from srpo_env.policy import load_policy
from srpo_env.training.checkpoint import newest_checkpoint
from tests.agents.toy_suite import ToySuite
from tests.policy.fakes import make_policy


@pytest.fixture
def toy(monkeypatch):
    """Registers the toy suite; tests make its steps fail by `before_step`."""
    gymnasium.register("srpo_env/toy", vector_entry_point=ToySuite)
    monkeypatch.setattr(ToySuite, "count", 0)
    yield ToySuite
    del gymnasium.registry["srpo_env/toy"]


@pytest.fixture
def args(toy, tmp_path):
    make_policy().save(tmp_path / "start")
    return Args(
        env_id="toy", checkpoint=str(tmp_path / "start"), num_envs=4, group_size=4, iterations=2,
        groups_per_iteration=2, max_groups_per_iteration=4, eval_every=1, eval_episodes=4,
        torch_threads=1, device="cpu", run_dir=str(tmp_path / "runs"), learning_rate=1e-3,
        encoder="pixels",
    )  # fmt: skip


def run(args):
    """Runs the agent and returns its folder."""
    main(args)
    (folder,) = vla_grpo.Path(args.run_dir).iterdir()
    return folder


def interrupt_at(toy, monkeypatch, number):
    def before_step(count):
        if count == number:
            raise KeyboardInterrupt

    monkeypatch.setattr(toy, "before_step", staticmethod(before_step))


def history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def iterations(folder, figure):
    return [record["iteration"] for record in history(folder) if figure in record]


def checkpoints(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


# --- The command line ---


@pytest.mark.parametrize("env_id", ["libero-object", "srpo_env/libero-object", "libero_object"])
def test_it_takes_the_flags_that_cleanrls_benchmark_tool_appends(env_id):
    args = tyro.cli(Args, args=["--reward", "binary", "--env-id", env_id, "--seed", "3"])
    assert (args.gym_id, args.seed, args.reward) == ("srpo_env/libero-object", 3, "binary")


def test_every_setting_is_explained_in_the_help(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(Args, args=["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--group-size INT episodes per group; M in the paper (default: 8)" in shown
    for name in ("env", *(f.name.replace("_", "-") for f in dataclasses.fields(Args))):
        assert f" --{name} " in shown or f" --{name}, " in shown
    assert not re.findall(r"--[a-z-]+ \S+ \(default", shown)


def test_runs_that_start_at_different_times_have_different_folders(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1795388871.4)
    first = Args(reward="binary", seed=2).new_folder()
    assert first.name == "libero-object__vla_grpo__binary__2__1795388871"
    monkeypatch.setattr("time.time", lambda: 1795388872.4)
    assert Args(reward="binary", seed=2).new_folder() != first


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env_id": "libero-wood"}, "--env must be one of srpo_env/libero-10, "),
        ({"checkpoint": "lost"}, "a checkpoint must be a path to NAME.safetensors"),
        ({"num_envs": 0}, "--num-envs must be above 0, got 0"),
        ({"group_size": 1}, "--group-size must be at least 2, got 1"),
        ({"temperature": float("nan")}, "--temperature must be above 0, got nan"),
        ({"kl_coef": -1.0}, "--kl-coef must be at least 0, got -1.0"),
        ({"stop_at": 95.0}, "--stop-at must be a rate, at most 1, got 95.0"),
        ({"max_groups_per_iteration": 1}, "--max-groups-per-iteration must be at least 2, got 1"),
        ({"eval_episodes": 21}, "there are 20 held-out episodes, and 21 were asked for"),
        ({"track": True}, "--track needs Weights & Biases: run `pip install wandb`"),
        ({"resume": "lost"}, "--resume must name the folder of a run with checkpoints"),
    ],
)
def test_a_wrong_setting_is_one_sentence_and_exit_code_2(args, settings, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(dataclasses.replace(args, **settings))
    assert end.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"vla_grpo.py: {message}")
    assert shown.count("\n") == 1
    assert not vla_grpo.Path(args.run_dir).exists()


def test_without_libero_it_says_how_to_install_it(args, monkeypatch, capsys):
    def make_vec(*_, **__):
        raise ModuleNotFoundError("LIBERO is not installed: run `pip install ...`", name="libero")

    monkeypatch.setattr(gymnasium, "make_vec", make_vec)
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "vla_grpo.py: LIBERO is not installed: run `pip install ...`\n"
    )


# --- Going on with a run ---


def test_a_resumed_run_keeps_its_settings_but_for_flags_that_are_given(args):
    folder = run(args)
    resumed = parse_args(["--resume", str(folder), "--iterations", "5"])
    assert resumed == dataclasses.replace(args, resume=str(folder), iterations=5)


@pytest.mark.parametrize(
    "flags",
    [
        ["--seed", "2"],
        ["--reward", "binary"],
        ["--env", "other"],
        ["--encoder", "libero-vjepa2"],
    ],
)
def test_what_a_run_is_named_for_cannot_change_when_it_goes_on(args, flags, capsys):
    folder = run(args)
    with pytest.raises(SystemExit) as end:
        parse_args(["--resume", str(folder), *flags])
    assert end.value.code == 2
    assert "start a new run" in capsys.readouterr().err


def test_a_resumed_run_is_equal_to_one_that_went_on_to_the_last_bit(args, tmp_path):
    whole = run(args)
    halves_args = dataclasses.replace(args, iterations=1, run_dir=str(tmp_path / "halves"))
    halves = run(halves_args)
    main(dataclasses.replace(halves_args, iterations=2, resume=str(halves)))
    assert checkpoints(whole) == checkpoints(halves)
    assert iterations(whole, "eval/success_rate") == iterations(halves, "eval/success_rate")
    for name in ("policy.safetensors", "training.safetensors"):
        first, end = (f"checkpoints/iteration_000{i}/{name}" for i in (1, 2))
        assert (whole / end).read_bytes() == (halves / end).read_bytes()
        assert (whole / end).read_bytes() != (whole / first).read_bytes()


def test_an_interrupted_iteration_leaves_the_clean_checkpoint_as_it_was(args, toy, monkeypatch):
    # An evaluation takes two steps, so the third is the first of the rollout.
    interrupt_at(toy, monkeypatch, 4)
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 130
    (folder,) = vla_grpo.Path(args.run_dir).iterdir()
    assert checkpoints(folder) == ["iteration_0000", "iteration_0000_interrupted"]
    assert newest_checkpoint(folder).name == "iteration_0000"


def test_an_interrupted_run_goes_on_from_its_last_iteration(args, toy, monkeypatch):
    args = dataclasses.replace(args, iterations=4, eval_every=4)
    rollout = Rollout.collect

    def collect(self, state):
        if state.iteration == 2:
            raise KeyboardInterrupt
        return rollout(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(Rollout, "collect", collect)
        with pytest.raises(SystemExit):
            main(args)
    (folder,) = vla_grpo.Path(args.run_dir).iterdir()
    assert newest_checkpoint(folder).name == "iteration_0002_interrupted"
    assert load_policy(newest_checkpoint(folder) / "policy")
    main(dataclasses.replace(args, resume=str(folder)))
    assert iterations(folder, "rollout/success_rate") == [1, 2, 3, 4]
    assert iterations(folder, "eval/success_rate") == [0, 4]
    steps = [record["control_steps"] for record in history(folder)]
    assert steps == sorted(steps)


def test_an_evaluation_that_was_cut_off_is_made_up_for(args, toy, monkeypatch):
    args = dataclasses.replace(args, iterations=1)
    log_evaluation = Log.evaluation

    def evaluation(self, result):
        if self.state.iteration == 1:
            raise KeyboardInterrupt
        log_evaluation(self, result)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "evaluation", evaluation)
        with pytest.raises(SystemExit):
            main(args)
    (folder,) = vla_grpo.Path(args.run_dir).iterdir()
    assert iterations(folder, "eval/success_rate") == [0]
    main(dataclasses.replace(args, resume=str(folder)))
    assert iterations(folder, "eval/success_rate") == [0, 1]
    assert newest_checkpoint(folder).name == "iteration_0001"


def test_a_finished_run_that_is_resumed_has_nothing_to_do(args):
    folder = run(args)
    before = history(folder)
    main(dataclasses.replace(args, resume=str(folder)))
    assert history(folder) == before


def test_figures_from_after_the_checkpoint_are_forgotten(args, toy, monkeypatch):
    args = dataclasses.replace(args, iterations=4, eval_every=2)
    collect = Rollout.collect

    def crash(self, state):
        if state.iteration == 3:
            raise RuntimeError("power cut")
        return collect(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(Rollout, "collect", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            main(args)
    (folder,) = vla_grpo.Path(args.run_dir).iterdir()
    assert iterations(folder, "rollout/success_rate") == [1, 2, 3]
    main(dataclasses.replace(args, resume=str(folder)))
    assert iterations(folder, "rollout/success_rate") == [1, 2, 3, 4]


def test_a_run_ends_when_it_is_as_good_as_asked_for(args):
    folder = run(dataclasses.replace(args, iterations=50, stop_at=1e-9, temperature=1.0))
    rates = [r["eval/success_rate"] for r in history(folder) if "eval/success_rate" in r]
    assert rates[-1] > 0 or iterations(folder, "eval/success_rate")[-1] == 50
    assert all(rate == 0 for rate in rates[:-1])


# --- What a person sees ---


def test_a_line_per_iteration_is_all_that_a_file_gets(args, capsys):
    run(args)
    shown = capsys.readouterr().out
    assert "\r" not in shown
    lines = [line for line in shown.splitlines() if "steps/s" in line]
    assert [line.split()[0] for line in lines] == ["1/2", "2/2"]
    assert max(map(len, lines)) <= 110


def test_a_terminal_shows_how_far_an_iteration_is_and_then_forgets_it(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdout", Terminal())
    with vla_grpo.live("rollout 3, groups", 12) as bar:
        bar.update(6)
        bar.refresh()
    shown = sys.stdout.getvalue()
    assert "rollout 3, groups |############            | 6/12, 00:00" in shown
    assert shown.split("\r")[-2].strip() == ""


def test_a_line_is_not_wider_than_a_terminal_late_in_a_long_run(args, tmp_path, capsys):
    state = TrainingState(None, None, None, None, iteration=9999, control_steps=9_999_999)
    log = Log(dataclasses.replace(args, iterations=9999), tmp_path / "long", state, "stand-in")
    log.started -= 60 * 99_999
    log.success_rate = 1.0
    group = make_group()
    capsys.readouterr()
    log.iteration([ScoredGroup(group, [[]], np.array([1.0, 0.2]))] * 24, {"kl_old": 0.0123}, 0.1)
    assert len(capsys.readouterr().out.rstrip("\n")) <= 110


def test_updates_that_keep_ending_early_ask_for_a_lower_learning_rate(args, tmp_path, capsys):
    log = Log(args, tmp_path / "early", TrainingState(None, None, None, None, iteration=1), "real")
    batch = [ScoredGroup(make_group(), [[]], np.array([1.0, 0.2]))]

    def told(*shares: float) -> int:
        for share in shares:
            log.iteration(batch, {"kl_old": 0.01, "completed": share}, 0.1)
        log.iteration(batch, {}, 0.1)  # nothing to learn from says nothing
        return capsys.readouterr().out.count("--learning-rate below 0.001 learns")

    assert told(0.4, 0.4, 0.5, 0.4, 0.4, 1.0) == 0
    assert told(0.4, 0.0, 0.4, 0.4) == 1


def test_the_time_to_go_follows_the_last_iterations_and_not_the_start(args, tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    state = TrainingState(None, None, None, None)
    log = Log(dataclasses.replace(args, iterations=30), tmp_path / "slow", state, "stand-in")
    shown = []
    monkeypatch.setattr("builtins.print", lambda text, **_: shown.append(text))
    clock[0] = 6000.0  # start-up
    log.ends.append((0, clock[0]))
    for iteration in range(1, 21):
        clock[0] += 60 if iteration <= 5 else 120
        state.iteration, state.control_steps = iteration, iteration
        log.iteration([ScoredGroup(make_group(), [[]], np.array([1.0, 0.2]))], {}, 0.0)
    assert shown[0].endswith("101 min, 29 to go")
    assert shown[-1].endswith("135 min, 20 to go")


def make_group():
    from tests.agents.test_vla_grpo import make_group

    return make_group([True, False], [1.0, 0.2])


# --- Rewards ---


def test_failures_earn_by_the_true_progress_that_the_simulator_tells(args):
    args = dataclasses.replace(args, reward="truth")
    libero = ToySuite(4, true_progress=True)
    envs = SelfReferentialProgressWrapper(libero, PixelEncoder(), group_size=4)
    rollout = Rollout(envs, make_policy(), TaskSampler(2, range(3), np.random.default_rng(0)), args)
    generator = torch.Generator().manual_seed(0)
    rollout._refill()
    # Two succeed; of the others, the first has been higher.
    for heights in ((1, 1, 0.9, 0.2), (1, 1, -1, -1)):
        libero.move = heights
        rollout._step(generator)
    (group,) = envs.pop_groups()
    furthest = np.array([rollout._furthest.pop(e.episode_id) for e in group.episodes])
    returns = vla_grpo.returns_of(group, args, furthest)
    assert returns[:2].tolist() == [1.0, 1.0]
    assert 0.8 > returns[2] > returns[3] > 0
    assert not rollout._furthest


@pytest.mark.parametrize("reward", ["srpo", "binary", "truth"])
def test_every_reward_trains_and_tells_what_encoding_costs(args, reward):
    folder = run(dataclasses.replace(args, reward=reward))
    shares = [r["charts/encoding_share"] for r in history(folder) if "charts/encoding_share" in r]
    assert len(shares) == 2
    assert all(0 < share < 1 for share in shares)


def test_a_run_from_before_encoders_could_be_chosen_goes_on_with_pixels(args):
    folder = run(args)
    content = json.loads((folder / "args.json").read_text())
    assert content.pop("encoder") == "pixels"
    (folder / "args.json").write_text(json.dumps(content))
    assert parse_args(["--resume", str(folder)]).encoder == "pixels"


# --- Simulators that fail ---


def test_an_episode_whose_simulator_broke_is_run_again(args):
    libero = ToySuite(4)
    envs = SelfReferentialProgressWrapper(libero, PixelEncoder(), group_size=4)
    sampler = TaskSampler(2, range(3), np.random.default_rng(0))
    rollout = Rollout(envs, make_policy(), sampler, args)
    generator = torch.Generator().manual_seed(0)
    rollout._refill()
    assert rollout._step(generator) == 4 * 8
    libero.crash_slot = 2
    assert rollout._step(generator) == 3 * 8
    assert envs.pop_groups() == []
    rollout._refill()
    for _ in range(2):
        rollout._step(generator)
    (group,) = envs.pop_groups()
    assert sorted(episode.env_index for episode in group.episodes) == [0, 0, 1, 3]
    chunks = [rollout._chunks[episode.episode_id] for episode in group.episodes]
    assert [len(kept) for kept in chunks] == [2, 2, 2, 2]
    assert all(chunk.mask.all() for kept in chunks for chunk in kept)
