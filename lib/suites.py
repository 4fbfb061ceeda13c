"""Suites: which runs a table is made of, and what became of them.

A suite (`params/suites/`) names rows (ablations) and replicas (world and seed of each run).
"""

import itertools
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lib.params import FOLDER, ROOT, EvaluateParams, Params, ParamsError, load, read_yaml
from lib.runs import read_json, run_folder


class Suite(BaseModel):
    """Which runs a table is made of."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    folder: str
    rows: Annotated[list[str], Field(min_length=1)]
    reference: str
    replicas: Annotated[list[Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]],
                        Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> "Suite":
        if self.reference not in self.rows:
            raise ValueError(f"reference {self.reference!r} is none of the rows {self.rows}")
        if len(set(self.rows)) < len(self.rows) or len(set(map(tuple, self.replicas))) < len(self.replicas):
            raise ValueError("a row or a replica is listed twice")
        return self


class Run(NamedTuple):
    ablation: str
    world_seed: int
    seed: int
    params: Params
    folder: Path


def read_suite(name: str) -> Suite:
    """A file of `params/suites/`. Raises ParamsError, naming file, key and reason."""
    path = FOLDER / "suites" / f"{name}.yaml"
    content = read_yaml(path)
    try:
        return Suite.model_validate(content)
    except ValidationError as error:
        problems = [(".".join(map(str, problem["loc"])) or "suite", problem["msg"]) for problem in error.errors()]
        where = path.relative_to(ROOT)
        raise ParamsError("\n".join(f"{where}: {key}: {reason}" for key, reason in problems)) from None


def runs_of(suite: Suite, profile: str, overrides: dict | None = None) -> list[Run]:
    """The runs of a suite, row by row. Raises ParamsError for the first whose parameters are no good.

    Without training the seed changes nothing: such rows run once a world, with seed 0. Data sets other than the
    embedded world exist once: of the replicas, those of world 0 are run.
    """
    runs = {}
    for row, (world_seed, seed) in itertools.product(suite.rows, suite.replicas):
        params = load(profile=profile, ablation=row, **(overrides or {}), world_seed=world_seed, seed=seed)
        if params.dataset != "embedded" and world_seed:
            continue
        if params.epochs == 0:
            params, seed = params.model_copy(update={"seed": 0}), 0
        runs[row, world_seed, seed] = Run(row, world_seed, seed, params, run_folder(profile, row, world_seed, seed))
    if not runs:
        raise ParamsError(f"profile {profile!r} is not of the embedded world: the suite needs a replica of world 0")
    return list(runs.values())


def state_of(run: Run) -> tuple[str, str]:
    """("done" | "failed" | "not run", the log of a failed run). Metrics of other parameters are not the run's."""
    metrics = run.folder / "metrics.json"
    if metrics.exists() and read_json(metrics)["params_hash"] == run.params.stage_hash(EvaluateParams):
        return "done", ""
    names = ("02_adapt.ipynb", "02_adapt.log", "03_evaluate.ipynb", "03_evaluate.log")
    logs = [run.folder / name for name in names if (run.folder / name).exists()]
    if not logs or metrics.exists() and (run.folder / "adapt.json").exists():
        return "not run", ""
    return "failed", str(max(logs, key=lambda path: (path.stat().st_mtime, path.suffix == ".log")).relative_to(ROOT))
