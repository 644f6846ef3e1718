"""Toy episodes: a bright square slides from left to right and succeeds at the right edge."""

from __future__ import annotations

import numpy as np

from srpo_env.libero.behaviour_files import BehaviourEpisode, writing_behaviours

SIZE, WIDTH = 32, 4


def slide(places, task_id=0, init_state_id=0, seed=0, kind="slide"):
    """Makes an episode from the places of the square, in [0, 1]; it succeeds if the last is 1."""
    frames = np.full((len(places), SIZE, SIZE, 3), 40 + 10 * task_id, np.uint8)
    for frame, place in zip(frames, places, strict=True):
        left, top = round(place * (SIZE - WIDTH)), 10 + 2 * init_state_id
        frame[top : top + WIDTH, left : left + WIDTH] = 255
    noise = np.random.default_rng(seed).integers(0, 3, frames.shape, np.uint8)
    progress = np.array(places, np.float64)
    success = bool(progress[-1] == 1.0)
    return BehaviourEpisode(
        task_id, init_state_id, kind, seed, success, 8 * len(places), frames - noise, progress
    )


def toy_episodes(task_id=0, num_states=2):
    """Makes three successes, and five failures that stop earlier, for each initial state."""
    episodes = []
    for state in range(num_states):
        for number in range(3):
            places = np.linspace(0, 1, 8 + number)
            episodes.append(slide(places, task_id, state, seed=number, kind="success"))
        for number in range(5):
            places = np.minimum(np.linspace(0, 1, 12), 0.15 + 0.17 * number + 0.01 * state)
            episodes.append(slide(places, task_id, state, seed=number, kind=f"stops_{number}"))
    return episodes


def write_episodes(folder, task_ids=(0, 1)):
    """Writes one file per task, in the format of ``srpo-env record-behaviours``."""
    folder.mkdir()
    return tuple(
        write_file(folder / f"task_{task_id}.hdf5", toy_episodes(task_id)) for task_id in task_ids
    )


def write_file(path, episodes):
    with writing_behaviours(path, {"chunk": 8, "max_steps": 96, "assets": "toy"}) as write:
        for episode in episodes:
            write(episode)
    return path
