import json

import numpy as np
import pytest

from srpo_env.training.evaluation import wilson_interval
from srpo_env.training.report import compare_steps, draw_curves, read_curve, read_history, steps_to


@pytest.fixture
def write_run(tmp_path):
    """Returns a function that writes a run: evaluations and iterations, at every tenth one."""

    def write(
        rates,
        reward="srpo",
        seed=1,
        env_id="libero-object",
        pace=1000,
        assets="placeholder",
        **more,
    ):
        folder = tmp_path / f"{reward}{seed}{env_id}{assets}{''.join(more.values())}"
        folder.mkdir()
        args = {"env_id": env_id, "reward": reward, "seed": seed, "eval_episodes": 20}
        args = {**args, "encoder": "pixels", **more}
        (folder / "args.json").write_text(json.dumps(args))
        (folder / "conditions.json").write_text(json.dumps({"assets": assets}))
        lines = []
        for index, rate in enumerate(rates):
            past = {"iteration": 10 * index, "control_steps": pace * index, "episodes": index}
            past["seconds"] = 60.0 * (1 + index)
            lines.append({**past, "rollout/success_rate": 0.1})
            lines.append({**past, "eval/success_rate": rate, "eval/task_0": rate})
        (folder / "history.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        return folder

    return write


def lines_of(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_curve_holds_the_evaluations(write_run):
    curve = read_curve(write_run([0.5, 0.75, 0.9], seed=3))
    assert (curve.env_id, curve.reward, curve.seed) == ("libero-object", "srpo", 3)
    np.testing.assert_array_equal(curve.iterations, [0, 10, 20])
    np.testing.assert_array_equal(curve.control_steps, [0, 1000, 2000])
    np.testing.assert_array_equal(curve.minutes, [1, 2, 3])
    np.testing.assert_array_equal(curve.success_rates, [0.5, 0.75, 0.9])


def test_band_is_the_wilson_interval(write_run):
    curve = read_curve(write_run([0.5, 0.9]))
    np.testing.assert_allclose(curve.intervals, [wilson_interval(10, 20), wilson_interval(18, 20)])


def test_line_that_a_killed_process_did_not_finish_is_ignored(write_run):
    folder = write_run([0.5, 0.75])
    whole = read_history(folder)
    file = folder / "history.jsonl"
    file.write_text(file.read_text() + '{"iteration": 20, "eval/succ')
    assert read_history(folder) == whole


def test_srpo_runs_with_different_encoders_are_not_drawn_together(write_run):
    old, new = read_curve(write_run([0.5])), read_curve(write_run([0.6], encoder="libero-vjepa2"))
    assert (old.encoder, new.encoder) == ("pixels", "libero-vjepa2")
    with pytest.raises(ValueError, match=r"the same encoder.*got libero-vjepa2 and pixels"):
        draw_curves([old, new])
    # The other rewards do not depend on the encoder.
    draw_curves([old, read_curve(write_run([0.6], encoder="libero-vjepa2", reward="binary"))])


def test_steps_to_a_rate_are_interpolated_between_evaluations(write_run):
    curve = read_curve(write_run([0.5, 0.7, 0.6, 0.9]))
    assert steps_to(curve, 0.6) == pytest.approx(500)  # the first time
    assert steps_to(curve, 0.75) == pytest.approx(2500)
    assert steps_to(curve, 0.5) == 0
    assert steps_to(curve, 0.95) == np.inf


def test_rewards_are_compared_by_medians_and_by_seed(write_run):
    plain = [write_run([0.5, 0.9], "binary", seed, pace=1000 * seed) for seed in (1, 2, 4)]
    ours = [write_run([0.5, 0.9], "srpo", seed, pace=1000) for seed in (1, 2, 3)]
    never = write_run([0.5, 0.6], "oracle", 1)
    curves = [read_curve(folder) for folder in (*ours, *plain, never)]
    assert compare_steps(curves, 0.9).splitlines() == [
        "thousands of control steps to 90% held-out success, by seed",
        "  SRPO: 1, 1, 1; median 1; of plain GRPO's 0.50, by seed 1.00, 0.50",
        "  plain GRPO: 1, 2, 4; median 2",
        "  oracle progress: not reached; median not reached; of plain GRPO's unknown, "
        "by seed unknown",
    ]


def test_single_run_is_drawn_over_steps_and_minutes_with_its_band(write_run):
    figure = draw_curves([read_curve(write_run([0.5, 0.75, 0.9]))])
    left, right = figure.axes
    for axes, places in ((left, [0, 1, 2]), (right, [1, 2, 3])):
        line = lines_of(axes)["SRPO (seed 1)"]
        np.testing.assert_allclose(line.get_xdata(), places)
        np.testing.assert_allclose(line.get_ydata(), [50, 75, 90])
        (band,) = axes.collections
        low, high = band.get_datalim(axes.transData).intervaly
        assert low == pytest.approx(100 * wilson_interval(10, 20)[0])
        assert high == pytest.approx(100 * wilson_interval(18, 20)[1])


def test_several_seeds_are_thin_lines_with_their_mean_at_common_iterations(write_run):
    curves = [
        read_curve(write_run([0.5, 0.6, 0.7], seed=1)),
        read_curve(write_run([0.3, 0.8], seed=2, pace=3000)),
    ]
    left, _ = draw_curves(curves).axes
    assert len(left.get_lines()) == 3
    mean = lines_of(left)["SRPO (seeds 1, 2)"]
    np.testing.assert_allclose(mean.get_xdata(), [0, 2])  # thousands: of 1000 and 3000
    np.testing.assert_allclose(mean.get_ydata(), [40, 70])


def test_each_reward_has_its_own_colour(write_run):
    srpo, binary = read_curve(write_run([0.5])), read_curve(write_run([0.4], reward="binary"))
    alone = lines_of(draw_curves([binary]).axes[0])["plain GRPO (seed 1)"]
    both = lines_of(draw_curves([binary, srpo]).axes[0])
    assert both["plain GRPO (seed 1)"].get_color() == alone.get_color()
    assert both["SRPO (seed 1)"].get_color() != alone.get_color()


@pytest.mark.parametrize(
    ("other", "received"),
    [
        (
            {"env_id": "libero-10"},
            "got libero-10 on placeholders and libero-object on placeholders",
        ),
        ({"assets": "libero"}, "got libero-object on LIBERO's assets and .* on placeholders"),
        ({"assets": "modified"}, "got libero-object on modified assets and .* on placeholders"),
    ],
)
def test_runs_of_other_suites_or_assets_are_not_drawn_together(write_run, other, received):
    curves = [read_curve(write_run([0.5])), read_curve(write_run([0.5], **other))]
    with pytest.raises(ValueError, match=received):
        draw_curves(curves)


def test_title_names_the_assets(write_run):
    (title,) = (text.get_text() for text in draw_curves([read_curve(write_run([0.5]))]).texts)
    assert title.startswith("libero-object on placeholders")


def test_spellings_of_an_environment_are_equal(write_run):
    assert read_curve(write_run([0.5], env_id="libero_object")).env_id == "libero-object"


def test_run_without_evaluations_is_refused(write_run):
    with pytest.raises(ValueError, match="no held-out evaluation yet"):
        read_curve(write_run([]))


def test_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must hold history\.jsonl"):
        read_curve(tmp_path)


@pytest.mark.parametrize("line", ["{", "7", '{"seconds": 1}'])
def test_a_damaged_line_is_named(write_run, line):
    folder = write_run([0.5])
    with (folder / "history.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"history\.jsonl, line 3, is not a record"):
        read_curve(folder)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("eval/success_rate", "null", "a number in [0, 1]"),
        ("eval/success_rate", "NaN", "a number in [0, 1]"),
        ("eval/success_rate", '"0.5"', "a number in [0, 1]"),
        ("eval/success_rate", "true", "a number in [0, 1]"),
        ("eval/success_rate", "[0.5]", "a number in [0, 1]"),
        ("eval/success_rate", "50", "a number in [0, 1]"),
        ("eval/task_3", "-0.1", "a number in [0, 1]"),
        ("control_steps", "Infinity", "a finite number, not negative"),
        ("control_steps", "1" + 400 * "0", "a finite number, not negative"),
        ("seconds", "-1", "a finite number, not negative"),
        ("iteration", "null", "an integer, not negative"),
        ("iteration", "1.5", "an integer, not negative"),
        ("losses/kl", "{}", "a number"),
        ("losses/kl", "NaN", "a number"),
    ],
)
def test_value_that_is_no_number_in_its_range_is_named_with_its_line(write_run, name, value, rule):
    folder = write_run([0.5, 0.6])
    point = {"iteration": 20, "control_steps": 9, "seconds": 9.0, "eval/success_rate": 0.5}
    point[name] = "VALUE"
    with (folder / "history.jsonl").open("a") as file:
        file.write(json.dumps(point).replace('"VALUE"', value) + "\n")
    for read in (read_history, read_curve):
        with pytest.raises(ValueError, match=r"history\.jsonl, line 5,") as error:
            read(folder)
        expected = f"holds a value of {name} that is not {rule}: {value}"
        assert str(error.value).endswith(expected)


def test_infinite_loss_is_read(write_run):
    folder = write_run([0.5])
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"iteration": 1, "losses/surrogate": Infinity}\n')
    assert read_history(folder)[-1]["losses/surrogate"] == np.inf


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval_episodes": None}, "`eval_episodes` must be an integer and at least 1, got None"),
        ({"eval_episodes": 0}, "`eval_episodes` must be an integer and at least 1, got 0"),
        ({"seed": "one"}, "`seed` must be an integer and at least 0, got 'one'"),
        ({"encoder": None}, "encoder must be a name, got None"),
        ({"reward": ["srpo"]}, "reward must be one of srpo, binary, oracle, got ['srpo']"),
    ],
)
def test_setting_of_a_wrong_type_is_named_with_its_file(write_run, settings, message):
    folder = write_run([0.5])
    file = folder / "args.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    with pytest.raises(ValueError, match=r"args\.json: ") as error:
        read_curve(folder)
    assert str(error.value).endswith(message)


def test_two_runs_in_one_file_are_refused(write_run):
    folder = write_run([0.5, 0.6])
    file = folder / "history.jsonl"
    file.write_text(2 * file.read_text())
    with pytest.raises(ValueError, match="more than one run"):
        read_curve(folder)


def test_unknown_reward_is_refused(write_run):
    with pytest.raises(ValueError, match="reward must be one of srpo, binary, oracle, got 'dense'"):
        read_curve(write_run([0.5], reward="dense"))


@pytest.mark.parametrize("kind", ["real", "stand_in"])
def test_unknown_kind_of_assets_is_refused(write_run, kind):
    with pytest.raises(ValueError, match="assets must be libero or modified or placeholder, got"):
        read_curve(write_run([0.5], assets=kind))
