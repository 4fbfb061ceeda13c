"""The data sets of the field as they lie on disks: UCF-101, HMDB-51, Kinetics-400, Charades, or a folder of one's own.

Every reader looks through a folder once and returns all parts of the data set, each a `VideoList`, whose fields say what
the official lists name and the folder lacks, and the other way round.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lib.lists import VIDEO_SUFFIXES, Video, VideoList, entries, existing_folder, is_video, list_folder, name_key
from lib.params import FOLDER, read_yaml

# What the official lists name. Kinetics' copies have shrunk since: these are the sizes of its lists of 2017.
OFFICIAL = {"ucf101": {"train-1": 9537, "test-1": 3783, "train-2": 9586, "test-2": 3734, "train-3": 9624,
                       "test-3": 3696, "all": 13320},
            "hmdb51": {"train-1": 3570, "test-1": 1530, "train-2": 3570, "test-2": 1530, "train-3": 3570,
                       "test-3": 1530, "all": 6766},
            "kinetics400": {"train": 246534, "validation": 19906}, "charades": {"train": 7985, "test": 1863}}
KINETICS = {"train": ("train", "train_256", "videos_train"),  # folders, and beginnings of the names of lists
            "validation": ("val", "validate", "validation", "val_256", "videos_val")}


class ListError(ValueError):
    """A list of another version or another data set; the message says which line of which file."""


def list_videos(dataset: str, root: str | Path, *, lists: str | Path | None = None) -> dict[str, VideoList]:
    """The parts of a data set by the name that parameters have for it.

    embedded, folder: a folder for each part (train, validation, test), with a folder per class in it. ucf101, hmdb51:
    train-1, test-1 .. test-3 and all. kinetics400: train, validation. charades: train, test. `lists`: the folder of the
    official lists. Raises FileNotFoundError if `root` holds nothing of the kind, ListError for a list that is no good.
    """
    if dataset in ("embedded", "folder"):
        existing_folder(Path(root), "the folders train and test, each with a folder per class")
        return {part: list_folder(Path(root) / part) for part in ("train", "validation", "test")
                if part != "validation" or (Path(root) / part).is_dir()}
    readers: dict[str, Callable[..., dict[str, VideoList]]] = {
        "ucf101": list_ucf101, "hmdb51": list_hmdb51, "kinetics400": list_kinetics400, "charades": list_charades}
    return readers[dataset](Path(root), lists=Path(lists) if lists else None)


# ---- UCF-101 and HMDB-51: a folder per class, three official splits -----------------------------------------------


def list_ucf101(root: Path, *, lists: Path | None = None) -> dict[str, VideoList]:
    """UCF-101 (Soomro et al. 2012) or a subset of its classes; `lists`: ucfTrainTestlist, else derived from the number of
    clips in every group: the test set of split s is exactly groups 7s-6..7s."""
    marks = _read_ucf101(lists) if lists else _derive_ucf101()
    return _with_splits(root, "ucf101", "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", marks)


def list_hmdb51(root: Path, *, lists: Path | None = None) -> dict[str, VideoList]:
    """HMDB-51 (Kuehne et al. 2011) or a subset of its classes; `lists`: its `<class>_test_split<n>.txt`, else the shipped
    list. The part "all" has also the clips that are in no split."""
    marks = _read_hmdb51(lists) if lists else {
        f"{row['class']}/{row['clip']}": row["splits"] for row in _rows(FOLDER / "splits" / "hmdb51.csv")}
    return _with_splits(root, "hmdb51", "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", marks)


def _with_splits(root: Path, dataset: str, example: str, marks: dict[str, str]) -> dict[str, VideoList]:
    """marks: "class/stem" -> a digit for each split: 0 unused, 1 train, 2 test.

    Names are compared without capitals (HandstandPushups); where a file has none of the names, without punctuation (`#`
    and brackets of HMDB's names), if that leaves one choice. Labels count the classes that have a folder, in official
    order.
    """
    existing_folder(root, f"{dataset}: a folder per class, e.g. {example}")
    official = list(dict.fromkeys(name.split("/")[0] for name in marks))
    folders = {name_key(entry.name): entry for entry in entries(root) if entry.is_dir()}
    classes = [name for name in official if name_key(name) in folders]
    if not classes:
        raise FileNotFoundError(f"{root}: none of the {len(official)} class folders of {dataset}, e.g. {official[0]}; "
                                f"there are: {[entry.name for entry in folders.values()][:5]}")
    order = {name: place for place, name in enumerate(official)}
    marks = dict(sorted(marks.items(), key=lambda item: (order[item[0].split("/")[0]], item[0])))
    exact, loose = {name.casefold(): name for name in marks}, defaultdict(list)
    for name in marks:
        loose[name_key(name)].append(name)
    listed, unlisted, extra = {}, [], []
    class_of = {folders[name_key(name)]: name for name in classes}
    for entry in entries(root):
        if entry not in class_of:
            extra.append(f"{entry.name}/" if entry.is_dir() else entry.name)
            continue
        class_name = class_of[entry]
        for file in entries(entry):
            own = f"{class_name}/{file.stem}"
            choices = [exact[own.casefold()]] if own.casefold() in exact else loose[name_key(own)]
            if not is_video(file) or len(choices) != 1:
                (unlisted if is_video(file) else extra).append(f"{entry.name}/{file.name}")
            elif choices[0] in listed:
                raise ValueError(f"{root}: two files for one clip, {listed[choices[0]].path.name} and {file.name}; "
                                 "remove one")
            else:
                listed[choices[0]] = Video(file, choices[0], classes.index(class_name))
    if not listed:
        expected = next(name for name in marks if name.split("/")[0] == classes[0])
        raise FileNotFoundError(f"{root}: no clip of {dataset} in {len(classes)} class folders; expected {expected} and "
                                f"the like, with one of {' '.join(VIDEO_SUFFIXES)}")
    absent, here = [name for name in official if name not in classes], set(classes)
    names = {f"{part}-{split + 1}": [name for name, mark in marks.items() if mark[split] == digit]
             for split in range(3) for part, digit in (("train", "1"), ("test", "2"))} | {"all": list(marks)}
    parts = {part: VideoList([listed[name] for name in own if name in listed], classes, absent,
                             [name for name in own if name not in listed and name.split("/")[0] in here])
             for part, own in names.items()}
    if dataset == "hmdb51":  # 395 of its clips are in no split, and not in the shipped list
        others = [Video(root / name, name.rsplit(".", 1)[0], classes.index(class_of[root / name.split("/")[0]]))
                  for name in unlisted]
        parts["all"] = replace(parts["all"], videos=parts["all"].videos + others)
    else:
        extra += unlisted
    return {part: replace(videos, extra=sorted(extra)) for part, videos in parts.items()}


def _derive_ucf101() -> dict[str, str]:
    marks = {}
    for row in _rows(FOLDER / "splits" / "ucf101.csv"):
        name = row.pop("class")
        for group, count in row.items():  # "g01" .. "g25"; clips are numbered from 1 without gaps
            splits = "".join("2" if 7 * s - 6 <= int(group[1:]) <= 7 * s else "1" for s in (1, 2, 3))
            marks |= {f"{name}/v_{name}_{group}_c{clip:02d}": splits for clip in range(1, int(count) + 1)}
    return marks


def _read_ucf101(folder: Path) -> dict[str, str]:
    """ucfTrainTestlist: classInd.txt, trainlist01.txt, testlist01.txt, ..."""
    existing_folder(folder, "ucfTrainTestlist with classInd.txt, trainlist01.txt, testlist01.txt, ...")
    classes = [line.split()[1] for line in _lines(folder / "classInd.txt")]
    marks = {}
    for split, (mark, part) in ((s, p) for s in (0, 1, 2) for p in (("1", "train"), ("2", "test"))):
        path = folder / f"{part}list{split + 1:02d}.txt"
        for number, line in enumerate(_lines(path), start=1):
            name = line.split()[0].rsplit(".", 1)[0]
            if name.split("/")[0] not in classes:
                raise ListError(f"{path}, line {number}: {line!r} is of none of the classes of classInd.txt")
            own = marks.setdefault(name, "000")
            marks[name] = own[:split] + mark + own[split + 1:]
    order = {name: place for place, name in enumerate(classes)}
    return _insist("ucf101", folder, dict(sorted(marks.items(), key=lambda item: order[item[0].split("/")[0]])))


def _read_hmdb51(folder: Path) -> dict[str, str]:
    """testTrainMulti_7030_splits: "<class>_test_split<n>.txt" with lines "<clip>.avi <0, 1 or 2>"."""
    existing_folder(folder, "HMDB-51's lists, e.g. brush_hair_test_split1.txt")
    marks = {}
    for path in sorted(folder.glob("*_test_split[123].txt")):
        name, split = re.fullmatch(r"(.+)_test_split([123])", path.stem).groups()
        for number, line in enumerate(_lines(path), start=1):
            clip, _, mark = line.strip().rpartition(" ")
            if mark not in ("0", "1", "2"):
                raise ListError(f"{path}, line {number}: {line!r} is no clip and 0, 1 or 2")
            key = f"{name}/{clip.strip().rsplit('.', 1)[0]}"
            own = marks.setdefault(key, "000")
            marks[key] = own[: int(split) - 1] + mark + own[int(split):]
    return _insist("hmdb51", folder, dict(sorted(marks.items())))


def _insist(dataset: str, folder: Path, marks: dict[str, str]) -> dict[str, str]:
    """Raises ListError unless the lists have the official sizes."""
    sizes = {f"{part}-{split + 1}": sum(m[split] == mark for m in marks.values())
             for split in range(3) for part, mark in (("train", "1"), ("test", "2"))}
    wrong = {part: f"{size}, not {OFFICIAL[dataset][part]}" for part, size in sizes.items()
             if size != OFFICIAL[dataset][part]}
    if wrong:
        raise ListError(f"{folder}: these are not {dataset}'s official lists; clips listed: {wrong}. Leave "
                        f"lists_{dataset} empty for those that are shipped")
    return marks


# ---- Kinetics-400 and Charades ------------------------------------------------------------------------------------


def list_kinetics400(root: Path, *, lists: Path | None = None) -> dict[str, VideoList]:
    """Kinetics-400 (Kay et al. 2017): the parts that have a folder under `root` (train, val and their common variants).

    A part's list is looked for in `lists` (else in `root` and `root/annotations`), the first of
    - a csv of DeepMind's (`train.csv`, `val.csv`, `kinetics_train.csv`, ...: label, youtube_id, time_start, ...). Files
      may lie in class folders or flat; the first eleven letters of a file's name are the video's id;
    - lines "path number" (`kinetics400_train_list_videos.txt`), number being the class in official order.
    Without a list, a folder per class is what there is. Classes are the official 400 in alphabetical order, compared
    without punctuation ("playing_guitar").
    """
    existing_folder(root, "kinetics400: the folders train and val, each with a folder per class")
    classes = list(read_yaml(FOLDER / "concepts" / "kinetics400.yaml"))
    label_of = {name_key(name): label for label, name in enumerate(classes)}
    found = {}
    for part, names in KINETICS.items():
        folder = next((root / name for name in names if (root / name).is_dir()), None)
        if folder is None:
            continue
        places = [existing_folder(lists, "Kinetics' lists")] if lists else [root, root / "annotations"]
        files = [file for place in places if place.is_dir() for file in entries(place)
                 if re.match(rf"(kinetics[-_]?(400)?_)?({'|'.join(names)})(_list_videos\.txt|\.csv)$", file.name)]
        if lists and not files:
            raise ListError(f"{lists}: no list of the part {part}: expected {names[0]}.csv or "
                            f"kinetics400_{names[0]}_list_videos.txt; there are: {[path.name for path in entries(lists)][:5]}")
        files.sort(key=lambda file: file.suffix != ".csv")
        videos = sorted(path for path in folder.rglob("*") if is_video(path) and not path.name.startswith("."))
        make = _kinetics_csv if files and files[0].suffix == ".csv" else _kinetics_txt if files else _kinetics_folders
        taken, missing = make(folder, videos, label_of, classes, *files[:1])
        paths = {video.path for video in taken}
        extra = [str(path.relative_to(root)) for path in videos if path not in paths]
        found[part] = VideoList(taken, classes, missing=missing, extra=extra)
    if not any(len(videos) for videos in found.values()):
        raise FileNotFoundError(f"{root}: no videos of Kinetics-400 in any of {sum(KINETICS.values(), ())}")
    return found


def _kinetics_csv(folder: Path, videos: list[Path], label_of: dict[str, int], classes: list[str], path: Path):
    by_id, taken, missing = {video.stem[:11]: video for video in videos}, [], []
    for number, row in enumerate(_rows(path, "label", "youtube_id"), start=2):
        label = label_of.get(name_key(row["label"]))
        if label is None:
            raise ListError(f"{path}, line {number}: {row['label']!r} is none of Kinetics-400's 400 classes")
        name = f"{classes[label]}/{row['youtube_id']}"
        if row["youtube_id"] in by_id:
            taken.append(Video(by_id[row["youtube_id"]], name, label))
        else:
            missing.append(name)
    return taken, missing


def _kinetics_txt(folder: Path, videos: list[Path], label_of: dict[str, int], classes: list[str], path: Path):
    there, taken, missing = set(videos), [], []
    for number, line in enumerate(_lines(path), start=1):
        file, _, label = line.strip().rpartition(" ")
        if not label.isdecimal() or int(label) >= len(classes):
            raise ListError(f"{path}, line {number}: {line!r} is no path and a number of a class, 0..{len(classes) - 1}")
        place = next((p for p in (folder / file, folder.parent / file) if p in there), None)
        name = f"{classes[int(label)]}/{Path(file).stem}"
        if place:
            taken.append(Video(place, name, int(label)))
        else:
            missing.append(name)
    return taken, missing


def _kinetics_folders(folder: Path, videos: list[Path], label_of: dict[str, int], classes: list[str]):
    labels = [(path, label_of.get(name_key(path.parent.name))) for path in videos]
    return [Video(path, f"{classes[label]}/{path.stem}", label) for path, label in labels if label is not None], []


def list_charades(root: Path, *, lists: Path | None = None) -> dict[str, VideoList]:
    """Charades (Sigurdsson et al. 2016), several classes a clip: `Charades_v1_{train,test}.csv` (id, ..., actions as
    "c092 11.90 21.20;c147 0.00 12.60") and `Charades_v1_classes.txt` in `lists` (else in `root`), videos `<id>.mp4`
    anywhere under `root`. A clip without actions stays, with no label."""
    existing_folder(root, "charades: videos, with Charades_v1_train.csv, Charades_v1_test.csv, Charades_v1_classes.txt")
    place = existing_folder(lists, "Charades' annotations") if lists else root
    names = dict(line.split(maxsplit=1) for line in _lines(place / "Charades_v1_classes.txt"))
    files = {}
    for path in filter(is_video, sorted(root.rglob("*"))):
        if (other := files.setdefault(path.stem, path)) != path:
            raise ValueError(f"{root}: two files of one clip, {other} and {path}: remove one")
    rows = {part: _rows(place / f"Charades_v1_{part}.csv", "id", "actions") for part in ("train", "test")}
    listed = {row["id"] for own in rows.values() for row in own}
    extra = [str(path.relative_to(root)) for stem, path in files.items() if stem not in listed]
    order, parts = {code: label for label, code in enumerate(names)}, {}
    for part, own in rows.items():
        videos = []
        for number, row in enumerate(own, start=2):
            codes = {action.split()[0] for action in row["actions"].split(";") if action.strip()}
            if unknown := codes - set(order):
                raise ListError(f"{place}/Charades_v1_{part}.csv, line {number}: {sorted(unknown)} is in no class of "
                                "Charades_v1_classes.txt")
            if row["id"] in files:
                videos.append(Video(files[row["id"]], row["id"], labels=tuple(sorted(order[code] for code in codes))))
        missing = [row["id"] for row in own if row["id"] not in files]
        parts[part] = VideoList(videos, list(names.values()), missing=missing, extra=extra)
    if not any(len(videos) for videos in parts.values()):
        raise FileNotFoundError(f"{root}: none of the {len(listed)} videos of Charades, e.g. {min(listed)}.mp4")
    return parts


def _lines(path: Path) -> list[str]:
    """The lines of a list that are not empty. Raises FileNotFoundError."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a csv. Raises ListError if it lacks one of the columns, FileNotFoundError."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if lacking := sorted(set(columns) - set(reader.fieldnames or ())):
            raise ListError(f"{path}: it has no column {', '.join(lacking)}; its first line is {reader.fieldnames}")
        return list(reader)
