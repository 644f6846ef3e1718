from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest

from srpo_env.benchmarks.sim.speed_test import SpeedTest, judge
from srpo_env.cli import doctor
from srpo_env.cli import main as cli


def rendered_by(monkeypatch, renderer, *, backend, gpu):
    """Lets the probe find ``renderer``; returns what the check makes of it."""
    answer = json.dumps({"backend": backend, "renderer": renderer, "version": "4.5"})
    monkeypatch.setattr(doctor, "_run_python", lambda *arguments: answer)
    monkeypatch.setattr(doctor, "has_gpu", lambda: gpu)
    (finding,) = doctor.check_graphics()
    return finding


@pytest.mark.slow  # it steps for ten seconds
@pytest.mark.libero
def test_where_training_can_run_it_says_so_and_ends_with_0():
    command = [sys.executable, "-m", "srpo_env.cli.main", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("Training can run here.\n")
    assert "wrong " not in done.stdout
    for fact in (
        "Python 3.",
        "robosuite 1.4.0",
        "hf-libero 0.1.4",
        "OpenGL",
        "assets: ",
        "cores",
        "control steps/s in one worker",
    ):
        assert fact in done.stdout


@pytest.mark.parametrize(
    ("states", "exit_code", "last_line"),
    [
        (["ok", "note"], 0, "Training can run here."),
        (["ok", "wrong", "ok"], 1, "Training cannot run here."),
    ],
)
def test_only_what_stops_training_makes_it_fail(monkeypatch, capsys, states, exit_code, last_line):
    findings = [doctor.Finding(state, f"a {state}", f"mend {state}") for state in states]
    monkeypatch.setattr(doctor, "CHECKS", [lambda: findings])
    assert cli.main(["doctor"]) == exit_code
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == last_line
    assert lines == [
        line for state in states for line in (f"{state:6} a {state}", f"       mend: mend {state}")
    ]


@pytest.mark.libero
def test_a_wrong_setting_of_opengl_is_found_and_mended(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "bogus")
    (finding,) = doctor.check_graphics()
    assert (finding.state, finding.mend) == ("wrong", "unset MUJOCO_GL")
    assert "with MUJOCO_GL=bogus" in finding.text


@pytest.mark.libero
def test_assets_that_are_not_there_are_found(monkeypatch, tmp_path):
    monkeypatch.setenv("LIBERO_ASSETS", str(tmp_path / "lost"))
    (finding,) = doctor.check_assets()
    assert (finding.state, finding.mend) == ("wrong", "unset LIBERO_ASSETS, or correct it")


def test_a_package_at_a_wrong_version_is_named_with_the_command_that_mends_it(monkeypatch):
    true_version = importlib.metadata.version
    wrong = {"robosuite": "1.5.1", "hf-libero": "0.1.3"}
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: wrong.get(name) or true_version(name)
    )
    findings = [finding for finding in doctor.check_packages() if finding.state == "wrong"]
    assert findings == [
        doctor.Finding(
            "wrong", "robosuite must be ==1.4.0, got 1.5.1", "pip install 'robosuite==1.4.0'"
        ),
        doctor.Finding(
            "wrong",
            "hf-libero must be ==0.1.4, got 0.1.3",
            "pip install --no-deps hf-libero==0.1.4",
        ),
    ]


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    true_version = importlib.metadata.version

    def version(name):
        if name in ("mujoco", "hf-libero"):
            raise importlib.metadata.PackageNotFoundError(name)
        return true_version(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    findings = [finding for finding in doctor.check_packages() if finding.state == "wrong"]
    assert [(finding.text, finding.mend) for finding in findings] == [
        ("mujoco is not installed", "pip install 'srpo-env[libero,agents]'"),
        ("hf-libero is not installed", "pip install --no-deps hf-libero==0.1.4"),
    ]


def test_software_rendering_beside_a_gpu_is_no_silent_matter(monkeypatch):
    finding = rendered_by(monkeypatch, "llvmpipe (LLVM 15)", backend="egl", gpu=True)
    assert finding.state == "note"
    assert "software, though there is a GPU" in finding.text
    assert "NVIDIA_DRIVER_CAPABILITIES" in finding.mend


def test_software_egl_is_told_to_give_way_to_osmesa(monkeypatch):
    finding = rendered_by(monkeypatch, "llvmpipe (LLVM 15)", backend="egl", gpu=False)
    assert (finding.state, finding.mend) == ("note", "unset MUJOCO_GL")


@pytest.mark.parametrize(
    ("renderer", "backend", "gpu"),
    [("llvmpipe (LLVM 15)", "osmesa", False), ("NVIDIA H200/PCIe/SSE2", "egl", True)],
)
def test_the_best_renderer_of_a_machine_is_fine(monkeypatch, renderer, backend, gpu):
    finding = rendered_by(monkeypatch, renderer, backend=backend, gpu=gpu)
    assert (finding.state, finding.mend) == ("ok", "")
    assert renderer in finding.text


@pytest.mark.parametrize(
    ("asked", "gpu", "mend"),
    [("egl", False, "unset MUJOCO_GL"), (None, False, "apt-get install libosmesa6")],
)
def test_no_opengl_at_all_is_wrong(monkeypatch, asked, gpu, mend):
    def fail(*arguments):
        raise RuntimeError("no such library")

    monkeypatch.setattr(doctor, "_run_python", fail)
    monkeypatch.setattr(doctor, "has_gpu", lambda: gpu)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    if asked:
        monkeypatch.setenv("MUJOCO_GL", asked)
    (finding,) = doctor.check_graphics()
    assert (finding.state, finding.mend) == ("wrong", mend)
    assert "no such library" in finding.text


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("assets: /gone/assets\ndatasets: /gone/too\nbddl_files: {here}", "assets: /gone/assets;"),
        ("[1", "cannot be read"),
    ],
)
def test_a_stale_configuration_of_libero_is_noted_and_left_alone(
    monkeypatch, tmp_path, content, found
):
    file = tmp_path / "config.yaml"
    file.write_text(content.format(here=tmp_path))
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path))
    (finding,) = doctor._stale_configuration()
    assert (finding.state, finding.mend) == ("note", f"rm {file}")
    assert found in finding.text
    assert "/gone/too" not in finding.text  # made when demonstrations are downloaded
    assert file.read_text() == content.format(here=tmp_path)


def test_a_configuration_that_holds_is_not_mentioned(monkeypatch, tmp_path):
    (tmp_path / "config.yaml").write_text(f"assets: {tmp_path}")
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path))
    assert list(doctor._stale_configuration()) == []


def test_a_check_that_does_not_answer_is_an_error_with_its_last_words():
    with pytest.raises(RuntimeError, match=r"^ValueError: last words$"):
        doctor._run_python("-c", "raise ValueError('last words')")


def stepped_at(monkeypatch, *, load=0.0, visuals="fast", one=250, four=900):
    """Lets the speed test find control steps per second; MuJoCo alone would make 400."""
    answer = {
        "visuals": visuals,
        "physics_steps_per_second": 400.0,
        "one_worker": one,
        "num_workers": 4,
        "all_workers": four,
        "load": load,
    }
    calls = []
    monkeypatch.setattr(
        doctor, "_run_python", lambda *arguments: calls.append(arguments) or json.dumps(answer)
    )
    monkeypatch.setattr(doctor, "usable_cores", lambda: 4.5)
    monkeypatch.setattr(doctor, "usable_memory", lambda: 2**34)
    monkeypatch.setattr(doctor, "_are_installed", lambda *modules: True)
    for name in ("MUJOCO_GL", "LP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    findings = list(doctor.check_speed())
    assert calls == [("-m", "srpo_env.benchmarks.sim.speed_probe", "4")]
    return findings


def test_speed_is_expected_in_proportion_to_mujocos_own_on_this_machine(monkeypatch):
    one, many = stepped_at(monkeypatch)
    assert (one.state, many.state) == ("ok", "ok")
    assert "250 control steps/s in one worker, visuals='fast'; expected 80 or more" in one.text
    assert "900 control steps/s in 4 workers; expected 500 or more" in many.text


@pytest.mark.parametrize(
    ("found", "mend"),
    [
        ({"load": 3.0}, "other programs keep the cores busy (load 3.0): stop them and ask again"),
        ({"visuals": "exact"}, "see OpenGL above: exact images need a GPU"),
        ({}, "srpo-env benchmark sim --parts profile"),
    ],
)
def test_where_stepping_is_slow_the_likeliest_cause_is_named(monkeypatch, found, mend):
    one, _ = stepped_at(monkeypatch, one=79, **found)
    assert one.state == "note"
    assert mend in one.mend


def test_a_setting_of_the_users_own_that_slows_rendering_is_to_be_unset(monkeypatch):
    test = SpeedTest("fast", 400.0, 79.0, 1, 79.0, load=0.0)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setenv("LP_NUM_THREADS", "16")
    ((is_well, _, mend),) = judge(test, cores=4)
    assert (is_well, mend) == (False, "unset LP_NUM_THREADS")


def test_workers_that_slow_each_other_down_are_noted(monkeypatch):
    one, many = stepped_at(monkeypatch, four=499)
    assert (one.state, many.state) == ("ok", "note")
    assert many.mend == "pass num_workers=2, and compare"


def test_no_more_workers_are_tested_than_fit_into_the_memory(monkeypatch):
    calls = []

    def fail(*arguments):
        calls.append(arguments)
        raise RuntimeError("last words")

    monkeypatch.setattr(doctor, "_run_python", fail)
    monkeypatch.setattr(doctor, "usable_cores", lambda: 64.0)
    monkeypatch.setattr(doctor, "usable_memory", lambda: 2**30)
    monkeypatch.setattr(doctor, "_are_installed", lambda *modules: True)
    (finding,) = doctor.check_speed()
    assert calls[0][-1] == "2"  # half a GiB for each
    assert finding.state == "wrong"
    assert "last words" in finding.text
