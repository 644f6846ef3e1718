"""The bundled world model, with episodes from the simulator."""

import json

import numpy as np
import pytest

pytest.importorskip("transformers")

from srpo_env import SelfReferentialProgressWrapper, relabel
from srpo_env.encoders.named import WORLD_MODEL, named_encoder
from srpo_env.encoders.vjepa2 import GRID_DIM, find_checkpoint
from srpo_env.rewards.distances import remaining_share
from tests.corridor import GIVE_UP, drive, make_corridor


def test_it_is_small_and_has_provenance():
    folder = find_checkpoint(WORLD_MODEL)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 20e6
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["agent"] == "world_model"
    assert "/" not in json.dumps(provenance)


def test_it_is_the_wrappers_default():
    envs = SelfReferentialProgressWrapper(make_corridor(2), group_size=2)
    envs.reset(seed=0)
    list(drive(envs, [(GIVE_UP, GIVE_UP)]))
    envs.close_groups()
    latents = [e.latent for group in envs.pop_groups() for e in group.episodes]
    assert len(latents) == 2
    # Two clips of sixteen frames have eight moments each.
    assert [latent.shape for latent in latents] == [(16, GRID_DIM)] * 2
    assert envs.reward.distance is remaining_share


@pytest.mark.libero
@pytest.mark.slow
def test_it_ranks_failures_by_progress():
    from srpo_env.libero.behaviours import play
    from srpo_env.libero.simulation import Simulation
    from srpo_env.libero.suites import get_task

    simulation = Simulation(get_task("libero_object", 0), 128)
    kinds = ("expert", "noisy", "stops_in_carry", "stops_in_grasp", "takes_another", "random")
    # From an initial state that training never uses.
    episodes = [play(simulation, kind, 45, 1, max_steps=160) for kind in kinds]
    simulation.close()
    successes = np.array([episode.success for episode in episodes])
    assert successes.tolist() == [True, True, False, False, False, False]
    encoder = named_encoder()
    latents = encoder.encode([episode.frames for episode in episodes])
    rewards = relabel(latents, successes).rewards
    carried, grasped, another, random = rewards[2:]
    assert carried > grasped > max(another, random)
