"""Lists of videos: what a folder holds, against what was expected of it, in words."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lib.video import VideoIndex

VIDEO_SUFFIXES = ".avi .mp4 .mkv .webm .mov .m4v .mpg .mpeg .wmv .flv .ogv .3gp .ts .gif".split()


@dataclass(frozen=True)
class Video:
    path: Path
    name: str  # unique in its list and free of machine and container: "class/stem", or the stem in a flat folder
    label: int | None = None  # index into VideoList.classes
    labels: tuple[int, ...] = ()  # of a multi-label set
    index: VideoIndex | None = None  # what a manifest knows of the file
    broken: str = ""  # why it cannot be decoded, as far as a manifest knows: it is not opened again


def data_hash(videos: Iterable[Video]) -> str:
    """Twelve hex digits over the names and sizes of videos, in any order: other videos, or files made anew otherwise, have
    others."""
    lines = sorted({f"{video.name} {video.path.stat().st_size}" for video in videos})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class VideoList:
    videos: list[Video]
    classes: list[str] = field(default_factory=list)  # empty if unlabelled
    absent_classes: list[str] = field(default_factory=list)  # classes of the official list without a folder
    missing: list[str] = field(default_factory=list)  # names that are listed but have no file, of classes that are there
    extra: list[str] = field(default_factory=list)  # files and folders that are there but in no list

    def __len__(self) -> int:
        return len(self.videos)


def spoken_name(label: str) -> str:
    """A label as words: "ApplyEyeMakeup" -> "apply eye makeup", "brush_hair" -> "brush hair", brackets dropped:
    "hurling (sport)" -> "hurling sport", slashes spoken: "Holding a phone/camera" -> "holding a phone or camera"."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", label)
    words = re.sub(r"/e?s\b", "", words).replace("/", " or ")
    return " ".join(re.sub(r"[_()\[\]]", " ", words).lower().split())


def list_folder(root: str | Path, *, labelled: bool = True) -> VideoList:
    """Videos of `root/<class>/*`, classes in alphabetical order; unlabelled: also of `root/*`.

    Files with other suffixes than a video's are listed as `extra`; hidden files are ignored. Raises FileNotFoundError
    if the folder is absent or holds no videos, ValueError if two files would have one name.
    """
    root = existing_folder(Path(root), "a folder per class with videos in it" if labelled else "videos")
    folders = sorted(entry for entry in entries(root) if entry.is_dir())
    taken = {folder.name: [f for f in entries(folder) if is_video(f)] for folder in folders}
    classes = [name for name, files in taken.items() if files] if labelled else []
    videos = [] if labelled else [Video(file, file.stem) for file in entries(root) if is_video(file)]
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
    files = [file for folder in folders for file in entries(folder)] + [e for e in entries(root) if not e.is_dir()]
    extra = [str(file.relative_to(root)) for file in files if file not in paths]
    extra += [f"{name}/" for name, files in taken.items() if not files]
    return VideoList(videos, classes, extra=sorted(extra))


def report(parts: dict[str, VideoList], official: dict[str, int] | None = None) -> list[str]:
    """A line a part: how many clips are listed, there, and missing; then what is there and was not expected."""
    lines = []
    for part, videos in parts.items():
        line = f"{part}: {len(videos)} of {len(videos) + len(videos.missing)} listed clips found"
        if official and part in official:
            line += f" (officially {official[part]})"
        lines.append(line + _examples("missing", videos.missing))
    absent = {tuple(videos.absent_classes): None for videos in parts.values() if videos.absent_classes}
    extra = sorted({name for videos in parts.values() for name in videos.extra})
    lines += [f"{len(names)} classes without a folder" + _examples("", names) for names in absent]
    lines += [f"{len(extra)} files or folders that belong to no list" + _examples("", extra)] if extra else []
    return lines


def _examples(what: str, names: Iterable[str]) -> str:
    names = list(names)
    more = f", and {len(names) - 3} more" if len(names) > 3 else ""
    return f"; {what}: {', '.join(names[:3])}{more}".replace("; :", ":") if names else ""


def name_key(text: str) -> str:
    """A name without capitals, accents and punctuation, in which releases of one data set differ."""
    return re.sub(r"[^0-9a-z]+", "_", unicodedata.normalize("NFKD", text).casefold()).strip("_")


def existing_folder(root: Path, expected: str) -> Path:
    """The folder, or FileNotFoundError, which says what was expected."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; expected {expected}")
    return root


def entries(folder: Path) -> list[Path]:
    """Files and folders in it, sorted, without hidden ones."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()
