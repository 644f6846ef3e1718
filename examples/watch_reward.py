"""Show a failure beside its nearest success, and how their distance grows over time.

    python examples/watch_reward.py
    python examples/watch_reward.py --recording FILE.hdf5   # LIBERO's layout

Writes watch_reward.png and watch_reward.gif. The curve is the distance between the latents of both
episodes up to a time; the reward is computed from its last value. Needs `pip install matplotlib`,
and for recordings with the default encoder `pip install 'srpo-env[encoders]' h5py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.animation import FuncAnimation, PillowWriter
from your_encoder import Video, WalkerEncoder, play

from srpo_env import TrajectoryEncoder, relabel
from srpo_env.encoders.named import HELP, WORLD_MODEL, named_encoder
from srpo_env.encoders.protocol import reward_for
from srpo_env.offline import read_libero

FAILURE, SUCCESS = "#c0392b", "#2e86c1"


def main(
    folder: Path, recording: Path | None, num_moments: int, encoder_name: str = WORLD_MODEL
) -> None:
    """Selects the failure with the median reward, and draws it."""
    encoder: TrajectoryEncoder
    if recording is None:
        rng = np.random.default_rng(1)
        episodes = [play(rng, size=64)[:2] for _ in range(16)]
        encoder = WalkerEncoder()
    else:
        episodes = [(episode.video, episode.success) for episode in read_libero(recording)]
        encoder = named_encoder(encoder_name)
    videos = [video for video, _ in episodes]
    successes = np.array([success for _, success in episodes])
    if successes.all() or not successes.any():
        raise SystemExit("There must be at least one success and one failure to compare.")

    latents = encoder.encode(videos)
    reward = reward_for(encoder, None)
    rewards = relabel(latents, successes, reward=reward).rewards
    failures = np.flatnonzero(~successes)
    failure = failures[np.argsort(rewards[failures])[len(failures) // 2]]
    _, nearest = reward.measure(latents[[failure]], latents[successes])
    success = np.flatnonzero(successes)[nearest[0]]

    shares = np.linspace(0.0, 1.0, num_moments)
    curve = np.empty(num_moments)
    for moment, share in enumerate(shares):
        pair = encoder.encode([_until(videos[index], share) for index in (failure, success)])
        curve[moment] = reward.measure(pair[:1], pair[1:])[0][0]
    title = f"reward {rewards[failure]:.2f}, {type(encoder).__name__}"
    folder.mkdir(parents=True, exist_ok=True)
    draw_picture(videos[failure], videos[success], shares, curve, title, folder)
    draw_video(videos[failure], videos[success], shares, curve, title, folder)
    print(f"The failure earned {rewards[failure]:.2f}. Distance after each tenth of the episode:")
    print("  ".join(f"{value:.2f}" for value in np.interp(np.linspace(0, 1, 11), shares, curve)))
    print(f"{folder / 'watch_reward.png'}\n{folder / 'watch_reward.gif'}")


def _until(video: Video, share: float) -> Video:
    """Returns the first part of a video, at least one frame."""
    return video[: 1 + round(share * (len(video) - 1))]


def draw_picture(
    failure: Video,
    success: Video,
    shares: npt.NDArray[np.float64],
    curve: npt.NDArray[np.float64],
    title: str,
    folder: Path,
) -> None:
    """Draws both episodes as strips of six frames above the curve."""
    figure = plt.figure(figsize=(9, 6), layout="constrained")
    strips = figure.add_gridspec(3, 6, height_ratios=(1, 1, 1.4))
    for column, share in enumerate(np.linspace(0, 1, 6)):
        for row, (video, color) in enumerate(((failure, FAILURE), (success, SUCCESS))):
            axes = figure.add_subplot(strips[row, column])
            _show(axes, _until(video, share)[-1], color)
            if row == 0:
                axes.set_title(f"{share:.0%}")
            if column == 0:
                axes.set_ylabel("failure" if row == 0 else "nearest success", color=color)
    axes = figure.add_subplot(strips[2, :])
    _plot(axes, shares, curve)
    axes.set_title(title)
    figure.savefig(folder / "watch_reward.png", dpi=100)
    plt.close(figure)


def draw_video(
    failure: Video,
    success: Video,
    shares: npt.NDArray[np.float64],
    curve: npt.NDArray[np.float64],
    title: str,
    folder: Path,
) -> None:
    """Draws both episodes side by side as a video, with the growing curve below."""
    figure, panels = plt.subplot_mosaic(
        [["failure", "success"], ["curve", "curve"]],
        figsize=(5, 4.5),
        layout="constrained",
        height_ratios=(1.6, 1),
    )
    figure.suptitle(title, fontsize=10)
    images = [
        _show(panels["failure"], failure[0], FAILURE),
        _show(panels["success"], success[0], SUCCESS),
    ]
    panels["failure"].set_title("failure", color=FAILURE)
    panels["success"].set_title("nearest success", color=SUCCESS)
    _plot(panels["curve"], shares, curve, alpha=0.2)
    (line,) = panels["curve"].plot([], [], color=FAILURE)

    def show(moment: int) -> list[Any]:
        for image, video in zip(images, (failure, success), strict=True):
            image.set_data(_until(video, shares[moment])[-1])
        line.set_data(shares[: moment + 1], curve[: moment + 1])
        return [*images, line]

    # The last frame is repeated for a second, so that the end can be seen before the loop restarts.
    moments = [*range(len(shares)), *[len(shares) - 1] * 10]
    animation = FuncAnimation(figure, show, moments)
    animation.save(folder / "watch_reward.gif", writer=PillowWriter(fps=10), dpi=80)
    plt.close(figure)


def _show(axes: Any, frame: Video, color: str) -> Any:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_edgecolor(color)
        spine.set_linewidth(2)
    return axes.imshow(frame, interpolation="nearest")


def _plot(
    axes: Any,
    shares: npt.NDArray[np.float64],
    curve: npt.NDArray[np.float64],
    alpha: float = 1.0,
) -> None:
    axes.plot(shares, curve, color=FAILURE, alpha=alpha)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.1 * curve.max())
    axes.set_xlabel("share of the episode")
    axes.set_ylabel("distance")
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    parser.add_argument("--recording", type=Path, help="file with recorded episodes")
    parser.add_argument("--encoder", default=WORLD_MODEL, help=f"of a recording: {HELP}")
    parser.add_argument("--num-moments", type=int, default=41, help="default: %(default)s")
    args = parser.parse_args()
    main(args.folder, args.recording, args.num_moments, args.encoder)
