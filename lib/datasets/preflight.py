"""Before a run computes: can it reach its last number, and what should be known of it beforehand?

`check_run` lists each data set once and returns the lists; it writes and removes nothing, so that a run that cannot
finish leaves everything as it was.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from transformers import CLIPConfig, PreTrainedTokenizerBase

from lib.datasets.draws import HALVES, hold_out, in_class_half
from lib.datasets.lists import VideoList
from lib.datasets.parts import Parts, groups_of, list_dataset, probe_part, read_parts, test_parts, training_videos
from lib.language.tokens import token_ids
from lib.language.vocabulary import Concept, ConceptError, class_concepts, read_concepts, read_prompts, readable_name
from lib.run.fields import Params
from lib.run.files import read_json
from lib.run.params import FOLDER, ROOT
from lib.video.views import EvalView

# In the embedded study 50 steps had a third of the gain, 150 most of it (LOG.md); below 1 / (1 - teacher_momentum), 50
# of the profiles for laptops, the teacher has hardly left the image CLIP.
FEW_STEPS = 100


def check_run(params: Params, *, adapt: bool, read: Callable[..., Parts] = read_parts) -> dict[str, Parts]:
    """Lists the data sets of `evaluate_on`, with `adapt` also `dataset`, and checks what the run needs of them.

    read: reads a data set. Raises FileNotFoundError, ListError or DataError for a data set that is absent or not whole,
    ConceptError for an unusable vocabulary or prompt file, and ValueError for clips, classes or parameters that would
    stop a later step; several problems are one ValueError.
    """
    names = dict.fromkeys([params.dataset, *params.evaluate_on] if adapt else params.evaluate_on)
    lists, problems = {dataset: list_dataset(params, dataset, read=read) for dataset in names}, {}

    def attempt(check: Callable[..., object], *arguments) -> None:
        try:
            check(params, *arguments)
        except ValueError as error:
            problems.setdefault(str(error), error)

    if adapt:
        attempt(_check_adaptation, lists[params.dataset])
    for dataset in params.evaluate_on:
        attempt(concepts_of, dataset, lists[dataset])
        attempt(_zero_shot_templates)
        attempt(_check_clips, dataset, lists[dataset])
    if len(problems) == 1:
        raise next(iter(problems.values()))
    if problems:
        raise ValueError("\n".join([f"{len(problems)} problems stop this run:", *problems]))
    return lists


def _check_adaptation(params: Params, parts: Parts) -> None:
    videos = training_videos(params, parts)
    if params.epochs and len(videos) < params.batch_size:
        raise ValueError(
            f"{params.dataset}: {len(videos)} training videos make no batch of {params.batch_size}; lower batch_size"
        )
    broken = sum(bool(video.broken) for video in videos.videos)
    if params.epochs and broken > params.max_bad_videos:
        raise ValueError(
            f"{params.dataset}: {broken} training videos cannot be decoded (make check-data names them), and "
            f"max_bad_videos is {params.max_bad_videos}; repair them, or raise it"
        )
    with _about(params.dataset):
        read_concepts(params, videos.classes)
    read_prompts(FOLDER / "prompts" / f"{params.prompts}.yaml")


def _zero_shot_templates(params: Params) -> list[str]:
    return read_prompts(FOLDER / "prompts" / f"{params.zero_shot_prompts}.yaml")


def _check_clips(params: Params, dataset: str, parts: Parts) -> None:
    tests = test_parts(params, dataset)
    for part in tests:
        if not any(video.labels or video.label is not None for video in parts[part].videos):
            raise ValueError(
                f"{dataset}: the part {part} has no labelled clips: add some, or change evaluate_on, "
                "evaluate_splits or evaluate_parts"
            )
    if "half" in params.zero_shot_protocols and "all" in parts:
        labels = [video.label for video in parts["all"].videos]
        with _about(f"{dataset}: zero_shot_protocols: half"):
            for seed in HALVES:
                in_class_half(labels, len(parts["all"].classes), seed=seed)
    for part in tests if dataset in params.probe_on else ():
        check_probe(params, dataset, probe_part(part), parts[probe_part(part)], parts[part])


@contextmanager
def _about(subject: str) -> Iterator[None]:
    """Puts the subject before the message of a ValueError that is raised within."""
    try:
        yield
    except ConceptError:  # names its file
        raise
    except ValueError as error:
        raise ValueError(f"{subject}: {error}") from None


def check_probe(
    params: Params, dataset: str, part: str, train: VideoList, test: VideoList, decoded: np.ndarray | None = None
) -> None:
    """Whether a training part has enough clips for linear probe and k-NN: those `decoded` ('n' bool), or not broken.

    Raises ValueError, which names a class and its clips, or the parameter.
    """
    labels, classes = np.array([video.label for video in train.videos], dtype=int), train.classes
    if decoded is None:
        decoded = np.array([not video.broken for video in train.videos], dtype=bool)
    listed, usable = (np.bincount(kept, minlength=len(classes)) for kept in (labels, labels[decoded]))
    lacking = []
    for label in sorted({video.label for video in test.videos if video.label is not None}):
        if not usable[label]:
            undecodable = f"{listed[label]} training clips, of which none can be decoded"
            clips = undecodable if listed[label] else "no training clip"
            lacking.append(f"class {classes[label]!r} has {clips}")
    if lacking:
        raise ValueError(
            f"{dataset}, {part}: {'; '.join(lacking)}, but is tested: add clips, or take the data set out of probe_on"
        )
    groups, problems = groups_of(dataset, train), []
    groups = None if groups is None else groups[decoded]
    try:
        hold_out(labels[decoded], groups, fraction=params.probe_held_out, seed=params.probe_seed, classes=classes)
    except ValueError as error:
        problems.append(f"{dataset}, {part}: {error}")
    if (k := max(params.knn_k)) > decoded.sum():
        problems.append(
            f"{dataset}, {part}: knn_k: {k} neighbours need more than {decoded.sum()} training clips: lower it to "
            f"{decoded.sum()}, or take the data set out of probe_on"
        )
    if problems:
        raise ValueError("\n".join(problems))


def concepts_of(params: Params, dataset: str, parts: Parts) -> list[Concept]:
    """The concepts of a data set's classes. Charades' are phrases, in no vocabulary: only the category space has them.

    Raises ValueError, which names data set and classes, for classes without a concept.
    """
    classes = parts[test_parts(params, dataset)[0]].classes
    if dataset == "charades":
        return [Concept(name, readable_name(name), ()) for name in classes]
    with _about(dataset):
        return class_concepts(params, classes)


def check_model(
    params: Params, config: CLIPConfig, tokenizer: PreTrainedTokenizerBase, lists: dict[str, Parts], *, adapt: bool
) -> None:
    """Whether a checkpoint can take the views, and read the texts of every data set that is evaluated on.

    Raises ValueError for views whose pixels its patches do not divide or for more blocks than it has; ConceptError for
    texts.
    """
    views = []
    for name in ("zero_shot_views", "still_views", "probe_views"):
        views += [(name, EvalView.parse(view).image_size) for view in getattr(params, name)]
    if adapt and params.epochs:
        views += [
            (name, getattr(params, name)) for name in ("image_size", "local_image_size")[: 1 + bool(params.local_views)]
        ]
        blocks = config.vision_config.num_hidden_layers
        if params.trained == "last_blocks" and params.trained_last_blocks > blocks:
            raise ValueError(f"trained_last_blocks is {params.trained_last_blocks}, but {params.clip} has {blocks}")
    patch = config.vision_config.patch_size
    if wrong := dict.fromkeys(f"{name}: {size}" for name, size in views if size % patch):
        raise ValueError(
            f"{', '.join(wrong)} pixels: a view's must be a multiple of the patch of {params.clip}, {patch}"
        )
    templates, texts = _zero_shot_templates(params), []
    for dataset in params.evaluate_on:
        for concept in concepts_of(params, dataset, lists[dataset]):
            if "category" in params.score_spaces:
                texts += [template.replace("{}", concept.class_name) for template in templates]
            if "description" in params.score_spaces:
                texts += concept.descriptions[: params.num_descriptions]
    token_ids(texts, tokenizer, config.text_config)


class Length(NamedTuple):
    steps: int  # of the adaptation
    text: str
    warnings: list[str]  # why they may teach nothing


def length_of(params: Params, num_videos: int) -> Length:
    """How many steps an adaptation to so many videos makes."""
    steps, left = params.epochs * (num_videos // params.batch_size), num_videos % params.batch_size
    if not steps:
        return Length(0, f"no training: {params.clip} is used as it is", [])
    text = f"{num_videos} training clips make {steps} steps of {params.batch_size}"
    text += f"; {left} clip{'s' * (left > 1)} per epoch unused" * bool(left)
    advice = "results will hardly differ; use more clips, more epochs or a smaller batch_size"
    return Length(
        steps, text, [f"{text}: fewer than {FEW_STEPS} steps teach little, and {advice}"] * (steps < FEW_STEPS)
    )


def warnings_of(params: Params, lists: dict[str, Parts]) -> list[str]:
    """What a reader must know of the numbers of a run, whatever they will be."""
    record, warnings = ROOT / params.clip / "record.json", []  # of lib/world/pretrain.py
    real = [dataset for dataset in params.evaluate_on if dataset != "embedded"]
    if real and record.exists() and "stills" in read_json(record):
        warnings.append(
            f"{', '.join(real)}: the embedded CLIP has seen only rendered people: results on real videos are near "
            "chance by design"
        )
    for dataset in params.evaluate_on:
        others = [str(split) for split in params.evaluate_splits if split != params.split]
        if dataset == params.dataset and dataset in ("ucf101", "hmdb51") and params.epochs and others:
            warnings.append(
                f"{dataset}: the test parts of {' and '.join(others)} share clips with split {params.split}, which the "
                "model was adapted to"
            )
        for part in test_parts(params, dataset) if dataset in params.probe_on and params.probe_shots else ():
            train = lists[dataset][probe_part(part)]
            counts = np.bincount([video.label for video in train.videos], minlength=len(train.classes))
            counts = counts[counts > 0]
            for shots in params.probe_shots:
                if few := (counts < shots).sum():
                    warnings.append(
                        f"{dataset}, {probe_part(part)}: {few} of {len(counts)} classes have fewer than {shots} "
                        f"training clips (at least {counts.min()}): the probe on {shots} uses all of theirs"
                    )
    return warnings
