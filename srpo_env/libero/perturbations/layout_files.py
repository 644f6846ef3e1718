"""Writes the task files of scenes with distractors: LIBERO's, with objects added.

Only a small number of sets of distractors exists for each task, so that few scenes are compiled.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
import zlib
from pathlib import Path

import numpy as np

from srpo_env.libero.bddl import WORKSPACES, read_bddl
from srpo_env.libero.cache import cache_folder
from srpo_env.libero.suites import Task
from srpo_env.system.files import write_file

CATEGORIES = (
    "alphabet_soup",
    "bbq_sauce",
    "butter",
    "chocolate_pudding",
    "cookies",
    "cream_cheese",
    "glazed_rim_porcelain_ramekin",
    "ketchup",
    "milk",
    "orange_juice",
    "porcelain_mug",
    "red_coffee_mug",
    "salad_dressing",
    "tomato_sauce",
    "white_yellow_mug",
)
"""LIBERO's objects that can be distractors; those of the task's own categories never are."""

NUM_SETS = 3
"""Number of sets of distractors for each task and number of distractors; each is one scene."""

SUFFIX = "_distractor"


@functools.lru_cache(maxsize=256)
def with_distractors(task: Task, count: int, number: int) -> Task:
    """Returns the task with distractors; writes its file into the cache folder.

    Args:
        task: The task.
        count: Number of distractors.
        number: Number of the set, below `NUM_SETS`.

    Raises:
        ValueError: If there are not so many categories besides the task's own.
    """
    parsed = read_bddl(task.bddl_file)
    free = [name for name in CATEGORIES if name not in parsed.categories.values()]
    if count > len(free):
        raise ValueError(
            f"`distractors` of Layout must be at most {len(free)} for {task.name}, got {count}"
        )
    rng = np.random.default_rng([zlib.crc32(task.name.encode()), count, number])
    chosen = [str(name) for name in rng.choice(free, count, replace=False)]
    workspace = next(
        name for name, kind in parsed.fixtures.items() if kind == WORKSPACES[parsed.problem]
    )
    text = _added(task.bddl_file.read_text(), chosen, workspace)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    file = cache_folder() / "layouts" / f"{task.bddl_file.stem}-{digest}.bddl"
    if not file.is_file() or file.read_text() != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, text.encode())
    return dataclasses.replace(
        task,
        bddl_file=Path(file),
        sha256=(),
        extra_objects=tuple(f"{name}{SUFFIX}" for name in chosen),
    )


def _added(text: str, categories: list[str], workspace: str) -> str:
    """Adds objects to a BDDL file; LIBERO's constructor needs a region to put each of them in."""
    # Where they stand at first does not matter: `Layout.start` places them.
    region = f"({SUFFIX[1:]}_region (:target {workspace}) (:ranges ((-0.35 -0.35 0.35 0.35))))"
    objects = " ".join(f"{name}{SUFFIX} - {name}" for name in categories)
    init = " ".join(f"(On {name}{SUFFIX} {workspace}{SUFFIX}_region)" for name in categories)
    for section, added in ((":regions", region), (":objects", objects), (":init", init)):
        text = _append(text, section, added)
    return text


def _append(text: str, section: str, added: str) -> str:
    """Adds text at the end of a section, before its closing parenthesis."""
    begin = re.search(rf"\(\s*{section}\b", text, re.IGNORECASE)
    assert begin is not None  # `read_bddl` has checked it
    depth, place, in_comment = 0, begin.start(), False
    while True:
        character = text[place]
        in_comment = character != "\n" and (in_comment or character == ";")
        if not in_comment:
            depth += (character == "(") - (character == ")")
        if depth == 0:
            return f"{text[:place]}\n{added}\n{text[place:]}"
        place += 1
