"""UCF-101 and HMDB-51: a folder per class, three official splits, shipped or read from the official lists."""

import re
from collections import defaultdict
from pathlib import Path

from lib.datasets.folders import entries, existing_folder, walk
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
from lib.run.params import FOLDER

SIZES = {
    "ucf101": {
        "train-1": 9537,
        "test-1": 3783,
        "train-2": 9586,
        "test-2": 3734,
        "train-3": 9624,
        "test-3": 3696,
        "all": 13320,
    },
    "hmdb51": {
        "train-1": 3570,
        "test-1": 1530,
        "train-2": 3570,
        "test-2": 1530,
        "train-3": 3570,
        "test-3": 1530,
        "all": 6766,
    },
}


def list_ucf101(root: Path, *, lists: Path | None = None) -> dict[str, VideoList]:
    """UCF-101 (Soomro et al. 2012) or a subset of its classes; `lists`: ucfTrainTestlist, else derived from the number of
    clips in every group: the test set of split s is exactly groups 7s-6..7s."""
    marks = _read_ucf101(lists) if lists else _derive_ucf101()
    return _with_splits(root, "ucf101", "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", marks)


def list_hmdb51(root: Path, *, lists: Path | None = None) -> dict[str, VideoList]:
    """HMDB-51 (Kuehne et al. 2011) or a subset of its classes; `lists`: its `<class>_test_split<n>.txt`, else the shipped
    list. The part "all" has also the clips that are in no split."""
    marks = (
        _read_hmdb51(lists)
        if lists
        else {f"{row['class']}/{row['clip']}": row["splits"] for _, row in read_rows(FOLDER / "splits" / "hmdb51.csv")}
    )
    return _with_splits(root, "hmdb51", "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", marks)


def _with_splits(root: Path, dataset: str, example: str, marks: dict[str, str]) -> dict[str, VideoList]:
    """marks: "class/stem" -> a digit for each split: 0 unused, 1 train, 2 test.

    Class folders may be spelt otherwise (`lists.recogniser`). Names of files are compared without capitals
    (HandstandPushups); where a file has none of the names, without punctuation (`#` and brackets of HMDB's names), if that
    leaves one choice. Labels count the classes that have a folder, in official order. Of two files for one clip the first
    is taken (`lists.one_file_each`). Raises ListError for a listed clip that lies in the folder of another class.
    """
    existing_folder(root, f"{dataset}: a folder per class, e.g. {example}")
    found, official = walk(root), list(dict.fromkeys(name.split("/")[0] for name in marks))
    recognise = recogniser(official)
    class_of = {folder: name for folder in found.folders if folder.parent == root and (name := recognise(folder.name))}
    classes = [name for name in official if name in class_of.values()]
    if not classes:
        deeper = next((f"; name {folder.parent}?" for folder in found.folders if recognise(folder.name)), "")
        raise FileNotFoundError(
            f"{root}: none of the {len(official)} class folders of {dataset}, e.g. {official[0]}; "
            f"there are: {[entry.name for entry in entries(root) if entry.is_dir()][:5]}{deeper}"
        )
    order = {name: place for place, name in enumerate(official)}
    marks = dict(sorted(marks.items(), key=lambda item: (order[item[0].split("/")[0]], item[0])))
    exact, loose, home = {name.casefold(): name for name in marks}, defaultdict(list), {}
    for name in marks:
        loose[_loose(name)].append(name)
        home[name_key(name.split("/")[1], gap="_")] = name.split("/")[0]
    listed, unlisted = [], []
    for file in (file for file in found.videos if file.parent in class_of):
        own = f"{class_of[file.parent]}/{file.stem}"
        choices = [exact[own.casefold()]] if own.casefold() in exact else loose[_loose(own)]
        (listed if len(choices) == 1 else unlisted).append((choices[0] if len(choices) == 1 else own, file))
        if (other := home.get(name_key(file.stem, gap="_"), class_of[file.parent])) != class_of[file.parent]:
            raise contradiction(str(file), "its folder", class_of[file.parent], f"{dataset}'s list", other)
    files, left_out = one_file_each(root, listed)
    others, second = one_file_each(root, unlisted)
    absent, here = [name for name in official if name not in classes], set(classes)
    names = {
        f"{part}-{split + 1}": [name for name, mark in marks.items() if mark[split] == digit]
        for split in range(3)
        for part, digit in (("train", "1"), ("test", "2"))
    } | {"all": list(marks)}
    label_of = {name: label for label, name in enumerate(classes)}
    parts = {
        part: [Video(files[name], name, label_of[name.split("/")[0]]) for name in own if name in files]
        for part, own in names.items()
    }
    used = [*files.values()]
    if dataset == "hmdb51":  # 395 of its clips are in no split, and not in the shipped list
        parts["all"] += [Video(file, name, label_of[name.split("/")[0]]) for name, file in others.items()]
        used, left_out = used + [*others.values()], left_out + second
    left_out += _not_classes(
        root, dataset, official, [file for file in found.videos if file.parent not in class_of], class_of
    )
    left_out += [f"{path.relative_to(root)}: {why}" for path, why in found.broken.items()]
    left_out += unknown_suffixes(root, (file for file in found.others if file.parent in class_of))
    if not files:
        expected = next(name for name in marks if name.split("/")[0] == classes[0])
        raise nothing_found(
            f"{root}: no clip of {dataset} in {len(classes)} class folders; expected {expected} and the like", left_out
        )
    extra = unused(root, [*found.videos, *found.others, *found.broken, *found.folders], used)
    return {
        part: VideoList(
            own,
            classes,
            absent,
            [name for name in names[part] if name not in files and name.split("/")[0] in here],
            extra,
            sorted(left_out),
        )
        for part, own in parts.items()
    }


def _loose(name: str) -> str:
    """A clip's name without punctuation: "class/stem"."""
    return "/".join(name_key(part, gap="_") for part in name.split("/", 1))


def _not_classes(
    root: Path, dataset: str, official: list[str], files: list[Path], class_of: dict[Path, str]
) -> list[str]:
    """Words on videos that lie in no class folder, or in a folder within one."""
    deep = [file for file in files if any(folder in class_of for folder in file.parents)]
    lines = in_folders(root, sorted({*files} - {*deep}), f"in none of the class folders of {dataset}")
    return in_folders(root, deep, "one level too deep: move them up") + [
        line + nearest(Path(line.split(":")[0]).name, official) for line in lines
    ]


def _derive_ucf101() -> dict[str, str]:
    marks = {}
    for _, row in read_rows(FOLDER / "splits" / "ucf101.csv"):
        name = row.pop("class")
        for group, count in row.items():  # "g01" .. "g25"; clips are numbered from 1 without gaps
            splits = "".join("2" if 7 * s - 6 <= int(group[1:]) <= 7 * s else "1" for s in (1, 2, 3))
            marks |= {f"{name}/v_{name}_{group}_c{clip:02d}": splits for clip in range(1, int(count) + 1)}
    return marks


def _read_ucf101(folder: Path) -> dict[str, str]:
    """ucfTrainTestlist: classInd.txt ("1 ApplyEyeMakeup"), trainlist01.txt, testlist01.txt, ... ("class/clip.avi", in the
    training lists with the class's number)."""
    existing_folder(folder, "ucfTrainTestlist with classInd.txt, trainlist01.txt, testlist01.txt, ...")
    numbers = {}
    for where, line in read_lines(folder / "classInd.txt"):
        match = re.fullmatch(r"(\d+)[\s,;]+(\S+)", line)
        if not match or match[2] in numbers or match[1] in numbers.values():
            raise ListError(f"{where}: {line!r} is no number and class of its own")
        numbers[match[2]] = match[1]
    marks = {}
    for split in range(3):
        once = Once()
        for mark, part in (("1", "train"), ("2", "test")):
            for where, line in read_lines(folder / f"{part}list{split + 1:02d}.txt"):
                file, number = re.fullmatch(r"(.+?)(?:[\s,;]+(\d+))?", line).groups()
                name = file.rsplit(".", 1)[0]
                if (class_name := name.split("/")[0]) not in numbers:
                    raise ListError(f"{where}: {line!r} is of none of the classes of classInd.txt")
                if number not in (None, numbers[class_name]):
                    raise contradiction(
                        where, f"the number of {class_name}", number, "classInd.txt", numbers[class_name]
                    )
                once.note(name, name, part, where)
                own = marks.setdefault(name, "000")
                marks[name] = own[:split] + mark + own[split + 1 :]
    order = {name: place for place, name in enumerate(numbers)}
    return _insist("ucf101", folder, dict(sorted(marks.items(), key=lambda item: order[item[0].split("/")[0]])))


def _read_hmdb51(folder: Path) -> dict[str, str]:
    """testTrainMulti_7030_splits: "<class>_test_split<n>.txt" with lines "<clip>.avi <0, 1 or 2>"."""
    existing_folder(folder, "HMDB-51's lists, e.g. brush_hair_test_split1.txt")
    marks, once = {}, Once()
    if not (paths := sorted(folder.glob("*_test_split[123].txt"))):
        raise ListError(
            f"{folder}: none of HMDB-51's lists, e.g. brush_hair_test_split1.txt; there are: "
            f"{[entry.name for entry in entries(folder)][:5]}"
        )
    for path in paths:
        name, split = re.fullmatch(r"(.+)_test_split([123])", path.stem).groups()
        for where, line in read_lines(path):
            if not (match := re.fullmatch(r"(.+?)[\s,;]+([012])", line)):
                raise ListError(f"{where}: {line!r} is no clip and 0, 1 or 2")
            key, mark = f"{name}/{match[1].rsplit('.', 1)[0]}", match[2]
            once.note((key, split), key, ("unused", "train", "test")[int(mark)], where)
            own = marks.setdefault(key, "000")
            marks[key] = own[: int(split) - 1] + mark + own[int(split) :]
    return _insist("hmdb51", folder, dict(sorted(marks.items())))


def _insist(dataset: str, folder: Path, marks: dict[str, str]) -> dict[str, str]:
    """Raises ListError unless the lists have the official sizes."""
    sizes = {
        f"{part}-{split + 1}": sum(m[split] == mark for m in marks.values())
        for split in range(3)
        for part, mark in (("train", "1"), ("test", "2"))
    }
    wrong = {
        part: f"{size}, not {SIZES[dataset][part]}" for part, size in sizes.items() if size != SIZES[dataset][part]
    }
    if wrong:
        raise ListError(
            f"{folder}: these are not {dataset}'s official lists; clips listed: {wrong}. Leave "
            f"lists_{dataset} empty for those that are shipped"
        )
    return marks
