import json
import shutil
import sys

import pytest
from PIL import Image

from srpo_env.cli import main as cli


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    args = {
        "env_id": "libero-object",
        "reward": "binary",
        "seed": 7,
        "eval_episodes": 100,
        "encoder": "pixels",
    }
    (folder / "args.json").write_text(json.dumps(args))
    (folder / "conditions.json").write_text(json.dumps({"assets": "placeholder"}))
    points = [
        {"iteration": 0, "control_steps": 0, "seconds": 66.0, "eval/success_rate": 0.49},
        {"iteration": 10, "control_steps": 118_712, "seconds": 480.0, "eval/success_rate": 0.9},
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    return folder


def test_report_writes_a_picture_and_prints_the_result_of_each_run(run_folder, tmp_path, capsys):
    out = tmp_path / "pictures" / "curves.png"
    assert cli.main(["report", str(run_folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out == (
        "binary, seed 7, placeholders: 49% -> 90% [83%, 94%] of 100 episodes "
        "after 118,712 control steps, 8 min\n"
        f"The picture is in {out}\n"
    )
    with Image.open(out) as picture:
        assert picture.size == (1800, 780)  # documentation shows it at half this size
        colours = picture.convert("RGB").getcolors(1 << 24)
    assert (213, 94, 0) in {colour for _, colour in colours}


def test_report_prints_the_steps_to_a_success_rate(run_folder, tmp_path, capsys):
    out = str(tmp_path / "curves.png")
    assert cli.main(["report", str(run_folder), "--out", out, "--to", "0.9", "0.99"]) == 0
    assert (
        "thousands of control steps to 90% held-out success, by seed\n"
        "  plain GRPO: 119; median 119\n"
        "thousands of control steps to 99% held-out success, by seed\n"
        "  plain GRPO: not reached; median not reached\n"
    ) in capsys.readouterr().out
    assert cli.main(["report", str(run_folder), "--out", out, "--to", "90"]) == 2
    assert "`--to` must be above 0 and at most 1, got 90" in capsys.readouterr().err


def test_run_that_is_given_twice_counts_once(run_folder, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other"
    shutil.copytree(run_folder, other)
    (tmp_path / "link").symlink_to(run_folder)
    monkeypatch.chdir(tmp_path)
    names = ["run", str(run_folder), "other/../run", "link", "other", "run/"]
    assert cli.main(["report", *names, "--to", "0.9"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("binary, seed 7") == 2  # the run and its copy, which is a run of its own
    assert "  plain GRPO: 119, 119; median 119\n" in shown


def test_value_that_is_no_number_is_one_sentence(run_folder, capsys):
    with (run_folder / "history.jsonl").open("a") as file:
        file.write('{"iteration": 20, "control_steps": 1, "eval/success_rate": null}\n')
    assert cli.main(["report", str(run_folder)]) == 2
    assert capsys.readouterr().err == (
        f"srpo-env report: {run_folder / 'history.jsonl'}, line 3, holds a value of "
        "eval/success_rate that is not a number in [0, 1]: null\n"
    )


def test_report_without_matplotlib_prints_how_to_install_it(run_folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for out in ("curves.png", "page.html"):
        assert cli.main(["report", str(run_folder), "--out", out]) == 2
        assert capsys.readouterr().err == (
            f"srpo-env report: {out!r} is drawn with matplotlib: run `pip install matplotlib`\n"
        )


def test_report_of_one_run_is_a_page_in_its_folder(run_folder, capsys):
    assert cli.main(["report", str(run_folder), "--to", "0.9"]) == 0
    page = run_folder / "report.html"
    shown = capsys.readouterr().out
    assert shown.startswith("binary, seed 7, placeholders: 49% -> 90% [83%, 94%] of 100 episodes ")
    assert "  plain GRPO: 119; median 119\n" in shown
    assert shown.endswith(f"The page is in {page}\n")
    assert "plain GRPO on libero-object with placeholders, seed 7" in page.read_text()


def test_report_of_several_runs_is_a_picture_and_not_a_page(
    run_folder, tmp_path, monkeypatch, capsys
):
    shutil.copytree(run_folder, tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", "run", "other"]) == 0
    assert capsys.readouterr().out.endswith("The picture is in curves.png\n")
    assert (tmp_path / "curves.png").is_file()
    assert cli.main(["report", "run", "other", "--out", "both.html"]) == 2
    assert "'both.html' would be the page of one run, got 2 runs" in capsys.readouterr().err
    assert not (tmp_path / "both.html").exists()


def test_page_that_cannot_be_made_leaves_the_old_one(run_folder, capsys):
    page = run_folder / "report.html"
    page.write_text("old")
    (run_folder / "history.jsonl").write_text('{"iteration": null}\n')
    assert cli.main(["report", str(run_folder)]) == 2
    assert page.read_text() == "old"


def test_unknown_picture_format_is_one_sentence(run_folder, tmp_path, capsys):
    assert cli.main(["report", str(run_folder), "--out", str(tmp_path / "curves.bmq")]) == 2
    shown = capsys.readouterr().err
    assert "the name of an image must end in one of" in shown
    assert shown.count("\n") == 1
