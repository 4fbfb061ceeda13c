"""Charades and Something-Something v2: clips that people were asked to film, named by lists."""

import re
from collections import defaultdict
from pathlib import Path

from lib.datasets.folders import entries, names_in, walk
from lib.datasets.lists import (
    ListError,
    VideoList,
    check_unique,
    folders_without,
    match,
    nearest,
    read_json_list,
    read_lines,
    read_rows,
    recogniser,
)
from lib.run.params import FOLDER, read_yaml

SSV2_LISTS = "labels", "annotations"  # folders


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
    reasons = dict.fromkeys(folders_without(files, contents.videos) - {root}, "not in the lists")
    return match(root, contents, parts, files, classes, absent=[], reasons=reasons)


def list_ssv2(root: Path, lists: Path | None) -> dict[str, VideoList]:
    """Something-Something v2 (Goyal et al. 2017): numbered videos ("74225.webm") at any depth, 174 templates.

    `validation.json` and, for a part train with files, `train.json` (or "something-something-v2-validation.json") lie
    in `lists`, else in `root`, `root/labels` or `root/annotations`. Labels number the templates alphabetically. Clips
    of `test.json`, which have no label, are not used.
    """
    vocabulary = read_yaml(FOLDER / "concepts" / "ssv2.yaml")
    classes = [label for label in vocabulary if label != "confusable_pairs"]
    numbers, recognise = {label: number for number, label in enumerate(classes)}, recogniser(classes)
    listed, seen = {"validation": {}, "train": {}}, {}
    for part, labels in listed.items():
        path = _ssv2_list(part, root, lists)
        for where, entry in read_json_list(path, "id", "template") if path else ():
            clip, template = entry["id"], entry["template"]
            if not re.fullmatch(r"\d+", clip):
                raise ListError(f"{where}: the id {clip!r} is not a number")
            if (label := recognise(template)) is None:
                raise ListError(f"{where}: {template!r} is none of the 174 templates{nearest(template, classes)}")
            check_unique(seen, clip, clip, f"{part}, {label}", where)
            labels[clip] = numbers[label]
    if not listed["validation"]:
        places = f"{lists or root}: no list something-something-v2-validation.json or validation.json"
        raise ListError(f"{places}; there are: {names_in(lists or root)}")
    contents, files = walk(root), defaultdict(list)
    test = _ssv2_list("test", root, lists)
    unlabelled = {entry["id"] for _, entry in read_json_list(test, "id")} - seen.keys() if test else set()
    contents.videos[:] = [video for video in contents.videos if video.stem not in unlabelled]
    contents.others[:] = [file for file in contents.others if file.suffix.lower() != ".json"]
    contents.folders[:] = [folder for folder in contents.folders if folder.name not in SSV2_LISTS]
    for video in contents.videos:
        if video.stem in seen:
            files[video.stem].append(video)
    if listed["train"].keys().isdisjoint(files):
        del listed["train"]
    return match(root, contents, listed, files, classes, reasons={})


def _ssv2_list(part: str, root: Path, lists: Path | None) -> Path | None:
    """The json list of a part. Raises ListError for two of them."""
    names, found = {f"{part}.json", f"something-something-v2-{part}.json"}, []
    for folder in [lists] if lists else [root, *(root / name for name in SSV2_LISTS)]:
        found += [file for file in entries(folder) if file.name.casefold() in names] if folder.is_dir() else []
    if len(found) > 1:
        raise ListError(f"two lists of the part {part}, {found[0]} and {found[1]}; keep one, or set lists_ssv2")
    return found[0] if found else None
