"""Results: the numbers that the runs of a suite left, and how far a row is from its reference.

`collect` reads what the runs left; only a `metrics.json` that the present parameters made counts.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from lib.run.files import read_json, read_lines
from lib.run.params import ROOT
from lib.study.bootstrap import Difference, paired_bootstrap
from lib.study.suites import Run, state_of

PROTOCOLS = {"zero_shot": "zero-shot", "linear_probe": "linear probe"}
COUNTS = ("listed", "found", "decoded")
CLASSES = {"ucf101": 101, "hmdb51": 51, "kinetics400": 400, "charades": 157}


class Collected(NamedTuple):
    """values: run, world_seed, seed, dataset, part, protocol, metric, value, commit (of the adaptation, and of the evaluation
    where it is another), params_hash, folder; a line a number of a part that is reported on. states: run, world_seed, seed,
    dataset, state (of `state_of`), where (log of a failed or begun run), listed, found, decoded (clips of those parts); a line a run and data set.
    classes: how many each data set has, as far as a run is done. warnings: what the finished runs warn of, each with its rows."""

    values: pd.DataFrame
    states: pd.DataFrame
    classes: dict[str, int] = {}
    warnings: list[str] = []


def dataset_name(dataset: str, world_seed: int, num_classes: int | None) -> str:
    """`embedded`, `embedded-1` for a remade world; a subset of an official data set says that it is one."""
    if dataset == "embedded":
        return "embedded" + (f"-{world_seed}" if world_seed else "")
    if num_classes not in (None, CLASSES.get(dataset)) and dataset in CLASSES:
        return f"{dataset} ({num_classes} of {CLASSES[dataset]} classes)"
    return dataset


def _with_clips(found: dict) -> int:
    """How many of the classes that a record's data set is asked for have clips: Kinetics' names are all asked for."""
    return len(
        {*found["classes"]}
        - {name for part in found.get("parts", {}).values() for name in part.get("absent_classes", [])}
    )


def reported(dataset: str, part: str) -> bool:
    """Whether tables show a part: what choices were made on is no result. Kinetics' test labels are not public."""
    return part not in ("train", "validation") or (dataset, part) == ("kinetics400", "validation")


def collect(runs: list[Run]) -> Collected:
    """Reads the numbers of all finished runs, and notes of the others what became of them.

    Raises ValueError, naming two runs, if they were evaluated on different files.
    """
    states = [state_of(run) for run in runs]
    records = [
        read_json(run.folder / "metrics.json") if state == "done" else None for run, (state, _) in zip(runs, states)
    ]
    adapted = [read_json(run.folder / "adapt.json") if record else {} for run, record in zip(runs, records)]
    num_classes = {
        name: (len(found["classes"]), _with_clips(found))
        for record in records
        if record
        for name, found in record["datasets"].items()
    }
    before = {
        run.world_seed: load_file(run.folder / "correct.safetensors")
        for run, record in zip(runs, records)
        if record and run.ablation == "image_clip"
    }
    values, lines, data, classes = [], [], {}, {}  # data: of each data set the first hash of its files, and whose it is
    for run, (state, where), record, before_it in zip(runs, states, records, adapted):
        entries = record["metrics"] + _agreements(run, before.get(run.world_seed, {})) if record else []
        for dataset in run.params.evaluate_on:
            key = {
                "run": run.ablation,
                "world_seed": run.world_seed,
                "seed": run.seed,
                "dataset": dataset_name(
                    dataset, run.world_seed, num_classes[dataset][1] if dataset in num_classes else None
                ),
            }
            counted = record["datasets"][dataset]["counts"] if record else dict.fromkeys(COUNTS)
            lines.append(key | {"state": state, "where": where} | counted)
            if not record:
                continue
            classes[key["dataset"]] = count = num_classes[dataset][0]
            seen = record["datasets"][dataset]["data"]
            first, place = data.setdefault(key["dataset"], (seen, _place(run)))
            if seen != first:
                raise ValueError(
                    f"{place} and {_place(run)} were evaluated on different files of {dataset} (other names or sizes): "
                    "remove the metrics.json of the one that is out of date, and it is made again"
                )
            for entry in entries:
                if (
                    entry["dataset"] == dataset
                    and reported(dataset, entry["part"])
                    and (entry["metric"] != "top5" or count > 5)
                ):
                    number = {name: entry[name] for name in ("part", "protocol", "metric", "value")}
                    values.append(
                        key
                        | number
                        | {
                            "commit": words_once(before_it["commit"], record["commit"]),
                            "folder": _place(run),
                            "params_hash": record["params_hash"],
                        }
                    )
    columns = [
        "run",
        "world_seed",
        "seed",
        "dataset",
        "part",
        "protocol",
        "metric",
        "value",
        "commit",
        "params_hash",
        "folder",
    ]
    return Collected(
        pd.DataFrame(values, columns=columns), pd.DataFrame(lines), classes, _warnings(runs, adapted, records)
    )


def _warnings(runs: list[Run], adapted: list[dict], records: list[dict | None]) -> list[str]:
    """What finished runs warn of (older records say nothing), each with the rows that do, where not all do."""
    rows: dict[str, list[str]] = {}
    for run, *both in zip(runs, adapted, records):
        for text in (text for record in both if record for text in record.get("warnings", [])):
            rows.setdefault(text, []).append(run.ablation)
    done = {run.ablation for run, record in zip(runs, records) if record}
    return [text if set(own) == done else f"{text} ({', '.join(dict.fromkeys(own))})" for text, own in rows.items()]


def _agreements(run: Run, before: dict[str, np.ndarray]) -> list[dict]:
    """Of a trained run, as entries of `metrics`: the share of clips whose middle frame alone it calls what the image CLIP
    (`before`: its predictions) calls it."""
    own = load_file(run.folder / "correct.safetensors") if before and run.params.epochs else {}
    return [
        dict(zip(("dataset", "part", "protocol"), key.split("/")))
        | {"metric": "agreement", "value": 100 * float(((own[key] == before[key]) & (own[key] >= 0)).mean())}
        for key in own
        if key.endswith("/zero_shot_still/predicted") and key in before
    ]


def words_once(*texts: str) -> str:
    """The words of some texts, each once."""
    return " ".join(dict.fromkeys(" ".join(texts).split()))


def _place(run: Run) -> str:
    return str(run.folder.relative_to(ROOT) if run.folder.is_relative_to(ROOT) else run.folder)


def answers_of(answers: dict[str, np.ndarray], dataset: str, protocol: str) -> tuple[np.ndarray, np.ndarray] | None:
    """From a run's `correct.safetensors`: which answers of the reported parts are right, and their clips (the test parts of
    HMDB-51's splits share some). None if the protocol was not evaluated."""
    keys = [
        key
        for key in sorted(answers)
        if key.startswith(f"{dataset}/") and key.endswith(f"/{protocol}") and reported(*key.split("/")[:2])
    ]
    if not keys:
        return None
    clips = [answers[key.removesuffix(protocol) + "clips"] for key in keys]
    return np.concatenate([answers[key] for key in keys]), np.concatenate(clips)


def differences(runs: list[Run], collected: Collected, reference: str) -> pd.DataFrame:
    """Top-1 of the reference minus that of each row, on the same clips: run, dataset, protocol, seeds, mean, low, high.

    Worlds have test clips of their own, so each is compared by itself; the data set "<name>-all" is the mean of the
    worlds' differences, resampled within each. Only finished runs take part; seeds are the row's.
    """
    names = collected.states.set_index(["run", "world_seed", "seed"])["dataset"]
    correct: dict[tuple[str, str, str], dict[str, list]] = {}  # (set, run, protocol) -> its name -> answers by seed
    for run in (run for run in runs if state_of(run)[0] == "done"):
        own, right = (
            names.loc[[(run.ablation, run.world_seed, run.seed)]],
            load_file(run.folder / "correct.safetensors"),
        )
        for (dataset, name), protocol in itertools.product(zip(run.params.evaluate_on, own), PROTOCOLS):
            if (answers := answers_of(right, dataset, protocol)) is not None:
                correct.setdefault((dataset, run.ablation, protocol), {}).setdefault(name, []).append(answers)
    rows, rounds = [], runs[0].params.bootstrap_resamples
    for (dataset, run, protocol), by_name in correct.items():
        base = correct.get((dataset, reference, protocol), {})
        pairs = {
            name: ([right for right, _ in base[name]], [right for right, _ in own], own[0][1])
            for name, own in by_name.items()
            if name in base and run != reference
        }
        compared = {name: [pair] for name, pair in pairs.items()}
        if len(pairs) > 1:
            compared[f"{dataset}-all"] = list(pairs.values())
        rows += [
            {
                "run": run,
                "dataset": name,
                "protocol": protocol,
                "seeds": sum(len(own) for _, own, _ in chosen),
                **paired_bootstrap(chosen, rounds=rounds, seed=0)._asdict(),
            }
            for name, chosen in compared.items()
        ]
    return pd.DataFrame(rows, columns=["run", "dataset", "protocol", "seeds", *Difference._fields])


def compare(run_a: Path, run_b: Path, *, resamples: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Top-1 of two run folders on the same clips: dataset, protocol, a, b, difference (a - b, in points), low, high.

    The 95 % interval is that of `paired_bootstrap`, with one seed each. Raises ValueError if the runs share no data set.
    """
    data_a, data_b = (read_json(folder / "metrics.json")["datasets"] for folder in (run_a, run_b))
    answers_a, answers_b = (load_file(folder / "correct.safetensors") for folder in (run_a, run_b))
    rows = []
    for dataset, protocol in itertools.product([name for name in data_a if name in data_b], PROTOCOLS):
        if data_a[dataset]["data"] != data_b[dataset]["data"]:
            raise ValueError(f"{run_a} and {run_b} were evaluated on different files of {dataset}: evaluate one again")
        a, b = (answers_of(answers, dataset, protocol) for answers in (answers_a, answers_b))
        if a is not None and b is not None:
            difference = paired_bootstrap([(a[0], b[0], a[1])], rounds=resamples, seed=seed)
            rows.append((dataset, protocol, 100 * a[0].mean(), 100 * b[0].mean(), *difference))
    if not rows:
        raise ValueError(f"{run_a} and {run_b} share no data set with zero-shot or linear-probe answers")
    return pd.DataFrame(rows, columns=["dataset", "protocol", "a", "b", "difference", "low", "high"])


def scaling(runs: list[Run], values: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Top-1 in world 0 where nothing but an amount sets a run apart from the reference: axis, run, amount, protocol,
    seed, value.

    axis "videos": unlabelled videos (`train_videos`; epochs and warm-up are counted in them); "epochs": length alone. The
    reference lies on both. values: of `collect`, one data set's; several test parts are lines of their own.
    """
    runs = [run for run in runs if run.world_seed == 0]
    base = next((run.params.model_dump() for run in runs if run.ablation == reference), {})
    top1 = values[(values["metric"] == "top1") & values["protocol"].isin(list(PROTOCOLS)) & (values["world_seed"] == 0)]
    found = []
    for run in runs if base else []:
        changed = {name for name, value in run.params.model_dump().items() if value != base[name]} - {"seed"}
        own = top1[(top1["run"] == run.ablation) & (top1["seed"] == run.seed)]
        if own.empty or not changed <= {"train_videos", "epochs", "warmup_epochs"} or not run.params.epochs:
            continue
        amounts = (
            {"videos": read_json(run.folder / "adapt.json")["videos"]}
            if not changed or "train_videos" in changed
            else {}
        )
        amounts |= {"epochs": run.params.epochs} if changed <= {"epochs"} else {}
        found += [own.assign(axis=axis, amount=amount) for axis, amount in amounts.items()]
    columns = ["axis", "run", "amount", "protocol", "seed", "value"]
    return pd.concat(found)[columns] if found else pd.DataFrame(columns=columns)


def training_logs(runs: list[Run]) -> pd.DataFrame:
    """Every step of those of some finished runs that were trained: run, world_seed, seed, concepts (how many its
    distributions are over), and the columns of `log.jsonl`."""
    logs = []
    for run in (run for run in runs if run.params.epochs):
        count = (
            run.params.head_prototypes
            if run.params.objective == "feature"
            else read_json(run.folder / "adapt.json")["concepts"]
        )
        log = pd.DataFrame(read_lines(run.folder / "log.jsonl"))
        logs.append(log.assign(run=run.ablation, world_seed=run.world_seed, seed=run.seed, concepts=count))
    return pd.concat(logs) if logs else pd.DataFrame()


def shots(values: pd.DataFrame, rows: Sequence[str]) -> pd.DataFrame:
    """Top-1 of the linear probe in world 0 by labelled examples per class (inf: all): run, amount, seed, value."""
    amount = values["protocol"].str.extract(r"^linear_probe_(\d+)_shot$")[0].astype(float)
    amount = amount.mask(values["protocol"] == "linear_probe", np.inf)
    chosen = values.assign(amount=amount)[amount.notna() & (values["metric"] == "top1") & (values["world_seed"] == 0)]
    return pd.concat([chosen[chosen["run"] == row] for row in rows])[["run", "amount", "seed", "value"]]
