import json

import numpy as np
import pytest
import torch

from srpo_env.training.checkpoint import (
    load_progress,
    load_training,
    newest_checkpoint,
    save_training,
)
from tests.policy.fakes import INSTRUCTION, make_observations, make_policy


class Run:
    """Everything that a small run consists of."""

    def __init__(self, seed=0):
        self.policy = make_policy(seed)
        optimizer = torch.optim.AdamW(self.policy.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=10)
        self.parts = {
            "optimizer": optimizer,
            "schedule": schedule,
            "generator": torch.Generator().manual_seed(seed),
            "numpy": np.random.default_rng(seed),
            "other": State(seed),
        }

    def train(self):
        inputs = self.policy.prepare(make_observations(), [INSTRUCTION] * 3)
        tokens, _ = self.policy.sample(inputs, generator=self.parts["generator"])
        self.parts["optimizer"].zero_grad()
        scale = self.parts["numpy"].uniform()
        (scale * self.policy.log_probs(inputs, tokens)[0].sum()).backward()
        self.parts["optimizer"].step()
        self.parts["schedule"].step()

    def save(self, folder, iteration=0, **settings):
        progress = {"iteration": iteration}
        return save_training(folder, self.parts, progress, policy=self.policy, **settings)

    def load(self, checkpoint):
        load_training(checkpoint, self.parts, self.policy)


class State:
    """State of every kind that can be saved."""

    def __init__(self, seed):
        self.state = {
            "array": np.arange(seed + 3.0), "flags": np.array([True, False]), "count": seed,
            "text": '{"a": 1}', "bytes": b"PK\x00\x01", "tensor": torch.zeros(0, 4),
            "rates": [0.5, float("nan")],
        }  # fmt: skip

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def test_run_resumes_to_the_bit(tmp_path):
    whole, resumed = Run(), Run(seed=9)
    whole.train()
    path = whole.save(tmp_path)
    resumed.load(path)
    for run in (whole, resumed):
        run.train()
        run.train()
    pairs = zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_state_of_every_kind_is_restored(tmp_path):
    saved, loaded = Run(seed=1), Run()
    loaded.load(saved.save(tmp_path))
    before, after = saved.parts["other"].state, loaded.parts["other"].state
    assert before.keys() == after.keys()
    for name in ("array", "flags"):
        np.testing.assert_array_equal(after[name], before[name])
        assert after[name].dtype == before[name].dtype
    assert torch.equal(after["tensor"], before["tensor"])
    assert (after["count"], after["text"]) == (1, '{"a": 1}')
    assert after["bytes"] == before["bytes"]
    np.testing.assert_equal(after["rates"], before["rates"])


def test_moments_in_any_memory_order_are_saved(tmp_path):
    run, other = Run(), Run()
    run.train()
    moments = run.parts["optimizer"].state
    for state in moments.values():
        if state["exp_avg"].ndim == 4:  # as AdamW keeps those of channels-last convolutions
            state["exp_avg"] = state["exp_avg"].to(memory_format=torch.channels_last)
    other.load(run.save(tmp_path))
    restored = other.parts["optimizer"].state_dict()["state"]
    for index, saved in run.parts["optimizer"].state_dict()["state"].items():
        assert torch.equal(saved["exp_avg"], restored[index]["exp_avg"])


def test_newest_checkpoint_has_the_most_iterations(tmp_path):
    for iteration in (9, 12_000, 110):
        Run().save(tmp_path, iteration)
    assert newest_checkpoint(tmp_path).name == "iteration_12000"


def test_temporary_checkpoint_is_replaced_by_the_next(tmp_path):
    run = Run()
    for iteration, keep in ((10, True), (11, False), (12, False)):
        run.save(tmp_path, iteration, keep=keep)
    assert newest_checkpoint(tmp_path).name == "iteration_0012_temporary"
    run.save(tmp_path, 12)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["iteration_0010", "iteration_0012"]


@pytest.mark.parametrize("moment", ["save_tensors", "flush_to_disk"])
def test_interrupted_write_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, moment):
    run = Run()
    run.save(tmp_path, 10, keep=False)

    def power_cut(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"srpo_env.training.checkpoint.{moment}", power_cut)
        with pytest.raises(KeyboardInterrupt):
            run.save(tmp_path, 20, keep=False)
    assert newest_checkpoint(tmp_path).name == "iteration_0010_temporary"
    run.save(tmp_path, 20, keep=False)
    assert newest_checkpoint(tmp_path).name == "iteration_0020_temporary"


def test_policy_has_the_progress_as_its_provenance(tmp_path):
    path = Run().save(tmp_path, 3)
    header = json.loads((path / "policy.json").read_text())
    assert header["provenance"] == load_progress(path) == {"iteration": 3}


def test_damaged_tensors_are_refused(tmp_path):
    path = Run().save(tmp_path)
    (path / "training.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(ValueError, match=r"training\.safetensors is damaged"):
        Run().load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged: it is not valid JSON"),
        ("[]", "is not a file of format 'srpo-env training'"),
        ('{"iteration": 3}', "is not a file of format 'srpo-env training'"),
        (
            '{"format": "srpo-env training", "format_version": 99}',
            "must have format version 1, got 99: use the version of srpo-env that wrote it",
        ),
    ],
)
def test_damaged_values_and_other_versions_are_refused(tmp_path, content, message):
    path = Run().save(tmp_path)
    (path / "training.json").write_text(content)
    with pytest.raises(ValueError, match=rf"training\.json {message}"):
        Run().load(path)


def test_checkpoint_of_another_agent_is_refused(tmp_path):
    path = Run().save(tmp_path)
    other = Run()
    del other.parts["generator"]
    with pytest.raises(ValueError, match="it was written by another agent"):
        other.load(path)


def test_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="a run with checkpoints"):
        newest_checkpoint(tmp_path)
