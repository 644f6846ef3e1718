"""Images have the colours of LIBERO's demonstrations, in every version of MuJoCo.

tests/libero/data/mujoco-2.3.7 holds images of LIBERO's own environment, rendered with that version
of MuJoCo by scripts/render_reference.py.
"""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from PIL import Image

from srpo_env.benchmarks.sim.image_quality import psnr
from srpo_env.libero.env import LiberoEnv
from srpo_env.libero.look import check_look
from srpo_env.libero.rendering import mujoco
from srpo_env.libero.simulation import CAMERAS, Simulation
from srpo_env.libero.suites import get_task

pytestmark = pytest.mark.libero

REFERENCES = Path(__file__).parent / "data" / "mujoco-2.3.7"
SCENES = sorted({file.stem.rpartition("_")[0] for file in REFERENCES.glob("*.png")})
SUITES = {scene.rpartition("_")[0] for scene in SCENES}
QUICK = [next(scene for scene in SCENES if scene.startswith(suite)) for suite in sorted(SUITES)]


def images_of(scene, **settings):
    """Images of the first initial state, from both cameras."""
    suite, _, task_id = scene.rpartition("_")
    simulation = Simulation(get_task(suite, int(task_id)), **settings)
    simulation.reset(simulation.task.init_states()[0])
    images = {camera: simulation.render(camera) for camera in CAMERAS}
    simulation.close()
    return images


def references_of(scene):
    return {
        camera: np.asarray(Image.open(REFERENCES / f"{scene}_{camera}.png")) for camera in CAMERAS
    }


def check_scene(scene):
    images, references = images_of(scene, visuals="exact"), references_of(scene)
    for camera, reference in references.items():
        assert psnr(images[camera], reference) >= 35, camera  # dB
        assert images[camera].mean() == pytest.approx(reference.mean(), rel=0.01), camera


def test_there_are_references_of_all_suites():
    assert SUITES == {f"libero_{name}" for name in ("spatial", "object", "goal", "10", "90")}


@pytest.mark.parametrize("scene", QUICK)
def test_exact_images_equal_those_of_an_old_mujoco(libero_assets, scene):
    check_scene(scene)


@pytest.mark.slow
@pytest.mark.parametrize("scene", [scene for scene in SCENES if scene not in QUICK])
def test_exact_images_of_more_scenes_equal_those_of_an_old_mujoco(libero_assets, scene):
    check_scene(scene)


def test_fast_images_have_the_same_brightness(libero_assets):
    scene = next(scene for scene in QUICK if scene.startswith("libero_object"))
    images, references = images_of(scene, visuals="fast"), references_of(scene)
    for camera, reference in references.items():
        assert images[camera].mean() == pytest.approx(reference.mean(), rel=0.02), camera


@pytest.mark.skipif(
    not hasattr(mujoco, "mjtColorSpace"), reason="needs MuJoCo 3.3.3, which reads colour spaces"
)
def test_the_look_of_mujoco_is_darker(libero_assets):
    scene = next(scene for scene in QUICK if scene.startswith("libero_object"))
    for visuals in ("exact", "fast"):
        image = images_of(scene, visuals=visuals, look="mujoco")["agentview"]
        assert image.mean() < 0.9 * references_of(scene)["agentview"].mean(), visuals


def test_environments_with_different_looks_do_not_share_a_task():
    envs = [LiberoEnv(image_size=32, look=look) for look in ("libero", "mujoco")]
    simulations = []
    for env in envs:
        env.reset(options={"task_id": 0, "init_state_id": 0})
        simulations.append(env.simulation)
    assert [simulation.look for simulation in simulations] == ["libero", "mujoco"]
    assert simulations[0] is not simulations[1]
    for env in envs:
        env.close()


def test_a_vector_environment_states_its_conditions():
    envs = gymnasium.make_vec("srpo_env/libero-object", num_envs=1, look="mujoco", visuals="exact")
    try:
        assert envs.get_attr("look") == ("mujoco",)
        assert {**envs.conditions, "assets": ""} == {
            "assets": "", "look": "mujoco", "visuals": "exact", "physics": "exact",
            "fixtures": "fixed", "mujoco": mujoco.__version__,
        }  # fmt: skip
        assert envs.gl.count(", ") >= 2  # vendor, renderer, version
    finally:
        envs.close()


def test_an_unknown_look_is_an_error():
    for make in (check_look, lambda look: LiberoEnv(look=look)):
        with pytest.raises(ValueError, match="`look` must be 'libero' or 'mujoco', got 'dark'"):
            make("dark")
