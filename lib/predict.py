"""One's own videos: a folder or a list of files, a model and words in; a table of scores out. No parameter file needed.

    model, tokenizer = load_model("outputs/embedded/clip/0")
    videos = find_videos("my_videos")
    rows = video_features(model, videos, num_frames=8)
    table = zero_shot(model, tokenizer, videos, rows, ["walking", "waving"])

A table has a row for every video, in the order of the list; one that cannot be decoded has its reason in `error`.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from lib.backbone import VideoCLIP, VideoCLIPConfig
from lib.checkpoints import checkpoint_name, load_tokenizer, model_type
from lib.concepts import category_space
from lib.devices import usable_device
from lib.features import extract
from lib.folders import existing_folder, insist_on_name
from lib.lists import Video, VideoList, list_folder, spoken_name
from lib.metrics import zero_shot_probabilities, zero_shot_scores
from lib.params import FOLDER, load
from lib.probes import LinearProbe, fit_linear_probe
from lib.vocabulary import MERGE, Concept, read_prompts, read_vocabulary

COLUMNS = ["video", "truth", "prediction", "score", "error"]


class VideoRows(NamedTuple):
    """What a model makes of every video of a list; NaN where one cannot be decoded."""

    embedding: np.ndarray  # 'n d', in CLIP's joint space, L2-normalised
    features: np.ndarray  # 'n w', before the projection, for probes
    errors: list[str]  # 'n': why a video cannot be decoded, "" where it can


def find_videos(videos: str | Path | Iterable[str | Path]) -> VideoList:
    """The videos of a folder, or of a list of files (a file that is not there is an undecodable one).

    Folders within it are classes: their names are the true labels of what is in them; videos beside them have none. Raises
    FileNotFoundError if the folder is absent or holds no videos, ValueError for an empty list
    or a name that is not UTF-8.
    """
    if isinstance(videos, str | Path):
        root = Path(videos).expanduser()
        return list_folder(existing_folder(root, "videos, or a folder per class with videos (or give a list of files)"), loose=True)
    files = [Path(file).expanduser() for file in videos]
    if not files:
        raise ValueError("an empty list of videos")
    for file in files:
        insist_on_name(file)
    return VideoList([Video(file, str(file)) for file in files])


def load_model(name_or_path: str | Path, *, device: str = "cpu") -> tuple[VideoCLIP, PreTrainedTokenizerBase]:
    """An adapted model, or an image CLIP whose frames are averaged, with its tokenizer, in evaluation mode.

    name_or_path: a folder (absolute, or relative to this repository) or a hub id. Raises ValueError if it is neither, is
    not whole, or if there is no such device.
    """
    name, place = checkpoint_name(str(name_or_path)), usable_device(device)
    adapted = model_type(name) == VideoCLIPConfig.model_type
    model = VideoCLIP.from_pretrained(name) if adapted else VideoCLIP.from_image_clip(name, temporal="none")
    return model.to(place).eval(), load_tokenizer(name, model.config.text_config)


def video_features(model: VideoCLIP, videos: VideoList, *, num_frames: int, workers: int = 0,
                   batch_size: int = 8) -> VideoRows:
    """Every video decoded once (centre crop, `num_frames` middles of equal parts) and run through the model.

    workers: decoding processes; batch_size: videos.
    """
    view = f"{num_frames}x1x1@{model.config.vision_config.image_size}"
    params = load(profile="paper", zero_shot_views=[view], still_views=[], probe_views=[view],
                  device=str(model.device), workers=workers, eval_batch_size=batch_size, eval_precision="float32")
    found = extract(params, model, videos.videos, "the videos")
    kinds = [found.of(videos, kind, [view], average=True)[:, 0] for kind in ("embedding", "features")]
    return VideoRows(*kinds, [found.failed.get(str(video.path), "") for video in videos.videos])


def zero_shot(model: VideoCLIP, tokenizer: PreTrainedTokenizerBase, videos: VideoList, rows: VideoRows,
              labels: Sequence[str] = (), *, prompts: str = "photo") -> pd.DataFrame:
    """What each video shows, chosen among words: columns video, truth, prediction, score, error, and one per label.

    labels: words, used as they are; none: the folder's class names, spoken as in the first of this repository's
    vocabularies that has them all, else split into words. prompts: a file under `params/prompts`. Scores are the
    softmax of the cosines at CLIP's own temperature. `truth` is None where no label means the video's class.
    Raises ValueError without labels, or if one stands there twice or has the name of a column; ConceptError for words
    that the text tower cannot read.
    """
    spoken = _spoken(videos.classes)
    words = [str(label) for label in labels] or spoken
    labels = [str(label) for label in labels] or videos.classes
    if not labels:
        raise ValueError("no labels: give some, or a folder with a folder per class")
    concepts = [Concept(label, word, ()) for label, word in zip(labels, words, strict=True)]
    space = category_space(model, tokenizer, concepts, read_prompts(FOLDER / "prompts" / f"{prompts}.yaml"))
    scores = zero_shot_probabilities(zero_shot_scores(rows.embedding, space.directions().cpu().numpy()),
                                     logit_scale=model.logit_scale.exp().item())
    means = {spoken_name(word): label for label, word in zip(labels, words)}
    truth = [means.get(spoken_name(name), means.get(spoken_name(word))) for name, word in zip(videos.classes, spoken)]
    return _table(videos, scores, labels, truth, rows.errors)


def few_shot_probe(videos: VideoList, rows: VideoRows, *, shots: int, seed: int = 0,
                   same_source: str = "") -> tuple[pd.DataFrame, LinearProbe]:
    """A linear probe fitted on `shots` clips per class, drawn by `seed`, and the table of all other clips.

    same_source: a regular expression that is cut off a clip's name to get what it was cut from (UCF-101: r"_c\\d+$");
    the shots of a class then come from as many sources, and no other clip of theirs is asked.
    Raises ValueError if the clips have no classes or a class too few clips.
    """
    if not videos.classes or shots < 2:
        raise ValueError("the probe needs a folder per class and at least 2 shots")
    labels = np.array([-1 if video.label is None else video.label for video in videos.videos])
    source = np.array([re.sub(same_source, "", video.name) if same_source else video.name for video in videos.videos])
    generator, train = np.random.default_rng([seed, 5]), []
    for label, name in enumerate(videos.classes):
        own = generator.permutation(np.flatnonzero((labels == label) & np.isfinite(rows.features).all(axis=1)))
        first = np.sort(np.unique(source[own], return_index=True)[1])  # of every source one clip
        if len(first) < shots:
            raise ValueError(f"class {name!r} has {len(first)} decodable clips (of different sources), {shots} are "
                             "needed: lower shots")
        train += own[first][:shots].tolist()
    probe = fit_linear_probe(
        rows.features[train], labels[train], num_classes=len(videos.classes), grid=[1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0],
        refinements=0, held_out=max(0.2, 1 / shots), max_iter=1000, tolerance=1e-4, normalise="standardise", seed=seed)
    table = _table(videos, probe.probabilities(rows.features), videos.classes, videos.classes, rows.errors)
    return table[(labels >= 0) & ~np.isin(source, source[train])].reset_index(drop=True), probe


def _spoken(classes: list[str]) -> list[str]:
    for path in sorted({*(FOLDER / "concepts").glob("*.yaml")} - {MERGE}) if classes else []:
        words = {concept.label: concept.spoken for concept in read_vocabulary(path, num_descriptions=1)}
        if set(classes) <= set(words):
            return [words[name] for name in classes]
    return [spoken_name(name) for name in classes]


def _table(videos: VideoList, scores: np.ndarray, labels: list[str], truth: list[str | None],
           errors: list[str]) -> pd.DataFrame:
    """truth: the label of each class, or None."""
    if len({*COLUMNS, *labels}) < len(COLUMNS) + len(labels):
        raise ValueError(f"labels must differ from one another and from {COLUMNS}: {labels}")
    if (np.isnan(scores).any(axis=1) != np.array([error != "" for error in errors])).any():
        raise ValueError("scores are NaN of videos that were decoded, or numbers of videos that were not: rows of another list?")
    best = [None if error else labels[row.argmax()] for row, error in zip(scores, errors)]
    own = [None if video.label is None else truth[video.label] for video in videos.videos]
    table = pd.DataFrame({"video": [video.name for video in videos.videos], "truth": own, "prediction": best,
                          "score": scores.max(axis=1), "error": errors}, columns=COLUMNS)
    return pd.concat([table, pd.DataFrame(scores, columns=labels)], axis=1)
