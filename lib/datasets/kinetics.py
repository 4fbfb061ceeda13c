"""Kinetics-400 and Charades: clips that lists name; Kinetics also as a folder per class, without a list."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lib.datasets.folders import entries, names_in, part_folders, walk
from lib.datasets.lists import (
    ListError,
    VideoList,
    contradiction,
    insist_once,
    match,
    name_key,
    nearest,
    read_lines,
    read_rows,
    recogniser,
)
from lib.run.params import FOLDER, read_yaml

KINETICS_PARTS = {  # folders, and beginnings of the names of lists
    "train": ("train", "train_256", "videos_train"),
    "validation": ("val", "validate", "validation", "val_256", "videos_val"),
}


# ---- Kinetics-400 ---------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """What a list, or without one a class folder, says of a clip."""

    where: str  # "train.csv, line 2"
    clip: str  # its id, else its path
    stem: str  # of its name
    class_name: str
    files: list[Path]


def list_kinetics400(root: Path, lists: Path | None) -> dict[str, VideoList]:
    """Kinetics-400 (Kay et al. 2017): the parts that have a folder, with a list in `lists` (else `root` or
    `root/annotations`), or with a folder per class, in any spelling. Labels count the 400 classes alphabetically."""
    classes, seen, parts = list(read_yaml(FOLDER / "concepts" / "kinetics400.yaml")), {}, {}
    recognise = recogniser(classes)
    for part, names in KINETICS_PARTS.items():
        folder, *others = part_folders(root, names) or [None]
        if not folder:
            continue
        contents, path = walk(folder), _kinetics_list(part, root, lists)
        class_of = {}
        for parent in {video.parent for video in contents.videos} - {folder}:
            # beside a list, class folders may have folders within
            spelt = reversed(parent.relative_to(folder).parts) if path else [parent.name]
            class_of[parent] = next(filter(None, map(recognise, spelt)), None)
        if path is None:
            rows = _rows_of_folders(contents.videos, class_of)
        elif path.suffix.lower() == ".csv":
            rows = _rows_of_csv(path, part, contents.videos, recognise)
        else:
            rows = _rows_of_lines(path, root, folder, contents.videos, classes)
        labels, files = {}, defaultdict(list)
        for row in rows:
            insist_once(seen, row.clip, row.clip, f"{part}, {row.class_name}", row.where)
            for file in row.files:
                if (other := class_of.get(file.parent) or row.class_name) != row.class_name:
                    raise contradiction(row.where, row.clip, row.class_name, f"the folder of {file}", other)
            name = f"{row.class_name}/{row.stem}"
            labels[name] = classes.index(row.class_name)
            files[name] += row.files
        idle = {video.parent for video in contents.videos} - {file.parent for own in files.values() for file in own}
        if path:
            reasons = dict.fromkeys(idle - {folder}, "none of them in the list")
        else:
            why = "in no folder of one of the 400 classes, and there is no list"
            reasons = {place: why + nearest(place.name, classes) for place in idle if not class_of.get(place)}
        parts[part] = match(root, contents, {part: labels}, files, classes, reasons=reasons)[part]
        for other in others:
            parts[part].left_out.append(f"{other.name}/: a second folder of the part {part}; {folder.name}/ is used")
    return parts


def _kinetics_list(part: str, root: Path, lists: Path | None) -> Path | None:
    """The list of a part, a csv before lines."""
    names, files = KINETICS_PARTS[part], []
    pattern = rf"(kinetics[-_]?(400)?_)?({'|'.join(names)})(_list_videos\.txt|\.csv)"
    for place in [lists] if lists else [root, root / "annotations"]:
        if place.is_dir():
            files += [file for file in entries(place) if re.fullmatch(pattern, file.name, re.IGNORECASE)]
    if lists and not files:
        expected = f"expected {names[0]}.csv or kinetics400_{names[0]}_list_videos.txt"
        raise ListError(f"{lists}: no list of the part {part}: {expected}; there are: {names_in(lists)}")
    files.sort(key=lambda file: file.suffix.lower() != ".csv")
    if len(files) > 1 and files[0].suffix == files[1].suffix:
        raise ListError(f"two lists of the part {part}, {files[0]} and {files[1]}: keep one, or set lists_kinetics400")
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
        yield Row(where, clip, clip, class_name, _of_that_time(where, row, by_id[clip]))


def _of_that_time(where: str, row: dict[str, str], files: list[Path]) -> list[Path]:
    """The files of an id whose names say no time range ("<id>_000010_000020.mp4"), or that of the row."""
    try:
        seconds = tuple(int(float(row[key])) for key in ("time_start", "time_end") if row.get(key))
    except ValueError:
        raise ListError(f"{where}: time_start and time_end are not numbers of seconds: {row}") from None
    fitting = []
    for file in files:
        match = re.fullmatch(r"_(\d+)_(\d+)", file.stem[11:])
        in_name = match and (int(match[1]), int(match[2]))
        if in_name in (None, seconds) or len(seconds) < 2:
            fitting.append(file)
    if files and not fitting:
        says, name = f"of the seconds {seconds}", f"the name of {files[0]}"
        raise contradiction(where, row["youtube_id"], says, name, files[0].stem[12:])
    return fitting


def _rows_of_lines(path: Path, root: Path, folder: Path, videos: list[Path], classes: list[str]) -> Iterator[Row]:
    """Lines "path number": a path relative to the part's folder or to `root`, without regard to suffix and the spelling
    of folders, and the number of the class, from 0."""
    by_place = defaultdict(list)
    for video in videos:
        by_place[_place(video)].append(video)
    for where, line in read_lines(path):
        match = re.fullmatch(r"(.+?)[\s,;]+(\d+)", line)
        if not match or int(match[2]) >= len(classes):
            raise ListError(f"{where}: {line!r} is not a path and a number of a class, 0 to {len(classes) - 1}")
        file = Path(match[1])
        files = by_place.get(_place(folder / file)) or by_place.get(_place(root / file), [])
        where = f"{where} (class number {match[2]}, counted from 0)"
        yield Row(where, _youtube_id(file.stem) or str(file), file.stem, classes[int(match[2])], files)


def _place(path: Path) -> tuple[str, ...]:
    return *map(name_key, path.parent.parts), path.stem


def _rows_of_folders(videos: list[Path], class_of: dict[Path, str | None]) -> Iterator[Row]:
    files = defaultdict(list)
    for video in videos:
        if class_name := class_of.get(video.parent):
            files[class_name, video.stem].append(video)
    for (class_name, stem), own in files.items():
        yield Row(str(own[0]), _youtube_id(stem) or str(own[0]), stem, class_name, own)


def _youtube_id(stem: str) -> str:
    """The id that a file is named after, with a time range or without; else ""."""
    return stem[:11] if re.fullmatch(r"[\w-]{11}(_\d+_\d+)?", stem) else ""


# ---- Charades -------------------------------------------------------------------------------------------------------


def list_charades(root: Path, lists: Path | None) -> dict[str, VideoList]:
    """Charades (Sigurdsson et al. 2016), several classes per clip or none: `Charades_v1_{train,test}.csv` (id, ...,
    actions as "c092 11.90 21.20;c147 0.00 12.60") and `Charades_v1_classes.txt` in `lists`, else in `root`."""
    place, codes, classes, seen = lists or root, {}, [], {}
    for where, line in read_lines(place / "Charades_v1_classes.txt"):
        code, *name = line.split(maxsplit=1)
        if not name or code in codes:
            raise ListError(f"{where}: {line!r} is not a new code and a class, e.g. c000 Holding some clothes")
        codes[code] = len(codes)
        classes += name
    parts = {"train": {}, "test": {}}
    for part, labels in parts.items():
        for where, row in read_rows(place / f"Charades_v1_{part}.csv", "id", "actions"):
            clip, actions = row["id"], {action.split()[0] for action in row["actions"].split(";") if action.strip()}
            if unknown := actions - codes.keys():
                raise ListError(f"{where}: {sorted(unknown)} is in no class of Charades_v1_classes.txt")
            insist_once(seen, clip, clip, f"{part}, {row['actions'] or 'no action'}", where)
            labels[clip] = tuple(sorted(codes[action] for action in actions))
    contents, files = walk(root), defaultdict(list)
    contents.others[:] = [file for file in contents.others if file.parent != root]  # the lists among them
    for video in contents.videos:
        if video.stem in seen:
            files[video.stem].append(video)
    idle = {video.parent for video in contents.videos} - {file.parent for own in files.values() for file in own}
    reasons = dict.fromkeys(idle - {root}, "none of them in the lists")
    return match(root, contents, parts, files, classes, absent=[], reasons=reasons)
