"""The data sets as they lie on disk: UCF-101, HMDB-51, Kinetics-400 and -600, SSv2, Charades, and folders of your own
videos.

Every reader walks the folder once and returns all parts of the data set as `VideoList`s, which also hold the listed
clips without a file and the files without a listed clip. Contradictory sources are an error.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from lib.datasets.crowdsourced import list_charades, list_ssv2
from lib.datasets.folders import entries, existing_folder, is_video_name, names_in, part_folders, same_content, walk
from lib.datasets.kinetics import list_kinetics400, list_kinetics600
from lib.datasets.lists import (
    ListError,
    VideoList,
    check_unique,
    class_folders,
    class_names,
    contradiction,
    match,
    name_key,
    nearest,
    no_videos,
    read_lines,
    read_rows,
    recogniser,
    strays,
)
from lib.run.params import FOLDER
from lib.run.values import RENDERED

SPLITS = [f"{part}-{split}" for split in (1, 2, 3) for part in ("train", "test")]
# Sizes of the official lists; those of Kinetics are from 2017, and copies have shrunk since.
OFFICIAL = {
    "ucf101": dict(zip(SPLITS, (9537, 3783, 9586, 3734, 9624, 3696))) | {"all": 13320},
    "hmdb51": dict(zip(SPLITS, 3 * (3570, 1530))) | {"all": 6766},
    "kinetics400": {"train": 246534, "validation": 19906},
    "kinetics600": {"test-1": 7276, "test-2": 7226, "test-3": 7261},
    "ssv2": {"train": 168913, "validation": 24777},
    "charades": {"train": 7985, "test": 1863},
}
OWN_PARTS = {"train": ("train", "training"), "validation": ("validation", "val", "valid"), "test": ("test", "testing")}
MARKS = {"0": "unused", "1": "train", "2": "test"}
LAYOUTS = {
    "embedded": "the folders train and test, each with a folder per class",
    "rendered_k": "the folders train, validation and test, each with a folder per class",
    "rendered_u": "a folder per class, and lists",
    "rendered_h": "a folder per class, and lists",
    "folder": "the folders train and test, each with a folder per class",
    "ucf101": "a folder per class, e.g. ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
    "hmdb51": "a folder per class, e.g. brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
    "kinetics400": "the folders train and val, each with a folder per class, or with a list",
    "kinetics600": "the folder val with its clips at any depth, e.g. val/waving hand/<YouTube id>_000056_000066.mp4",
    "ssv2": "videos <number>.webm, with something-something-v2-validation.json",
    "charades": "videos <id>.mp4, with Charades_v1_train.csv, Charades_v1_test.csv and Charades_v1_classes.txt",
}


def list_videos(dataset: str, root: str | Path, *, lists: str | Path | None = None) -> dict[str, VideoList]:
    """The parts of a data set: train, validation and test where they exist; `SPLITS` and all for UCF-101 and HMDB-51,
    the test parts of `SPLITS` for Kinetics-600.

    lists: the folder of the official lists. Raises FileNotFoundError if `root` has no such videos, ListError for lists
    that are unreadable or contradict each other or the files.
    """
    readers = {
        "embedded": partial(_list_own, compare=False),
        "folder": _list_own,
        "rendered_k": partial(_list_own, compare=False),
        "rendered_u": partial(_list_splits, "rendered_u"),
        "rendered_h": partial(_list_splits, "rendered_h"),
        "ucf101": partial(_list_splits, "ucf101"),
        "hmdb51": partial(_list_splits, "hmdb51"),
        "kinetics400": list_kinetics400,
        "kinetics600": list_kinetics600,
        "ssv2": list_ssv2,
        "charades": list_charades,
    }
    root = existing_folder(Path(root), f"{dataset}: {LAYOUTS[dataset]}")
    parts = readers[dataset](root, existing_folder(Path(lists), f"the lists of {dataset}") if lists else None)
    if not any(videos.videos for videos in parts.values()):
        left_out = {line for videos in parts.values() for line in videos.left_out}
        message = f"{root}: no videos of {dataset}; there are: {names_in(root)}; expected {LAYOUTS[dataset]}"
        raise no_videos(message, left_out)
    return parts


# ---- your own videos ------------------------------------------------------------------------------------------------


def _list_own(root: Path, lists: Path | None, *, compare: bool = True) -> dict[str, VideoList]:
    """All parts share the classes of all; their spelling may differ. compare: look for copies of files."""
    folders = {}
    for part, names in OWN_PARTS.items():
        candidates = sorted(part_folders(root, names))
        if len(candidates) > 1:
            first, second, *_ = (folder.name for folder in candidates)
            raise ListError(f"{root}: two folders of the part {part}, {first} and {second}; keep one")
        folders.update({part: folder for folder in candidates})
    if not folders:
        raise FileNotFoundError(f"{root}: none of {LAYOUTS['folder']}; there are: {names_in(root)}")
    contents = {part: walk(folder) for part, folder in folders.items()}
    classes = []
    for part, folder in folders.items():
        recognise = recogniser(classes)
        classes += [name for name in class_names(folder, contents[part]) if not recognise(name)]
    classes.sort()
    parts = {part: class_folders(root, folder, contents[part], classes) for part, folder in folders.items()}
    resolved, outside = {folder.resolve() for folder in folders.values()}, []
    for entry in entries(root):
        if entry.resolve() not in resolved:
            files = entries(entry) if entry.is_dir() else [entry]
            outside += [file for file in files if is_video_name(file) and file.is_file()]
    reason = f"outside the folders of the parts ({', '.join(folders)}); move them into a class of one"
    next(iter(parts.values())).left_out.extend(strays(root, outside, {file.parent: reason for file in outside}))
    if compare:
        _leave_out_copies(parts, root)
    return parts


def _leave_out_copies(parts: dict[str, VideoList], root: Path) -> None:
    """Leaves out copies within a class of one part. Raises ListError for a file in two parts or classes."""
    homes = {}
    for part, videos in parts.items():
        homes |= {video.path: (part, videos.classes[video.label]) for video in videos.videos}
    originals = {copy: group[0] for group in same_content(homes) for copy in group[1:]}
    for copy, original in originals.items():
        if homes[copy] != homes[original]:
            seen = {original: (", ".join(homes[original]), str(original))}
            check_unique(seen, original, "the same file", ", ".join(homes[copy]), str(copy))
        videos, name = parts[homes[copy][0]], copy.relative_to(root)
        videos.extra.append(str(name))
        videos.left_out.append(f"{name}: the same file as {original.relative_to(root)}, which is used; remove one")
    for videos in parts.values():
        videos.videos[:] = [video for video in videos.videos if video.path not in originals]
        videos.extra.sort()
        videos.left_out.sort()


# ---- UCF-101 and HMDB-51 --------------------------------------------------------------------------------------------


def _list_splits(dataset: str, root: Path, lists: Path | None) -> dict[str, VideoList]:
    """UCF-101 (Soomro et al. 2012) or HMDB-51 (Kuehne et al. 2011), or a subset of its classes.

    Labels number the classes that have a folder, in official order. File names are matched without case or, failing
    that, without punctuation (`#` and brackets in HMDB's names). HMDB's part "all" includes the clips in no split.
    """
    lists = root / "lists" if dataset in RENDERED else lists
    marks = READ_SPLITS[dataset](lists)  # "class/stem" -> a digit of MARKS for each split
    contents, official = walk(root), list(dict.fromkeys(name.split("/")[0] for name in marks))
    recognise = recogniser(official)
    recognised = {folder: class_name for folder in contents.folders if (class_name := recognise(folder.name))}
    class_of = {folder: class_name for folder, class_name in recognised.items() if folder.parent == root}
    classes = [name for name in official if name in class_of.values()]
    if not classes:
        deeper = next((f"; did you mean {folder.parent}?" for folder in recognised), "")
        raise FileNotFoundError(
            f"{root}: none of the {len(official)} class folders of {dataset}, e.g. {official[0]}; "
            f"there are: {names_in(root)}{deeper}"
        )
    labels, by_key = {}, defaultdict(list)
    for name in sorted(marks, key=lambda name: (official.index(name.split("/")[0]), name)):
        class_name, stem = name.split("/")
        by_key[name_key(stem, gap="_")].append(name)
        if class_name in classes:
            labels[name] = classes.index(class_name)
    exact = {name.casefold(): name for name in labels}
    files, unlisted = defaultdict(list), {}
    for video in (video for video in contents.videos if video.parent in class_of):
        class_name = class_of[video.parent]
        similar = by_key.get(name_key(video.stem, gap="_"), [])
        in_class = [name for name in similar if name.split("/")[0] == class_name]
        if similar and similar[-1] not in in_class:
            listed_class = similar[-1].split("/")[0]
            raise contradiction(str(video), "its folder", class_name, f"{dataset}'s list", listed_class)
        name = exact.get(f"{class_name}/{video.stem}".casefold())
        if not name and len(in_class) == 1:
            name = in_class[0]
        if not name and dataset == "hmdb51":  # 395 of its clips are in no split
            name = f"{class_name}/{video.stem}"
            unlisted[name] = classes.index(class_name)
        if name:
            files[name].append(video)
    parts = {}
    for part in SPLITS:
        mark, split = part.split("-")
        parts[part] = {name: label for name, label in labels.items() if MARKS[marks[name][int(split) - 1]] == mark}
    parts["all"] = labels | unlisted
    reasons = {}
    for folder in {video.parent for video in contents.videos} - class_of.keys():
        reasons[folder] = f"in none of the class folders of {dataset}" + nearest(folder.name, official)
        if any(parent in class_of for parent in folder.parents):
            reasons[folder] = "one level too deep; move them up"
    absent = [name for name in official if name not in classes]
    return match(root, contents, parts, files, classes, absent=absent, reasons=reasons)


def _ucf101_splits(lists: Path | None) -> dict[str, str]:
    """ucfTrainTestlist, or the same from the number of clips in each of the 25 groups of a class: the test part of
    split s holds the groups 7s-6 to 7s."""
    if lists:
        return _marks("ucf101", lists, _ucf101_lines(lists))
    marks = {}
    for _, row in read_rows(FOLDER / "splits" / "ucf101.csv", "class"):
        name = row.pop("class")
        for group, count in row.items():  # "g01" .. "g25"; clips are numbered from 1 without gaps
            splits = "".join("2" if 7 * s - 6 <= int(group[1:]) <= 7 * s else "1" for s in (1, 2, 3))
            marks |= {f"{name}/v_{name}_{group}_c{clip:02d}": splits for clip in range(1, int(count) + 1)}
    return marks


def _ucf101_lines(lists: Path) -> Iterator[tuple[str, str, int, str]]:
    """Location, clip, split and mark, from classInd.txt ("1 ApplyEyeMakeup") and trainlist01.txt, testlist01.txt, ...
    ("class/clip.avi", in the training lists with the class number)."""
    numbers = {}
    for where, line in read_lines(lists / "classInd.txt"):
        fields = re.fullmatch(r"(\d+)[\s,;]+(\S+)", line)
        if not fields or fields[2] in numbers or fields[1] in numbers.values():
            raise ListError(f"{where}: {line!r} is not a new number and a new class")
        numbers[fields[2]] = fields[1]
    for part in SPLITS:
        kind, split = part.split("-")
        for where, line in read_lines(lists / f"{kind}list{int(split):02d}.txt"):
            file, number = re.fullmatch(r"(.+?)(?:[\s,;]+(\d+))?", line).groups()
            if (class_name := file.split("/")[0]) not in numbers:
                raise ListError(f"{where}: {line!r} is of none of the classes of classInd.txt")
            if number not in (None, numbers[class_name]):
                name = f"the number of {class_name}"
                raise contradiction(where, name, number, "classInd.txt", numbers[class_name])
            yield where, file.rsplit(".", 1)[0], int(split), "1" if kind == "train" else "2"


def _hmdb51_splits(lists: Path | None) -> dict[str, str]:
    """testTrainMulti_7030_splits ("<class>_test_split<n>.txt" with lines "<clip>.avi <0, 1 or 2>"), or the same from
    the shipped list."""
    if lists:
        return dict(sorted(_marks("hmdb51", lists, _hmdb51_lines(lists)).items()))
    rows = read_rows(FOLDER / "splits" / "hmdb51.csv", "class", "clip", "splits")
    return {f"{row['class']}/{row['clip']}": row["splits"] for _, row in rows}


def _hmdb51_lines(lists: Path) -> Iterator[tuple[str, str, int, str]]:
    if not (paths := sorted(lists.glob("*_test_split[123].txt"))):
        raise ListError(f"{lists}: no lists of HMDB-51, e.g. brush_hair_test_split1.txt; there are: {names_in(lists)}")
    for path in paths:
        class_name, split = re.fullmatch(r"(.+)_test_split([123])", path.stem).groups()
        for where, line in read_lines(path):
            if not (fields := re.fullmatch(r"(.+?)[\s,;]+([012])", line)):
                raise ListError(f"{where}: {line!r} is not a clip and 0, 1 or 2")
            yield where, f"{class_name}/{fields[1].rsplit('.', 1)[0]}", int(split), fields[2]


READ_SPLITS = {
    "ucf101": _ucf101_splits,
    "hmdb51": _hmdb51_splits,
    "rendered_u": lambda lists: _marks("rendered_u", lists, _ucf101_lines(lists)),
    "rendered_h": lambda lists: _marks("rendered_h", lists, _hmdb51_lines(lists)),
}


def _marks(dataset: str, lists: Path, lines: Iterable[tuple[str, str, int, str]]) -> dict[str, str]:
    """The mark of every clip in the three splits. Raises ListError unless the splits have their official sizes."""
    marks, seen = {}, {}
    for where, name, split, mark in lines:
        check_unique(seen, (name, split), name, MARKS[mark], where)
        splits = marks.get(name, "000")
        marks[name] = splits[: split - 1] + mark + splits[split:]
    wrong = {}
    for part in SPLITS:
        kind, split = part.split("-")
        size = sum(MARKS[splits[int(split) - 1]] == kind for splits in marks.values())
        if size != (expected := OFFICIAL.get(dataset, {}).get(part, size)):
            wrong[part] = f"{size}, not {expected}"
    if wrong:
        raise ListError(
            f"{lists}: not {dataset}'s official lists; clips listed: {wrong}. "
            f"Leave lists_{dataset} empty to use the shipped ones"
        )
    return marks
