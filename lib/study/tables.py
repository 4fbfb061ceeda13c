"""Tables of a suite: CSV (every number with the runs it comes from), Markdown, LaTeX, and JSON for the report."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lib.run.files import read_json, write_text
from lib.run.params import FOLDER
from lib.study.aggregate import NOTE, aggregate, aggregate_table
from lib.study.formats import latex, markdown
from lib.study.interpolation import MEASURES as INTERPOLATED
from lib.study.interpolation import chosen, interpolated, protocols_at
from lib.study.results import COUNTS, PROTOCOLS, Collected, collect, differences, words_once
from lib.study.suites import STATES, Run, Suite, runs_of_table

ORIGIN = ["commit", "params_hash", "runs"]
COLUMNS = ["run", "dataset", "protocol", "metric", "mean", "std", "seeds", "paper", "source", *ORIGIN]
VARIANTS = {"zero_shot": "EP-split", "zero_shot_full": "EP-full", "zero_shot_half": "EP-half"}
VARIANTS |= {"linear_probe": "linear", "attentive_probe": "attentive"}
METRICS = {"top1": "top-1", "top5": "top-5", "top1_seen": "seen", "top1_unseen": "unseen", "pair_top1": "pairs"}
METRICS |= {"mAP": "mAP", "agreement": "agreement"}
MEASURES = "Accuracies in percent on the test part, mean ± population standard deviation over seeds and official splits"
WARNING = "warning: "  # notes with this prefix are printed in the terminal too
CHANCE = "chance"  # in the column of runs
NOTES = {
    "pair_top1": "pairs: the choice between the two actions of a confusable pair (chance: 50)",
    "top1_seen": "seen, unseen: top-1 on the classes whose actions the adapted data set has, and on the others",
    "zero_shot_still": "stills: zero-shot on the middle frame of each clip alone; agreement: how often that prediction "
    "is the image CLIP's",
    "zero_shot_full": "EP-full: all clips of the data set",
    "zero_shot_half": "EP-half: all clips of ten random halves of the classes, ± over the halves",
    CHANCE: "chance: 100 divided by the number of classes (top-5: five times that)",
}


def tables_of_rows(runs: list[Run]) -> dict[str, str]:
    """Name and title of each table of a suite's `rows`; `aggregate` only if some run is evaluated on several data sets,
    `few_labels` if one has `probe_shots`, `interpolation` if one has several `interpolate`."""
    several = any(len(run.params.evaluate_on) > 1 for run in runs)
    over_sets = {"aggregate": "gain over data sets, worlds and seeds"} if several else {}
    few = {"few_labels": "linear probe on few labels"} if any(run.params.probe_shots for run in runs) else {}
    between = {"interpolation": "weights between CLIP and the adapted model"} if interpolated(runs) else {}
    return PROTOCOLS | over_sets | few | between


def reported_by_others(datasets: Sequence[str], protocol: str) -> pd.DataFrame:
    """Numbers of papers (`params/reported.csv`) on whole data sets: run, dataset, protocol, metric, value, source."""
    table = pd.read_csv(FOLDER / "reported.csv", dtype=str, keep_default_na=False)
    return table[table["dataset"].isin(datasets) & (table["protocol"] == protocol)]


def chance(classes: int, protocol: str, metric: str) -> float | None:
    """The accuracy of guessing in percent; None where it is undefined (mAP, agreement) or classes (0) are unknown."""
    classes = classes // 2 if protocol == "zero_shot_half" else classes
    return {"top1": 100 / classes, "top5": 500 / classes, "pair_top1": 50.0}.get(metric) if classes else None


def one_decimal(value: float | str) -> str:
    """Rounds by way of two decimals, so that tables and figures round the same way."""
    return f"{float(f'{float(value):.2f}'):.1f}"


def long_table(collected: Collected, protocols: list[str]) -> pd.DataFrame:
    """All rows x data sets x metrics, in `COLUMNS`: mean and population standard deviation over seeds and splits; last,
    chance. Where no run of a row is done, the mean is its state ("failed", "not finished", "not run")."""
    values, states = collected.values, collected.states
    datasets = list(states["dataset"].unique())
    peers = pd.concat([reported_by_others(datasets, protocol) for protocol in protocols])
    paper = {tuple(row[:4]): tuple(row[4:]) for row in peers.itertuples(index=False)}
    groups = dict(iter(values.groupby(["run", "dataset", "protocol", "metric"])))
    measured = {key[1:] for key in groups}
    shown = {dataset: [] for dataset in datasets}  # protocols and metrics
    for dataset, protocol in itertools.product(datasets, protocols):
        metrics = [metric for metric in METRICS if (dataset, protocol, metric) in measured]
        if not metrics and protocol in PROTOCOLS:
            metrics = ["top1"]  # whose cells show the states
        shown[dataset] += [(protocol, metric) for metric in metrics]
    rows = []
    for (run, dataset), runs in states.groupby(["run", "dataset"], sort=False):
        missing = [state for state in STATES[1:] if state in set(runs["state"])]
        for key in ((run, dataset, *column) for column in shown[dataset]):
            if (numbers := groups.get(key)) is None:
                rows.append([*key, [*missing, "not measured"][0], "", 0, *paper.get(key, ("", "")), "", "", ""])
                continue
            std = f"{numbers['value'].std(ddof=0):.2f}" if len(numbers) > 1 else ""
            origin = [words_once(*numbers[name]) for name in ("commit", "params_hash", "folder")]
            seeds = numbers["seed"].nunique()
            rows.append([*key, f"{numbers['value'].mean():.2f}", std, seeds, *paper.get(key, ("", "")), *origin])
    for dataset in datasets:
        for column in shown[dataset]:
            accuracy = chance(collected.classes.get(dataset, 0), *column)
            if accuracy is not None and (dataset, *column) in measured:
                rows.append([CHANCE, dataset, *column, f"{accuracy:.2f}", "", 0, *[""] * 5])
    return pd.DataFrame(rows, columns=COLUMNS)


def difference_table(compared: pd.DataFrame, numbers: pd.DataFrame, reference: str) -> pd.DataFrame:
    """`differences` in `COLUMNS`: the mean and both ends of its interval, each a line with the origin of both rows.

    numbers: the long table.
    """
    lines = []
    top1 = numbers[numbers["metric"] == "top1"]
    for row in compared.itertuples():
        worlds = row.dataset.removesuffix("-all")
        of_row = top1["run"].isin([row.run, reference]) & (top1["protocol"] == row.protocol)
        in_worlds = (worlds != row.dataset) & top1["dataset"].str.startswith(worlds)
        used = top1[of_row & (in_worlds | (top1["dataset"] == row.dataset))]
        origin = [words_once(*used[name]) for name in ORIGIN]
        for suffix, value in {"": row.mean, "_low": row.low, "_high": row.high}.items():
            metric = f"{reference}_minus_row_top1{suffix}"
            lines.append((*row[1:4], metric, f"{value:.2f}", "", row.seeds, "", "", *origin))
    return pd.DataFrame(lines, columns=COLUMNS)


def _cells(numbers: pd.DataFrame, index: list[str], columns: str = "metric", names: dict = METRICS) -> pd.DataFrame:
    """A long table -> "mean ± std" as text, a column for each of the `names` that occur in `columns`."""
    text = numbers["mean"].str.replace(r"^[\d.]+$", lambda match: one_decimal(match[0]), regex=True)
    text += numbers["std"].map(lambda std: f" ± {float(std):.1f}" if std else "")
    wide = numbers.assign(text=text).pivot(index=index, columns=columns, values="text")
    wide = wide.reindex(numbers.set_index(index).index.drop_duplicates())
    return wide[[name for name in names if name in wide]].rename(columns=names)


def _headline(cells: pd.DataFrame) -> pd.Series:
    """The column of top-1, or of mAP where clips have several labels."""
    first, *others = (cells[name] for name in ("top-1", "mAP") if name in cells)
    return first.fillna(others[0]) if others else first


def protocol_table(numbers: pd.DataFrame) -> pd.DataFrame:
    """The long table of one protocol and its variants as text: a line per run, data set and variant."""
    index = ["run", "dataset", "protocol"]
    wide, first = _cells(numbers, index), numbers.drop_duplicates(index).set_index(index)
    wide["seeds"] = first["seeds"].astype(str).mask(wide.index.get_level_values("run") == CHANCE, "")
    if (first["paper"] != "").any():
        wide["paper, top-1"] = (first["paper"] + " (" + first["source"] + ")").where(first["paper"] != "", "")
    wide = wide.reset_index()
    return wide.drop(columns="protocol") if wide["protocol"].nunique() == 1 else wide.replace({"protocol": VARIANTS})


def comparison_tables(
    numbers: pd.DataFrame, compared: pd.DataFrame, states: pd.DataFrame, reference: str
) -> list[pd.DataFrame]:
    """A line per run: both protocols on the first data set, the reference minus the run, seeds; a second one for other
    data sets and worlds. A difference is bold (`**`) where its interval excludes zero."""
    cells = {key: _cells(part, ["run"]) for key, part in numbers.groupby(["dataset", "protocol"])}
    gaps = {}
    for row in compared.itertuples():
        bold = "**" if row.low > 0 or row.high < 0 else ""
        text = f"{bold}{row.mean:+.1f} [{row.low:+.1f}, {row.high:+.1f}]{bold}"
        gaps.setdefault((row.dataset, row.protocol), {})[row.run] = text
    first, *others = states["dataset"].unique()
    main, second = (pd.DataFrame(index=pd.Index(numbers["run"].unique(), name="run")) for _ in range(2))
    for protocol, title in PROTOCOLS.items():
        main[title] = _headline(cells[first, protocol])
        if "pairs" in cells[first, protocol]:
            main[f"{title}, pairs"] = cells[first, protocol]["pairs"]
    if (stills := cells.get((first, "zero_shot_still"))) is not None:
        main["stills"] = _headline(stills)
        if "agreement" in stills:
            main["agreement on stills"] = stills["agreement"]
    for protocol, title in PROTOCOLS.items():
        main[f"{reference} - run, {title}"] = pd.Series(gaps.get((first, protocol), {}), dtype=object)
    done = states[states["dataset"] == first].groupby("run")["state"].apply(lambda state: (state == "done").tolist())
    main["seeds"] = done.map(lambda runs: str(len(runs)) if all(runs) else f"{sum(runs)} of {len(runs)}")
    for (protocol, title), dataset in itertools.product(PROTOCOLS.items(), others):
        second[f"{dataset}, {title}"] = _headline(cells[dataset, protocol])
    pooled = f"{first}-all" in set(compared["dataset"])
    gap_names = {f"{first}-all": "all worlds"} if pooled else {dataset: dataset for dataset in others}
    for (protocol, title), (dataset, name) in itertools.product(PROTOCOLS.items(), gap_names.items()):
        second[f"{reference} - run, {name}, {title}"] = pd.Series(gaps.get((dataset, protocol), {}), dtype=object)
    return [table.reset_index() for table in (main, second) if len(table.columns)]


def notes(numbers: pd.DataFrame, collected: Collected) -> list[str]:
    """The meaning of the measures in a long table, and what is missing from it: clips, runs; mixed code; warnings."""
    shown = {*numbers["metric"], *numbers["protocol"], *numbers["run"]}
    held_out = collected.values["part"].str.startswith("held_out").any()
    of_part = MEASURES.replace("the test part", "held-out training clips") if held_out else MEASURES
    measures = "; ".join([of_part, *(text for name, text in NOTES.items() if name in shown)])
    return [f"{measures}.", *states_notes(collected)]


def differences_note(compared: pd.DataFrame, reference: str) -> str:
    """How to read the differences."""
    return (
        f"{reference} - run: difference of the top-1 accuracies in points with its 95 % interval (bootstrap over test "
        "clips and seeds, paired by clip), bold where the interval excludes zero. With one seed, the interval holds "
        f"for that seed alone. About one in twenty such intervals excludes zero by chance; here are {len(compared)}."
    )


def states_notes(collected: Collected) -> list[str]:
    """Clips that were not decoded, runs that are missing, whether runs of different code are mixed, and warnings."""
    lines = []
    for dataset, group in collected.states.dropna().groupby("dataset", sort=False):
        listed, with_file, decoded = (int(group[name].min()) for name in COUNTS)
        missing = f"; {listed - with_file} have no file and are left out" if with_file < listed else ""
        wrong = f"; {with_file - decoded} cannot be decoded and count as wrong" if decoded < with_file else ""
        lines.append(f"{dataset}: {decoded} of {listed} test clips decoded{missing}{wrong}")
    unfinished = collected.states[collected.states["state"] != "done"]
    for row in unfinished.drop_duplicates(["run", "world_seed", "seed"]).itertuples():
        log = f" (see {row.log})" if row.log else ""
        lines.append(f"{row.state}: {row.run}, world {row.world_seed}, seed {row.seed}{log}")
    code = collected.values["code"].str.split().explode().drop_duplicates()  # "adapt:<hash>", "evaluate:<hash>"
    if code.map(lambda word: word.split(":")[0]).duplicated().any():
        commits = words_once(*collected.values["commit"]).split()
        lines.append(f"runs of {len(commits)} commits are mixed: {', '.join(sorted(commits))}")
    return lines + [WARNING + text for text in collected.warnings]


Content = tuple[pd.DataFrame, list[pd.DataFrame], list[str]]  # the long table, the tables as text, notes


def _protocol(suite: Suite, runs: list[Run], collected: Collected, protocol: str) -> Content:
    evaluated = {name for run in runs for name in run.params.zero_shot_protocols if protocol == "zero_shot"}
    variants = [f"zero_shot_{name}" for name in ("full", "half") if name in evaluated]
    if protocol == "linear_probe" and any(run.params.attentive_epochs for run in runs):
        variants = ["attentive_probe"]
    numbers = long_table(collected, [protocol, *variants])
    peers = reported_by_others(list(collected.states["dataset"].unique()), protocol)
    peers = peers[~peers["run"].isin(suite.rows)].rename(columns={"value": "paper"})
    tables = [protocol_table(numbers)]
    if len(peers):
        wide = peers.pivot(index=["run", "source"], columns="dataset", values="paper").reset_index()
        tables.append(wide.rename(columns={"run": "reported by others, top-1"}))
    return pd.concat([numbers, peers])[COLUMNS], tables, notes(numbers, collected)


def _aggregate(reference: str, collected: Collected) -> Content:
    numbers = aggregate(collected.values, reference)
    return (
        numbers,
        [aggregate_table(collected.values, reference)],
        [NOTE.format(reference=reference), *states_notes(collected)],
    )


def _few_labels(runs: list[Run], collected: Collected) -> Content:
    counts = sorted({count for run in runs for count in run.params.probe_shots})
    amounts = {f"linear_probe_{count}_shot": f"{count} a class" for count in counts} | {"linear_probe": "all"}
    numbers = long_table(collected, list(amounts)).query("metric == 'top1'")
    first, *others = notes(numbers, collected)
    note = "Top-1 by labelled examples: means over random draws, the same for all rows (probe_shot_draws)"
    return numbers, [_cells(numbers, ["run", "dataset"], "protocol", amounts).reset_index()], [first, note, *others]


def _interpolation(runs: list[Run], collected: Collected) -> Content:
    tables, alphas = [], interpolated(runs)
    numbers = long_table(collected, [key for protocol in INTERPOLATED for key in protocols_at(alphas, protocol)])
    numbers = numbers[(numbers["mean"] != "not measured") & (numbers["run"] != CHANCE)]
    for protocol, metrics in INTERPOLATED.items():
        columns = protocols_at(alphas, protocol)
        for metric, title in metrics.items():
            shown = numbers[numbers["protocol"].isin(list(columns)) & (numbers["metric"] == metric)]
            tables.append(_cells(shown.assign(measure=title), ["run", "dataset", "measure"], "protocol", columns))
    note = "Columns: the share of the adapted weights; 0: the weights that the run started from"
    return numbers, [pd.concat(tables).reset_index()], [note, *chosen(runs), *states_notes(collected)]


def _comparison(runs: list[Run], reference: str) -> Content:
    collected = collect(runs)
    numbers = long_table(collected, [*PROTOCOLS, "zero_shot_still"])
    compared = differences(collected, reference, resamples=runs[0].params.bootstrap_resamples)
    tables = comparison_tables(numbers, compared, collected.states, reference)
    first, *others = notes(numbers, collected)
    below = [first, differences_note(compared, reference), *others]
    return pd.concat([numbers, difference_table(compared, numbers, reference)]), tables, below


def write_tables(
    suite: Suite, runs: list[Run], folder: Path, only: Sequence[str] = ()
) -> dict[str, list[pd.DataFrame]]:
    """Writes the tables of a suite (or `only` some) as .csv, .md, .tex and .json; returns them as text, by name."""
    of_rows = runs_of_table(runs, suite.rows, suite.replicas)
    names = [name for name in (*tables_of_rows(of_rows), *suite.comparisons) if not only or name in only]
    collected, written = collect(of_rows), {}
    for name in names:
        if name in PROTOCOLS:
            numbers, tables, below = _protocol(suite, of_rows, collected, name)
        elif name == "aggregate":
            numbers, tables, below = _aggregate(suite.reference, collected)
        elif name == "few_labels":
            numbers, tables, below = _few_labels(of_rows, collected)
        elif name == "interpolation":
            numbers, tables, below = _interpolation(of_rows, collected)
        else:
            table = suite.comparisons[name]
            numbers, tables, below = _comparison(runs_of_table(runs, table.rows, table.replicas), table.reference)
        written[name] = tables = [table.fillna("") for table in tables]
        content = [{"columns": list(table), "rows": table.to_numpy().tolist()} for table in tables]
        write_text(folder / f"{name}.csv", numbers.to_csv(index=False))
        write_text(folder / f"{name}.md", markdown(tables, below))
        write_text(folder / f"{name}.tex", "\n".join(map(latex, tables)))
        write_text(folder / f"{name}.json", json.dumps({"tables": content, "notes": below}, indent=1) + "\n")
    return written


def headline(folder: Path) -> pd.DataFrame:
    """Top-1 of both protocols from the tables under `folder`, as text: run, dataset, zero-shot, linear probe."""
    columns = {}
    for protocol, title in PROTOCOLS.items():
        numbers = pd.read_csv(folder / f"{protocol}.csv", dtype=str, keep_default_na=False)
        numbers = numbers[(numbers["protocol"] == protocol) & (numbers["mean"] != "")]  # else of other papers
        columns[title] = _headline(protocol_table(numbers).set_index(["run", "dataset"]))
    return pd.DataFrame(columns).loc[columns["zero-shot"].index].fillna("").reset_index()


def summary(folder: Path, published: Path | None) -> str:
    """For the terminal: `headline`, beside the published numbers of the same rows if any, and warnings."""
    shown = headline(folder)
    if published:
        others = headline(published).rename(columns={title: f"published {title}" for title in PROTOCOLS.values()})
        shown = shown.merge(others, on=["run", "dataset"], how="left")
    warnings = [note for note in read_json(folder / "zero_shot.json")["notes"] if note.startswith(WARNING)]
    return "\n".join([shown.fillna("").to_string(index=False), *warnings])
