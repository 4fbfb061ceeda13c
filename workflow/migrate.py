"""Once, after an upgrade: renames the parameters in the records of finished runs, and computes nothing.

    python -m workflow.migrate                       # every run under outputs/
    python -m workflow.migrate FOLDER [FOLDER ...]   # records elsewhere: FOLDER/<ablation>/world<n>-seed<n>

A run whose records are renamed is "done" for `make` as before. Checkpoints of unfinished runs are not converted.
"""

import argparse
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.run.fields import AdaptParams, EvaluateParams, SceneParams, stage_hash
from lib.run.files import read_json, write_text
from lib.run.params import RENAMED, ROOT

STAGES = {"adapt.json": AdaptParams, "metrics.json": EvaluateParams}


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded parameters under today's names."""
    new = {RENAMED.get(name, name): value for name, value in values.items()}
    if "prior" in values:  # a list of up to two, now a parameter each
        prior = values["prior"]
        new["target_normalisation"] = next((name for name in prior if name != "penalty"), "none")
        new["uniform_prior_weight"] = values["prior_weight"] if "penalty" in prior else 0.0
    return new


def migrate_record(path: Path, stage: type[SceneParams]) -> str:
    """Renames the parameters of one record, and its hash also in the copies beside a run's models.

    Returns what was done in a line, "" if nothing was to do.
    """
    record = read_json(path)
    values = record.get("params", {})
    if not values.keys() & RENAMED.keys():
        return ""
    old_hash = record["params_hash"]
    record["params"] = renamed(values)
    try:
        record["params_hash"] = stage_hash(record["params"], stage)
    except KeyError as missing:
        return f"{path}: older than the parameter {missing}; left unchanged, the run is repeated when it is needed"
    _replace(path, json.dumps(record, indent=1) + "\n")
    if stage is AdaptParams:
        for copy in path.parent.glob("*/adapt.json"):
            migrate_record(copy, AdaptParams)
        for card in path.parent.glob("*/README.md"):
            _replace(card, card.read_text(encoding="utf-8").replace(old_hash, record["params_hash"]))
    return f"{path}: {old_hash} is now {record['params_hash']}"


def _replace(path: Path, text: str) -> None:
    """Rewrites a file and keeps its time: what was made from it is not out of date."""
    stat = path.stat()
    write_text(path, text)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def main() -> None:
    parser = argparse.ArgumentParser(description="Renames parameters in the records of finished runs.")
    parser.add_argument("folders", nargs="*", type=Path, help="with records in FOLDER/<ablation>/world<n>-seed<n>")
    folders = parser.parse_args().folders
    for folder in folders or sorted((ROOT / "outputs").glob("*/runs")):
        for name, stage in STAGES.items():
            for path in sorted(folder.glob(f"*/world*-seed*/{name}")):
                if line := migrate_record(path, stage):
                    print(line)
    if not folders:
        # Snakemake keeps the parameters of each rule and would run everything again.
        shutil.rmtree(ROOT / ".snakemake" / "metadata", ignore_errors=True)


if __name__ == "__main__":
    main()
