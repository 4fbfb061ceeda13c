"""Predictions for a folder or a list of videos: a model and words in, a table of scores out.

    model, tokenizer = load_model("outputs/embedded/clip/0")
    videos = find_videos("my_videos")
    rows = video_features(model, videos, num_frames=8)
    table = zero_shot(model, tokenizer, videos, rows, ["walking", "waving"])

A table has a row for every video, in the order of the list; one that cannot be decoded has its reason in `error`.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from lib.backbone import VideoCLIP, VideoCLIPConfig
from lib.concepts import ConceptSpace, category_space
from lib.datasets.folders import VIDEO_SUFFIXES, check_name, existing_folder
from lib.datasets.lists import Video, VideoList, list_folder
from lib.evaluation.features import extract
from lib.evaluation.metrics import zero_shot_probabilities, zero_shot_scores
from lib.evaluation.probes import LinearProbe, fit_linear_probe
from lib.language.vocabulary import MERGE, Concept, read_prompts, read_vocabulary, readable_name
from lib.run.clip_files import VOCABULARY, checkpoint_name, load_tokenizer, model_type
from lib.run.devices import usable_device
from lib.run.params import FOLDER, ROOT

COLUMNS = ["video", "truth", "prediction", "score", "error"]
CAUTION = (
    "CAUTION: this model comes from the embedded CLIP, which knows only this repository's rendered people.\n"
    "Its zero-shot answers on other videos mean nothing. Use a real CLIP, such as openai/clip-vit-base-patch16."
)
MODELS = "give the folder of a CLIP or of an adapted model (a run's student or teacher), or a hub id"
LOADER_TIMEOUT = 50  # seconds


class TooFewClips(ValueError):
    """There are too few clips for a probe; the message says which classes have how many."""


class VideoRows(NamedTuple):
    """The features of every video of a list; NaN where one cannot be decoded."""

    embedding: np.ndarray  # 'n d', in CLIP's joint space, L2-normalised
    features: np.ndarray  # 'n w', before the projection, for probes
    errors: list[str]  # 'n': why a video cannot be decoded, "" where it can


def find_videos(videos: str | Path | Iterable[str | Path]) -> VideoList:
    """The videos of a folder, or of a list of files (an absent file counts as undecodable).

    A name is a file's path in the folder, with its suffix. A folder in it is a class, whose name is the true label;
    videos beside such folders have no class. `left_out` lists unusable files with the reason. Raises FileNotFoundError
    if the folder is absent or holds no videos, ValueError for an empty list, another kind of file or a name that is not
    UTF-8.
    """
    if not isinstance(videos, str | Path):
        files = [Path(file).expanduser() for file in videos]
        if not files:
            raise ValueError("an empty list of videos")
        for file in files:
            check_name(file)
        return VideoList([Video(file, str(file)) for file in files])
    root = Path(videos).expanduser()
    if root.is_file():
        if root.suffix.lower() in VIDEO_SUFFIXES:
            return find_videos([root])
        suffixes = " ".join(VIDEO_SUFFIXES)
        raise ValueError(f"{root} is no video by its suffix ({suffixes}): give a video, a folder or a list of files")
    expected = "videos, or a folder per class with videos (or give a list of files)"
    listed = list_folder(existing_folder(root, expected), loose=True)
    return replace(listed, videos=[replace(video, name=str(video.path.relative_to(root))) for video in listed.videos])


def load_model(name_or_path: str | Path, *, device: str = "cpu") -> tuple[VideoCLIP, PreTrainedTokenizerBase]:
    """An adapted model, or an image CLIP whose frames are averaged, with its tokenizer, in evaluation mode.

    name_or_path: a folder (absolute, or relative to this repository) or a hub id. Raises FileNotFoundError for a folder
    that is absent or has no model, ValueError for another kind of checkpoint, a damaged one, or an unusable device.
    """
    name, torch_device = checkpoint_name(os.path.expanduser(name_or_path)), usable_device(device)
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        models = ", ".join(path.parent.name for path in sorted(Path(name).glob("*/config.json")))
        raise FileNotFoundError(
            f"{name}: no model, it has no config.json; " + (f"its folders {models} have one" if models else MODELS)
        )
    if not Path(name).exists() and not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        raise FileNotFoundError(f"{ROOT / name}: no such folder; {MODELS}")
    adapted = model_type(name) == VideoCLIPConfig.model_type
    model = VideoCLIP.from_pretrained(name) if adapted else VideoCLIP.from_image_clip(name, temporal="none")
    return model.to(torch_device).eval(), load_tokenizer(name, model.config.text_config)


def cautions(tokenizer: PreTrainedTokenizerBase, videos: VideoList) -> list[str]:
    """Warns if a model of the embedded CLIP (its vocabulary is small) is applied to videos that are not rendered."""
    rendered = any((folder / "world.json").exists() for folder in videos.videos[0].path.absolute().parents[:3])
    return [] if rendered or len(tokenizer) >= VOCABULARY else [CAUTION]


def video_features(
    model: VideoCLIP, videos: VideoList, *, num_frames: int, workers: int = 0, batch_size: int = 8
) -> VideoRows:
    """Decodes every video once (centre crop, the middles of `num_frames` equal parts) and runs it through the model.

    workers: decoding processes; batch_size: videos.
    """
    view = f"{num_frames}x1x1@{model.config.vision_config.image_size}"
    loading = dict(workers=workers, loader_timeout=LOADER_TIMEOUT, batch_size=batch_size)
    features = extract(model, videos.videos, [view], precision="float32", title="the videos", **loading)
    embedding, before = (features.of(videos, kind, [view], average=True)[:, 0] for kind in ("embedding", "features"))
    return VideoRows(embedding, before, [features.failed.get(str(video.path), "") for video in videos.videos])


# ---- zero-shot ------------------------------------------------------------------------------------------------------


def label_space(
    model: VideoCLIP,
    tokenizer: PreTrainedTokenizerBase,
    videos: VideoList,
    labels: Sequence[str] = (),
    *,
    prompts: str = "photo",
) -> ConceptSpace:
    """The directions of the labels that `zero_shot` chooses among; checks labels and prompts.

    Raises ValueError, naming the labels, for fewer than two, an empty one, two that read alike or one that is a column
    of the table; ConceptError for words that the text tower cannot read or a missing prompt file.
    """
    words = [str(label) for label in labels] or _class_names(videos.classes)
    labels = [str(label) for label in labels] or videos.classes
    if len(labels) < 2:
        only = f" but {labels[0]!r}" if labels else ""
        raise ValueError(f"no labels to choose among{only}: give two or more, or a folder with a folder per class")
    names = [readable_name(word) for word in words]
    for i, (label, name) in enumerate(zip(labels, names)):
        if not name:
            raise ValueError(f"labels: entry {i + 1} is {label!r}, no word")
        if name in names[:i]:
            raise ValueError(f"labels: {label!r} reads like {labels[names.index(name)]!r}: they must differ")
    _check_columns(labels)
    concepts = [Concept(label, word, ()) for label, word in zip(labels, words)]
    return category_space(model, tokenizer, concepts, read_prompts(FOLDER / "prompts" / f"{prompts}.yaml"))


def zero_shot(
    model: VideoCLIP,
    tokenizer: PreTrainedTokenizerBase,
    videos: VideoList,
    rows: VideoRows,
    labels: Sequence[str] = (),
    *,
    prompts: str = "photo",
) -> pd.DataFrame:
    """Classifies each video among words: columns video, truth, prediction, score, error, and one per label.

    labels: words, used as they are; none: the folder's class names, as in the first of this repository's vocabularies
    that has them all, else split into words. prompts: a file under `params/prompts`. Scores are the softmax of the
    cosines at CLIP's own temperature. `truth` is None where no label means the video's class. Raises what `label_space`
    raises.
    """
    space = label_space(model, tokenizer, videos, labels, prompts=prompts)
    cosines = zero_shot_scores(rows.embedding, space.directions().cpu().numpy())
    scores = zero_shot_probabilities(cosines, logit_scale=model.logit_scale.exp().item())
    label_of = {readable_name(label): label for label in space.labels}
    truth = [
        label_of.get(readable_name(name), label_of.get(readable_name(word)))
        for name, word in zip(videos.classes, _class_names(videos.classes))
    ]
    return _table(videos, scores, list(space.labels), truth, rows.errors)


def _class_names(classes: list[str]) -> list[str]:
    for path in sorted({*(FOLDER / "concepts").glob("*.yaml")} - {MERGE}) if classes else []:
        words = {concept.label: concept.class_name for concept in read_vocabulary(path, num_descriptions=1)}
        if set(classes) <= set(words):
            return [words[name] for name in classes]
    return [readable_name(name) for name in classes]


# ---- few-shot probe -------------------------------------------------------------------------------------------------


def films(videos: VideoList, same_source: str = "") -> list[str]:
    """The film of each clip: its name without suffix and without what the regular expression `same_source` matches.

    For UCF-101, r"_c\\d+$". Raises ValueError if it is invalid, matches no name or leaves nothing of one.
    """
    names = [PurePath(video.name).with_suffix("") for video in videos.videos]
    if not same_source:
        return [str(name) for name in names]
    try:
        stems = [re.sub(same_source, "", name.name) for name in names]
    except re.error as error:
        raise ValueError(f"same_source: {same_source!r} is no regular expression: {error}") from None
    if all(stem == name.name for stem, name in zip(stems, names)):
        raise ValueError(f"same_source: {same_source!r} matches none of the names, e.g. {names[0].name!r}")
    if "" in stems:
        empty = names[stems.index("")].name
        raise ValueError(f"same_source: {same_source!r} leaves nothing of {empty!r}, so it tells no films apart")
    return [str(name.with_name(stem)) for stem, name in zip(stems, names)]


def few_shot_probe(
    videos: VideoList, rows: VideoRows, *, shots: int, seed: int = 0, same_source: str = ""
) -> tuple[pd.DataFrame, LinearProbe]:
    """A linear probe fitted on `shots` clips per class, drawn by `seed`, and the table of all other clips.

    same_source: as in `films`; the shots of a class come from as many films, whose other clips are left out of the
    table. Raises TooFewClips unless there are two classes, each with `shots` decodable films, and clips are left to
    classify.
    """
    classes = videos.classes
    if len(classes) < 2 or shots < 2:
        raise TooFewClips(
            f"it takes two class folders or more, and at least 2 shots; here are {len(classes)} and {shots}"
        )
    _check_columns(classes)
    labels = np.array([-1 if video.label is None else video.label for video in videos.videos])
    film_of_clip = np.array(films(videos, same_source))
    decoded = np.array([error == "" for error in rows.errors])
    generator, train, few = np.random.default_rng([seed, 5]), [], []
    for label, name in enumerate(classes):
        clips = generator.permutation(np.flatnonzero((labels == label) & decoded))
        first = np.sort(np.unique(film_of_clip[clips], return_index=True)[1])  # one clip of every film
        few += [f"{name} has {len(first)}"] * (len(first) < shots)
        train += clips[first][:shots].tolist()
    if few:
        kind = "films" if same_source else "clips"
        raise TooFewClips(
            f"it takes {shots} {kind} of every class that can be decoded, {', '.join(few)}: add some, or lower shots"
        )
    others = ~np.isin(film_of_clip, film_of_clip[train])
    if not (others & (labels >= 0)).any():
        raise TooFewClips(f"all clips are among the {shots} shots of a class, none is left: add some, or lower shots")
    probe = fit_linear_probe(
        rows.features[train],
        labels[train],
        num_classes=len(classes),
        grid=[1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0],
        refinements=0,
        held_out=max(0.2, 1 / shots),
        max_iter=1000,
        tolerance=1e-4,
        normalise="standardise",
        seed=seed,
    )
    table = _table(videos, probe.probabilities(rows.features), classes, classes, rows.errors)
    return table[others].reset_index(drop=True), probe


# ---- the table ------------------------------------------------------------------------------------------------------


def _check_columns(labels: Sequence[str]) -> None:
    if clash := sorted({*labels} & {*COLUMNS}):
        raise ValueError(f"labels: {', '.join(clash)} would be two columns of the table: use other words")


def _table(
    videos: VideoList, scores: np.ndarray, labels: list[str], truth: Sequence[str | None], errors: list[str]
) -> pd.DataFrame:
    """truth: the label of each class, or None."""
    if (np.isnan(scores).any(axis=1) != np.array([error != "" for error in errors])).any():
        raise ValueError("scores are NaN of videos that were decoded, or numbers of videos that were not")
    columns = {
        "video": [video.name for video in videos.videos],
        "truth": [None if video.label is None else truth[video.label] for video in videos.videos],
        "prediction": [None if error else labels[row.argmax()] for row, error in zip(scores, errors)],
        "score": scores.max(axis=1),
        "error": errors,
    }
    return pd.concat([pd.DataFrame(columns, columns=COLUMNS), pd.DataFrame(scores, columns=labels)], axis=1)
