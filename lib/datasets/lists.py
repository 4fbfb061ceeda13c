"""Video lists: reads list files, recognises class names, and matches listed clips with the files in a folder."""

import csv
import difflib
import hashlib
import io
import json
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
    """A list that is unreadable, of another version, or contradictory; the message names file and line."""


@dataclass(frozen=True)
class Video:
    path: Path
    name: str  # unique in its list and independent of machine and container: "class/stem", or "stem" in a flat folder
    label: int | None = None  # index into VideoList.classes
    labels: tuple[int, ...] = ()  # of a multi-label data set
    index: VideoIndex | None = None  # from the manifest
    broken: str = ""  # reason from the manifest; a broken file is not opened again


@dataclass(frozen=True)
class VideoList:
    videos: list[Video]
    classes: list[str] = field(default_factory=list)  # empty if unlabelled
    absent_classes: list[str] = field(default_factory=list)  # expected classes without a clip
    missing: list[str] = field(default_factory=list)  # listed names without a file
    extra: list[str] = field(default_factory=list)  # files and folders that no list names
    left_out: list[str] = field(default_factory=list)  # "path: reason"; these stop a run unless `allow_missing`

    def __len__(self) -> int:
        return len(self.videos)


def data_hash(videos: Iterable[Video]) -> str:
    """Twelve hex digits over the names and sizes of videos, independent of their order."""
    lines = sorted({f"{video.name} {video.path.stat().st_size}" for video in videos})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


@cache
def name_key(text: str, *, gap: str = "") -> str:
    """A name without case and accents; spaces and punctuation become `gap`. Releases of a data set differ in these."""
    if not text.isascii():
        text = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return re.sub(r"[\W_]+", gap, text.casefold()).strip(gap or None)


def recogniser(classes: Collection[str]) -> Callable[[str], str | None]:
    """Returns a function from any spelling to the class: "massaging_persons_head" -> "massaging person's head".

    It returns None if no class or more than one matches.
    """
    counts = Counter(map(name_key, classes))
    by_key = {key: name for name in classes if counts[key := name_key(name)] == 1 and key}
    exact = set(classes)
    return lambda text: text if text in exact else by_key.get(name_key(text))


def nearest(name: str, classes: Collection[str]) -> str:
    """ " (did you mean ...?)" with the most similar class, or ""."""
    by_key = {name_key(class_name): class_name for class_name in classes}
    matches = difflib.get_close_matches(name_key(name), by_key, n=1)
    return f" (did you mean {by_key[matches[0]]}?)" if matches else ""


def read_lines(path: Path) -> list[tuple[str, str]]:
    """The non-empty lines of a list, each with its location: ("trainlist01.txt, line 3", line). Raises ListError."""
    lines = [(f"{path}, line {number}", line.strip()) for number, line in enumerate(_text(path).split("\n"), start=1)]
    if not any(line for _, line in lines):
        raise ListError(f"{path} is empty")
    return [(where, line) for where, line in lines if line]


def read_rows(path: Path, *columns: str) -> list[tuple[str, dict[str, str]]]:
    """The rows of a csv, each with its location. Raises ListError for missing columns and malformed rows."""
    reader, header, rows = csv.reader(io.StringIO(_text(path)), strict=True), [], []
    try:
        for fields in reader:
            where, fields = f"{path}, line {reader.line_num}", [value.strip() for value in fields]
            if not any(fields):
                continue
            if not header:
                header = fields
                if absent := [name for name in columns if header.count(name) != 1]:
                    raise ListError(f"{where}: no column {', '.join(absent)} among {header}, separated by commas")
                continue
            row = dict(zip(header, fields))
            if len(fields) != len(header):
                raise ListError(f"{where}: {len(fields)} fields for {len(header)} columns: {fields}")
            if any("\n" in row[name] for name in columns):
                raise ListError(f"{where}: a line break within a field; is a quotation mark not closed? {fields}")
            rows.append((where, row))
    except csv.Error as error:
        raise ListError(f"{path}, line {reader.line_num}: invalid csv: {error}") from None
    if not rows:
        raise ListError(f"{path} has no rows")
    return rows


def read_json_list(path: Path, *keys: str) -> list[tuple[str, dict[str, str]]]:
    """The objects of a json list as texts under these keys, each with its location. Raises ListError."""
    try:
        items = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ListError):
            raise
        raise ListError(f"{path}: invalid json: {error}") from None
    if not isinstance(items, list) or not items:
        raise ListError(f"{path}: expected a list of objects with {' and '.join(keys)}")
    rows = []
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict) or not all(isinstance(item.get(key), str | int) for key in keys):
            raise ListError(f"{path}, entry {number}: expected an object with {' and '.join(keys)}, not {item!r:.99}")
        rows.append((f"{path}, entry {number}", {key: str(item[key]).strip() for key in keys}))
    return rows


def _text(path: Path) -> str:
    if not path.is_file():
        available = names_in(path.parent) if path.parent.is_dir() else "no such folder"
        raise FileNotFoundError(f"{path}: no such list; there are: {available}")
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    if invalid := re.search(r"[\0\udc80-\udcff]", text):  # NUL: every other byte of UTF-16
        line = text.count("\n", 0, invalid.start()) + 1
        raise ListError(f"{path}, line {line}: not UTF-8 but perhaps CP1252 or UTF-16; convert it (iconv -t UTF-8)")
    return text


def check_unique(seen: dict[Hashable, tuple[str, str]], clip: Hashable, name: str, entry: str, where: str) -> None:
    """Raises ListError for a clip that another line in `seen` lists. entry: its part and class in the list."""
    first_entry, first_where = seen.setdefault(clip, (entry, where))
    if first_where != where:
        raise ListError(f"{where}: duplicate clip: {name} is {entry} here and {first_entry} in {first_where}; keep one")


def contradiction(where: str, name: str, value: str, source: str, other_value: str) -> ListError:
    return ListError(f"{where}: {name} is {value} here, but {source} says {other_value}; correct the wrong one")


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
    """Assigns files to the listed names, and records what is missing, unlisted and left out.

    parts: part -> name -> label, or labels of a multi-label set. files: name -> the files of that clip; the one whose
    suffix comes first in VIDEO_SUFFIXES is used. absent: expected classes without a clip; None: computed per part.
    reasons: folder -> why its videos without a name are left out.
    """
    chosen, left_out = {}, [f"{path.relative_to(root)}: {reason}" for path, reason in contents.unreadable.items()]
    for name, candidates in files.items():
        ranked = sorted(candidates, key=lambda file: (VIDEO_SUFFIXES.index(file.suffix.lower()), file))
        if ranked:
            chosen[name] = ranked[0]
        for duplicate in ranked[1:]:
            used = ranked[0].relative_to(root)
            left_out.append(f"{duplicate.relative_to(root)}: another file of the same clip; {used} is used, remove one")
    named = {file for candidates in files.values() for file in candidates}
    left_out += strays(root, (video for video in contents.videos if video not in named), reasons)
    folders = {file.parent for file in named} - {root}
    for file in contents.others:
        if file.parent in folders and may_be_video(file):
            left_out.append(f"{file.relative_to(root)}: its suffix is not a known video suffix")
    extra = _unused(root, contents, chosen.values())
    lists = {}
    for part, labels in parts.items():
        videos = []
        for name, label in labels.items():
            if name in chosen:
                annotation = {"labels": label} if isinstance(label, tuple) else {"label": label}
                videos.append(Video(chosen[name], name, **annotation))
        present = {video.label for video in videos}
        empty = [name for label, name in enumerate(classes) if label not in present] if absent is None else absent
        missing = [name for name in labels if name not in chosen]
        lists[part] = VideoList(videos, classes, empty, missing, extra, sorted(left_out))
    return lists


def folders_without(files: Mapping[str, list[Path]], videos: Iterable[Path]) -> set[Path]:
    """The folders of videos that hold none of the files of listed clips."""
    return {video.parent for video in videos} - {file.parent for candidates in files.values() for file in candidates}


def strays(root: Path, files: Iterable[Path], reasons: Mapping[Path, str]) -> list[str]:
    """One line per file directly in `root` and per other folder, if there is a reason for that folder."""
    files = [file for file in files if file.parent in reasons]
    lines = [f"{file.name}: {reasons[root]}" for file in files if file.parent == root]
    for folder, count in Counter(file.parent for file in files if file.parent != root).items():
        lines.append(f"{folder.relative_to(root)}/: {count} video{'s' * (count > 1)}, {reasons[folder]}")
    return lines


def _unused(root: Path, contents: Contents, used: Collection[Path]) -> list[str]:
    """The unused entries relative to `root`; a folder without any used file is one entry: "name/"."""
    needed = {root, *used}
    for folder in {file.parent for file in used}:
        needed.update([folder, *folder.parents])
    paths = [*contents.folders, *contents.videos, *contents.others, *contents.unreadable]
    topmost = {next(p for p in (path, *path.parents) if p.parent in needed) for path in paths if path not in needed}
    return sorted(f"{path.relative_to(root)}{'/' * path.is_dir()}" for path in topmost)


def list_folder(root: str | Path, *, loose: bool = False) -> VideoList:
    """Videos in `root/<class>/*`, classes in alphabetical order; `loose`: also in `root/*`, without a label.

    Raises FileNotFoundError if there are no videos, ValueError for names that are not UTF-8.
    """
    root = existing_folder(Path(root), "videos" if loose else "a folder per class with videos in it")
    contents = walk(root)
    return class_folders(root, root, contents, class_names(root, contents), loose=loose)


def class_names(folder: Path, contents: Contents) -> list[str]:
    """The folders with videos directly in them, sorted."""
    return sorted({video.parent.name for video in contents.videos if video.parent.parent == folder})


def class_folders(
    root: Path, folder: Path, contents: Contents, classes: list[str], *, loose: bool = False
) -> VideoList:
    """Videos in `folder/<class>/*`, with the class in any spelling; messages name paths relative to `root`.

    Videos outside the class folders or nested deeper are left out, as are folders without videos.
    """
    recognise, labels, files = recogniser(classes), {}, {}
    for video in sorted(contents.videos, key=lambda video: video.parent != folder):
        class_name = recognise(video.parent.name) if video.parent.parent == folder else None
        if class_name or (loose and video.parent == folder):
            name = f"{class_name}/{video.stem}" if class_name else video.stem
            labels[name] = classes.index(class_name) if class_name else None
            files.setdefault(name, []).append(video)
    reasons = {path: "one level too deep; move them up" for path in contents.folders if path.parent != folder}
    reasons[folder] = "not in a class folder; move it into one"
    part = match(root, contents, {"": labels}, files, classes, reasons=reasons)[""]
    if not files:
        expected = "<video> or <folder>/<video>" if loose else "<class>/<video>"
        raise no_videos(f"{folder}: no videos; expected {expected}", part.left_out)
    nonempty = {parent for video in contents.videos for parent in video.parents}
    empty = [path for path in contents.folders if path.parent == folder and path not in nonempty]
    part.left_out.extend(f"{path.relative_to(root)}/: contains no video" for path in empty)
    part.left_out.sort()
    return part


def no_videos(message: str, left_out: Collection[str]) -> FileNotFoundError:
    """The error for a folder without any usable video."""
    return FileNotFoundError("\n  ".join([f"{message}, with one of {' '.join(VIDEO_SUFFIXES)}", *sorted(left_out)[:5]]))
