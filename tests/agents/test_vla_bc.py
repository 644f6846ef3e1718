import dataclasses
import os
import signal
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest

from agents import vla_bc
from agents.vla_bc import Args, main
from srpo_env.libero.demos import demo_file, writing_demos
from srpo_env.policy import PolicyConfig, SmallPolicy, load_policy
from srpo_env.policy.checkpoint import load_checkpoint
from srpo_env.training.checkpoint import newest_checkpoint
from tests.training.runs import metrics_of, only_folder

MILK = "pick_up_the_milk_and_place_it_in_the_basket"
BUTTER = "pick_up_the_butter_and_place_it_in_the_basket"


def write_demos(folder, task, num_demos, num_steps=12):
    """Writes random demonstrations in LIBERO's format."""
    rng = np.random.default_rng(len(task))
    attributes = {"bddl_file_name": f"libero/libero/bddl_files/libero_object/{task}.bddl"}
    with writing_demos(demo_file(folder, task), attributes) as writer:
        for index in range(num_demos):
            joints = rng.uniform(-1, 1, (num_steps, 7))
            images = rng.integers(0, 256, (2, num_steps, 32, 32, 3), dtype=np.uint8)
            writer.add(
                actions=rng.uniform(-1, 1, (num_steps, 7)),
                executed_actions=rng.uniform(-1, 1, (num_steps, 7)),
                states=np.concatenate([np.zeros((num_steps, 1)), joints], axis=1),
                robot_states=np.zeros((num_steps, 9)),
                obs={
                    "agentview_rgb": images[0],
                    "eye_in_hand_rgb": images[1],
                    "ee_pos": rng.uniform(-0.3, 0.3, (num_steps, 3)),
                    "ee_ori": rng.uniform(-3, 3, (num_steps, 3)),
                    "gripper_states": rng.uniform(0, 0.04, (num_steps, 2)),
                    "joint_states": joints,
                },
                init_state_id=index,
            )


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demos")
    write_demos(folder, MILK, num_demos=2)
    write_demos(folder, BUTTER, num_demos=3)
    return folder


@pytest.fixture
def args(demos, tmp_path, monkeypatch):
    """A short run on two small files, with a policy that is fast to create."""
    monkeypatch.setattr(vla_bc, "SmallPolicy", make_policy)
    return Args(
        demos=(demos,), steps=4, batch_size=8, eval_episodes=0, torch_threads=1, device="cpu",
        run_dir=tmp_path / "runs", save_every=2,
    )  # fmt: skip


def make_policy():
    config = PolicyConfig(image_size=32, channels=(8, 8, 8), width=32, text_width=16, heads=2)
    return SmallPolicy(config)


def test_checkpoint_describes_how_the_policy_was_trained(args):
    checkpoint = main(args)
    load_policy(checkpoint)
    provenance = load_checkpoint(checkpoint)[1]["provenance"]
    assert provenance["agent"] == "vla_bc"
    assert provenance["steps"] == 4
    assert provenance["args"]["seed"] == args.seed
    assert provenance["demonstrations"] == {
        "pick up the milk and place it in the basket": 2,
        "pick up the butter and place it in the basket": 3,
    }
    assert provenance["frames"] == 5 * 6  # every second of 12
    assert provenance["conditions"] == {"look": "libero"}


def test_demonstrations_of_another_look_are_refused(args, capsys):
    with pytest.raises(SystemExit):
        main(dataclasses.replace(args, look="mujoco"))
    assert "must have images with look='mujoco'" in capsys.readouterr().err


def test_demonstrations_that_failed_are_not_imitated(args, tmp_path, capsys):
    write_demos(tmp_path / "failed", MILK, num_demos=1)
    file = demo_file(tmp_path / "failed", MILK)
    with h5py.File(file, "r+") as content:
        content["data/demo_0/rewards"][:] = 0
    with pytest.raises(SystemExit):
        main(dataclasses.replace(args, demos=(tmp_path / "failed",)))
    assert f"{file}:data/demo_0 must have reached the goal" in capsys.readouterr().err


def test_number_of_demonstrations_can_be_limited(args):
    checkpoint = main(dataclasses.replace(args, demos_per_task=1))
    demonstrations = load_checkpoint(checkpoint)[1]["provenance"]["demonstrations"]
    assert list(demonstrations.values()) == [1, 1]


def test_equal_seeds_give_equal_policies_to_the_bit(args):
    first, second, other = (
        load_policy(main(dataclasses.replace(args, seed=seed))).state_dict() for seed in (1, 1, 2)
    )
    assert all(first[name].equal(second[name]) for name in first)
    assert not all(first[name].equal(other[name]) for name in first)


def test_stopped_run_resumes_to_the_bit(args, tmp_path, monkeypatch):
    whole = load_policy(main(args)).state_dict()
    args = dataclasses.replace(args, run_dir=tmp_path / "parts")
    calls, imitation_loss = [], SmallPolicy.imitation_loss

    def loss(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return imitation_loss(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SmallPolicy, "imitation_loss", loss)
        with pytest.raises(SystemExit) as end:
            main(args)
    assert end.value.code == 128 + signal.SIGTERM
    folder = only_folder(args.run_dir)
    assert newest_checkpoint(folder).name == "iteration_0003_temporary"
    parts = load_policy(main(Args.parse(["--resume", str(folder)]))).state_dict()
    assert all(whole[name].equal(parts[name]) for name in whole)


def test_metrics_are_logged(args):
    main(args)
    (record,) = metrics_of(only_folder(args.run_dir))
    assert record["iteration"] == 4
    assert np.isfinite([record["losses/cross_entropy"], record["losses/waypoint_error"]]).all()
    assert record["charts/learning_rate"] < args.learning_rate


def test_missing_demonstrations_are_one_sentence_with_the_command_that_records_some(
    args, tmp_path, capsys
):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit):
        main(dataclasses.replace(args, demos=(tmp_path / "empty",)))
    shown = capsys.readouterr().err.splitlines()[-1]
    assert shown.startswith("vla_bc.py: ")
    assert "record some with `srpo-env demos`" in shown
    assert not args.run_dir.exists()


@pytest.mark.libero
@pytest.mark.parametrize(
    ("settings", "assets", "message"),
    [
        ({"eval_episodes": 101, "num_envs": 1}, False, "held-out episodes must be in 1..100"),
        ({"eval_episodes": 1}, True, "LIBERO_ASSETS must name a folder with the files of at least"),
        ({"run_dir": Path("/dev/null/runs")}, False, "--run-dir must be a folder that can be"),
    ],
)
def test_what_cannot_be_evaluated_or_written_is_one_sentence_before_the_training(
    args, settings, assets, message, tmp_path, monkeypatch, capsys
):
    if assets:
        monkeypatch.setenv("LIBERO_ASSETS", str(tmp_path))  # a folder without any file
    with pytest.raises(SystemExit) as end:
        main(dataclasses.replace(args, **settings))
    assert end.value.code == 2
    shown = capsys.readouterr().err.splitlines()[-1]
    assert shown.startswith("vla_bc.py: ")
    assert message in shown
    assert not args.run_dir.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "--steps must be above 0, got 0"),
        ({"learning_rate": 0.0}, "--learning-rate must be above 0, got 0.0"),
        ({"label_width": -1.0}, "--label-width must be above 0, got -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Args(**settings)


def test_settings_come_from_the_command_line():
    args = Args.parse(["--demos", "a", "b", "--env", "libero-goal", "--seed", "7"])
    assert [str(path) for path in args.demos] == ["a", "b"]
    assert args.gym_id == "srpo_env/libero-goal"


@pytest.mark.libero
@pytest.mark.slow
def test_evaluation_is_printed_logged_and_stored_with_the_policy(args, monkeypatch, capsys):
    # Two episodes of 16 control steps instead of 280.
    make_vec = gymnasium.make_vec
    monkeypatch.setattr(gymnasium, "make_vec", lambda *a, **k: make_vec(*a, max_steps=16, **k))
    checkpoint = main(dataclasses.replace(args, eval_episodes=2, num_envs=2))
    assert "held-out success 0% [0%, 66%] of 2 episodes; by task 0/1 0/1" in capsys.readouterr().out
    assert metrics_of(only_folder(args.run_dir))[-1]["eval/task_1"] == 0
    provenance = load_checkpoint(checkpoint)[1]["provenance"]
    assert provenance["held_out_by_task"] == "0/1 0/1"
