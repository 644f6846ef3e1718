from __future__ import annotations

import argparse
import importlib.metadata
import json

import pytest

from srpo_env.benchmarks.sim.speed_test import SpeedTest, judge
from srpo_env.cli import doctor
from srpo_env.cli import main as cli


def results(check):
    """Returns the findings of a check without the announcements."""
    return [finding for finding in check() if finding.state != "..."]


def rendered_by(monkeypatch, renderer, *, backend, gpu):
    """Replaces the probe's answer; returns the finding of the check."""
    answer = json.dumps({"backend": backend, "renderer": renderer, "version": "4.5"})
    monkeypatch.setattr(doctor, "run_python", lambda *arguments: answer)
    monkeypatch.setattr("srpo_env.libero.gl.has_gpu", lambda: gpu)
    (finding,) = results(doctor.check_graphics)
    return finding


@pytest.mark.libero
def test_doctor_exits_with_0_where_training_can_run(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "SPEED_SECONDS", 1)
    monkeypatch.setattr(doctor, "usable_cores", lambda: 1.0)  # one worker
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("Training can run here.\n")
    assert "wrong " not in shown
    for fact in (
        "Python 3.",
        "robosuite 1.4.0",
        "hf-libero 0.1.4",
        "OpenGL",
        "MuJoCo, torch and triton work in one process",
        "assets: ",
        "cores",
        "...    measuring the simulator's speed, 1 s",
        "control steps/s in one worker",
    ):
        assert fact in shown


@pytest.mark.parametrize(
    ("states", "exit_code", "last_line"),
    [
        (["ok", "note"], 0, "Training can run here."),
        (["ok", "wrong", "..."], 1, "Training cannot run here: see the fixes above."),
    ],
)
def test_only_a_wrong_finding_makes_doctor_fail(monkeypatch, capsys, states, exit_code, last_line):
    findings = [doctor.Finding(state, f"a {state}", f"fix {state}") for state in states]
    monkeypatch.setattr(doctor, "CHECKS", [lambda: findings])
    assert cli.main(["doctor"]) == exit_code
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == last_line
    assert lines == [
        line for state in states for line in (f"{state:6} a {state}", f"       fix: fix {state}")
    ]


# --- Packages ---


def set_versions(monkeypatch, versions):
    """Makes packages look as if they had other versions; None for not installed."""
    true_version = importlib.metadata.version

    def version(name):
        if versions.get(name, "") is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions.get(name) or true_version(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def wrong_packages():
    return [finding for finding in doctor.check_packages() if finding.state == "wrong"]


def test_wrong_version_is_reported_with_the_command_that_fixes_it(monkeypatch):
    set_versions(monkeypatch, {"robosuite": "1.5.1", "hf-libero": "0.1.3", "torch": "2.0"})
    found = {finding.text.split()[0]: finding for finding in wrong_packages()}
    assert found == {
        "robosuite": doctor.Finding(
            "wrong", "robosuite must be ==1.4.0, got 1.5.1", "pip install 'robosuite==1.4.0'"
        ),
        "torch": doctor.Finding(
            "wrong", "torch must be >=2.6, got 2.0", "pip install 'torch>=2.6'"
        ),
        "hf-libero": doctor.Finding(
            "wrong",
            "hf-libero must be ==0.1.4, got 0.1.3",
            "pip install --no-deps hf-libero==0.1.4",
        ),
    }


def test_missing_packages_are_one_finding_with_one_command(monkeypatch):
    set_versions(monkeypatch, {"mujoco": None, "tyro": None, "hf-libero": None})
    (finding,) = wrong_packages()
    for name in ("mujoco", "tyro", "hf-libero"):
        assert name in finding.text
    assert finding.fix == (
        "pip install 'srpo-env[libero,agents]' && pip install --no-deps hf-libero==0.1.4"
    )


def test_missing_simulator_alone_is_installed_without_its_requirements(monkeypatch):
    set_versions(monkeypatch, {"hf-libero": None})
    (finding,) = wrong_packages()
    assert finding.text == "hf-libero is not installed"
    assert finding.fix == "pip install --no-deps hf-libero==0.1.4"


def test_optional_packages_that_training_does_not_need_are_not_missed(monkeypatch):
    set_versions(monkeypatch, {"stable-baselines3": None, "pytest": None})
    assert wrong_packages() == []


# --- Graphics ---


@pytest.mark.libero
def test_wrong_setting_of_opengl_is_reported_with_its_fix(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "bogus")
    (finding,) = results(doctor.check_graphics)
    assert (finding.state, finding.fix) == ("wrong", "unset MUJOCO_GL")
    assert "with MUJOCO_GL=bogus" in finding.text


@pytest.mark.libero
def test_software_rendering_beside_a_gpu_is_noted(monkeypatch):
    finding = rendered_by(monkeypatch, "llvmpipe (LLVM 15)", backend="egl", gpu=True)
    assert finding.state == "note"
    assert "software, although there is a GPU" in finding.text
    assert "NVIDIA_DRIVER_CAPABILITIES" in finding.fix


@pytest.mark.libero
def test_software_egl_is_noted_where_osmesa_is_faster(monkeypatch):
    finding = rendered_by(monkeypatch, "llvmpipe (LLVM 15)", backend="egl", gpu=False)
    assert (finding.state, finding.fix) == ("note", "unset MUJOCO_GL")


@pytest.mark.libero
@pytest.mark.parametrize(
    ("renderer", "backend", "gpu"),
    [("llvmpipe (LLVM 15)", "osmesa", False), ("NVIDIA H200/PCIe/SSE2", "egl", True)],
)
def test_best_renderer_of_the_machine_is_ok(monkeypatch, renderer, backend, gpu):
    finding = rendered_by(monkeypatch, renderer, backend=backend, gpu=gpu)
    assert (finding.state, finding.fix) == ("ok", "")
    assert renderer in finding.text


@pytest.mark.libero
@pytest.mark.parametrize(
    ("asked", "gpu", "fix"),
    [("egl", False, "unset MUJOCO_GL"), (None, False, "apt-get install libosmesa6")],
)
def test_missing_opengl_is_wrong(monkeypatch, asked, gpu, fix):
    monkeypatch.setattr(doctor, "run_python", failing("no such library"))
    monkeypatch.setattr("srpo_env.libero.gl.has_gpu", lambda: gpu)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    if asked:
        monkeypatch.setenv("MUJOCO_GL", asked)
    (finding,) = results(doctor.check_graphics)
    assert (finding.state, finding.fix) == ("wrong", fix)
    assert "no such library" in finding.text


def failing(message):
    def run_python(*arguments, **variables):
        raise RuntimeError(message)

    return run_python


# --- Native libraries ---


@pytest.mark.libero
def test_crash_of_torch_beside_mujoco_is_wrong(monkeypatch):
    monkeypatch.setattr(doctor, "run_python", failing("Python was killed by SIGSEGV"))
    (finding,) = results(doctor.check_native_libraries)
    assert finding.state == "wrong"
    assert finding.text.endswith("Python was killed by SIGSEGV")
    assert "triton" in finding.fix


@pytest.mark.libero
def test_crash_of_programs_without_srpo_env_is_noted(monkeypatch):
    def run_python(*arguments, **variables):
        if "srpo_env" in arguments[-1]:
            return "osmesa\n"
        assert variables == {"MUJOCO_GL": "osmesa"}
        raise RuntimeError("Python was killed by SIGSEGV")

    monkeypatch.setattr(doctor, "run_python", run_python)
    monkeypatch.setattr(doctor, "are_installed", lambda *modules: True)
    together, alone = results(doctor.check_native_libraries)
    assert together.state == "ok"
    assert alone.state == "note"
    assert "`import triton` above `import mujoco`" in alone.fix


def test_signal_that_killed_python_is_named():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    with pytest.raises(RuntimeError, match=r"^Python was killed by SIGSEGV$"):
        doctor.run_python("-c", code)


CAUSES = """
import sys
print("libEGL warning: no access to /dev/dri", file=sys.stderr)
try:
    raise OSError("libGL.so.1: cannot open shared object file")
except OSError as error:
    raise ImportError("cv2 cannot be imported:\\n  see above") from error
"""


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ValueError('last words')", "ValueError: last words"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("import sys; sys.exit('no display')", "no display"),
        (
            CAUSES,
            "libEGL warning: no access to /dev/dri\n"
            "OSError: libGL.so.1: cannot open shared object file\n"
            "The above exception was the direct cause of the following exception:\n"
            "ImportError: cv2 cannot be imported:\n"
            "  see above",
        ),
        (
            "import os, sys; print('LLVM ERROR: twice', file=sys.stderr, flush=True); os.abort()",
            "LLVM ERROR: twice\nPython was killed by SIGABRT",
        ),
    ],
)
def test_error_of_python_is_what_it_prints_without_the_places_in_the_code(code, message):
    with pytest.raises(RuntimeError) as raised:
        doctor.run_python("-c", code)
    assert str(raised.value) == message


def test_long_error_of_python_is_shown_from_its_end():
    code = "import sys; print(*range(1000), sep='\\n', file=sys.stderr); sys.exit(1)"
    with pytest.raises(RuntimeError) as raised:
        doctor.run_python("-c", code)
    assert str(raised.value).split() == [str(number) for number in range(980, 1000)]


def test_finding_of_several_lines_is_indented(monkeypatch, capsys):
    monkeypatch.setattr(
        doctor, "CHECKS", [lambda: [doctor.Finding("wrong", "no OpenGL: a\nb", "install it")]]
    )
    assert doctor.run(argparse.Namespace()) == 1
    assert capsys.readouterr().out.splitlines()[:3] == [
        "wrong  no OpenGL: a", "       b", "       fix: install it"
    ]  # fmt: skip


# --- Assets ---


@pytest.mark.libero
def test_missing_assets_are_wrong(monkeypatch, tmp_path):
    monkeypatch.setenv("LIBERO_ASSETS", str(tmp_path / "lost"))
    (finding,) = results(doctor.check_assets)
    assert (finding.state, finding.fix) == ("wrong", "unset LIBERO_ASSETS, or correct it")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("assets: /gone/assets\ndatasets: /gone/too\nbddl_files: {here}", "assets: /gone/assets;"),
        ("[1", "cannot be read"),
    ],
)
def test_outdated_libero_configuration_is_noted_and_not_changed(
    monkeypatch, tmp_path, content, found
):
    file = tmp_path / "config.yaml"
    file.write_text(content.format(here=tmp_path))
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path))
    (finding,) = results(doctor.check_libero_configuration)
    assert (finding.state, finding.fix) == ("note", f"rm {file}")
    assert found in finding.text
    assert "/gone/too" not in finding.text  # created when demonstrations are downloaded
    assert file.read_text() == content.format(here=tmp_path)


def test_valid_libero_configuration_is_not_mentioned(monkeypatch, tmp_path):
    (tmp_path / "config.yaml").write_text(f"assets: {tmp_path}")
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path))
    assert results(doctor.check_libero_configuration) == []


# --- torch ---


def test_cpu_build_of_torch_beside_a_gpu_is_noted(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    for has_gpu, state in ((False, "ok"), (True, "note")):
        monkeypatch.setattr(doctor, "has_nvidia_gpu", lambda has_gpu=has_gpu: has_gpu)
        (finding,) = results(doctor.check_torch)
        assert finding.state == state
    assert "pip install torch==" in finding.fix


# --- Speed ---


def stepped_at(monkeypatch, *, load=0.0, visuals="fast", one=250, four=900):
    """Replaces the measured control steps per second; those of MuJoCo alone are 400."""
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
        doctor, "run_python", lambda *arguments: calls.append(arguments) or json.dumps(answer)
    )
    monkeypatch.setattr(doctor, "usable_cores", lambda: 4.5)
    monkeypatch.setattr(doctor, "usable_memory", lambda: 2**34)
    for name in ("MUJOCO_GL", "LP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    findings = results(doctor.check_speed)
    assert calls == [("-m", "srpo_env.benchmarks.sim.speed_probe", "4", "10")]
    return findings


@pytest.mark.libero
def test_expected_speed_is_proportional_to_that_of_mujoco_alone(monkeypatch):
    one, many = stepped_at(monkeypatch)
    assert (one.state, many.state) == ("ok", "ok")
    assert "250 control steps/s in one worker, visuals='fast'; expected 80 or more" in one.text
    assert "900 control steps/s in 4 workers; expected 500 or more" in many.text


@pytest.mark.libero
@pytest.mark.parametrize(
    ("found", "fix"),
    [
        ({"load": 3.0}, "other programs keep the cores busy (load 3.0)"),
        ({"visuals": "exact"}, "see OpenGL above: exact images need a GPU"),
        ({}, "srpo-env benchmark sim --parts profile"),
    ],
)
def test_most_likely_cause_of_slow_steps_is_named(monkeypatch, found, fix):
    one, _ = stepped_at(monkeypatch, one=79, **found)
    assert one.state == "note"
    assert fix in one.fix


def test_fix_unsets_a_user_setting_that_slows_rendering(monkeypatch):
    test = SpeedTest("fast", 400.0, 79.0, 1, 79.0, load=0.0)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setenv("LP_NUM_THREADS", "16")
    ((is_well, _, fix),) = judge(test, cores=4)
    assert (is_well, fix) == (False, "unset LP_NUM_THREADS")


@pytest.mark.libero
def test_workers_that_slow_each_other_down_are_noted(monkeypatch):
    one, many = stepped_at(monkeypatch, four=499)
    assert (one.state, many.state) == ("ok", "note")
    assert many.fix == "pass num_workers=2, and compare"


@pytest.mark.libero
def test_number_of_tested_workers_is_limited_by_memory(monkeypatch):
    calls = []

    def fail(*arguments):
        calls.append(arguments)
        raise RuntimeError("last words")

    monkeypatch.setattr(doctor, "run_python", fail)
    monkeypatch.setattr(doctor, "usable_cores", lambda: 64.0)
    monkeypatch.setattr(doctor, "usable_memory", lambda: 2**30)
    (finding,) = results(doctor.check_speed)
    assert calls[0][2] == "2"  # half a GiB for each
    assert finding.state == "wrong"
    assert "last words" in finding.text
