"""The data sets of the field as they lie on disks: UCF-101, HMDB-51, Kinetics-400, Charades, or a folder of one's own.

Every reader looks through a folder once (`folders.walk`) and returns all parts of the data set, each a `VideoList`, whose
fields say what the official lists name and the folder lacks, and the other way round. Sources that contradict each other
are refused, with both places and both values.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lib.datasets.folders import entries, existing_folder, is_video_name, same_content
from lib.datasets.kinetics import list_charades, list_kinetics400
from lib.datasets.lists import ListError, Once, VideoList, in_folders, list_folder, recogniser
from lib.datasets.splits import SIZES, list_hmdb51, list_ucf101
from lib.run.fields import Params
from lib.run.params import ROOT, place_of
from lib.video import manifest

# What the official lists name. Kinetics' copies have shrunk since: these are the sizes of its lists of 2017.
OFFICIAL = SIZES | {"kinetics400": {"train": 246534, "validation": 19906}, "charades": {"train": 7985, "test": 1863}}
OWN = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}  # folders


def manifest_of(params: Params, dataset: str) -> Path:
    """The manifest of a data set, whether or not it exists."""
    return manifest.path_of(ROOT / params.manifests, dataset, place_of(params, dataset))


def list_videos(dataset: str, root: str | Path, *, lists: str | Path | None = None) -> dict[str, VideoList]:
    """The parts of a data set by the name that parameters have for it.

    embedded, folder: those of train, validation and test that have a folder, with a folder per class in it. ucf101, hmdb51:
    train-1, test-1 .. test-3 and all. kinetics400: train, validation. charades: train, test. `lists`: the folder of the
    official lists. Raises FileNotFoundError if `root` holds nothing of the kind, ListError for a list that is no good, or
    what it says is contradicted.
    """
    if dataset in ("embedded", "folder"):
        return _own_parts(Path(root), compare=dataset == "folder")
    readers: dict[str, Callable[..., dict[str, VideoList]]] = {
        "ucf101": list_ucf101,
        "hmdb51": list_hmdb51,
        "kinetics400": list_kinetics400,
        "charades": list_charades,
    }
    return readers[dataset](Path(root), lists=Path(lists) if lists else None)


def _own_parts(root: Path, *, compare: bool) -> dict[str, VideoList]:
    """The parts with the classes of all of them: one that only others have is an absent class. Folders of different parts
    mean one class if their names differ in spelling alone. compare: also look for a file that is there twice."""
    existing_folder(root, "the folders train and test, each with a folder per class")
    found, classes = {}, []
    for part, names in OWN.items():
        folders = [entry for entry in entries(root) if entry.name.casefold() in names and entry.is_dir()]
        if len(folders) > 1:
            raise ListError(
                f"{root}: two folders of the part {part}, {folders[0].name} and {folders[1].name}: keep one"
            )
        for folder in folders:
            found[part] = list_folder(folder)
            known = recogniser(classes)
            classes += [name for name in found[part].classes if not known(name)]
    if not found:
        raise FileNotFoundError(
            f"{root}: none of the folders train, validation and test, each with a folder per class; there "
            f"are: {[entry.name for entry in entries(root)][:8]}"
        )
    classes.sort()
    parts = {part: _in_classes(videos, classes, root) for part, videos in found.items()}
    next(iter(parts.values())).left_out.extend(_beside_parts(root, parts))
    return _without_copies(parts, root) if compare else parts


def _beside_parts(root: Path, parts: dict[str, VideoList]) -> list[str]:
    """Words on clips beside the folders of the parts, loose or in a folder that looks like a class. (Deeper ones are of another
    data set.)"""
    used = {videos.videos[0].path.parent.parent.resolve() for videos in parts.values()}
    idle = [entry for entry in entries(root) if entry.resolve() not in used]
    clips = [
        file
        for entry in idle
        for file in (entries(entry) if entry.is_dir() else [entry])
        if file.is_file() and is_video_name(file)
    ]
    return in_folders(
        root,
        clips,
        f"beside the folders of the parts ({', '.join(parts)}), so in none of them: move them into a class of one",
    )


def _in_classes(videos: VideoList, classes: list[str], root: Path) -> VideoList:
    """A part whose labels count all classes; names of what it leaves out begin with its folder."""
    known = recogniser(classes)
    own = [known(name) for name in videos.classes]
    if twice := [name for name, meant in zip(videos.classes, own) if own.count(meant) > 1]:
        raise ListError(f"{root}: two folders of one class in a part, {' and '.join(twice)}: keep one")
    folder = videos.videos[0].path.parent.parent.name
    return VideoList(
        [
            replace(video, name=f"{own[video.label]}/{video.path.stem}", label=classes.index(own[video.label]))
            for video in videos.videos
        ],
        classes,
        sorted({*classes} - {*own}),
        extra=[f"{folder}/{name}" for name in videos.extra],
        left_out=[f"{folder}/{line}" for line in videos.left_out],
    )


def _without_copies(parts: dict[str, VideoList], root: Path) -> dict[str, VideoList]:
    """Leaves out what is there twice in one class of one part. Raises ListError for a file that is in two of them, whatever
    its names."""
    home = {
        video.path: (part, videos.classes[video.label]) for part, videos in parts.items() for video in videos.videos
    }
    copies: dict[Path, Path] = {}
    for number, group in enumerate(same_content(home)):
        once = Once()
        for part, name in dict.fromkeys(home[path] for path in group):
            once.note(
                number,
                "the same file",
                f"{part}, {name}",
                str(next(path for path in group if home[path] == (part, name))),
            )
        copies |= dict.fromkeys(group[1:], group[0])
    for part, videos in parts.items():
        own = {
            path.relative_to(root): first.relative_to(root) for path, first in copies.items() if home[path][0] == part
        }
        parts[part] = replace(
            videos,
            videos=[video for video in videos.videos if video.path not in copies],
            extra=sorted([*videos.extra, *map(str, own)]),
            left_out=sorted(
                [
                    *videos.left_out,
                    *(
                        f"{path}: the same file as {first}, which is used: remove one of the two"
                        for path, first in own.items()
                    ),
                ]
            ),
        )
    return parts
