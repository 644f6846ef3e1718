"""Renders the reference images of tests/libero/data with LIBERO's own environment.

The images show how LIBERO looks with an old MuJoCo, as in its demonstrations. To make them again,
put that version before the one of `.venv`, together with the NumPy that it was built for:

    .venv/bin/pip install --no-deps --target old mujoco==2.3.7 numpy==1.26.4
    PYTHONPATH=old:. .venv/bin/python scripts/render_reference.py tests/libero/data/mujoco-2.3.7

With NumPy 2, MuJoCo before 3.1.4 reads and writes wrong colours, without an error.

With ``--compare``, no files are written, and each image is compared with that of the folder; with
``--look``, the images are those of srpo_env instead of LIBERO's own environment.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from srpo_env.benchmarks.sim.image_quality import psnr
from srpo_env.benchmarks.sim.implementations import quieten_upstream
from srpo_env.libero.assets import prepare_libero
from srpo_env.libero.rendering import describe_gl, mujoco
from srpo_env.libero.simulation import CAMERAS, Simulation
from srpo_env.libero.suites import Task, get_task

INIT_STATE_ID, IMAGE_SIZE = 0, 128

SCENES = (
    ("libero_spatial", 0),
    ("libero_spatial", 4),
    ("libero_object", 0),
    ("libero_object", 7),
    ("libero_goal", 1),
    ("libero_goal", 8),
    ("libero_10", 0),
    ("libero_10", 3),
    ("libero_10", 5),
    ("libero_90", 20),
    ("libero_90", 60),
    ("libero_90", 80),
)
"""Suites and tasks: all five suites and all kinds of scenes."""


def render(task: Task) -> dict[str, npt.NDArray[np.uint8]]:
    """Renders an initial state; fixtures stand where `Simulation` has them. Upright images."""
    from libero.libero.envs import OffScreenRenderEnv

    np.random.seed(0)  # noqa: NPY002  upstream draws from the global generator
    upstream = OffScreenRenderEnv(
        bddl_file_name=str(task.bddl_file), camera_heights=IMAGE_SIZE, camera_widths=IMAGE_SIZE
    )
    # As in a reset, which would draw the fixtures again: hides the gripper's aiming marks.
    env = upstream.env
    env.visualize(vis_settings=dict.fromkeys(env._visualizations, False))
    observation = upstream.set_init_state(task.init_states()[INIT_STATE_ID])
    images = {camera: observation[f"{name}_image"][::-1] for camera, name in CAMERAS.items()}
    upstream.close()
    return images


def render_ours(task: Task, look: str) -> dict[str, npt.NDArray[np.uint8]]:
    """Renders the same initial state with srpo_env."""
    simulation = Simulation(task, IMAGE_SIZE, visuals="exact", look=look)
    simulation.start(INIT_STATE_ID)
    images = {camera: simulation.render(camera) for camera in CAMERAS}
    simulation.close()
    return images


def main() -> None:
    """Renders all scenes, and writes or compares the images."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of the images")
    parser.add_argument("--compare", action="store_true", help="compare with the folder's images")
    parser.add_argument("--look", choices=("libero", "mujoco"), help="compare srpo_env's images")
    args = parser.parse_args()
    if args.look and not args.compare:
        parser.error("--look needs --compare")
    assets = prepare_libero()
    if assets.kind != "libero":
        parser.error(f"needs LIBERO's own assets, found {assets.kind} assets")
    quieten_upstream()
    print(f"MuJoCo {mujoco.__version__}, NumPy {np.__version__}, {describe_gl()}")
    compared = defaultdict(list)
    for suite, task_id in SCENES:
        task = get_task(suite, task_id)
        images = render_ours(task, args.look) if args.look else render(task)
        for camera, image in images.items():
            file = args.folder / f"{suite}_{task_id}_{camera}.png"
            if args.compare:
                reference = np.asarray(Image.open(file))
                brightness = image.mean() / reference.mean() - 1
                compared[suite].append((psnr(image, reference), image.mean(), reference.mean()))
                print(f"{file.stem:30} {psnr(image, reference):5.1f} dB {brightness:+7.2%}")
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(file, optimize=True)
    for suite, rows in compared.items():
        ratios, means, references = np.array(rows).T
        print(
            f"{suite:15} {len(rows)} images, PSNR {ratios.min():.1f} to {ratios.max():.1f} dB, "
            f"mean brightness {means.mean():.2f}, reference {references.mean():.2f}"
        )


if __name__ == "__main__":
    main()
