"""Before a suite runs: can each run of it that is not done be carried through? Each data set is looked through once.

    LSS_CONFIG='{"profile": "ucf101", "suite": "reproduce"}' python -m workflow.planned

says what is in the way, and of which rows, and ends with status 2; `workflow/make.py` calls it after the dry run.
"""

import json
import os
import sys
from collections.abc import Callable
from functools import cache

from transformers import CLIPConfig, PreTrainedTokenizerBase

from lib.backbone import VideoCLIP
from lib.datasets.lists import defects
from lib.datasets.preflight import Parts, check_model, check_run
from lib.datasets.samples import list_dataset, test_parts, train_part
from lib.run.clip_files import checkpoint_name, load_tokenizer
from lib.run.devices import usable_device
from lib.run.fields import AdaptParams, Params
from lib.run.files import read_json
from lib.run.params import ROOT, elsewhere, lists_of, place_of
from lib.study.suites import Run, read_suite, runs_of, state_of


def problems_of(runs: list[Run], *, here: bool = True) -> list[str]:
    """What stops the runs that are not done, a text each with the rows that it stops. A world that is yet to be rendered is not
    looked for, nor a CLIP that is yet to be made. here: on this machine, whose devices they need."""
    problems, look = {}, _looker()
    for run in (run for run in runs if state_of(run)[0] != "done"):
        try:
            usable_device(run.params.device if here else "cpu")
        except ValueError as error:
            problems.setdefault(str(error), []).append(run.ablation)
        if (
            "embedded" in (run.params.dataset, *run.params.evaluate_on)
            and not (place_of(run.params, "embedded") / "world.json").exists()
        ):
            continue
        adapted = (record := run.folder / "adapt.json").exists() and run.params.made(read_json(record), AdaptParams)
        try:
            lists = check_run(run.params, adapt=not adapted, look=look)
            if (ROOT / run.params.clip).exists() or not run.params.clip.startswith("outputs/embedded/clip/"):
                check_model(run.params, *_image_clip(run.params.clip), lists, adapt=not adapted)
        except (ValueError, FileNotFoundError) as error:
            problems.setdefault(str(error), []).append(run.ablation)
    return [f"{', '.join(dict.fromkeys(rows))}: {text}" for text, rows in problems.items()]


@cache
def _image_clip(clip: str) -> tuple[CLIPConfig, PreTrainedTokenizerBase]:
    """The checkpoint that runs start from."""
    model = VideoCLIP.from_image_clip(checkpoint_name(clip))
    return model.config, load_tokenizer(checkpoint_name(clip), model.config.text_config)


def _looker() -> Callable[[Params, str], Parts]:
    """`list_dataset`, which looks once for all runs that ask for the same."""
    found: dict[tuple, Parts] = {}

    def look(params: Params, dataset: str) -> Parts:
        wanted = (
            dataset,
            place_of(params, dataset),
            lists_of(params, dataset),
            params.allow_missing,
            params.manifests,
            dataset in params.probe_on,
            train_part(params) if dataset == params.dataset else "",
            *(test_parts(params, dataset) if dataset in params.evaluate_on else ()),
        )
        if wanted not in found:
            found[wanted] = list_dataset(params, dataset)
            if dataset != "embedded" and (
                lacking := defects(found[wanted], {})
            ):  # else `allow_missing` would have stopped it
                print(f"{dataset}: goes on without what is missing: {'; '.join(lacking)}", flush=True)
        return found[wanted]

    return look


def main() -> int:
    config = json.loads(os.environ["LSS_CONFIG"])
    overrides = elsewhere(config["profile"], config.get("data") or "")
    problems = problems_of(
        runs_of(read_suite(config["suite"]), config["profile"], overrides), here=not config.get("cluster")
    )
    if problems:
        print(
            "\n".join([f"{config['profile']}, suite {config['suite']}: nothing was begun", *problems]), file=sys.stderr
        )
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
