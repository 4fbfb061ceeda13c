"""Before a run computes: can it be carried through to its last number? And what should be known of it beforehand?

`check_run` lists each data set once and hands the lists on; it removes and writes nothing, so that a run that cannot be
carried through leaves everything as it was.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
from transformers import CLIPConfig, PreTrainedTokenizerBase

from lib.datasets.draws import HALVES, hold_out, in_class_half
from lib.datasets.lists import VideoList
from lib.datasets.samples import groups_of, list_dataset, probe_part, test_parts, training_videos
from lib.language.tokens import token_ids
from lib.language.vocabulary import Concept, ConceptError, class_concepts, read_concepts, read_prompts, readable_name
from lib.run.fields import Params
from lib.run.files import read_json
from lib.run.params import FOLDER, ROOT
from lib.video.views import EvalView

# In the embedded study 50 steps had a third of the gain, 150 most of it (LOG.md); below 1 / (1 - teacher_momentum), 50 of
# the profiles for laptops, the teacher has hardly left the image CLIP.
FEW_STEPS = 100

Parts = dict[str, VideoList]


def check_run(params: Params, *, adapt: bool, look: Callable[[Params, str], Parts] = list_dataset) -> dict[str, Parts]:
    """Lists what a run reads, and checks all that its evaluation will need; with `adapt` also what the adaptation does.

    look: lists a data set.
    Returns:
        the parts of every data set of `evaluate_on`, and with `adapt` of `dataset`.
    Raises:
        FileNotFoundError, ListError, DataError: a data set is not there, or not whole.
        ConceptError: a vocabulary or prompt file is no good.
        ValueError: clips, classes or parameters with which a later step would stop. Several problems are one ValueError.
    """
    lists = {
        dataset: look(params, dataset)
        for dataset in dict.fromkeys([*([params.dataset] if adapt else []), *params.evaluate_on])
    }
    checks = [partial(_check_adaptation, params, lists[params.dataset])] if adapt else []
    for dataset in params.evaluate_on:
        checks += [partial(check, params, dataset, lists[dataset]) for check in (_check_words, _check_clips)]
    problems = {}
    for check in checks:
        try:
            check()
        except ValueError as error:
            problems.setdefault(str(error), error)
    if len(problems) == 1:
        raise next(iter(problems.values()))
    if problems:
        raise ValueError("\n".join([f"{len(problems)} things are in the way of this run:", *problems]))
    return lists


def _check_adaptation(params: Params, parts: Parts) -> None:
    videos = training_videos(params, parts)
    if params.epochs and len(videos) < params.batch_size:
        raise ValueError(
            f"{params.dataset}: {len(videos)} training videos make no batch of {params.batch_size}; lower batch_size"
        )
    if params.epochs and (broken := sum(bool(video.broken) for video in videos.videos)) > params.max_bad_videos:
        raise ValueError(
            f"{params.dataset}: {broken} training videos cannot be decoded (make check-data names them), and max_bad_videos is "
            f"{params.max_bad_videos}; mend them, or raise it"
        )
    with _said_of(params.dataset):
        read_concepts(params, videos.classes)
    read_prompts(FOLDER / "prompts" / f"{params.prompts}.yaml")


def _check_words(params: Params, dataset: str, parts: Parts) -> None:
    concepts_of(params, dataset, parts)
    read_prompts(FOLDER / "prompts" / f"{params.zero_shot_prompts}.yaml")


def _check_clips(params: Params, dataset: str, parts: Parts) -> None:
    tests = test_parts(params, dataset)
    for part in tests:
        if not any(video.labels or video.label is not None for video in parts[part].videos):
            raise ValueError(
                f"{dataset}: the part {part} has no clips to ask for: add some, or change evaluate_on, evaluate_splits or "
                "evaluate_parts"
            )
    if "half" in params.zero_shot_protocols and "all" in parts:
        labels = [video.label for video in parts["all"].videos]
        with _said_of(f"{dataset}: zero_shot_protocols: half"):  # a half without clips is an error
            for seed in HALVES:
                in_class_half(labels, len(parts["all"].classes), seed=seed)
    for part in tests if dataset in params.probe_on else ():
        check_probe(params, dataset, probe_part(part), parts[probe_part(part)], parts[part])


@contextmanager
def _said_of(what: str) -> Iterator[None]:
    """A ValueError raised within says what it is of."""
    try:
        yield
    except ConceptError:  # which names its file
        raise
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def check_probe(
    params: Params, dataset: str, part: str, train: VideoList, test: VideoList, decoded: np.ndarray | None = None
) -> None:
    """Whether the clips of a training part suffice for linear probe and k-NN: those `decoded` ('n' bool), or not known as broken.

    Raises ValueError, naming a class and its clips, or the parameter.
    """
    labels, classes = np.array([video.label for video in train.videos], dtype=int), train.classes
    known = np.array([not video.broken for video in train.videos], dtype=bool) if decoded is None else decoded
    listed, counts = (np.bincount(own, minlength=len(classes)) for own in (labels, labels[known]))
    asked = sorted({video.label for video in test.videos if video.label is not None})
    if lacking := [
        f"class {classes[label]!r} has "
        + (f"{listed[label]} training clips, of which none can be decoded" if listed[label] else "no training clip")
        for label in asked
        if not counts[label]
    ]:
        raise ValueError(
            f"{dataset}, {part}: {'; '.join(lacking)}, but is asked for: add clips, or take the data set out of probe_on"
        )
    groups = groups_of(dataset, train)
    problems = []
    try:
        hold_out(
            labels[known],
            None if groups is None else groups[known],
            fraction=params.probe_held_out,
            seed=params.probe_seed,
            classes=classes,
        )
    except ValueError as error:
        problems.append(f"{dataset}, {part}: {error}")
    if (k := max(params.knn_k)) > known.sum():
        problems.append(
            f"{dataset}, {part}: knn_k: {k} neighbours are asked for, but there are only {known.sum()} training clips: lower "
            f"it to {known.sum()}, or take the data set out of probe_on"
        )
    if problems:
        raise ValueError("\n".join(problems))


def concepts_of(params: Params, dataset: str, parts: Parts) -> list[Concept]:
    """The concepts of a data set's classes. Charades' are phrases, in no vocabulary: the category space needs no more.

    Raises ValueError, naming data set and classes, if there are none of some.
    """
    classes = parts[test_parts(params, dataset)[0]].classes
    if dataset == "charades":
        return [Concept(name, readable_name(name), ()) for name in classes]
    with _said_of(dataset):
        return class_concepts(params, classes)


def check_model(
    params: Params, config: CLIPConfig, tokenizer: PreTrainedTokenizerBase, lists: dict[str, Parts], *, adapt: bool
) -> None:
    """Whether a checkpoint can take the views in, and read the words of every data set that is evaluated on.

    Raises ValueError for views whose pixels its patches do not divide, or more blocks than it has; ConceptError for words.
    """
    views = [
        (name, EvalView.parse(view).image_size)
        for name in ("zero_shot_views", "still_views", "probe_views")
        for view in getattr(params, name)
    ]
    if adapt and params.epochs:
        views += [
            ("image_size", params.image_size),
            *([("local_image_size", params.local_image_size)] if params.local_views else []),
        ]
        if params.trained == "last_blocks" and params.trained_last_blocks > config.vision_config.num_hidden_layers:
            raise ValueError(
                f"trained_last_blocks is {params.trained_last_blocks}, but {params.clip} has {config.vision_config.num_hidden_layers}"
            )
    patch = config.vision_config.patch_size
    if wrong := [f"{name}: {size}" for name, size in views if size % patch]:
        raise ValueError(
            f"{', '.join(dict.fromkeys(wrong))} pixels: a view's must be a multiple of the patch of {params.clip}, {patch}"
        )
    templates, texts = read_prompts(FOLDER / "prompts" / f"{params.zero_shot_prompts}.yaml"), []
    for dataset in params.evaluate_on:
        concepts = concepts_of(params, dataset, lists[dataset])
        if "category" in params.score_spaces:
            texts += [template.replace("{}", concept.class_name) for concept in concepts for template in templates]
        if "description" in params.score_spaces:
            texts += [text for concept in concepts for text in concept.descriptions[: params.num_descriptions]]
    token_ids(texts, tokenizer, config.text_config)


class Length(NamedTuple):
    """How many steps an adaptation makes, that in words, and why they may teach nothing (or no line)."""

    steps: int
    said: str
    warnings: list[str]


def length_of(params: Params, videos: int) -> Length:
    """What an adaptation to so many videos amounts to."""
    steps, left = params.epochs * (videos // params.batch_size), videos % params.batch_size
    said = (
        f"{videos} training clips make {steps} steps of {params.batch_size}"
        if steps
        else f"no training: {params.clip} as it is"
    )
    said += (
        f"; {left} clip{'s' * (left > 1)} of each epoch {'are' if left > 1 else 'is'} left over"
        if left and steps
        else ""
    )
    few = (
        [
            f"{said}: fewer than {FEW_STEPS} steps teach little, and rows will hardly differ; take more clips, more epochs or a smaller "
            "batch_size"
        ]
        if 0 < steps < FEW_STEPS
        else []
    )
    return Length(steps, said, few)


def warnings_of(params: Params, lists: dict[str, Parts]) -> list[str]:
    """What must be known of the numbers of a run, whatever they will be: a line each."""
    record = ROOT / params.clip / "record.json"  # of lib/world/pretrain.py
    real, said = [dataset for dataset in params.evaluate_on if dataset != "embedded"], []
    if real and record.exists() and "stills" in read_json(record):
        said.append(
            f"{', '.join(real)}: the embedded CLIP knows nothing but rendered people: figures on real videos are near chance by design"
        )
    for dataset in params.evaluate_on:
        others = [split for split in params.evaluate_splits if split != params.split]
        if dataset == params.dataset and dataset in ("ucf101", "hmdb51") and params.epochs and others:
            said.append(
                f"{dataset}: clips of the test parts of {' and '.join(map(str, others))} are among those of split {params.split} that were adapted to"
            )
        for part in test_parts(params, dataset) if dataset in params.probe_on and params.probe_shots else ():
            train = lists[dataset][probe_part(part)]
            counts = np.bincount([video.label for video in train.videos], minlength=len(train.classes))
            counts = counts[counts > 0]
            said += [
                f"{dataset}, {probe_part(part)}: {(counts < shots).sum()} of {len(counts)} classes have fewer than {shots} training clips (at "
                f"least {counts.min()}): of these the probe on {shots} has all"
                for shots in params.probe_shots
                if (counts < shots).any()
            ]
    return said
