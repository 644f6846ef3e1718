"""Files that are damaged or were made to do harm, and a reader's memory measured in a process."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]

MARKER = "executed"
"""Name of the file that a payload creates beside itself if it is executed"""


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, folder):
        self.marker = str(Path(folder) / MARKER)

    def __reduce__(self):
        return (open, (self.marker, "w"))


def was_executed(folder):
    return (Path(folder) / MARKER).exists()


def pickled(folder):
    return pickle.dumps(Payload(folder))


def npz_with_pickle(folder):
    array = np.empty(1, object)
    array[0] = Payload(folder)
    stream = io.BytesIO()
    np.savez(stream, header=array, states=array, whole=array, lengths=array)
    return stream.getvalue()


def npy(shape, dtype="<f8", data=b"", version=(1, 0)):
    """An array of the format .npy whose header declares this shape, whatever data it has."""
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header + data


def archive(compression=zipfile.ZIP_STORED, **members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return stream.getvalue()


def overlapping_archive(copies=400, size=2**20):
    """A zip file in which all entries share the same bytes, after David Fifield (2019)."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a0.npy", npy((size,), "|u1", b"\0" * size))
        first = file.filelist[0]
        for number in range(1, copies):
            copy = zipfile.ZipInfo(f"a{number}.npy")
            copy.CRC, copy.header_offset = first.CRC, first.header_offset
            copy.compress_size = copy.file_size = first.file_size
            file.filelist.append(copy)
            file.NameToInfo[copy.filename] = copy
        # Writes the directory again.
        file._didModify = True
    return stream.getvalue()


def archive_that_declares(size):
    """An archive of 128 MB of zeros whose directory says that they are ``size`` bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", npy((1,), data=b"\0" * 8) + b"\0" * 2**27)
        file.filelist[0].file_size = size
    return stream.getvalue()


def npz_attacks(folder):
    """Functions that make archives, by name; none of them may be read."""
    good = archive(header=npy((1,), data=b"\0" * 8))
    return {
        "pickle": lambda: npz_with_pickle(folder),
        "bare pickle": lambda: pickled(folder),
        "declares 8 TB": lambda: archive(header=npy((2**40,))),
        "declares more than 64 bits": lambda: archive(header=npy((2**62, 2**62))),
        "negative shape": lambda: archive(header=npy((-1,), data=b"\0" * 8)),
        "no bytes per item": lambda: archive(header=npy((2**60,), "<U0")),
        "bomb": lambda: archive(
            zipfile.ZIP_DEFLATED, header=npy((2**27,), "|u1", b"\0" * 2**27)
        ),
        "bomb that declares 136 bytes": lambda: archive_that_declares(136),
        "overlapping": lambda: overlapping_archive(),
        "nested header": lambda: archive(header=npy((), "(" * 5000 + ")" * 5000)),
        "long header": lambda: archive(header=b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1)),
        "other version": lambda: archive(header=npy((1,), data=b"\0" * 8, version=(9, 0))),
        "no array": lambda: archive(header=b"not an array"),
        "traversal without content": lambda: archive(**{"../../escaped": b""}),
        "truncated": lambda: good[: len(good) // 2],
        "empty": lambda: b"",
        "text": lambda: b"{}",
    }  # fmt: skip


JSON_ATTACKS = {
    "empty": "",
    "truncated": '{"format": ',
    "not UTF-8": b"\xff\xfe\x00",
    "nested": "[" * 200_000 + "]" * 200_000,
    "nested objects": '{"a":' * 200_000,
    "duplicate keys": '{"format": "a", "format": "srpo-env policy"}',
    "huge integer": '{"format": ' + "9" * 10_000 + "}",
    "two values": "{}{}",
    "code": '__import__("os")',
}
"""Texts by name; none of them may be parsed"""

OTHER_JSON = ["[]", "null", "3", '"text"', "NaN", "{}", '{"format": NaN}', '{"format": [1]}']
"""Valid JSON that no reader here expects"""


def safetensors(header, data=b"", length=None):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + data


def tensor(shape=(2,), dtype="F32", offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


SAFETENSORS_ATTACKS = {
    "huge header": safetensors(b"{}", length=2**40),
    "overflowing header": safetensors(b"{}", length=2**64 - 1),
    "offsets beyond the end": safetensors({"a": tensor(offsets=(0, 2**40))}, b"\0" * 8),
    "reversed offsets": safetensors({"a": tensor(offsets=(8, 0))}, b"\0" * 8),
    "shape beyond the data": safetensors({"a": tensor((2**40,))}, b"\0" * 8),
    "overflowing shape": safetensors({"a": tensor((2**62, 8))}, b"\0" * 8),
    "overlapping": safetensors({"a": tensor(), "b": tensor()}, b"\0" * 8),
    "type of Python": safetensors({"a": tensor(dtype="OBJ")}, b"\0" * 8),
    "type that cannot be computed with": safetensors({"a": tensor((16,), "F4")}, b"\0" * 8),
    "nested": safetensors(b"[" * 100_000),
    "empty": b"",
    "short": b"123",
}
"""Files by name; none of them may be read"""


def unreadable_paths(folder):
    """Paths by name that are not regular files."""
    folder = Path(folder)
    (folder / "a folder").mkdir()
    (folder / "a loop").symlink_to(folder / "a loop")
    (folder / "a broken link").symlink_to(folder / "nothing")
    os.mkfifo(folder / "a pipe")
    return [folder / name for name in ("a folder", "a loop", "a broken link", "a pipe", "nothing")]


BOUNDED = """
import resource, sys
{imports}
# What is mapped already, and the given number of bytes more.
mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = mapped + {limit}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
failures = []
for name, attack in {attacks}:
    try:
        attack()
    except (ValueError, OSError) as error:
        # Refused because memory ran out, it would have been accepted on a larger machine.
        cause = error
        while cause is not None:
            if isinstance(cause, MemoryError) or "allocate" in str(cause):
                failures.append(f"{{name}}: {{type(cause).__name__}}: {{cause}}")
                break
            cause = cause.__cause__
    except BaseException as error:
        failures.append(f"{{name}}: {{type(error).__name__}}: {{error}}")
    else:
        failures.append(f"{{name}}: accepted")
print("\\n".join(failures))
"""


def failures_in_bounded_memory(imports, attacks, limit=2**28):
    """Runs attacks in a process that may allocate ``limit`` bytes; returns what was not refused.

    Args:
        imports: Code that imports what the attacks need.
        attacks: Expression of an iterable of names and callables.
        limit: Bytes that may be allocated after the imports; 256 MiB.
    """
    script = BOUNDED.format(imports=imports, attacks=attacks, limit=limit)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
