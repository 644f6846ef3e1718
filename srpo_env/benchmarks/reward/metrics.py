"""Metrics of a progress reward, as functions of arrays.

The first part measures the ranking of failures, which training uses. The second part has the
paper's five metrics of progress curves over growing windows of an episode.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from srpo_env.types import Floats, Ints

STAGE = 0.2
"""Oracle progress of one of a task's five stages."""

MMD_BANDWIDTH = 0.1
"""Standard deviation of the Gaussian kernel, in units of progress, which is in [0, 1]."""

JS_BINS = 20
"""Number of bins of equal width over [0, 1]."""


# --- Ranking of failures --------------------------------------------------------------------------


def rank_sums(oracle: Floats, scores: Floats, weights: Floats | None = None) -> Floats:
    """Computes the sums that make up Kendall's tau-b.

    Sums of several tasks or groups can be added: `kendall_tau` then covers the pairs within each.

    Args:
        oracle: Oracle progress of ``n`` episodes, ``(n,)``.
        scores: Their scores, higher is better, ``(n,)``.
        weights: How often each episode counts, ``(num_samples, n)``; default: once. An episode
            that a bootstrap draws twice forms no pair with itself.

    Returns:
        Twice the number of concordant pairs minus discordant pairs, of pairs that differ in oracle
        progress, and of pairs that differ in score; ``(3, num_samples)``.
    """
    counts = np.ones((1, len(oracle))) if weights is None else weights
    true, scored = _signs(oracle), _signs(scores)
    return np.stack([_pairs(counts, matrix) for matrix in (true * scored, true**2, scored**2)])


def kendall_tau(sums: Floats) -> Floats:
    """Computes Kendall's tau-b from `rank_sums`: 1 for the same order, -1 for the reverse.

    Args:
        sums: ``(3, num_samples)``.

    Returns:
        ``(num_samples,)``; NaN where all oracle values, or all scores, are equal.
    """
    return _share(sums[0], np.sqrt(sums[1] * sums[2]))


def correct_pairs(
    oracle: Floats, scores: Floats, *, min_gap: float = 0.0, max_gap: float = np.inf
) -> Floats:
    """Counts pairs whose scores are in the order of their oracle progress; ties count half.

    Args:
        oracle: Oracle progress of ``n`` episodes, ``(n,)``.
        scores: Their scores, higher is better, ``(n,)``.
        min_gap: Only pairs whose oracle progress differs, and by at least this much, count.
        max_gap: Only pairs whose oracle progress differs by less than this count.

    Returns:
        Number of correct pairs and number of counted pairs, ``(2,)``.
    """
    gaps = np.abs(oracle[:, None] - oracle)
    counted = np.triu((gaps > 0) & (gaps >= min_gap) & (gaps < max_gap))
    correct = (_signs(oracle) * _signs(scores) + 1) / 2
    return np.array([(correct * counted).sum(), counted.sum()])


def overpaid(oracle: Floats, scores: Floats, *, min_gap: float = STAGE) -> int:
    """Counts failures that score higher than one with at least ``min_gap`` more progress.

    Args:
        oracle: Oracle progress of ``n`` failures, ``(n,)``.
        scores: Their scores, higher is better, ``(n,)``.
        min_gap: Difference of oracle progress.
    """
    further = oracle[None, :] - oracle[:, None] >= min_gap
    return int((further & (scores[:, None] > scores)).any(axis=1).sum())


def correlation(oracle: Floats, rewards: Floats) -> float:
    """Computes Pearson's correlation; NaN where either has no spread."""
    x, y = oracle - oracle.mean(), rewards - rewards.mean()
    if np.ptp(oracle) == 0 or np.ptp(rewards) == 0:
        return float("nan")
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def _signs(values: Floats) -> Floats:
    return np.sign(values[:, None] - values)


def _pairs(counts: Floats, matrix: Floats) -> Floats:
    """Sums a symmetric matrix over weighted pairs, ``(num_samples,)``."""
    sums: Floats = ((counts @ matrix) * counts).sum(axis=1)
    return sums


def _share(part: Floats, whole: Floats) -> Floats:
    shares = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


# --- Intervals ------------------------------------------------------------------------------------


def draw_counts(rng: np.random.Generator, size: int, num_samples: int) -> Floats:
    """Draws bootstrap samples: how often each of ``size`` items is drawn, with replacement.

    Returns:
        Counts that sum to ``size`` in each row, ``(num_samples, size)``.
    """
    return rng.multinomial(size, np.full(size, 1 / size), size=num_samples).astype(np.float64)


def interval(samples: Floats) -> tuple[float, float]:
    """Returns the 2.5 and 97.5 percentiles of bootstrap samples; NaN if there are none."""
    known = samples[~np.isnan(samples)]
    if len(known) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def mean_of_known(values: npt.ArrayLike) -> float:
    """Returns the mean of the values that are not NaN; NaN if there are none."""
    numbers = np.asarray(values, np.float64)
    known = numbers[~np.isnan(numbers)]
    return float(known.mean()) if known.size else float("nan")


# --- Progress curves: the paper's five metrics ----------------------------------------------------


def window_ends(num_frames: int, num_windows: int) -> Ints:
    """Returns the number of frames in each growing window of an episode, ``(num_windows,)``.

    All windows start with the episode. The first has 2 frames (1 if there is only one), the last
    has all of them.
    """
    return np.linspace(min(2, num_frames), num_frames, num_windows).round().astype(np.int64)


def progress_curve(distances: Floats) -> Floats:
    """Scales the distances of an episode's windows to progress: farthest 0, nearest 1.

    Args:
        distances: Distance of each window from the successes, ``(num_windows,)``.

    Returns:
        Progress in [0, 1], ``(num_windows,)``; all 0.5 if all distances are equal.

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
    """Returns the share of steps in which progress rises, in [0, 1]."""
    return float((np.diff(curve) > 0).mean())


def mmd(successes: Floats, failures: Floats, bandwidth: float = MMD_BANDWIDTH) -> float:
    """Computes the squared maximum mean discrepancy of final progress, in [0, 2].

    0 for equal samples. The kernel is ``exp(-(x - y)^2 / (2 bandwidth^2))``; pairs of a value with
    itself count (the biased estimator).
    """

    def mean_kernel(x: Floats, y: Floats) -> float:
        return float(np.exp(-((x[:, None] - y) ** 2) / (2 * bandwidth**2)).mean())

    within = mean_kernel(successes, successes) + mean_kernel(failures, failures)
    return within - 2 * mean_kernel(successes, failures)


def jensen_shannon(successes: Floats, failures: Floats, bins: int = JS_BINS) -> float:
    """Computes the Jensen-Shannon divergence of final progress from histograms, in [0, ln 2]."""
    edges = np.linspace(0, 1, bins + 1)
    p, q = (np.histogram(values, edges)[0] / len(values) for values in (successes, failures))
    middle = (p + q) / 2
    return float((_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2)


def _relative_entropy(p: Floats, q: Floats) -> float:
    occupied = p > 0
    return float((p[occupied] * np.log(p[occupied] / q[occupied])).sum())


def standardized_mean_difference(successes: Floats, failures: Floats) -> float:
    """Divides the difference of the means by the pooled standard deviation; NaN if that is 0."""
    spread = np.sqrt((successes.var() + failures.var()) / 2)
    return float((successes.mean() - failures.mean()) / spread) if spread > 0 else float("nan")
