"""What is measured: pure functions from features, scores and labels to accuracies, without files and without models.

Scores are 'n c', one row per clip, the larger the better. A clip that could not be decoded has a row of NaN (in
embeddings or scores alike): it counts as wrong everywhere and is never left out. Accuracies are in percent.
Inputs are numpy arrays or CPU tensors; results are numpy.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, confusion_matrix
from sklearn.preprocessing import normalize

from lib.datasets.draws import HALVES, in_class_half
from lib.losses import sinkhorn

# Accuracy ------------------------------------------------------------------------------------------------------------


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or len(labels) == 0:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape}: expected 'n c' and 'n', with n at least 1")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}; the scores have {scores.shape[1]} classes")
    return scores, labels


def _failed(rows: np.ndarray) -> np.ndarray:
    return np.isnan(rows).any(axis=1)


def topk_correct(scores: ArrayLike, labels: ArrayLike, k: int) -> np.ndarray:
    """Whether the label is among the k best scores: 'n c' and 'n' -> 'n' bool.

    Among equal scores the lower class comes first, as in argmax. Rows with a NaN are wrong. With k above the number of
    classes every decoded clip is right.
    """
    scores, labels = _checked(scores, labels)
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels[:, None]))
    return (before.sum(axis=1) < k) & ~_failed(scores)


def topk_accuracy(scores: ArrayLike, labels: ArrayLike, k: int) -> float:
    """Top-k accuracy in percent, over all clips; see `topk_correct`."""
    return 100.0 * float(topk_correct(scores, labels, k).mean())


def pair_correct(scores: ArrayLike, labels: ArrayLike, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Whether the right one of two confusable classes has the better score, for each clip of a class in `pairs` (chance:
    half of them).

    Returns bool, ordered by pair and then by clip; a clip whose class is in two pairs is asked twice. Raises ValueError
    for a pair that is no pair of classes, and if no clip belongs to any pair.
    """
    scores, labels = _checked(scores, labels)
    answers = []
    for pair in pairs:
        if len(set(pair)) != 2 or min(pair) < 0 or max(pair) >= scores.shape[1]:
            raise ValueError(f"{tuple(pair)} is not a pair of two different classes out of {scores.shape[1]}")
        clips = np.isin(labels, pair)
        if clips.any():
            answers.append(topk_correct(scores[clips][:, list(pair)], (labels[clips] == pair[1]).astype(int), 1))
    if not answers:
        raise ValueError(f"none of the {len(labels)} clips has a class in the confusable pairs {list(pairs)}")
    return np.concatenate(answers)


def half_class_accuracies(scores: ArrayLike, labels: ArrayLike, *, seeds: Iterable[int] = HALVES) -> np.ndarray:
    """Top-1 in percent on random halves of the classes, one per seed (EP-half): 'n c' and 'n' -> 's'.

    As Text4Vis and BIKE have it (`multi_split_test` in test_zeroshot.py of whwu95/Text4Vis and whwu95/BIKE): each seed
    permutes the c classes by numpy's legacy generator, the first c // 2 (rounded down) are taken, and every clip of
    theirs is asked between those of them that have clips. It depends on the order of the classes. They report the mean
    and the population standard deviation (`np.std`) over seeds 0-9, on all clips of the set rather than a test split.

    Raises ValueError if no clip has a class in one of the halves.
    """
    scores, labels = _checked(scores, labels)
    accuracies = []
    for seed in seeds:
        clips = in_class_half(labels, scores.shape[1], seed=seed)
        candidates, truth = np.unique(labels[clips], return_inverse=True)
        accuracies.append(topk_accuracy(scores[clips][:, candidates], truth, 1))
    return np.array(accuracies)


class MeanAveragePrecision(NamedTuple):
    """value: percent; num_classes: how many are averaged; absent: classes without positives, which are not;
    unlabelled: clips without any class, which are ranked last."""

    value: float
    num_classes: int
    absent: int
    unlabelled: int


def mean_average_precision(scores: ArrayLike, truth: ArrayLike) -> MeanAveragePrecision:
    """Mean over classes of the average precision, for clips of several classes each: 'n c' scores, 'n c' bool truth.

    scikit-learn's `average_precision_score`: no interpolation, the plain mean over the classes with a positive clip.
    Undecoded clips are ranked last in every class, all tied, so that they count against a class they belong to.

    As in Charades' own evaluation (Charades_v1_classify.m), clips without any class are ranked last too: they do not
    count as false positives. Equal scores differ from it: there the order of the file decides between them, here they
    share one precision. There, a clip missing from the submission scores 0 in every class.

    Raises ValueError if the shapes differ, the truth is not 0 or 1, or no class has a positive clip.
    """
    scores, truth = np.asarray(scores), np.asarray(truth)
    if scores.ndim != 2 or truth.shape != scores.shape or 0 in scores.shape:
        raise ValueError(f"scores {scores.shape} and truth {truth.shape}: expected 'n c' both, n and c at least 1")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("the truth of several classes a clip must be 0 or 1 everywhere")
    if not truth.any():
        raise ValueError(f"none of the {len(truth)} clips belongs to any of the {truth.shape[1]} classes")
    unlabelled, present = ~truth.any(axis=1), truth.any(axis=0)
    last = _failed(scores) | unlabelled
    ranks = np.unique(scores, return_inverse=True)[1].reshape(scores.shape)  # the same order, finite even for -inf
    ranks[last] = -1
    precisions = average_precision_score(truth[:, present].astype(int), ranks[:, present], average=None)
    return MeanAveragePrecision(
        100.0 * float(np.mean(precisions)), int(present.sum()), int((~present).sum()), int(unlabelled.sum())
    )


def prediction_summary(scores: ArrayLike, labels: ArrayLike) -> dict[str, Any]:
    """Where the first choices go.

    Returns `confusion` ('c c' counts, rows the label, columns the prediction, undecoded clips absent),
    `per_class_accuracy` ('c' percent, undecoded clips wrong, NaN for a class without clips), `prediction_entropy`
    (nats, of the histogram of predictions; log c if all classes are predicted equally often; NaN if nothing was
    decoded) and `num_failed`.
    """
    scores, labels = _checked(scores, labels)
    failed, classes = _failed(scores), np.arange(scores.shape[1])
    confusion = np.zeros((len(classes), len(classes)), dtype=int)
    histogram = np.full(len(classes), np.nan)
    if not failed.all():
        confusion = confusion_matrix(labels[~failed], scores[~failed].argmax(axis=1), labels=classes)
        histogram = confusion.sum(axis=0) / confusion.sum()
    listed = np.bincount(labels, minlength=len(classes))
    per_class = np.divide(100.0 * confusion.diagonal(), listed, out=np.full(len(classes), np.nan), where=listed > 0)
    return {
        "confusion": confusion,
        "per_class_accuracy": per_class,
        "prediction_entropy": float(torch.special.entr(torch.from_numpy(histogram)).sum()),
        "num_failed": int(failed.sum()),
    }


# Zero-shot -----------------------------------------------------------------------------------------------------------


def zero_shot_scores(embeddings: ArrayLike, category: ArrayLike, description: ArrayLike | None = None) -> np.ndarray:
    """Cosines of embeddings 'n d' with class vectors 'c d' -> 'n c'; with descriptions, the mean of both cosines."""
    embeddings = np.asarray(embeddings, dtype=np.float64)
    embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    spaces = [category] if description is None else [category, description]
    return np.mean([embeddings @ normalize(np.asarray(space, dtype=np.float64)).T for space in spaces], axis=0)


def zero_shot_probabilities(cosines: ArrayLike, *, logit_scale: float = 100.0) -> np.ndarray:
    """Softmax of the scaled cosines, 'n c' -> 'n c'; 100 is the scale at which CLIP's training ends (its clip value)."""
    return torch.softmax(logit_scale * torch.as_tensor(np.asarray(cosines, dtype=np.float64)), dim=1).numpy()


def balanced_scores(scores: ArrayLike, *, temperature: float, rounds: int) -> np.ndarray:
    """Predictions balanced over the test set by Sinkhorn-Knopp, no training: cosines 'n c' -> probabilities 'n c'.

    It uses all test clips at once and a uniform class prior: a control, not a classifier. Undecoded clips take no part
    and stay NaN.
    """
    balanced = np.array(scores, dtype=np.float64)
    decoded = ~_failed(balanced)
    balanced[decoded] = sinkhorn(torch.from_numpy(balanced[decoded] / temperature), rounds).numpy()
    return balanced
