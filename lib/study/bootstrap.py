"""How far apart two models are on the same clips, with an interval from resampling clips and seeds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Difference(NamedTuple):
    """A mean difference and its 95 % interval, in points (percent of the clips)."""

    mean: float
    low: float
    high: float


def _resampled_seeds(correct: np.ndarray, rounds: int, generator: np.random.Generator) -> np.ndarray:
    """'s n' -> 'r n': the mean over as many seeds, drawn with replacement in each round.

    Drawn so, the mean of s seeds has (s - 1) / s of the variance that it should have, half of it for two; deviations from
    the mean are scaled up by that (Rao and Wu, "Resampling inference with complex survey data", JASA 1988).
    """
    seeds = len(correct)
    weights = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=rounds) / seeds
    return (1 / seeds + (weights - 1 / seeds) * np.sqrt(seeds / max(seeds - 1, 1))) @ correct


def paired_bootstrap(
    worlds: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]], *, rounds: int = 10000, seed: int
) -> Difference:
    """How much more often a is right than b, for each test set (a, b, clips): 's n' (seeds, clips) or 'n' bool each, and
    which clip each of the n is -> the mean of the test sets' differences and its 95 % interval.

    Percentiles of `rounds` resamplings. Each draws, within each test set, the clips with replacement, the same ones for a
    and b (paired) and each with all its answers (a clip may be in the test parts of several splits), and the seeds of a
    and of b with replacement, each on their own (so a may have other seeds, or another number of them, than b; their
    deviations are scaled to be unbiased). With one seed the interval holds for that seed alone.
    """
    generator = np.random.default_rng(seed)
    means, resampled = zip(*(_differences(*world, rounds, generator) for world in worlds))
    low, high = np.percentile(np.mean(resampled, axis=0), [2.5, 97.5])
    return Difference(100.0 * float(np.mean(means)), 100.0 * float(low), 100.0 * float(high))


def _differences(
    correct_a: ArrayLike, correct_b: ArrayLike, clips: ArrayLike, rounds: int, generator: np.random.Generator
) -> tuple[float, np.ndarray]:
    """The share of a minus that of b, and the same in each round of resampling, 'r'."""
    a, b = (np.atleast_2d(np.asarray(correct, dtype=np.float64)) for correct in (correct_a, correct_b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or 0 in a.shape or 0 in b.shape:
        raise ValueError(f"a {a.shape} and b {b.shape} must be 's n' over the same n clips, at least one")
    if not np.isin(a, (0, 1)).all() or not np.isin(b, (0, 1)).all():
        raise ValueError("the bootstrap compares right and wrong answers: every entry must be 0 or 1")
    _, clip, times = np.unique(np.asarray(clips), return_inverse=True, return_counts=True)
    if clip.shape != a.shape[1:]:
        raise ValueError(f"clips {clip.shape} must say of each of the {a.shape[1]} answers which clip it is of")
    a, b = (
        np.stack([np.bincount(clip, weights=row) for row in correct]) for correct in (a, b)
    )  # right answers of each clip
    rows = []
    for start in range(0, rounds, 500):  # in parts, to bound the memory
        size = min(500, rounds - start)
        more = _resampled_seeds(a, size, generator) - _resampled_seeds(b, size, generator)
        drawn = generator.integers(len(times), size=(size, len(times)))
        rows.append(np.take_along_axis(more, drawn, axis=1).sum(axis=1) / times[drawn].sum(axis=1))
    return (a.mean(axis=0).sum() - b.mean(axis=0).sum()) / times.sum(), np.concatenate(rows)
