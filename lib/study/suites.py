"""Suites: the runs that tables are made of, and their states.

A suite (`params/suites/`) names rows (ablations), replicas (world and seed of each run), and tables with rows of their
own.
"""

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open

from lib.run.fields import AdaptParams, EvaluateParams, Params
from lib.run.files import read_json, results_folder, run_folder, whole_folder
from lib.run.params import FOLDER, ROOT, ParamsError, layers, load, read_yaml
from lib.run.values import RENDERED

Replica = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]
Replicas = Annotated[list[Replica], Field(min_length=1)]
Rows = Annotated[list[str], Field(min_length=1)]
RECORDS = "adapt.json", "metrics.json", "correct.safetensors", "log.jsonl"  # what tables and curves are made of
STATES = "done", "failed", "not finished", "not run"


class Table(BaseModel):
    """Rows that are compared with one of them; reference and replicas default to the suite's."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    title: str
    rows: Rows
    reference: str = ""
    replicas: Replicas | None = None


class Suite(BaseModel):
    """Tables `zero_shot` and `linear_probe` of `rows`, and comparisons: `tables`, else one named "objectives".

    pilot: judged on held-out training clips, with a page that says what to do (`lib/study/pilot.py`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    folder: str
    rows: Rows
    reference: str
    replicas: Replicas
    tables: dict[str, Table] = {}
    pilot: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "Suite":
        if (
            taken := {"protocols", "zero_shot", "linear_probe", "aggregate", "few_labels", "interpolation"}
            & self.tables.keys()
        ):
            raise ValueError(f"tables: {sorted(taken)} are names of the tables of `rows`; choose others")
        for name, table in {"rows": self._filled(Table(title="", rows=self.rows)), **self.comparisons}.items():
            if table.reference not in table.rows:
                raise ValueError(f"{name}: reference {table.reference!r} is none of the rows {table.rows}")
            if len(set(table.rows)) < len(table.rows) or len(set(map(tuple, table.replicas))) < len(table.replicas):
                raise ValueError(f"{name}: a row or a replica is listed twice")
        return self

    def _filled(self, table: Table) -> Table:
        defaults = {"reference": table.reference or self.reference, "replicas": table.replicas or self.replicas}
        return table.model_copy(update=defaults)

    @property
    def comparisons(self) -> dict[str, Table]:
        """The tables that compare rows, each with its reference and replicas."""
        tables = self.tables or {"objectives": Table(title="Objectives", rows=self.rows)}
        return {name: self._filled(table) for name, table in tables.items()}


class Run(NamedTuple):
    ablation: str
    world_seed: int
    seed: int
    params: Params
    folder: Path


def read_suite(name: str) -> Suite:
    """A file of `params/suites/`. Raises ParamsError with file, key and reason, also if two suites share a folder."""
    path = FOLDER / "suites" / f"{name}.yaml"
    content, where = read_yaml(path), path.relative_to(ROOT)
    try:
        suite = Suite.model_validate(content)
    except ValidationError as error:
        problems = [(".".join(map(str, problem["loc"])) or "suite", problem["msg"]) for problem in error.errors()]
        raise ParamsError("\n".join(f"{where}: {key}: {reason}" for key, reason in problems)) from None
    for other in sorted(path.parent.glob("*.yaml")):
        if other != path and read_yaml(other).get("folder") == suite.folder:
            raise ParamsError(f"{where}: folder: {suite.folder!r} is the folder of {other.relative_to(ROOT)} too")
    return suite


def runs_of(suite: Suite, profile: str, overrides: Mapping[str, Any] = {}) -> list[Run]:
    """The runs of all tables of a suite, each once, row by row.

    A row without training does not depend on the seed: it runs once per world, with seed 0. Only rendered
    data have several worlds; other data sets run the replicas of world 0.

    Raises ParamsError for the first row that has invalid parameters, changes nothing here or repeats another, and for
    a pilot on a profile that it cannot judge.
    """
    replicas = {row: list(suite.replicas) for row in suite.rows}
    for table in suite.comparisons.values():
        for row in table.rows:
            replicas.setdefault(row, []).extend(table.replicas)
    runs, seen, plain = {}, {}, load(profile=profile, **overrides)
    if suite.pilot and plain.evaluate_parts != ["held_out"]:
        raise ParamsError(f"profile {profile!r} reports test clips, on which a pilot chooses nothing: {profile}+pilot")
    if suite.pilot and (plain.dataset == "charades" or not plain.still_views):
        raise ParamsError(f"profile {profile!r}: a pilot needs clips with one label, and still_views")
    for row in replicas:
        _check_row(row, profile, plain, load(profile=profile, ablation=row, **overrides), seen)
        for world_seed, seed in dict.fromkeys(map(tuple, replicas[row])):
            params = load(profile=profile, ablation=row, **overrides, world_seed=world_seed, seed=seed)
            if params.dataset not in RENDERED and world_seed:
                continue
            if params.epochs == 0:
                params, seed = params.model_copy(update={"seed": 0}), 0
            folder = run_folder(profile, row, world_seed, seed, overrides)
            runs[row, world_seed, seed] = Run(row, world_seed, seed, params, folder)
    tables = {"the suite": Table(title="", rows=suite.rows, replicas=suite.replicas), **suite.comparisons}
    for name, table in tables.items():
        if not runs_of_table(list(runs.values()), table.rows, table.replicas):
            raise ParamsError(f"profile {profile!r} is not of a rendered world: {name} needs a replica of world 0")
    return list(runs.values())


def _check_row(row: str, profile: str, plain: Params, params: Params, seen: dict[tuple, str]) -> None:
    """An empty ablation file is the profile itself; any other must change what is computed, and no two be the same."""
    file = layers(profile, row)[-1].relative_to(FOLDER.parent)
    content = read_yaml(FOLDER.parent / file)
    computed, unchanged = (
        (each.stage_hash(EvaluateParams), *each.places(EvaluateParams).items()) for each in (params, plain)
    )
    if seeds := {"seed", "world_seed"} & content.keys():
        raise ParamsError(f"{file}: {sorted(seeds)} are set by the replicas of a suite: remove them")
    if content and computed == unchanged:
        reason = "its values are the profile's, or set only how the work is done"
        raise ParamsError(f"{file}: changes nothing in profile {profile!r}: {reason}")
    if computed in seen:
        raise ParamsError(f"{file}: has the same parameters as {seen[computed]}.yaml in profile {profile!r}")
    seen[computed] = row


def runs_of_table(runs: list[Run], rows: list[str], replicas: Replicas) -> list[Run]:
    """The runs of a table, in the order of its rows; untrained rows have one run per world."""
    shown, worlds = set(map(tuple, replicas)), {world for world, _ in replicas}

    def in_table(run: Run) -> bool:
        return run.world_seed in worlds if run.params.epochs == 0 else (run.world_seed, run.seed) in shown

    return [run for row in rows for run in runs if run.ablation == row and in_table(run)]


def folder_of(suite: Suite, profile: str, runs: list[Run], overrides: Mapping[str, Any] = {}) -> Path:
    """The folder of a suite's tables, figures and report; `partial` inside it until all runs are done."""
    folder = results_folder(profile, overrides) / suite.folder
    return folder if all(state_of(run)[0] == "done" for run in runs) else folder / "partial"


def outdated_records(run: Run) -> list[Path]:
    """Which of a run's adapt.json and metrics.json were written with other parameters or places than the run's."""
    stages = {run.folder / "adapt.json": AdaptParams, run.folder / "metrics.json": EvaluateParams}
    return [path for path, stage in stages.items() if path.exists() and not run.params.made(read_json(path), stage)]


def state_of(run: Run) -> tuple[str, str]:
    """A run's state, one of `STATES`, and the log of a failed or unfinished run.

    Records of other parameters, or without complete answers, do not count. The workflow leaves a `.failed` beside the
    log of a notebook that ended with an error; a log without one belongs to a run that is under way or was stopped.
    """
    evaluated = (run.folder / "adapt.json").exists() and (run.folder / "metrics.json").exists()
    if evaluated and not outdated_records(run) and _is_complete(run.folder / "correct.safetensors"):
        return "done", ""
    logs = [path for name in ("03_evaluate.log", "02_adapt.log") if (path := run.folder / name).exists()]
    for log in logs:
        if log.with_name(log.name + ".failed").exists():
            return "failed", str(log.relative_to(ROOT))
    if evaluated or not logs:  # the log of outdated records is theirs
        return "not run", ""
    return "not finished", str(logs[0].relative_to(ROOT))


def _is_complete(path: Path) -> bool:
    """Whether a safetensors file exists and is as long as its header says."""
    try:
        with safe_open(path, "np"):
            return True
    except (SafetensorError, FileNotFoundError):
        return False


def keep_records(runs: list[Run], folder: Path) -> int:
    """Copies the `RECORDS` of finished runs to `folder`/<ablation>/world<n>-seed<n>/; returns the number of these runs.

    Copied back to `outputs/<profile>/runs`, they are runs again. Removes records of runs that left the suite.
    """
    names = {(run.ablation, run.folder.name) for run in runs}
    for kept in list(folder.glob("*/*")):
        if (kept.parent.name, kept.name) not in names:
            shutil.rmtree(kept)
    done = [run for run in runs if state_of(run)[0] == "done"]
    for run in done:
        with whole_folder(folder / run.ablation / run.folder.name) as partial:
            for path in (run.folder / name for name in RECORDS):
                if path.exists():  # an untrained run has no log
                    shutil.copy2(path, partial)
    return len(done)


def progress(runs: list[Run], *, at_once: int) -> str:
    """How many runs are in each state, and the minutes left, `at_once` runs at a time.

    A run is expected to take as long as the finished ones of its row; of a row without any, as the mean over rows.
    """
    states, seconds = [state_of(run)[0] for run in runs], {}
    for run, state in zip(runs, states):
        if state == "done":
            spent = sum(read_json(run.folder / name)["seconds"] for name in ("adapt.json", "metrics.json"))
            seconds.setdefault(run.ablation, []).append(spent)
    counts = Counter(states)
    text = f"{len(runs)} runs: " + ", ".join(f"{counts[state]} {state}" for state in STATES)
    if not seconds:
        return text
    means = {row: sum(spent) / len(spent) for row, spent in seconds.items()}
    usual = sum(means.values()) / len(means)
    rest = sum(means.get(run.ablation, usual) for run, state in zip(runs, states) if state != "done") / at_once
    return f"{text}\nabout {rest / 60:.0f} minutes left, {at_once} at once ({usual / 60:.1f} minutes a run)"
