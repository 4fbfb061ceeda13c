"""What is measured: pure functions from features, scores and labels to accuracies, without files and without models.

Scores are 'n c', one row per clip, the larger the better. A clip that could not be decoded has a row of NaN (in
features, embeddings or scores alike): it counts as wrong everywhere and is never left out. Accuracies are in percent.
Inputs are numpy arrays or CPU tensors; results are numpy.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import StratifiedGroupKFold, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler, normalize

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
    """Whether the right one of two confusable classes has the better score, for each clip of a class in `pairs`.

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


def pair_accuracy(scores: ArrayLike, labels: ArrayLike, pairs: Sequence[tuple[int, int]]) -> float:
    """Accuracy in percent within confusable pairs, the choice being between the two classes of a pair (chance: 50)."""
    return 100.0 * float(pair_correct(scores, labels, pairs).mean())


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


def balanced_scores(scores: ArrayLike, *, temperature: float, rounds: int) -> np.ndarray:
    """Predictions balanced over the test set by Sinkhorn-Knopp, no training: cosines 'n c' -> probabilities 'n c'.

    It uses all test clips at once and a uniform class prior: a control, not a classifier. Undecoded clips take no part
    and stay NaN.
    """
    balanced = np.array(scores, dtype=np.float64)
    decoded = ~_failed(balanced)
    balanced[decoded] = sinkhorn(torch.from_numpy(balanced[decoded] / temperature), rounds).numpy()
    return balanced


# Probes on frozen features -------------------------------------------------------------------------------------------


class ProbeResult(NamedTuple):
    """scores: 'n c' of the test clips; C: the chosen one; records: one per fit of the sweep, the refit last."""

    scores: np.ndarray
    C: float
    records: list[dict[str, Any]]


def _training_set(features: ArrayLike, labels: ArrayLike, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    features, labels = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1] or len(labels) == 0:
        raise ValueError(f"training features {features.shape}, labels {labels.shape}: expected 'n w' and 'n', n >= 1")
    if not np.isfinite(features).all():
        bad = f"{int((~np.isfinite(features).all(axis=1)).sum())} of {len(features)} training clips"
        raise ValueError(f"{bad} have features that are not finite: leave undecoded clips out, and report them")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"training labels run from {labels.min()} to {labels.max()}; there are {num_classes} classes")
    return features, labels


def _spread(
    scores: np.ndarray, *, classes: np.ndarray, decoded: np.ndarray, num_classes: int, absent: float
) -> np.ndarray:
    """Scores of decoded clips and classes seen in training -> scores of all clips (NaN) and all classes (`absent`)."""
    everything = np.full((len(decoded), num_classes), np.nan)
    everything[decoded] = absent
    everything[np.ix_(decoded, classes)] = scores
    return everything


def _held_out(
    labels: np.ndarray, groups: ArrayLike | None, *, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (to fit, to choose C) into the training split: stratified, and by whole groups where there are groups."""
    if groups is None:
        return tuple(train_test_split(np.arange(len(labels)), test_size=fraction, stratify=labels, random_state=seed))
    num_folds, num_groups = round(1 / fraction), len(np.unique(groups))
    if num_groups < num_folds:
        raise ValueError(f"{num_groups} groups are too few to hold out {fraction:g} of them: raise the fraction")
    folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    return next(folds.split(np.zeros(len(labels)), labels, groups))


def linear_probe(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    *,
    num_classes: int,
    grid: Sequence[float],
    held_out: float,
    max_iter: int,
    normalise: Literal["standardise", "l2"],
    seed: int,
    groups: ArrayLike | None = None,
) -> ProbeResult:
    """scikit-learn's LogisticRegression (L-BFGS) on frozen features 'n w'; `C` from a sweep inside the training split.

    The share `held_out` of the training split (whole groups, if `groups` names each clip's group) chooses C from
    `grid`, the smallest of equally good ones; then one fit on the whole training split gives the test clips' scores,
    'n c'. Test labels are no argument, and the normalisation is fitted with the classifier, so no choice sees the test
    set. A class without training clips scores -inf.

    Each record has `fit` ("sweep" or "refit"), `C`, `held_out_top1` (percent; None for the refit), `iterations`, and
    `warning`, the solver's words if it did not converge, else None.
    """
    if normalise not in ("standardise", "l2"):
        raise ValueError(f"normalise is {normalise!r}: choose 'standardise' or 'l2'")
    features, labels = _training_set(train_features, train_labels, num_classes)
    fit_part, choice_part = _held_out(labels, groups, fraction=held_out, seed=seed)

    def fitted(part: np.ndarray, C: float, fit: str) -> tuple[Pipeline, dict[str, Any]]:
        scaler = StandardScaler() if normalise == "standardise" else Normalizer()
        model = make_pipeline(scaler, LogisticRegression(C=C, max_iter=max_iter))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(features[part], labels[part])
        unconverged = [str(w.message) for w in caught if issubclass(w.category, ConvergenceWarning)]
        for other in caught:
            if not issubclass(other.category, ConvergenceWarning):
                warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
        record = {"fit": fit, "C": float(C), "held_out_top1": None, "iterations": int(model[-1].n_iter_.max())}
        return model, record | {"warning": unconverged[0] if unconverged else None}

    records = []
    for C in sorted(grid):
        model, record = fitted(fit_part, C, "sweep")
        record["held_out_top1"] = 100.0 * float(model.score(features[choice_part], labels[choice_part]))
        records.append(record)
    best = max(records, key=lambda record: record["held_out_top1"])["C"]
    model, record = fitted(np.arange(len(labels)), best, "refit")
    records.append(record)

    test_features = np.asarray(test_features, dtype=np.float64)
    decoded = ~_failed(test_features)
    scores = np.empty((0, len(model.classes_)))
    if decoded.any():
        scores = model.decision_function(test_features[decoded])
    if scores.ndim == 1:  # scikit-learn gives two classes one column
        scores = np.stack([-scores, scores], axis=1)
    scores = _spread(scores, classes=model.classes_, decoded=decoded, num_classes=num_classes, absent=-np.inf)
    return ProbeResult(scores, best, records)


def knn(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    *,
    num_classes: int,
    k: int,
    temperature: float = 0.07,
) -> np.ndarray:
    """Weighted k-nearest-neighbour scores 'n c': the k largest cosines s vote with exp(s / temperature) (DINO, SVT).

    The votes of a clip are scaled to sum to one. Raises ValueError if k exceeds the number of training clips.
    """
    features, labels = _training_set(train_features, train_labels, num_classes)
    if k > len(features):
        raise ValueError(f"k = {k} neighbours wanted, but there are only {len(features)} training clips: lower k")
    test_features = np.asarray(test_features, dtype=np.float64)
    decoded = ~_failed(test_features)

    def votes_of(distance: np.ndarray) -> np.ndarray:
        # Between unit vectors, distance^2 = 2 - 2 s; scikit-learn is much faster with distances than with cosines.
        return np.exp((1 - distance**2 / 2) / temperature)

    model = KNeighborsClassifier(k, algorithm="brute", weights=votes_of).fit(normalize(features), labels)
    votes = np.empty((0, len(model.classes_)))
    if decoded.any():
        votes = model.predict_proba(normalize(test_features[decoded]))
    return _spread(votes, classes=model.classes_, decoded=decoded, num_classes=num_classes, absent=0.0)


# Comparison ----------------------------------------------------------------------------------------------------------


class Difference(NamedTuple):
    """A mean difference and its 95 % interval, in points (percent of the clips)."""

    mean: float
    low: float
    high: float


def _resampled_seeds(correct: np.ndarray, rounds: int, generator: np.random.Generator) -> np.ndarray:
    """'s n' -> 'r n': the mean over as many seeds, drawn with replacement in each round."""
    seeds = len(correct)
    return generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=rounds) / seeds @ correct


def paired_bootstrap(correct_a: ArrayLike, correct_b: ArrayLike, *, rounds: int = 10000, seed: int) -> Difference:
    """How much more often a is right than b: 's n' (seeds, clips) or 'n' bool each -> mean and 95 % interval.

    Percentiles of `rounds` resamplings. Each draws the clips with replacement, the same ones for a and b (paired), and
    the seeds of a and of b with replacement, each on their own (so a may have other seeds, or another number of them,
    than b). With few seeds the interval is too narrow, as any bootstrap's; with one, it holds for that seed alone.
    """
    return pooled_bootstrap([(correct_a, correct_b)], rounds=rounds, seed=seed)


def pooled_bootstrap(
    worlds: Sequence[tuple[ArrayLike, ArrayLike]], *, rounds: int = 10000, seed: int
) -> Difference:
    """`paired_bootstrap` over several test sets: the mean of their differences, resampled within each of them."""
    generator = np.random.default_rng(seed)
    means, resampled = zip(*(_differences(a, b, rounds, generator) for a, b in worlds))
    low, high = np.percentile(np.mean(resampled, axis=0), [2.5, 97.5])
    return Difference(100.0 * float(np.mean(means)), 100.0 * float(low), 100.0 * float(high))


def _differences(
    correct_a: ArrayLike, correct_b: ArrayLike, rounds: int, generator: np.random.Generator
) -> tuple[float, np.ndarray]:
    """The share of a minus that of b, and the same in each round of resampling, 'r'."""
    a, b = (np.atleast_2d(np.asarray(correct, dtype=np.float64)) for correct in (correct_a, correct_b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or 0 in a.shape or 0 in b.shape:
        raise ValueError(f"a {a.shape} and b {b.shape} must be 's n' over the same n clips, at least one")
    if not np.isin(a, (0, 1)).all() or not np.isin(b, (0, 1)).all():
        raise ValueError("the bootstrap compares right and wrong answers: every entry must be 0 or 1")
    num_clips, rows = a.shape[1], []
    for start in range(0, rounds, 500):  # in parts, to bound the memory
        size = min(500, rounds - start)
        answers_a, answers_b = (_resampled_seeds(x, size, generator) for x in (a, b))
        clips = generator.integers(num_clips, size=(size, num_clips))
        rows.append(np.take_along_axis(answers_a - answers_b, clips, axis=1).mean(axis=1))
    return a.mean() - b.mean(), np.concatenate(rows)
