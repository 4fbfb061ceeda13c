"""Checks before a run computes anything: can it reach its last number, and what should its reader know?

`check_run` lists each data set once and returns the lists. It writes nothing, so a run that cannot finish changes
nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from transformers import CLIPConfig, PreTrainedTokenizerBase

from lib.datasets.draws import HALVES, WAY_OUT, hold_out, in_class_half
from lib.datasets.lists import VideoList
from lib.datasets.parts import Parts, groups_of, list_dataset, probe_part, read_parts, test_parts, training_videos
from lib.language.selection import class_concepts, read_concepts
from lib.language.tokens import token_ids
from lib.language.vocabulary import Concept, ConceptError, prompt_texts, read_prompts, readable_name
from lib.run.fields import Params
from lib.run.files import read_json
from lib.run.params import FOLDER, ROOT
from lib.run.values import RENDERED, WITH_SPLITS
from lib.video.views import EvalView

# In the embedded study 50 steps gave a third of the gain and 150 most of it (LOG.md); in fewer steps than
# 1 / (1 - teacher_momentum), 50 in the laptop profiles, the teacher stays close to the image CLIP.
FEW_STEPS = 100


def check_run(params: Params, *, adapt: bool, read: Callable[..., Parts] = read_parts) -> dict[str, Parts]:
    """Lists the data sets of `evaluate_on`, with `adapt` also `dataset`, and checks what the run needs of them.

    read: reads a data set. Raises FileNotFoundError, ListError or DataError for an absent or incomplete data set,
    ConceptError for an invalid vocabulary or prompt file, and ValueError for clips, classes or parameters that would
    stop a later step. Several problems are raised as one ValueError.
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
    videos, dataset = training_videos(params, parts), params.dataset
    broken = sum(bool(video.broken) for video in videos.videos)
    if params.epochs and (steps := length_of(params, len(videos)).steps) < params.min_steps:
        needed = -(-params.min_steps // params.epochs) * params.batch_size
        besides = " beside those held out" * (params.held_out_videos > 0)
        raise ValueError(
            f"{dataset}: {len(videos)} training clips make {steps} steps of {params.batch_size}, and min_steps is "
            f"{params.min_steps}: it needs {needed}{besides}, or a smaller batch_size"
        )
    if params.epochs and len(videos) < params.batch_size:
        batch_size = params.batch_size
        raise ValueError(f"{dataset}: {len(videos)} training videos make no batch of {batch_size}; lower batch_size")
    if params.epochs and broken > params.max_bad_videos:
        raise ValueError(
            f"{dataset}: {broken} training videos cannot be decoded (make check-data names them), and "
            f"max_bad_videos is {params.max_bad_videos}; repair them, or raise it"
        )
    with _about(dataset):
        read_concepts(params, videos.classes)
    read_prompts(FOLDER / "prompts" / f"{params.prompts}.yaml")


def _zero_shot_templates(params: Params) -> list[str]:
    return read_prompts(FOLDER / "prompts" / f"{params.zero_shot_prompts}.yaml")


def _check_clips(params: Params, dataset: str, parts: Parts) -> None:
    tests = test_parts(params, dataset)
    for part in tests:
        if not any(video.labels or video.label is not None for video in parts[part].videos):
            remedy = "add some, or change evaluate_on, evaluate_splits or evaluate_parts"
            raise ValueError(f"{dataset}: the part {part} has no labelled clips: {remedy}")
    if "half" in params.zero_shot_protocols and "all" in parts:
        labels = [video.label for video in parts["all"].videos]
        with _about(f"{dataset}: zero_shot_protocols: half"):
            for seed in HALVES:
                in_class_half(labels, len(parts["all"].classes), seed=seed)
    for part in tests if dataset in params.probe_on else ():
        check_probe(params, dataset, probe_part(part), parts[probe_part(part)], parts[part])


@contextmanager
def _about(subject: str) -> Iterator[None]:
    """Prefixes the messages of ValueErrors raised inside with the subject."""
    try:
        yield
    except ConceptError:  # names its file
        raise
    except ValueError as error:
        raise ValueError(f"{subject}: {error}") from None


def check_probe(
    params: Params, dataset: str, part: str, train: VideoList, test: VideoList, decoded: np.ndarray | None = None
) -> None:
    """Checks that a training part has enough clips for linear probe and k-NN.

    decoded: 'n' bool, the clips to count; None: those that the manifest does not list as broken. Raises ValueError,
    which names a class and its clips, or the parameter.
    """
    labels, classes = np.array([video.label for video in train.videos], dtype=int), train.classes
    if decoded is None:
        decoded = np.array([not video.broken for video in train.videos], dtype=bool)
    labels_decoded, subject = labels[decoded], f"{dataset}, {part}"
    untrained = []
    for label in sorted({video.label for video in test.videos if video.label is not None} - {*labels_decoded.tolist()}):
        count = int((labels == label).sum())
        clips = f"{count} training clips, of which none can be decoded" if count else "no training clip"
        untrained.append(f"class {classes[label]!r} has {clips}")
    if untrained:
        raise ValueError(f"{subject}: {'; '.join(untrained)}, but is tested: add clips, or {WAY_OUT}")
    groups, problems = groups_of(dataset, train), []
    groups = None if groups is None else groups[decoded]
    try:
        hold_out(labels_decoded, groups, fraction=params.probe_held_out, seed=params.probe_seed, classes=classes)
    except ValueError as error:
        problems.append(f"{subject}: {error}")
    if (k := max(params.knn_k)) > (clips := len(labels_decoded)):
        needs = f"{k} neighbours need more than {clips} training clips"
        problems.append(f"{subject}: knn_k: {needs}: lower it to {clips}, or {WAY_OUT}")
    if problems:
        raise ValueError("\n".join(problems))


def concepts_of(params: Params, dataset: str, parts: Parts) -> list[Concept]:
    """The concepts of a data set's classes. Charades' classes are phrases in no vocabulary: only the category space.

    Raises ValueError, which names data set and classes, for classes without a concept.
    """
    tests = [parts[part] for part in test_parts(params, dataset)]
    classes = list(dict.fromkeys(name for videos in tests for name in videos.classes))  # Kinetics-600's splits differ
    if dataset == "charades":
        return [Concept(name, readable_name(name), ()) for name in classes]
    with _about(dataset):
        return class_concepts(params, classes)


def check_model(
    params: Params, config: CLIPConfig, tokenizer: PreTrainedTokenizerBase, lists: dict[str, Parts], *, adapt: bool
) -> None:
    """Checks that a checkpoint can process the views, and the texts of every data set that is evaluated on.

    Raises ValueError for views that its patches do not tile or more blocks than it has, ConceptError for texts.
    """
    sizes = []
    for name in ("zero_shot_views", "still_views", "probe_views"):
        sizes += [(name, EvalView.parse(view).image_size) for view in getattr(params, name)]
    if adapt and params.epochs:
        sizes.append(("image_size", params.image_size))
        sizes += [("local_image_size", params.local_image_size)] * bool(params.local_views)
        blocks = config.vision_config.num_hidden_layers
        if params.trained == "last_blocks" and params.trained_last_blocks > blocks:
            raise ValueError(f"trained_last_blocks is {params.trained_last_blocks}, but {params.clip} has {blocks}")
    patch = config.vision_config.patch_size
    if invalid := dict.fromkeys(f"{name}: {size}" for name, size in sizes if size % patch):
        rule = f"a view's must be a multiple of the patch of {params.clip}, {patch}"
        raise ValueError(f"{', '.join(invalid)} pixels: {rule}")
    templates, texts = _zero_shot_templates(params), []
    for dataset in params.evaluate_on:
        for concept in concepts_of(params, dataset, lists[dataset]):
            if "category" in params.score_spaces:
                with _about(f"{dataset}: zero_shot_prompts: {params.zero_shot_prompts}"):
                    texts += prompt_texts(concept, templates, num_descriptions=params.num_descriptions)
            if "description" in params.score_spaces:
                texts += concept.descriptions[: params.num_descriptions]
    token_ids(texts, tokenizer, config.text_config)


class Length(NamedTuple):
    steps: int  # of the adaptation
    text: str
    warnings: list[str]  # if the steps are too few to learn much


def length_of(params: Params, num_videos: int) -> Length:
    """The number of steps of an adaptation to this many videos."""
    steps, unused = params.epochs * (num_videos // params.batch_size), num_videos % params.batch_size
    if not steps:
        return Length(0, f"no training: {params.clip} is used as it is", [])
    text = f"{num_videos} training clips make {steps} steps of {params.batch_size}"
    text += f"; {unused} clip{'s' * (unused > 1)} per epoch unused" * bool(unused)
    advice = "results will hardly differ; use more clips, more epochs or a smaller batch_size"
    warning = f"{text}: fewer than {FEW_STEPS} steps teach little, and {advice}"
    return Length(steps, text, [warning] * (steps < FEW_STEPS))


def warnings_of(params: Params, lists: dict[str, Parts]) -> list[str]:
    """Caveats of a run's numbers, whatever they will be."""
    record, warnings = ROOT / params.clip / "record.json", []  # of lib/world/pretrain.py
    real = [dataset for dataset in params.evaluate_on if dataset not in RENDERED]
    if real and record.exists() and "stills" in read_json(record):
        caveat = "the embedded CLIP has seen only rendered people: results on real videos are near chance by design"
        warnings.append(f"{', '.join(real)}: {caveat}")
    for dataset in params.evaluate_on:
        others = [str(split) for split in params.evaluate_splits if split != params.split]
        if dataset == params.dataset and dataset in WITH_SPLITS and params.epochs and others:
            caveat = f"share clips with split {params.split}, which the model was adapted to"
            warnings.append(f"{dataset}: the test parts of {' and '.join(others)} {caveat}")
        if dataset == "ssv2":
            caveat = "templates that differ in direction look alike frame by frame, which is all an image CLIP sees"
            warnings.append(f"ssv2: {caveat}: read pair_top1 (chance: 50) beside top-1")
        for part in test_parts(params, dataset) if dataset in params.probe_on and params.probe_shots else ():
            train = lists[dataset][probe_part(part)]
            _, counts = np.unique([video.label for video in train.videos], return_counts=True)
            for shots in params.probe_shots:
                if few := (counts < shots).sum():
                    warnings.append(
                        f"{dataset}, {probe_part(part)}: {few} of {len(counts)} classes have fewer than {shots} "
                        f"training clips (at least {counts.min()}): the probe on {shots} uses all of theirs"
                    )
    return warnings
