import json

import pytest
import torch

from srpo_env.training.checkpoint import load_training, newest_checkpoint, save_training
from tests.policy.fakes import INSTRUCTION, make_observations, make_policy


def make_run(seed=0):
    policy = make_policy(seed)
    return policy, torch.optim.AdamW(policy.parameters(), lr=1e-3), torch.Generator().manual_seed(1)


def train(policy, optimizer, generator):
    inputs = policy.prepare(make_observations(), [INSTRUCTION] * 3)
    tokens, _ = policy.sample(inputs, generator=generator)
    optimizer.zero_grad()
    policy.log_probs(inputs, tokens)[0].sum().backward()
    optimizer.step()


def test_a_run_goes_on_from_its_checkpoint_to_the_bit(tmp_path):
    whole = make_run()
    train(*whole)
    path = save_training(tmp_path, *whole, {"iteration": 1, "rates": [0.5]})
    train(*whole)
    other = make_run(seed=9)
    assert load_training(path, *other) == {"iteration": 1, "rates": [0.5]}
    train(*other)
    pairs = zip(whole[0].parameters(), other[0].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_averages_in_any_memory_order_are_saved(tmp_path):
    policy, optimizer, generator = run = make_run()
    train(*run)
    for state in optimizer.state.values():
        if state["exp_avg"].ndim == 4:  # as AdamW keeps those of channels-last convolutions
            state["exp_avg"] = state["exp_avg"].to(memory_format=torch.channels_last)
    path = save_training(tmp_path, policy, optimizer, generator, {"iteration": 0})
    other = make_run()
    load_training(path, *other)
    for index, saved in optimizer.state_dict()["state"].items():
        assert torch.equal(saved["exp_avg"], other[1].state_dict()["state"][index]["exp_avg"])


def test_the_newest_is_the_one_with_most_iterations(tmp_path):
    run = make_run()
    for iteration in (9, 12_000, 110):
        save_training(tmp_path, *run, {"iteration": iteration})
    assert newest_checkpoint(tmp_path).name == "iteration_12000"


def test_an_interrupted_one_counts_only_if_it_came_further(tmp_path):
    run = make_run()
    save_training(tmp_path, *run, {"iteration": 10})
    save_training(tmp_path, *run, {"iteration": 10}, interrupted=True)
    assert newest_checkpoint(tmp_path).name == "iteration_0010"
    save_training(tmp_path, *run, {"iteration": 13}, interrupted=True)
    assert newest_checkpoint(tmp_path).name == "iteration_0013_interrupted"


def test_a_checkpoint_that_was_cut_off_while_it_was_written_is_not_one(tmp_path, monkeypatch):
    run = make_run()
    save_training(tmp_path, *run, {"iteration": 10})

    def power_cut(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("srpo_env.training.checkpoint.save_file", power_cut)
    with pytest.raises(KeyboardInterrupt):
        save_training(tmp_path, *run, {"iteration": 20})
    assert newest_checkpoint(tmp_path).name == "iteration_0010"


def test_the_policy_carries_how_it_came_about(tmp_path):
    path = save_training(tmp_path, *make_run(), {"agent": "test", "iteration": 3})
    header = json.loads((path / "policy.json").read_text())
    assert header["provenance"] == {"agent": "test", "iteration": 3}


def test_a_damaged_file_is_named(tmp_path):
    run = make_run()
    path = save_training(tmp_path, *run, {"iteration": 0})
    (path / "training.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(ValueError, match=r"training\.safetensors is damaged"):
        load_training(path, *run)


def test_a_folder_without_checkpoints_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="a run with checkpoints"):
        newest_checkpoint(tmp_path)
