"""One's own videos: a folder or a list of files, a model and words in; a table of scores out. No parameter file needed.

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

LOADER_TIMEOUT = 50  # seconds
COLUMNS = ["video", "truth", "prediction", "score", "error"]


class TooFewClips(ValueError):
    """A probe cannot be made of these clips; the message says which classes have how many."""


class VideoRows(NamedTuple):
    """What a model makes of every video of a list; NaN where one cannot be decoded."""

    embedding: np.ndarray  # 'n d', in CLIP's joint space, L2-normalised
    features: np.ndarray  # 'n w', before the projection, for probes
    errors: list[str]  # 'n': why a video cannot be decoded, "" where it can


def find_videos(videos: str | Path | Iterable[str | Path]) -> VideoList:
    """The videos of a folder, or of a list of files (a file that is not there is an undecodable one).

    A name is a file's path in the folder, with its suffix. A folder in it is a class, whose name is the true label; videos
    beside such folders are of no class. What is left out stands with its reason in `left_out`. Raises FileNotFoundError if
    the folder is absent or holds no videos, ValueError for an empty list, a file of another kind or a name that is not UTF-8.
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
        if root.suffix.lower() not in VIDEO_SUFFIXES:
            raise ValueError(
                f"{root} is no video by its suffix (those are {' '.join(VIDEO_SUFFIXES)}): give a video, a "
                "folder of videos, or a list of files"
            )
        return find_videos([root])
    found = list_folder(
        existing_folder(root, "videos, or a folder per class with videos (or give a list of files)"), loose=True
    )
    return replace(found, videos=[replace(video, name=str(video.path.relative_to(root))) for video in found.videos])


def load_model(name_or_path: str | Path, *, device: str = "cpu") -> tuple[VideoCLIP, PreTrainedTokenizerBase]:
    """An adapted model, or an image CLIP whose frames are averaged, with its tokenizer, in evaluation mode.

    name_or_path: a folder (absolute, or relative to this repository) or a hub id. Raises FileNotFoundError for what can only
    be a folder and has no model in it, ValueError for a file, another checkpoint, one that is not whole, a hub id that cannot be read, and
    a device that is not there.
    """
    name, there = checkpoint_name(os.path.expanduser(name_or_path)), usable_device(device)
    wanted = "give the folder of a CLIP or of an adapted model (a run's student or teacher), or a hub id (openai/clip-vit-base-patch16)"
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        inside = [path.parent.name for path in sorted(Path(name).glob("*/config.json"))]
        raise FileNotFoundError(
            f"{name}: no model, it has no config.json; "
            + (f"its folders {', '.join(inside)} have one" if inside else wanted)
        )
    if not Path(name).exists() and not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        raise FileNotFoundError(f"{ROOT / name}: no such folder; {wanted}")
    adapted = model_type(name) == VideoCLIPConfig.model_type
    model = VideoCLIP.from_pretrained(name) if adapted else VideoCLIP.from_image_clip(name, temporal="none")
    return model.to(there).eval(), load_tokenizer(name, model.config.text_config)


def cautions(tokenizer: PreTrainedTokenizerBase, videos: VideoList) -> list[str]:
    """What must be said beside any result: for other videos than rendered ones, that a model comes from the embedded CLIP."""
    rendered = any((folder / "world.json").exists() for folder in videos.videos[0].path.absolute().parents[:3])
    if (
        rendered or len(tokenizer) >= VOCABULARY
    ):  # of CLIPs on the hub; the embedded one knows its captions' words alone
        return []
    return [
        "CAUTION: this model comes from the embedded CLIP, which knows only this repository's rendered people.\n"
        'Of other videos its zero-shot answers mean nothing. Real videos need a real CLIP: model = "openai/clip-vit-base-patch16", or a folder.'
    ]


def video_features(
    model: VideoCLIP, videos: VideoList, *, num_frames: int, workers: int = 0, batch_size: int = 8
) -> VideoRows:
    """Every video decoded once (centre crop, `num_frames` middles of equal parts) and run through the model.

    workers: decoding processes; batch_size: videos.
    """
    view = f"{num_frames}x1x1@{model.config.vision_config.image_size}"
    found = extract(
        model,
        videos.videos,
        [view],
        batch_size=batch_size,
        precision="float32",
        workers=workers,
        loader_timeout=LOADER_TIMEOUT,
        title="the videos",
    )
    kinds = [found.of(videos, kind, [view], average=True)[:, 0] for kind in ("embedding", "features")]
    return VideoRows(*kinds, [found.failed.get(str(video.path), "") for video in videos.videos])


def label_space(
    model: VideoCLIP,
    tokenizer: PreTrainedTokenizerBase,
    videos: VideoList,
    labels: Sequence[str] = (),
    *,
    prompts: str = "photo",
) -> ConceptSpace:
    """The directions of the words that `zero_shot` chooses among; with them labels and prompts are known to be good.

    Raises ValueError, naming the labels, for fewer than two, an empty one, two that read alike or one that is a column
    of the table; ConceptError for words that the text tower cannot read or prompts that are not there.
    """
    labels, words = (
        [str(label) for label in labels] or videos.classes,
        [str(label) for label in labels] or _class_names(videos.classes),
    )
    if len(labels) < 2:
        raise ValueError(
            f"no labels to choose among{f' but {labels[0]!r}' if labels else ''}: give two or more, or a folder with a "
            "folder per class"
        )
    names = [readable_name(word) for word in words]
    for number, (label, name) in enumerate(zip(labels, names)):
        if not name:
            raise ValueError(f"labels: entry {number + 1} is {label!r}, no word")
        if name in names[:number]:
            raise ValueError(
                f"labels: {label!r} reads like {labels[names.index(name)]!r}: they must differ from one another"
            )
    _not_columns(labels)
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
    """What each video shows, chosen among words: columns video, truth, prediction, score, error, and one per label.

    labels: words, used as they are; none: the folder's class names, as in the first of this repository's
    vocabularies that has them all, else split into words. prompts: a file under `params/prompts`. Scores are the
    softmax of the cosines at CLIP's own temperature. `truth` is None where no label means the video's class.
    Raises what `label_space` raises.
    """
    space = label_space(model, tokenizer, videos, labels, prompts=prompts)
    names, labels = _class_names(videos.classes), list(space.labels)
    scores = zero_shot_probabilities(
        zero_shot_scores(rows.embedding, space.directions().cpu().numpy()), logit_scale=model.logit_scale.exp().item()
    )
    means = {readable_name(label): label for label in labels}
    truth = [
        means.get(readable_name(name), means.get(readable_name(word))) for name, word in zip(videos.classes, names)
    ]
    return _table(videos, scores, labels, truth, rows.errors)


def films(videos: VideoList, same_source: str = "") -> list[str]:
    """What each clip was cut from: its name, without suffix and without what the regular expression `same_source` matches.

    Of UCF-101, r"_c\\d+$". Raises ValueError if it is none, if it matches no name or leaves nothing of one.
    """
    names = [PurePath(video.name).with_suffix("") for video in videos.videos]
    try:
        stems = [re.sub(same_source, "", name.name) for name in names] if same_source else [name.name for name in names]
    except re.error as error:
        raise ValueError(f"same_source: {same_source!r} is no regular expression: {error}") from None
    if same_source and all(stem == name.name for stem, name in zip(stems, names)):
        raise ValueError(f"same_source: {same_source!r} matches none of the names, e.g. {names[0].name!r}")
    if "" in stems:
        raise ValueError(
            f"same_source: {same_source!r} leaves nothing of {names[stems.index('')].name!r}, so it tells no films apart"
        )
    return [str(name.with_name(stem)) for stem, name in zip(stems, names)]


def few_shot_probe(
    videos: VideoList, rows: VideoRows, *, shots: int, seed: int = 0, same_source: str = ""
) -> tuple[pd.DataFrame, LinearProbe]:
    """A linear probe fitted on `shots` clips per class, drawn by `seed`, and the table of all other clips.

    same_source: as `films` takes it; the shots of a class come from as many films, and no other clip of theirs is asked.
    Raises TooFewClips unless there are two classes, each with as many films that can be decoded, and clips left to ask.
    """
    if len(videos.classes) < 2 or shots < 2:
        raise TooFewClips(
            f"it takes a folder per class, two or more, and at least 2 shots; here are {len(videos.classes)} and {shots}"
        )
    _not_columns(videos.classes)
    labels = np.array([-1 if video.label is None else video.label for video in videos.videos])
    film = np.array(films(videos, same_source))
    decoded = np.array([error == "" for error in rows.errors])
    found = [len(set(film[decoded & (labels == label)])) for label in range(len(videos.classes))]
    if few := [f"{name} has {count}" for name, count in zip(videos.classes, found) if count < shots]:
        of = "films" if same_source else "clips"
        raise TooFewClips(
            f"it takes {shots} {of} of every class that can be decoded, {', '.join(few)}: add some, or lower shots"
        )
    generator, train = np.random.default_rng([seed, 5]), []
    for label in range(len(videos.classes)):
        own = generator.permutation(np.flatnonzero((labels == label) & decoded))
        first = np.sort(np.unique(film[own], return_index=True)[1])  # of every film one clip
        train += own[first][:shots].tolist()
    asked = ~np.isin(film, film[train])
    if not (asked & (labels >= 0)).any():
        raise TooFewClips(
            f"all clips are among the {shots} shots of a class, none is left to be asked: add some, or lower shots"
        )
    probe = fit_linear_probe(
        rows.features[train],
        labels[train],
        num_classes=len(videos.classes),
        grid=[1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0],
        refinements=0,
        held_out=max(0.2, 1 / shots),
        max_iter=1000,
        tolerance=1e-4,
        normalise="standardise",
        seed=seed,
    )
    table = _table(videos, probe.probabilities(rows.features), videos.classes, videos.classes, rows.errors)
    return table[asked].reset_index(drop=True), probe


def _class_names(classes: list[str]) -> list[str]:
    for path in sorted({*(FOLDER / "concepts").glob("*.yaml")} - {MERGE}) if classes else []:
        words = {concept.label: concept.class_name for concept in read_vocabulary(path, num_descriptions=1)}
        if set(classes) <= set(words):
            return [words[name] for name in classes]
    return [readable_name(name) for name in classes]


def _not_columns(labels: Sequence[str]) -> None:
    if clash := sorted({*labels} & {*COLUMNS}):
        raise ValueError(
            f"labels: {', '.join(clash)} would be two columns of the table: use other words than {', '.join(COLUMNS)}"
        )


def _table(
    videos: VideoList, scores: np.ndarray, labels: list[str], truth: list[str | None], errors: list[str]
) -> pd.DataFrame:
    """truth: the label of each class, or None."""
    if (np.isnan(scores).any(axis=1) != np.array([error != "" for error in errors])).any():
        raise ValueError(
            "scores are NaN of videos that were decoded, or numbers of videos that were not: rows of another list?"
        )
    best = [None if error else labels[row.argmax()] for row, error in zip(scores, errors)]
    own = [None if video.label is None else truth[video.label] for video in videos.videos]
    table = pd.DataFrame(
        {
            "video": [video.name for video in videos.videos],
            "truth": own,
            "prediction": best,
            "score": scores.max(axis=1),
            "error": errors,
        },
        columns=COLUMNS,
    )
    return pd.concat([table, pd.DataFrame(scores, columns=labels)], axis=1)
