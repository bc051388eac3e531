"""How much better one student is than another, compared within each seed, and how sure that is."""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Draws whose counts are held at once.
_CHUNK = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """``mean`` of first minus second, and the interval ``low`` to ``high`` for it; not a number where one seed alone
    says nothing of others. ``wins``: seeds in which the first is ahead, of ``seeds``."""

    mean: float
    low: float
    high: float
    wins: int
    seeds: int


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Compare two students over seeds that both were trained with, seed by seed.

    From one value a seed, shape ``(S,)``, the interval is Student's t of the S differences: it speaks of other seeds,
    with the same test samples. From whether each test sample was right, shape ``(S, N)``, it is the percentile
    bootstrap over seeds and test samples alike, both drawn with replacement, the samples once for all seeds (they are
    the same): it speaks of other seeds and of other samples. Of few seeds a bootstrap is too narrow, by about
    ``sqrt((S - 1) / S)`` in what comes from them.

    Args:
        first: values in [0, 1], or whether each sample was right.
        second: the same of the other student, in the same order.
        groups: ``(S,)``, of seeds that share one test set, as those of one teacher do; each group's seeds and samples
            are drawn by themselves. None means that all share one. For shape ``(S, N)``.
        confidence: of the interval.
        resamples: draws of the bootstrap.
        seed: of these draws.

    Returns:
        The difference; the same for the same seed.

    Raises:
        ValueError: for shapes that do not fit one another.
    """
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    if np.shape(first) != np.shape(second) or differences.ndim not in (1, 2) or not differences.size:
        raise ValueError(f"expected two arrays of shape (S,) or (S, N), got {np.shape(first)} and {np.shape(second)}")
    by_seed = differences.reshape(len(differences), -1).mean(axis=1)
    if differences.ndim == 1:
        half = _t_half_width(by_seed, confidence)
        low, high = by_seed.mean() - half, by_seed.mean() + half
    else:
        labels = np.zeros(len(differences)) if groups is None else np.asarray(groups)
        if labels.shape != by_seed.shape:
            raise ValueError(f"expected a group for each of {len(by_seed)} seeds, got {labels.shape}")
        means = _bootstrapped(differences, labels, resamples=resamples, random=np.random.default_rng(seed))
        low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return PairedDifference(
        mean=float(by_seed.mean()),
        low=float(low),
        high=float(high),
        wins=int((by_seed > 0).sum()),
        seeds=len(by_seed),
    )


def _t_half_width(values: NDArray[np.float64], confidence: float) -> float:
    from scipy.special import stdtrit

    if len(values) < 2:
        return math.nan
    return float(stdtrit(len(values) - 1, (1 + confidence) / 2) * values.std(ddof=1) / math.sqrt(len(values)))


def _bootstrapped(
    differences: NDArray[np.float64], labels: NDArray[np.generic], *, resamples: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """The mean of each draw: of every group its own seeds and samples, groups weighted by their seeds."""
    means = np.zeros(resamples)
    for label in np.unique(labels):
        part = differences[labels == label]
        seeds, samples = part.shape
        for start in range(0, resamples, _CHUNK):
            draws = min(_CHUNK, resamples - start)
            # How often each seed and each sample was drawn.
            of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
            of_samples = random.multinomial(samples, np.full(samples, 1 / samples), size=draws)
            drawn = np.einsum("bs,bs->b", of_seeds, of_samples @ part.T) / (seeds * samples)
            means[start : start + draws] += drawn * seeds / len(differences)
    return means
