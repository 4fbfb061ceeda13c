"""Checks a profile's data before any compute: does everything exist, and can every file be decoded?

    python -m lib.datasets.check paper

reads every file of the profile's data sets once and writes their manifests (`lib/video/manifest.py`), which later runs
use instead of probing the files again. `make check-data PROFILE=paper` and every suite call it.
"""

import argparse
import sys
from functools import cache

from huggingface_hub import HfApi, try_to_load_from_cache

from lib.datasets.official import OFFICIAL, list_videos
from lib.datasets.parts import Parts, check_parts, defects, examples, manifest_of, with_manifest
from lib.run.fields import Params
from lib.run.params import (
    ROOT,
    ParamsError,
    absent_files,
    elsewhere,
    is_made_here,
    layers,
    lists_of,
    load,
    place_of,
    read_yaml,
)
from lib.run.values import RENDERED
from lib.video import manifest

SOURCES = {
    "ucf101": "https://www.crcv.ucf.edu/data/UCF101.php (UCF101.rar)",
    "hmdb51": "https://serre.lab.brown.edu/hmdb51.html (hmdb51_org.rar, one archive per class in it)",
    "kinetics400": "https://github.com/cvdfoundation/kinetics-dataset (k400_downloader.sh)",
    "kinetics600": "https://github.com/cvdfoundation/kinetics-dataset (k600_downloader.sh; validation alone)",
    "ssv2": "https://www.qualcomm.com/developer/software/something-something-v-2-dataset (videos and labels)",
    "charades": "https://prior.allenai.org/projects/charades (480p videos, and the annotations)",
    "folder": "your own videos: {train,test}/<class>/<video>",
}


def datasets_of(params: Params) -> list[str]:
    """The data sets that a run reads, without those that the workflow renders."""
    return [name for name in dict.fromkeys([params.dataset, *params.evaluate_on]) if name not in RENDERED]


def absent(params: Params, *, profile: str) -> list[str]:
    """What the parameters name but does not exist: what it is, where to get it, and what to edit."""
    problems = absent_files(params)
    for dataset in datasets_of(params):
        if not (root := place_of(params, dataset)).is_dir():
            setting = setting_of(f"data_{dataset}", profile)
            setting += ", which DATA= or an override replaces" * (root != place_of(load(profile=profile), dataset))
            problems.append(f"{dataset}: {root} is no folder\n  get it: {SOURCES[dataset]}\n  edit:   {setting}")
    if not is_made_here(params.clip) and not (ROOT / params.clip).is_dir() and not _on_hub(params.clip):
        source = f"hf download {params.clip} --local-dir <folder> (where there is a connection)"
        source = "pretrain it with 10_embedded_clip" if params.clip.startswith("outputs/") else source
        problems.append(
            f"clip: {params.clip} is neither a folder nor available from the Hugging Face hub\n"
            f"  get it: {source}\n"
            f"  edit:   {setting_of('clip', profile)}"
        )
    return problems


def setting_of(key: str, profile: str) -> str:
    """Where a profile sets a parameter: "`key` in params/profiles/paper.yaml"."""
    path = next(path for path in reversed(layers(profile)) if key in read_yaml(path))
    return f"`{key}` in {path.relative_to(ROOT)}"


@cache
def _on_hub(name: str) -> bool:
    try:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            HfApi().model_info(name, timeout=10)
    except Exception:  # no such repository, no connection, or an invalid name
        return False
    return True


def check_data(params: Params, dataset: str, *, workers: int) -> bool:
    """Decodes every file of a data set, writes its manifest, and reports missing, unlisted and corrupt files.

    Returns whether the data set is complete; if not, runs stop unless `allow_missing`. Raises like `list_dataset` for
    invalid lists and absent parts.
    """
    root, path = place_of(params, dataset), manifest_of(params, dataset)
    parts = list_videos(dataset, root, lists=lists_of(params, dataset))
    check_parts(params, dataset, parts)
    print(f"{dataset}: {root}", *report(parts, OFFICIAL.get(dataset, {})), sep="\n  ")
    videos = {video.path for videos in parts.values() for video in videos.videos}
    unfinished = path.with_name(path.name + ".unfinished")  # left by an interrupted check
    previous = next((manifest.read(earlier) for earlier in (unfinished, path) if earlier.exists()), None)
    if previous is None and (outdated := manifest.of_other_code(path)):
        print(f"  every file is read again: {outdated[-1].name} was made by other code")
    table = manifest.check(sorted(videos), root=root, workers=workers, previous=previous, unfinished=unfinished)
    manifest.write(table, path)
    unfinished.unlink(missing_ok=True)
    print(f"  {(table['error'] == '').sum()} of {len(table)} files can be decoded; manifest: {path}")
    problems = defects(with_manifest(parts, table, root))
    for heading, names in problems.items():
        print(f"  {heading}:", *names, sep="\n    ")
    # repeat the headings below the names
    print(f"  {dataset} is {'incomplete: ' if problems else 'complete'}{'; '.join(problems)}")
    return not problems


def report(parts: Parts, official: dict[str, int]) -> list[str]:
    """The number of listed clips in each part, and the files that no list names."""
    lines = []
    for part, videos in parts.items():
        line = f"{part}: {len(videos)} of {len(videos) + len(videos.missing)} listed clips found"
        lines.append(line + (f" (officially {official[part]})" if part in official else ""))
    extra = sorted({name for videos in parts.values() for name in videos.extra})
    return lines + [f"{len(extra)} files or folders are in no list: {examples(extra, 3)}"] * bool(extra)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Reads every file of a profile's data sets once.")
    parser.add_argument("profile", help="a file under params/profiles, or several: paper+mine")
    parser.add_argument("--data", default="", help="another folder for the profile's data set")
    parser.add_argument("--dataset", default="", help="check only this one")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    options = parser.parse_args(arguments)
    try:
        params = load(profile=options.profile, **elsewhere(options.profile, options.data))
        if options.dataset and options.dataset not in datasets_of(params):
            parser.error(f"--dataset: {options.profile} reads {', '.join(datasets_of(params))}, not {options.dataset}")
        datasets = [options.dataset] if options.dataset else datasets_of(params)
        if not all(place_of(params, name).is_dir() for name in datasets):
            raise ParamsError("\n".join(absent(params, profile=options.profile)))
        complete = [check_data(params, dataset, workers=options.workers) for dataset in datasets]
    except (ValueError, OSError) as error:  # parameters, lists and folders
        print(error, file=sys.stderr)
        return 2
    if not datasets:
        print(f"{options.profile} reads only rendered videos, which the workflow makes")
    return 0 if all(complete) or params.allow_missing else 1


if __name__ == "__main__":
    sys.exit(main())
