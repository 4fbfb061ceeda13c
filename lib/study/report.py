"""The report: a suite's results as one HTML page that loads nothing; `report.html.j2` holds its text and layout."""

import base64
import itertools
from collections import Counter
from pathlib import Path

from jinja2 import StrictUndefined, Template

from lib.run.files import read_json, write_text
from lib.run.params import FOLDER, load
from lib.study.results import PROTOCOLS, collect
from lib.study.suites import Run, Suite, runs_of_table
from lib.study.tables import headline, tables_of_rows

VERSIONS = {"Commit": "commit", "Hardware": "hardware", "torch": "torch", "transformers": "transformers", "PyAV": "av"}


def write_report(suite: Suite, name: str, profile: str, runs: list[Run], folder: Path) -> Path:
    """Writes `folder`/report.html from the tables and figures under `folder` and the records of the runs.

    name: of the suite's file. Raises FileNotFoundError if notebooks 90 and 91 have not been run.
    """
    titles = tables_of_rows(runs_of_table(runs, suite.rows, suite.replicas))
    titles |= {table: content.title for table, content in suite.comparisons.items()}
    tables = {table: read_json(folder / "tables" / f"{table}.json") for table in titles}
    figures = read_json(folder / "figures" / "figures.json")
    pictures = {figure: (folder / "figures" / f"{figure}.png").read_bytes() for figure in figures["made"]}
    states = collect(runs).states.drop_duplicates(["run", "world_seed", "seed"])
    done = [run for run, state in zip(runs, states["state"], strict=True) if state == "done"]
    main = headline(folder / "tables")
    source = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    page = Template(source, autoescape=True, undefined=StrictUndefined, trim_blocks=True).render(
        title=f"LSS: suite {name}, profile {profile}",
        results=_results(suite.reference, main.to_dict("records"), tables[next(iter(suite.comparisons))]),
        main={"columns": list(main), "rows": main.to_numpy().tolist()},
        rows={run.ablation: _purpose(run.ablation) for run in runs},
        titles=titles,
        tables=tables,
        pictures={figure: base64.b64encode(picture).decode() for figure, picture in pictures.items()},
        left_out=figures["left_out"],
        unfinished=states[states["state"] != "done"].to_dict("records"),
        facts=_facts(name, profile, runs, done),
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _purpose(row: str) -> str:
    """What a row is: the comment at the head of its ablation file."""
    lines = (FOLDER / "ablations" / f"{row}.yaml").read_text().splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line.removeprefix("#").strip() for line in comment)


def _results(reference: str, main: list[dict[str, str]], comparison: dict) -> list[str]:
    """Sentences: the reference's accuracies on each data set, and its differences in the first comparison."""
    sentences = []
    for row in main:
        if row["run"] == reference and row["zero-shot"][:1].isdigit():
            probe = f" and {row['linear probe']} % with a linear probe" if row["linear probe"][:1].isdigit() else ""
            sentences.append(f"{reference} reaches {row['zero-shot']} % top-1 zero-shot{probe} on {row['dataset']}.")
    for cells in comparison["tables"][0]["rows"]:
        row = dict(zip(comparison["tables"][0]["columns"], cells))
        gaps = {title: row[f"{reference} - run, {title}"].strip("*") for title in PROTOCOLS.values()}
        if row["run"] in ("image_clip", "no_language") and all(gaps.values()):
            text = ", ".join(f"{gap} {title}" for title, gap in gaps.items())
            sentences.append(f"{reference} minus {row['run']}: {text} (percentage points, 95 % intervals).")
    return sentences or [f"No run of {reference} is finished."]


def _facts(name: str, profile: str, runs: list[Run], done: list[Run]) -> dict[str, str]:
    """What was run, when, with which code and on which hardware."""
    records = [read_json(run.folder / file) for run in done for file in ("adapt.json", "metrics.json")]
    first = runs[0].params
    usual = load(profile=profile, world_seed=first.world_seed)
    data, usual_data = (getattr(params, f"data_{first.dataset}", "") for params in (first, usual))  # "": rendered
    started = sorted(record["started"] for record in records if "started" in record)  # absent from older records
    hours = sum(record["seconds"] for record in records) / 3600
    versions = {}
    for title, key in VERSIONS.items():
        counts = Counter(record[key] for record in records)
        counted = [f"{value} ({count} files)" if len(counts) > 1 else value for value, count in counts.items()]
        versions[title] = "; ".join(counted) or "-"
    return {
        "Command": f"make reproduce PROFILE={profile} SUITE={name}" + (f" DATA={data}" if data != usual_data else ""),
        "Videos": f"adapted to {first.dataset}, evaluated on {', '.join(first.evaluate_on)}",
        "CLIP": ", ".join(dict.fromkeys(run.params.clip for run in runs)),
        "Runs": f"{len(done)} of {len(runs)} done",
        "Started": f"between {started[0]} and {started[-1]} UTC" if started else "not recorded",
        "Time": f"{hours:.2f} hours of adaptation and evaluation (a resumed adaptation counts from its last start)",
        **versions,
    }
