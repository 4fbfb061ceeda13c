"""Evaluation of one run on the data sets of `evaluate_on`: zero-shot, linear probe and k-NN on features found once.

Protocols as the field has them: fixed views, no random sampling; a clip that cannot be decoded counts as wrong and is
listed; the test part is looked at once, after every choice was made inside the training part.

- zero-shot, EP-split: all classes, the official test part, of UCF-101 and HMDB-51 each of the splits (X-CLIP, ViFi-CLIP);
  EP-full: all clips of the set; EP-half: all clips of ten random halves of the classes (Text4Vis, BIKE);
- linear probe and k-NN: from each split's training part to its test part (`lib/evaluation/probes.py`);
- Charades: mean average precision of its multi-label test part.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from lib.backbone import VideoCLIP
from lib.concepts import concept_spaces
from lib.datasets.lists import VideoList, data_hash
from lib.datasets.parts import groups_of, probe_part, test_parts
from lib.datasets.preflight import check_model, check_probe, check_run, concepts_of, warnings_of
from lib.evaluation.features import Features, cached_features
from lib.evaluation.metrics import (
    balanced_scores,
    half_class_accuracies,
    mean_average_precision,
    pair_correct,
    prediction_summary,
    topk_accuracy,
    topk_correct,
    zero_shot_probabilities,
    zero_shot_scores,
)
from lib.evaluation.probes import few_per_class, fit_linear_probe, knn, mean_over_views, refit
from lib.language.vocabulary import Concept, read_confusable_pairs
from lib.run.clip_files import load_tokenizer
from lib.run.devices import memory_gb
from lib.run.fields import AdaptParams, EvaluateParams, Params
from lib.run.files import alone_in, file_hash, read_json, whole_file, write_json
from lib.run.params import FOLDER
from lib.run.records import provenance

Score = Callable[[np.ndarray], np.ndarray]  # 'n w' -> 'n c'


class Record:
    """What was measured, as `metrics.json` and `correct.safetensors` hold it."""

    def __init__(self, confusable_pairs: Sequence[tuple[str, str]]):
        self.confusable_pairs = confusable_pairs  # of class names
        self.metrics: list[dict[str, Any]] = []
        self.failed: set[str] = set()  # paths of the clips that cannot be decoded: no other clip's scores may be NaN
        # "<dataset>/<part>/<protocol>" -> 'n', for paired comparisons; ".../clips": which clips these are, over all parts
        self.correct: dict[str, np.ndarray] = {}
        self.per_class: dict[str, list[float]] = {}
        self.confusion: dict[str, list[list[int]]] = {}

    def value(self, dataset: str, part: str, protocol: str, metric: str, value: float) -> None:
        self.metrics.append(
            {"dataset": dataset, "part": part, "protocol": protocol, "metric": metric, "value": float(value)}
        )

    def scores(
        self, dataset: str, part: str, protocol: str, scores: np.ndarray, videos: VideoList, *, top: int = 5
    ) -> None:
        """Everything that is measured of the scores 'n c' of a list of clips with one label each; `top` stands for 5 where
        fewer scores are no ties. Among five classes or fewer, five answers say nothing."""
        key, truth, classes = f"{dataset}/{part}/{protocol}", _truth(videos), videos.classes
        self.insist_on_numbers(key, scores, videos)
        right, summary = topk_correct(scores, truth, 1), prediction_summary(scores, truth)
        self.correct[key] = right.astype(np.uint8)
        self.correct[f"{key}/predicted"] = _predicted(scores)
        self.per_class[key] = np.asarray(summary["per_class_accuracy"]).tolist()
        self.confusion[key] = np.asarray(summary["confusion"]).tolist()
        values = {
            "top1": 100 * right.mean(),
            **({"top5": 100 * topk_correct(scores, truth, top).mean()} if len(classes) > 5 else {}),
            "prediction_entropy": summary["prediction_entropy"],
        }
        pairs = [(classes.index(a), classes.index(b)) for a, b in self.confusable_pairs if {a, b} <= set(classes)]
        if np.isin(truth, pairs).any():
            of_pairs = pair_correct(scores, truth, pairs)
            values["pair_top1"] = 100 * of_pairs.mean()
            self.correct[f"{key}/pairs"] = of_pairs.astype(np.uint8)
        for metric, value in values.items():
            self.value(dataset, part, protocol, metric, value)

    def insist_on_numbers(self, key: str, scores: np.ndarray, videos: VideoList) -> None:
        """Raises ValueError unless exactly the clips that cannot be decoded have scores of NaN."""
        failed = np.array([str(video.path) in self.failed for video in videos.videos])
        if (np.isnan(scores).any(axis=1) != failed).any():
            raise ValueError(f"{key}: scores are NaN of clips that were decoded, or numbers of clips that were not")


def evaluate(params: Params, folder: Path) -> dict:
    """Evaluates the model that `train.adapt` left under `folder`; waits while another process is at work there.

    Returns:
        the record, which is also `folder/metrics.json`: that file exists only when the evaluation is whole. Per-clip
        correctness lies beside it in `correct.safetensors`.
    Raises:
        FileNotFoundError: there is no adapted model, or no such data set.
        DataError: files are missing or cannot be decoded, and `allow_missing` is false.
        ValueError: what `preflight.check_run` finds, a checkpoint that is none; ProbeError: a probe that did not converge.
        Whatever is found before features are made leaves an earlier `metrics.json` as it was.
    """
    with alone_in(folder):
        return _evaluate(params, folder)


def _evaluate(params: Params, folder: Path) -> dict:
    started, made = time.time(), provenance(params, EvaluateParams)
    torch.set_num_threads(params.threads)
    if not (folder / "adapt.json").exists():
        raise FileNotFoundError(
            f"{folder}: no finished adaptation here (adapt.json); "
            "run 02_adapt with the same parameters first. If they are another run's but for "
            "its evaluation, copy the folder of that run to this place"
        )
    adapted = read_json(folder / "adapt.json")
    if not params.made(adapted, AdaptParams):
        what = (
            "other parameters"
            if adapted["params_hash"] != params.stage_hash(AdaptParams)
            else "data from another folder"
        )
        raise ValueError(
            f"{folder}: the model here was adapted with {what}; run 02_adapt with these first (what it can take up, it does)"
        )
    everything = check_run(params, adapt=False)
    model = VideoCLIP.from_pretrained(str(folder / params.evaluate_model)).eval()
    tokenizer = load_tokenizer(folder / params.evaluate_model, model.config.text_config)
    check_model(params, model.config, tokenizer, everything, adapt=False)
    (folder / "metrics.json").unlink(missing_ok=True)  # from here on the evaluation is not whole
    vocabularies = [FOLDER / "concepts" / f"{name}.yaml" for name in params.class_vocabularies]
    pairs = dict.fromkeys(pair for path in vocabularies for pair in read_confusable_pairs(path))
    record, datasets, warnings = Record(list(pairs)), {}, warnings_of(params, everything)
    if warnings:
        print(*warnings, sep="\n")
    for dataset, lists in everything.items():
        tests = {part: lists[part] for part in test_parts(params, dataset)}
        classes = next(iter(tests.values())).classes
        scorer = _zero_shot_scorer(params, model, tokenizer, concepts_of(params, dataset, lists))
        used = dict(tests)
        if {"full", "half"} & set(params.zero_shot_protocols) and "all" in lists:
            used["all"] = lists["all"]
        if dataset in params.probe_on:
            used |= {probe_part(part): lists[probe_part(part)] for part in tests}
        found = cached_features(params, folder, dataset, used.values())
        record.failed |= found.failed.keys()
        _zero_shot(params, record, dataset, used, tests, scorer, found)
        probes = _probes(params, record, dataset, used, tests, found) if dataset in params.probe_on else {}
        numbers = {
            name: i
            for i, name in enumerate(dict.fromkeys(video.name for videos in tests.values() for video in videos.videos))
        }
        for part, videos in tests.items():
            record.correct[f"{dataset}/{part}/clips"] = np.array(
                [numbers[video.name] for video in videos.videos], np.int32
            )
        files = data_hash(video for videos in used.values() for video in videos.videos)
        datasets[dataset] = {
            "classes": classes,
            "data": files,
            "probe": probes,
            "counts": _counts(tests.values(), found),
            "parts": {
                part: _counts([videos], found)
                | {
                    "failed": found.failures(videos),
                    "missing": videos.missing,
                    "extra": videos.extra,
                    "left_out": videos.left_out,
                    "absent_classes": videos.absent_classes,
                }
                for part, videos in used.items()
            },
        }

    with whole_file(
        folder / "correct.safetensors", size=sum(array.nbytes for array in record.correct.values())
    ) as partial:
        save_file(record.correct, partial)
    content = {
        "params": {name: getattr(params, name) for name in EvaluateParams.model_fields},
        "adapted": {name: adapted[name] for name in ("commit", "code", "params_hash", "sources") if name in adapted},
        "metrics": record.metrics,
        "datasets": datasets,
        "per_class": record.per_class,
        "confusion": record.confusion,
        "views": {"zero_shot": params.zero_shot_views, "probe": params.probe_views, "average": params.average_views},
        "prompts": _hashed("prompts", [params.zero_shot_prompts]),
        "concepts": _hashed("concepts", dict.fromkeys(["merge", *params.concepts, *params.class_vocabularies])),
        "warnings": warnings,
        "seconds": round(time.time() - started, 1),
        "memory_gb": round(memory_gb(torch.device(params.device)), 3),
        **made,
    }
    write_json(folder / "metrics.json", content)
    return content


def _counts(lists: Collection[VideoList], found: Features) -> dict[str, int]:
    """The distinct clips of some lists: how many they name, how many have a file, how many could be decoded."""
    missing = {name for videos in lists for name in videos.missing}
    files = {video.name: str(video.path) in found.failed for videos in lists for video in videos.videos}
    return {"listed": len(missing) + len(files), "found": len(files), "decoded": list(files.values()).count(False)}


def _hashed(kind: str, names: Iterable[str]) -> dict[str, str]:
    return {name: file_hash(FOLDER / kind / f"{name}.yaml") for name in names}


def _zero_shot_scorer(params: Params, model: VideoCLIP, tokenizer: Any, concepts: list[Concept]) -> Score:
    """Embeddings 'n d' -> scores 'n c': cosines, or with averaged probabilities their softmax at CLIP's temperature."""
    spaces = concept_spaces(
        params, model, tokenizer, concepts, prompts=params.zero_shot_prompts, names=params.score_spaces
    )
    directions = [spaces[name].directions().numpy() for name in params.score_spaces]
    if params.average_views == "features":
        return lambda rows: zero_shot_scores(rows, *directions)
    scale = model.logit_scale.exp().item()
    return lambda rows: zero_shot_probabilities(zero_shot_scores(rows, *directions), logit_scale=scale)


def _predicted(scores: np.ndarray) -> np.ndarray:
    """The class of the largest score 'n c' of each clip; -1 for one that could not be decoded."""
    undecoded = np.isnan(scores).any(axis=1)
    return np.where(undecoded, -1, np.where(undecoded[:, None], 0, scores).argmax(axis=1)).astype(np.int16)


def _truth(videos: VideoList) -> np.ndarray:
    return np.array([video.label for video in videos.videos])


def _zero_shot(
    params: Params,
    record: Record,
    dataset: str,
    used: dict[str, VideoList],
    tests: dict[str, VideoList],
    scorer: Score,
    found: Features,
) -> None:
    average = params.average_views == "features"
    scores = {
        part: mean_over_views(scorer, found.of(videos, "embedding", params.zero_shot_views, average=average))
        for part, videos in used.items()
        if part in tests or part == "all"
    }
    for part, rows in scores.items():
        record.insist_on_numbers(f"{dataset}/{part}/zero_shot", rows, used[part])
    if dataset == "charades":
        ((part, videos),) = tests.items()
        truth = np.zeros((len(videos), len(videos.classes)), dtype=bool)
        for row, video in zip(truth, videos.videos):
            row[list(video.labels)] = True
        record.value(dataset, part, "zero_shot", "mAP", mean_average_precision(scores[part], truth).value)
        return
    if "split" in params.zero_shot_protocols:
        for part, videos in tests.items():
            own = scores[part]
            if params.balance_predictions:
                own = balanced_scores(own, temperature=params.balance_temperature, rounds=params.sinkhorn_iterations)
            record.scores(dataset, part, "zero_shot", own, videos)
            if params.still_views:
                record.scores(
                    dataset,
                    part,
                    "zero_shot_still",
                    mean_over_views(scorer, found.of(videos, "embedding", params.still_views, average=average)),
                    videos,
                )
    if "all" not in scores:
        return
    if "full" in params.zero_shot_protocols:
        record.scores(dataset, "all", "zero_shot_full", scores["all"], used["all"])
    if "half" in params.zero_shot_protocols:
        for draw, accuracy in enumerate(half_class_accuracies(scores["all"], _truth(used["all"]))):
            record.value(dataset, f"half-{draw}", "zero_shot_half", "top1", accuracy)


def _probes(
    params: Params,
    record: Record,
    dataset: str,
    used: dict[str, VideoList],
    tests: dict[str, VideoList],
    found: Features,
) -> dict[str, dict]:
    """Linear probe and k-NN of every test part. Returns C and the sweep of each training part."""
    average, probes = params.average_views == "features", {}
    for part, videos in tests.items():
        train = used[probe_part(part)]
        known = {
            kind: found.of(train, kind, params.probe_views, average=True)[:, 0] for kind in ("features", "embedding")
        }
        decoded = ~np.isnan(known["features"]).any(axis=1)
        check_probe(params, dataset, probe_part(part), train, videos, decoded)
        labels, groups = _truth(train)[decoded], groups_of(dataset, train)
        seen = known[params.probe_feature][decoded]
        probe = fit_linear_probe(
            seen,
            labels,
            num_classes=len(videos.classes),
            grid=params.probe_c,
            refinements=params.probe_refinements,
            held_out=params.probe_held_out,
            max_iter=params.probe_max_iter,
            tolerance=params.probe_tolerance,
            normalise=params.probe_normalise,
            seed=params.probe_seed,
            groups=None if groups is None else groups[decoded],
            classes=train.classes,
        )
        probes[part] = {"C": probe.C, "sweep": probe.records}
        features = found.of(videos, params.probe_feature, params.probe_views, average=average)
        record.scores(
            dataset,
            part,
            "linear_probe",
            mean_over_views(probe.scores if average else probe.probabilities, features),
            videos,
        )
        for shots in params.probe_shots:
            accuracies = []
            for draw in range(params.probe_shot_draws):
                few = few_per_class(labels, shots, seed=params.probe_seed + draw)
                small = refit(
                    seen[few],
                    labels[few],
                    num_classes=len(videos.classes),
                    C=probe.C,
                    max_iter=params.probe_max_iter,
                    tolerance=params.probe_tolerance,
                    normalise=params.probe_normalise,
                )
                scores = mean_over_views(small.scores if average else small.probabilities, features)
                accuracies.append(topk_accuracy(scores, _truth(videos), 1))
            record.value(dataset, part, f"linear_probe_{shots}_shot", "top1", np.mean(accuracies))
        features = found.of(videos, "features", params.probe_views, average=average)
        for k in params.knn_k:
            votes = mean_over_views(
                lambda rows: knn(known["features"][decoded], labels, rows, num_classes=len(videos.classes), k=k),
                features,
            )
            record.scores(dataset, part, f"knn_{k}", votes, videos, top=min(5, k))
    return probes
