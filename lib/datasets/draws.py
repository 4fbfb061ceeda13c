"""Random choices of clips, for the evaluation and for the checks before a run: held-out clips and halves of classes."""

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
    """Splits training clips into those that fit a probe and those that choose C; returns their indices.

    labels 'n'; groups 'n': clips of one group stay together; fraction: of the clips that choose C (`probe_held_out`);
    classes: names, for messages. Stratified by class. Raises ValueError if there are too few clips for both.
    """
    labels = np.asarray(labels)
    names = [repr(classes[label]) if len(classes) else str(label) for label in np.unique(labels)]
    sizes = dict(zip(names, np.unique(labels, return_counts=True)[1].tolist()))
    if len(sizes) < 2:
        clips = f"all {len(labels)} training clips are of class {names[0]}" if names else "there are no training clips"
        raise ValueError(f"a probe needs two classes or more, but {clips}: add clips of another, or {WAY_OUT}")
    if groups is None:
        fit, choice = _split_clips(labels, sizes, fraction, seed)
    else:
        fit, choice = _split_groups(labels, np.asarray(groups), sizes, fraction, seed)
    if len(choice) == 0 or len(np.unique(labels[fit])) < 2:
        smallest = min(sizes, key=sizes.get)
        raise ValueError(
            f"probe_held_out: {fraction:g} of the {len(labels)} training clips leaves fewer than two classes to fit "
            f"(class {smallest} has {sizes[smallest]}): change it, or {WAY_OUT}"
        )
    return fit, choice


def _split_clips(labels: np.ndarray, sizes: dict[str, int], fraction: float, seed: int) -> list[np.ndarray]:
    if single := [f"class {name} has 1" for name, size in sizes.items() if size == 1]:
        raise ValueError(
            f"{', '.join(single[:5])}{', ...' * (len(single) > 5)} training clip: a probe needs two of each class, one "
            f"to fit and one to choose C (probe_held_out): add clips, or {WAY_OUT}"
        )
    clips, held_out, smallest = len(labels), math.ceil(fraction * len(labels)), min(sizes, key=sizes.get)
    if min(held_out, clips - held_out) < len(sizes):
        raise ValueError(
            f"probe_held_out: {fraction:g} of the {clips} training clips are {held_out}, which leaves "
            f"{clips - held_out} to fit; both must be at least {len(sizes)}, one of each class (class {smallest} has "
            f"{sizes[smallest]}): set it to {math.ceil(100 * len(sizes) / clips) / 100:g}, or {WAY_OUT}"
        )
    return train_test_split(np.arange(clips), test_size=fraction, stratify=labels, random_state=seed)


def _split_groups(
    labels: np.ndarray, groups: np.ndarray, sizes: dict[str, int], fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    folds, num_groups, largest = round(1 / fraction), len(np.unique(groups)), max(sizes, key=sizes.get)
    most = min(num_groups, sizes[largest])  # folds that scikit-learn can make
    if not 2 <= folds <= most:
        problem = f"the {sizes[largest]} training clips of the largest class, {largest}, are"
        problem = "1 fold is" if folds < 2 else f"{num_groups} groups are" if num_groups < folds else problem
        remedy = f"set probe_held_out to {0.5 if folds < 2 else math.ceil(100 / most) / 100:g}, or " * (most > 1)
        raise ValueError(f"{problem} too few to hold out {fraction:g} of the groups of clips: {remedy}{WAY_OUT}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # all groups of a class with few groups may be on one side
        return next(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups))
