"""Probes on frozen features: a linear classifier with a swept regularisation, and nearest neighbours.

A clip that could not be decoded has a row of NaN: training leaves it out (and the caller counts it), tests count it as
wrong. Inputs and results are numpy arrays, 'n w' features and 'n c' scores.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler, normalize
from sklearn.utils.extmath import softmax

Normalise = Literal["raw", "standardise", "l2"]


class ProbeError(RuntimeError):
    """The solver of a linear probe stopped before it had converged: its accuracy would mean nothing."""


class LinearProbe:
    """A fitted probe. C: the chosen one; records: one a fit of the sweep, the refit last, each with `fit` ("sweep",
    "refit"), `C`, `held_out_top1` (percent; None for the refit) and `iterations`."""

    def __init__(self, model: Pipeline, C: float, records: list[dict[str, Any]], num_classes: int):
        self.model, self.C, self.records, self.num_classes = model, C, records, num_classes

    def scores(self, features: ArrayLike) -> np.ndarray:
        """'n w' -> 'n c': the decision function. A class without training clips scores -inf, a row of NaN stays NaN."""
        features = np.asarray(features, dtype=np.float32)
        decoded, seen = ~np.isnan(features).any(axis=1), self.model[-1].classes_
        scores = np.empty((0, len(seen)))
        if decoded.any():
            scores = self.model.decision_function(features[decoded])
        if scores.ndim == 1:  # scikit-learn gives two classes one column: the log of their odds
            scores = np.stack([-scores / 2, scores / 2], axis=1)
        return _spread(scores, classes=seen, decoded=decoded, num_classes=self.num_classes, absent=-np.inf)

    def probabilities(self, features: ArrayLike) -> np.ndarray:
        """'n w' -> 'n c': the softmax of `scores`."""
        return softmax(self.scores(features))


def _training_set(features: ArrayLike, labels: ArrayLike, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    features, labels = np.asarray(features, dtype=np.float32), np.asarray(labels)
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


def _fit(features: np.ndarray, labels: np.ndarray, *, C: float, max_iter: int, normalise: Normalise) -> Pipeline:
    """One fit of scikit-learn's L-BFGS. Raises ProbeError if it did not converge.

    Features are centred: the intercept is not penalised, so the solution stays, but the solver needs a tenth of the
    time, since a few of CLIP's dimensions lie far from zero.
    """
    steps = {"raw": [StandardScaler(with_std=False)], "standardise": [StandardScaler()],
             "l2": [Normalizer(), StandardScaler(with_std=False)]}[normalise]
    model = make_pipeline(*steps, LogisticRegression(C=C, max_iter=max_iter))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            return model.fit(features, labels)
        except ConvergenceWarning as warning:
            raise ProbeError(
                f"the linear probe with C = {C:g} has not converged in {max_iter} iterations: raise probe_max_iter, take "
                f"large values out of probe_c, or set probe_normalise to standardise ({str(warning).splitlines()[0]})"
            ) from None


def fit_linear_probe(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    *,
    num_classes: int,
    grid: Sequence[float],
    refinements: int,
    held_out: float,
    max_iter: int,
    normalise: Normalise,
    seed: int,
    groups: ArrayLike | None = None,
) -> LinearProbe:
    """scikit-learn's LogisticRegression (L-BFGS) on frozen features 'n w'; `C` from a sweep inside the training split.

    The share `held_out` of the training split (whole groups, if `groups` names each clip's group) chooses C, the
    smallest of equally good ones: from `grid`, then `refinements` times from the geometric middles between the best so
    far and its neighbours (the search of CLIP's paper, appendix A.3: from seven values to eight a decade). One fit on
    the whole training split with that C is the probe. It never sees test features or test labels.

    Raises ProbeError if any of the fits does not converge; ValueError for features and labels that are none.
    """
    if normalise not in ("raw", "standardise", "l2"):
        raise ValueError(f"normalise is {normalise!r}: choose 'raw', 'standardise' or 'l2'")
    features, labels = _training_set(train_features, train_labels, num_classes)
    fit_part, choice_part = _held_out(labels, groups, fraction=held_out, seed=seed)
    options, records = {"max_iter": max_iter, "normalise": normalise}, {}
    wanted = sorted(map(float, grid))
    for _ in range(refinements + 1):
        for C in wanted:
            model = _fit(features[fit_part], labels[fit_part], C=C, **options)
            accuracy = 100.0 * float(model.score(features[choice_part], labels[choice_part]))
            records[C] = {"fit": "sweep", "C": C, "held_out_top1": accuracy, "iterations": int(model[-1].n_iter_.max())}
        tried = sorted(records)
        best = max(tried, key=lambda C: records[C]["held_out_top1"])
        place = tried.index(best)
        wanted = [float(np.sqrt(best * C)) for C in tried[max(place - 1, 0) : place + 2] if C != best]
    model = _fit(features, labels, C=best, **options)
    refit = {"fit": "refit", "C": best, "held_out_top1": None, "iterations": int(model[-1].n_iter_.max())}
    return LinearProbe(model, best, [*(records[C] for C in tried), refit], num_classes)


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
    test_features = np.asarray(test_features, dtype=np.float32)
    decoded = ~np.isnan(test_features).any(axis=1)

    def votes_of(distance: np.ndarray) -> np.ndarray:
        # Between unit vectors, distance^2 = 2 - 2 s; scikit-learn is much faster with distances than with cosines.
        return np.exp((1 - distance**2 / 2) / temperature)

    model = KNeighborsClassifier(k, algorithm="brute", weights=votes_of).fit(normalize(features), labels)
    votes = np.empty((0, len(model.classes_)))
    if decoded.any():
        votes = model.predict_proba(normalize(test_features[decoded]))
    return _spread(votes, classes=model.classes_, decoded=decoded, num_classes=num_classes, absent=0.0)
