"""The part of a run's HTML page that shows its sampled episodes: videos, potential and rewards."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from srpo_env.system.files import DamagedFileError
from srpo_env.training import page_charts as charts
from srpo_env.training.episode_files import Recording, SampledEpisode, SampledGroup
from srpo_env.types import even_indices

MAX_RECORDINGS = 4
"""number of iterations whose episodes are shown, the first and the newest among them"""

POTENTIAL_SIZE = (6.8, 3.1)
"""width and height of a chart in inches"""


def episodes_html(recordings: Sequence[Recording], name_of: Callable[[int | str], str]) -> str:
    """Returns sampled failures, each beside its nearest success, the newest iteration first.

    Args:
        recordings: What the run has recorded, in order.
        name_of: Returns the name of a task.

    Raises:
        DamagedFileError: If the frames of an episode are not a picture of them.
    """
    if not recordings:
        return '<p class="soft">No episodes were recorded yet.</p>'
    rows = sorted(set(even_indices(len(recordings), MAX_RECORDINGS).tolist()), reverse=True)
    text = (
        '<p class="soft">The videos show the camera before every decision of the policy, at twice '
        "the speed. The progress potential is the part of the nearest success that the episode has "
        "covered by then. The line below it shows the rewards of all episodes of the group, "
        "failures in orange, successes in blue, this failure framed: a reward ranks a failure "
        "among those of its group, the potential does not depend on them. "
        f"Shown are {len(rows)} of {len(recordings)} iterations that were recorded.</p>"
    )
    for row in rows:
        recording = recordings[row]
        try:
            groups = "".join(_group(group, name_of) for group in recording.groups)
        except ValueError as error:
            raise DamagedFileError(
                f"the episodes of iteration {recording.iteration} are damaged: {error}"
            ) from error
        is_open = " open" if row == rows[0] else ""
        text += (
            f'<details class="card"{is_open}><summary>Iteration {recording.iteration}</summary>'
            f"{groups or '<p>No episode failed.</p>'}</details>"
        )
    return text


def _group(group: SampledGroup, name_of: Callable[[int | str], str]) -> str:
    won, size = int(group.successes.sum()), len(group.rewards)
    perturbation = f", perturbed by {escape(group.perturbation)}" if group.perturbation else ""
    text = (
        f"<p><b>{escape(name_of(group.task_id))}</b>, initial state {group.init_state_id}"
        f"{perturbation}: "
        f"{won} of {size} episodes succeeded</p>"
    )
    pairs = "".join(_pair(group, failure, success) for failure, success in group.pairs)
    return f'<div class="group">{text}{pairs}</div>'


def _pair(group: SampledGroup, row: int, nearest: int | None) -> str:
    failure = group.episodes[row]
    success = None if nearest is None else group.episodes[nearest]
    num_steps = max(e.num_steps for e in (failure, success) if e is not None)
    rewards = group.rewards[~group.successes]
    rank = 1 + int((rewards > group.rewards[row]).sum())
    earned = f"reward {group.rewards[row]:.2f}, " + (
        f"rank {rank} of {len(rewards)} failures" if np.ptp(rewards) else "as all failures"
    )
    videos = _video("failure", failure, f"Failure, {failure.num_steps} steps: {earned}")
    if success is None:
        videos += '<div class="video none">no success to compare with</div>'
    else:
        text = f"Nearest success, {success.num_steps} steps: reward {group.rewards[nearest]:.2f}"
        videos += _video("success", success, text)
    return (
        f'<div class="pair">{videos}<div>{_potential(failure, success, num_steps)}'
        '<div class="controls"><button aria-label="play or pause">&#9654;</button>'
        f'<input type="range" min="0" max="{num_steps}" value="0" aria-label="control step">'
        f"<output></output></div>{_rewards(group, row)}</div></div>"
    )


def _video(kind: str, episode: SampledEpisode, text: str) -> str:
    caption = f"<figcaption>{escape(text)}</figcaption>"
    count = len(episode.frame_steps)
    if not count:
        empty = '<div class="video none">this policy keeps no images</div>'
        return f'<figure class="{kind}">{empty}{caption}</figure>'
    _check_jpeg(episode.strip, count)
    source = base64.b64encode(episode.strip).decode()
    steps = ",".join(map(str, episode.frame_steps))
    style = f"background-image: url(data:image/jpeg;base64,{source}); "
    style += f"background-size: {100 * count}% 100%"
    return (
        f'<figure class="{kind}"><div class="video" role="img" aria-label="{kind}" '
        f'data-steps="{steps}" style="{style}"></div>{caption}</figure>'
    )


def _check_jpeg(content: bytes, num_frames: int) -> None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as picture:
            width = picture.width
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"frames must be a JPEG picture ({error})") from error
    if width % num_frames:
        raise ValueError(f"{num_frames} frames must be side by side in {width} pixels")


def _potential(failure: SampledEpisode, success: SampledEpisode | None, num_steps: int) -> str:
    if not len(failure.potential):
        reason = (
            "there is no success to compare with"
            if success is None
            else "only rewards that compare videos moment by moment, and the oracle, measure it"
        )
        return f'<p class="soft">No progress potential: {reason}.</p>'
    shown = success if success is not None and len(success.potential) else None
    source = charts.svg(
        lambda axes: charts.potential_chart(axes, failure, shown, num_steps),
        POTENTIAL_SIZE,
        charts.POTENTIAL_AREA,
    )
    left, bottom, width, height = (100 * x for x in charts.POTENTIAL_AREA)
    style = f"left: {left:g}%; top: {100 - bottom - height:g}%; height: {height:g}%"
    return (
        f'<div class="chart"><img alt="progress potential over control steps" src="{source}">'
        f'<div class="cursor" data-left="{left:g}" data-width="{width:g}" style="{style}"></div>'
        "</div>"
    )


def _rewards(group: SampledGroup, shown: int) -> str:
    dots = ""
    for row, (reward, won) in enumerate(zip(group.rewards, group.successes, strict=True)):
        kind = ("won " if won else "") + ("shown" if row == shown else "")
        place = 100 * min(max(float(reward), 0.0), 1.0)
        title = f"{'success' if won else 'failure'}, reward {reward:.2f}"
        dots += f'<i class="{kind}" style="left: {place:.1f}%" title="{title}"></i>'
    ends = '<span style="left: 0">0</span><span style="left: 50%">reward</span>'
    return f'<div class="rewards">{dots}{ends}<span style="left: 100%">1</span></div>'
