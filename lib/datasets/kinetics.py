"""Kinetics-400, by lists or a folder per class, and the zero-shot splits of Kinetics-600."""

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
    folders_without,
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
        for unused in folders_without(files, contents.videos):
            if path and unused != folder:
                reasons[unused] = "not in the list"
            if not path and not class_of.get(unused):
                reasons[unused] = reason + nearest(unused.name, classes)
        parts |= match(root, contents, {part: labels}, files, classes, reasons=reasons)
        for duplicate in duplicates:
            reason = f"a second folder of the part {part}; {folder.name}/ is used"
            parts[part].left_out.append(f"{duplicate.name}/: {reason}")
    return parts


def _kinetics_list(part: str, root: Path, lists: Path | None, dataset: str = "kinetics400") -> Path | None:
    """The list of a part; a csv takes precedence over a list of lines."""
    names, files = KINETICS_PARTS[part], []
    pattern = rf"(kinetics[-_]?([46]00)?_)?({'|'.join(names)})(_list_videos\.txt|\.csv)"
    for folder in [lists] if lists else [root, root / "annotations"]:
        if folder.is_dir():
            files += [file for file in entries(folder) if re.fullmatch(pattern, file.name, re.IGNORECASE)]
    if lists and not files:
        expected = f"expected {names[0]}.csv or kinetics400_{names[0]}_list_videos.txt"
        raise ListError(f"{lists}: no list of the part {part}: {expected}; there are: {names_in(lists)}")
    files.sort(key=lambda file: file.suffix.lower() != ".csv")
    if len(files) > 1 and files[0].suffix == files[1].suffix:
        raise ListError(f"two lists of the part {part}, {files[0]} and {files[1]}; keep one, or set lists_{dataset}")
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
    seconds, matching = _seconds(where, row), []
    for file in files:
        time_range = re.fullmatch(r"_(\d+)_(\d+)", file.stem[11:])
        if not time_range or len(seconds) < 2 or tuple(map(int, time_range.groups())) == seconds:
            matching.append(file)
    if files and not matching:
        value, source = f"at seconds {seconds}", f"the name of {files[0]}"
        raise contradiction(where, row["youtube_id"], value, source, files[0].stem[12:])
    return matching


def _seconds(where: str, row: dict[str, str]) -> tuple[int, ...]:
    try:
        return tuple(int(float(row[key])) for key in ("time_start", "time_end") if row.get(key))
    except ValueError:
        raise ListError(f"{where}: time_start and time_end are not numbers of seconds: {row}") from None


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


def list_kinetics600(root: Path, lists: Path | None) -> dict[str, VideoList]:
    """Kinetics-600 for zero-shot: the parts test-1 to test-3, each with the validation clips of 160 classes.

    The splits of Chen and Huang (ICCV 2021, arXiv 2108.02833) of the 220 classes that Kinetics-400 lacks; labels number
    the classes of a split. Files are found by YouTube id and, if their names have one, time range, in the folder of the
    validation part, else in `root`. `lists` has another `kinetics600.csv` in the form of `params/splits`.
    """
    path = (lists or FOLDER / "splits") / "kinetics600.csv"
    splits, class_of_clip = _kinetics600_splits(path)
    folder, *duplicates = part_folders(root, KINETICS_PARTS["validation"]) or [root]
    contents, recognise, by_id = walk(folder), recogniser(splits), defaultdict(list)
    _check_kinetics600_csv(_kinetics_list("validation", root, None, "kinetics600"), path, class_of_clip, recognise)
    for clip in class_of_clip:
        by_id[clip[:11]].append(clip)
    files = defaultdict(list)
    left_out = [f"{other.name}/: a second folder of the part; {folder.name}/ is used" for other in duplicates]
    for video in contents.videos:
        youtube_id, seconds = video.stem[:11], re.fullmatch(r"_(\d+)_(\d+)", video.stem[11:])
        clips, folder_class = by_id.get(youtube_id, []), recognise(video.parent.name)
        in_class = [clip for clip in clips if folder_class in (None, class_of_clip[clip])]
        if seconds:
            clips = [clip for clip in clips if clip == _clip(youtube_id, *seconds.groups())]
        elif len(clips) > 1:
            clips = in_class
        if len(clips) == 1:
            class_name = class_of_clip[clips[0]]
            if folder_class not in (None, class_name):
                raise contradiction(str(path), clips[0], class_name, f"the folder of {video}", folder_class)
            files[f"{class_name}/{clips[0]}"].append(video)
        elif in_class and (folder_class or not seconds):
            listed = " and ".join(in_class)
            left_out.append(f"{video.relative_to(root)}: the list has {listed}; give it the name of its clip")
    parts = {}
    for split in (1, 2, 3):
        classes = [name for name, marks in splits.items() if marks[split - 1] == "1"]
        numbers = {name: number for number, name in enumerate(classes)}
        labels = {f"{name}/{clip}": numbers[name] for clip, name in class_of_clip.items() if name in numbers}
        parts |= match(root, contents, {f"test-{split}": labels}, files, classes, reasons={})
        parts[f"test-{split}"].left_out.extend(left_out)
    return parts


def _kinetics600_splits(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Class -> "101", whether it is in each split, and clip ("<id>_000056_000066") -> class.

    The file lists "<id>@<second>" of every clip; all last ten seconds.
    """
    splits, class_of_clip, seen = {}, {}, {}
    for where, row in read_rows(path, "class", "splits", "clips"):
        name = row["class"]
        if name in splits or not re.fullmatch("[01]{3}", row["splits"]):
            raise ListError(
                f"{where}: expected a new class and its marks, such as 101, not {name!r}, {row['splits']!r}"
            )
        splits[name] = row["splits"]
        for text in row["clips"].split():
            if not (fields := re.fullmatch(r"([\w-]{11})@(\d+)", text)):
                raise ListError(f"{where}: {text!r} is not a YouTube id and a second, such as L9GxK3fD-1w@56")
            clip = _clip(fields[1], fields[2], int(fields[2]) + 10)
            check_unique(seen, clip, clip, name, f"{where}, {name}")
            class_of_clip[clip] = name
    return splits, class_of_clip


def _clip(youtube_id: str, *seconds: str | int) -> str:
    return "_".join([youtube_id, *(f"{int(second):06d}" for second in seconds)])


def _check_kinetics600_csv(
    path: Path | None, splits: Path, class_of_clip: dict[str, str], recognise: Callable[[str], str | None]
) -> None:
    """Raises ListError if DeepMind's csv names another class for a clip of the splits."""
    if not path or path.suffix.lower() != ".csv":
        return
    for where, row in read_rows(path, "label", "youtube_id", "time_start", "time_end"):
        clip = _clip(row["youtube_id"], *_seconds(where, row))
        if (class_name := class_of_clip.get(clip)) and recognise(row["label"]) != class_name:
            raise contradiction(where, clip, row["label"], str(splits), class_name)
