"""Probes on frozen features: a linear classifier and k-NN, fitted on the training split, test labels never seen.

Features are 'n w'. A test clip that could not be decoded is a row of NaN and stays one; training clips must all be
finite. Inputs are numpy arrays or CPU tensors; results are numpy.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


class ProbeError(ValueError):
    """The solver of the linear probe stopped before it converged: its accuracy would be that of no particular C."""


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
    score: Callable[[np.ndarray], np.ndarray],
    features: ArrayLike,
    *,
    classes: np.ndarray,
    num_classes: int,
    absent: float,
) -> np.ndarray:
    """Scores decoded clips in the classes seen in training -> all clips (else NaN) in all classes (else `absent`)."""
    features = np.asarray(features, dtype=np.float64)
    decoded = ~np.isnan(features).any(axis=1)
    everything = np.full((len(features), num_classes), np.nan)
    everything[decoded] = absent
    if decoded.any():
        everything[np.ix_(decoded, classes)] = score(features[decoded])
    return everything


# Linear probe --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearProbe:
    """A fitted linear probe.

    `records` has one entry per fit, in the order of the fits, the refit last: `fit` ("sweep" or "refit"), `C`,
    `held_out_top1` (percent; None for the refit), `iterations` and `seconds`.
    """

    model: Pipeline
    num_classes: int
    C: float
    records: list[dict[str, Any]]

    def scores(self, features: ArrayLike) -> np.ndarray:
        """Decision values, 'n w' -> 'n c'; a class without training clips has -inf."""
        return _spread(
            self._decisions, features, classes=self.model.classes_, num_classes=self.num_classes, absent=-np.inf
        )

    def probabilities(self, features: ArrayLike) -> np.ndarray:
        """The classifier's probabilities, 'n w' -> 'n c'; a class without training clips has 0."""
        return _spread(
            self.model.predict_proba, features, classes=self.model.classes_, num_classes=self.num_classes, absent=0.0
        )

    def _decisions(self, features: np.ndarray) -> np.ndarray:
        decisions = self.model.decision_function(features)
        if decisions.ndim == 1:  # scikit-learn gives two classes one column
            decisions = np.stack([-decisions, decisions], axis=1)
        return decisions


def _steps(normalise: Normalisation) -> list[StandardScaler | Normalizer]:
    # The intercept is not penalised, so centring leaves the solution as it is, and L-BFGS finds it in fewer iterations
    # (96_probe_speed).
    if normalise == "standardise":
        return [StandardScaler()]
    if normalise not in ("raw", "l2"):
        raise ValueError(f"normalise is {normalise!r}: choose 'raw', 'standardise' or 'l2'")
    return [*([Normalizer()] if normalise == "l2" else []), StandardScaler(with_std=False)]


def _fitted(
    features: np.ndarray, labels: np.ndarray, *, C: float, max_iter: int, tolerance: float, normalise: Normalisation
) -> tuple[Pipeline, dict[str, Any]]:
    """A converged fit, and its `iterations` and `seconds`; raises ProbeError if it did not converge."""
    model = make_pipeline(*_steps(normalise), LogisticRegression(C=C, max_iter=max_iter, tol=tolerance))
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit(features, labels)
        except ConvergenceWarning as warning:
            words = str(warning).split("\n\n")[0].replace("\n", " ")
            advice = "raise it, drop the largest values of probe_c" + (
                "" if normalise == "standardise" else ", or set probe_normalise to standardise"
            )
            raise ProbeError(
                f"the linear probe with C = {C:g} stopped early, with probe_max_iter = {max_iter}: "
                f"{advice} (scikit-learn: {words})"
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
    max_iter: int,
    tolerance: float,
    normalise: Normalisation,
    seed: int,
    groups: ArrayLike | None = None,
    classes: Sequence[str] = (),
) -> LinearProbe:
    """scikit-learn's LogisticRegression (L-BFGS) on frozen features 'n w'; `C` from a sweep inside the training split.

    The share `held_out` of the training split (whole groups, if `groups` names each clip's group) chooses C, the
    smallest of equally good ones; then one fit on the whole training split is the probe. C is first sought in `grid`;
    then each of `refinements` rounds tries the geometric means of the best C so far and its neighbours on either side.
    That is the parametric binary search of CLIP's linear probe (Radford et al. 2021, appendix A.3): from
    10^-6, 10^-4 ... 10^6, four rounds end at 8 steps per decade, as theirs. The normalisation is fitted with each
    classifier, so no choice sees the test set; "raw" is CLIP's.

    `tolerance` bounds the largest entry of the gradient of the *mean* loss. scikit-learn before 1.4 (pull request
    26721), so CLIP's, bounded that of the summed loss: its default of 1e-4 is 1e-4 / n here. With today's default, a
    large C stops far from its solution and is judged by where it stopped.

    Raises:
        ProbeError: a fit stopped before it converged, in the sweep or at the end: an unfinished fit, even one that
            loses, decides which C is taken.
        ValueError: features that are not finite, labels that are no class, too few clips or groups (see `hold_out`; `classes`
            are their names), an unknown `normalise`.
    """
    features, labels = _training_set(train_features, train_labels, num_classes)
    fit_part, choice_part = hold_out(labels, groups, fraction=held_out, seed=seed, classes=classes)
    settings = {"max_iter": max_iter, "tolerance": tolerance, "normalise": normalise}
    tried: dict[float, float] = {}  # C -> its held-out top-1
    records = []
    with tqdm(desc="linear probe", unit="fit") as progress:

        def record(fit: str, part: np.ndarray, C: float) -> Pipeline:
            progress.set_postfix(C=f"{C:.3g}")
            model, effort = _fitted(features[part], labels[part], C=C, **settings)
            if fit == "sweep":
                tried[C] = 100.0 * float(model.score(features[choice_part], labels[choice_part]))
            records.append({"fit": fit, "C": float(C), "held_out_top1": tried[C] if fit == "sweep" else None, **effort})
            progress.update()
            return model

        candidates = sorted(set(grid))
        for refinement in range(refinements + 1):
            for C in candidates:
                record("sweep", fit_part, C)
            ordered = sorted(tried)
            place = max(range(len(ordered)), key=lambda i: tried[ordered[i]])
            around = ordered[max(place - 1, 0) : place + 2]
            candidates = [float(np.sqrt(a * b)) for a, b in zip(around, around[1:])]
        best = float(ordered[place])
        return LinearProbe(record("refit", np.arange(len(labels)), best), num_classes, best, records)


def refit(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    C: float,
    max_iter: int,
    tolerance: float,
    normalise: Normalisation,
) -> LinearProbe:
    """One fit with a C that is known, such as on few clips of each class, where none can be held out to choose it."""
    features, labels = _training_set(features, labels, num_classes)
    model, effort = _fitted(features, labels, C=C, max_iter=max_iter, tolerance=tolerance, normalise=normalise)
    return LinearProbe(model, num_classes, C, [{"fit": "refit", "C": float(C), "held_out_top1": None, **effort}])


def few_per_class(labels: np.ndarray, shots: int, *, seed: int) -> np.ndarray:
    """Indices of `shots` clips of each class (all, where a class has fewer), ascending; the clips of fewer shots are
    among those of more."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.sort(np.concatenate([order[labels[order] == label][:shots] for label in np.unique(labels)]))


# k-NN ----------------------------------------------------------------------------------------------------------------


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
        raise ValueError(
            f"k = {k} neighbours wanted, but there are only {len(features)} training clips: lower k (knn_k)"
        )

    def votes_of(distance: np.ndarray) -> np.ndarray:
        # Between unit vectors, distance^2 = 2 - 2 s; scikit-learn is much faster with distances than with cosines.
        return np.exp((1 - distance**2 / 2) / temperature)

    model = KNeighborsClassifier(k, algorithm="brute", weights=votes_of).fit(normalize(features), labels)
    return _spread(
        lambda rows: model.predict_proba(normalize(rows)),
        test_features,
        classes=model.classes_,
        num_classes=num_classes,
        absent=0.0,
    )


# Views ---------------------------------------------------------------------------------------------------------------


def mean_over_views(probabilities: Callable[[np.ndarray], np.ndarray], features: ArrayLike) -> np.ndarray:
    """The mean over a clip's views of the probabilities of each view: 'n v w' -> 'n c'.

    `probabilities` takes 'n w' to 'n c': `LinearProbe.probabilities`, `knn` with all but the test features given, or
    the softmax of cosines. The other way is the mean of the features over v, scored once. A clip of which a view is NaN
    is NaN.
    """
    features = np.asarray(features)
    of_views = probabilities(rearrange(features, "n v w -> (n v) w"))
    return reduce(of_views, "(n v) c -> n c", "mean", v=features.shape[1])
