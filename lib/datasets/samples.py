"""Data sets as a run sees them: their lists checked against what is there, and their videos turned into views."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from lib.datasets.lists import Video, VideoList, defects, examples
from lib.datasets.official import list_videos, manifest_of
from lib.run.fields import Params
from lib.run.params import lists_of, place_of
from lib.video import manifest
from lib.video.decode import Frames, VideoError, decode
from lib.video.views import (
    EvalView,
    ViewSettings,
    draw_num_frames,
    evaluation_indices,
    evaluation_views,
    training_indices,
    training_views,
)


class DataError(ValueError):
    """A data set is not whole: the message says what and how many, and how to go on without them."""


def train_part(params: Params) -> str:
    """The part of `params.dataset` that is adapted to."""
    return f"train-{params.split}" if params.dataset in ("ucf101", "hmdb51") else "train"


def test_parts(params: Params, dataset: str) -> list[str]:
    """The parts that numbers are reported on. Kinetics has no public test labels: its validation part is it."""
    if dataset in ("ucf101", "hmdb51"):
        return [f"test-{split}" for split in params.evaluate_splits]
    return {"kinetics400": ["validation"], "charades": ["test"]}.get(dataset, params.evaluate_parts)


def probe_part(test_part: str) -> str:
    """The part that a probe learns from, which is asked of this one."""
    return test_part.replace("test", "train") if "-" in test_part else "train"


def groups_of(dataset: str, videos: VideoList) -> np.ndarray | None:
    """What a clip was cut from, where its name says so, 'n': clips of one film stay together when C is chosen."""
    if dataset == "ucf101":
        return np.array([re.sub(r"_c\d+$", "", video.name) for video in videos.videos])
    if dataset == "hmdb51":  # "<class>/<film>_<class>_<visible body parts>_..."
        return np.array(
            [video.name.split("/")[1].split(f"_{videos.classes[video.label]}_")[0] for video in videos.videos]
        )
    return None


def view_settings(params: Params) -> ViewSettings:
    """The view parameters. Raises ValueError for views that cannot be cut."""
    values = {field.name: getattr(params, field.name) for field in fields(ViewSettings)}
    return ViewSettings(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def list_dataset(params: Params, dataset: str) -> dict[str, VideoList]:
    """The parts of a data set (`official.list_videos`), what the manifest knows of its files attached.

    A file that has changed since the manifest was made is decoded as if it were unknown. Raises FileNotFoundError if
    there is no such data set, ListError for lists that are no good; DataError if it lacks a part that the parameters ask for,
    or if files are missing, left out, or broken as far as the manifest knows, unless `allow_missing`.
    """
    place, path = place_of(params, dataset), manifest_of(params, dataset)
    lists, broken = list_videos(dataset, place, lists=lists_of(params, dataset)), {}
    if path.exists():
        table = manifest.read(path)
        indices = manifest.indices(table, place)
        broken = manifest.errors(table, place)
        lists = {
            part: replace(
                videos,
                videos=[
                    replace(video, index=indices.get(video.path), broken=broken.get(video.path, ""))
                    for video in videos.videos
                ],
            )
            for part, videos in lists.items()
        }
    insist_on_parts(params, dataset, lists)
    if not params.allow_missing and dataset != "embedded" and (problems := defects(lists, broken)):
        raise DataError(
            "\n  ".join(
                [
                    f"{dataset} is not whole (make check-data lists everything):",
                    *(f"{heading}: {examples(names, 5)}" for heading, names in problems.items()),
                    "`allow_missing: true` goes on without them, and the results say so",
                ]
            )
        )
    return lists


def insist_on_parts(params: Params, dataset: str, lists: dict[str, VideoList]) -> None:
    """Raises DataError if a data set lacks a part that a run with these parameters reads."""
    tests = test_parts(params, dataset) if dataset in params.evaluate_on else []
    needed = [*([train_part(params)] if dataset == params.dataset else []), *tests]
    if dataset in params.probe_on:
        needed += [probe_part(part) for part in tests]
    if lacking := [part for part in dict.fromkeys(needed) if part not in lists]:
        raise DataError(
            f"{dataset}: {place_of(params, dataset)} has no part {', '.join(lacking)}, only {', '.join(lists)}: "
            "add it, or change dataset, evaluate_on, evaluate_parts or probe_on"
        )


def long_tailed(videos: VideoList, *, imbalance: float, seed: int) -> VideoList:
    """A subset with class sizes n_max x imbalance^(-rank / (classes - 1)), as large as the data allows.

    `imbalance` = largest / smallest class (Cui et al., CVPR 2019). Which class is how rare, and which videos stay, is
    drawn from `seed`. Needs labels.
    """
    members = _by_label(videos)
    if imbalance < 1 or None in members:
        raise ValueError(f"a long-tailed subset needs labelled videos and an imbalance of at least 1, got {imbalance}")
    generator = np.random.default_rng([seed, 4])
    share = imbalance ** -(np.arange(len(members)) / max(1, len(members) - 1))
    order = generator.permutation(sorted(members))
    largest = min(len(members[label]) / part for label, part in zip(order, share))
    if largest * share[-1] + 1e-9 < 1:
        raise ValueError(
            f"imbalance: {imbalance:g} to 1 needs {imbalance:g} videos of the most frequent class, but there are {int(largest + 1e-9)}: "
            "lower it"
        )
    kept = set()
    for label, part in zip(order, share):
        size = int(largest * part + 1e-9)
        kept.update(generator.permutation(members[label])[:size].tolist())
    return replace(videos, videos=[video for index, video in enumerate(videos.videos) if index in kept])


def some_videos(videos: VideoList, *, count: int, seed: int) -> VideoList:
    """`count` of the videos, drawn from `seed`, in their order. Raises ValueError if there are not so many."""
    if count > len(videos):
        raise ValueError(f"train_videos is {count}, but there are only {len(videos)}")
    kept = set(np.random.default_rng([seed, 5]).permutation(len(videos))[:count].tolist())
    return replace(videos, videos=[video for index, video in enumerate(videos.videos) if index in kept])


def training_videos(params: Params, parts: dict[str, VideoList]) -> VideoList:
    """The videos of `params.dataset` that are adapted to. Raises ValueError if there are not so many, of that imbalance."""
    videos = parts[train_part(params)]
    if params.train_videos:
        videos = some_videos(videos, count=params.train_videos, seed=params.seed)
    return long_tailed(videos, imbalance=params.imbalance, seed=params.seed) if params.imbalance > 1 else videos


class SampleKey(NamedTuple):
    """Addresses one training sample: together with the seed it determines every pixel."""

    epoch: int
    index: int  # of the video
    num_frames: tuple[int, ...]  # of every view, globals first


class Uncut(NamedTuple):
    """A decoded training video whose views are cut later, by `cut_views`."""

    pixels: Tensor  # 't h w c' uint8
    rows: list[np.ndarray]  # per view its frames' rows in `pixels`
    generator: np.random.Generator  # draws the crops


class Sample(NamedTuple):
    index: int
    views: list[Tensor] | Uncut | None
    error: VideoError | None  # in place of views


class Batch(NamedTuple):
    """Samples stacked view by view. Videos that can't be decoded are in `errors` and the batch is smaller by them."""

    # training: 'b c t h w' each, globals first (or what they are cut from, per video); evaluation: one 'b v c t h w'; [] if all failed
    views: list[Tensor] | list[Uncut]
    indices: Tensor  # 'b', into the list of videos
    errors: list[tuple[int, VideoError]]  # index of the video, reason


def collate(samples: list[Sample]) -> Batch:
    good = [sample for sample in samples if sample.error is None]
    whole = [sample.views for sample in good]
    views = whole if good and isinstance(whole[0], Uncut) else _by_view(whole)
    errors = [(sample.index, sample.error) for sample in samples if sample.error is not None]
    return Batch(views, torch.tensor([sample.index for sample in good], dtype=torch.long), errors)


def cut_views(videos: list[Uncut], settings: ViewSettings, device: torch.device) -> list[Tensor]:
    """The views of a batch, 'b c t h w' each, cut on the device: the same as TrainingViews cuts, up to its rounding."""
    return _by_view(
        [
            training_views(video.pixels.to(device, non_blocking=True), video.rows, settings, video.generator)
            for video in videos
        ]
    )


def _by_view(samples: list[list[Tensor]]) -> list[Tensor]:
    """The views of each video -> each view of all videos."""
    return [torch.stack(view) for view in zip(*samples)]


class TrainingViews(Dataset):
    """The random views of a video by SampleKey. One decoding pass serves all views.

    short_side: pixels to which videos are scaled while they are decoded; None: as they are. cut: False leaves the
    cutting to `cut_views`.
    """

    def __init__(
        self, videos: VideoList, settings: ViewSettings, *, seed: int, short_side: int | None = None, cut: bool = True
    ):
        self.videos, self.settings, self.seed, self.short_side, self.cut = videos, settings, seed, short_side, cut

    def __len__(self) -> int:
        return len(self.videos)

    def path(self, index: int) -> Path:
        return self.videos.videos[index].path

    def __getitem__(self, key: SampleKey) -> Sample:
        generator = np.random.default_rng([self.seed, 2, key.epoch, key.index])

        def select(count: int, fps: float) -> np.ndarray:
            request = dict(num_source_frames=count, fps=fps, num_frames=key.num_frames, generator=generator)
            return np.concatenate(training_indices(self.settings, **request))

        try:
            frames = _decode(self.videos.videos[key.index], select, short_side=self.short_side)
        except VideoError as error:
            return Sample(key.index, None, error)
        rows = np.split(frames.rows, np.cumsum(key.num_frames)[:-1])
        pixels = torch.from_numpy(frames.pixels)
        views = training_views(pixels, rows, self.settings, generator) if self.cut else Uncut(pixels, rows, generator)
        return Sample(key.index, views, None)


class BatchPlan(Sampler[list[SampleKey]]):
    """The batches of steps `first_step`..`num_steps` - 1, as lists of SampleKeys, for DataLoader's `batch_sampler`.

    Of several processes, each gets its slice of every batch, in the order of the ranks. Every epoch has an order of its
    own, and incomplete batches are dropped; every batch draws the number of frames of each view once. All of it follows
    from seed, epoch and batch, so training resumes at any step without replay.
    """

    def __init__(
        self,
        num_videos: int,
        settings: ViewSettings,
        *,
        batch_size: int,
        num_steps: int,
        seed: int,
        first_step: int = 0,
        rank: int = 0,
        processes: int = 1,
    ):
        if not 0 < batch_size <= num_videos:
            raise ValueError(f"batch_size must lie in 1..{num_videos}, the number of training videos; got {batch_size}")
        self.num_videos, self.settings, self.batch_size, self.seed = num_videos, settings, batch_size, seed
        if batch_size % processes:
            raise ValueError(f"batch_size, {batch_size}, must be a multiple of the number of processes, {processes}")
        self.first_step, self.num_steps = first_step, num_steps
        self.share, self.rank = batch_size // processes, rank
        self.batches_per_epoch = num_videos // batch_size

    def __len__(self) -> int:
        return max(0, self.num_steps - self.first_step)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        current_epoch = None
        for step in range(self.first_step, self.num_steps):
            epoch, batch = divmod(step, self.batches_per_epoch)
            if epoch != current_epoch:
                current_epoch, order = epoch, np.random.default_rng([self.seed, 0, epoch]).permutation(self.num_videos)
            num_frames = draw_num_frames(self.settings, np.random.default_rng([self.seed, 1, epoch, batch]))
            first = batch * self.batch_size + self.rank * self.share
            chosen = order[first : first + self.share]
            yield [SampleKey(epoch, int(index), num_frames) for index in chosen]


class EvaluationViews(Dataset):
    """The fixed views of every video, from one decoding pass: Sample.views has a tensor 'v c t h w' for each of
    `views`, v = clips x crops."""

    def __init__(self, videos: Sequence[Video], views: Sequence[EvalView]):
        self.videos, self.views = videos, views

    def __len__(self) -> int:
        return len(self.videos)

    def path(self, index: int) -> Path:
        return self.videos[index].path

    def __getitem__(self, index: int) -> Sample:
        def select(count: int, fps: float) -> np.ndarray:
            return np.concatenate(
                [evaluation_indices(count, num_frames=view.num_frames, clips=view.clips).ravel() for view in self.views]
            )

        try:
            frames = _decode(self.videos[index], select, short_side=max(view.image_size for view in self.views))
        except VideoError as error:
            return Sample(index, None, error)
        rows = np.split(frames.rows, np.cumsum([view.num_frames * view.clips for view in self.views])[:-1])
        return Sample(
            index,
            [
                evaluation_views(
                    frames.pixels[own],
                    np.arange(len(own)).reshape(view.clips, view.num_frames),
                    crops=view.crops,
                    image_size=view.image_size,
                )
                for view, own in zip(self.views, rows)
            ],
            None,
        )


def _decode(video: Video, select: Callable[[int, float], Sequence[int]], *, short_side: int | None) -> Frames:
    """`decode` with what the manifest knows of the file: one that is broken, or kills its process, is not opened."""
    if video.broken:
        raise VideoError(video.path, video.broken)
    return decode(video.path, select, short_side=short_side, index=video.index)


def _by_label(videos: VideoList) -> dict[int | None, list[int]]:
    members = defaultdict(list)
    for index, video in enumerate(videos.videos):
        members[video.label].append(index)
    return members
