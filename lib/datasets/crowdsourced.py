"""Charades and Something-Something v2: clips that people were asked to film, named by lists."""

from collections import defaultdict
from pathlib import Path

from lib.datasets.folders import walk
from lib.datasets.lists import ListError, VideoList, check_unique, folders_without, match, read_lines, read_rows


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
