"""Kinetics-400 and Charades: clips of films, named by their lists; Kinetics also as a folder per class, without a list."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lib.datasets.folders import Found, entries, existing_folder, walk
from lib.datasets.lists import (
    ListError,
    Once,
    Video,
    VideoList,
    contradiction,
    in_folders,
    name_key,
    nearest,
    nothing_found,
    one_file_each,
    read_lines,
    read_rows,
    recogniser,
    unknown_suffixes,
    unused,
)
from lib.run.params import FOLDER, read_yaml

KINETICS = {
    "train": ("train", "train_256", "videos_train"),  # folders, and beginnings of the names of lists
    "validation": ("val", "validate", "validation", "val_256", "videos_val"),
}


class _Row(NamedTuple):
    """What a list, or without one a class folder, says of a clip."""

    where: str  # "train.csv, line 2"
    clip: str  # its id, else its path
    stem: str  # of its name
    label: int
    says: str  # the class, as it is given
    files: list[Path]  # none: missing


def list_kinetics400(root: Path, *, lists: Path | None = None) -> dict[str, VideoList]:
    """Kinetics-400 (Kay et al. 2017): the parts that have a folder under `root` (train, val and their common variants).

    A part's list is looked for in `lists` (else in `root` and `root/annotations`), the first of
    - a csv of DeepMind's (`train.csv`, `val.csv`, `kinetics_train.csv`, ...: label, youtube_id, time_start, ...). Files
      may lie in class folders or flat; the first eleven letters of a file's name are the video's id;
    - lines "path number" (`kinetics400_train_list_videos.txt`), number being the class in official order, from 0. A path
      is relative to the part's folder or to `root`; its suffix, and how folders are spelt, make no difference.
    Without a list, a folder per class is what there is. Classes are the official 400 in alphabetical order, however they are
    spelt (`lists.recogniser`): "playing_guitar". Raises ListError where folder, file name and list contradict each other, or
    a clip is in a list twice or in both parts.
    """
    existing_folder(root, "kinetics400: the folders train and val, each with a folder per class")
    classes, once, found = list(read_yaml(FOLDER / "concepts" / "kinetics400.yaml")), Once(), {}
    recognise = recogniser(classes)
    for part, names in KINETICS.items():
        folders = [entry for entry in entries(root) if entry.name.casefold() in names and entry.is_dir()]
        if not folders:
            continue
        folder, *others = sorted(folders, key=lambda entry: names.index(entry.name.casefold()))
        there, path = walk(folder), _list_of(part, names, root, lists)
        class_of = {
            own: next(filter(None, map(recognise, reversed(own.relative_to(folder).parts))), None)
            if path
            else recognise(own.name)
            for own in {video.parent for video in there.videos} - {folder}
        }
        if path:
            read = _rows_of_csv if path.suffix.lower() == ".csv" else _rows_of_lines
            rows = list(read(path, part, folder, there.videos, classes))
        else:
            rows = _rows_of_folders(there.videos, class_of, classes)
        found[part] = _part(root, folder, part, rows, classes, there, class_of, once, listed=bool(path))
        for other in others:
            found[part].left_out.append(f"{other.name}/: a second folder of the part {part}; {folder.name}/ is used")
    if not any(len(videos) for videos in found.values()):
        raise nothing_found(
            f"{root}: no videos of Kinetics-400 in any of {sum(KINETICS.values(), ())}, each with a folder per class "
            f"or a list; there are: {[entry.name for entry in entries(root)][:8]}",
            [line for videos in found.values() for line in videos.left_out],
        )
    return found


def _list_of(part: str, names: tuple[str, ...], root: Path, lists: Path | None) -> Path | None:
    """The list of a part: a csv before lines."""
    places = [existing_folder(lists, "Kinetics' lists")] if lists else [root, root / "annotations"]
    files = [
        file
        for place in places
        if place.is_dir()
        for file in entries(place)
        if re.match(rf"(kinetics[-_]?(400)?_)?({'|'.join(names)})(_list_videos\.txt|\.csv)$", file.name, re.I)
    ]
    if lists and not files:
        raise ListError(
            f"{lists}: no list of the part {part}: expected {names[0]}.csv or "
            f"kinetics400_{names[0]}_list_videos.txt; there are: {[path.name for path in entries(lists)][:5]}"
        )
    files.sort(key=lambda file: file.suffix.lower() != ".csv")
    if len(files) > 1 and files[0].suffix == files[1].suffix:
        raise ListError(
            f"two lists of the part {part}, {files[0]} and {files[1]}: keep one, or name the folder of the right one "
            "by lists_kinetics400"
        )
    return files[0] if files else None


def _part(
    root: Path,
    folder: Path,
    part: str,
    rows: list[_Row],
    classes: list[str],
    there: Found,
    class_of: dict[Path, str | None],
    once: Once,
    *,
    listed: bool,
) -> VideoList:
    """A part's clips as its rows say, unless the folders that their files lie in say otherwise."""
    names = {}
    for row in rows:
        once.note(row.clip, row.clip, f"{part}, {row.says}", row.where)
        names.setdefault(f"{classes[row.label]}/{row.stem}", (row.label, []))[1].extend(row.files)
        for file in row.files:
            if (other := class_of.get(file.parent) or classes[row.label]) != classes[row.label]:
                raise contradiction(row.where, row.clip, row.says, f"the folder of {file}", other)
    files, left_out = one_file_each(root, ((name, file) for name, (_, own) in names.items() for file in own))
    videos = [Video(file, name, names[name][0]) for name, file in files.items()]
    used = {*files.values()}
    busy, idle = {file.parent for file in used}, [video for video in there.videos if video not in used]
    if listed:
        left_out += in_folders(
            root, [video for video in idle if video.parent not in busy | {folder}], "none of them in the list"
        )
    else:
        strange = [video for video in idle if not class_of.get(video.parent)]
        left_out += [
            line + nearest(Path(line.split(":")[0]).name, classes)
            for line in in_folders(root, strange, "in no folder of one of the 400 classes, and there is no list")
        ]
    left_out += [f"{path.relative_to(root)}: {why}" for path, why in there.broken.items()]
    left_out += unknown_suffixes(root, (file for file in there.others if file.parent != folder))
    here = {video.label for video in videos}
    return VideoList(
        videos,
        classes,
        [name for label, name in enumerate(classes) if label not in here],
        [name for name, (_, own) in names.items() if not own],
        unused(root, idle, used),
        sorted(left_out),
    )


def _rows_of_csv(path: Path, part: str, folder: Path, videos: list[Path], classes: list[str]) -> Iterator[_Row]:
    by_id, recognise = defaultdict(list), recogniser(classes)
    for video in videos:
        by_id[video.stem[:11]].append(video)
    for where, row in read_rows(path, "label", "youtube_id"):
        if (name := recognise(row["label"])) is None:
            raise ListError(f"{where}: {row['label']!r} is none of Kinetics-400's 400 classes")
        if any(row.get("split") in names for key, names in KINETICS.items() if key != part):
            raise contradiction(
                where, row["youtube_id"], f"in the list of the part {part}", "its column split", row["split"]
            )
        files = _of_that_time(where, row, by_id[row["youtube_id"]])
        yield _Row(where, row["youtube_id"], row["youtube_id"], classes.index(name), row["label"], files)


def _of_that_time(where: str, row: dict[str, str], files: list[Path]) -> list[Path]:
    """The files of an id whose names say no time range ("<id>_000010_000020.mp4"), or that of the row."""
    try:
        given = tuple(int(float(row[key])) for key in ("time_start", "time_end") if row.get(key))
    except ValueError:
        raise ListError(f"{where}: time_start and time_end are no numbers of seconds: {row}") from None
    ranges = {
        file: match and (int(match[1]), int(match[2]))
        for file in files
        for match in [re.fullmatch(r"_(\d+)_(\d+)", file.stem[11:])]
    }
    fit = [file for file, own in ranges.items() if own in (None, given) or len(given) < 2]
    if files and not fit:
        raise contradiction(
            where, row["youtube_id"], f"of the seconds {given}", f"the name of {files[0]}", f"{ranges[files[0]]}"
        )
    return fit


def _rows_of_lines(path: Path, part: str, folder: Path, videos: list[Path], classes: list[str]) -> Iterator[_Row]:
    by_place = defaultdict(list)
    for video in videos:
        by_place[_place(video.relative_to(folder))].append(video)
    for where, line in read_lines(path):
        match = re.fullmatch(r"(.+?)[\s,;]+(\d+)", line)
        if not match or int(match[2]) >= len(classes):
            raise ListError(f"{where}: {line!r} is no path and a number of a class, 0..{len(classes) - 1}")
        file, label = Path(match[1]), int(match[2])
        bases = [base / file for base in (folder, folder.parent) if (base / file).is_relative_to(folder)]
        files = next((own for place in bases if (own := by_place.get(_place(place.relative_to(folder))))), [])
        clip = _id(file.stem) or str(file)
        yield _Row(
            where,
            clip,
            file.stem,
            label,
            f"{classes[label]} (number {label}, counted from 0 in alphabetical order)",
            files,
        )


def _place(path: Path) -> tuple[str, ...]:
    """A path without suffix, its folders in any spelling."""
    return *(name_key(name) for name in path.parent.parts), path.stem


def _rows_of_folders(videos: list[Path], class_of: dict[Path, str | None], classes: list[str]) -> list[_Row]:
    files = defaultdict(list)
    for video in videos:
        if name := class_of.get(video.parent):
            files[name, video.stem].append(video)
    return [
        _Row(str(own[0]), _id(stem) or str(own[0]), stem, classes.index(name), name, own)
        for (name, stem), own in files.items()
    ]


def _id(stem: str) -> str:
    """The id of a video of YouTube that a file is named after, with a time range or without; else ""."""
    return stem[:11] if re.fullmatch(r"[\w-]{11}(_\d+_\d+)?", stem) else ""


def list_charades(root: Path, *, lists: Path | None = None) -> dict[str, VideoList]:
    """Charades (Sigurdsson et al. 2016), several classes a clip: `Charades_v1_{train,test}.csv` (id, ..., actions as
    "c092 11.90 21.20;c147 0.00 12.60") and `Charades_v1_classes.txt` in `lists` (else in `root`), videos `<id>.mp4`
    anywhere under `root`. A clip without actions stays, with no label. Raises ListError for a clip that is listed twice."""
    existing_folder(root, "charades: videos, with Charades_v1_train.csv, Charades_v1_test.csv, Charades_v1_classes.txt")
    place = existing_folder(lists, "Charades' annotations") if lists else root
    names: dict[str, str] = {}
    for where, line in read_lines(place / "Charades_v1_classes.txt"):
        code, *name = line.split(maxsplit=1)
        if not name or code in names:
            raise ListError(f"{where}: {line!r} is no code of its own and a class, e.g. c000 Holding some clothes")
        names[code] = name[0]
    order, once = {code: label for label, code in enumerate(names)}, Once()
    listed: dict[str, list[tuple[str, tuple[int, ...]]]] = {"train": [], "test": []}  # id and labels
    for part, own in listed.items():
        for where, row in read_rows(place / f"Charades_v1_{part}.csv", "id", "actions"):
            codes = {action.split()[0] for action in row["actions"].split(";") if action.strip()}
            if unknown := codes - set(order):
                raise ListError(f"{where}: {sorted(unknown)} is in no class of Charades_v1_classes.txt")
            once.note(row["id"], row["id"], f"{part}, {row['actions'] or 'no action'}", where)
            own.append((row["id"], tuple(sorted(order[code] for code in codes))))
    found, known = walk(root), {name for own in listed.values() for name, _ in own}
    files, left_out = one_file_each(root, ((file.stem, file) for file in found.videos if file.stem in known))
    used = {*files.values()}
    busy, idle = {file.parent for file in used}, [video for video in found.videos if video not in used]
    left_out += in_folders(
        root, [video for video in idle if video.parent not in busy | {root}], "none of them in the lists"
    )
    left_out += [f"{path.relative_to(root)}: {why}" for path, why in found.broken.items()]
    left_out += unknown_suffixes(root, (file for file in found.others if file.parent in busy - {root}))
    if not files:
        raise nothing_found(f"{root}: none of the {len(known)} videos of Charades, e.g. {min(known)}.mp4", left_out)
    extra = unused(root, idle, used)
    return {
        part: VideoList(
            [Video(files[name], name, labels=labels) for name, labels in own if name in files],
            list(names.values()),
            missing=[name for name, _ in own if name not in files],
            extra=extra,
            left_out=sorted(left_out),
        )
        for part, own in listed.items()
    }
