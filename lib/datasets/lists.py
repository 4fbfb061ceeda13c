"""Lists of videos: what lists name, what a folder holds, and what of each has no counterpart."""

import csv
import difflib
import hashlib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from lib.datasets.folders import VIDEO_SUFFIXES, Contents, existing_folder, may_be_video, names_in, walk
from lib.video.container import VideoIndex


class ListError(ValueError):
    """A list that is unreadable, of another version, or contradicted; the message names file and line."""


@dataclass(frozen=True)
class Video:
    path: Path
    name: str  # unique in its list and free of machine and container: "class/stem", or the stem in a flat folder
    label: int | None = None  # index into VideoList.classes
    labels: tuple[int, ...] = ()  # of a multi-label set
    index: VideoIndex | None = None  # from the manifest
    broken: str = ""  # why it cannot be decoded, from the manifest: it is not opened again


@dataclass(frozen=True)
class VideoList:
    videos: list[Video]
    classes: list[str] = field(default_factory=list)  # empty if unlabelled
    absent_classes: list[str] = field(default_factory=list)  # expected classes without a clip
    missing: list[str] = field(default_factory=list)  # listed names without a file
    extra: list[str] = field(default_factory=list)  # files and folders that no list names
    left_out: list[str] = field(
        default_factory=list
    )  # those of them that stop a run unless `allow_missing`: "place: why"

    def __len__(self) -> int:
        return len(self.videos)


def data_hash(videos: Iterable[Video]) -> str:
    """Twelve hex digits over the names and sizes of videos, in any order."""
    lines = sorted({f"{video.name} {video.path.stat().st_size}" for video in videos})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


# ---- names ----------------------------------------------------------------------------------------------------------


@cache
def name_key(text: str, *, gap: str = "") -> str:
    """A name without case, accents, blanks and punctuation (these become `gap`), in which releases differ."""
    if not text.isascii():
        text = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return re.sub(r"[\W_]+", gap, text.casefold()).strip(gap or None)


def recogniser(classes: Collection[str]) -> Callable[[str], str | None]:
    """Returns a function from any spelling of a class to the class, or to None where no class or several fit:
    "massaging_persons_head" -> "massaging person's head"."""
    counts = Counter(map(name_key, classes))
    by_key = {key: name for name in classes if counts[key := name_key(name)] == 1 and key}
    exact = set(classes)
    return lambda text: text if text in exact else by_key.get(name_key(text))


def nearest(name: str, classes: Collection[str]) -> str:
    """A question that suggests a class of a similar name, or ""."""
    by_key = {name_key(class_name): class_name for class_name in classes}
    near = difflib.get_close_matches(name_key(name), by_key, n=1)
    return f" (is it {by_key[near[0]]}?)" if near else ""


# ---- files of lists -------------------------------------------------------------------------------------------------


def read_lines(path: Path) -> list[tuple[str, str]]:
    """The non-empty lines of a list, each with its place: ("trainlist01.txt, line 3", line). Raises ListError."""
    lines = [(f"{path}, line {number}", line.strip()) for number, line in enumerate(_text(path).split("\n"), start=1)]
    if not (lines := [(where, line) for where, line in lines if line]):
        raise ListError(f"{path} is empty")
    return lines


def read_rows(path: Path, *columns: str) -> list[tuple[str, dict[str, str]]]:
    """The rows of a csv, each with its place. Raises ListError for a missing column or a row of another length."""
    reader, header, rows = csv.reader(io.StringIO(_text(path)), strict=True), [], []
    try:
        for fields in reader:
            where, fields = f"{path}, line {reader.line_num}", [value.strip() for value in fields]
            if not any(fields):
                continue
            if not header:
                header = fields
                if lacking := [name for name in columns if header.count(name) != 1]:
                    raise ListError(f"{where}: no column {', '.join(lacking)} among {header}, separated by commas")
                continue
            row = dict(zip(header, fields))
            if len(fields) != len(header):
                raise ListError(f"{where}: {len(fields)} fields for {len(header)} columns: {fields}")
            if any("\n" in row[name] for name in columns):
                raise ListError(f"{where}: a line break within a field, is a quotation mark not closed? {fields}")
            rows.append((where, row))
    except csv.Error as error:
        raise ListError(f"{path}, line {reader.line_num}: invalid csv: {error}") from None
    if not rows:
        raise ListError(f"{path} has no rows")
    return rows


def _text(path: Path) -> str:
    if not path.is_file():
        there = names_in(path.parent) if path.parent.is_dir() else "no such folder"
        raise FileNotFoundError(f"{path}: no such list; there are: {there}")
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    if foreign := re.search(r"[\0\udc80-\udcff]", text):  # NUL: every other byte of UTF-16
        line = text.count("\n", 0, foreign.start()) + 1
        raise ListError(f"{path}, line {line}: not UTF-8 but perhaps CP1252 or UTF-16: convert it (iconv -t UTF-8)")
    return text


def insist_once(seen: dict[Hashable, tuple[str, str]], clip: Hashable, name: str, says: str, where: str) -> None:
    """Raises ListError for a clip that is already in `seen`. says: part and class that the list gives it."""
    first_says, first_where = seen.setdefault(clip, (says, where))
    if first_where != where:
        raise ListError(
            f"{where}: one clip twice: {name} is {says} here, and {first_says} already in {first_where}: keep one"
        )


def contradiction(where: str, name: str, says: str, other: str, other_says: str) -> ListError:
    return ListError(f"{where}: {name} is {says} here, but {other} says {other_says}: correct the wrong one")


# ---- lists and files ------------------------------------------------------------------------------------------------


def match(
    root: Path,
    contents: Contents,
    parts: Mapping[str, Mapping[str, int | tuple[int, ...] | None]],
    files: Mapping[str, list[Path]],
    classes: list[str],
    *,
    absent: list[str] | None = None,
    reasons: Mapping[Path, str],
) -> dict[str, VideoList]:
    """Gives every listed name its file and records what is missing, unlisted and left out.

    parts: part -> name -> label, or labels of a multi-label set. files: name -> the files of that clip; the one whose
    suffix comes first in VIDEO_SUFFIXES is used. absent: classes without a clip; None: those of `classes` without one.
    reasons: folder -> why videos in it that belong to no name are left out.
    """
    chosen, left_out = {}, [f"{path.relative_to(root)}: {why}" for path, why in contents.broken.items()]
    for name, candidates in files.items():
        candidates = sorted(candidates, key=lambda file: (VIDEO_SUFFIXES.index(file.suffix.lower()), file))
        chosen.update({name: candidates[0]} if candidates else {})
        for other in candidates[1:]:
            used = candidates[0].relative_to(root)
            left_out.append(f"{other.relative_to(root)}: a second file of one clip; {used} is used: remove one of them")
    known = {file for candidates in files.values() for file in candidates}
    left_out += strays(root, (video for video in contents.videos if video not in known), reasons)
    folders = {file.parent for file in known} - {root}
    for file in contents.others:
        if file.parent in folders and may_be_video(file):
            left_out.append(f"{file.relative_to(root)}: its suffix is not a known video suffix")
    extra = _unused(root, contents, chosen.values())
    lists = {}
    for part, labels in parts.items():
        videos = [
            Video(chosen[name], name, labels=label) if isinstance(label, tuple) else Video(chosen[name], name, label)
            for name, label in labels.items()
            if name in chosen
        ]
        present = {video.label for video in videos}
        without = [name for label, name in enumerate(classes) if label not in present] if absent is None else absent
        missing = [name for name in labels if name not in chosen]
        lists[part] = VideoList(videos, classes, without, missing, extra, sorted(left_out))
    return lists


def strays(root: Path, files: Iterable[Path], reasons: Mapping[Path, str]) -> list[str]:
    """A line per file directly in `root`, and per other folder with its number of files, where there is a reason."""
    files = [file for file in files if file.parent in reasons]
    lines = [f"{file.name}: {reasons[root]}" for file in files if file.parent == root]
    for folder, count in Counter(file.parent for file in files if file.parent != root).items():
        lines.append(f"{folder.relative_to(root)}/: {count} video{'s' * (count > 1)}, {reasons[folder]}")
    return lines


def _unused(root: Path, contents: Contents, used: Collection[Path]) -> list[str]:
    """The unused entries relative to `root`; a folder without any used file counts as one: "name/"."""
    busy = {root, *used}
    for folder in {file.parent for file in used}:
        busy.update([folder, *folder.parents])
    paths = [*contents.folders, *contents.videos, *contents.others, *contents.broken]
    top = {next(p for p in (path, *path.parents) if p.parent in busy) for path in paths if path not in busy}
    return sorted(f"{path.relative_to(root)}{'/' * path.is_dir()}" for path in top)


def list_folder(root: str | Path, *, loose: bool = False) -> VideoList:
    """Videos of `root/<class>/*`, classes in alphabetical order; `loose`: also of `root/*`, without a label.

    Raises FileNotFoundError if there are no videos, ValueError for names that are not UTF-8.
    """
    root = existing_folder(Path(root), "videos" if loose else "a folder per class with videos in it")
    contents = walk(root)
    return class_folders(root, root, contents, class_names(root, contents), loose=loose)


def class_names(folder: Path, contents: Contents) -> list[str]:
    """The folders that have videos directly in them, sorted."""
    return sorted({video.parent.name for video in contents.videos if video.parent.parent == folder})


def class_folders(
    root: Path, folder: Path, contents: Contents, classes: list[str], *, loose: bool = False
) -> VideoList:
    """Videos of `folder/<class>/*`, the classes in any spelling; without those beside the class folders or deeper, and
    folders without a video, which are left out. root: places are named relative to it."""
    recognise, labels, files = recogniser(classes), {}, {}
    for video in sorted(contents.videos, key=lambda video: video.parent != folder):
        class_name = recognise(video.parent.name) if video.parent.parent == folder else None
        if class_name or (loose and video.parent == folder):
            name = f"{class_name}/{video.stem}" if class_name else video.stem
            labels[name] = classes.index(class_name) if class_name else None
            files.setdefault(name, []).append(video)
    reasons = {path: "one level too deep: move them up" for path in contents.folders if path.parent != folder}
    reasons[folder] = "beside the class folders, so of no class: move it into one"
    part = match(root, contents, {"": labels}, files, classes, reasons=reasons)[""]
    if not files:
        expected = "<video> or <folder>/<video>" if loose else "<class>/<video>"
        raise nothing_found(f"{folder}: no videos; expected {expected}", part.left_out)
    filled = {parent for video in contents.videos for parent in video.parents}
    empty = [path for path in contents.folders if path.parent == folder and path not in filled]
    part.left_out.extend(f"{path.relative_to(root)}/: no video in it" for path in empty)
    part.left_out.sort()
    return part


def nothing_found(message: str, left_out: Collection[str]) -> FileNotFoundError:
    """The error of a folder without a single video that can be used."""
    return FileNotFoundError("\n  ".join([f"{message}, with one of {' '.join(VIDEO_SUFFIXES)}", *sorted(left_out)[:5]]))
