"""Evaluation of one run: features once per data part, then zero-shot, linear probe and k-NN on top of them.

Protocols as the field has them (X-CLIP, ViFi-CLIP for zero-shot; scikit-learn for the probe): fixed views, no random
sampling; a clip that cannot be decoded counts as wrong and is listed; the test part is looked at once, after every
choice was made inside the training part.
"""

import re
import time
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from safetensors.numpy import load_file, save_file
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoTokenizer

from lib.actions import CONFUSABLE_PAIRS
from lib.backbone import VideoCLIP
from lib.concepts import file_hash
from lib.data import EvaluationViews, VideoList, collate, list_part
from lib.metrics import (balanced_scores, knn, linear_probe, pair_correct, prediction_summary, topk_correct,
                         zero_shot_scores)
from lib.params import FOLDER, AdaptParams, EvaluateParams, Params
from lib.runs import provenance, read_json, write_json
from lib.train import concept_spaces, read_concepts

Features = dict[str, np.ndarray]  # "features" 'n w' and "embedding" 'n d', a row of NaN where a clip can't be decoded


@torch.inference_mode()
def extract(params: Params, model: VideoCLIP, videos: VideoList) -> tuple[Features, list[tuple[str, str]]]:
    """Runs every video through the model once.

    Returns:
        the means over a video's views of its features 'n w' and of its L2-normalised embeddings 'n d' (so that cosine
        scores are averaged over views), and name and reason of every video that can't be decoded.
    """
    views = EvaluationViews(videos, num_frames=params.eval_num_frames, clips=params.eval_clips, crops=params.eval_crops,
                            image_size=params.eval_image_size)
    loader = DataLoader(views, batch_size=params.eval_batch_size, collate_fn=collate, num_workers=params.workers)
    config, failed = model.config, []
    found = {"features": np.full((len(videos), config.vision_config.hidden_size), np.nan, np.float32),
             "embedding": np.full((len(videos), config.projection_dim), np.nan, np.float32)}
    with tqdm(total=len(videos), desc="features", unit="clip") as progress:
        for batch in loader:
            failed += [(videos.videos[i].name, error.reason) for i, error in batch.errors]
            if batch.views:
                clips = batch.views[0].to(params.device)
                output = model(rearrange(clips, "b v c t h w -> (b v) c t h w"))
                for name, rows in (("features", output.features),
                                   ("embedding", F.normalize(output.embedding.float(), dim=-1))):
                    found[name][batch.indices] = reduce(
                        rows.float(), "(b v) w -> b w", "mean", v=clips.shape[1]).cpu().numpy()
            progress.update(len(batch.indices) + len(batch.errors))
    return found, failed


def cached_features(params: Params, folder: Path, part: str) -> tuple[VideoList, Features, list[list[str]]]:
    """The list of a part, and what `extract` finds in it, or found before with the same model, views and videos."""
    videos = list_part(params, part)
    settings = [params.stage_hash(AdaptParams), params.evaluate_model, params.eval_image_size,
                params.eval_num_frames, params.eval_clips, params.eval_crops]
    path, record = folder / "features" / f"{part}.safetensors", folder / "features" / f"{part}.json"
    names = [video.name for video in videos.videos]
    if record.exists() and (known := read_json(record))["settings"] == settings and known["videos"] == names:
        return videos, load_file(path), known["failed"]
    model = VideoCLIP.from_pretrained(str(folder / params.evaluate_model)).to(params.device).eval()
    features, failed = extract(params, model, videos)
    record.unlink(missing_ok=True)  # the record comes last: with it, the features are whole and of these settings
    record.parent.mkdir(exist_ok=True)
    save_file(features, path)
    write_json(record, {"settings": settings, "videos": names, "failed": failed})
    return videos, features, [list(entry) for entry in failed]


def evaluate(params: Params, folder: Path) -> dict:
    """Evaluates the model that `train.adapt` left under `folder`, on `params.evaluate_parts`.

    Returns:
        the record, which is also `folder/metrics.json`: that file exists only when the evaluation is whole. Per-clip
        correctness lies beside it in `correct.safetensors` ("<part>/<protocol>", 'n'), for paired comparisons.
    Raises:
        FileNotFoundError: there is no adapted model.
        ValueError: a class without a concept, or a checkpoint that is none.
    """
    started = time.time()
    torch.set_num_threads(params.threads)
    if not (folder / "adapt.json").exists():
        raise FileNotFoundError(f"{folder}: no finished adaptation here (adapt.json); "
                                "run 02_adapt with the same parameters first")
    if read_json(folder / "adapt.json")["params_hash"] != params.stage_hash(AdaptParams):
        raise ValueError(f"{folder}: the model here was adapted with other parameters; run 02_adapt with these first")
    train, known, train_failed = cached_features(params, folder, "train")
    parts = {part: cached_features(params, folder, part) for part in params.evaluate_parts}
    classes, labels = train.classes, np.array([video.label for video in train.videos])
    for part, (videos, _, _) in parts.items():
        if videos.classes != classes:
            raise ValueError(f"{params.data}: the classes of {part} and train differ: "
                             f"{sorted(set(videos.classes) ^ set(classes))}")
    model = VideoCLIP.from_pretrained(str(folder / params.evaluate_model)).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / params.evaluate_model)
    spaces = concept_spaces(params, model, tokenizer, read_concepts(params, classes))
    directions = [spaces[name].directions().numpy() for name in params.score_spaces]
    pairs = [(classes.index(a), classes.index(b)) for a, b in CONFUSABLE_PAIRS if {a, b} <= set(classes)]

    metrics, correct, summaries = [], {}, {}
    decoded = ~np.isnan(known["features"]).any(axis=1)
    groups = [re.sub(r"_c\d+$", "", video.name) for video in train.videos] if params.dataset == "ucf101" else None
    probe = linear_probe(
        known[params.probe_feature][decoded], labels[decoded],
        np.concatenate([found[params.probe_feature] for _, found, _ in parts.values()]),
        num_classes=len(classes), grid=params.probe_c, held_out=params.probe_held_out, max_iter=params.probe_max_iter,
        normalise=params.probe_normalise, seed=params.seed,
        groups=None if groups is None else np.array(groups)[decoded])
    probed = np.split(probe.scores, np.cumsum([len(videos) for videos, _, _ in parts.values()])[:-1])
    for (part, (videos, found, _)), probe_scores in zip(parts.items(), probed):
        truth = np.array([video.label for video in videos.videos])
        zero_shot = zero_shot_scores(found["embedding"], *directions)
        if params.balance_predictions:
            zero_shot = balanced_scores(zero_shot, temperature=params.balance_temperature,
                                        rounds=params.sinkhorn_rounds)
        protocols = {"zero_shot": zero_shot, "linear_probe": probe_scores}
        for k in params.knn_k:
            protocols[f"knn_{k}"] = knn(known["features"][decoded], labels[decoded], found["features"],
                                        num_classes=len(classes), k=k)
        for protocol, scores in protocols.items():
            right = topk_correct(scores, truth, 1)
            summaries[f"{part}/{protocol}"] = summary = prediction_summary(scores, truth)
            values = {"top1": 100 * right.mean(),
                      "top5": 100 * topk_correct(scores, truth, min(5, len(classes))).mean(),
                      "prediction_entropy": summary["prediction_entropy"]}
            correct[f"{part}/{protocol}"] = right.astype(np.uint8)
            if pairs:
                of_pairs = pair_correct(scores, truth, pairs)
                values["pair_top1"] = 100 * of_pairs.mean()
                correct[f"{part}/{protocol}/pairs"] = of_pairs.astype(np.uint8)
            metrics += [{"part": part, "protocol": protocol, "metric": name, "value": float(value)}
                        for name, value in values.items()]

    save_file(correct, folder / "correct.safetensors")
    counted = {"train": (train, train_failed)} | {part: (videos, failed) for part, (videos, _, failed) in parts.items()}
    record = {
        "dataset": params.dataset, "classes": classes, "metrics": metrics,
        "parts": {part: {"listed": len(videos) + len(videos.missing), "decoded": len(videos) - len(failed),
                         "failed": failed, "missing": videos.missing, "extra": videos.extra,
                         "absent_classes": videos.absent_classes}
                  for part, (videos, failed) in counted.items()},
        "per_class": {key: np.asarray(summary["per_class_accuracy"]).tolist() for key, summary in summaries.items()},
        "confusion": {key: np.asarray(summary["confusion"]).tolist() for key, summary in summaries.items()},
        "probe": {"C": probe.C, "sweep": probe.records},
        "views": f"{params.eval_num_frames}x{params.eval_clips}x{params.eval_crops}",
        "prompts": {"file": params.prompts, "hash": file_hash(FOLDER / "prompts" / f"{params.prompts}.yaml")},
        "concepts": {"file": params.concepts, "hash": file_hash(FOLDER / "concepts" / f"{params.concepts}.yaml")},
        "seconds": round(time.time() - started, 1), **provenance(params, EvaluateParams)}
    write_json(folder / "metrics.json", record)
    return record
