"""Training runs that are killed with SIGKILL at every kind of moment."""

from __future__ import annotations

import json
import random

import pytest
import torch

from srpo_env.training.checkpoint import (
    load_progress,
    load_training,
    newest_checkpoint,
    save_training,
)
from tests.faults.child_runs import Fault, run_child
from tests.faults.interrupted_runs import ToyRun

KILLED = -9

NUM_PARTS = 8
"""number of tests over which the kills at every access are spread"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted, and the number of its accesses to files."""
    run = ToyRun(tmp_path_factory.mktemp("whole"))
    ended = run.attempt()
    assert ended.exit_code == 0, ended.output
    return run, ended.accesses


# --- Saving ---


class Counter:
    """A part of a run with enough state to notice mixed files."""

    def __init__(self, value=0):
        self.value = value

    def state_dict(self):
        return {"tensor": torch.full((1000,), self.value), "number": self.value}

    def load_state_dict(self, state):
        assert torch.equal(state["tensor"], torch.full((1000,), state["number"]))
        self.value = state["number"]


SAVES = [(1, False), (1, False), (2, True), (2, True), (3, False), (3, True)]
"""iteration, and whether the checkpoint is kept"""


def save_often(folder):
    for value, (iteration, keep) in enumerate(SAVES):
        progress = {"iteration": iteration, "value": value}
        save_training(folder, {"counter": Counter(value)}, progress, keep=keep)
        (folder / "saved").write_text(str(value))


def check_kill_while_saving(folder, access):
    """Kills a child before this access; the newest checkpoint must be the last or the next one."""
    folder.mkdir()
    ended = run_child(save_often, folder, watch=folder, fault=Fault("kill", access))
    assert ended.exit_code == KILLED
    marker = folder / "saved"
    saved = int(marker.read_text() or -1) if marker.exists() else -1
    try:
        checkpoint = newest_checkpoint(folder)
    except FileNotFoundError:
        assert saved == -1
        return
    counter = Counter()
    load_training(checkpoint, {"counter": counter})
    assert load_progress(checkpoint)["value"] == counter.value
    assert saved <= counter.value <= saved + 1


@pytest.fixture(scope="module")
def num_saving_accesses(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saving")
    return run_child(save_often, folder, watch=folder).accesses


@pytest.mark.parametrize("share", [0.1, 0.27, 0.3, 0.5, 0.7, 0.9])
def test_kill_while_saving_leaves_the_newest_checkpoint(tmp_path, num_saving_accesses, share):
    check_kill_while_saving(tmp_path / "run", int(share * num_saving_accesses))


@pytest.mark.exhaustive
def test_kill_at_every_access_while_saving_leaves_the_newest_checkpoint(
    tmp_path, num_saving_accesses
):
    assert num_saving_accesses > 100
    for access in range(num_saving_accesses):
        check_kill_while_saving(tmp_path / f"{access}", access)


# --- Training ---


def test_run_that_is_killed_again_and_again_ends_as_if_it_was_not(tmp_path, whole):
    run, (straight, num_accesses) = ToyRun(tmp_path), whole
    for share in (0.45, 0.35):
        ended = run.attempt(fault=Fault("kill", int(share * num_accesses)))
        assert ended.exit_code == KILLED, ended.output
    assert run.attempt().exit_code == 0
    run.assert_equals(straight)


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_hundreds_of_kills_of_a_training_run(tmp_path, whole, part):
    """Kills at every access to a file from the start, at random accesses, and times."""
    straight, num_accesses = whole
    rng = random.Random(part)
    systematic = list(range(part, num_accesses, NUM_PARTS))
    kills = {"access": 0, "time": 0, "before the first checkpoint": 0}
    runs = 0
    while systematic:
        run = ToyRun(tmp_path / f"{runs}")
        runs += 1
        # The first kill is at the next access; the run is resumed, and killed up to twice more.
        faults = [{"fault": Fault("kill", systematic.pop())}]
        for _ in range(rng.randrange(3)):
            at_access = {"fault": Fault("kill", rng.randrange(num_accesses))}
            faults.append(rng.choice([at_access, {"kill_after": rng.uniform(0.05, 0.8)}]))
        for fault in faults:
            ended = run.attempt(**fault)
            if ended.exit_code == 0:
                break
            assert ended.exit_code == KILLED, ended.output
            name = "time" if "kill_after" in fault else "access"
            kills["before the first checkpoint" if run.saved() is None else name] += 1
        ended = run.attempt()
        assert ended.exit_code == 0, ended.output
        run.assert_equals(straight)
    print(
        f"{sum(kills.values())} kills in {runs} runs, all resumed to the bit: {json.dumps(kills)}"
    )
