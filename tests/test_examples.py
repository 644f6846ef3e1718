"""Each example in a short mode: what it prints and draws, and how many lines a user adds."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image

from srpo_env import SelfReferentialProgressWrapper

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = sorted(file.stem for file in EXAMPLES.glob("*.py"))


@pytest.fixture
def example(monkeypatch):
    """Imports an example as Python does when it is run: its folder comes first."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


def is_picture(path):
    """Returns whether an image has more than a few colours."""
    with Image.open(path) as image:
        return len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 8


def test_every_example_has_a_test():
    tested = set(re.findall(r'example\("(\w+)"\)', Path(__file__).read_text()))
    assert tested | {"quickstart"} == set(NAMES)  # the quickstart is tested with the README


@pytest.mark.parametrize("name", NAMES)
def test_each_example_documents_its_command(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert "__main__" not in text or f"python examples/{name}.py" in text


@pytest.mark.parametrize("name", NAMES)
def test_each_example_is_listed_in_the_readme_of_the_folder(name):
    assert f"`{name}.py`" in (EXAMPLES / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "expected", "word"),
    [("cleanrl_ppo", 3, "three"), ("sb3_ppo", 3, "three"), ("sb3_sac", 4, "four")],
)
def test_number_of_added_lines_is_as_documented(name, expected, word):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(re.findall(r"  # SRPO$", text, flags=re.MULTILINE)) == expected
    assert f"The {word} lines that end in ``# SRPO``" in text


# --- The task ---


@pytest.mark.filterwarnings("ignore:.*Not able to test alternative render modes:UserWarning")
def test_task_passes_the_checks_of_gymnasium_and_stable_baselines(example):
    from stable_baselines3.common.env_checker import check_env as check_for_stable_baselines

    task = example("detour")
    check_env(task.Detour(render_mode="rgb_array"))
    check_for_stable_baselines(task.Detour())


def test_wall_blocks_the_straight_line_but_not_the_way_around(example):
    task = example("detour")
    env = task.Detour()
    env.reset()
    ends = [env.step(np.array([1.0, 0.0]))[2:4] for _ in range(task.MAX_STEPS)]
    assert ends == [(False, False)] * (task.MAX_STEPS - 1) + [(False, True)]
    env.reset()
    # Up to 0.56, across to 0.8 and down to 0.32, which is 0.12 from the goal.
    actions = [[0, 1]] * 3 + [[1, 0]] * 5 + [[0, -1]] * 2
    ends = [env.step(np.array(action, np.float32)) for action in actions]
    assert [end[2] for end in ends] == [False] * 9 + [True]
    assert (ends[-1][1], ends[-1][4]["is_success"]) == (1.0, True)


def test_way_left_goes_around_the_wall_only_if_it_is_in_between(example):
    way_left = example("detour").way_left
    assert way_left(np.array([0.8, 0.5])) == pytest.approx(0.3)  # straight down
    # From the start over the top of the wall at (0.5, 0.45) to the goal: two equal slopes.
    assert way_left(np.array([0.2, 0.2])) == pytest.approx(2 * np.hypot(0.3, 0.25))


def test_image_shows_the_walker_at_its_position(example):
    task = example("detour")
    image = task.draw(np.array([-0.6, 0.6], np.float32), size=100)
    assert image.shape == (100, 100, 3)
    red = np.argwhere((image[..., 0] > 150) & (image[..., 1] < 100)).mean(axis=0)
    np.testing.assert_allclose(red, [20, 20], atol=1)  # row and column: 0.8 high, 0.2 across


# --- The examples ---


def test_wrap_your_env_prints_rewards_that_follow_true_progress(example, capsys):
    example("wrap_your_env").main(num_steps=90)
    shown = capsys.readouterr().out
    assert "error" not in shown
    table = [line.split() for line in shown.split("reward\n")[-1].splitlines()[:8]]
    rewards = [float(row[-1]) for row in table]
    assert rewards == sorted(rewards, reverse=True)
    assert rewards[0] == 1.0
    assert 0 < rewards[-1] < 0.8
    assert float(shown.split()[-1]) > 0.5  # rank correlation with true progress


def test_your_encoder_ranks_failures_better_than_pixels_do(example, capsys):
    example("your_encoder").main(num_episodes=60)
    table = [line.split() for line in capsys.readouterr().out.splitlines()[3:]]
    correlations = {line[0]: float(line[2]) for line in table}
    assert set(correlations) == {"PixelEncoder", "RandomProjectionEncoder", "WalkerEncoder"}
    assert correlations["WalkerEncoder"] > correlations["PixelEncoder"] + 0.3


def test_relabel_episodes_writes_next_to_the_recording(example, capsys, tmp_path):
    example("relabel_episodes").main(tmp_path, num_episodes=8)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "walk_around_the_wall_demo.hdf5",
        "walk_around_the_wall_demo.srpo.npz",
    ]
    assert len(capsys.readouterr().out.splitlines()) == 3 + 8


def test_watch_reward_draws_an_image_and_a_video(example, capsys, tmp_path):
    watch = example("watch_reward")
    watch.main(tmp_path, recording=None, num_moments=3)
    assert is_picture(tmp_path / "watch_reward.png")
    with Image.open(tmp_path / "watch_reward.gif") as video:
        assert video.n_frames >= 3
    curve = [float(value) for value in capsys.readouterr().out.splitlines()[1].split()]
    assert curve[0] == 0  # all episodes start from the same state
    assert curve[-1] > 0.1


def test_watch_reward_reads_episodes_from_a_recording(example, tmp_path):
    example("relabel_episodes").record(tmp_path / "walk_demo.hdf5", num_episodes=8)
    example("watch_reward").main(tmp_path, tmp_path / "walk_demo.hdf5", 2, encoder_name="pixels")
    assert is_picture(tmp_path / "watch_reward.png")


def test_cleanrl_ppo_rewrites_the_rewards_of_each_rollout(example, capsys, monkeypatch):
    ppo = example("cleanrl_ppo")
    rewritten = []
    rewrite = SelfReferentialProgressWrapper.rewrite
    monkeypatch.setattr(
        SelfReferentialProgressWrapper,
        "rewrite",
        lambda envs, rewards, **kwargs: (
            rewritten.append((*rewards.shape, kwargs["credit"])) or rewrite(envs, rewards, **kwargs)
        ),
    )
    encoder = example("your_encoder").WalkerEncoder()
    settings = {"total_timesteps": 1024, "num_steps": 64, "num_envs": 4, "seed": 1}
    curves = [ppo.train(ppo.Args(shaped=on, **settings), encoder) for on in (True, False)]
    assert rewritten == [(64, 4, "episode")] * 4  # and never in the sparse run
    assert [steps for steps, _ in curves[0]] == [256, 512, 768, 1024]
    assert curves[0][0] == curves[1][0]  # both start from the same policy
    assert "episodes succeeded" in capsys.readouterr().out
    # Seeded, so it repeats itself.
    again = ppo.train(ppo.Args(shaped=True, **settings), encoder, log=False)
    np.testing.assert_array_equal(again, curves[0])
    dense = ppo.train(ppo.Args(credit="dense", **settings), encoder, log=False)
    assert rewritten[-4:] == [(64, 4, "dense")] * 4
    assert dense[0] == curves[0][0]  # the first rollout comes before the first update


@pytest.mark.parametrize("credit", ["episode", "dense"])
def test_sb3_ppo_trains_saves_and_loads(example, capsys, tmp_path, credit):
    example("sb3_ppo").main(total_timesteps=2048, folder=tmp_path, credit=credit)
    shown = capsys.readouterr().out
    assert (tmp_path / "sb3_ppo.zip").exists()
    assert "The loaded policy" in shown


def test_sb3_sac_prints_a_table_and_draws_the_curves(example, capsys, tmp_path):
    example("sb3_sac").main(
        range(1, 2), total_timesteps=2000, learning_starts=1900, folder=tmp_path
    )
    assert is_picture(tmp_path / "sb3_sac.png")
    results = json.loads((tmp_path / "sb3_sac.json").read_text())
    assert list(results) == ["sparse", "shaped"]
    assert [[step for step, _ in curves[0]] for curves in results.values()] == [[1000, 2000]] * 2
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2


@pytest.mark.slow
def test_shaped_against_sparse_prints_a_table_and_draws_the_curves(example, capsys, tmp_path):
    study = example("shaped_against_sparse")
    study.main(study.Study(num_seeds=1, total_timesteps=4096, num_workers=1, folder=tmp_path))
    assert is_picture(tmp_path / "shaped_against_sparse.png")
    results = json.loads((tmp_path / "shaped_against_sparse.json").read_text())
    assert list(results) == list(study.REWARDS)
    assert all(len(curve) == 2 for curves in results.values() for curve in curves)
    assert len(capsys.readouterr().out.splitlines()) == 3 + len(study.REWARDS)
