"""The benchmark on a sliding square, and short runs with the simulator."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("h5py")
pytest.importorskip("dtaidistance")
pytest.importorskip("tqdm")

from srpo_env.benchmarks.plain_data import to_json
from srpo_env.benchmarks.reward import encoder_rows
from srpo_env.benchmarks.reward.benchmark import Settings, measure, num_measurements
from srpo_env.benchmarks.reward.distance_options import OPTIONS
from srpo_env.benchmarks.reward.encoder_rows import Row, make_rows
from srpo_env.benchmarks.reward.latents import save_states, states_file, task_states
from srpo_env.benchmarks.reward.report import CURVES, POTENTIALS, RANKING, draw, tables
from srpo_env.cli import main as cli
from srpo_env.libero.behaviour_files import writing_behaviours
from tests.benchmarks.reward.toy_episodes import slide, toy_episodes, write_episodes, write_file


class CountingEncoder:
    """Encodes the place of the square, and counts the encoded videos."""

    latent_shape = (1,)
    encoded = 0

    def encode(self, videos):
        return self.encode_paths(videos).mean(axis=1)

    def encode_paths(self, videos):
        type(self).encoded += len(videos)
        columns = [np.argmax(video[:, :, :, 0].max(axis=1), axis=1) for video in videos]
        times = [encoder_rows.resampled(column, 6) for column in columns]
        return np.stack(times)[..., None].astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_episodes(tmp_path_factory.mktemp("toy") / "episodes")


@pytest.fixture(scope="module")
def result(files, tmp_path_factory):
    steps = []
    settings = Settings(
        files,
        tmp_path_factory.mktemp("latents"),
        encoders=("pixels", "random-projection"),
        num_windows=4,
        num_samples=20,
    )
    found = measure(settings, steps.append)
    assert len(steps) == num_measurements(settings)
    return found


@pytest.fixture
def own_encoder(monkeypatch):
    module = types.ModuleType("own_encoders")
    module.Own, module.nothing = CountingEncoder, lambda: None
    monkeypatch.setitem(sys.modules, "own_encoders", module)


def test_there_is_a_row_for_each_encoder_option_and_kind_of_centers(result):
    rows = [(row["encoder"], row["option"], row["centers"]) for row in result["rows"]]
    assert len(set(rows)) == len(rows) == 2 * (len(OPTIONS) + 2)
    assert ("pixels", "mean", "nearest") in rows
    assert ("pixels", "coverage", "nearest") not in rows


def test_the_result_is_json_with_definitions(result):
    read = json.loads(to_json(result))
    assert read["episodes"] | {"recording": None} == {
        "tasks": 2,
        "successes": 12,
        "failures": 20,
        "groups": 4,
        "groups_of_one_state": True,
        "kinds": {"success": 12, **{f"stops_{i}": 4 for i in range(5)}},
        "assets": "toy",
        "recording": None,
        "left_out": [],
    }
    assert set(read["definitions"]["options"]) == set(OPTIONS)
    assert "bandwidth 0.1," in read["definitions"]["mmd"]
    assert set(read["definitions"]["shifts"]) == {"camera", "light", "noise", "placement"}


def test_coverage_ranks_the_sliding_square(result):
    row = next(r for r in result["rows"] if (r["encoder"], r["option"]) == ("pixels", "coverage"))
    assert row["task"]["tau"] > 0.9
    assert row["group"]["tau"] == pytest.approx(1)
    assert row["shifts"]["camera"]["group"]["tau"] > 0.9


def test_the_potential_of_the_sliding_square_agrees_with_the_oracle(result):
    assert [row["encoder"] for row in result["potentials"]] == ["pixels", "random-projection"]
    for row in result["potentials"]:
        assert row["within"] > 0.9
        assert row["pooled"] > 0.9
        assert row["regret"] == 0  # the square stops, and never goes back
        assert row["earned"]["record"] > 0.9
    assert "potential of failures" in tables({"given": result})


def test_the_lead_over_pixels_is_the_difference_of_two_taus(result):
    taus = {
        r["encoder"]: r["task"]["tau"]
        for r in result["rows"]
        if (r["option"], r["centers"]) == ("mean", "dbscan")
    }
    for row in result["rows"]:
        if row["encoder"] == "pixels":
            assert "lead_over_pixels" not in row
        elif (row["option"], row["centers"]) == ("mean", "dbscan"):
            expected = taus["random-projection"] - taus["pixels"]
            assert row["lead_over_pixels"]["tau"] == pytest.approx(expected)


def test_the_tables_have_every_row_and_heading(result):
    text = tables({"given": result})
    assert "12 successes and 20 failures of 2 tasks, toy assets" in text
    rows = [line for line in text.splitlines() if line.startswith(("pixels", "random-projection"))]
    # Curves with DBSCAN's centers only; potentials once for each encoder.
    assert len(rows) == len(result["rows"]) + 2 * len(OPTIONS) + len(result["potentials"])
    headings = [line for line in text.splitlines() if line.startswith("encoder")]
    for columns, heading in zip((RANKING, CURVES, POTENTIALS), headings, strict=True):
        assert all(column.name in heading for column in columns)
    assert max(map(len, text.splitlines())) <= 150


def test_the_picture_can_be_drawn(result, tmp_path):
    draw({"given": result, "policy": result}).savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_a_second_run_gives_the_same_results(files, result, tmp_path):
    options = ("mean", "coverage")
    settings = Settings(
        files, tmp_path, encoders=("pixels",), options=options, num_windows=4, num_samples=20
    )
    again = measure(settings, lambda _: None)
    rows = [r for r in result["rows"] if r["encoder"] == "pixels" and r["option"] in options]
    assert json.dumps(again["rows"]) == json.dumps(rows)


def test_latents_are_cached_by_key(files, tmp_path, monkeypatch):
    encoder = CountingEncoder()
    row = Row("slow", encoder.encode_paths, key="weights")
    monkeypatch.setattr("srpo_env.benchmarks.reward.benchmark.make_rows", lambda names: [row])
    settings = Settings(files, tmp_path, encoders=("slow",), options=("mean",), num_windows=3)
    first = measure(settings, lambda _: None)
    encoded = CountingEncoder.encoded
    # 32 episodes: whole, three windows and three shifts each; 12 successes: three windows under
    # each of three shifts.
    assert encoded == 32 * 7 + 12 * 9
    again = measure(settings, lambda _: None)
    assert CountingEncoder.encoded == encoded
    assert again["rows"] == first["rows"]
    measure(replace(settings, num_windows=4), lambda _: None)
    assert CountingEncoder.encoded > encoded


# --- Encoders -------------------------------------------------------------------------------------


def test_any_encoder_can_be_a_row(own_encoder):
    (row,) = make_rows(["own_encoders:Own"])
    assert row.encode_paths([toy_episodes()[0].frames]).shape == (1, 6, 1)


def test_recorded_states_are_read_instead_of_replayed(tmp_path):
    episodes = toy_episodes()
    file = write_file(tmp_path / "toy.hdf5", episodes)
    places = [episode.progress[:, None] for episode in episodes]
    save_states(states_file(file), places)
    for read, expected in zip(task_states(file, episodes, tmp_path), places, strict=True):
        np.testing.assert_array_equal(read, expected)
    settings = Settings((file,), tmp_path, encoders=("state",), options=("coverage",))
    (row,) = measure(settings, lambda _: None)["rows"]
    assert row["group"]["tau"] == pytest.approx(1)
    assert set(row["shifts"]) == {"placement"}  # no frames to shift


def test_episodes_without_replay_settings_have_no_states(tmp_path):
    with writing_behaviours(tmp_path / "toy.hdf5", {}) as write:
        write(toy_episodes()[0])
    with pytest.raises(ValueError, match=r"settings `chunk` .* leave out the row 'state'"):
        task_states(tmp_path / "toy.hdf5", toy_episodes()[:1], tmp_path)


def test_an_encoder_of_one_latent_gives_paths_of_one_time():
    (row,) = make_rows(["srpo_env:PixelEncoder"])
    assert row.encode_paths([toy_episodes()[0].frames]).shape == (1, 1, 8 * 16 * 16 * 3)


def test_random_projection_keeps_pixel_distances():
    pixels, projected = make_rows(["pixels", "random-projection"])
    videos = [episode.frames for episode in toy_episodes()[:4]]
    a, b = (row.encode_paths(videos).reshape(4, -1) for row in (pixels, projected))
    assert np.linalg.norm(b[0] - b[3]) == pytest.approx(np.linalg.norm(a[0] - a[3]), rel=0.2)


def test_an_untrained_vjepa_is_reproducible():
    pytest.importorskip("transformers")
    import torch

    before = torch.random.get_rng_state()
    first, again = make_rows(["random-vjepa"])[0], make_rows(["random-vjepa"])[0]
    assert first.key == again.key
    assert torch.equal(before, torch.random.get_rng_state())
    video = toy_episodes()[0].frames
    latents = first.encode_paths([video])
    assert latents.shape == (1, 8, 192)
    np.testing.assert_array_equal(again.encode_paths([video]), latents)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["pixels", "pixels"], ValueError, "each encoder must be given once, got pixels"),
        (["own_encoders:nothing"], ValueError, "MODULE:NAME must be .* got 'own_encoders:nothing'"),
        (["no-such-checkpoint"], FileNotFoundError, "the name of a bundled one"),
    ],
)
def test_an_invalid_encoder_name_is_an_error(own_encoder, names, error, message):
    if error is FileNotFoundError:
        pytest.importorskip("transformers")
    with pytest.raises(error, match=message):
        make_rows(names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group_size": 2}, "`group_size` must be at least 3, got 2"),
        ({"options": ("guess",)}, r"`options` must be among mean, .*, got \['guess'\]"),
        ({"encoders": ()}, "`encoders` must name at least one"),
        ({"num_windows": 1}, "`num_windows` must be at least 3"),
    ],
)
def test_a_setting_out_of_range_is_an_error(files, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        Settings(files, tmp_path, **settings)


# --- The command ----------------------------------------------------------------------------------


def test_the_command_evaluates_given_episodes(files, tmp_path, capsys):
    arguments = ["--episodes", str(files[0].parent), "--out", str(tmp_path), "--windows", "3"]
    arguments += ["--encoder", "pixels", "--options", "mean", "coverage"]
    assert cli.main(["benchmark", "reward", *arguments]) == 0
    out = capsys.readouterr().out
    assert "Kendall's tau" in out
    assert (tmp_path / "table.txt").read_text() in out
    found = json.loads((tmp_path / "figures.json").read_text())
    assert len(found["given"]["rows"]) == 4
    assert (tmp_path / "picture.png").is_file()


def test_tasks_with_nothing_to_rank_are_left_out_and_named(files, tmp_path):
    easy = write_file(tmp_path / "easy.hdf5", [slide(np.linspace(0, 1, 8)) for _ in range(3)])
    settings = {"encoders": ("pixels",), "options": ("mean",), "num_windows": 3}
    steps = []
    both = Settings((files[0], easy), tmp_path, **settings)
    found = measure(both, steps.append)
    assert (found["episodes"]["tasks"], found["episodes"]["left_out"]) == (1, ["easy"])
    assert len(steps) == num_measurements(both)
    assert "left out, too few successes or failures: easy" in tables({"policy": found})
    with pytest.raises(ValueError, match=r"two failures to rank, and none of easy has"):
        measure(Settings((easy,), tmp_path, **settings), lambda _: None)


def test_a_folder_without_episodes_is_an_error(tmp_path, capsys):
    assert cli.main(["benchmark", "reward", "--episodes", str(tmp_path)]) == 2
    assert "`--episodes` must be a folder with *.hdf5 files" in capsys.readouterr().err


@pytest.mark.libero
@pytest.mark.slow
def test_the_command_records_and_evaluates_scripted_episodes(tmp_path, monkeypatch, capsys):
    pytest.importorskip("libero", reason="LIBERO is not installed: pip install 'srpo-env[libero]'")
    from srpo_env.cli.benchmark import reward

    monkeypatch.setitem(reward.SIZES, "small", (2, 3, "40"))
    arguments = ["--size", "small", "--tasks", "7", "--out", str(tmp_path), "--windows", "3"]
    arguments += ["--encoder", "state", "--encoder", "pixels", "--options", "mean", "coverage"]
    assert cli.main(["benchmark", "reward", "--sets", "scripted", *arguments]) == 0
    found = json.loads((tmp_path / "figures.json").read_text())["scripted"]
    assert (found["episodes"]["successes"], found["episodes"]["failures"]) == (2, 3)
    rows = {(row["encoder"], row["option"], row["centers"]): row for row in found["rows"]}
    state = rows["state", "coverage", "dbscan"]
    assert state["task"]["tau"] == pytest.approx(1)
    assert state["curves"]["others"]["spearman"] > 0.9
    assert set(state["shifts"]) == set()  # no frames to shift, and one initial state only


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sets", "strategies"], "`--sets strategies` needs --suite libero_object"),
        (["--encoder", "state"], "`--encoder state` needs --suite libero_object"),
        (["--sets", "policy"], "`--policy` must name a policy for libero_goal, got none"),
    ],
)
def test_what_only_libero_object_has_is_an_error_in_another_suite(
    arguments, message, tmp_path, capsys
):
    command = ["benchmark", "reward", "--suite", "libero-goal", "--out", str(tmp_path)]
    assert cli.main([*command, *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.libero
@pytest.mark.slow
@pytest.mark.parametrize("suite", ["libero_spatial", "libero_goal", "libero_10"])
def test_the_command_records_and_evaluates_other_suites(suite, tmp_path, monkeypatch):
    pytest.importorskip("libero", reason="LIBERO is not installed: pip install 'srpo-env[libero]'")
    from srpo_env.cli.benchmark import reward

    monkeypatch.setitem(reward.SIZES, "small", (2, 4, "40"))
    arguments = ["--size", "small", "--tasks", "2", "--out", str(tmp_path), "--windows", "3"]
    arguments += ["--suite", suite, "--encoder", "pixels", "--options", "coverage"]
    assert cli.main(["benchmark", "reward", *arguments]) == 0
    (row,) = json.loads((tmp_path / "figures.json").read_text())["scripted"]["rows"]
    assert row["task"]["tau"] > 0
    assert (tmp_path / f"episodes-scripted-small-{suite}").is_dir()


@pytest.mark.libero
def test_policy_episodes_are_recorded_with_states(tmp_path):
    pytest.importorskip("libero", reason="LIBERO is not installed: pip install 'srpo-env[libero]'")
    from srpo_env.benchmarks.reward.policy_episodes import PolicyRecording, record_policy
    from srpo_env.libero.behaviour_files import read_behaviours

    recording = PolicyRecording(per_state=2, init_states=(40,), max_steps=20, image_size=32)
    recorded = []
    file = record_policy(7, tmp_path, recording, progress=recorded.append)
    first, second = read_behaviours(file)
    assert (first.kind, first.num_steps, first.init_state_id) == ("policy", 20, 40)
    assert first.frames.shape == (4, 32, 32, 3)  # at 0, 8, 16 and 20 steps
    assert (first.frames != second.frames).any()  # sampled
    states = task_states(file, [first, second], tmp_path / "unused")
    assert [len(s) for s in states] == [4, 4]
    assert np.linalg.norm(states[0][-1] - states[0][0]) > 0.01  # metres: it moved
    assert record_policy(7, tmp_path, recording) == file
    assert len(recorded) == 2
    with pytest.raises(FileExistsError, match="recorded with other settings"):
        record_policy(7, tmp_path, replace(recording, temperature=0.5))


@pytest.mark.libero
def test_a_replay_that_differs_is_an_error(tmp_path):
    pytest.importorskip("libero", reason="LIBERO is not installed: pip install 'srpo-env[libero]'")
    from srpo_env.benchmarks.reward.simulator_states import replay_states
    from srpo_env.libero.behaviours import play
    from srpo_env.libero.simulation import Simulation
    from srpo_env.libero.suites import get_task

    simulation = Simulation(get_task("libero_object", 7), 16)
    episode = play(simulation, "random", 40, seed=0, max_steps=16)
    simulation.close()
    (states,) = replay_states([episode], chunk=8, max_steps=16)
    assert states.shape == (3, 7)
    with pytest.raises(ValueError, match=r"must equal the recording.* 'random' of task 7"):
        replay_states([replace(episode, progress=episode.progress + 0.1)], chunk=8, max_steps=16)
