"""The protocols of the field, on the features of one data set. Views are fixed, nothing is sampled.

- zero-shot, EP-split: all classes, the official test part, of UCF-101, HMDB-51 and Kinetics-600 each of the
  splits (X-CLIP, ViFi-CLIP), those of Kinetics-600 with classes of their own;
  EP-full: all clips of the set; EP-half: all clips of ten random halves of the classes (Text4Vis, BIKE);
- linear probe and k-NN: from each training part to its test part (`lib/evaluation/probes.py`);
- Charades: mean average precision of its multi-label test part.

A clip that cannot be decoded counts as wrong and is listed. The test part is scored once, after every choice was made
inside the training part.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np

from lib.datasets.lists import VideoList
from lib.datasets.parts import groups_of, probe_part
from lib.evaluation.attentive import fit_attentive_probe
from lib.evaluation.features import Features
from lib.evaluation.metrics import (
    balanced_scores,
    half_class_accuracies,
    mean_average_precision,
    pair_correct,
    prediction_summary,
    topk_accuracy,
    topk_correct,
)
from lib.evaluation.probes import LinearProbe, Score, fit_few_shot, fit_linear_probe, knn, mean_over_views
from lib.run.fields import Params

Scorer = Callable[[list[str]], Score]  # classes -> their classifier
ANSWERS = ["dataset", "part", "protocol", "clip", "truth", "prediction", "score"]  # columns of answers.csv


@dataclass(frozen=True)
class EvaluationSettings:
    """What the protocols use: the parameters of the same names (`params/base.yaml`)."""

    zero_shot_protocols: list[str]
    zero_shot_views: list[str]
    still_views: list[str]
    balance_predictions: bool
    balance_temperature: float
    sinkhorn_iterations: int
    average_views: str
    probe_views: list[str]
    probe_feature: str
    probe_normalise: str
    probe_c: list[float]
    probe_refinements: int
    probe_held_out: float
    probe_max_iter: int
    probe_tolerance: float
    probe_seed: int
    probe_shots: list[int]
    probe_shot_draws: int
    probe_one_shot_c: float
    attentive_epochs: int
    attentive_learning_rates: list[float]
    attentive_batch_size: int
    attentive_weight_decay: float
    device: str
    knn_k: list[int]

    @classmethod
    def of(cls, params: Params) -> "EvaluationSettings":
        return cls(**{field.name: getattr(params, field.name) for field in fields(cls)})

    @property
    def average(self) -> bool:
        """Whether the features of views are averaged, and not their probabilities."""
        return self.average_views == "features"

    @property
    def solver(self) -> dict[str, Any]:
        return dict(max_iter=self.probe_max_iter, tolerance=self.probe_tolerance, normalise=self.probe_normalise)


@dataclass(frozen=True)
class EvaluationSet:
    """A data set with its lists by part, the parts that numbers are reported on, and the features of all clips."""

    name: str
    lists: dict[str, VideoList]
    tests: list[str]
    features: Features
    alpha: float = 1.0  # of the weights; below 1, interpolated

    def key(self, part: str, protocol: str) -> str:
        """ "<dataset>/<part>/<protocol>", of interpolated weights "<protocol>@<alpha>"."""
        return f"{self.name}/{part}/{protocol}" + (f"@{self.alpha:g}" if self.alpha != 1 else "")


class Record:
    """The measurements, as `metrics.json`, `correct.safetensors` and `answers.csv` hold them.

    Keys are those of `EvaluationSet.key`. `correct` has 'n' for paired comparisons; `<dataset>/<part>/clips` says
    which clips these are, over all parts.
    """

    def __init__(self, confusable_pairs: Sequence[tuple[str, str]]):
        self.confusable_pairs = confusable_pairs  # of class names
        self.seen: dict[str, set[str]] = {}  # of a data set, the classes whose actions the adaptation had videos of
        self.metrics: list[dict[str, Any]] = []
        self.failed: set[str] = set()  # paths of the clips that cannot be decoded
        self.correct: dict[str, np.ndarray] = {}
        self.answers: list[tuple] = []  # rows of ANSWERS; empty prediction and NaN for clips that cannot be decoded
        self.per_class: dict[str, list[float]] = {}
        self.confusion: dict[str, list[list[int]]] = {}

    def value(self, key: str, metric: str, value: float) -> None:
        dataset, part, protocol = key.split("/")
        names = {"dataset": dataset, "part": part, "protocol": protocol}
        self.metrics.append(names | {"metric": metric, "value": float(value)})

    def scores(self, key: str, scores: np.ndarray, videos: VideoList, *, top: int = 5) -> None:
        """All metrics of the scores 'n c' of clips with one label each.

        top: replaces 5 where fewer scores differ. With five classes or fewer there is no top-5.
        """
        self.check_finite(key, scores, videos)
        labels, classes = labels_of(videos), videos.classes
        correct, summary = topk_correct(scores, labels, 1), prediction_summary(scores, labels)
        self.correct[key] = correct.astype(np.uint8)
        self.correct[f"{key}/predicted"] = predictions = _predictions(scores)
        if key.endswith(("/zero_shot", "/linear_probe", "/attentive_probe")):
            for video, prediction, score in zip(videos.videos, predictions, scores.max(axis=1)):
                answer = classes[prediction] if prediction >= 0 else ""
                self.answers.append((*key.split("/"), video.name, classes[video.label], answer, score))
        self.per_class[key] = summary["per_class_accuracy"].tolist()
        self.confusion[key] = summary["confusion"].tolist()
        self.value(key, "top1", 100 * correct.mean())
        if len(classes) > 5:
            self.value(key, "top5", 100 * topk_correct(scores, labels, top).mean())
        self.value(key, "prediction_entropy", summary["prediction_entropy"])
        seen = np.isin(labels, [i for i, name in enumerate(classes) if name in self.seen.get(key.split("/")[0], ())])
        if seen.any() and not seen.all():
            self.value(key, "top1_seen", 100 * correct[seen].mean())
            self.value(key, "top1_unseen", 100 * correct[~seen].mean())
        pairs = [(classes.index(a), classes.index(b)) for a, b in self.confusable_pairs if {a, b} <= set(classes)]
        if np.isin(labels, pairs).any():
            pairs_correct = pair_correct(scores, labels, pairs)
            self.value(key, "pair_top1", 100 * pairs_correct.mean())
            self.correct[f"{key}/pairs"] = pairs_correct.astype(np.uint8)

    def check_finite(self, key: str, scores: np.ndarray, videos: VideoList) -> None:
        """Raises ValueError unless exactly the clips that cannot be decoded have scores of NaN."""
        failed = np.array([str(video.path) in self.failed for video in videos.videos])
        if (np.isnan(scores).any(axis=1) != failed).any():
            raise ValueError(f"{key}: scores are NaN of clips that were decoded, or numbers of clips that were not")

    def clips(self, dataset: str, tests: dict[str, VideoList]) -> None:
        """Numbers the clips of all test parts by name: a clip has the same number in every part."""
        names = dict.fromkeys(video.name for videos in tests.values() for video in videos.videos)
        numbers = {name: number for number, name in enumerate(names)}
        for part, videos in tests.items():
            row = [numbers[video.name] for video in videos.videos]
            self.correct[f"{dataset}/{part}/clips"] = np.array(row, np.int32)


def labels_of(videos: VideoList) -> np.ndarray:
    return np.array([video.label for video in videos.videos])


def _predictions(scores: np.ndarray) -> np.ndarray:
    """The class of the largest score 'n c' of each clip; -1 for one that could not be decoded."""
    undecoded = np.isnan(scores).any(axis=1)
    return np.where(undecoded, -1, np.where(undecoded[:, None], 0, scores).argmax(axis=1)).astype(np.int16)


# ---- zero-shot ------------------------------------------------------------------------------------------------------


def zero_shot(settings: EvaluationSettings, record: Record, data: EvaluationSet, scorer: Scorer) -> None:
    """scorer: the classes of a part -> their classifier, embeddings 'n d' -> scores 'n c'."""

    def scores_of(part: str, views: list[str]) -> np.ndarray:
        videos = data.lists[part]
        embeddings = data.features.of(videos, "embedding", views, average=settings.average)
        return mean_over_views(scorer(videos.classes), embeddings)

    parts = [part for part in data.lists if part in data.tests or part == "all"]
    scores = {part: scores_of(part, settings.zero_shot_views) for part in parts}
    for part in parts:
        record.check_finite(data.key(part, "zero_shot"), scores[part], data.lists[part])
    if data.name == "charades":
        (part,) = data.tests
        precision = mean_average_precision(scores[part], _multi_label_truth(data.lists[part]))
        record.value(data.key(part, "zero_shot"), "mAP", precision)
        return
    for part in data.tests if "split" in settings.zero_shot_protocols else ():
        videos, part_scores = data.lists[part], scores[part]
        if settings.balance_predictions:
            part_scores = balanced_scores(
                part_scores, temperature=settings.balance_temperature, rounds=settings.sinkhorn_iterations
            )
        record.scores(data.key(part, "zero_shot"), part_scores, videos)
        if settings.still_views:
            record.scores(data.key(part, "zero_shot_still"), scores_of(part, settings.still_views), videos)
    if "all" in scores and "full" in settings.zero_shot_protocols:
        record.scores(data.key("all", "zero_shot_full"), scores["all"], data.lists["all"])
    if "all" in scores and "half" in settings.zero_shot_protocols:
        for draw, top1 in enumerate(half_class_accuracies(scores["all"], labels_of(data.lists["all"]))):
            record.value(data.key(f"half-{draw}", "zero_shot_half"), "top1", top1)


def _multi_label_truth(videos: VideoList) -> np.ndarray:
    truth = np.zeros((len(videos), len(videos.classes)), dtype=bool)
    for row, video in zip(truth, videos.videos):
        row[list(video.labels)] = True
    return truth


# ---- probes ---------------------------------------------------------------------------------------------------------


def probes(settings: EvaluationSettings, record: Record, data: EvaluationSet) -> dict[str, dict]:
    """Linear probe, few-shot probes and k-NN of every test part. Returns C and the sweep of each."""
    sweeps = {}
    for part in data.tests:
        train = data.lists[probe_part(part)]
        decoded, groups = data.features.decoded(train), groups_of(data.name, train)
        labels = labels_of(train)[decoded]
        train_features = {
            kind: data.features.of(train, kind, settings.probe_views, average=True)[decoded, 0]
            for kind in {settings.probe_feature, "features"}
        }
        probe = fit_linear_probe(
            train_features[settings.probe_feature],
            labels,
            num_classes=len(train.classes),
            grid=settings.probe_c,
            refinements=settings.probe_refinements,
            held_out=settings.probe_held_out,
            seed=settings.probe_seed,
            groups=None if groups is None else groups[decoded],
            classes=train.classes,
            **settings.solver,
        )
        sweeps[part] = {"C": probe.C, "sweep": probe.records}
        _linear_probes(settings, record, data, part, probe, train_features[settings.probe_feature], labels)
        _knn(settings, record, data, part, train_features["features"], labels)
        if settings.attentive_epochs:
            sweeps[part]["attentive"] = _attentive_probe(settings, record, data, part, labels)
    return sweeps


def _linear_probes(
    settings: EvaluationSettings,
    record: Record,
    data: EvaluationSet,
    part: str,
    probe: LinearProbe,
    train_features: np.ndarray,
    train_labels: np.ndarray,
) -> None:
    """Scores the probe, and those fitted on a few clips per class: with a C chosen within these, or with its own."""
    videos, key = data.lists[part], data.key(part, "linear_probe")
    features = data.features.of(videos, settings.probe_feature, settings.probe_views, average=settings.average)

    def scores_of(probe: LinearProbe) -> np.ndarray:
        return mean_over_views(probe.scores if settings.average else probe.probabilities, features)

    record.scores(key, scores_of(probe), videos)
    of_few = dict(C=probe.C, one_shot_c=settings.probe_one_shot_c, grid=settings.probe_c)
    of_few |= dict(held_out=settings.probe_held_out, num_classes=probe.num_classes, **settings.solver)
    for shots in settings.probe_shots:
        accuracies = []
        for seed in range(settings.probe_seed, settings.probe_seed + settings.probe_shot_draws):
            few_shot = fit_few_shot(train_features, train_labels, shots=shots, seed=seed, **of_few)
            accuracies.append(topk_accuracy(scores_of(few_shot), labels_of(videos), 1))
        record.value(f"{key}_{shots}_shot", "top1", np.mean(accuracies))


def _knn(
    settings: EvaluationSettings,
    record: Record,
    data: EvaluationSet,
    part: str,
    train_features: np.ndarray,
    train_labels: np.ndarray,
) -> None:
    videos = data.lists[part]
    features = data.features.of(videos, "features", settings.probe_views, average=settings.average)
    for k in settings.knn_k:
        votes = partial(knn, train_features, train_labels, num_classes=len(videos.classes), k=k)
        record.scores(data.key(part, f"knn_{k}"), mean_over_views(votes, features), videos, top=min(5, k))


def _attentive_probe(
    settings: EvaluationSettings, record: Record, data: EvaluationSet, part: str, train_labels: np.ndarray
) -> dict[str, Any]:
    """Scores the attentive probe. Returns its learning rate and the sweep."""
    train, videos = data.lists[probe_part(part)], data.lists[part]
    decoded, groups = data.features.decoded(train), groups_of(data.name, train)
    probe = fit_attentive_probe(
        data.features.of(train, "frames", settings.probe_views, average=False)[decoded],
        train_labels,
        num_classes=len(train.classes),
        learning_rates=settings.attentive_learning_rates,
        held_out=settings.probe_held_out,
        seed=settings.probe_seed,
        groups=None if groups is None else groups[decoded],
        classes=train.classes,
        epochs=settings.attentive_epochs,
        batch_size=settings.attentive_batch_size,
        weight_decay=settings.attentive_weight_decay,
        device=settings.device,
    )
    frames = data.features.of(videos, "frames", settings.probe_views, average=False)
    record.scores(data.key(part, "attentive_probe"), probe.scores(frames), videos)
    return {"learning_rate": probe.learning_rate, "sweep": probe.sweep}
