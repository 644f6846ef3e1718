"""Compares the folders of two runs."""

import json

import numpy as np
from safetensors.torch import load_file

from srpo_env.training.checkpoint import newest_checkpoint

TIMES = {"seconds", "charts/steps_per_second", "charts/encoding_share"}


def only_folder(run_dir):
    (folder,) = run_dir.iterdir()
    return folder


def metrics_of(folder):
    """Everything that a run logged except times."""
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k not in TIMES} for x in lines]


def recordings_of(folder):
    """The content of the files with recorded episodes, by name."""
    return {file.name: file.read_bytes() for file in (folder / "episodes").glob("*")}


def assert_same_run(first, second):
    """Two runs logged and recorded the same, and end in the same state, to the bit."""
    assert metrics_of(first) == metrics_of(second)
    assert recordings_of(first) == recordings_of(second)
    ends = [newest_checkpoint(folder) for folder in (first, second)]
    assert ends[0].name == ends[1].name
    for name in ("policy", "training"):
        states = [load_file(end / f"{name}.safetensors") for end in ends]
        assert states[0].keys() == states[1].keys()
        for key in states[0]:
            np.testing.assert_array_equal(states[0][key], states[1][key], err_msg=key)
    parts = [json.loads((end / "training.json").read_text())["parts"] for end in ends]
    assert parts[0] == parts[1]
