"""Data sets as a run uses them: which parts it trains and tests on, whether they are complete, and subsets of them."""

import re
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lib.datasets.lists import VideoList
from lib.datasets.official import list_videos
from lib.run.code import code_hash
from lib.run.fields import Params
from lib.run.params import ROOT, lists_of, place_of
from lib.run.values import RENDERED, WITH_SPLITS
from lib.video import manifest

Parts = dict[str, VideoList]
HELD_OUT_SHARE = 5  # no more than a fifth of a training part is held out, however small it is


class DataError(ValueError):
    """A data set is incomplete: the message says what is wrong, how often, and how to run without it."""


def train_part(params: Params) -> str:
    """The part of `params.dataset` that the model is adapted to."""
    return f"train-{params.split}" if params.dataset in WITH_SPLITS else "train"


def test_parts(params: Params, dataset: str) -> list[str]:
    """The parts that results are reported on; for Kinetics-400 and SSv2, whose test labels are not
    public, the validation part."""
    if "held_out" in params.evaluate_parts:
        return held_out_parts(params, dataset)
    if dataset in (*WITH_SPLITS, "kinetics600"):
        return [f"test-{split}" for split in params.evaluate_splits]
    parts = {"kinetics400": ["validation"], "ssv2": ["validation"], "charades": ["test"]}
    return parts.get(dataset, params.evaluate_parts)


def probe_part(test_part: str) -> str:
    """The part that probes are fitted on before they are tested on `test_part`."""
    return "-".join(["train", *test_part.split("-")[1:]])


def held_out_parts(params: Params, dataset: str) -> list[str]:
    """The names of the parts that `held_out_videos` takes from the training parts."""
    if dataset not in WITH_SPLITS:
        return ["held_out"]
    return [f"held_out-{split}" for split in ([params.split] if dataset == params.dataset else params.evaluate_splits)]


def groups_of(dataset: str, videos: VideoList) -> np.ndarray | None:
    """The source film of each clip, 'n', if names contain it: probes hold out all clips of a film together."""
    names = [video.name for video in videos.videos]
    if dataset in ("ucf101", "rendered_u"):
        return np.array([re.sub(r"_c\d+$", "", name) for name in names])
    if dataset in ("hmdb51", "rendered_h"):  # "<class>/<film>_<class>_<visible body parts>_..."
        classes = [videos.classes[video.label] for video in videos.videos]
        return np.array([name.split("/")[1].split(f"_{label}_")[0] for name, label in zip(names, classes)])
    return None


def manifest_of(params: Params, dataset: str) -> Path:
    """The path of a data set's manifest, whether or not it exists."""
    code = code_hash("video.manifest")
    return manifest.path_of(ROOT / params.manifests, dataset, place_of(params, dataset), code=code)


def read_parts(dataset: str, root: Path, lists: Path | None, manifest_path: Path) -> Parts:
    """The parts of a data set, with the manifest's entries of unchanged files if there is a manifest."""
    parts = list_videos(dataset, root, lists=lists)
    return with_manifest(parts, manifest.read(manifest_path), root) if manifest_path.exists() else parts


def with_manifest(parts: Parts, table: pd.DataFrame, root: Path) -> Parts:
    """The parts with the index and the error of every file that the manifest knows and that is unchanged."""
    results, inspected = manifest.results(table, root), {}
    for part, videos in parts.items():
        updated = []
        for video in videos.videos:
            index, error = results.get(video.path, (None, ""))
            updated.append(replace(video, index=index, broken=error))
        inspected[part] = replace(videos, videos=updated)
    return inspected


def list_dataset(params: Params, dataset: str, *, read: Callable[..., Parts] = read_parts) -> Parts:
    """The parts of a data set. read: `read_parts`, or a cached version of it.

    Raises FileNotFoundError and ListError like `list_videos`; DataError if a part that the run reads does not exist or,
    unless `allow_missing`, if files are missing, left out, or broken according to the manifest. With `held_out_videos`
    the training parts lack the clips of `held_out_parts`.
    """
    parts = read(dataset, place_of(params, dataset), lists_of(params, dataset), manifest_of(params, dataset))
    check_parts(params, dataset, parts)
    problems = defects(parts) if dataset not in RENDERED and not params.allow_missing else {}
    if problems:
        lines = [f"{dataset} is incomplete (make check-data lists everything):"]
        lines += [f"{heading}: {examples(names, 5)}" for heading, names in problems.items()]
        raise DataError("\n  ".join([*lines, "`allow_missing: true` runs without them, and the results say so"]))
    for part in held_out_parts(params, dataset) if params.held_out_videos else ():
        if (train := probe_part(part)) in parts:
            size = min(params.held_out_videos, len(parts[train]) // HELD_OUT_SHARE)
            divided = _divided(parts[train], groups_of(dataset, parts[train]), size)
            parts = parts | dict(zip((part, train), divided))  # a new mapping: what `read` returns may be shared
    return parts


def _divided(videos: VideoList, groups: np.ndarray | None, size: int) -> tuple[VideoList, VideoList]:
    """The same random `size` clips in every run, and the others; no group is in both, so they may be a few less."""
    groups = np.arange(len(videos)) if groups is None else np.unique(groups, return_inverse=True)[1]
    order, sizes = np.random.default_rng(0).permutation(groups.max(initial=-1) + 1), np.bincount(groups)
    held_out = np.isin(groups, order[: np.searchsorted(sizes[order].cumsum(), size, side="right")])
    first, second = (_subset(videos, np.flatnonzero(chosen).tolist()) for chosen in (held_out, ~held_out))
    return replace(first, missing=[]), second


def check_parts(params: Params, dataset: str, parts: Parts) -> None:
    """Raises DataError if the data set lacks a part that the run reads."""
    tests = test_parts(params, dataset) if dataset in params.evaluate_on else []
    learnt_from = [probe_part(part) for part in tests]  # held-out clips are still among these
    required = [train_part(params)] if dataset == params.dataset else []
    required += learnt_from if "held_out" in params.evaluate_parts else tests
    required += learnt_from if dataset in params.probe_on else []
    if absent := [part for part in dict.fromkeys(required) if part not in parts]:
        raise DataError(
            f"{dataset}: {place_of(params, dataset)} has no part {', '.join(absent)}, only {', '.join(parts)}: "
            "add it, or change dataset, evaluate_on, evaluate_parts or probe_on"
        )


def defects(parts: Parts) -> dict[str, list[str]]:
    """Why a data set is incomplete: headings and names. Nothing else stops a run or `make check-data`."""
    videos = {video.path: video for part in parts.values() for video in part.videos}.values()
    missing = sorted({name for part in parts.values() for name in part.missing})
    broken = sorted(f"{video.name}: {video.broken}" for video in videos if video.broken)
    left_out = sorted({line for part in parts.values() for line in part.left_out})
    count = len(videos) + len(missing)
    problems = {f"{len(missing)} of {count} listed clips have no file": missing}
    parts_without = defaultdict(list)
    for name, part in parts.items():
        parts_without[tuple(part.absent_classes)].append(name)
    for absent, names in parts_without.items():
        classes = parts[names[0]].classes
        present = [name for name in classes if name not in absent]
        where = "" if len(names) == len(parts) else f" in {', '.join(names)}"
        where += f" (there are: {examples(present, 5)})" if len(present) < len(absent) else ""
        problems[f"{len(absent)} of {len({*classes, *absent})} classes have no clip{where}"] = list(absent)
    problems[f"{len(broken)} of {count} listed clips cannot be decoded"] = broken
    problems[f"{len(left_out)} files or folders are left out"] = left_out
    return {heading: names for heading, names in problems.items() if names}


def examples(names: Collection[str], count: int) -> str:
    shown = ", ".join(list(names)[:count])
    return shown + (f", and {len(names) - count} more" if len(names) > count else "")


def training_videos(params: Params, parts: Parts) -> VideoList:
    """The videos that the model is adapted to. Raises ValueError for a subset larger than the data."""
    videos = parts[train_part(params)]
    if params.train_videos > len(videos):
        raise ValueError(f"train_videos is {params.train_videos}, but there are only {len(videos)}")
    if size := params.train_videos or (params.max_train_videos < len(videos) and params.max_train_videos):
        order = np.random.default_rng([params.seed, 5]).permutation(len(videos))
        videos = _subset(videos, order[:size].tolist())
    return long_tailed(videos, imbalance=params.imbalance, seed=params.seed) if params.imbalance > 1 else videos


def long_tailed(videos: VideoList, *, imbalance: float, seed: int) -> VideoList:
    """The largest subset with class sizes n_max x imbalance^(-rank / (classes - 1)) (Cui et al., CVPR 2019).

    imbalance: largest / smallest class. The order of the classes and the selected videos are drawn from `seed`.
    """
    members = defaultdict(list)
    for index, video in enumerate(videos.videos):
        members[video.label].append(index)
    if imbalance < 1 or None in members:
        raise ValueError(f"a long-tailed subset needs labelled videos and an imbalance of at least 1, got {imbalance}")
    generator = np.random.default_rng([seed, 4])
    share = imbalance ** -(np.arange(len(members)) / max(1, len(members) - 1))
    order = generator.permutation(sorted(members))
    largest = min(len(members[label]) / part for label, part in zip(order, share))
    if largest * share[-1] + 1e-9 < 1:
        raise ValueError(
            f"imbalance: {imbalance:g} to 1 needs {imbalance:g} videos of the most frequent class, but there are "
            f"{int(largest + 1e-9)}: lower it"
        )
    selected = []
    for label, part in zip(order, share):
        size = int(largest * part + 1e-9)
        selected += generator.permutation(members[label])[:size].tolist()
    return _subset(videos, selected)


def _subset(videos: VideoList, indices: Collection[int]) -> VideoList:
    """These videos, in the order of the list."""
    return replace(videos, videos=[videos.videos[index] for index in sorted(indices)])
