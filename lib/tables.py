"""Tables: the runs of a suite, the numbers they left, and the files that are published of them.

A suite (`params/suites/`) names rows (ablations) and replicas (world and seed of each run). `collect` reads what the
runs left; only a `metrics.json` that the present parameters made counts. Three tables come of it, each as CSV (all
numbers, one a line), Markdown and LaTeX (to be read).
"""

import itertools
import os
import re
from pathlib import Path
from typing import Annotated, NamedTuple

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors.numpy import load_file

from lib.metrics import Difference, pooled_bootstrap
from lib.params import FOLDER, ROOT, EvaluateParams, Params, ParamsError, load, read_yaml
from lib.runs import read_json, run_folder

COLUMNS = ["run", "dataset", "protocol", "metric", "mean", "std", "seeds", "paper", "source", "commit", "params_hash"]
PROTOCOLS = {"zero_shot": "zero-shot", "linear_probe": "linear probe"}
METRICS = {"top1": "top-1", "top5": "top-5", "pair_top1": "pairs"}
UCF101_CLASSES = 101
# Reported on the whole data set; a subset of it is another data set.
PAPER = {("lss", "ucf101", "linear_probe", "top1"): ("91.1", "arXiv 2307.10922"),
         ("lss", "ucf101", "zero_shot", "top1"): ("not available", "arXiv 2307.10922")}


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


class Collected(NamedTuple):
    """values: run, world_seed, seed, dataset, protocol, metric, value, commit, params_hash; a line a number of the test
    part. states: run, world_seed, seed, dataset, state ("done", "failed", "not run"), where (log of a failed run),
    listed, decoded (clips of the test part); a line a run."""

    values: pd.DataFrame
    states: pd.DataFrame


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


def dataset_name(params: Params, num_classes: int | None) -> str:
    """`embedded`, `embedded-1` for a remade world; a subset of UCF-101 says that it is one."""
    if params.dataset == "embedded":
        return "embedded" + (f"-{params.world_seed}" if params.world_seed else "")
    if params.dataset == "ucf101" and num_classes not in (None, UCF101_CLASSES):
        return f"ucf101 ({num_classes} of {UCF101_CLASSES} classes)"
    return params.dataset


def collect(runs: list[Run]) -> Collected:
    """Reads the numbers of all finished runs, and notes of the others what became of them."""
    states = [state_of(run) for run in runs]
    records = [read_json(run.folder / "metrics.json") if state == "done" else None
               for run, (state, _) in zip(runs, states)]
    num_classes = max((len(record["classes"]) for record in records if record), default=None)
    values, lines = [], []
    for run, (state, where), record in zip(runs, states, records):
        key = {"run": run.ablation, "world_seed": run.world_seed, "seed": run.seed,
               "dataset": dataset_name(run.params, num_classes)}
        test = record["parts"]["test"] if record else {"listed": None, "decoded": None}
        lines.append(key | {"state": state, "where": where, "listed": test["listed"], "decoded": test["decoded"]})
        for entry in record["metrics"] if record else []:
            if entry["part"] == "test":
                number = {name: entry[name] for name in ("protocol", "metric", "value")}
                values.append(key | number | {name: record[name] for name in ("commit", "params_hash")})
    columns = ["run", "world_seed", "seed", "dataset", "protocol", "metric", "value", "commit", "params_hash"]
    return Collected(pd.DataFrame(values, columns=columns), pd.DataFrame(lines))


def differences(runs: list[Run], collected: Collected, reference: str) -> pd.DataFrame:
    """Top-1 of the reference minus that of each row, on the same clips: run, dataset, protocol, seeds, mean, low, high.

    Worlds have test clips of their own, so each is compared by itself; the data set "<name>-all" is the mean of the
    worlds' differences, resampled within each. Only finished runs take part; seeds are the row's.
    """
    datasets = collected.states.set_index("world_seed")["dataset"].to_dict()
    correct: dict[tuple[str, str], dict[int, list]] = {}  # (run, protocol) -> world -> answers of each seed
    for run in runs:
        if state_of(run)[0] == "done":
            answers = load_file(run.folder / "correct.safetensors")
            for protocol in PROTOCOLS:
                by_world = correct.setdefault((run.ablation, protocol), {})
                by_world.setdefault(run.world_seed, []).append(answers[f"test/{protocol}"])
    rows, rounds = [], runs[0].params.bootstrap_rounds
    for (run, protocol), by_world in correct.items():
        base = correct.get((reference, protocol), {})
        pairs = {world: (base[world], own) for world, own in by_world.items() if world in base and run != reference}
        compared = {datasets[world]: [pair] for world, pair in pairs.items()}
        if len(pairs) > 1:
            compared[f"{collected.states['dataset'][0]}-all"] = list(pairs.values())
        rows += [{"run": run, "dataset": dataset, "protocol": protocol, "seeds": sum(len(own) for _, own in chosen),
                  **pooled_bootstrap(chosen, rounds=rounds, seed=0)._asdict()} for dataset, chosen in compared.items()]
    return pd.DataFrame(rows, columns=["run", "dataset", "protocol", "seeds", *Difference._fields])


def long_table(collected: Collected, protocols: list[str]) -> pd.DataFrame:
    """All rows x data sets x metrics, in `COLUMNS`: mean and population standard deviation over seeds.

    Where no run of a row is done, the mean reads "failed" or "not run".
    """
    values, states = collected
    metrics = [name for name in METRICS if values.empty or (values["metric"] == name).any()]
    rows = []
    for (run, dataset), group in states.groupby(["run", "dataset"], sort=False):
        for protocol, metric in itertools.product(protocols, metrics):
            wanted = (run, dataset, protocol, metric)
            found = values[(values[["run", "dataset", "protocol", "metric"]] == list(wanted)).all(axis=1)]
            paper, source = PAPER.get(wanted, ("", ""))
            mean, std = f"{found['value'].mean():.2f}", f"{found['value'].std(ddof=0):.2f}" if len(found) > 1 else ""
            if found.empty:
                mean = next((state for state in ("failed", "not run") if state in set(group["state"])), "not measured")
            rows.append([run, dataset, protocol, metric, mean, std, len(found), paper, source,
                         " ".join(found["commit"].unique()), " ".join(found["params_hash"].unique())])
    return pd.DataFrame(rows, columns=COLUMNS)


def difference_table(compared: pd.DataFrame, reference: str) -> pd.DataFrame:
    """`differences` in `COLUMNS`: three lines each, the mean and the ends of its 95 % interval."""
    name, ends = f"{reference}_minus_row_top1", {"mean": "", "low": "_low", "high": "_high"}
    lines = [(row.run, row.dataset, row.protocol, name + suffix, f"{getattr(row, end):.2f}", row.seeds)
             for row in compared.itertuples() for end, suffix in ends.items()]
    table = pd.DataFrame(lines, columns=["run", "dataset", "protocol", "metric", "mean", "seeds"])
    return table.reindex(columns=COLUMNS, fill_value="")


def _cells(table: pd.DataFrame, index: list[str]) -> pd.DataFrame:
    """A long table -> "mean ± std" as text, a column for each metric that is not in the index."""
    text = table["mean"].str.replace(r"^([\d.]+)$", lambda found: f"{float(found[0]):.1f}", regex=True)
    text += table["std"].map(lambda std: f" ± {float(std):.1f}" if std else "")
    wide = table.assign(text=text).pivot(index=index, columns="metric", values="text")
    order = pd.MultiIndex.from_frame(table[index].drop_duplicates()) if len(index) > 1 else table[index[0]].unique()
    return wide.reindex(order)[[name for name in METRICS if name in wide]].rename(columns=METRICS)


def protocol_table(table: pd.DataFrame) -> pd.DataFrame:
    """The long table of one protocol, to be read: one line a run and data set. A reported number has its column."""
    wide = _cells(table, ["run", "dataset"])
    first = table[table["metric"] == "top1"].set_index(["run", "dataset"])
    wide["seeds"] = first["seeds"].astype(str)
    if (first["paper"] != "").any():
        wide["paper, top-1"] = (first["paper"] + " (" + first["source"] + ")").where(first["paper"] != "", "")
    return wide.reset_index()


def objectives_tables(table: pd.DataFrame, compared: pd.DataFrame, collected: Collected,
                      reference: str) -> list[pd.DataFrame]:
    """One line a run: both protocols on the first data set, what the reference has more, seeds; where worlds were
    remade, a second table has theirs. A difference is bold (`**`) where its interval excludes zero.
    """
    cells = {key: _cells(part, ["run"]) for key, part in table.groupby(["dataset", "protocol"])}
    datasets = list(collected.states["dataset"].unique())
    text = compared.apply(lambda row: f"{row['mean']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]", axis=1).astype(str)
    text = text.where(~((compared["low"] > 0) | (compared["high"] < 0)), "**" + text + "**")
    gaps = compared.assign(text=text).set_index(["dataset", "protocol", "run"])["text"]

    def gap(dataset: str, protocol: str) -> pd.Series:
        return pd.Series({run: gaps.get((dataset, protocol, run), "") for run in table["run"].unique()})

    wide = {}
    for protocol, spoken in PROTOCOLS.items():
        own = cells[datasets[0], protocol]
        wide |= {spoken: own["top-1"]} | ({f"{spoken}, pairs": own["pairs"]} if "pairs" in own else {})
    wide |= {f"{reference} - run, {spoken}": gap(datasets[0], protocol) for protocol, spoken in PROTOCOLS.items()}
    states = collected.states[collected.states["dataset"] == datasets[0]].groupby("run", sort=False)["state"]
    wide["seeds"] = states.agg(lambda s: str(len(s)) if (s == "done").all() else f"{(s == 'done').sum()} of {len(s)}")
    remade = {f"{dataset}, {spoken}": cells[dataset, protocol]["top-1"]
              for protocol, spoken in PROTOCOLS.items() for dataset in datasets[1:]}
    if remade:
        remade |= {f"{reference} - run, all worlds, {spoken}": gap(f"{datasets[0]}-all", protocol)
                   for protocol, spoken in PROTOCOLS.items()}
    return [pd.DataFrame(columns).reindex(table["run"].unique()).rename_axis("run").reset_index()
            for columns in (wide, remade) if columns]


def notes(collected: Collected, reference: str) -> list[str]:
    """What a reader must know: the measures, the clips that were not decoded, the runs that are missing."""
    lines = ["Accuracies in percent on the test part, mean ± population standard deviation over seeds; pairs: the "
             "choice between the two actions of a confusable pair (chance: 50).",
             f"{reference} - run: difference of the top-1 accuracies in points with its 95 % interval (bootstrap over "
             "test clips and seeds, paired by clip), bold where the interval excludes zero."]
    for dataset, group in collected.states.dropna().groupby("dataset", sort=False):
        decoded, listed = int(group["decoded"].min()), int(group["listed"].max())
        wrong = "; the others count as wrong" if decoded < listed else ""
        lines.append(f"{dataset}: {decoded} of {listed} test clips decoded{wrong}")
    for row in collected.states[collected.states["state"] != "done"].itertuples():
        where = f" (see {row.where})" if row.where else ""
        lines.append(f"{row.state}: {row.run}, world {row.world_seed}, seed {row.seed}{where}")
    return lines


def markdown(tables: list[pd.DataFrame], below: list[str]) -> str:
    """Tables of texts as Markdown, with a list of notes below them."""
    rows = []
    for table in tables:
        lines = [list(table.columns), ["---"] * len(table.columns), *table.fillna("").values.tolist()]
        rows += [*("| " + " | ".join(line) + " |" for line in lines), ""]
    return "\n".join([*rows, *(f"- {note}" for note in below)]) + "\n"


def latex(table: pd.DataFrame) -> str:
    """A table of texts as a LaTeX tabular (package booktabs)."""
    def cell(text: str) -> str:
        text = re.sub(r"([&%$#_{}])", r"\\\1", text).replace("±", r"$\pm$")
        return re.sub(r"\*\*(.*)\*\*", r"\\textbf{\1}", text)

    lines = [list(table.columns), *table.fillna("").values.tolist()]
    head, *body = [" & ".join(map(cell, line)) + r" \\" for line in lines]
    begin, end = r"\begin{tabular}{" + "l" * len(table.columns) + "}", r"\end{tabular}"
    return "\n".join([begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", end]) + "\n"


def write_tables(suite: Suite, runs: list[Run], folder: Path) -> dict[str, list[pd.DataFrame]]:
    """Writes zero_shot, linear_probe and objectives, each as .csv, .md and .tex, under `folder`.

    Returns:
        the tables as they are to be read, by name.
    """
    collected = collect(runs)
    compared, below = differences(runs, collected, suite.reference), notes(collected, suite.reference)
    everything = long_table(collected, list(PROTOCOLS))
    parts = {protocol: everything[everything["protocol"] == protocol] for protocol in PROTOCOLS}
    published = {protocol: (part, [protocol_table(part)]) for protocol, part in parts.items()}
    published["objectives"] = (pd.concat([everything, difference_table(compared, suite.reference)]),
                               objectives_tables(everything, compared, collected, suite.reference))
    folder.mkdir(parents=True, exist_ok=True)
    for name, (numbers, readable) in published.items():
        texts = {"csv": numbers.to_csv(index=False), "md": markdown(readable, below),
                 "tex": "\n".join(map(latex, readable))}
        for suffix, text in texts.items():
            partial = folder / f"{name}.{suffix}.partial"
            partial.write_text(text)
            os.replace(partial, folder / f"{name}.{suffix}")
    return {name: readable for name, (_, readable) in published.items()}


def summary(folder: Path, published: Path) -> str:
    """Top-1 of the tables under `folder` for the terminal, beside those under `published` of the same rows, if any."""
    places = {folder: ""} | ({published: "published "} if published.exists() and published != folder else {})
    columns = {}
    for (place, prefix), (protocol, spoken) in itertools.product(places.items(), PROTOCOLS.items()):
        table = pd.read_csv(place / f"{protocol}.csv", dtype=str, keep_default_na=False)
        columns[prefix + spoken] = protocol_table(table).set_index(["run", "dataset"])["top-1"]
    own = columns[PROTOCOLS["zero_shot"]].index
    return pd.DataFrame(columns).loc[own].fillna("").reset_index().to_string(index=False)
