"""Probes on frozen features: a linear classifier and k-NN, fitted on the training part only.

Features are 'n w'. A test clip that could not be decoded is a row of NaN, and so are its scores; training features must
be finite. Inputs are numpy arrays or CPU tensors; results are numpy.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from einops import rearrange, reduce
from numpy.typing import ArrayLike
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler, normalize
from tqdm import tqdm

from lib.datasets.draws import hold_out

Normalisation = Literal["raw", "standardise", "l2"]
Score = Callable[[np.ndarray], np.ndarray]  # 'n w' -> 'n c'


class ProbeError(ValueError):
    """The solver of the linear probe stopped before it converged."""


def _training_set(features: ArrayLike, labels: ArrayLike, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    features, labels = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1] or len(labels) == 0:
        raise ValueError(f"training features {features.shape}, labels {labels.shape}: expected 'n w' and 'n', n >= 1")
    if not np.isfinite(features).all():
        count = int((~np.isfinite(features).all(axis=1)).sum())
        raise ValueError(
            f"{count} of {len(features)} training clips have features that are not finite: leave undecoded clips out"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"training labels run from {labels.min()} to {labels.max()}; there are {num_classes} classes")
    return features, labels


def _score_all(
    score: Score, features: ArrayLike, columns: np.ndarray, num_classes: int, *, absent: float
) -> np.ndarray:
    """Extends scores of decoded clips in the training classes `columns` to all clips (NaN) and classes (`absent`)."""
    features = np.asarray(features, dtype=np.float64)
    decoded = ~np.isnan(features).any(axis=1)
    scores = np.full((len(features), num_classes), np.nan)
    scores[decoded] = absent
    if decoded.any():
        scores[np.ix_(decoded, columns)] = score(features[decoded])
    return scores


# ---- linear probe ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearProbe:
    """A fitted linear probe.

    records: one per fit, the refit last: `fit` ("sweep" or "refit"), `C`, `held_out_top1` (percent; None for the
    refit), `iterations` and `seconds`.
    """

    model: Pipeline
    num_classes: int
    C: float
    records: list[dict[str, Any]]

    def scores(self, features: ArrayLike) -> np.ndarray:
        """Decision values, 'n w' -> 'n c'; -inf for a class without training clips."""
        return _score_all(self._decisions, features, self.model.classes_, self.num_classes, absent=-np.inf)

    def probabilities(self, features: ArrayLike) -> np.ndarray:
        """'n w' -> 'n c'; 0 for a class without training clips."""
        return _score_all(self.model.predict_proba, features, self.model.classes_, self.num_classes, absent=0.0)

    def _decisions(self, features: np.ndarray) -> np.ndarray:
        decisions = self.model.decision_function(features)
        # scikit-learn returns one column for two classes
        return np.stack([-decisions, decisions], axis=1) if decisions.ndim == 1 else decisions


def _scalers(normalise: Normalisation) -> list[StandardScaler | Normalizer]:
    # The intercept is not penalised, so centring does not change the solution; L-BFGS needs fewer iterations for it
    # (96_probe_speed).
    if normalise == "standardise":
        return [StandardScaler()]
    if normalise not in ("raw", "l2"):
        raise ValueError(f"normalise is {normalise!r}: choose 'raw', 'standardise' or 'l2'")
    return [*([Normalizer()] if normalise == "l2" else []), StandardScaler(with_std=False)]


def _fit(
    features: np.ndarray, labels: np.ndarray, *, C: float, max_iter: int, tolerance: float, normalise: Normalisation
) -> tuple[Pipeline, dict[str, Any]]:
    """A converged fit, with its `iterations` and `seconds`."""
    model = make_pipeline(*_scalers(normalise), LogisticRegression(C=C, max_iter=max_iter, tol=tolerance))
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit(features, labels)
        except ConvergenceWarning as warning:
            reason = str(warning).split("\n\n")[0].replace("\n", " ")
            remedy = "" if normalise == "standardise" else ", or set probe_normalise to standardise"
            raise ProbeError(
                f"the linear probe with C = {C:g} stopped early, with probe_max_iter = {max_iter}: raise it, drop the "
                f"largest values of probe_c{remedy} (scikit-learn: {reason})"
            ) from warning
    return model, {"iterations": int(model[-1].n_iter_.max()), "seconds": time.perf_counter() - started}


def fit_linear_probe(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    *,
    num_classes: int,
    grid: Sequence[float],
    refinements: int,
    held_out: float,
    seed: int,
    groups: ArrayLike | None = None,
    classes: Sequence[str] = (),
    **solver: Any,
) -> LinearProbe:
    """scikit-learn's LogisticRegression (L-BFGS) on frozen features 'n w'; `C` from a sweep inside the training part.

    The share `held_out` of the training part (whole groups, if `groups` names each clip's group) chooses C, the
    smallest of equally good ones; the probe is then fitted on the whole part. After `grid`, each of `refinements`
    rounds tries the geometric means of the best C and its neighbours: the parametric binary search of CLIP's linear
    probe (Radford et al. 2021, appendix A.3). From 10^-6, 10^-4 ... 10^6, four rounds end at 8 steps per decade, as
    theirs.

    solver: `max_iter`, `normalise` (fitted with each classifier; "raw" is CLIP's), and `tolerance`, which bounds the
    largest entry of the gradient of the *mean* loss. scikit-learn before 1.4 (pull request 26721), so CLIP's, bounded
    that of the summed loss: its default of 1e-4 is 1e-4 / n here. With today's default, a large C stops far from its
    solution.

    Raises ProbeError if any fit stops before it converges, and ValueError for features that are not finite, invalid
    labels, an unknown `normalise`, or too few clips or groups (see `hold_out`; `classes` are their names).
    """
    features, labels = _training_set(train_features, train_labels, num_classes)
    fit_clips, choice_clips = hold_out(labels, groups, fraction=held_out, seed=seed, classes=classes)
    accuracies: dict[float, float] = {}  # C -> top-1 of the held-out clips
    candidates, records = sorted(set(grid)), []
    with tqdm(desc="linear probe", unit="fit") as progress:
        for _ in range(refinements + 1):
            for C in candidates:
                progress.set_postfix(C=f"{C:.3g}")
                model, effort = _fit(features[fit_clips], labels[fit_clips], C=C, **solver)
                accuracies[C] = 100.0 * float(model.score(features[choice_clips], labels[choice_clips]))
                records.append({"fit": "sweep", "C": float(C), "held_out_top1": accuracies[C], **effort})
                progress.update()
            tried = sorted(accuracies)
            best = max(tried, key=accuracies.__getitem__)
            place = tried.index(best)
            neighbours = tried[max(place - 1, 0) : place + 2]
            candidates = [float(np.sqrt(low * high)) for low, high in zip(neighbours, neighbours[1:])]
    probe = refit(features, labels, num_classes=num_classes, C=float(best), **solver)
    return replace(probe, records=[*records, *probe.records])


def refit(features: ArrayLike, labels: ArrayLike, *, num_classes: int, C: float, **solver: Any) -> LinearProbe:
    """One fit with a given C, as on few clips of each class, where none can be held out to choose it."""
    features, labels = _training_set(features, labels, num_classes)
    model, effort = _fit(features, labels, C=C, **solver)
    return LinearProbe(model, num_classes, C, [{"fit": "refit", "C": float(C), "held_out_top1": None, **effort}])


def fit_few_shot(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    shots: int,
    C: float,
    one_shot_c: float,
    grid: Sequence[float],
    held_out: float,
    seed: int,
    **rest: Any,
) -> LinearProbe:
    """A probe on `shots` clips of each class, drawn from `seed`. With `one_shot_c`, C is chosen on held-out clips of
    these, where there is more than one; else it is `C`, as of the probe on all clips."""
    clips = few_per_class(labels, shots, seed=seed)
    if one_shot_c and shots > 1:
        sweep = dict(grid=grid, refinements=0, held_out=max(held_out, 1 / shots), seed=seed)
        return fit_linear_probe(features[clips], labels[clips], **sweep, **rest)
    return refit(features[clips], labels[clips], C=one_shot_c or C, **rest)


def few_per_class(labels: np.ndarray, shots: int, *, seed: int) -> np.ndarray:
    """Indices of `shots` clips of each class (all, where a class has fewer), ascending; more shots include fewer."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.sort(np.concatenate([order[labels[order] == label][:shots] for label in np.unique(labels)]))


# ---- k-NN -----------------------------------------------------------------------------------------------------------


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

    The votes of a clip sum to one. Raises ValueError if k exceeds the number of training clips.
    """
    features, labels = _training_set(train_features, train_labels, num_classes)
    if k > len(features):
        raise ValueError(f"k = {k} neighbours of only {len(features)} training clips: lower k (knn_k)")

    def votes_of(distance: np.ndarray) -> np.ndarray:
        # Between unit vectors, distance^2 = 2 - 2 s; scikit-learn is much faster with distances than with cosines.
        return np.exp((1 - distance**2 / 2) / temperature)

    model = KNeighborsClassifier(k, algorithm="brute", weights=votes_of).fit(normalize(features), labels)
    return _score_all(
        lambda rows: model.predict_proba(normalize(rows)), test_features, model.classes_, num_classes, absent=0.0
    )


# ---- views ----------------------------------------------------------------------------------------------------------


def mean_over_views(score: Score, features: ArrayLike) -> np.ndarray:
    """Scores every view and averages over the views of a clip: 'n v w' -> 'n c'; NaN if a view is NaN."""
    features = np.asarray(features)
    scores = score(rearrange(features, "n v w -> (n v) w"))
    return reduce(scores, "(n v) c -> n c", "mean", v=features.shape[1])
