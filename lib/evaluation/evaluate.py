"""Evaluates one run on the data sets of `evaluate_on`: zero-shot, linear probe and k-NN, each video decoded once."""

import time
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.numpy import save_file

from lib.backbone import VideoCLIP
from lib.concepts import concept_spaces
from lib.datasets.lists import VideoList, data_hash
from lib.datasets.parts import Parts, probe_part, test_parts
from lib.datasets.preflight import check_model, check_probe, check_run, concepts_of, warnings_of
from lib.evaluation.features import Features, cached_features
from lib.evaluation.interpolation import interpolate, start_of_run, unlabelled
from lib.evaluation.metrics import zero_shot_probabilities, zero_shot_scores
from lib.evaluation.protocols import (
    ANSWERS,
    EvaluationSet,
    EvaluationSettings,
    Record,
    Score,
    Scorer,
    probes,
    zero_shot,
)
from lib.language.selection import seen_classes
from lib.language.vocabulary import Concept, read_confusable_pairs
from lib.run.clip_files import load_tokenizer
from lib.run.devices import memory_gb
from lib.run.fields import AdaptParams, EvaluateParams, Params
from lib.run.files import alone_in, file_hash, read_json, whole_file, write_json, write_text
from lib.run.params import FOLDER
from lib.run.records import provenance


def evaluate(params: Params, folder: Path) -> dict:
    """Evaluates the model that `train.adapt` left under `folder`; waits while another process is at work there.

    Returns the record, which is also `folder/metrics.json` (only when the evaluation is complete); the correctness of
    every clip is in `correct.safetensors`, the answers of zero-shot and the linear and attentive probes in
    `answers.csv`.
    Raises FileNotFoundError without an adapted model or data set, DataError for missing or undecodable files unless
    `allow_missing`, ValueError for what `preflight.check_run` finds or a damaged checkpoint, and ProbeError if a probe
    does not converge. An earlier `metrics.json` stays if the error comes before features are computed.
    """
    with alone_in(folder):
        return _evaluate(params, folder)


def _evaluate(params: Params, folder: Path) -> dict:
    started, made_by = time.time(), provenance(params, EvaluateParams)
    torch.set_num_threads(params.threads)
    adapted = _adaptation(params, folder)
    datasets = check_run(params, adapt=False)
    model = VideoCLIP.from_pretrained(str(folder / params.evaluate_model)).eval()
    tokenizer = load_tokenizer(folder / params.evaluate_model, model.config.text_config)
    check_model(params, model.config, tokenizer, datasets, adapt=False)
    interpolating = len(params.interpolate) > 1 and params.epochs > 0
    start = start_of_run(params, model, adapted["sources"]) if interpolating else None
    warnings = warnings_of(params, datasets)
    print(*warnings, sep="\n", end="\n" * bool(warnings))

    (folder / "metrics.json").unlink(missing_ok=True)  # from here on the evaluation is incomplete
    record, results = Record(_confusable_pairs(params)), {}
    for dataset, parts in datasets.items():
        concepts = concepts_of(params, dataset, parts)
        record.seen[dataset] = seen_classes(params, concepts)
        scorers = zero_shot_scorers(params, model, tokenizer, concepts)
        results[dataset] = _evaluate_dataset(params, folder, record, dataset, parts, scorers, start)

    size = sum(array.nbytes for array in record.correct.values())
    with whole_file(folder / "correct.safetensors", size=size) as partial:
        save_file(record.correct, partial)
    answers = pd.DataFrame(record.answers, columns=ANSWERS)
    write_text(folder / "answers.csv", answers.to_csv(index=False, float_format="%.6g"))
    vocabularies = dict.fromkeys(["merge", *params.concepts, *params.label_vocabularies])
    content = {
        "params": {name: getattr(params, name) for name in EvaluateParams.model_fields},
        "adapted": {name: adapted[name] for name in ("commit", "code", "params_hash", "sources") if name in adapted},
        "metrics": record.metrics,
        "datasets": results,
        "per_class": record.per_class,
        "confusion": record.confusion,
        "views": {"zero_shot": params.zero_shot_views, "probe": params.probe_views, "average": params.average_views},
        "prompts": _file_hashes("prompts", [params.zero_shot_prompts]),
        "concepts": _file_hashes("concepts", vocabularies),
        "warnings": warnings,
        "seconds": round(time.time() - started, 1),
        "memory_gb": round(memory_gb(torch.device(params.device)), 3),
        **made_by,
    }
    write_json(folder / "metrics.json", content)
    return content


def _adaptation(params: Params, folder: Path) -> dict[str, Any]:
    """The record of the adaptation in `folder`. Raises an error unless these parameters made it."""
    if not (folder / "adapt.json").exists():
        raise FileNotFoundError(
            f"{folder}: no finished adaptation (adapt.json); run 02_adapt with the same parameters first, or copy the "
            "folder of a run that differs only in its evaluation to this place"
        )
    adapted = read_json(folder / "adapt.json")
    if not params.made(adapted, AdaptParams):
        same_params = adapted["params_hash"] == params.stage_hash(AdaptParams)
        difference = "data from another folder" if same_params else "other parameters"
        raise ValueError(f"{folder}: the model was adapted with {difference}; run 02_adapt with these parameters first")
    return adapted


def _confusable_pairs(params: Params) -> list[tuple[str, str]]:
    paths = [FOLDER / "concepts" / f"{name}.yaml" for name in params.label_vocabularies]
    return list(dict.fromkeys(pair for path in paths for pair in read_confusable_pairs(path)))


def _file_hashes(kind: str, names: Iterable[str]) -> dict[str, str]:
    return {name: file_hash(FOLDER / kind / f"{name}.yaml") for name in names}


def zero_shot_scorers(params: Params, model: VideoCLIP, tokenizer: Any, concepts: list[Concept]) -> dict[str, Scorer]:
    """Labels of concepts -> embeddings 'n d' -> scores 'n c', by what views are averaged as: of "features" cosines, of
    "probabilities" their softmax at CLIP's temperature."""
    spaces = concept_spaces(
        params, model, tokenizer, concepts, prompts=params.zero_shot_prompts, names=params.score_spaces
    )
    directions = [space.directions().numpy() for space in spaces.values()]
    numbers = {concept.label: number for number, concept in enumerate(concepts)}
    scale = model.logit_scale.exp().item()

    def cosines(classes: list[str]) -> Score:
        rows = [numbers[name] for name in classes]
        of_classes = [vectors[rows] for vectors in directions]
        return lambda embeddings: zero_shot_scores(embeddings, *of_classes)

    def probabilities(classes: list[str]) -> Score:
        score = cosines(classes)
        return lambda embeddings: zero_shot_probabilities(score(embeddings), logit_scale=scale)

    return {"features": cosines, "probabilities": probabilities}


def _evaluate_dataset(
    params: Params,
    folder: Path,
    record: Record,
    dataset: str,
    parts: Parts,
    scorers: dict[str, Scorer],
    start: VideoCLIP | None,
) -> dict[str, Any]:
    """Adds a data set's measurements to the record. Returns what was used of it, its counts and the probes' sweeps."""
    tests = {part: parts[part] for part in test_parts(params, dataset)}
    lists = dict(tests)
    if {"full", "half"} & set(params.zero_shot_protocols) and "all" in parts:
        lists["all"] = parts["all"]
    scored = list(lists.values())
    if dataset in params.probe_on:
        lists |= {probe_part(part): parts[probe_part(part)] for part in tests}
    features_of = partial(
        cached_features,
        folder / params.evaluate_model,
        dataset,
        precision=params.eval_precision,
        batch_size=params.eval_batch_size,
        device=params.device,
        workers=params.workers,
        loader_timeout=params.loader_timeout,
    )
    views = [*params.zero_shot_views, *params.still_views]
    choice = unlabelled(params, dataset, parts) if start else {}
    frame_views = params.probe_views if params.attentive_epochs and dataset in params.probe_on else []
    listed = [*lists.values(), *choice.values()]
    features = features_of(listed, view_names=[*views, *params.probe_views], frame_views=frame_views)
    record.failed |= features.failed.keys()
    settings, data, sweeps = EvaluationSettings.of(params), EvaluationSet(dataset, lists, list(tests), features), {}
    zero_shot(settings, record, data, scorers[params.average_views])
    if dataset in params.probe_on:
        for part, videos in tests.items():
            train = lists[probe_part(part)]
            check_probe(params, dataset, probe_part(part), train, videos, features.decoded(train))
        sweeps = probes(settings, record, data)
    interpolation = {}
    if start:
        features_at = partial(features_of, [*scored, *choice.values()], view_names=views, start=start)
        interpolation["interpolation"] = interpolate(params, record, data, choice, scorers, features_at)
    record.clips(dataset, tests)
    return {
        "classes": next(iter(tests.values())).classes,
        "data": data_hash(video for videos in lists.values() for video in videos.videos),
        "probe": sweeps,
        **interpolation,
        "counts": _counts(tests.values(), features),
        "parts": {part: _part_record(videos, features) for part, videos in lists.items()},
    }


def _part_record(videos: VideoList, features: Features) -> dict[str, Any]:
    unused = {name: getattr(videos, name) for name in ("missing", "extra", "left_out", "absent_classes")}
    return _counts([videos], features) | {"failed": features.failures(videos)} | unused


def _counts(lists: Collection[VideoList], features: Features) -> dict[str, int]:
    """The distinct clips of some lists: how many they name, how many have a file, how many could be decoded."""
    missing = {name for videos in lists for name in videos.missing}
    failed = {video.name: str(video.path) in features.failed for videos in lists for video in videos.videos}
    return {"listed": len(missing) + len(failed), "found": len(failed), "decoded": list(failed.values()).count(False)}
