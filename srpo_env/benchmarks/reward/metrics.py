"""How good a progress reward is, in numbers: pure functions over arrays.

First what training needs, the ranking of failures; then the five figures of the paper, which are
about curves of progress over growing windows of an episode.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

Floats = npt.NDArray[np.float64]

STAGE = 0.2
"""true progress that one of the five stages is worth"""

MMD_BANDWIDTH = 0.1
"""standard deviation of the Gaussian kernel, in progress, which is in [0, 1]"""

JS_BINS = 20
"""bins of equal width over [0, 1]"""


# --- Ranking of failures --------------------------------------------------------------------------


def rank_sums(truths: Floats, scores: Floats, weights: Floats | None = None) -> Floats:
    """What Kendall's tau-b is made of; sums over tasks or groups make the tau of all their pairs.

    Args:
        truths: Of ``n`` episodes, ``(n,)``.
        scores: Large is good, ``(n,)``.
        weights: How often each episode counts, ``(num_samples, n)``; default: once. An episode
            that a bootstrap draws twice is no pair with itself.

    Returns:
        Twice the pairs in the right order less those in the wrong one, those that differ in truth,
        and those that differ in score; ``(3, num_samples)``.
    """
    counts = np.ones((1, len(truths))) if weights is None else weights
    true, scored = _signs(truths), _signs(scores)
    return np.stack([_pairs(counts, matrix) for matrix in (true * scored, true**2, scored**2)])


def kendall_tau(sums: Floats) -> Floats:
    """Kendall's tau-b of `rank_sums`; 1: same order, -1: reversed.

    Args:
        sums: ``(3, num_samples)``.

    Returns:
        ``(num_samples,)``; NaN where all truths, or all scores, are equal.
    """
    return _share(sums[0], np.sqrt(sums[1] * sums[2]))


def right_pairs(
    truths: Floats, scores: Floats, *, least_gap: float = 0.0, most_gap: float = np.inf
) -> Floats:
    """How many pairs have their scores in the order of their truths, equal scores counting half.

    Args:
        truths: Of ``n`` episodes, ``(n,)``.
        scores: Large is good, ``(n,)``.
        least_gap: Pairs count whose truths differ by this at least, and at all.
        most_gap: And by less than this.

    Returns:
        Right pairs and counted pairs, ``(2,)``.
    """
    gaps = np.abs(truths[:, None] - truths)
    counted = np.triu((gaps > 0) & (gaps >= least_gap) & (gaps < most_gap))
    right = (_signs(truths) * _signs(scores) + 1) / 2
    return np.array([(right * counted).sum(), counted.sum()])


def overpaid(truths: Floats, scores: Floats, *, least_gap: float = STAGE) -> int:
    """How many failures rank above one which truly got further.

    Args:
        truths: Of ``n`` episodes, ``(n,)``.
        scores: Large is good, ``(n,)``.
        least_gap: How much further, at least.
    """
    further = truths[None, :] - truths[:, None] >= least_gap
    return int((further & (scores[:, None] > scores)).any(axis=1).sum())


def correlation(truths: Floats, rewards: Floats) -> float:
    """Pearson's correlation; NaN where either has no spread."""
    x, y = truths - truths.mean(), rewards - rewards.mean()
    if np.ptp(truths) == 0 or np.ptp(rewards) == 0:
        return float("nan")
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def _signs(values: Floats) -> Floats:
    return np.sign(values[:, None] - values)


def _pairs(counts: Floats, matrix: Floats) -> Floats:
    """Sums of a symmetric matrix over weighted pairs, ``(num_samples,)``."""
    sums: Floats = ((counts @ matrix) * counts).sum(axis=1)
    return sums


def _share(part: Floats, whole: Floats) -> Floats:
    shares = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


# --- Intervals ------------------------------------------------------------------------------------


def draw_counts(rng: np.random.Generator, size: int, num_samples: int) -> Floats:
    """How often each of ``size`` is drawn, with replacement; ``(num_samples, size)``."""
    return rng.multinomial(size, np.full(size, 1 / size), size=num_samples).astype(np.float64)


def interval(samples: Floats) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of bootstrap samples; NaN without any."""
    there = samples[~np.isnan(samples)]
    if len(there) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(there, [2.5, 97.5])
    return float(low), float(high)


# --- Curves of progress: the paper's five ---------------------------------------------------------


def window_ends(num_frames: int, num_windows: int) -> npt.NDArray[np.int64]:
    """Returns the number of frames in each growing window of an episode, ``(num_windows,)``.

    All windows start with the episode. The first has 2 frames (1 if there is only one), the last
    has all of them.
    """
    return np.linspace(min(2, num_frames), num_frames, num_windows).round().astype(np.int64)


def progress_curve(distances: Floats) -> Floats:
    """Progress of an episode's windows: the farthest is 0, the nearest 1; ``(num_windows,)``.

    0.5 throughout if all are equally far.

    Source: SRPO (arXiv:2511.15605v2), appendix B.
    """
    if np.ptp(distances) == 0:
        return np.full_like(distances, 0.5)
    curve: Floats = (distances.max() - distances) / np.ptp(distances)
    return curve


def spearman(curve: Floats, times: npt.NDArray[np.number] | None = None) -> float:
    """Computes the rank correlation of progress with time, in [-1, 1]; 0 for a flat curve.

    Args:
        curve: Progress, ``(num_windows,)``.
        times: Time of each value, ``(num_windows,)``; default: 0, 1, 2, ...
    """
    times = np.arange(len(curve)) if times is None else times
    if np.ptp(curve) == 0 or np.ptp(times) == 0:
        return 0.0
    return float(spearmanr(times, curve).statistic)


def monotonicity(curve: Floats) -> float:
    """Share of steps in which progress rises."""
    return float((np.diff(curve) > 0).mean())


def mmd(successes: Floats, failures: Floats, bandwidth: float = MMD_BANDWIDTH) -> float:
    """Squared maximum mean discrepancy of final progress, in [0, 2]; 0 for equal samples.

    Gaussian kernel ``exp(-(x - y)^2 / (2 bandwidth^2))``; pairs of a sample with itself count.
    """

    def mean_kernel(x: Floats, y: Floats) -> float:
        return float(np.exp(-((x[:, None] - y) ** 2) / (2 * bandwidth**2)).mean())

    within = mean_kernel(successes, successes) + mean_kernel(failures, failures)
    return within - 2 * mean_kernel(successes, failures)


def jensen_shannon(successes: Floats, failures: Floats, bins: int = JS_BINS) -> float:
    """Jensen-Shannon divergence of final progress in nats, from 0 to ln 2, by histograms."""
    edges = np.linspace(0, 1, bins + 1)
    p, q = (np.histogram(values, edges)[0] / len(values) for values in (successes, failures))
    middle = (p + q) / 2
    return float((_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2)


def _relative_entropy(p: Floats, q: Floats) -> float:
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())


def mean_difference(successes: Floats, failures: Floats) -> float:
    """Difference of the means in units of the pooled standard deviation; NaN if that is 0."""
    spread = np.sqrt((successes.var() + failures.var()) / 2)
    return float((successes.mean() - failures.mean()) / spread) if spread > 0 else float("nan")
