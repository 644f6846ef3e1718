"""Reads the BDDL file of a task as data, and checks it before LIBERO parses it.

LIBERO's parser evaluates the angles in a file as Python expressions, and answers mistakes with
errors such as ``KeyError`` or with a goal that can never be reached. Here a file is split into
tokens, each number must be a number, and each name must be declared.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srpo_env.system.files import DamagedFileError, regular_file

MAX_BYTES = 2**20
"""Largest BDDL file, 1 MiB; LIBERO's have 5 KB"""

WORKSPACES = {
    "libero_tabletop_manipulation": "table",
    "libero_floor_manipulation": "floor",
    "libero_kitchen_tabletop_manipulation": "kitchen_table",
    "libero_coffee_table_manipulation": "coffee_table",
    "libero_living_room_tabletop_manipulation": "living_room_table",
    "libero_study_tabletop_manipulation": "study_table",
}
"""LIBERO's problems, and the category of the table or floor that each of them has."""

PREDICATES = {"in": 2, "on": 2, "up": 1, "open": 1, "close": 1, "turnon": 1, "turnoff": 1,
              "true": 1, "false": 1}  # fmt: skip
"""LIBERO's predicates, in lower case, and their number of arguments."""

NUMBERS = {":ranges": 4, ":yaw_rotation": 2, ":rgba": 4}
"""Attributes of a region that hold lists of numbers, and the length of a list."""

SECTIONS = ("problem", ":domain", ":language", ":fixtures", ":objects", ":regions", ":init",
            ":goal")  # fmt: skip


@dataclass(frozen=True)
class BddlFile:
    """What a BDDL file says, in lower case."""

    sha256: str
    problem: str
    """The kind of scene, for example ``libero_floor_manipulation``."""
    instruction: str
    categories: dict[str, str]
    """The category of each object, such as ``milk`` for ``milk_1``."""
    fixtures: dict[str, str]
    """The category of each fixture."""
    goal: tuple[tuple[str, ...], ...]
    """The predicates of the goal with their arguments, all of which must hold."""


def read_bddl(file: str | Path) -> BddlFile:
    """Reads and checks a BDDL file; imports nothing of LIBERO.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a BDDL file, or not one that LIBERO can build; the message names
            the fault.
    """
    file = Path(file)
    with regular_file(file).open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise DamagedFileError(f"{file} must be a BDDL file of at most {MAX_BYTES:,} bytes")
    try:
        return _checked(_tokens(content.decode()), hashlib.sha256(content).hexdigest())
    except UnicodeDecodeError:
        raise DamagedFileError(f"{file} must be a BDDL file, and is not a text") from None
    except ValueError as error:
        raise ValueError(f"the BDDL file {str(file)!r} is not valid: {error}") from None


def check_categories(
    file: str | Path, categories: Iterable[str], known: Iterable[str], kind: str = "object"
) -> None:
    """Checks that LIBERO has all of these categories.

    Raises:
        ValueError: If it lacks one; the message proposes similar names.
    """
    known = sorted(known)
    for category in categories:
        if category not in known:
            similar = difflib.get_close_matches(category, known, n=3)
            proposal = f"; similar: {', '.join(similar)}" if similar else ""
            raise ValueError(
                f"the BDDL file {str(file)!r} must use LIBERO's categories of objects, "
                f"and the {kind} category {category!r} is unknown{proposal}"
            )


# --- Tokens ---------------------------------------------------------------------------------------


def _tokens(text: str) -> list[Any]:
    """Returns a file's nested lists of words, in lower case, as LIBERO's parser does."""
    text = re.sub(r";.*$", "", text, flags=re.MULTILINE).lower()
    stack: list[list[Any]] = [[]]
    for token in re.findall(r"[()]|[^\s()]+", text):
        if token == "(":
            stack.append([])
        elif token == ")":
            if len(stack) == 1:
                raise ValueError("it has a closing parenthesis without an opening one")
            last = stack.pop()
            stack[-1].append(last)
        else:
            stack[-1].append(token)
    if len(stack) > 1:
        raise ValueError(f"{len(stack) - 1} parentheses are not closed")
    if len(stack[0]) != 1 or not isinstance(stack[0][0], list) or stack[0][0][:1] != ["define"]:
        raise ValueError("it must be one expression (define ...)")
    return list(stack[0][0][1:])


def _checked(groups: list[Any], sha256: str) -> BddlFile:
    sections: dict[str, list[Any]] = {}
    for group in groups:
        if not isinstance(group, list) or not group or not isinstance(group[0], str):
            raise ValueError(f"each section must be a list that starts with its name, got {group}")
        if group[0] in sections:
            raise ValueError(f"the section {group[0]} occurs twice")
        sections[group[0]] = group[1:]
    missing = [name for name in SECTIONS if name not in sections]
    if missing:
        raise ValueError(f"the section {missing[0]} is missing")
    (problem,) = _words(sections["problem"], "problem", 1)
    if problem not in WORKSPACES:
        raise ValueError(f"the problem must be one of {', '.join(WORKSPACES)}, got {problem}")
    instruction = " ".join(_words(sections[":language"], ":language"))
    if not instruction:
        raise ValueError("the section :language must hold the instruction")
    if sections[":domain"] != ["robosuite"]:
        raise ValueError(f"the domain must be robosuite, got {sections[':domain']}")
    if sections.get(":scene_properties"):
        raise ValueError("the section :scene_properties must be empty: LIBERO cannot read it")
    fixtures = _declared(sections[":fixtures"], ":fixtures")
    categories = _declared(sections[":objects"], ":objects")
    twice = set(fixtures) & set(categories)
    if twice:
        raise ValueError(f"{min(twice)} is an object and a fixture")
    if WORKSPACES[problem] not in fixtures.values():
        raise ValueError(
            f"the fixtures of {problem} must have one of category {WORKSPACES[problem]}"
        )
    things = {**fixtures, **categories}
    regions = _regions(sections[":regions"], things)
    for name in _words(sections.get(":obj_of_interest", []), ":obj_of_interest"):
        if name not in things and name not in regions:
            raise ValueError(f"{name} in :obj_of_interest is not declared")
    _predicates(sections[":init"], ":init", {*things, *regions})
    goal = sections[":goal"]
    if len(goal) != 1 or not isinstance(goal[0], list) or not goal[0]:
        raise ValueError("the goal must be one expression, such as (And (In milk_1 basket_1_...))")
    conditions = goal[0][1:] if goal[0][0] == "and" else [goal[0]]
    if not conditions:
        raise ValueError("the goal must have a condition")
    predicates = _predicates(conditions, ":goal", {*things, *regions})
    return BddlFile(sha256, problem, instruction, categories, fixtures, predicates)


def _words(group: list[Any], section: str, count: int | None = None) -> list[str]:
    if not all(isinstance(word, str) for word in group) or len(group) != (count or len(group)):
        raise ValueError(
            f"the section {section} must hold {count or 'only'} word{'s' * (count != 1)}, "
            f"got {group}"
        )
    return list(group)


def _declared(group: list[Any], section: str) -> dict[str, str]:
    """Reads ``milk_1 milk_2 - milk``: names, a hyphen, and their category."""
    words = _words(group, section)
    categories: dict[str, str] = {}
    names: list[str] = []
    while words:
        word = words.pop(0)
        if word != "-":
            if not re.fullmatch(r"[a-z0-9_]+", word):
                raise ValueError(f"the name {word!r} must consist of letters, digits and _")
            if word in names or word in categories:
                raise ValueError(f"{word} is declared twice")
            names.append(word)
            continue
        if not names or not words:
            raise ValueError(f"the section {section} must be a list such as (milk_1 - milk)")
        categories.update(dict.fromkeys(names, words.pop(0)))
        names = []
    if names:
        raise ValueError(f"{names[0]} in {section} has no category; write ({names[0]} - milk)")
    return categories


def _regions(group: list[Any], things: dict[str, str]) -> set[str]:
    """Returns the full names of the regions: that of the target, and that of the region."""
    regions = set()
    for region in group:
        if not isinstance(region, list) or not region or not isinstance(region[0], str):
            raise ValueError(f"a region must be a list that starts with its name, got {region}")
        name, target = region[0], None
        for attribute in region[1:]:
            key = attribute[0] if isinstance(attribute, list) and attribute else attribute
            if key == ":target" and len(attribute) == 2:
                target = attribute[1]
            elif isinstance(key, str) and key in NUMBERS and len(attribute) == 2:
                _check_numbers(attribute[1], name, key)
            else:
                raise ValueError(
                    f"an attribute of the region {name} must be (:target NAME) or lists of numbers "
                    f"({', '.join(NUMBERS)}), got {attribute}"
                )
        if not isinstance(target, str):
            raise ValueError(f"the region {name} must have a (:target NAME)")
        # Files of libero_goal have regions of objects that they do not use.
        if target in things:
            regions.add(f"{target}_{name}")
    return regions


def _check_numbers(value: Any, region: str, key: str) -> None:
    size = NUMBERS[key]
    rows = [value] if key == ":rgba" else value
    for row in rows if isinstance(rows, list) else [rows]:
        if not isinstance(row, list) or len(row) != size or not all(map(_is_number, row)):
            raise ValueError(f"{key} of the region {region} must hold {size} numbers, got {row}")


def _is_number(word: Any) -> bool:
    try:
        return math.isfinite(float(word))
    except (TypeError, ValueError):
        return False


def _predicates(group: list[Any], section: str, names: set[str]) -> tuple[tuple[str, ...], ...]:
    found = []
    for predicate in group:
        if not isinstance(predicate, list) or not all(isinstance(word, str) for word in predicate):
            raise ValueError(f"a predicate of {section} must be a list of words, got {predicate}")
        name, *arguments = predicate or [""]
        if name not in PREDICATES or len(arguments) != PREDICATES[name]:
            known = ", ".join(f"{key} ({count})" for key, count in PREDICATES.items())
            raise ValueError(
                f"a predicate of {section} must be one of {known} with its number of arguments, "
                f"got {' '.join(predicate)}"
            )
        undeclared = [argument for argument in arguments if argument not in names]
        if undeclared:
            raise ValueError(
                f"{undeclared[0]} in {section} must be a declared object, fixture or region of one"
            )
        found.append((name, *arguments))
    return tuple(found)
