"""The HTML page of a run, read as a browser does."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from srpo_env.system.files import DamagedFileError
from srpo_env.training import page_charts
from srpo_env.training.page import run_page, task_names
from tests.training.test_sampled_episodes import MIXED, group_of, record, rewrite

ARGS = {
    "env_id": "my_suite:toys", "reward": "srpo", "seed": 3, "eval_episodes": 100,
    "encoder": "libero-vjepa2", "target_kl": 1.0, "learning_rate": 1.5e-4,
}  # fmt: skip


def point(iteration, rate, **tasks):
    past = {"iteration": iteration, "control_steps": 1000 * iteration, "seconds": 60.0 * iteration}
    return {**past, "eval/success_rate": rate, **{f"eval/{x}": y for x, y in tasks.items()}}


def step(iteration, **changed):
    past = {"iteration": iteration, "control_steps": 1000 * iteration, "seconds": 60.0 * iteration}
    return {
        **past, "rollout/num_groups": 10.0, "rollout/without_signal": 0.5,
        "rollout/all_failed": 0.4, "rollout/all_succeeded": 0.1, "rollout/success_rate": 0.4,
        "losses/kl": 0.5, "losses/entropy": 2.0, "charts/update_completed": 1.0,
        "charts/steps_per_second": 300.0,
        **{name.replace("__", "/"): value for name, value in changed.items()},
    }  # fmt: skip


LEARNING = [
    point(0, 0.5, task_0=1.0, task_1=0.0),
    *map(step, (1, 2, 3, 4)),
    point(4, 0.75, task_0=1.0, task_1=0.5),
]


def write_run(folder, records=LEARNING, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "args.json").write_text(json.dumps({**ARGS, **settings}))
    (folder / "conditions.json").write_text(json.dumps({"assets": "libero", "cpu": "x"}))
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "history.jsonl").write_text(lines)
    return folder


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self._stack = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._stack.append(tag)

    def handle_endtag(self, tag):
        self._stack.pop() if tag in self._stack else None

    def handle_data(self, data):
        if self._stack[-1:] not in (["style"], ["script"]):
            self.text += data

    def of_class(self, name):
        return [attrs for _, attrs in self.tags if name in (attrs.get("class") or "").split()]


def page_of(folder):
    return Page(run_page(folder))


def test_page_needs_no_other_file_and_no_network(tmp_path):
    folder = write_run(tmp_path / "run")
    record(folder, 1, MIXED)
    html = run_page(folder)
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "data:").startswith("data:")
    assert all(address.startswith("data:") for address in re.findall(r"url\(([^)]*)", html))
    assert "http" not in re.sub("http-equiv", "", html)
    assert "@import" not in html


def test_page_shows_results_charts_and_rates_by_task(tmp_path):
    page = page_of(write_run(tmp_path / "run"))
    # 75 of 100 episodes: Wilson's interval is [66%, 82%].
    assert "50% → 75%" in page.text
    assert "now [66%, 82%] of 100 episodes" in page.text
    assert "SRPO on my-suite:toys with LIBERO's assets, seed 3" in page.text
    pictures = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert pictures == [
        "Success over control steps", "Share of groups with signal", "KL per decision",
        "Entropy of the policy",
    ]  # fmt: skip
    assert re.sub(r"\s+", " ", page.text).count("task 1") == 1
    assert page.text.index("0%50%all50%75%") > page.text.index("task 1")
    assert "No episodes were recorded yet" in page.text


def test_page_of_a_run_that_has_only_been_evaluated(tmp_path):
    page = page_of(write_run(tmp_path / "run", LEARNING[:1]))
    assert [a["alt"] for tag, a in page.tags if tag == "img"] == ["Success over control steps"]
    assert "Too early to tell" in page.text


def test_page_names_what_is_wrong_and_the_setting_to_change(tmp_path):
    assert "Nothing wrong was found" in page_of(write_run(tmp_path / "run")).text
    records = [*LEARNING, *(step(n, charts__update_completed=0.1) for n in (5, 6, 7))]
    page = page_of(write_run(tmp_path / "run", records))
    assert "KL limit" in page.text
    assert "3 updates in a row ended at --target-kl 1.0 before half" in page.text
    assert "What to change: a lower --learning-rate 0.00015" in page.text
    assert "Nothing wrong" not in page.text


def test_text_of_a_run_is_no_code(tmp_path):
    code = "<script>alert(1)</script><b x='\"&"
    folder = write_run(tmp_path / "<b>run", [point(0, 0.5, **{f"task_{code}": 0.5})], exp_name=code)
    html = run_page(folder)
    assert "alert(1)</script>" not in html
    assert html.count("<script>") == 1
    page = Page(html)
    assert page.text.count(code) == 2  # the setting and the task
    assert "<b>run" in page.text


def test_every_sampled_failure_is_beside_its_nearest_success(tmp_path):
    folder = write_run(tmp_path / "run")
    record(folder, 1, MIXED, group_of([0.0, 0.0], [0.0, 0.1], task_id=7))
    page = page_of(folder)
    assert len(page.of_class("pair")) == 3
    assert len(page.of_class("failure")) == 3
    assert len(page.of_class("success")) == 2
    videos = [attributes for attributes in page.of_class("video") if "data-steps" in attributes]
    assert [video["data-steps"] for video in videos] == ["0,8,16"] * 5
    assert all("background-size: 300% 100%" in video["style"] for video in videos)
    assert "Failure, 20 steps: reward 0.60, rank 1 of 3 failures" in page.text
    assert "Failure, 20 steps: reward 0.20, rank 3 of 3 failures" in page.text
    assert page.text.count("Nearest success, 20 steps: reward 1.00") == 2
    assert "task 7, initial state 0: 0 of 2 episodes succeeded" in page.text
    assert "Failure, 20 steps: reward 0.00, as all failures" in page.text
    assert "no success to compare with" in page.text


def test_rewards_of_the_group_are_marked_on_a_line(tmp_path):
    folder = write_run(tmp_path / "run")
    record(folder, 1, MIXED)
    page = page_of(folder)
    marks = [attributes for tag, attributes in page.tags if tag == "i"][:5]
    places = [float(re.search("left: ([0-9.]+)%", mark["style"])[1]) for mark in marks]
    assert places == [100, 20, 60, 100, 40]
    kinds = [(mark["class"] or "").split() for mark in marks]
    assert kinds == [["won"], [], ["shown"], ["won"], []]


def test_policy_without_images_and_reward_without_potential_are_shown_as_such(tmp_path):
    folder = write_run(tmp_path / "run")
    record(folder, 1, group_of([1.0, 0.4], [0.0, 0.1], potential=(), camera="pixel_values"))
    page = page_of(folder)
    assert page.text.count("this policy keeps no images") == 2
    assert "No progress potential: only rewards that compare videos moment by moment" in page.text


def test_first_and_newest_recordings_are_shown(tmp_path):
    folder = write_run(tmp_path / "run")
    for iteration in range(1, 11):
        record(folder, iteration, MIXED, every=1)
    page = page_of(folder)
    shown = re.findall(r"Iteration (\d+)", page.text)
    assert shown == ["10", "7", "4", "1"]
    assert "Shown are 4 of 10 iterations that were recorded" in page.text


def test_damaged_frames_are_refused(tmp_path):
    folder = write_run(tmp_path / "run")
    record(folder, 10, MIXED)
    file = folder / "episodes" / "iteration_0010.npz"
    before = file.read_bytes()
    rewrite(
        file, lambda meta: meta["groups"][0]["episodes"]["2"].update(frame_steps=[0, 8, 9, 10, 16])
    )
    with pytest.raises(
        DamagedFileError, match=r"iteration 10 .* 5 frames must be side by side in 96"
    ):
        run_page(folder)
    file.write_bytes(before)
    with np.load(file) as archive:
        arrays = dict(archive)
    arrays["0.2"] = np.frombuffer(b"<svg onload='alert(1)'/>", np.uint8)
    np.savez(file, **arrays)
    with pytest.raises(DamagedFileError, match="iteration 10 are damaged: frames must be a JPEG"):
        run_page(folder)


def test_equal_runs_give_equal_pages(tmp_path):
    folder = write_run(tmp_path / "run")
    record(folder, 1, MIXED)
    assert run_page(folder) == run_page(folder)


def test_tasks_are_named_by_their_instructions_where_the_suite_is_known():
    pytest.importorskip("libero", reason="LIBERO is not installed: srpo-env doctor")
    assert task_names("libero-object")(3) == "3: pick up the bbq sauce and place it in the basket"
    assert task_names("libero-object")("30") == "task 30"
    assert task_names("os:toys")(3) == "task 3"


# --- Charts ---


@pytest.fixture
def axes():
    return Figure().add_subplot()


def test_bars_of_groups_sum_to_all_of_them(axes):
    records = [
        step(1),  # 50% with signal; 10% succeeded, so that 40% failed
        step(2, rollout__without_signal=0.25, rollout__all_succeeded=0.25),
        # Borrowed successes give signal to groups that all failed.
        step(3, rollout__without_signal=0.0, rollout__all_succeeded=0.0, rollout__all_failed=0.5),
    ]
    page_charts.signal_chart(axes, records)
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
    np.testing.assert_allclose(heights, [[50, 75, 100], [10, 25, 0], [40, 0, 0]])
    assert axes.containers[0].get_label() == "with signal"


def test_updates_that_ended_early_are_marked_beside_the_limit(axes):
    records = [step(1), step(2, charts__update_completed=0.4, losses__kl=0.9), {"iteration": 3}]
    page_charts.kl_chart(axes, records, {"target_kl": 1.0})
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert lines == {
        "after the update": [[1, 0.5], [2, 0.9]],
        "ended before half of its steps": [[2, 0.9]],
        "--target-kl": [[0, 1], [4, 1]],
    }


def test_infinite_values_are_left_out(axes):
    records = [step(1), step(2, losses__entropy=float("inf"))]
    page_charts.metric_chart(axes, records, "losses/entropy", "nats", "Entropy")
    assert axes.get_lines()[0].get_xydata().tolist() == [[1, 2.0]]
