"""Tables: the numbers that the runs of a suite left, and the files that are published of them.

`collect` reads what the runs left; only a `metrics.json` that the present parameters made counts. Three tables come of
it, each as CSV (all numbers, one a line), Markdown and LaTeX (to be read).
"""

import itertools
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from lib.metrics import Difference, pooled_bootstrap
from lib.runs import read_json
from lib.suites import Run, Suite, state_of

COLUMNS = ["run", "dataset", "protocol", "metric", "mean", "std", "seeds", "paper", "source", "commit", "params_hash"]
PROTOCOLS = {"zero_shot": "zero-shot", "linear_probe": "linear probe"}
ZERO_SHOT = {"zero_shot": "EP-split", "zero_shot_full": "EP-full", "zero_shot_half": "EP-half"}
COUNTS = ("listed", "found", "decoded")
METRICS = {"top1": "top-1", "top5": "top-5", "pair_top1": "pairs", "mAP": "mAP"}
CLASSES = {"ucf101": 101, "hmdb51": 51, "kinetics400": 400, "charades": 157}
# Reported on the whole data set; a subset of it is another data set.
PAPER = {("lss", dataset, "linear_probe", "top1"): (value, "arXiv 2307.10922")
         for dataset, value in (("ucf101", "91.1"), ("hmdb51", "69.4"), ("kinetics400", "67.3"))}
PAPER |= {("lss", dataset, "zero_shot", "top1"): ("not available", "arXiv 2307.10922")
          for dataset in ("ucf101", "hmdb51", "kinetics400")}


class Collected(NamedTuple):
    """values: run, world_seed, seed, dataset, part, protocol, metric, value, commit, params_hash; a line a number of a
    part that is reported on. states: run, world_seed, seed, dataset, state ("done", "failed", "not run"), where (log of
    a failed run), listed, found, decoded (clips of those parts); a line a run and data set."""

    values: pd.DataFrame
    states: pd.DataFrame


def dataset_name(dataset: str, world_seed: int, num_classes: int | None) -> str:
    """`embedded`, `embedded-1` for a remade world; a subset of an official data set says that it is one."""
    if dataset == "embedded":
        return "embedded" + (f"-{world_seed}" if world_seed else "")
    if num_classes not in (None, CLASSES.get(dataset)) and dataset in CLASSES:
        return f"{dataset} ({num_classes} of {CLASSES[dataset]} classes)"
    return dataset


def reported(dataset: str, part: str) -> bool:
    """Whether tables show a part: what choices were made on is no result. Kinetics' test labels are not public."""
    return part not in ("train", "validation") or (dataset, part) == ("kinetics400", "validation")


def collect(runs: list[Run]) -> Collected:
    """Reads the numbers of all finished runs, and notes of the others what became of them."""
    states = [state_of(run) for run in runs]
    records = [read_json(run.folder / "metrics.json") if state == "done" else None
               for run, (state, _) in zip(runs, states)]
    num_classes = {name: len(found["classes"]) for record in records if record
                   for name, found in record["datasets"].items()}
    values, lines = [], []
    for run, (state, where), record in zip(runs, states, records):
        for dataset in run.params.evaluate_on:
            key = {"run": run.ablation, "world_seed": run.world_seed, "seed": run.seed,
                   "dataset": dataset_name(dataset, run.world_seed, num_classes.get(dataset))}
            counted = record["datasets"][dataset]["counts"] if record else dict.fromkeys(COUNTS)
            lines.append(key | {"state": state, "where": where} | counted)
            for entry in record["metrics"] if record else []:
                if entry["dataset"] == dataset and reported(dataset, entry["part"]):
                    number = {name: entry[name] for name in ("part", "protocol", "metric", "value")}
                    values.append(key | number | {name: record[name] for name in ("commit", "params_hash")})
    columns = ["run", "world_seed", "seed", "dataset", "part", "protocol", "metric", "value", "commit", "params_hash"]
    return Collected(pd.DataFrame(values, columns=columns), pd.DataFrame(lines))


def _answers(run: Run, dataset: str, protocol: str) -> np.ndarray | None:
    """Which clips of the reported parts a run has right, one part after the other; None if it was not asked."""
    answers = load_file(run.folder / "correct.safetensors")
    keys = [key for key in answers if key.startswith(f"{dataset}/") and key.endswith(f"/{protocol}")
            and reported(*key.split("/")[:2])]
    return np.concatenate([answers[key] for key in sorted(keys)]) if keys else None


def differences(runs: list[Run], collected: Collected, reference: str) -> pd.DataFrame:
    """Top-1 of the reference minus that of each row, on the same clips: run, dataset, protocol, seeds, mean, low, high.

    Worlds have test clips of their own, so each is compared by itself; the data set "<name>-all" is the mean of the
    worlds' differences, resampled within each. Only finished runs take part; seeds are the row's.
    """
    names = collected.states.set_index(["run", "world_seed", "seed"])["dataset"]
    correct: dict[tuple[str, str, str], dict[str, list]] = {}  # (set, run, protocol) -> its name -> answers by seed
    for run in (run for run in runs if state_of(run)[0] == "done"):
        own = names.loc[[(run.ablation, run.world_seed, run.seed)]]
        for (dataset, name), protocol in itertools.product(zip(run.params.evaluate_on, own), PROTOCOLS):
            if (answers := _answers(run, dataset, protocol)) is not None:
                correct.setdefault((dataset, run.ablation, protocol), {}).setdefault(name, []).append(answers)
    rows, rounds = [], runs[0].params.bootstrap_rounds
    for (dataset, run, protocol), by_name in correct.items():
        base = correct.get((dataset, reference, protocol), {})
        pairs = {name: (base[name], own) for name, own in by_name.items() if name in base and run != reference}
        compared = {name: [pair] for name, pair in pairs.items()}
        if len(pairs) > 1:
            compared[f"{dataset}-all"] = list(pairs.values())
        rows += [{"run": run, "dataset": name, "protocol": protocol, "seeds": sum(len(own) for _, own in chosen),
                  **pooled_bootstrap(chosen, rounds=rounds, seed=0)._asdict()} for name, chosen in compared.items()]
    return pd.DataFrame(rows, columns=["run", "dataset", "protocol", "seeds", *Difference._fields])


def long_table(collected: Collected, protocols: list[str]) -> pd.DataFrame:
    """All rows x data sets x metrics, in `COLUMNS`: mean and population standard deviation over seeds and splits.

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
            rows.append([run, dataset, protocol, metric, mean, std, found["seed"].nunique(), paper, source,
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
    """The long table of one protocol and its variants, to be read: one line a run, data set and variant. A reported
    number has its column."""
    index = ["run", "dataset", "protocol"]
    wide = _cells(table, index)
    first = table[table["metric"] == table["metric"].iloc[0]].set_index(index)
    wide["seeds"] = first["seeds"].astype(str)
    if (first["paper"] != "").any():
        wide["paper, top-1"] = (first["paper"] + " (" + first["source"] + ")").where(first["paper"] != "", "")
    wide = wide.reset_index()
    return wide.drop(columns="protocol") if wide["protocol"].nunique() == 1 else wide.replace({"protocol": ZERO_SHOT})


def objectives_tables(table: pd.DataFrame, compared: pd.DataFrame, collected: Collected,
                      reference: str) -> list[pd.DataFrame]:
    """One line a run: both protocols on the first data set, what the reference has more, seeds; a second table has the
    other data sets (remade worlds). A difference is bold (`**`) where its interval excludes zero.
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
    if f"{datasets[0]}-all" in set(compared["dataset"]):
        remade |= {f"{reference} - run, all worlds, {spoken}": gap(f"{datasets[0]}-all", protocol)
                   for protocol, spoken in PROTOCOLS.items()}
    elif remade:
        remade |= {f"{reference} - run, {dataset}, {spoken}": gap(dataset, protocol)
                   for protocol, spoken in PROTOCOLS.items() for dataset in datasets[1:]}
    return [pd.DataFrame(columns).reindex(table["run"].unique()).rename_axis("run").reset_index()
            for columns in (wide, remade) if columns]


def notes(collected: Collected, reference: str) -> list[str]:
    """What a reader must know: the measures, the clips that were not decoded, the runs that are missing."""
    pairs = "; pairs: the choice between the two actions of a confusable pair (chance: 50)" \
        if (collected.values["metric"] == "pair_top1").any() else ""
    lines = ["Accuracies in percent on the test part, mean ± population standard deviation over seeds and official "
             f"splits{pairs}.",
             f"{reference} - run: difference of the top-1 accuracies in points with its 95 % interval (bootstrap over "
             "test clips and seeds, paired by clip), bold where the interval excludes zero."]
    for dataset, group in collected.states.dropna().groupby("dataset", sort=False):
        listed, found, decoded = (int(group[name].min()) for name in COUNTS)
        missing = f"; {listed - found} have no file and are left out" if found < listed else ""
        wrong = f"; {found - decoded} cannot be decoded and count as wrong" if decoded < found else ""
        lines.append(f"{dataset}: {decoded} of {listed} test clips decoded{missing}{wrong}")
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
    asked = {protocol for run in runs for protocol in run.params.zero_shot_protocols}
    variants = [f"zero_shot_{protocol}" for protocol in ("full", "half") if protocol in asked]
    parts = {protocol: long_table(collected, [protocol, *(variants if protocol == "zero_shot" else [])])
             for protocol in PROTOCOLS}
    published = {protocol: (part, [protocol_table(part)]) for protocol, part in parts.items()}
    everything = long_table(collected, list(PROTOCOLS))
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
        columns[prefix + spoken] = protocol_table(table[table["protocol"] == protocol]).set_index(
            ["run", "dataset"])["top-1"]
    own = columns[PROTOCOLS["zero_shot"]].index
    return pd.DataFrame(columns).loc[own].fillna("").reset_index().to_string(index=False)
