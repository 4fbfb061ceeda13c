"""Lists of videos: what a folder holds, against what was expected of it, in words."""

import codecs
import csv
import difflib
import hashlib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lib.datasets.folders import VIDEO_SUFFIXES, entries, existing_folder, may_be_video, walk
from lib.video.decode import VideoIndex


class ListError(ValueError):
    """A list that cannot be read, is of another version, or is contradicted; the message says which line of which file."""


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
    absent_classes: list[str] = field(default_factory=list)  # classes that were expected and of which nothing is there
    missing: list[str] = field(
        default_factory=list
    )  # names that are listed but have no file, of classes that are there
    extra: list[str] = field(default_factory=list)  # files and folders that are there but in no list
    left_out: list[str] = field(default_factory=list)  # of these what stops a run unless `allow_missing`: "place: why"

    def __len__(self) -> int:
        return len(self.videos)


# ---- names ----------------------------------------------------------------------------------------------------------


def name_key(text: str, *, gap: str = "") -> str:
    """A name without capitals, accents, blanks and punctuation, in which releases of one data set differ; `gap` stands where
    these were."""
    if not text.isascii():
        text = "".join(sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign))
    return re.sub(r"[\W_]+", gap, text.casefold()).strip(gap or None)


def recogniser(classes: Collection[str]) -> Callable[[str], str | None]:
    """The function that finds the class which a folder or a list means, however it is spelt (`name_key`); None where none
    or several fit: "massaging_persons_head" -> "massaging person's head"."""
    classes, counts = set(classes), Counter(map(name_key, classes))
    known = {key: name for name in classes if counts[key := name_key(name)] == 1 and key}
    return lambda text: text if text in classes else known.get(name_key(text))


def nearest(name: str, classes: Collection[str]) -> str:
    """Words that suggest a class, or none."""
    near = difflib.get_close_matches(name_key(name), {name_key(own): own for own in classes}, n=1)
    return f" (is it {recogniser(classes)(near[0])}?)" if near else ""


# ---- what is there --------------------------------------------------------------------------------------------------


def list_folder(root: str | Path, *, loose: bool = False) -> VideoList:
    """Videos of `root/<class>/*`, classes in alphabetical order; `loose`: also of `root/*`, these without a label.

    Of several files with one stem in a folder the one whose suffix is first in VIDEO_SUFFIXES is taken. What is left out
    (the other ones, clips beside the class folders or too deep in them, folders without a video, links that lead nowhere,
    suffixes that are not known) is in `left_out`, with the reason. Raises FileNotFoundError if the folder is absent or holds
    no videos, ValueError for a name that cannot be written down.
    """
    root = existing_folder(Path(root), "videos" if loose else "a folder per class with videos in it")
    found = walk(root)
    beside = [file for file in found.videos if file.parent == root]
    inside = [file for file in found.videos if file.parent.parent == root]
    deep = [file for file in found.videos if file.parent != root and file.parent.parent != root]
    names = [(file.stem, file) for file in beside if loose] + [
        (f"{file.parent.name}/{file.stem}", file) for file in inside
    ]
    taken, left_out = one_file_each(root, names)
    if not taken:
        expected = "<video> or <folder>/<video>" if loose else "<class>/<video>"
        raise nothing_found(
            f"{root}: no videos; expected {expected}", in_folders(root, beside + deep, "not in a class folder")
        )
    classes = sorted({file.parent.name for file in taken.values() if file.parent != root})
    label_of = {name: label for label, name in enumerate(classes)}
    videos = [
        Video(file, name, label_of[file.parent.name] if file.parent != root else None) for name, file in taken.items()
    ]
    left_out += [] if loose else in_folders(root, beside, "beside the class folders, so of no class: move it into one")
    left_out += in_folders(root, deep, "one level too deep: move them up")
    filled = {folder for file in found.videos for folder in file.parents}
    left_out += [
        f"{folder.name}/: no video in it" for folder in found.folders if folder.parent == root and folder not in filled
    ]
    left_out += [f"{path.relative_to(root)}: {why}" for path, why in found.broken.items()]
    left_out += unknown_suffixes(root, (file for file in found.others if file.parent != root))
    extra = unused(root, [*found.videos, *found.others, *found.broken, *found.folders], taken.values())
    return VideoList(videos, classes, extra=extra, left_out=sorted(left_out))


def one_file_each(root: Path, names: Iterable[tuple[str, Path]]) -> tuple[dict[str, Path], list[str]]:
    """One file for each name, and in words which others there were.

    Of several the one whose suffix comes first in VIDEO_SUFFIXES is taken, and of several of these the first path.
    """
    files: dict[str, list[Path]] = {}
    for name, file in names:
        files.setdefault(name, []).append(file)
    for own in files.values():
        own.sort(key=lambda file: (VIDEO_SUFFIXES.index(file.suffix.lower()), file))
    return {name: own[0] for name, own in files.items()}, [
        f"{other.relative_to(root)}: a second file of one clip, {own[0].relative_to(root)}, which is used: remove or rename one "
        "of the two"
        for own in files.values()
        for other in own[1:]
    ]


def nothing_found(expected: str, left_out: Collection[str]) -> FileNotFoundError:
    """The error of a folder without one video that could be used."""
    return FileNotFoundError(
        "\n  ".join([f"{expected}, with one of {' '.join(VIDEO_SUFFIXES)}", *sorted(left_out)[:5]])
    )


def in_folders(root: Path, files: Collection[Path], why: str) -> list[str]:
    """A line for each file that lies in `root` itself, and for each folder that holds others."""
    counts = Counter(file.parent for file in files if file.parent != root)
    return [f"{file.name}: {why}" for file in files if file.parent == root] + [
        f"{folder.relative_to(root)}/: {count} video{'s' * (count > 1)}, {why}" for folder, count in counts.items()
    ]


def unknown_suffixes(root: Path, files: Iterable[Path]) -> list[str]:
    return [
        f"{file.relative_to(root)}: {f'{file.suffix} is' if file.suffix else 'it has'} no suffix of a video that is known here"
        for file in files
        if may_be_video(file)
    ]


def unused(root: Path, paths: Iterable[Path], used: Collection[Path]) -> list[str]:
    """The names of files that are not used, relative to `root`; a folder without any that is counts as one: "name/"."""
    paths, busy = set(paths), {root, *used}
    for folder in {file.parent for file in used}:
        busy.update(folder.parents, {folder})
    paths.update(*(folder.parents for folder in {path.parent for path in paths}), {path.parent for path in paths})
    top = {path for path in paths if path not in busy and path.parent in busy}
    return sorted(f"{path.relative_to(root)}{'/' * path.is_dir()}" for path in top if root in path.parents)


# ---- what was expected ----------------------------------------------------------------------------------------------


def read_lines(path: Path) -> list[tuple[str, str]]:
    """The lines of a list that are not empty, each behind its place: "trainlist01.txt, line 3". Raises FileNotFoundError;
    ListError for a file that is not UTF-8 (a byte order mark is passed over) or has no line."""
    lines = [
        (f"{path}, line {number}", line.strip())
        for number, line in enumerate(_text(path).split("\n"), start=1)
        if line.strip()
    ]
    if not lines:
        raise ListError(f"{path} is empty")
    return lines


def read_rows(path: Path, *columns: str) -> list[tuple[str, dict[str, str]]]:
    """The rows of a csv, each behind its place. Raises FileNotFoundError; ListError for a file that is not UTF-8, has not all
    of the columns, no row, or a row with fewer or more fields or with a line break in one of the columns."""
    reader, rows = csv.reader(io.StringIO(_text(path)), strict=True), []
    try:
        head = next(([name.strip() for name in row] for row in reader if any(row)), [])
        if lacking := [name for name in columns if head.count(name) != 1]:
            separator = next(
                (words for sign, words in ((";", "semicolons"), ("\t", "tabs")) if sign in "".join(head)), ""
            )
            hint = (
                f"; its columns are separated by {separator}, not by commas: save it as csv with commas"
                if separator
                else ""
            )
            raise ListError(f"{path}, line 1: it has no column {', '.join(lacking)}; its first line is {head}{hint}")
        for row in reader:
            where, values = f"{path}, line {reader.line_num}", {name: value.strip() for name, value in zip(head, row)}
            if any(row) and len(row) != len(head):
                raise ListError(f"{where}: {len(row)} fields, but the first line names {len(head)} columns: {row}")
            if broken := [name for name in columns if "\n" in values.get(name, "")]:
                raise ListError(
                    f"{where}: a line break in {broken[0]}, {values[broken[0]]!r}: is a quotation mark not closed?"
                )
            if any(row):
                rows.append((where, values))
    except csv.Error as error:
        raise ListError(f"{path}, line {reader.line_num}: no csv: {error}") from None
    if not rows:
        raise ListError(f"{path} has no row")
    return rows


def _text(path: Path) -> str:
    if not path.is_file():
        there = [entry.name for entry in entries(path.parent)][:5] if path.parent.is_dir() else "no such folder"
        raise FileNotFoundError(f"{path}: no such list; there are: {there}")
    data = path.read_bytes()
    sound, wide, _ = data.removeprefix(codecs.BOM_UTF8).partition(b"\0")  # every other byte of UTF-16
    try:
        text = sound.decode()
    except UnicodeDecodeError as error:
        sound, text = sound[: error.start], None
    if wide or text is None:
        line = sound.count(b"\n") + 1
        name = "UTF-16" if wide or data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "CP1252"
        raise ListError(
            f"{path}, line {line}: not UTF-8, but perhaps {name}: save it as UTF-8 (iconv -f {name} -t UTF-8)"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


class Once:
    """Refuses a clip that stands in a list twice, or in two lists or parts that exclude each other."""

    def __init__(self) -> None:
        self._first: dict[Hashable, tuple[str, str]] = {}

    def note(self, clip: Hashable, name: str, says: str, where: str) -> None:
        """says: part and class that are given to the clip. Raises ListError with both places and both values."""
        own = (says, where)
        if (first := self._first.setdefault(clip, own)) is not own:
            raise ListError(
                f"{where}: one clip twice: {name} is {says} here, and {first[0]} already in {first[1]}: keep one"
            )


def contradiction(where: str, name: str, says: str, other: str, other_says: str) -> ListError:
    """The error of two sources that contradict each other, with both and both values."""
    return ListError(f"{where}: {name} is {says} here, but {other} says {other_says}: correct the one that is wrong")


def defects(parts: dict[str, VideoList], broken: dict[Path, str]) -> dict[str, list[str]]:
    """What keeps a data set from being whole, as a heading and names; nothing else stops a run, or `make check-data`.

    broken: why files cannot be decoded, of those of which that is known.
    """
    found = {video.path: video.name for videos in parts.values() for video in videos.videos}
    missing = sorted({name for videos in parts.values() for name in videos.missing})
    spoilt = sorted(f"{name}: {broken[path]}" for path, name in found.items() if path in broken)
    left_out = sorted({line for videos in parts.values() for line in videos.left_out})
    listed, absent = len(found) + len(missing), {}
    for part, videos in parts.items():
        absent.setdefault((len({*videos.classes, *videos.absent_classes}), *videos.absent_classes), []).append(part)
    headings = {f"{len(missing)} of {listed} listed clips have no file": missing}
    for (count, *names), own in absent.items():
        where = "" if len(own) == len(parts) else f" in {', '.join(own)}"
        there = [name for name in parts[own[0]].classes if name not in names]
        where += f" (there are: {examples(there, 5)})" if len(there) < len(names) else ""
        headings[f"{len(names)} of {count} classes have no clip{where}"] = names
    headings |= {
        f"{len(spoilt)} of {listed} listed clips cannot be decoded": spoilt,
        f"{len(left_out)} files or folders are left out": left_out,
    }
    return {heading: names for heading, names in headings.items() if names}


def report(parts: dict[str, VideoList], official: dict[str, int] | None = None) -> list[str]:
    """A line a part: how many clips are listed and there; then what is there, belongs to no list and is in nobody's way."""
    lines = []
    for part, videos in parts.items():
        line = f"{part}: {len(videos)} of {len(videos) + len(videos.missing)} listed clips found"
        lines.append(line + (f" (officially {official[part]})" if official and part in official else ""))
    extra = sorted({name for videos in parts.values() for name in videos.extra})
    return lines + ([f"{len(extra)} files or folders that belong to no list: {examples(extra, 3)}"] if extra else [])


def examples(names: Collection[str], count: int) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (f", and {len(names) - count} more" if len(names) > count else "")
