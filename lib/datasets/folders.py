"""One walk through a folder for all readers: which files in it are videos, and what cannot be taken for one."""

import hashlib
import os
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

# What libav reads as a film, in any capitals. Of several files of one clip, the first of these is used.
VIDEO_SUFFIXES = (
    ".avi .mp4 .mkv .webm .mov .m4v .mpg .mpeg .wmv .flv .ogv .3gp .ts .gif .mts .m2ts .m2t .vob .m1v .m2v "
    ".mpe .mpv .tod .mod .qt .f4v .3g2 .asf .divx .ogm .rm .rmvb .mxf .dv .y4m .mjpeg .mjpg"
).split()
# What lies beside videos and is none: texts, lists, subtitles, pictures, sound, features, archives, what cameras and discs add.
OTHER_SUFFIXES = frozenset(
    (
        ".txt .md .rst .csv .tsv .json .jsonl .yaml .yml .xml .html .log .pdf .doc .docx .xls .xlsx .nfo .url .ini .db .lnk .py .sh "
        ".ipynb .md5 .sha1 .sha256 .srt .vtt .ass .sub .sup .idx .jpg .jpeg .jfif .png .webp .bmp .tif .tiff .svg .heic .heif .avif .dng "
        ".cr2 .cr3 .nef .arw .aae .wav .mp3 .m4a .aac .flac .opus .wma .amr .aiff .ac3 .thm .lrv .cpi .mpl .bdm .moi .modd .ifo .bup "
        ".npy .npz .pt .pth .pkl .pickle .mat .h5 .hdf5 .parquet .arrow .safetensors .zip .tar .gz .tgz .bz2 .xz .zst .rar .7z"
    ).split()
)
OF_SYSTEMS = {"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information", "icon\r"}

UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # lone surrogates: bytes that are not UTF-8


class Found(NamedTuple):
    """What lies under a folder, sorted; hidden files and folders (`.DS_Store`, `._clip.mp4`) and those of systems are no part
    of it."""

    folders: list[Path]  # all, at any depth
    videos: list[Path]
    others: list[Path]  # files with no suffix of a video
    broken: dict[
        Path, str
    ]  # why an entry is neither a file nor a folder: a link that leads nowhere or in a circle, a device


def walk(root: Path) -> Found:
    """Goes through a folder once, links followed, none of them in a circle.

    Raises ValueError for a name that cannot be written down (not UTF-8, control characters) and says how to rename it.
    """
    found = Found([], [], [], {})
    insist_on_name(root)
    _enter(root, {_identity(root)}, found)
    for paths in found[:3]:
        paths.sort()
    return found


def _enter(folder: Path, above: set[tuple[int, int]], found: Found) -> None:
    with os.scandir(folder) as entries:
        here = sorted(entries, key=lambda entry: entry.name)
    for entry in here:
        if entry.name.startswith(".") or entry.name.casefold() in OF_SYSTEMS:
            continue
        path = folder / entry.name
        if UNWRITABLE.search(entry.name):
            insist_on_name(path)
        linked = entry.is_symlink()  # only links need another look at the disk
        if os.path.isdir(path) if linked else entry.is_dir():
            if (own := _identity(path)) in above:
                found.broken[path] = "a link to a folder that it lies in"
            else:
                found.folders.append(path)
                _enter(path, above | {own}, found)
        elif os.path.isfile(path) if linked else entry.is_file():
            (found.videos if is_video_name(path) else found.others).append(path)
        elif path.suffix.lower() not in OTHER_SUFFIXES:
            found.broken[path] = (
                f"a link to {os.readlink(path)!a}, which is not there" if linked else "no file that can be read"
            )


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def is_video_name(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def may_be_video(path: Path) -> bool:
    """Whether a file without a known suffix could be a video all the same: it is none of the usual companions and no text."""
    if path.suffix.lower() in OTHER_SUFFIXES or re.match(r"readme|licen[sc]e|copying|makefile", path.name.casefold()):
        return False
    with path.open("rb") as file:
        head = file.read(4096)
    return not head or b"\0" in head


def insist_on_name(path: Path) -> None:
    """Raises ValueError for a name that tables, records and hashes cannot hold, with the command that renames it."""
    bad = next((part for part in (*reversed(path.parents), path) if UNWRITABLE.search(part.name)), None)
    if bad:
        name = bad.name.encode(errors="surrogateescape")
        better = bad.parent / re.sub(
            r"[\x00-\x1f\x7f]", "_", name.decode("ascii" if name.isascii() else "cp1252", "replace")
        )
        code = f"import os; os.rename({os.fsencode(bad)!r}, {str(better)!r})"
        command = shlex.quote(code) if set(code) & set('"$`!') else f'"{code}"'
        raise ValueError(
            f"{os.fsencode(path)!r}: a name that is not UTF-8, or has control characters in it. Rename it:\n"
            f"  python3 -c {command}\nMany at once: convmv -f cp1252 -t utf-8 -r --notest <folder>"
        )


def existing_folder(root: Path, expected: str) -> Path:
    """The folder, or FileNotFoundError, which says what was expected."""
    insist_on_name(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is {'a file, no' if root.is_file() else 'no'} folder; expected {expected}")
    return root


def entries(folder: Path) -> list[Path]:
    """Files and folders in it, sorted, without hidden ones and those of systems."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith(".") and entry.name.casefold() not in OF_SYSTEMS
    )


def same_content(files: Iterable[Path]) -> list[list[Path]]:
    """The groups of files that hold the same bytes; empty files are of no group. Only files of equal size are read."""
    groups = [[file for file in files if file.stat().st_size]]
    keys: tuple[Callable[[Path], Any], ...] = (lambda file: file.stat().st_size, _start, _digest)
    for key in keys:
        parts = []
        for group in groups:
            own = defaultdict(list)
            for file in group:
                own[key(file)].append(file)
            parts += [part for part in own.values() if len(part) > 1]
        groups = parts
    return groups


def _start(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.sha256(opened.read(1 << 16)).digest()


def _digest(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()
