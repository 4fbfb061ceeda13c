"""Suites: which runs tables are made of, and what became of them.

A suite (`params/suites/`) names rows (ablations) and replicas (world and seed of each run), and tables with rows of
their own.
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

Replicas = Annotated[
    list[Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]], Field(min_length=1)
]
Rows = Annotated[list[str], Field(min_length=1)]
RECORDS = (
    "adapt.json",
    "metrics.json",
    "correct.safetensors",
    "log.jsonl",
)  # of a run: what tables and curves are made of


class Table(BaseModel):
    """Rows that are compared with one of them; without replicas or a reference of its own, it has the suite's."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    title: str
    rows: Rows
    reference: str = ""
    replicas: Replicas | None = None


class Suite(BaseModel):
    """Tables `zero_shot` and `linear_probe` of `rows`, and comparisons: `tables`, else one named "objectives"."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    folder: str
    rows: Rows
    reference: str
    replicas: Replicas
    tables: dict[str, Table] = {}

    @model_validator(mode="after")
    def _consistent(self) -> "Suite":
        if taken := {"protocols", "zero_shot", "linear_probe", "few_labels"} & self.tables.keys():
            raise ValueError(f"tables: {sorted(taken)} are names of the tables of `rows`; choose others")
        for name, table in {"rows": Table(title="", rows=self.rows, replicas=self.replicas), **self.tables}.items():
            reference, replicas = table.reference or self.reference, table.replicas or self.replicas
            if reference not in table.rows:
                raise ValueError(f"{name}: reference {reference!r} is none of the rows {table.rows}")
            if len(set(table.rows)) < len(table.rows) or len(set(map(tuple, replicas))) < len(replicas):
                raise ValueError(f"{name}: a row or a replica is listed twice")
        return self

    @property
    def comparisons(self) -> dict[str, Table]:
        """The tables that compare rows, each with its reference and replicas."""
        tables = self.tables or {"objectives": Table(title="Objectives", rows=self.rows)}
        return {
            name: table.model_copy(
                update={"reference": table.reference or self.reference, "replicas": table.replicas or self.replicas}
            )
            for name, table in tables.items()
        }


class Run(NamedTuple):
    ablation: str
    world_seed: int
    seed: int
    params: Params
    folder: Path


def read_suite(name: str) -> Suite:
    """A file of `params/suites/`. Raises ParamsError, naming file, key and reason; also for a folder that is another suite's,
    whose tables it would replace."""
    path = FOLDER / "suites" / f"{name}.yaml"
    content, where = read_yaml(path), path.relative_to(ROOT)
    try:
        suite = Suite.model_validate(content)
    except ValidationError as error:
        problems = [(".".join(map(str, problem["loc"])) or "suite", problem["msg"]) for problem in error.errors()]
        raise ParamsError("\n".join(f"{where}: {key}: {reason}" for key, reason in problems)) from None
    for other in sorted(path.parent.glob("*.yaml")):
        if other != path and read_yaml(other).get("folder") == suite.folder:
            raise ParamsError(
                f"{where}: folder: {suite.folder!r} is that of {other.relative_to(ROOT)} too, and tables of the one would take "
                "the place of the other's; choose another"
            )
    return suite


def runs_of(suite: Suite, profile: str, overrides: Mapping[str, Any] = {}) -> list[Run]:
    """The runs of all tables of a suite, each once, row by row.

    Without training the seed changes nothing: such rows run once a world, with seed 0. Data sets other than the
    embedded world exist once: of the replicas, those of world 0 are run.

    Raises ParamsError for the first row whose parameters are no good, that changes nothing in this profile, or that is
    the same as another.
    """
    wanted = {row: list(suite.replicas) for row in suite.rows}
    for table in suite.comparisons.values():
        for row in table.rows:
            wanted.setdefault(row, []).extend(table.replicas)
    runs, seen, plain = {}, {}, load(profile=profile, **overrides)
    for row, replicas in wanted.items():
        own = load(profile=profile, ablation=row, **overrides)
        _check_difference(row, profile, plain, own, seen)
        for world_seed, seed in dict.fromkeys(map(tuple, replicas)):
            params = load(profile=profile, ablation=row, **overrides, world_seed=world_seed, seed=seed)
            if params.dataset != "embedded" and world_seed:
                continue
            if params.epochs == 0:
                params, seed = params.model_copy(update={"seed": 0}), 0
            runs[row, world_seed, seed] = Run(
                row, world_seed, seed, params, run_folder(profile, row, world_seed, seed, overrides)
            )
    tables = {"the suite": Table(title="", rows=suite.rows, replicas=suite.replicas), **suite.comparisons}
    for name, table in tables.items():
        if not runs_of_table(list(runs.values()), table.rows, table.replicas):
            raise ParamsError(f"profile {profile!r} is not of the embedded world: {name} needs a replica of world 0")
    return list(runs.values())


def _check_difference(row: str, profile: str, plain: Params, params: Params, seen: dict[str, str]) -> None:
    """An empty ablation file is the profile itself; any other must change what is computed, and no two the same."""
    file = layers(profile, row)[-1].relative_to(FOLDER.parent)
    content, digest = read_yaml(FOLDER.parent / file), _identity(params)
    if replaced := {"seed", "world_seed"} & content.keys():
        raise ParamsError(f"{file}: {sorted(replaced)} are the replicas' of a suite, not an ablation's")
    if content and digest == _identity(plain):
        raise ParamsError(
            f"{file}: changes nothing in profile {profile!r}: its values are the profile's own, or say only how "
            "the work is done here"
        )
    if digest in seen:
        raise ParamsError(f"{file}: has the same parameters as {seen[digest]}.yaml in profile {profile!r}")
    seen[digest] = row


def _identity(params: Params) -> tuple:
    return params.stage_hash(EvaluateParams), *params.places(EvaluateParams).items()


def runs_of_table(runs: list[Run], rows: list[str], replicas: Replicas) -> list[Run]:
    """Those of the runs that a table shows, in the order of its rows."""
    shown = set(map(tuple, replicas))
    return [
        run
        for row in rows
        for run in runs
        if run.ablation == row
        and ((run.world_seed, run.seed) in shown or run.params.epochs == 0 and run.world_seed in {w for w, _ in shown})
    ]


def folder_of(suite: Suite, profile: str, runs: list[Run], overrides: Mapping[str, Any] = {}) -> Path:
    """Where tables, figures and report of a suite go: those of a suite that is not finished into a folder `partial`, so that
    they never take the place of finished ones."""
    place = results_folder(profile, overrides) / suite.folder
    return place if all(state_of(run)[0] == "done" for run in runs) else place / "partial"


def made_otherwise(run: Run) -> list[Path]:
    """Those of a run's records (adapt.json, metrics.json) that say other parameters or places than its own, whatever wrote
    them."""
    stages = {run.folder / "adapt.json": AdaptParams, run.folder / "metrics.json": EvaluateParams}
    return [path for path, stage in stages.items() if path.exists() and not run.params.made(read_json(path), stage)]


def state_of(run: Run) -> tuple[str, str]:
    """("done" | "failed" | "not finished" | "not run", the log of a failed or begun run). Metrics of other parameters, or
    without the answers that belong to them, are not the run's. The workflow leaves a `.failed` beside the log of a notebook
    that ended with an error; without it, the run is under way, or was stopped."""
    results = [run.folder / name for name in ("adapt.json", "metrics.json")]
    whole = all(path.exists() for path in results)
    if whole and not made_otherwise(run) and _is_whole(run.folder / "correct.safetensors"):
        return "done", ""
    logs = [path for name in ("03_evaluate.log", "02_adapt.log") if (path := run.folder / name).exists()]
    for log in logs:
        if log.with_name(log.name + ".failed").exists():
            return "failed", str(log.relative_to(ROOT))
    if whole or not logs:  # what other parameters left is not this run's
        return "not run", ""
    return "not finished", str(logs[0].relative_to(ROOT))


def _is_whole(path: Path) -> bool:
    """Whether a safetensors file is there and as long as its head says."""
    try:
        with safe_open(path, "np"):
            return True
    except (SafetensorError, FileNotFoundError):
        return False


def keep_records(runs: list[Run], folder: Path) -> int:
    """Copies the records of the finished runs, without their models, to `folder`/<ablation>/world<n>-seed<n>/, as under
    `outputs/<profile>/runs`, into which they can be copied back. Those of runs that are no longer the suite's go; those of
    unfinished ones stay. Returns how many were copied."""
    names = {(run.ablation, run.folder.name) for run in runs}
    for own in list(folder.glob("*/*")):
        if (own.parent.name, own.name) not in names:
            shutil.rmtree(own)
    done = [run for run in runs if state_of(run)[0] == "done"]
    for run in done:
        with whole_folder(folder / run.ablation / run.folder.name) as partial:
            for path in (run.folder / name for name in RECORDS):
                if path.exists():  # there is no log without training
                    shutil.copy2(path, partial)
    return len(done)


def progress(runs: list[Run], *, at_once: int) -> str:
    """How many runs are done, failed, under way or stopped, and not run, and how long the rest takes if it goes on as
    before, so many at once.

    The time of a run is that of its adaptation and evaluation; where none of a row is done, the mean of all.
    """
    states, seconds = {run.folder: state_of(run)[0] for run in runs}, {}
    for run in runs:
        if states[run.folder] == "done":
            spent = sum(read_json(run.folder / name)["seconds"] for name in ("adapt.json", "metrics.json"))
            seconds.setdefault(run.ablation, []).append(spent)
    counts = Counter(states.values())
    lines = [
        f"{len(runs)} runs: "
        + ", ".join(f"{counts[state]} {state}" for state in ("done", "failed", "not finished", "not run"))
    ]
    if seconds:
        mean = {row: sum(spent) / len(spent) for row, spent in seconds.items()}
        usual = sum(mean.values()) / len(mean)
        rest = sum(mean.get(run.ablation, usual) for run in runs if states[run.folder] != "done") / at_once
        lines.append(f"about {rest / 60:.0f} minutes left, {at_once} at once ({usual / 60:.1f} minutes a run)")
    return "\n".join(lines)
