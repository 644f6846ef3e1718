import json
from pathlib import Path

import numpy as np
import pytest
import tyro
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents import vla_bc
from agents.vla_bc import Args, main
from srpo_env.libero.demos import demo_file, writing_demos
from srpo_env.policy import PolicyConfig, SmallPolicy, load_policy
from srpo_env.policy.checkpoint import load_checkpoint

MILK = "pick_up_the_milk_and_place_it_in_the_basket"
BUTTER = "pick_up_the_butter_and_place_it_in_the_basket"


def write_demos(folder, task, num_demos, num_steps=12):
    """A file of made-up demonstrations in LIBERO's layout."""
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


@pytest.fixture
def args(tmp_path, monkeypatch):
    """A short run on two small files, of a policy that is quick to make."""
    write_demos(tmp_path / "demos", MILK, num_demos=2)
    write_demos(tmp_path / "demos", BUTTER, num_demos=3)
    config = PolicyConfig(image_size=32, channels=(8, 8, 8), width=32, text_width=16, heads=2)
    monkeypatch.setattr(vla_bc, "SmallPolicy", lambda: SmallPolicy(config))
    return Args(
        demos=(tmp_path / "demos",), steps=4, batch_size=8, eval_episodes=0, torch_threads=1,
        run_dir=str(tmp_path / "runs"),
    )  # fmt: skip


def run_of(args):
    (folder,) = Path(args.run_dir).glob(f"*__{args.exp_name}__{args.seed}__*")
    return folder


def checkpoint_of(args):
    return run_of(args) / "policy"


def test_a_run_leaves_a_policy_that_says_how_it_was_trained(args):
    main(args)
    load_policy(checkpoint_of(args))
    provenance = load_checkpoint(checkpoint_of(args))[1]["provenance"]
    assert provenance["agent"] == "vla_bc"
    assert provenance["steps"] == 4
    assert provenance["args"]["seed"] == args.seed
    assert provenance["demonstrations"] == {
        "pick up the milk and place it in the basket": 2,
        "pick up the butter and place it in the basket": 3,
    }
    assert provenance["frames"] == 5 * 6  # every second of 12


def test_the_number_of_demonstrations_can_be_limited(args):
    args.demos_per_task = 1
    main(args)
    demonstrations = load_checkpoint(checkpoint_of(args))[1]["provenance"]["demonstrations"]
    assert list(demonstrations.values()) == [1, 1]


def test_a_seed_repeats_a_run_to_the_bit(args):
    main(args)
    first = load_policy(checkpoint_of(args)).state_dict()
    args.exp_name = "again"
    main(args)
    second = load_policy(checkpoint_of(args)).state_dict()
    assert all(first[name].equal(second[name]) for name in first)
    args.seed += 1
    main(args)
    other = load_policy(checkpoint_of(args)).state_dict()
    assert not all(first[name].equal(other[name]) for name in first)


def test_ctrl_c_leaves_a_usable_policy(args, monkeypatch, capsys):
    calls = []

    def loss(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return vla_bc_loss(*arguments)

    vla_bc_loss = vla_bc.cloning_loss
    monkeypatch.setattr(vla_bc, "cloning_loss", loss)
    args.eval_episodes = 10  # and does not begin to evaluate it
    monkeypatch.setattr(vla_bc, "held_out", lambda *_: pytest.fail("evaluated after Ctrl-C"))
    main(args)
    load_policy(checkpoint_of(args))
    assert load_checkpoint(checkpoint_of(args))[1]["provenance"]["steps"] == 2
    assert "Stopped after 2 of 4 steps." in capsys.readouterr().out


def test_the_curves_are_logged(args):
    main(args)
    events = EventAccumulator(str(run_of(args)))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= {"loss/cross_entropy", "loss/waypoint_error"}
    assert np.isfinite(events.Scalars("loss/cross_entropy")[-1].value)


def test_missing_demonstrations_are_an_error_with_the_way_out(args, tmp_path):
    (tmp_path / "empty").mkdir()
    args.demos = (tmp_path / "empty",)
    with pytest.raises(FileNotFoundError, match="`srpo-env demos` records some"):
        main(args)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "`steps` must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive, got 0.0"),
        ({"label_width": -1.0}, "`label_width` must be positive, got -1.0"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Args(**arguments)


def test_settings_come_from_the_command_line():
    args = tyro.cli(Args, args=["--demos", "a", "b", "--env", "libero-goal", "--seed", "7"])
    assert [str(path) for path in args.demos] == ["a", "b"]
    assert args.gym_id == "srpo_env/libero-goal"
    assert args.new_folder().name.startswith("libero-goal__vla_bc__7__")


@pytest.mark.libero
@pytest.mark.slow
def test_the_evaluation_is_printed_and_kept(args, capsys):
    args.eval_episodes = args.num_envs = 2
    main(args)
    assert "held-out success 0% [0%, 66%] of 2 episodes; by task 0/1 0/1" in capsys.readouterr().out
    provenance = load_checkpoint(checkpoint_of(args))[1]["provenance"]
    assert provenance["held_out_by_task"] == "0/1 0/1"
    json.dumps(provenance)
