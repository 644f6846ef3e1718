import os
import subprocess
import sys

import pytest

from srpo_env.libero import gl
from srpo_env.libero.gl import EglDevice, choose_gl, device_of_worker, has_gpu

SOFTWARE = EglDevice(0, is_software=True, cuda_index=None)
# EGL has its own order: here CUDA's second GPU is the first.
GPUS = [EglDevice(index, is_software=False, cuda_index=2 - index) for index in (1, 2)]


@pytest.fixture
def machine(monkeypatch):
    """Fakes the devices and libraries of a machine."""
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("PYOPENGL_PLATFORM", raising=False)
    monkeypatch.delitem(sys.modules, "OpenGL.platform", raising=False)

    def offer(devices, osmesa=True):
        monkeypatch.setattr(gl, "egl_devices", lambda: tuple(devices))
        monkeypatch.setattr(gl, "has_osmesa", lambda: osmesa)

    return offer


@pytest.mark.parametrize(
    ("devices", "osmesa", "choice"),
    [
        ([SOFTWARE, *GPUS], True, "egl"),
        ([SOFTWARE], True, "osmesa"),
        ([], True, "osmesa"),
        ([SOFTWARE], False, "egl"),  # a distribution without OSMesa
        ([], False, "osmesa"),  # nothing renders; the error names the package to install
    ],
)
def test_a_gpu_is_preferred_to_osmesa_and_osmesa_to_egl_in_software(
    machine, devices, osmesa, choice
):
    machine(devices, osmesa)
    assert choose_gl() == choice
    assert has_gpu() == (len(devices) > 1)


def test_the_users_choice_is_kept(machine, monkeypatch):
    machine([SOFTWARE, *GPUS])
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert choose_gl() == "osmesa"


@pytest.mark.parametrize(("value", "choice"), [("", "osmesa"), (" ", "osmesa"), ("EGL", "egl")])
def test_the_users_choice_is_read_as_mujoco_reads_it(machine, monkeypatch, value, choice):
    machine([SOFTWARE])
    monkeypatch.setenv("MUJOCO_GL", value)
    assert choose_gl() == os.environ["MUJOCO_GL"] == choice


def test_an_unknown_choice_is_an_error(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "wgl")
    with pytest.raises(ValueError, match=r"MUJOCO_GL must be one of egl, osmesa, .*got 'wgl'"):
        choose_gl()


VARIABLES = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY")
"""environment variables that choose an OpenGL library"""

RENDER = """
{before}
from srpo_env.libero.rendering import Renderer
import mujoco
model = mujoco.MjModel.from_xml_string('''<mujoco><worldbody><camera name="camera" pos="0 0 3"/>
<light pos="0 0 3"/><geom type="box" size=".5 .4 .3" rgba="1 0 0 1" group="1"/></worldbody>
</mujoco>''')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
image = Renderer(model, 32).render(data, "camera")
print((image[..., 0] > image[..., 2] + 50).mean())
"""


def render(before, **variables):
    """Renders a red box in a new process that imports something first."""
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.run(
        [sys.executable, "-c", RENDER.format(before=before)],
        env={**inherited, **variables}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.libero
@pytest.mark.parametrize("variables", [{}, {"MUJOCO_GL": ""}], ids=["unset", "empty"])
def test_mujoco_may_be_imported_first(variables):
    done = render("import mujoco", **variables)
    assert done.returncode == 0, done.stderr
    assert 0.05 < float(done.stdout) < 0.95


@pytest.mark.libero
@pytest.mark.skipif(not gl.egl_devices(), reason="needs EGL, in software or on a GPU")
def test_the_platform_of_pyopengl_is_used():
    done = render("import OpenGL.GL", PYOPENGL_PLATFORM="egl")
    assert done.returncode == 0, done.stderr
    assert 0.05 < float(done.stdout) < 0.95


@pytest.mark.libero
@pytest.mark.parametrize(
    ("before", "variables", "message"),
    [
        ("", {"MUJOCO_GL": "glfw"}, "No OpenGL context could be created with MUJOCO_GL='glfw'"),
        ("", {"MUJOCO_GL": "off"}, "No OpenGL context could be created with MUJOCO_GL='off'"),
        ("import mujoco", {"MUJOCO_GL": "glfw"}, "created with MUJOCO_GL='glfw'"),
        ("import OpenGL.GL", {"MUJOCO_GL": "osmesa"}, "PyOpenGL was imported for glx"),
    ],
)
def test_what_cannot_render_is_one_sentence(before, variables, message):
    done = render(before, **variables)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]


NO_CONTEXT_IN_A_WORKER = """
from srpo_env.cli.main import errors_as_sentences
from srpo_env.libero.vector import LiberoVectorEnv
envs = LiberoVectorEnv(num_envs=2, num_workers=2)
with errors_as_sentences("agent.py"):
    try:
        envs.gl
    finally:
        assert envs.closed
"""


@pytest.mark.libero
def test_workers_that_cannot_render_end_an_agent_with_one_sentence():
    done = subprocess.run(
        [sys.executable, "-c", NO_CONTEXT_IN_A_WORKER],
        env={**os.environ, "MUJOCO_GL": "glfw", "DISPLAY": "", "WAYLAND_DISPLAY": ""},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("agent.py: No OpenGL context could be created with MUJOCO_GL='glfw'")
    assert "Traceback" not in done.stderr


def test_hidden_gpus_are_not_used(machine, monkeypatch):
    machine([SOFTWARE, *GPUS])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_gl() == "osmesa"


def test_workers_take_turns_on_the_gpus(machine):
    machine([SOFTWARE, *GPUS])
    assert [device_of_worker(worker).index for worker in range(4)] == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("visible", "indices"), [("0", [2, 2]), ("1", [1, 1]), ("0,1", [2, 1]), ("GPU-89", [1, 2])]
)
def test_cuda_indices_are_mapped_to_egl_indices(machine, monkeypatch, visible, indices):
    machine([SOFTWARE, *GPUS])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [device_of_worker(worker).index for worker in range(2)] == indices


def test_a_gpu_that_egl_does_not_offer_is_an_error(machine, monkeypatch):
    machine([SOFTWARE, *GPUS])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(RuntimeError, match=r"got '7' while EGL has the devices 1 \(CUDA 1\), 2"):
        device_of_worker(0)


def test_without_a_gpu_no_worker_has_one(machine):
    machine([SOFTWARE])
    assert device_of_worker(0) is None


@pytest.mark.libero
@pytest.mark.skipif(not gl.egl_devices(), reason="needs EGL, in software or on a GPU")
def test_egl_and_osmesa_render_equal_images():
    """An image of a box; on a machine without a GPU, Mesa renders both."""
    program = """
import mujoco
xml = '''<mujoco><worldbody><light pos="0 0 3"/><geom type="box" size=".5 .4 .3"
rgba="1 0 0 1"/></worldbody></mujoco>'''
model = mujoco.MjModel.from_xml_string(xml)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
image = renderer.render()
print((image[..., 0] > image[..., 2] + 50).mean())
"""
    shares = [
        float(
            subprocess.run(
                [sys.executable, "-c", program],
                env={"MUJOCO_GL": backend, "PATH": "/usr/bin:/bin"},
                capture_output=True, text=True, check=True,
            ).stdout
        )
        for backend in ("egl", "osmesa")
    ]  # fmt: skip
    assert shares[0] == pytest.approx(shares[1], abs=0.02)
    assert 0.05 < shares[0] < 0.95
