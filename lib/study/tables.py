"""Tables: what is published of the numbers that the runs of a suite left.

Each is written as CSV (all numbers, one a line, with the runs they come from), Markdown and LaTeX (to be read).
"""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lib.run.files import write_text
from lib.run.params import FOLDER
from lib.study.results import COUNTS, PROTOCOLS, Collected, collect, differences, words_once
from lib.study.suites import Run, Suite, runs_of_table

COLUMNS = [
    "run",
    "dataset",
    "protocol",
    "metric",
    "mean",
    "std",
    "seeds",
    "paper",
    "source",
    "commit",
    "params_hash",
    "runs",
]
ZERO_SHOT = {"zero_shot": "EP-split", "zero_shot_full": "EP-full", "zero_shot_half": "EP-half"}
WARNING = "warning: "  # a note that begins so is shown in the terminal too
CHANCE = "chance"  # in the place of a run
EXTRA = [*PROTOCOLS, "zero_shot_still"]  # of comparisons
METRICS = {"top1": "top-1", "top5": "top-5", "pair_top1": "pairs", "mAP": "mAP", "agreement": "agreement"}


def tables_of_rows(runs: list[Run]) -> dict[str, str]:
    """The tables of the runs of a suite's `rows`, each with what it shows: few_labels only where there are such probes."""
    few = any(run.params.probe_shots for run in runs)
    return PROTOCOLS | ({"few_labels": "linear probe on few labels"} if few else {})


def reported_by_others(datasets: list[str], protocol: str) -> pd.DataFrame:
    """Numbers of papers (`params/reported.csv`) on whole data sets: run, dataset, protocol, metric, value, source."""
    table = pd.read_csv(FOLDER / "reported.csv", dtype=str, keep_default_na=False)
    return table[table["dataset"].isin(datasets) & (table["protocol"] == protocol)]


def long_table(collected: Collected, protocols: list[str]) -> pd.DataFrame:
    """All rows x data sets x metrics, in `COLUMNS`: mean and population standard deviation over seeds and splits; last, a
    row of each data set that says what chance has.

    Where no run of a row is done, the mean reads "failed", "not finished" or "not run".
    """
    values, states = collected.values, collected.states
    reported = {
        tuple(row[:4]): tuple(row[4:])
        for protocol in protocols
        for row in reported_by_others(list(states["dataset"].unique()), protocol).itertuples(index=False)
    }
    rows = []
    for (run, dataset), group in states.groupby(["run", "dataset"], sort=False):
        of_dataset = values[values["dataset"] == dataset]
        metrics = [name for name in METRICS if of_dataset.empty or (of_dataset["metric"] == name).any()]
        for protocol, metric in itertools.product(protocols, metrics):
            of_protocol = values.loc[values["protocol"] == protocol, "metric"]
            if (
                protocol not in PROTOCOLS
                and of_protocol.empty
                or metric == "agreement"
                and metric not in set(of_protocol)
            ):
                continue
            wanted = (run, dataset, protocol, metric)
            found = values[(values[["run", "dataset", "protocol", "metric"]] == list(wanted)).all(axis=1)]
            paper, source = reported.get(wanted, ("", ""))
            mean, std = f"{found['value'].mean():.2f}", f"{found['value'].std(ddof=0):.2f}" if len(found) > 1 else ""
            if found.empty:
                mean = next(
                    (state for state in ("failed", "not finished", "not run") if state in set(group["state"])),
                    "not measured",
                )
            rows.append(
                [
                    run,
                    dataset,
                    protocol,
                    metric,
                    mean,
                    std,
                    found["seed"].nunique(),
                    paper,
                    source,
                    *(words_once(*found[name]) for name in ("commit", "params_hash", "folder")),
                ]
            )
    measured = set(values[["dataset", "protocol", "metric"]].itertuples(index=False, name=None))
    for dataset, protocol, metric in dict.fromkeys(tuple(row[1:4]) for row in rows if tuple(row[1:4]) in measured):
        if (right := chance(collected.classes.get(dataset, 0), protocol, metric)) is not None:
            rows.append([CHANCE, dataset, protocol, metric, f"{right:.2f}", "", 0, *[""] * 5])
    return pd.DataFrame(rows, columns=COLUMNS)


def chance(classes: int, protocol: str, metric: str) -> float | None:
    """What guessing gets, in percent; None where it cannot be said: of mAP, of agreement, where classes (0) are not known."""
    classes = classes // 2 if protocol == "zero_shot_half" else classes
    return {"top1": 100 / classes, "top5": 500 / classes, "pair_top1": 50.0}.get(metric) if classes else None


def difference_table(compared: pd.DataFrame, numbers: pd.DataFrame, reference: str) -> pd.DataFrame:
    """`differences` in `COLUMNS`: three lines each, the mean and the ends of its 95 % interval. numbers: the long table,
    which says what both rows come from."""
    name, ends, lines = f"{reference}_minus_row_top1", {"mean": "", "low": "_low", "high": "_high"}, []
    for row in compared.itertuples():
        worlds = row.dataset.removesuffix("-all")
        used = numbers[
            numbers["run"].isin([row.run, reference])
            & (numbers["protocol"] == row.protocol)
            & (numbers["metric"] == "top1")
            & (
                (numbers["dataset"] == row.dataset)
                | (worlds != row.dataset) & numbers["dataset"].str.startswith(worlds)
            )
        ]
        lines += [
            (
                row.run,
                row.dataset,
                row.protocol,
                name + suffix,
                f"{getattr(row, end):.2f}",
                "",
                row.seeds,
                "",
                "",
                *(words_once(*used[column]) for column in ("commit", "params_hash", "runs")),
            )
            for end, suffix in ends.items()
        ]
    return pd.DataFrame(lines, columns=COLUMNS)


def _cells(
    table: pd.DataFrame, index: list[str], columns: str = "metric", names: dict[str, str] = METRICS
) -> pd.DataFrame:
    """A long table -> "mean ± std" as text, a column for each of the names (in `columns`) that there is."""
    text = table["mean"].str.replace(r"^([\d.]+)$", lambda found: f"{float(found[0]):.1f}", regex=True)
    text += table["std"].map(lambda std: f" ± {float(std):.1f}" if std else "")
    wide = table.assign(text=text).pivot(index=index, columns=columns, values="text")
    order = pd.MultiIndex.from_frame(table[index].drop_duplicates()) if len(index) > 1 else table[index[0]].unique()
    return wide.reindex(order)[[name for name in names if name in wide]].rename(columns=names)


def _headline(cells: pd.DataFrame) -> pd.Series:
    """Top-1, or what stands for it where clips have several labels."""
    first, *others = (cells[name] for name in ("top-1", "mAP") if name in cells)
    return first.fillna(others[0]) if others else first


def protocol_table(table: pd.DataFrame) -> pd.DataFrame:
    """The long table of one protocol and its variants, to be read: one line a run, data set and variant. A reported
    number has its column."""
    index = ["run", "dataset", "protocol"]
    wide = _cells(table, index)
    first = table.drop_duplicates(index).set_index(index)
    wide["seeds"] = first["seeds"].astype(str).mask(wide.index.get_level_values("run") == CHANCE, "")
    if (first["paper"] != "").any():
        wide["paper, top-1"] = (first["paper"] + " (" + first["source"] + ")").where(first["paper"] != "", "")
    wide = wide.reset_index()
    return wide.drop(columns="protocol") if wide["protocol"].nunique() == 1 else wide.replace({"protocol": ZERO_SHOT})


def objectives_tables(
    table: pd.DataFrame, compared: pd.DataFrame, collected: Collected, reference: str
) -> list[pd.DataFrame]:
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
        wide |= {spoken: _headline(own)} | ({f"{spoken}, pairs": own["pairs"]} if "pairs" in own else {})
    if (datasets[0], "zero_shot_still") in cells:
        own = cells[datasets[0], "zero_shot_still"]
        wide |= {"stills": _headline(own)} | ({"agreement on stills": own["agreement"]} if "agreement" in own else {})
    wide |= {f"{reference} - run, {spoken}": gap(datasets[0], protocol) for protocol, spoken in PROTOCOLS.items()}
    states = collected.states[collected.states["dataset"] == datasets[0]].groupby("run", sort=False)["state"]
    wide["seeds"] = states.agg(lambda s: str(len(s)) if (s == "done").all() else f"{(s == 'done').sum()} of {len(s)}")
    remade = {
        f"{dataset}, {spoken}": _headline(cells[dataset, protocol])
        for protocol, spoken in PROTOCOLS.items()
        for dataset in datasets[1:]
    }
    if f"{datasets[0]}-all" in set(compared["dataset"]):
        remade |= {
            f"{reference} - run, all worlds, {spoken}": gap(f"{datasets[0]}-all", protocol)
            for protocol, spoken in PROTOCOLS.items()
        }
    elif remade:
        remade |= {
            f"{reference} - run, {dataset}, {spoken}": gap(dataset, protocol)
            for protocol, spoken in PROTOCOLS.items()
            for dataset in datasets[1:]
        }
    return [
        pd.DataFrame(columns).reindex(table["run"].unique()).rename_axis("run").reset_index()
        for columns in (wide, remade)
        if columns
    ]


def notes(numbers: pd.DataFrame) -> list[str]:
    """What a reader must know of the measures in a long table."""
    meanings = {
        "pair_top1": "pairs: the choice between the two actions of a confusable pair (chance: 50)",
        "zero_shot_still": "stills: zero-shot on the middle frame of each clip alone, and how often it is called what "
        "the image CLIP calls it",
        "zero_shot_full": "EP-full: on all clips of the set",
        "zero_shot_half": "EP-half: on all clips of ten random halves of the classes, ± over these",
    }
    meanings[CHANCE] = "chance: guessing, 100 divided by the number of classes (top-5: five times that)"
    shown = {*numbers["metric"], *numbers["protocol"], *numbers["run"]}
    return [
        "; ".join(
            [
                "Accuracies in percent on the test part, mean ± population standard deviation over seeds and official splits",
                *(text for name, text in meanings.items() if name in shown),
            ]
        )
        + "."
    ]


def differences_note(compared: pd.DataFrame, reference: str) -> str:
    """What a reader must know of the differences."""
    return (
        f"{reference} - run: difference of the top-1 accuracies in points with its 95 % interval (bootstrap over test clips and "
        f"seeds, paired by clip), bold where the interval excludes zero. Where a row has one seed, it holds for that seed alone. "
        f"About one in twenty of such intervals excludes zero by chance alone; here are {len(compared)}."
    )


def states_notes(collected: Collected) -> list[str]:
    """The clips that were not decoded, the runs that are missing, and whether runs of several commits are mixed."""
    lines = []
    for dataset, group in collected.states.dropna().groupby("dataset", sort=False):
        listed, found, decoded = (int(group[name].min()) for name in COUNTS)
        missing = f"; {listed - found} have no file and are left out" if found < listed else ""
        wrong = f"; {found - decoded} cannot be decoded and count as wrong" if decoded < found else ""
        lines.append(f"{dataset}: {decoded} of {listed} test clips decoded{missing}{wrong}")
    undone = collected.states[collected.states["state"] != "done"]
    for row in undone.drop_duplicates(["run", "world_seed", "seed"]).itertuples():
        where = f" (see {row.where})" if row.where else ""
        lines.append(f"{row.state}: {row.run}, world {row.world_seed}, seed {row.seed}{where}")
    if len(commits := words_once(*collected.values["commit"]).split()) > 1:
        lines.append(f"runs of {len(commits)} commits are mixed: {', '.join(sorted(commits))}")
    return lines + [f"{WARNING}{text}" for text in collected.warnings]


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


def write_tables(
    suite: Suite, runs: list[Run], folder: Path, only: Sequence[str] = ()
) -> dict[str, list[pd.DataFrame]]:
    """Writes zero_shot, linear_probe and few_labels of the suite's rows, and its comparisons (of all these `only` some, if
    any are named), each as .csv, .md and .tex, under `folder`.

    Returns:
        the tables as they are to be read, by name.
    """
    own = runs_of_table(runs, suite.rows, suite.replicas)
    collected, published = collect(own), {}
    asked = {protocol for run in own for protocol in run.params.zero_shot_protocols}
    variants = [f"zero_shot_{protocol}" for protocol in ("full", "half") if protocol in asked]
    for protocol in (name for name in PROTOCOLS if not only or name in only):
        numbers = long_table(collected, [protocol, *(variants if protocol == "zero_shot" else [])])
        peers = reported_by_others(list(collected.states["dataset"].unique()), protocol)
        peers = peers[~peers["run"].isin(suite.rows)]
        everything = pd.concat([numbers, peers.rename(columns={"value": "paper"})]).reindex(columns=COLUMNS)
        readable = [protocol_table(numbers)]
        if len(peers):
            readable.append(
                peers.pivot(index=["run", "source"], columns="dataset", values="value")
                .fillna("")
                .reset_index()
                .rename(columns={"run": "reported by others, top-1"})
            )
        published[protocol] = (everything, readable, notes(numbers) + states_notes(collected))
    if "few_labels" in tables_of_rows(own) and (not only or "few_labels" in only):
        counts = sorted({count for run in own for count in run.params.probe_shots})
        amounts = {f"linear_probe_{count}_shot": f"{count} a class" for count in counts} | {"linear_probe": "all"}
        numbers = long_table(collected, list(amounts)).query("metric == 'top1'")
        readable = _cells(numbers, ["run", "dataset"], "protocol", amounts).reset_index()
        published["few_labels"] = (
            numbers,
            [readable],
            notes(numbers)
            + [
                "Top-1 on the test part with so many labelled examples: the mean over draws that are the same for all rows (probe_shot_draws)",
                *states_notes(collected),
            ],
        )
    for name, table in ((name, table) for name, table in suite.comparisons.items() if not only or name in only):
        shown = runs_of_table(runs, table.rows, table.replicas)
        collected = collect(shown)
        compared, numbers = differences(shown, collected, table.reference), long_table(collected, EXTRA)
        published[name] = (
            pd.concat([numbers, difference_table(compared, numbers, table.reference)]),
            objectives_tables(numbers, compared, collected, table.reference),
            [*notes(numbers), differences_note(compared, table.reference), *states_notes(collected)],
        )
    for name, (numbers, readable, below) in published.items():
        texts = {
            "csv": numbers.to_csv(index=False),
            "md": markdown(readable, below),
            "tex": "\n".join(map(latex, readable)),
        }
        for suffix, text in texts.items():
            write_text(folder / f"{name}.{suffix}", text)
    return {name: readable for name, (_, readable, _) in published.items()}


def summary(folder: Path, published: Path | None) -> str:
    """Top-1 of the tables under `folder` for the terminal, beside those under `published` of the same rows, if any; then what
    there is to warn of."""
    places = {folder: ""} | ({published: "published "} if published else {})
    columns = {}
    for (place, prefix), (protocol, spoken) in itertools.product(places.items(), PROTOCOLS.items()):
        table = pd.read_csv(place / f"{protocol}.csv", dtype=str, keep_default_na=False)
        own = table[(table["protocol"] == protocol) & (table["mean"] != "")]  # the others are other papers'
        columns[prefix + spoken] = _headline(protocol_table(own).set_index(["run", "dataset"]))
    own = columns[PROTOCOLS["zero_shot"]].index
    shown = pd.DataFrame(columns).loc[own].fillna("").reset_index().to_string(index=False)
    below = (folder / "zero_shot.md").read_text().splitlines()
    return "\n".join([shown, *(line[2:] for line in below if line.startswith(f"- {WARNING}"))])
