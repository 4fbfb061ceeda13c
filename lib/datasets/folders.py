"""Walks through a data folder: which files are videos, and which entries cannot be read."""

import hashlib
import os
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

# What libav reads as a video, in any case. If a clip has several files, the suffix that comes first here is used.
VIDEO_SUFFIXES = (
    ".avi .mp4 .mkv .webm .mov .m4v .mpg .mpeg .wmv .flv .ogv .3gp .ts .gif .mts .m2ts .m2t .vob .m1v .m2v "
    ".mpe .mpv .tod .mod .qt .f4v .3g2 .asf .divx .ogm .rm .rmvb .mxf .dv .y4m .mjpeg .mjpg"
).split()
# Usual companions of videos: texts, lists, subtitles, images, audio, features, archives, files of cameras and discs.
OTHER_SUFFIXES = set(
    (
        ".txt .md .rst .csv .tsv .json .jsonl .yaml .yml .xml .html .log .pdf .doc .docx .xls .xlsx .nfo .url .ini "
        ".db .lnk .py .sh .ipynb .md5 .sha1 .sha256 .srt .vtt .ass .sub .sup .idx .jpg .jpeg .jfif .png .webp .bmp "
        ".tif .tiff .svg .heic .heif .avif .dng .cr2 .cr3 .nef .arw .aae .wav .mp3 .m4a .aac .flac .opus .wma .amr "
        ".aiff .ac3 .thm .lrv .cpi .mpl .bdm .moi .modd .ifo .bup .npy .npz .pt .pth .pkl .pickle .mat .h5 .hdf5 "
        ".parquet .arrow .safetensors .zip .tar .gz .tgz .bz2 .xz .zst .rar .7z"
    ).split()
)
SYSTEM_NAMES = {"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information", "icon\r"}
UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # lone surrogates: bytes that are not UTF-8


class Contents(NamedTuple):
    """The contents of a folder at any depth, sorted, without hidden and system entries."""

    folders: list[Path]
    videos: list[Path]
    others: list[Path]  # files without a video suffix
    unreadable: dict[Path, str]  # entry -> reason: broken links, circular links, devices


def walk(root: Path) -> Contents:
    """Lists a folder recursively and follows links. Raises ValueError for names that are not UTF-8."""
    check_name(root)
    contents = Contents([], [], [], {})
    _walk(root, {_identity(root)}, contents)
    for paths in contents[:3]:
        paths.sort()
    return contents


def _walk(folder: Path, ancestors: set[tuple[int, int]], contents: Contents) -> None:
    for entry in os.scandir(folder):
        if _is_hidden(entry.name):
            continue
        path, is_link = folder / entry.name, entry.is_symlink()  # only links need another look at the disk
        if UNWRITABLE.search(entry.name):
            check_name(path)
        if path.is_dir() if is_link else entry.is_dir():
            if (identity := _identity(path)) in ancestors:
                contents.unreadable[path] = "a link to a folder that contains it"
                continue
            contents.folders.append(path)
            _walk(path, ancestors | {identity}, contents)
        elif path.is_file() if is_link else entry.is_file():
            (contents.videos if is_video_name(path) else contents.others).append(path)
        elif path.suffix.lower() not in OTHER_SUFFIXES:
            contents.unreadable[path] = f"a broken link to {os.readlink(path)!a}" if is_link else "not a regular file"


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in SYSTEM_NAMES


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def is_video_name(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def may_be_video(path: Path) -> bool:
    """Whether a file with an unknown suffix could be a video: it has no known companion name and is not a text."""
    if path.suffix.lower() in OTHER_SUFFIXES or re.match(r"readme|licen[sc]e|copying|makefile", path.name.casefold()):
        return False
    with path.open("rb") as file:
        start = file.read(4096)
    return not start or b"\0" in start


def check_name(path: Path) -> None:
    """Raises ValueError, with a command to rename it, for a name that tables, records and hashes cannot hold."""
    invalid = next((part for part in (*reversed(path.parents), path) if UNWRITABLE.search(part.name)), None)
    if invalid:
        renamed = invalid.with_name(UNWRITABLE.sub("_", invalid.name))
        code = f"import os; os.rename({os.fsencode(invalid)!r}, {str(renamed)!r})"
        raise ValueError(
            f"{os.fsencode(path)!r}: the name is not UTF-8 or has control characters. Rename it:\n"
            f"  python3 -c {shlex.quote(code)}\nMany at once: convmv -f cp1252 -t utf-8 -r --notest <folder>"
        )


def existing_folder(root: Path, expected: str) -> Path:
    """The folder itself. Raises FileNotFoundError, which names what was expected, if it does not exist."""
    check_name(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is {'a file, not a' if root.is_file() else 'no'} folder; expected {expected}")
    return root


def entries(folder: Path) -> list[Path]:
    """The visible files and folders directly in a folder, sorted."""
    return sorted(entry for entry in folder.iterdir() if not _is_hidden(entry.name))


def names_in(folder: Path) -> list[str]:
    """The first names in a folder, for messages."""
    return [entry.name for entry in entries(folder)[:8]]


def part_folders(root: Path, names: tuple[str, ...]) -> list[Path]:
    """The folders with one of these names in any case, in the order of the names."""
    folders = [entry for entry in entries(root) if entry.name.casefold() in names and entry.is_dir()]
    return sorted(folders, key=lambda folder: names.index(folder.name.casefold()))


def same_content(files: Iterable[Path]) -> list[list[Path]]:
    """Groups of non-empty files with the same bytes. Only files of equal size are read."""
    by_size, by_digest = defaultdict(list), defaultdict(list)
    for file in files:
        by_size[file.stat().st_size].append(file)
    by_size.pop(0, None)
    for file in (file for group in by_size.values() if len(group) > 1 for file in group):
        with file.open("rb") as opened:
            by_digest[hashlib.file_digest(opened, "sha256").digest()].append(file)
    return [group for group in by_digest.values() if len(group) > 1]
