"""Before a suite runs: can every unfinished run finish? Each data set is listed once.

    LSS_CONFIG='{"profile": "ucf101", "suite": "reproduce"}' python -m workflow.planned

prints what would stop which rows and exits with status 2; `workflow/make.py` calls it after the dry run.
"""

import json
import os
import sys
from functools import cache
from typing import Any

from transformers import CLIPConfig, PreTrainedTokenizerBase

from lib.backbone import VideoCLIP
from lib.datasets.parts import Parts, defects, read_parts
from lib.datasets.preflight import check_model, check_run
from lib.run.clip_files import checkpoint_name, load_tokenizer
from lib.run.devices import DeviceError, check_count, usable_device
from lib.run.fields import AdaptParams
from lib.run.files import read_json
from lib.run.params import ROOT, elsewhere, is_made_here, world_folder
from lib.run.values import RENDERED
from lib.study.suites import Run, read_suite, runs_of, state_of


def problems_of(runs: list[Run], *, here: bool = True) -> list[str]:
    """What would stop the unfinished runs: for each problem a text with the rows that it stops.

    A world or CLIP that the workflow has yet to make is not checked. here: check for devices on this machine.
    """
    problems, listed = {}, {}

    def read(*source) -> Parts:
        if source not in listed:
            listed[source] = read_parts(*source)
        return listed[source]

    for run in (run for run in runs if state_of(run)[0] != "done"):
        params, record = run.params, run.folder / "adapt.json"
        adapt = not (record.exists() and params.made(read_json(record), AdaptParams))
        try:
            usable_device(params.device if here else "cpu")
            if here and params.device == "cuda":
                check_count(params.devices if adapt else 1)
        except (ValueError, DeviceError) as error:
            problems.setdefault(str(error), []).append(run.ablation)
        if params.rendered and not (world_folder(params) / "world.json").exists():
            continue
        try:
            lists = check_run(params, adapt=adapt, read=read)
            if (ROOT / params.clip).exists() or not is_made_here(params.clip):
                check_model(params, *_image_clip(params.clip), lists, adapt=adapt)
        except (ValueError, FileNotFoundError) as error:
            problems.setdefault(str(error), []).append(run.ablation)
    for (dataset, *_), parts in listed.items():
        if dataset not in RENDERED and runs[0].params.allow_missing and (missing := defects(parts)):
            print(f"{dataset}: runs without what is missing: {'; '.join(missing)}", flush=True)
    return [f"{', '.join(dict.fromkeys(rows))}: {text}" for text, rows in problems.items()]


@cache
def _image_clip(clip: str) -> tuple[CLIPConfig, PreTrainedTokenizerBase]:
    """The checkpoint that runs start from, loaded as a whole: damaged weights are a problem too."""
    config = VideoCLIP.from_image_clip(checkpoint_name(clip)).config
    return config, load_tokenizer(checkpoint_name(clip), config.text_config)


def main() -> int:
    config = json.loads(os.environ["LSS_CONFIG"])
    overrides: dict[str, Any] = elsewhere(config["profile"], config.get("data") or "")
    if config.get("devices"):
        overrides |= {"devices": int(config["devices"])}
    runs = runs_of(read_suite(config["suite"]), config["profile"], overrides)
    if problems := problems_of(runs, here=not config.get("cluster")):
        print(
            f"{config['profile']}, suite {config['suite']}: nothing was started", *problems, sep="\n", file=sys.stderr
        )
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
