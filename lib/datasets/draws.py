"""Random choices among clips that both the evaluation and the checks before a run make: held-out clips, halves of the classes."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

HALVES = range(10)  # seeds of the random halves of the classes (EP-half)


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
    """Indices (to fit, to choose C) into the training split: stratified, and by whole groups where there are groups.

    labels 'n'; groups 'n' or None; fraction: of the clips that chooses (`probe_held_out`); classes: their names, for
    messages. Raises ValueError, naming a class and its clips, where there are too few clips for both.
    """
    labels, way_out = np.asarray(labels), "take the data set out of probe_on"
    present, counts = np.unique(labels, return_counts=True)
    names = [repr(classes[label]) if len(classes) else str(label) for label in present]
    clips, num_classes, smallest = (
        len(labels),
        len(present),
        f"class {names[counts.argmin()]} has {counts.min()}" if names else "",
    )
    if num_classes < 2:
        only = f"all {clips} training clips are of class {names[0]}" if names else "there are no training clips"
        raise ValueError(f"a probe needs two classes or more, and {only}: add clips of another, or {way_out}")
    if groups is None:
        if alone := [f"class {name} has 1" for name, count in zip(names, counts) if count == 1]:
            raise ValueError(
                f"{', '.join(alone[:5])}{', ...' if len(alone) > 5 else ''} training clip: a probe needs two of each class, one "
                f"to fit and one that is held out to choose C (probe_held_out): add clips, or {way_out}"
            )
        chosen = math.ceil(fraction * clips)
        if min(chosen, clips - chosen) < num_classes:
            raise ValueError(
                f"probe_held_out: {fraction:g} of the {clips} training clips are {chosen}, which leaves {clips - chosen} to fit; both "
                f"must be {num_classes} or more, one of each class ({smallest}): "
                f"set it to {math.ceil(100 * num_classes / clips) / 100:g}, or {way_out}"
            )
        parts = train_test_split(np.arange(clips), test_size=fraction, stratify=labels, random_state=seed)
    else:
        folds, num_groups = round(1 / fraction), len(np.unique(groups))
        most = min(num_groups, counts.max())  # folds that there can be
        if not 2 <= folds <= most:
            what = (
                "1 fold is"
                if folds < 2
                else f"{num_groups} groups are"
                if num_groups < folds
                else f"the {counts.max()} training clips of the largest class, {names[counts.argmax()]}, are"
            )
            remedy = (
                f"set probe_held_out to {0.5 if folds < 2 else math.ceil(100 / most) / 100:g}, or " if most > 1 else ""
            )
            raise ValueError(
                f"{what} too few to hold out {fraction:g} of the groups of clips and fit to others: {remedy}{way_out}"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class of few groups: it may be all on one side
            parts = next(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups))
    if len(parts[1]) == 0 or len(np.unique(labels[parts[0]])) < 2:
        raise ValueError(
            f"probe_held_out: {fraction:g} of the {clips} training clips leaves no two classes to fit ({smallest}): "
            f"change it, or {way_out}"
        )
    return tuple(parts)
