"""Kinetics-400 and Charades: clips named by lists; Kinetics also without a list, with a folder per class."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lib.datasets.folders import entries, names_in, part_folders, walk
from lib.datasets.lists import (
    ListError,
    VideoList,
    check_unique,
    contradiction,
    match,
    name_key,
    nearest,
    read_lines,
    read_rows,
    recogniser,
)
from lib.run.params import FOLDER, read_yaml

KINETICS_PARTS = {  # names of folders, and prefixes of the names of lists
    "train": ("train", "train_256", "videos_train"),
    "validation": ("val", "validate", "validation", "val_256", "videos_val"),
}


class Row(NamedTuple):
    """A clip according to a list or, without one, to a class folder."""

    where: str  # "train.csv, line 2"
    clip: str  # YouTube id, or path
    stem: str  # of its name
    class_name: str
    files: list[Path]


def list_kinetics400(root: Path, lists: Path | None) -> dict[str, VideoList]:
    """Kinetics-400 (Kay et al. 2017): every part that has a folder. Labels number the 400 classes alphabetically.

    The list of a part lies in `lists`, else in `root` or `root/annotations`; without a list, the part has a folder per
    class, in any spelling.
    """
    classes, seen, parts = list(read_yaml(FOLDER / "concepts" / "kinetics400.yaml")), {}, {}
    recognise = recogniser(classes)
    for part, names in KINETICS_PARTS.items():
        folder, *duplicates = part_folders(root, names) or [None]
        if not folder:
            continue
        contents, path = walk(folder), _kinetics_list(part, root, lists)
        class_of = {}
        for parent in {video.parent for video in contents.videos} - {folder}:
            # with a list, videos may lie deeper inside a class folder
            ancestors = reversed(parent.relative_to(folder).parts) if path else [parent.name]
            class_of[parent] = next(filter(None, map(recognise, ancestors)), None)
        if path is None:
            rows = _rows_of_folders(contents.videos, class_of)
        elif path.suffix.lower() == ".csv":
            rows = _rows_of_csv(path, part, contents.videos, recognise)
        else:
            rows = _rows_of_lines(path, root, folder, contents.videos, classes)
        labels, files = {}, defaultdict(list)
        for row in rows:
            check_unique(seen, row.clip, row.clip, f"{part}, {row.class_name}", row.where)
            for file in row.files:
                if (folder_class := class_of.get(file.parent) or row.class_name) != row.class_name:
                    raise contradiction(row.where, row.clip, row.class_name, f"the folder of {file}", folder_class)
            name = f"{row.class_name}/{row.stem}"
            labels[name] = classes.index(row.class_name)
            files[name] += row.files
        reasons, reason = {}, "in no folder of one of the 400 classes, and there is no list"
        for unused in _folders_without(files, contents.videos):
            if path and unused != folder:
                reasons[unused] = "not in the list"
            if not path and not class_of.get(unused):
                reasons[unused] = reason + nearest(unused.name, classes)
        parts |= match(root, contents, {part: labels}, files, classes, reasons=reasons)
        for duplicate in duplicates:
            reason = f"a second folder of the part {part}; {folder.name}/ is used"
            parts[part].left_out.append(f"{duplicate.name}/: {reason}")
    return parts


def _folders_without(files: dict[str, list[Path]], videos: list[Path]) -> set[Path]:
    """The folders of videos that hold none of the files of listed clips."""
    return {video.parent for video in videos} - {file.parent for candidates in files.values() for file in candidates}


def _kinetics_list(part: str, root: Path, lists: Path | None) -> Path | None:
    """The list of a part; a csv takes precedence over a list of lines."""
    names, files = KINETICS_PARTS[part], []
    pattern = rf"(kinetics[-_]?(400)?_)?({'|'.join(names)})(_list_videos\.txt|\.csv)"
    for folder in [lists] if lists else [root, root / "annotations"]:
        if folder.is_dir():
            files += [file for file in entries(folder) if re.fullmatch(pattern, file.name, re.IGNORECASE)]
    if lists and not files:
        expected = f"expected {names[0]}.csv or kinetics400_{names[0]}_list_videos.txt"
        raise ListError(f"{lists}: no list of the part {part}: {expected}; there are: {names_in(lists)}")
    files.sort(key=lambda file: file.suffix.lower() != ".csv")
    if len(files) > 1 and files[0].suffix == files[1].suffix:
        raise ListError(f"two lists of the part {part}, {files[0]} and {files[1]}; keep one, or set lists_kinetics400")
    return files[0] if files else None


def _rows_of_csv(path: Path, part: str, videos: list[Path], recognise: Callable[[str], str | None]) -> Iterator[Row]:
    """DeepMind's csv: label, youtube_id, time_start, time_end, split. File names begin with the id (11 letters)."""
    by_id = defaultdict(list)
    for video in videos:
        by_id[video.stem[:11]].append(video)
    for where, row in read_rows(path, "label", "youtube_id"):
        clip = row["youtube_id"]
        if (class_name := recognise(row["label"])) is None:
            raise ListError(f"{where}: {row['label']!r} is none of Kinetics-400's 400 classes")
        if any(row.get("split") in names for other, names in KINETICS_PARTS.items() if other != part):
            raise contradiction(where, clip, f"in the list of the part {part}", "its column split", row["split"])
        yield Row(where, clip, clip, class_name, _in_time_range(where, row, by_id[clip]))


def _in_time_range(where: str, row: dict[str, str], files: list[Path]) -> list[Path]:
    """The files of a clip whose names have the row's time range ("<id>_000010_000020.mp4") or none."""
    try:
        seconds = tuple(int(float(row[key])) for key in ("time_start", "time_end") if row.get(key))
    except ValueError:
        raise ListError(f"{where}: time_start and time_end are not numbers of seconds: {row}") from None
    matching = []
    for file in files:
        time_range = re.fullmatch(r"_(\d+)_(\d+)", file.stem[11:])
        if not time_range or len(seconds) < 2 or tuple(map(int, time_range.groups())) == seconds:
            matching.append(file)
    if files and not matching:
        value, source = f"at seconds {seconds}", f"the name of {files[0]}"
        raise contradiction(where, row["youtube_id"], value, source, files[0].stem[12:])
    return matching


def _rows_of_lines(path: Path, root: Path, folder: Path, videos: list[Path], classes: list[str]) -> Iterator[Row]:
    """Lines "path number": a path relative to the part's folder or to `root`, and a class number from 0.

    The suffix and the spelling of folders may differ from the file's.
    """
    by_location = defaultdict(list)
    for video in videos:
        by_location[_location(video)].append(video)
    for where, line in read_lines(path):
        fields = re.fullmatch(r"(.+?)[\s,;]+(\d+)", line)
        if not fields or int(fields[2]) >= len(classes):
            raise ListError(f"{where}: {line!r} is not a path and a class number from 0 to {len(classes) - 1}")
        file = Path(fields[1])
        files = by_location.get(_location(folder / file)) or by_location.get(_location(root / file), [])
        where = f"{where} (class number {fields[2]}, counted from 0)"
        yield Row(where, _youtube_id(file.stem) or str(file), file.stem, classes[int(fields[2])], files)


def _location(path: Path) -> tuple[str, ...]:
    """A path without its suffix, and without the spelling of its folders."""
    return *map(name_key, path.parent.parts), path.stem


def _rows_of_folders(videos: list[Path], class_of: dict[Path, str | None]) -> Iterator[Row]:
    clips = defaultdict(list)
    for video in videos:
        if class_name := class_of.get(video.parent):
            clips[class_name, video.stem].append(video)
    for (class_name, stem), files in clips.items():
        yield Row(str(files[0]), _youtube_id(stem) or str(files[0]), stem, class_name, files)


def _youtube_id(stem: str) -> str:
    """The id in a file name, with or without a time range; else ""."""
    return stem[:11] if re.fullmatch(r"[\w-]{11}(_\d+_\d+)?", stem) else ""


def list_charades(root: Path, lists: Path | None) -> dict[str, VideoList]:
    """Charades (Sigurdsson et al. 2016): any number of classes per clip, as actions "c092 11.90 21.20;c147 0.00 12.60".

    `Charades_v1_train.csv`, `Charades_v1_test.csv` and `Charades_v1_classes.txt` lie in `lists`, else in `root`.
    """
    folder, codes, classes, seen = lists or root, {}, [], {}
    for where, line in read_lines(folder / "Charades_v1_classes.txt"):
        code, *name = line.split(maxsplit=1)
        if not name or code in codes:
            raise ListError(f"{where}: {line!r} is not a new code and a class, e.g. c000 Holding some clothes")
        codes[code] = len(codes)
        classes += name
    parts = {"train": {}, "test": {}}
    for part, labels in parts.items():
        for where, row in read_rows(folder / f"Charades_v1_{part}.csv", "id", "actions"):
            clip, actions = row["id"], {action.split()[0] for action in row["actions"].split(";") if action.strip()}
            if unknown := actions - codes.keys():
                raise ListError(f"{where}: {sorted(unknown)} is not in Charades_v1_classes.txt")
            check_unique(seen, clip, clip, f"{part}, {row['actions'] or 'no action'}", where)
            labels[clip] = tuple(sorted(codes[action] for action in actions))
    contents, files = walk(root), defaultdict(list)
    contents.others[:] = [file for file in contents.others if file.parent != root]  # the lists among them
    for video in contents.videos:
        if video.stem in seen:
            files[video.stem].append(video)
    reasons = dict.fromkeys(_folders_without(files, contents.videos) - {root}, "not in the lists")
    return match(root, contents, parts, files, classes, absent=[], reasons=reasons)
