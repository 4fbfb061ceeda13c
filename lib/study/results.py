"""Results: the numbers that finished runs recorded, and paired differences between runs with their intervals."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from safetensors.numpy import load_file

from lib.run.files import read_json, read_lines
from lib.run.params import ROOT
from lib.run.values import RENDERED
from lib.study.suites import Run, state_of

PROTOCOLS = {"zero_shot": "zero-shot", "linear_probe": "linear probe"}
COUNTS = ["listed", "found", "decoded"]
# of Kinetics-600: those of each zero-shot split
CLASSES = {"ucf101": 101, "hmdb51": 51, "kinetics400": 400, "kinetics600": 160, "ssv2": 174, "charades": 157}
KEYS = ["run", "world_seed", "seed", "dataset"]


class Collected(NamedTuple):
    """The results of some runs.

    values: a row per reported number. states: a row per run and data set, with state, log and counts of test clips.
    classes: number of classes per data set. answers: (data set, protocol, run) -> name of the data set in tables (one
    per world) -> right answers and their clips, one pair per seed, as `answers_of` returns them.
    """

    values: pd.DataFrame
    states: pd.DataFrame
    classes: dict[str, int] = {}
    warnings: list[str] = []
    answers: dict[tuple[str, str, str], dict[str, list[tuple[np.ndarray, np.ndarray]]]] = {}


class Record(NamedTuple):
    """The files of a finished run: adapt.json, metrics.json, correct.safetensors."""

    adapted: dict
    metrics: dict
    correct: dict[str, np.ndarray]

    @classmethod
    def read(cls, folder: Path) -> "Record":
        adapted, metrics = (read_json(folder / name) for name in ("adapt.json", "metrics.json"))
        return cls(adapted, metrics, load_file(folder / "correct.safetensors"))


class Difference(NamedTuple):
    """A mean difference and its 95 % interval, in percentage points."""

    mean: float
    low: float
    high: float


def dataset_name(dataset: str, world_seed: int, num_classes: int | None) -> str:
    """`embedded`, `embedded-1` for another world; a subset of an official data set is named as one."""
    if dataset in RENDERED:
        return f"{dataset}-{world_seed}" if world_seed else dataset
    if num_classes not in (None, CLASSES.get(dataset)) and dataset in CLASSES:
        return f"{dataset} ({num_classes} of {CLASSES[dataset]} classes)"
    return dataset


def reported(dataset: str, part: str) -> bool:
    """Whether tables report a part: test parts, and the validation part of sets whose test labels are not public."""
    return part not in ("train", "validation") or (part == "validation" and dataset in ("kinetics400", "ssv2"))


def words_once(*texts: str) -> str:
    """The distinct words of some texts, in order."""
    return " ".join(dict.fromkeys(" ".join(texts).split()))


def place_of(run: Run) -> str:
    """A run's folder, relative to the repository if inside."""
    return str(run.folder.relative_to(ROOT) if run.folder.is_relative_to(ROOT) else run.folder)


def collect(runs: list[Run]) -> Collected:
    """Reads the numbers of all finished runs, and the state of every run.

    Raises ValueError if two runs were evaluated on different files.
    """
    state_of_run = [state_of(run) for run in runs]
    records = [Record.read(run.folder) if state == "done" else None for run, (state, _) in zip(runs, state_of_run)]
    finished = [(run, record) for run, record in zip(runs, records) if record]
    with_clips = _classes_with_clips([record.metrics for _, record in finished])
    image_clips = {
        (run.world_seed, run.params.clip): record.correct
        for run, record in finished
        if run.ablation.partition("@")[0] == "image_clip"
    }
    values, states, classes, answers, evaluated = [], [], {}, {}, {}
    for run, (state, log), record in zip(runs, state_of_run, records):
        for dataset in run.params.evaluate_on:
            name = dataset_name(dataset, run.world_seed, with_clips.get(dataset))
            key = dict(zip(KEYS, (run.ablation, run.world_seed, run.seed, name)))
            states.append(key | {"state": state, "log": log})
            if not record:
                continue
            data = record.metrics["datasets"][dataset]
            states[-1] |= data["counts"]
            classes[name] = len(data["classes"])
            files, first = evaluated.setdefault(name, (data["data"], place_of(run)))
            if data["data"] != files:
                raise ValueError(
                    f"{first} and {place_of(run)} were evaluated on different files of {dataset}: "
                    "remove the outdated metrics.json to evaluate it again"
                )
            for number in _numbers(run, record, dataset, image_clips.get((run.world_seed, run.params.clip), {})):
                if number["metric"] != "top5" or classes[name] > 5:
                    values.append(number | key)
            for protocol in PROTOCOLS:
                if (right := answers_of(record.correct, dataset, protocol)) is not None:
                    answers.setdefault((dataset, protocol, run.ablation), {}).setdefault(name, []).append(right)
    origin = ["commit", "code", "params_hash", "folder"]
    return Collected(
        pd.DataFrame(values, columns=[*KEYS, "part", "protocol", "metric", "value", *origin]),
        pd.DataFrame(states, columns=[*KEYS, "state", "log", *COUNTS]),
        classes,
        _warnings(finished),
        answers,
    )


def _numbers(run: Run, record: Record, dataset: str, image_clip: dict[str, np.ndarray]) -> list[dict]:
    """The reported numbers of a run on a data set with their origin: of metrics.json, and agreement with `image_clip`.

    Agreement: how often a trained run predicts what the image CLIP predicts from a clip's middle frame, in percent.
    """
    adapted, metrics, correct = record
    numbers = list(metrics["metrics"])
    for key in correct if run.params.epochs else []:
        where = dict(zip(("dataset", "part", "protocol"), key.split("/")))
        of_clip = image_clip.get(f"{where['dataset']}/{where['part']}/zero_shot_still/predicted")
        still = where["protocol"].split("@")[0] == "zero_shot_still"  # also of interpolated weights
        if still and key.endswith("/predicted") and of_clip is not None:
            same = (correct[key] == of_clip) & (correct[key] >= 0)
            numbers.append(where | {"metric": "agreement", "value": 100 * float(same.mean())})
    # records from before the code was hashed are told apart by their commit
    code = [
        f"{stage}:{word}"
        for stage, made_by in (("adapt", adapted), ("evaluate", metrics))
        for word in made_by.get("code", made_by["commit"]).split()
    ]
    origin = {"commit": words_once(adapted["commit"], metrics["commit"]), "code": " ".join(code)}
    origin |= {"params_hash": metrics["params_hash"], "folder": place_of(run)}
    shown = [number for number in numbers if number["dataset"] == dataset and reported(dataset, number["part"])]
    return [number | origin for number in shown]


def _classes_with_clips(metrics: list[dict]) -> dict[str, int]:
    """The number of classes of each data set that have clips: all names of Kinetics are listed, some without any."""
    counts = {}
    for record in metrics:
        for dataset, data in record["datasets"].items():
            absent = {name for part in data.get("parts", {}).values() for name in part.get("absent_classes", [])}
            counts[dataset] = len({*data["classes"]} - absent)
    return counts


def _warnings(finished: list[tuple[Run, Record]]) -> list[str]:
    """The warnings in the records, with the rows concerned where these are not all."""
    rows: dict[str, list[str]] = {}
    for run, record in finished:
        for text in record.adapted.get("warnings", []) + record.metrics.get("warnings", []):
            rows.setdefault(text, []).append(run.ablation)
    every = {run.ablation for run, _ in finished}
    return [text if {*of} == every else f"{text} ({', '.join(dict.fromkeys(of))})" for text, of in rows.items()]


def answers_of(correct: dict[str, np.ndarray], dataset: str, protocol: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Right answers on the reported parts, 'n' bool, and the clip of each, from a run's `correct.safetensors`.

    The test parts of HMDB-51's splits share clips. None if the protocol was not evaluated.
    """
    keys = [key.split("/") for key in sorted(correct)]
    parts = [key[1] for key in keys if (key[0], key[2:]) == (dataset, [protocol]) and reported(dataset, key[1])]
    if not parts:
        return None
    right, clips = ([correct[f"{dataset}/{part}/{name}"] for part in parts] for name in (protocol, "clips"))
    return np.concatenate(right), np.concatenate(clips)


def differences(collected: Collected, reference: str, *, resamples: int) -> pd.DataFrame:
    """Top-1 of the reference minus that of each row, on the same clips: run, dataset, protocol, seeds, mean, low, high.

    Each world has its own test clips and is compared by itself; the data set "<name>-all" is the mean over worlds,
    resampled within each. Only finished runs take part; seeds are the row's.
    """
    rows = []
    for (dataset, protocol, run), worlds in collected.answers.items():
        base = collected.answers.get((dataset, protocol, reference), {})
        pairs = {}
        for name in (name for name in worlds if name in base and run != reference):
            right, base_right = ([answers for answers, _ in seeds[name]] for seeds in (worlds, base))
            pairs[name] = [(base_right, right, worlds[name][0][1])]
        if len(pairs) > 1:
            pairs[f"{dataset}-all"] = list(itertools.chain(*pairs.values()))
        for name, compared in pairs.items():
            seeds = sum(len(right) for _, right, _ in compared)
            rows.append((run, name, protocol, seeds, *paired_bootstrap(compared, resamples=resamples, seed=0)))
    return pd.DataFrame(rows, columns=["run", "dataset", "protocol", "seeds", *Difference._fields])


def compare(run_a: Path, run_b: Path, *, resamples: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Top-1 of two run folders on the same clips: dataset, protocol, a, b, difference (a - b, in points), low, high.

    The 95 % interval is that of `paired_bootstrap`, with one seed each. Raises ValueError without common clips.
    """
    data_a, data_b = (read_json(folder / "metrics.json")["datasets"] for folder in (run_a, run_b))
    correct_a, correct_b = (load_file(folder / "correct.safetensors") for folder in (run_a, run_b))
    rows = []
    for dataset, protocol in itertools.product([name for name in data_a if name in data_b], PROTOCOLS):
        if data_a[dataset]["data"] != data_b[dataset]["data"]:
            raise ValueError(f"{run_a} and {run_b} were evaluated on different files of {dataset}: evaluate one again")
        a, b = (answers_of(correct, dataset, protocol) for correct in (correct_a, correct_b))
        if a is not None and b is not None:
            difference = paired_bootstrap([(a[0], b[0], a[1])], resamples=resamples, seed=seed)
            rows.append((dataset, protocol, 100 * a[0].mean(), 100 * b[0].mean(), *difference))
    if not rows:
        raise ValueError(f"{run_a} and {run_b} share no data set with zero-shot or linear-probe answers")
    return pd.DataFrame(rows, columns=["dataset", "protocol", "a", "b", "difference", "low", "high"])


def paired_bootstrap(
    test_sets: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]], *, resamples: int = 10_000, seed: int
) -> Difference:
    """Accuracy of a minus that of b and its 95 % interval; the mean over test sets.

    test_sets: (a, b, clips) each: right answers, 's n' (seeds, answers) or 'n' bool; the clip of each answer, 'n'.

    Percentiles of `resamples` draws. Each draws clips with replacement within a test set, the same for a and b (paired)
    and with all answers to a clip, and seeds of a and of b with replacement, independently (their numbers may differ).
    With one seed the interval holds for that seed alone.
    """
    generator = np.random.default_rng(seed)
    means, drawn = zip(*(_resampled_differences(*test_set, resamples, generator) for test_set in test_sets))
    low, high = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
    return Difference(100.0 * float(np.mean(means)), 100.0 * float(low), 100.0 * float(high))


def _resampled_differences(
    correct_a: ArrayLike, correct_b: ArrayLike, clips: ArrayLike, resamples: int, generator: np.random.Generator
) -> tuple[float, np.ndarray]:
    """The difference on one test set, and that of each resample, 'r'."""
    a, b = (np.atleast_2d(np.asarray(correct, dtype=np.float64)) for correct in (correct_a, correct_b))
    _, clip, times = np.unique(np.asarray(clips), return_inverse=True, return_counts=True)
    if a.ndim != 2 or not a.shape[1:] == b.shape[1:] == clip.shape or 0 in a.shape or 0 in b.shape:
        raise ValueError(
            f"a {a.shape}, b {b.shape} and clips {clip.shape} must be 's n', 's n' and 'n' with the same n"
        )
    if not np.isin(a, (0, 1)).all() or not np.isin(b, (0, 1)).all():
        raise ValueError("the bootstrap compares right and wrong answers: every entry must be 0 or 1")
    a, b = (np.stack([np.bincount(clip, weights=row) for row in correct]) for correct in (a, b))  # per clip
    drawn = []
    for start in range(0, resamples, 500):  # in parts, to bound the memory
        size = min(500, resamples - start)
        difference = _resampled_seeds(a, size, generator) - _resampled_seeds(b, size, generator)
        chosen = generator.integers(len(times), size=(size, len(times)))
        drawn.append(np.take_along_axis(difference, chosen, axis=1).sum(axis=1) / times[chosen].sum(axis=1))
    return (a.mean(axis=0).sum() - b.mean(axis=0).sum()) / times.sum(), np.concatenate(drawn)


def _resampled_seeds(correct: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """'s n' -> 'r n': means over as many seeds, drawn with replacement.

    Such a mean of s seeds has (s - 1) / s of the variance that it should have; deviations are scaled up accordingly
    (Rao and Wu, "Resampling inference with complex survey data", JASA 1988).
    """
    seeds = len(correct)
    weights = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    return (1 / seeds + (weights - 1 / seeds) * np.sqrt(seeds / max(seeds - 1, 1))) @ correct


def scaling(runs: list[Run], values: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Top-1 in world 0 of the runs that differ from the reference only in an amount: axis, run, amount, protocol, seed,
    value. The axes are "videos" (`train_videos`, with epochs and warm-up) and "epochs"; the reference is on both."""
    runs = [run for run in runs if run.world_seed == 0]
    base = next((run.params.model_dump() for run in runs if run.ablation == reference), {})
    top1 = values[(values["metric"] == "top1") & values["protocol"].isin(list(PROTOCOLS)) & (values["world_seed"] == 0)]
    points = [pd.DataFrame(columns=["axis", "run", "amount", "protocol", "seed", "value"])]
    for run in (run for run in runs if run.params.epochs and base):
        changed = {name for name, value in run.params.model_dump().items() if value != base[name]} - {"seed"}
        of_run = top1[(top1["run"] == run.ablation) & (top1["seed"] == run.seed)]
        if of_run.empty or not changed <= {"train_videos", "epochs", "warmup_epochs"}:
            continue
        if not changed or "train_videos" in changed:
            videos = read_json(run.folder / "adapt.json")["videos"]
            points.append(of_run.assign(axis="videos", amount=videos))
        if changed <= {"epochs"}:
            points.append(of_run.assign(axis="epochs", amount=run.params.epochs))
    return pd.concat(points, join="inner")


def training_logs(runs: list[Run]) -> pd.DataFrame:
    """The `log.jsonl` of the trained runs among finished ones; `concepts`: the number of entries of a distribution."""
    logs = [pd.DataFrame()]
    for run in (run for run in runs if run.params.epochs):
        count = read_json(run.folder / "adapt.json").get("concepts")
        if run.params.objective == "feature":
            count = run.params.head_prototypes
        log = pd.DataFrame(read_lines(run.folder / "log.jsonl"))
        logs.append(log.assign(run=run.ablation, world_seed=run.world_seed, seed=run.seed, concepts=count))
    return pd.concat(logs)


def shots(values: pd.DataFrame, rows: Sequence[str]) -> pd.DataFrame:
    """Top-1 of the linear probe in world 0 by labelled examples per class (inf: all): run, amount, seed, value."""
    amount = values["protocol"].str.extract(r"^linear_probe_(\d+)_shot$")[0].astype(float)
    amount = amount.mask(values["protocol"] == "linear_probe", np.inf)
    shown = values.assign(amount=amount)[amount.notna() & (values["metric"] == "top1") & (values["world_seed"] == 0)]
    return pd.concat([shown[shown["run"] == row] for row in rows])[["run", "amount", "seed", "value"]]
