"""Random choices among clips, for the evaluation and for the checks before a run: held-out clips, class halves."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

HALVES = range(10)  # seeds of the random halves of the classes (EP-half)
WAY_OUT = "take the data set out of probe_on"


def in_class_half(labels: ArrayLike, num_classes: int, *, seed: int) -> np.ndarray:
    """Whether a clip's class is in the random half of the classes that `seed` draws, 'n' bool.

    The classes are permuted by numpy's legacy generator and the first half (rounded down) is taken, as in Text4Vis and
    BIKE (`multi_split_test` in test_zeroshot.py). Raises ValueError if no clip has a class in that half.
    """
    half = np.random.RandomState(seed).permutation(num_classes)[: num_classes // 2]
    clips = np.isin(labels, half)
    if not clips.any():
        raise ValueError(f"none of the {len(clips)} clips has a class in the half of the classes of seed {seed}")
    return clips


def hold_out(
    labels: ArrayLike, groups: ArrayLike | None = None, *, fraction: float, seed: int, classes: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (to fit, to choose C) into the training part: stratified, and by whole groups where there are groups.

    labels 'n'; groups 'n' or None; fraction: of the clips that choose C (`probe_held_out`); classes: their names.
    Raises ValueError, which names a class and its clips, if there are too few clips for both.
    """
    labels = np.asarray(labels)
    present, counts = np.unique(labels, return_counts=True)
    names = [repr(classes[label]) if len(classes) else str(label) for label in present]
    clips, num_classes = len(labels), len(present)
    if num_classes < 2:
        only = f"all {clips} training clips are of class {names[0]}" if names else "there are no training clips"
        raise ValueError(f"a probe needs two classes or more, and {only}: add clips of another, or {WAY_OUT}")
    smallest = f"class {names[counts.argmin()]} has {counts.min()}"
    if groups is None:
        parts = _split_clips(
            labels, fraction, seed, [name for name, count in zip(names, counts) if count == 1], smallest
        )
    else:
        largest = f"the {counts.max()} training clips of the largest class, {names[counts.argmax()]}, are"
        parts = _split_groups(labels, np.asarray(groups), fraction, seed, counts.max(), largest)
    if len(parts[1]) == 0 or len(np.unique(labels[parts[0]])) < 2:
        raise ValueError(
            f"probe_held_out: {fraction:g} of the {clips} training clips leaves no two classes to fit ({smallest}): "
            f"change it, or {WAY_OUT}"
        )
    return tuple(parts)


def _split_clips(labels: np.ndarray, fraction: float, seed: int, single: list[str], smallest: str) -> list[np.ndarray]:
    """single: classes of one clip."""
    clips, num_classes, held_out = len(labels), len(np.unique(labels)), math.ceil(fraction * len(labels))
    if single:
        alone = ", ".join(f"class {name} has 1" for name in single[:5]) + ", ..." * (len(single) > 5)
        raise ValueError(
            f"{alone} training clip: a probe needs two of each class, one to fit and one to choose C (probe_held_out): "
            f"add clips, or {WAY_OUT}"
        )
    if min(held_out, clips - held_out) < num_classes:
        raise ValueError(
            f"probe_held_out: {fraction:g} of the {clips} training clips are {held_out}, which leaves "
            f"{clips - held_out} to fit; both must be at least {num_classes}, one of each class ({smallest}): "
            f"set it to {math.ceil(100 * num_classes / clips) / 100:g}, or {WAY_OUT}"
        )
    return train_test_split(np.arange(clips), test_size=fraction, stratify=labels, random_state=seed)


def _split_groups(
    labels: np.ndarray, groups: np.ndarray, fraction: float, seed: int, class_size: int, largest: str
) -> tuple[np.ndarray, np.ndarray]:
    """class_size: of the largest class."""
    folds, num_groups = round(1 / fraction), len(np.unique(groups))
    most = min(num_groups, class_size)
    if not 2 <= folds <= most:
        few = f"{num_groups} groups are" if num_groups < folds else largest
        remedy = f"set probe_held_out to {0.5 if folds < 2 else math.ceil(100 / most) / 100:g}, or " if most > 1 else ""
        raise ValueError(
            f"{'1 fold is' if folds < 2 else few} too few to hold out {fraction:g} of the groups of clips and fit to "
            f"others: {remedy}{WAY_OUT}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class of few groups: it may be all on one side
        return next(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups))
