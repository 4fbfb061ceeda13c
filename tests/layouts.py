"""The 23 recorded clips of `data/gmdcsa24`, laid out as data sets of the field lie on disks, and as one's own folder.

Names of classes and clips are official ones; what the clips show has nothing to do with them. Every clip stands for one
clip of a data set; each layout has copies of its own.
"""

import csv
import json
import re
import shutil
from itertools import cycle
from pathlib import Path

CLIPS = Path(__file__).parent / "data" / "gmdcsa24"
# of the 25 groups, 1-7, 8-14 and 15-21 are the test parts of the splits 1, 2, 3
UCF101 = {name: (1, 2, 8, 9, 15, 22) for name in ("BodyWeightSquats", "HandStandPushups", "JumpingJack", "TaiChi")}
HMDB51 = ("drink", "eat", "fall_floor", "sit")
KINETICS400 = ("eating chips", "massaging person's head", "passing American football (in game)", "yoga")
KINETICS600 = {"acting in play": (1, 2), "card throwing": (2, 3), "fencing (sport)": (1, 3), "waving hand": (1, 2, 3)}
SSV2 = {  # labels, as the json files spell them
    "Opening something": "Opening [something]",
    "Closing something": "Closing [something]",
    "Pushing something from left to right": "Pushing [something] from left to right",
    "Putting number of something onto something": "Putting [number of] [something] onto [something]",
}
ACTIONS = {
    "Reading": "Watching/Reading/Looking at a book",
    "Walking": "Walking through a room",
    "Sitting": "Sitting in a chair",
    "Eating": "Someone is eating something",
    "Drinking": "Drinking from a cup/glass/bottle",
    "Standing": "Standing somewhere",
    "Falling": "Falling to the floor",
    "Exercising": "Doing exercises",
    "Sleeping": "Lying on a bed",
}


def clips() -> list[Path]:
    return sorted(CLIPS.glob("*.mp4"))


def captions() -> list[dict[str, str]]:
    """file, description and timed classes ("Eating[5.1 to 5.8]; Sitting[0.6 to 11]") of every clip."""
    return _rows("tests/data/gmdcsa24/captions.csv")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def ucf101(root: Path) -> Path:
    """Four classes, each with groups of all three test parts; one folder is spelt as in some releases."""
    names = [(name, group) for name, groups in UCF101.items() for group in groups]
    for number, (clip, (name, group)) in enumerate(zip(clips(), names)):
        folder = "HandstandPushups" if name == "HandStandPushups" else name
        _copy(clip, root / folder / f"v_{name}_g{group:02d}_c01{'.avi' if number % 2 else '.mp4'}")
    return root


def hmdb51(root: Path) -> Path:
    """Four classes, each with two clips of every test part, which are training clips of the other splits."""
    rows = _rows("params/splits/hmdb51.csv")
    chosen = [
        row
        for name in HMDB51
        for marks in ("211", "121", "112")
        for row in [row for row in rows if row["class"] == name and row["splits"] == marks][:2]
    ]
    for clip, row in zip(clips(), chosen):
        _copy(clip, root / row["class"] / f"{row['clip']}.avi")
    return root


def kinetics400(root: Path, form: str = "csv") -> Path:
    """15 clips to train on, 8 to validate. form: "csv" (DeepMind's, with times in file names), "list" (lines of path
    and number) or "folders" (a folder per class, no list)."""
    numbers = {name: number for number, name in enumerate(class_names("kinetics400"))}
    rows = {"train": [], "val": []}
    for number, (clip, name) in enumerate(zip(clips(), cycle(KINETICS400))):
        part, video = "train" if number < 15 else "val", f"-gmdcsa24{number:02d}"  # eleven letters, as there
        file = f"{video}_{number:06d}_{number + 10:06d}.mp4" if form == "csv" else f"{video}.mp4"
        folder = name.replace(" ", "_") if form == "list" else name
        _copy(clip, root / part / folder / file)
        rows[part].append((name, video, number, f"{folder}/{file}"))
    for part, own in rows.items():
        if form == "csv":
            lines = [
                "label,youtube_id,time_start,time_end,split",
                *(f"{name},{video},{at},{at + 10},{part}" for name, video, at, _ in own),
            ]
            (root / f"{part}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        elif form == "list":
            lines = [f"{file} {numbers[name]}" for name, _, _, file in own]
            (root / f"kinetics400_{part}_list_videos.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def kinetics600(root: Path, form: str = "csv") -> Path:
    """The validation part: clips of the zero-shot splits, and one of a class of Kinetics-400. form: as of
    `kinetics400`."""
    shown = {row["class"]: row["clips"].split() for row in _rows("params/splits/kinetics600.csv")}
    names = [(name, shown[name][number].split("@")) for number in range(6) for name in KINETICS600]
    names[22] = ("yoga", ["-gmdcsa2422", "22"])
    rows = []
    for clip, (name, (video, start)) in zip(clips(), names):
        file = f"{video}_{int(start):06d}_{int(start) + 10:06d}.mp4" if form != "folders" else f"{video}.mp4"
        folder = name.replace(" ", "_").title() if form == "list" else name
        _copy(clip, root / "val" / folder / file)
        rows.append((name, video, int(start), f"{folder}/{file}"))
    if form == "csv":
        lines = [f"{name},{video},{start},{start + 10},validate" for name, video, start, _ in rows]
        header = "label,youtube_id,time_start,time_end,split"
        (root / "val.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    elif form == "list":
        numbers = {name: number for number, name in enumerate(class_names("kinetics600"))}
        lines = [f"{file} {numbers[name]}" for name, _, _, file in rows]
        (root / "kinetics600_val_list_videos.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def ssv2(root: Path) -> Path:
    """Numbered files, 15 clips to train on and 8 to validate, with the official json lists."""
    listed = {"train": [], "validation": []}
    for number, (clip, template) in enumerate(zip(clips(), cycle(SSV2.values()))):
        _copy(clip, root / "20bn-something-something-v2" / f"{number + 1}.webm")
        entry = {"id": str(number + 1), "label": template.lower(), "template": template, "placeholders": ["a box"]}
        listed["train" if number < 15 else "validation"].append(entry)
    shutil.copyfile(clips()[0], root / "20bn-something-something-v2" / "99.webm")
    (root / "labels").mkdir()
    for part, rows in {**listed, "test": [{"id": "99"}], "labels": {"Closing something": "5"}}.items():
        (root / "labels" / f"something-something-v2-{part}.json").write_text(json.dumps(rows), encoding="utf-8")
    return root


def class_names(dataset: str) -> list[str]:
    """The classes of a data set in the order of its official lists."""
    return (Path(__file__).parent / "data" / "labels" / f"{dataset}.txt").read_text(encoding="utf-8").splitlines()


def ucf101_lists(folder: Path) -> Path:
    """`ucfTrainTestlist`, written anew from the number of clips in each group."""
    counts = {row.pop("class"): row for row in _rows("params/splits/ucf101.csv")}
    numbers = {name: number for number, name in enumerate(class_names("ucf101"), start=1)}
    folder.mkdir(parents=True)
    (folder / "classInd.txt").write_text("".join(f"{number} {name}\n" for name, number in numbers.items()))
    for split in (1, 2, 3):
        tested = {f"g{group:02d}" for group in range(7 * split - 6, 7 * split + 1)}
        for part in ("train", "test"):
            lines = [
                f"{name}/v_{name}_{group}_c{clip:02d}.avi" + f" {numbers[name]}" * (part == "train") + "\n"
                for name, groups in counts.items()
                for group, count in groups.items()
                if (group in tested) == (part == "test")
                for clip in range(1, int(count) + 1)
            ]
            (folder / f"{part}list{split:02d}.txt").write_text("".join(lines))
    return folder


def hmdb51_lists(folder: Path) -> Path:
    """`testTrainMulti_7030_splits`: a file for each class and split."""
    folder.mkdir(parents=True)
    for row in _rows("params/splits/hmdb51.csv"):
        for split, mark in enumerate(row["splits"], start=1):
            with (folder / f"{row['class']}_test_split{split}.txt").open("a", encoding="utf-8") as file:
                file.write(f"{row['clip']}.avi {mark} \n")
    return folder


def _rows(path: str) -> list[dict[str, str]]:
    with (Path(__file__).parents[1] / path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def charades(root: Path) -> Path:
    """Classes and times are those that the clips show; 15 clips to train on, 8 to test."""
    codes = {word: f"c{number:03d}" for number, word in enumerate(ACTIONS)}
    rows = {"train": [], "test": []}
    for number, row in enumerate(captions()):
        subject, kind, place = row["file"].removesuffix(".mp4").split("_")
        name = f"{subject}{kind[0]}{place}"  # five letters and digits, as there
        _copy(CLIPS / row["file"], root / "Charades_v1_480" / f"{name}.mp4")
        shown = re.findall(r"(\w+)[^\[;]*\[([\d.]+) to ([\d.]+)", row["classes"].replace("Fall ", "Falling "))
        actions = ";".join(f"{codes[word]} {float(start):.2f} {float(end):.2f}" for word, start, end in shown)
        rows["train" if number < 15 else "test"].append((name, row["description"], actions))
    (root / "Charades_v1_classes.txt").write_text(
        "".join(f"{codes[word]} {name}\n" for word, name in ACTIONS.items()), encoding="utf-8"
    )
    for part, own in rows.items():
        with (root / f"Charades_v1_{part}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([("id", "descriptions", "actions"), *own])
    return root


def folder(root: Path) -> Path:
    """train, validation and test, each with a folder per class: kinds of falls, and what people do else (two of a class
    to test, one to validate)."""
    of_class = {"daily_life": [], "falling_backwards": [], "falling_otherwise": []}
    for row in captions():
        kind = (
            "daily_life"
            if "ADL" in row["file"]
            else "falling_backwards"
            if "(BW)" in row["classes"]
            else "falling_otherwise"
        )
        of_class[kind].append(CLIPS / row["file"])
    for name, own in of_class.items():
        for number, clip in enumerate(own):
            _copy(clip, root / ("validation" if number == 0 else "test" if number < 3 else "train") / name / clip.name)
    return root
