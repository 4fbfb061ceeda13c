"""Videos as views: random views for training, addressed by epoch and video, and fixed views for evaluation."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from lib.datasets.lists import Video, VideoList
from lib.run.fields import Params
from lib.video.cut import Uncut
from lib.video.decode import Frames, VideoError, decode
from lib.video.views import (
    EvalView,
    ViewSettings,
    draw_augmentations,
    draw_num_frames,
    evaluation_indices,
    evaluation_views,
    training_indices,
    training_views,
)


def view_settings(params: Params) -> ViewSettings:
    """The view parameters. Raises ValueError for invalid combinations."""
    values = {field.name: getattr(params, field.name) for field in fields(ViewSettings)}
    return ViewSettings(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


class SampleKey(NamedTuple):
    """Addresses a training sample: together with the seed it determines every pixel."""

    epoch: int
    index: int  # of the video
    num_frames: tuple[int, ...]  # of every view, globals first


class Sample(NamedTuple):
    index: int
    views: list[Tensor] | Uncut | None
    error: VideoError | None  # set if there are no views


class Batch(NamedTuple):
    """Samples stacked view by view; videos that cannot be decoded are listed in `errors` instead."""

    # training: 'b c t h w' each, globals first, or one `Uncut` per video; evaluation: 'b v c t h w' each
    views: list[Tensor] | list[Uncut]  # empty if all videos fail
    indices: Tensor  # 'b', into the list of videos
    errors: list[tuple[int, VideoError]]  # index of the video, reason


def collate(samples: list[Sample]) -> Batch:
    decoded = [sample for sample in samples if sample.error is None]
    errors = [(sample.index, sample.error) for sample in samples if sample.error is not None]
    views = [sample.views for sample in decoded]
    if not views or not isinstance(views[0], Uncut):
        views = [torch.stack(view) for view in zip(*views)]
    return Batch(views, torch.tensor([sample.index for sample in decoded], dtype=torch.long), errors)


class TrainingViews(Dataset):
    """The random views of a video by SampleKey, decoded in one pass.

    short_side: pixels to which videos are scaled while decoding; None: unscaled. cut: False leaves the cutting to
    `cut_views`.
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
            sampling = {"num_source_frames": count, "fps": fps, "num_frames": key.num_frames}
            return np.concatenate(training_indices(self.settings, **sampling, generator=generator))

        try:
            frames = _decode(self.videos.videos[key.index], select, short_side=self.short_side)
        except VideoError as error:
            return Sample(key.index, None, error)
        rows = np.split(frames.rows, np.cumsum(key.num_frames)[:-1])
        augmentations = draw_augmentations(self.settings, *frames.pixels.shape[1:3], generator)
        video = Uncut(torch.from_numpy(frames.pixels), rows, augmentations)
        return Sample(key.index, training_views(*video) if self.cut else video, None)


class BatchPlan(Sampler[list[SampleKey]]):
    """The batches of steps `first_step` to `num_steps` - 1 as lists of SampleKeys, for DataLoader's `batch_sampler`.

    Each process receives its slice of every batch, in the order of ranks. Every epoch has its own order and drops the
    incomplete last batch; every batch draws the number of frames per view. Seed, epoch and batch determine everything,
    so training resumes at any step without replay.
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
        if batch_size % processes:
            raise ValueError(f"batch_size, {batch_size}, must be a multiple of the number of processes, {processes}")
        self.num_videos, self.settings, self.batch_size, self.seed = num_videos, settings, batch_size, seed
        self.first_step, self.num_steps = first_step, num_steps
        self.per_process, self.rank = batch_size // processes, rank
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
            first = batch * self.batch_size + self.rank * self.per_process
            yield [SampleKey(epoch, int(index), num_frames) for index in order[first : first + self.per_process]]


class EvaluationViews(Dataset):
    """The fixed views of a video, decoded in one pass: one tensor 'v c t h w' per view, v = clips x crops."""

    def __init__(self, videos: Sequence[Video], views: Sequence[EvalView]):
        self.videos, self.views = videos, views

    def __len__(self) -> int:
        return len(self.videos)

    def path(self, index: int) -> Path:
        return self.videos[index].path

    def __getitem__(self, index: int) -> Sample:
        def select(count: int, fps: float) -> np.ndarray:
            indices = [evaluation_indices(count, num_frames=view.num_frames, clips=view.clips) for view in self.views]
            return np.concatenate([view.ravel() for view in indices])

        try:
            frames = _decode(self.videos[index], select, short_side=max(view.image_size for view in self.views))
        except VideoError as error:
            return Sample(index, None, error)
        tensors, ends = [], np.cumsum([view.num_frames * view.clips for view in self.views])
        for view, rows in zip(self.views, np.split(frames.rows, ends[:-1]), strict=True):
            clips = np.arange(len(rows)).reshape(view.clips, view.num_frames)
            tensors.append(evaluation_views(frames.pixels[rows], clips, crops=view.crops, image_size=view.image_size))
        return Sample(index, tensors, None)


def _decode(video: Video, select: Callable[[int, float], Sequence[int]], *, short_side: int | None) -> Frames:
    """`decode` with the manifest's index. Files listed as broken are not opened: they may kill the process."""
    if video.broken:
        raise VideoError(video.path, video.broken)
    return decode(video.path, select, short_side=short_side, index=video.index)
