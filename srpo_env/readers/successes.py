"""Reads which recorded episodes succeeded, for recordings that do not say so themselves."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from srpo_env.system.files import DamagedFileError, read_json, regular_file

MAX_BYTES = 2**26
"""Largest text file, 64 MiB: names take a few bytes each"""

WORDS = {"true": True, "1": True, "false": False, "0": False}


def read_successes(file: str | Path) -> dict[str, bool]:
    """Reads a file that names episodes and whether each of them succeeded.

    * ``*.json``: an object, such as ``{"demo_0": true, "demo_1": false}``;
    * any other name: one line for each episode, such as ``demo_0,true``; ``1`` and ``0`` are
      accepted, and so is a first line ``name,success``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has another content, or names an episode twice.
    """
    file = Path(file)
    if file.suffix == ".json":
        content = read_json(file)
        if not isinstance(content, dict) or not all(type(v) is bool for v in content.values()):
            raise ValueError(
                f"{file} must be an object of episodes, true or false, such as "
                '{"demo_0": true, "demo_1": false}'
            )
        return content
    with regular_file(file).open("rb") as stream:
        text = stream.read(MAX_BYTES + 1)
    try:
        if len(text) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        rows = list(csv.reader(text.decode("utf-8-sig").splitlines()))
    except (ValueError, csv.Error) as error:
        raise DamagedFileError(f"{file} must be a text file of lines NAME,true ({error})") from None
    return _parsed(rows, file)


def _parsed(rows: Iterable[Sequence[str]], file: Path) -> dict[str, bool]:
    successes: dict[str, bool] = {}
    for number, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and [c.lower() for c in cells] == ["name", "success"]):
            continue
        if len(cells) != 2 or not cells[0] or cells[1].lower() not in WORDS:
            raise ValueError(
                f"each line of {file} must be NAME,true or NAME,false, got {','.join(row)!r} in "
                f"line {number}"
            )
        if cells[0] in successes:
            raise ValueError(f"{file} must name each episode once, got {cells[0]} twice")
        successes[cells[0]] = WORDS[cells[1].lower()]
    return successes


def assign_successes(
    successes: Mapping[str, bool], episodes: Mapping[str, Sequence[str]], file: str | Path
) -> dict[str, dict[str, bool]]:
    """Finds the episodes that are named, and checks that each of them is named once.

    Args:
        successes: Whether an episode succeeded, by its name: that in its recording, such as
            ``demo_0``, or, if several recordings have an episode of this name, with the name of
            the recording, such as ``walk_demo.hdf5:demo_0``.
        episodes: The names of the episodes of each recording, by the recording's path.
        file: Where the names come from, for errors.

    Returns:
        For each recording, whether its episodes succeeded, by their name there.

    Raises:
        ValueError: If an episode is not named or is named twice, or a name is unknown or stands for
            several episodes.
    """
    places: dict[str, list[tuple[str, str]]] = {}
    for source, names in episodes.items():
        for name in names:
            for key in {name, f"{Path(source).name}:{name}", f"{source}:{name}"}:
                places.setdefault(key, []).append((source, name))
    found: dict[str, dict[str, bool]] = {source: {} for source in episodes}
    for key, success in successes.items():
        named = places.get(key, [])
        if not named:
            some = next((f"{names[0]}" for names in episodes.values() if names), "none")
            raise ValueError(f"{file} names {key!r}, and there is no such episode; one is {some!r}")
        if len(named) > 1:
            raise ValueError(
                f"{file} names {key!r}, which {len(named)} recordings have: write "
                f"{named[0][0]}:{named[0][1]}"
            )
        ((source, name),) = named
        if name in found[source]:
            raise ValueError(f"{file} must name each episode once, got {name} of {source} twice")
        found[source][name] = success
    for source, names in episodes.items():
        missing = [name for name in names if name not in found[source]]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ValueError(
                f"{file} must name each episode, and lacks {missing[0]}{more} of {source}"
            )
    return found
