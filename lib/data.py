"""Lists of videos, and the data sets that turn them into views.

A list comes from a folder per class, a flat folder, or UCF-101's official splits. What was expected and isn't there,
and what is there and wasn't expected, stands in the list's fields.
"""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from lib.params import ROOT, Params
from lib.video import VideoError, decode
from lib.views import ViewSettings, draw_num_frames
from lib.views import evaluation_indices, evaluation_views, training_indices, training_views

VIDEO_SUFFIXES = ".avi .mp4 .mkv .webm .mov .m4v .mpg .mpeg .wmv .flv .ogv .3gp .ts .gif".split()
UCF101_GROUPS = ROOT / "params" / "splits" / "ucf101.csv"


@dataclass(frozen=True)
class Video:
    path: Path
    name: str  # unique in its list and free of machine and container: "class/stem", or the stem in a flat folder
    label: int | None = None  # index into VideoList.classes


@dataclass(frozen=True)
class VideoList:
    videos: list[Video]
    classes: list[str] = field(default_factory=list)  # empty if unlabelled
    absent_classes: list[str] = field(default_factory=list)  # classes of the official list without a folder
    missing: list[str] = field(default_factory=list)  # names that are listed but have no file
    extra: list[str] = field(default_factory=list)  # files and folders that are there but were not taken

    def __len__(self) -> int:
        return len(self.videos)


def spoken_name(label: str) -> str:
    """A label as words: "ApplyEyeMakeup" -> "apply eye makeup", "YoYo" -> "yo yo", "brush_hair" -> "brush hair"."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", label).replace("_", " ")
    return " ".join(words.lower().split())


def list_folder(root: str | Path, *, labelled: bool = True) -> VideoList:
    """Videos of `root/<class>/*`, classes in alphabetical order; unlabelled: also of `root/*`.

    Files with other suffixes than a video's are listed as `extra`; hidden files are ignored. Raises FileNotFoundError
    if the folder is absent or holds no videos, ValueError if two files would have one name.
    """
    root = _existing_folder(Path(root), "a folder per class with videos in it" if labelled else "videos")
    folders = sorted(entry for entry in _entries(root) if entry.is_dir())
    taken = {folder.name: [f for f in _entries(folder) if _is_video(f)] for folder in folders}
    classes = [name for name, files in taken.items() if files] if labelled else []
    videos = [] if labelled else [Video(file, file.stem) for file in _entries(root) if _is_video(file)]
    for name, files in taken.items():
        label = classes.index(name) if labelled and files else None
        videos += [Video(file, f"{name}/{file.stem}", label) for file in files]
    if not videos:
        expected = "<class>/<video>" if labelled else "<video> or <folder>/<video>"
        raise FileNotFoundError(f"{root}: no videos; expected {expected}, with one of {' '.join(VIDEO_SUFFIXES)}")
    twice = sorted(name for name, count in Counter(video.name for video in videos).items() if count > 1)
    if twice:
        raise ValueError(f"{root}: several files for each of {', '.join(twice[:5])}; a stem must be unique in a folder")
    paths = {video.path for video in videos}
    files = [file for folder in folders for file in _entries(folder)] + [e for e in _entries(root) if not e.is_dir()]
    extra = [str(file.relative_to(root)) for file in files if file not in paths]
    extra += [f"{name}/" for name, files in taken.items() if not files]
    return VideoList(videos, classes, extra=sorted(extra))


def list_ucf101(root: str | Path, *, split: int, part: str, lists: str | Path | None = None) -> VideoList:
    """One part ("train" or "test") of an official UCF-101 split (1, 2, 3; Soomro et al. 2012) of `root/<Class>/*`.

    Files are found by the official stem with any video suffix; capitals don't matter (releases disagree about
    HandstandPushups). `root` may hold a subset of the classes: a class counts as present if its folder exists, labels
    index the present ones in official order. The lists are read from `lists` (the folder ucfTrainTestlist) or else
    derived: the test set of split s is exactly groups 7s-6..7s. `missing` and `extra` speak of present classes;
    `extra` also has what belongs to no class, but not the other part of the split.
    """
    if split not in (1, 2, 3) or part not in ("train", "test"):
        raise ValueError(f"UCF-101 has the splits 1, 2, 3 with the parts train, test; got {split!r}, {part!r}")
    root = _existing_folder(Path(root), "UCF-101: a folder per class, e.g. ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi")
    all_classes, official = _read_official_lists(Path(lists), split) if lists else _derive_official_lists(split)
    folders = {entry.name.casefold(): entry for entry in _entries(root) if entry.is_dir()}
    classes = [name for name in all_classes if name.casefold() in folders]
    if not classes:
        raise FileNotFoundError(f"{root}: none of UCF-101's {len(all_classes)} class folders, e.g. {all_classes[0]}")
    files, extra = {}, []
    listed = {name.casefold() for names in official.values() for name in names}
    class_folders = {folders[name.casefold()].name for name in classes}
    for entry in _entries(root):
        if entry.name not in class_folders:
            extra.append(f"{entry.name}/" if entry.is_dir() else entry.name)
            continue
        for file in _entries(entry):
            name = f"{entry.name}/{file.stem}".casefold()
            if not _is_video(file) or name not in listed:
                extra.append(f"{entry.name}/{file.name}")
            elif name in files:
                raise ValueError(f"{root}: two files for one clip, {files[name].name} and {file.name}; remove one")
            else:
                files[name] = file
    labels = {name.casefold(): label for label, name in enumerate(classes)}
    names = [name for name in official[part] if name.split("/")[0].casefold() in labels]
    videos = [Video(files[name.casefold()], name, labels[name.split("/")[0].casefold()])
              for name in names if name.casefold() in files]
    missing = [name for name in names if name.casefold() not in files]
    if not videos:
        raise FileNotFoundError(f"{root}: no clip of split {split}, {part}, in {len(classes)} class folders; "
                                f"expected {missing[0]} and the like, with one of {' '.join(VIDEO_SUFFIXES)}")
    return VideoList(videos, classes, [name for name in all_classes if name not in classes], missing, extra)


def list_part(params: Params, part: str) -> VideoList:
    """The videos of `params.data` that make up one part of the data set: "train", "validation" or "test".

    The embedded world and one's own folder have a folder for each part, with a folder per class in it; UCF-101 has an
    official split and no validation part.
    """
    root = ROOT / params.data
    if params.dataset == "ucf101":
        return list_ucf101(root, split=params.split, part=part, lists=params.split_lists or None)
    return list_folder(root / part)


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
    kept = set()
    for label, part in zip(order, share):
        size = max(1, int(largest * part + 1e-9))
        kept.update(generator.permutation(members[label])[:size].tolist())
    return replace(videos, videos=[video for index, video in enumerate(videos.videos) if index in kept])


class SampleKey(NamedTuple):
    """Addresses one training sample: together with the seed it determines every pixel."""

    epoch: int
    index: int  # of the video
    num_frames: tuple[int, ...]  # of every view, globals first


class Sample(NamedTuple):
    index: int
    views: list[Tensor] | None
    error: VideoError | None  # in place of views


class Batch(NamedTuple):
    """Samples stacked view by view. Videos that can't be decoded are in `errors` and the batch is smaller by them."""

    views: list[Tensor]  # training: 'b c t h w' each, globals first; evaluation: one 'b v c t h w'; [] if all failed
    indices: Tensor  # 'b', into the list of videos
    errors: list[tuple[int, VideoError]]  # index of the video, reason


def collate(samples: list[Sample]) -> Batch:
    good = [sample for sample in samples if sample.error is None]
    views = [torch.stack(view) for view in zip(*(sample.views for sample in good))]
    errors = [(sample.index, sample.error) for sample in samples if sample.error is not None]
    return Batch(views, torch.tensor([sample.index for sample in good], dtype=torch.long), errors)


class TrainingViews(Dataset):
    """The random views of a video by SampleKey. One decoding pass serves all views.

    short_side: pixels to which videos are scaled while they are decoded; None: as they are.
    """

    def __init__(self, videos: VideoList, settings: ViewSettings, *, seed: int, short_side: int | None = None):
        self.videos, self.settings, self.seed, self.short_side = videos, settings, seed, short_side

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: SampleKey) -> Sample:
        generator = np.random.default_rng([self.seed, 2, key.epoch, key.index])

        def select(count: int, fps: float) -> np.ndarray:
            request = dict(num_source_frames=count, fps=fps, num_frames=key.num_frames, generator=generator)
            return np.concatenate(training_indices(self.settings, **request))

        try:
            frames = decode(self.videos.videos[key.index].path, select, short_side=self.short_side)
        except VideoError as error:
            return Sample(key.index, None, error)
        rows = np.split(frames.rows, np.cumsum(key.num_frames)[:-1])
        return Sample(key.index, training_views(frames.pixels, rows, self.settings, generator), None)


class BatchPlan(Sampler[list[SampleKey]]):
    """The batches of steps `first_step`..`num_steps` - 1, as lists of SampleKeys, for DataLoader's `batch_sampler`.

    Every epoch has an order of its own, and incomplete batches are dropped; every batch draws the number of frames of
    each view once. All of it follows from seed, epoch and batch, so training resumes at any step without replay.
    """

    def __init__(
        self, num_videos: int, settings: ViewSettings, *,
        batch_size: int, num_steps: int, seed: int, first_step: int = 0,
    ):
        if not 0 < batch_size <= num_videos:
            raise ValueError(f"batch_size must lie in 1..{num_videos}, the number of training videos; got {batch_size}")
        self.num_videos, self.settings, self.batch_size, self.seed = num_videos, settings, batch_size, seed
        self.first_step, self.num_steps = first_step, num_steps
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
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [SampleKey(epoch, int(index), num_frames) for index in chosen]


class EvaluationViews(Dataset):
    """The fixed views of every video: Sample.views is one tensor 'v c t h w' with v = clips x crops."""

    def __init__(self, videos: VideoList, *, num_frames: int, clips: int, crops: int, image_size: int):
        self.videos, self.num_frames, self.clips = videos, num_frames, clips
        self.crops, self.image_size = crops, image_size

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Sample:
        def select(count: int, fps: float) -> np.ndarray:
            return evaluation_indices(count, num_frames=self.num_frames, clips=self.clips).ravel()

        try:
            frames = decode(self.videos.videos[index].path, select, short_side=self.image_size)
        except VideoError as error:
            return Sample(index, None, error)
        rows = frames.rows.reshape(self.clips, self.num_frames)
        view = evaluation_views(frames.pixels, rows, crops=self.crops, image_size=self.image_size)
        return Sample(index, [view], None)


def _existing_folder(root: Path, expected: str) -> Path:
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; expected {expected}")
    return root


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()


def _by_label(videos: VideoList) -> dict[int | None, list[int]]:
    members = defaultdict(list)
    for index, video in enumerate(videos.videos):
        members[video.label].append(index)
    return members


def _read_official_lists(folder: Path, split: int) -> tuple[list[str], dict[str, list[str]]]:
    """Class names in official order, and "Class/stem" of both parts."""
    _existing_folder(folder, "ucfTrainTestlist with classInd.txt, trainlist01.txt, testlist01.txt, ...")
    classes = [line.split()[1] for line in (folder / "classInd.txt").read_text().splitlines() if line.strip()]
    parts = {}
    for part in ("train", "test"):
        lines = (folder / f"{part}list{split:02d}.txt").read_text().splitlines()
        parts[part] = [line.split()[0].rsplit(".", 1)[0] for line in lines if line.strip()]
    return classes, parts


def _derive_official_lists(split: int) -> tuple[list[str], dict[str, list[str]]]:
    """The same from the number of clips in every group; clips are numbered from 1 without gaps."""
    with UCF101_GROUPS.open(newline="") as file:
        rows = {row.pop("class"): row for row in csv.DictReader(file)}
    parts = {"train": [], "test": []}
    for name, counts in rows.items():
        for group, count in counts.items():  # "g01" .. "g25"
            part = "test" if 7 * split - 6 <= int(group[1:]) <= 7 * split else "train"
            parts[part] += [f"{name}/v_{name}_{group}_c{clip:02d}" for clip in range(1, int(count) + 1)]
    return list(rows), parts
