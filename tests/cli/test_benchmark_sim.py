"""The benchmark's arithmetic against hand calculations, and a short run of each part."""

from __future__ import annotations

import gc
import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("libero", reason="LIBERO is not installed: pip install 'srpo-env[libero]'")

from srpo_env.benchmarks.sim import benchmark, implementations
from srpo_env.benchmarks.sim.image_quality import compare_visuals, psnr, ssim
from srpo_env.benchmarks.sim.implementations import CHUNK, Implementation, Upstream, Work
from srpo_env.benchmarks.sim.report import draw_profile, tables
from srpo_env.benchmarks.sim.step_profile import PARTS, Stopwatch
from srpo_env.cli import main as cli
from srpo_env.libero.physics import FORWARD_SETS_START
from srpo_env.libero.suites import get_task

pytestmark = pytest.mark.libero

TINY = benchmark.Settings(steps=CHUNK, repeats=2, workers=(1,), min_seconds=0.0, image_size=32)


def gray(value, size=16):
    return np.full((size, size, 3), value, np.uint8)


# --- Images -------------------------------------------------------------------------------------


def test_psnr_of_images_that_differ_by_one_everywhere():
    assert psnr(gray(100), gray(101)) == pytest.approx(20 * np.log10(255))  # mean square error 1


def test_psnr_counts_all_pixels_and_channels():
    image = gray(0, size=2)
    image[0, 0, 0] = 6  # one of 12 values differs by 6: mean square error 3
    assert psnr(image, gray(0, size=2)) == pytest.approx(10 * np.log10(255**2 / 3))


def test_equal_images_have_infinite_psnr_and_ssim_1():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert psnr(image, image) == np.inf
    assert ssim(image, image) == 1.0


def test_ssim_of_uniform_images_compares_brightness_only():
    # No variance, so that only the first factor of Eq. 13 is left; C1 is (0.01 * 255)^2.
    c1 = 2.55**2
    expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    assert ssim(gray(100), gray(150)) == pytest.approx(expected)


def test_ssim_of_an_image_and_its_negative_is_negative():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert ssim(image, 255 - image) < 0


def test_ssim_equals_a_slow_sum_over_windows():
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, 256, (12, 13, 3), np.uint8) for _ in range(2))
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    found = []
    for channel in range(3):
        for row in range(12 - 10):
            for column in range(13 - 10):
                a, b = (
                    image[row : row + 11, column : column + 11, channel].astype(float)
                    for image in (x, y)
                )
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                var_a = (window * (a - mean_a) ** 2).sum()
                var_b = (window * (b - mean_b) ** 2).sum()
                cov = (window * (a - mean_a) * (b - mean_b)).sum()
                c1, c2 = 2.55**2, 7.65**2
                found.append(
                    (2 * mean_a * mean_b + c1) * (2 * cov + c2)
                    / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
                )  # fmt: skip
    assert ssim(x, y) == pytest.approx(np.mean(found))


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_images_of_different_shapes_are_an_error(measure):
    with pytest.raises(ValueError, match=r"same shape, got \(16, 16, 3\) and \(12, 12, 3\)"):
        measure(gray(0), gray(0, size=12))


def test_an_image_smaller_than_ssims_window_is_an_error():
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(gray(0, size=10), gray(0, size=10))


def test_fast_visuals_have_fewer_faces_and_similar_images():
    found = compare_visuals(
        [get_task("libero_object", 0)], num_states=1, moving_steps=4, image_size=64
    )
    (faces,) = found["tasks"]
    assert 0 < faces["fast"] <= faces["exact"]
    assert found["num_images"] == 2
    for camera in ("agentview", "wrist"):
        assert 20 < found[camera]["psnr"]["worst"] <= found[camera]["psnr"]["mean"]
        assert 0.8 < found[camera]["ssim"]["worst"] <= found[camera]["ssim"]["mean"] <= 1


# --- Timing -------------------------------------------------------------------------------------


def test_nested_calls_count_for_the_inner_part():
    times = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    watch = Stopwatch(lambda: next(times))
    inner = watch.timed("physics", lambda: None)
    outer = watch.timed("controller", inner)
    outer()  # from 1 to 10, with the inner from 3 to 6
    seconds = watch.read()
    assert seconds["physics"] == 3.0
    assert seconds["controller"] == 2.0 + 4.0
    assert seconds["rest"] == 1.0 + 5.0
    assert set(seconds) == set(PARTS)


class FakeImplementation(Implementation):
    """Takes 0.1 s for every call, according to a fake clock."""

    name, num_envs = "fake", 2

    def __init__(self, monkeypatch):
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(implementations.time, "perf_counter", lambda: self.now)

    def _call(self, name):
        self.now += 0.1
        self.calls.append(name)

    def reset(self, work):
        self._call("reset")

    def rewind(self, work):
        self._call("rewind")

    def step(self, work):
        self._call("step")

    def close(self):
        pass


def work_of(num_envs=2, num_chunks=3):
    return Work(get_task("libero_object", 0), 0, np.zeros((num_chunks, num_envs, CHUNK, 7)))


def test_speed_counts_the_steps_of_all_environments_without_rewinding(monkeypatch):
    fake = FakeImplementation(monkeypatch)
    assert fake.steps_per_second(work_of(), min_seconds=0.25) == pytest.approx(2 * 3 * 8 / 0.1)
    assert fake.calls == ["step", "rewind", "step", "rewind", "step"]
    assert fake.time_reset(work_of()) == pytest.approx(0.1)


def test_the_memory_is_the_proportional_set_size_of_all_workers(monkeypatch, tmp_path):
    for process, size in ((1, 2000), (2, 500)):
        (tmp_path / str(process)).write_text(f"Rss: 9999 kB\nPss:     {size} kB\nPss_Anon: 7 kB\n")
    monkeypatch.setattr(implementations, "SMAPS", str(tmp_path / "{}"))
    fake = FakeImplementation(monkeypatch)
    fake.processes = [1, 2]
    assert fake.memory() == 2500 * 1024
    fake.processes = [3]
    assert fake.memory() is None


def test_a_spread_has_all_values():
    assert benchmark.spread([3.0, 1.0, 10.0]) == {
        "median": 3.0,
        "min": 1.0,
        "max": 10.0,
        "values": [3.0, 1.0, 10.0],
    }


def test_an_environments_actions_do_not_depend_on_the_number_of_environments():
    two, three = (benchmark.make_work(TINY, num_envs, repeat=1) for num_envs in (2, 3))
    np.testing.assert_array_equal(two.actions, three.actions[:, :2])
    assert (two.actions[:, 0] != two.actions[:, 1]).all()
    assert (benchmark.make_work(TINY, 2, repeat=2).actions != two.actions).all()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": 12}, "`steps` must be a multiple of 8 and at most 280, .* got 12"),
        ({"steps": 288}, "got 288"),
        ({"repeats": 0}, "`repeats` must be at least 1, got 0"),
        ({"workers": (0, 1)}, "`workers` must be at least 1, got 0"),
        ({"suite": "libero_wood"}, "`suite` must be one of"),
    ],
)
def test_a_setting_out_of_its_range_is_an_error(setting, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **setting)


# --- Runs ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_speed_ratios_are_computed_within_a_repeat():
    steps = []
    settings = replace(TINY, parts=("speed",))
    result = json.loads(json.dumps(benchmark.measure(settings, steps.append)))
    assert len(steps) == benchmark.num_measurements(settings)
    assert [row["kind"] for row in result["speed"]] == [
        "no camera",
        "no camera, physics fast",
        "exact",
        "fast",
        "fast, physics fast",
    ]
    for row in result["speed"]:
        upstream, ours = row["upstream"], row["ours"]
        for ratio, above, below in (
            ("speedup", ours["steps_per_second"], upstream["steps_per_second"]),
            ("reset_speedup", upstream["reset_seconds"], ours["reset_seconds"]),
        ):
            assert min(above["values"] + below["values"]) > 0
            pairs = zip(above["values"], below["values"], strict=True)
            assert row[ratio]["values"] == pytest.approx([a / b for a, b in pairs])
        assert row["reset_speedup"]["min"] > 1
    assert result["scaling"] == []
    assert result["assets"]["kind"] in ("libero", "modified", "placeholder")
    assert result["machine"]["cores"] > 0
    assert "speed-up" in tables(result)


@pytest.mark.slow
def test_the_command_writes_tables_a_json_file_and_an_image(tmp_path, monkeypatch, capfd):
    # Each implementation is profiled in a new process: leave out those that add nothing here.
    monkeypatch.setattr(benchmark, "BLOCKS", {"exact": ("no camera", "exact")})
    files = ["--json", str(tmp_path / "sim.json"), "--plot", str(tmp_path / "sim.png")]
    assert cli.main(["benchmark", "sim", "--parts", "profile", "--steps", "8", *files]) == 0
    shown = capfd.readouterr().out
    assert shown.startswith("assets   ")
    assert "[robosuite WARNING]" not in shown
    content = json.loads((tmp_path / "sim.json").read_text())
    rows = {(row["implementation"], row["kind"]): row["milliseconds"] for row in content["profile"]}
    assert set(rows) == {("upstream", "exact"), ("ours", "no camera"), ("ours", "exact")}
    for (_, kind), parts in rows.items():
        assert parts["physics"] > 0
        assert parts["controller"] > 0
        assert (parts["rendering"] > 0) == (kind != "no camera")
    # Our steps need no extra forward passes, except with older versions of MuJoCo.
    assert rows["upstream", "exact"]["extra forward"] > 0
    assert (rows["ours", "exact"]["extra forward"] > 0) == FORWARD_SETS_START
    assert (tmp_path / "sim.png").stat().st_size > 10_000
    assert draw_profile(content).axes


@pytest.mark.slow
def test_environments_of_one_worker_share_its_memory(monkeypatch):
    # Fewer kinds and tasks; the test of speed starts all kinds.
    monkeypatch.setattr(benchmark, "BLOCKS", {"exact": ("fast",)})
    monkeypatch.setattr(benchmark, "MANY_KINDS", ("fast",))
    tasks = [get_task("libero_object", task_id) for task_id in (0, 7)]
    monkeypatch.setattr(benchmark, "tasks_of", lambda suite: tasks)
    settings = replace(TINY, parts=("memory",))
    rows = list(benchmark.measure_memory(settings, lambda what: None))
    alone = next(row for row in rows if (row["implementation"], row["kind"]) == ("ours", "fast"))
    many, more_tasks = (row for row in rows if row["envs"] == benchmark.MANY_ENVS)
    assert (many["tasks"], more_tasks["tasks"]) == (1, 2)
    assert more_tasks["bytes"] > many["bytes"]
    assert alone["bytes"] > 50e6
    assert many["bytes_per_env"] == many["bytes"] / benchmark.MANY_ENVS
    assert many["bytes_per_env"] < alone["bytes_per_env"] / 2


def test_a_worker_that_ends_is_reported_with_its_last_line(monkeypatch):
    def fail(*arguments):
        raise ValueError("no display")

    monkeypatch.setattr(implementations, "make_upstream", fail)
    with pytest.raises(ConnectionError, match=r"environment ended: ValueError: no display"):
        Upstream(get_task("libero_object", 0), "no camera", 1)
    gc.collect()  # an unclosed file is a warning, which pytest turns into an error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "p.png", "--parts", "images"], "`--plot` draws the profile"),
        (["--suite", "libero-wood"], "`suite` must be one of libero_spatial"),
        (["--steps", "9"], "`steps` must be a multiple of 8"),
        (["--task", "10"], "`task_id` must be in 0..9"),
    ],
)
def test_wrong_input_is_one_sentence(arguments, message, capsys):
    assert cli.main(["benchmark", "sim", *arguments]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_the_help_lists_the_benchmarks(capsys):
    with pytest.raises(SystemExit):
        cli.main(["benchmark", "--help"])
    assert "  sim  " in capsys.readouterr().out
