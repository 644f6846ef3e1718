from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("h5py")

from srpo_env.cli import main as cli
from srpo_env.cli.demos import numbers
from srpo_env.libero.demos import read_demos

pytestmark = pytest.mark.libero


def test_the_chosen_tasks_are_recorded(tmp_path, capsys):
    arguments = ["--tasks", "1,5", "--demos-per-task", "1", "--image-size", "8"]
    assert cli.main(["demos", "--out", str(tmp_path), *arguments]) == 0
    assert "2 files" in capsys.readouterr().out
    instructions = [demo.instruction for demo in read_demos(tmp_path)]
    assert instructions == [
        "pick up the cream cheese and place it in the basket",
        "pick up the tomato sauce and place it in the basket",
    ]


def test_each_demonstration_can_be_watched(tmp_path):
    cv2 = pytest.importorskip("cv2")
    arguments = ["--tasks", "1", "--demos-per-task", "2", "--image-size", "32"]
    videos = tmp_path / "videos"
    folder = ["--out", str(tmp_path / "demos"), "--videos", str(videos)]
    assert cli.main(["demos", *folder, *arguments]) == 0
    demos = list(read_demos(tmp_path / "demos"))
    name = "pick_up_the_cream_cheese_and_place_it_in_the_basket_demo_{}.mp4"
    assert sorted(path.name for path in videos.iterdir()) == [name.format(0), name.format(1)]
    for number, demo in enumerate(demos):
        reader = cv2.VideoCapture(str(videos / name.format(number)))
        assert reader.get(cv2.CAP_PROP_FRAME_COUNT) == len(demo.actions)
        first = reader.read()[1][..., ::-1].astype(int)
        assert first.shape == (32, 64, 3)  # both cameras, side by side
        assert np.abs(first[:, :32] - demo.images["agentview"][0]).mean() < 15
        reader.release()


def test_ctrl_c_keeps_the_finished_files_and_no_others(tmp_path, monkeypatch):
    from srpo_env.libero import demo_recording

    record_demos = demo_recording.record_demos

    def interrupted(suite, task_id, folder, recording, **options):
        if task_id == 5:
            options["progress"] = press_ctrl_c
        return record_demos(suite, task_id, folder, recording, **options)

    def press_ctrl_c(success):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_recording, "record_demos", interrupted)
    arguments = ["--tasks", "1,5", "--demos-per-task", "1", "--image-size", "8"]
    assert cli.main(["demos", "--out", str(tmp_path), *arguments]) == 130
    (kept,) = tmp_path.iterdir()
    assert "cream_cheese" in kept.name


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", [0]), ("0-3", [0, 1, 2, 3]), ("4,0-2,1", [0, 1, 2, 4]), (" 1, 2 ", [1, 2])],
)
def test_numbers_and_ranges_are_read(text, expected):
    assert numbers(text, "--tasks") == expected


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1,,2", "1.5"])
def test_invalid_lists_of_numbers_are_refused(text):
    with pytest.raises(
        ValueError, match="`--tasks` must be numbers and ranges, for example 0-4,7, got"
    ):
        numbers(text, "--tasks")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "libero_gaol"], "`suite` must be one of libero_spatial, libero_object"),
        (["--tasks", "10"], "`task_id` must be in 0..9"),
        (["--demos-per-task", "41"], "the expert repeats itself exactly: got 41 of 40"),
        (["--init-states", "0-50"], "`init_states` must be in 0..49"),
    ],
)
def test_a_wrong_argument_is_one_sentence(tmp_path, capsys, arguments, message):
    assert cli.main(["demos", "--out", str(tmp_path / "new"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
