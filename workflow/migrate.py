"""Once, after an upgrade from before December 2026: finished runs get the hash of what they used, nothing is computed.

    python -m workflow.migrate                  # every run under outputs/
    python -m workflow.migrate PROFILE FOLDER   # records elsewhere: FOLDER/<ablation>/world<n>-seed<n>

Until then `params_hash` was over every parameter, used or not, and over the folders of the data. A record is rewritten
only if the old hash, computed from the parameters that it holds, is the one that it names. Checkpoints need nothing:
`train` knows them by both hashes.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from lib.run.fields import AdaptParams, DataSet, EvaluateParams, Neutral, SceneParams, stage_hash
from lib.run.files import read_json, run_folder, write_text
from lib.run.params import ROOT, ParamsError, load


def former_hash(values: Mapping[str, Any], stage: type[SceneParams]) -> str:
    """The hash of a stage as it was: parameters with a neutral value, which came later, are left out where they have it."""
    used = {values["dataset"], *(values["evaluate_on"] if issubclass(stage, EvaluateParams) else ())}
    left_out = {f"{kind}_{name}" for kind in ("data", "lists") for name in {*get_args(DataSet)} - used}
    left_out |= {
        name
        for name, field in stage.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Neutral) and values.get(name, mark.value) == mark.value
    }
    names = ({*stage.model_fields, "max_bad_videos"} & values.keys()) - left_out
    return hashlib.sha256(json.dumps({name: values[name] for name in names}, sort_keys=True).encode()).hexdigest()[:12]


def migrate(folder: Path, today: Mapping[str, Any]) -> list[str]:
    """Rewrites the records of one run where that is due. Returns what was done, or why it could not be, a line a file.

    today: what parameters a run of that name has now. Old records of an evaluation (`metrics.json`) do not hold their own:
    they had those that the adaptation recorded, or, where they came later, today's.
    """
    lines, adapted = [], read_json(folder / "adapt.json")["params"]
    only_adapted = {name: adapted[name] for name in AdaptParams.model_fields if name in adapted}
    tries = {
        "adapt.json": (AdaptParams, [adapted]),
        "metrics.json": (EvaluateParams, [adapted, {**today, **adapted}, {**today, **only_adapted}]),
    }
    for name, (stage, candidates) in tries.items():
        path = folder / name
        record = read_json(path) if path.exists() else {}
        if not record or "params" in record and stage_hash(record["params"], stage) == record["params_hash"]:
            continue
        old = record["params_hash"]
        made_with = next((values for values in candidates if former_hash(values, stage) == old), None)
        if made_with is None:
            lines.append(
                f"{path}: {old} is not the hash of the parameters known of it; left as it is, and made again when it is wanted"
            )
            continue
        try:
            new = stage_hash(made_with, stage)
        except KeyError as lacking:
            lines.append(
                f"{path}: made before there was a parameter {lacking}, which changes what is computed; left as it is"
            )
            continue
        if stage is AdaptParams:  # models carry copies of the record and a card
            for copy in [*folder.glob("*/adapt.json"), *folder.glob("*/README.md")]:
                _replace(copy, copy.read_text(encoding="utf-8").replace(old, new))
        record |= {
            "params": {key: made_with[key] for key in record.get("params", stage.model_fields) if key in made_with},
            "params_hash": new,
        }
        _replace(path, json.dumps(record, indent=1) + "\n")
        lines.append(f"{path}: {old} is now {new}")
    return lines


def _replace(path: Path, text: str) -> None:
    """Writes a file anew with the time of the old one: what was made from it is not out of date."""
    stat = path.stat()
    write_text(path, text)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _of_other_videos(run: Path, today: Mapping[str, Any], profile: str) -> list[str]:
    """Runs of `make ... DATA=` lay among those of the profile, and have results of their own now."""
    recorded, (world_seed, seed) = read_json(run / "adapt.json")["params"], map(int, re.findall(r"\d+", run.name))
    name = f"data_{recorded['dataset']}"
    if (
        not today
        or recorded["dataset"] == "embedded"
        or recorded[name] == today[name]
        or run.parents[2].name != profile
    ):
        return []
    wanted = run_folder(profile, run.parent.name, world_seed, seed, {name: recorded[name]})
    return [
        f"{run}: adapted to videos in {recorded[name]}; `make` with DATA={recorded[name]} looks for it as {wanted}: if it was made so, move it there"
    ]


def main() -> None:
    """The command line: of every run of a profile, the parameters that it has today, and what became of its records."""
    parser = argparse.ArgumentParser(description="Gives finished runs the hash of what they used; computes nothing.")
    parser.add_argument("profile", nargs="?", help="a file under params/profiles; without it, all under outputs/")
    parser.add_argument("folder", nargs="?", type=Path, help="FOLDER/<ablation>/world<n>-seed<n> hold the records")
    given = parser.parse_args()
    places = (
        {given.folder: given.profile}
        if given.folder
        else {path: path.parent.name for path in sorted((ROOT / "outputs").glob("*/runs"))}
    )
    for place, profile in places.items():
        for run in sorted(path.parent for path in place.glob("*/world*-seed*/adapt.json")):
            world_seed, seed = map(int, re.findall(r"\d+", run.name))
            try:
                today = dict(load(profile=profile, ablation=run.parent.name, world_seed=world_seed, seed=seed))
            except ParamsError:  # a profile or an ablation of one's own that is gone: the record holds what it was
                today = {}
            for line in [*migrate(run, today), *_of_other_videos(run, today, profile)]:
                print(line)
            for old in (path for path in run.glob("features/*") if "-" not in path.stem):
                old.unlink()  # features are kept under another name now, and these would lie there for good
    if not given.folder:
        # Snakemake noted the rules' parameters of then, and would run everything again; the records say what made them
        shutil.rmtree(ROOT / ".snakemake" / "metadata", ignore_errors=True)


if __name__ == "__main__":
    main()
