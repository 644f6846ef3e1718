"""Recorded episodes with known answers: every frame shows the position."""

from __future__ import annotations

import numpy as np

from srpo_env.offline import RecordedEpisode


def recorded(end, success, task="walk", num_frames=11, name="episode"):
    """Returns an episode that moves evenly to ``end``; all pixels of a frame are the position."""
    positions = np.linspace(0, end, num_frames).round().astype(np.uint8)
    video = np.tile(positions[:, None, None, None], (1, 4, 4, 3))
    return RecordedEpisode(name=name, task=task, success=success, video=video, source="toy.hdf5")


def walks(successes=(100, 102, 104), failures=(50, 60), task="walk"):
    return [recorded(end, True, task) for end in successes] + [
        recorded(end, False, task) for end in failures
    ]


class LastPosition:
    """Sees progress: the latent is the last frame's position."""

    latent_shape = (1,)

    def encode(self, videos):
        return np.array([[video[-1, 0, 0, 0]] for video in videos], np.float32)


class Blind:
    """Gives every video the same latent."""

    latent_shape = (1,)

    def encode(self, videos):
        return np.zeros((len(videos), 1), np.float32)


class Noise:
    """Gives every video an independent random latent."""

    latent_shape = (16,)

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def encode(self, videos):
        return self.rng.standard_normal((len(videos), 16)).astype(np.float32)
