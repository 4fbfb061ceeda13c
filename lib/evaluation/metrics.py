"""Metrics: pure functions from features, scores and labels to accuracies.

Scores are 'n c', one row per clip, the larger the better. A clip that could not be decoded has a row of NaN (in
embeddings or scores): it counts as wrong and is never left out. Accuracies are in percent. Inputs are numpy arrays or
CPU tensors; results are numpy.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, confusion_matrix
from sklearn.preprocessing import normalize

from lib.datasets.draws import HALVES, in_class_half
from lib.losses import sinkhorn

# ---- accuracy -------------------------------------------------------------------------------------------------------


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
    """Whether the label is among the k best scores: 'n c' and 'n' -> 'n' bool. Ties go to the lower class."""
    scores, labels = _checked(scores, labels)
    score = np.take_along_axis(scores, labels[:, None], axis=1)
    better = (scores > score) | ((scores == score) & (np.arange(scores.shape[1]) < labels[:, None]))
    return (better.sum(axis=1) < k) & ~_failed(scores)


def topk_accuracy(scores: ArrayLike, labels: ArrayLike, k: int) -> float:
    """Top-k accuracy over all clips; see `topk_correct`."""
    return 100.0 * float(topk_correct(scores, labels, k).mean())


def pair_correct(scores: ArrayLike, labels: ArrayLike, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Whether each clip of a class in `pairs` scores higher for it than for the other class of the pair (chance: half).

    Returns bool, ordered by pair and then by clip; a clip whose class is in two pairs counts twice. Raises ValueError
    for an invalid pair, and if no clip belongs to any pair.
    """
    scores, labels = _checked(scores, labels)
    correct = []
    for pair in pairs:
        if len(set(pair)) != 2 or min(pair) < 0 or max(pair) >= scores.shape[1]:
            raise ValueError(f"{tuple(pair)} is not a pair of two different classes out of {scores.shape[1]}")
        clips = np.isin(labels, pair)
        if clips.any():
            correct.append(topk_correct(scores[clips][:, list(pair)], (labels[clips] == pair[1]).astype(int), 1))
    if not correct:
        raise ValueError(f"none of the {len(labels)} clips has a class in the confusable pairs {list(pairs)}")
    return np.concatenate(correct)


def half_class_accuracies(scores: ArrayLike, labels: ArrayLike, *, seeds: Iterable[int] = HALVES) -> np.ndarray:
    """Top-1 on random halves of the classes, one per seed (EP-half): 'n c' and 'n' -> 's'.

    As in Text4Vis and BIKE (`multi_split_test` in test_zeroshot.py): `in_class_half` draws the classes, and every clip
    of theirs is classified among those of them that have clips. They report mean and population standard deviation over
    seeds 0-9, on all clips of the set. Raises ValueError if no clip has a class in one of the halves.
    """
    scores, labels = _checked(scores, labels)
    accuracies = []
    for seed in seeds:
        clips = in_class_half(labels, scores.shape[1], seed=seed)
        candidates, targets = np.unique(labels[clips], return_inverse=True)
        accuracies.append(topk_accuracy(scores[clips][:, candidates], targets, 1))
    return np.array(accuracies)


def mean_average_precision(scores: ArrayLike, truth: ArrayLike) -> float:
    """Mean over classes of the average precision, for clips of several classes each: 'n c' scores, 'n c' bool truth.

    scikit-learn's `average_precision_score`, averaged over the classes with a positive clip. Undecoded clips are ranked
    last in every class, all tied, so that they count against a class they belong to. As in Charades' own evaluation
    (Charades_v1_classify.m), clips without any class are ranked last too. Ties differ from it: there the order of the
    file decides, here equal scores share one precision.

    Raises ValueError if the shapes differ, the truth is not 0 or 1, or no class has a positive clip.
    """
    scores, truth = np.asarray(scores), np.asarray(truth)
    if scores.ndim != 2 or truth.shape != scores.shape or 0 in scores.shape:
        raise ValueError(f"scores {scores.shape} and truth {truth.shape}: expected 'n c' both, n and c at least 1")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("the truth of several classes a clip must be 0 or 1 everywhere")
    if not truth.any():
        raise ValueError(f"none of the {len(truth)} clips belongs to any of the {truth.shape[1]} classes")
    present = truth.any(axis=0)
    ranks = np.unique(scores, return_inverse=True)[1].reshape(scores.shape)  # the same order, finite even for -inf
    ranks[_failed(scores) | ~truth.any(axis=1)] = -1
    precisions = average_precision_score(truth[:, present].astype(int), ranks[:, present], average=None)
    return 100.0 * float(np.mean(precisions))


def prediction_summary(scores: ArrayLike, labels: ArrayLike) -> dict[str, Any]:
    """The distribution of the predictions: 'n c' and 'n' -> a mapping.

    `confusion`: 'c c' counts, rows the label, columns the prediction, without undecoded clips; `per_class_accuracy`:
    'c', undecoded clips wrong, NaN for a class without clips; `prediction_entropy`: nats, of the histogram of
    predictions (log c if all classes are predicted equally often), NaN if nothing was decoded.
    """
    scores, labels = _checked(scores, labels)
    decoded, classes = ~_failed(scores), np.arange(scores.shape[1])
    confusion = np.zeros((len(classes), len(classes)), dtype=int)
    histogram = np.full(len(classes), np.nan)
    if decoded.any():
        confusion = confusion_matrix(labels[decoded], scores[decoded].argmax(axis=1), labels=classes)
        histogram = confusion.sum(axis=0) / confusion.sum()
    clips = np.bincount(labels, minlength=len(classes))
    per_class = np.divide(100.0 * confusion.diagonal(), clips, out=np.full(len(classes), np.nan), where=clips > 0)
    entropy = float(torch.special.entr(torch.from_numpy(histogram)).sum())
    return {"confusion": confusion, "per_class_accuracy": per_class, "prediction_entropy": entropy}


# ---- zero-shot ------------------------------------------------------------------------------------------------------


def zero_shot_scores(embeddings: ArrayLike, category: ArrayLike, description: ArrayLike | None = None) -> np.ndarray:
    """Cosines of embeddings 'n d' with class vectors 'c d' -> 'n c'; with descriptions, the mean of both cosines."""
    embeddings = np.asarray(embeddings, dtype=np.float64)
    embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    spaces = [category] if description is None else [category, description]
    return np.mean([embeddings @ normalize(np.asarray(space, dtype=np.float64)).T for space in spaces], axis=0)


def zero_shot_probabilities(cosines: ArrayLike, *, logit_scale: float = 100.0) -> np.ndarray:
    """Softmax of the scaled cosines, 'n c' -> 'n c'; 100 is where CLIP's training clips the scale."""
    return torch.softmax(logit_scale * torch.as_tensor(np.asarray(cosines, dtype=np.float64)), dim=1).numpy()


def balanced_scores(scores: ArrayLike, *, temperature: float, rounds: int) -> np.ndarray:
    """Predictions balanced over the test set by Sinkhorn-Knopp, no training: cosines 'n c' -> probabilities 'n c'.

    A control, not a classifier: it uses all decoded test clips at once and a uniform class prior.
    """
    balanced = np.array(scores, dtype=np.float64)
    decoded = ~_failed(balanced)
    balanced[decoded] = sinkhorn(torch.from_numpy(balanced[decoded] / temperature), rounds).numpy()
    return balanced
