"""The report: all that a suite found on one page, to be read on a phone, on paper and aloud.

One HTML file that loads nothing and needs no scripts; its pictures lie inside it. Numbers are the texts of the tables that
`lib/study/tables.py` has written, not computed again.
"""

import base64
import os
from collections import Counter
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from lib.run.files import read_json, write_text
from lib.run.params import load
from lib.study.figures import CAPTIONS
from lib.study.results import collect
from lib.study.suites import Run, Suite, runs_of_table
from lib.study.tables import tables_of_rows

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: #fff; color: #1a1a1a;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.25; margin-top: 2rem; }
h2 { border-bottom: 1px solid #767676; }
a { color: #0645ad; }
dt, caption { font-weight: bold; }
dd { margin: 0 0 .5rem 0; }
.scroll { overflow-x: auto; margin: 1rem 0; }
.scroll:focus-visible { outline: 3px solid #0645ad; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .25rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #c8c8c8; text-align: left; vertical-align: top; }
td { white-space: nowrap; }
thead th { border-bottom: 2px solid #1a1a1a; vertical-align: bottom; min-width: 4rem; }
figure { margin: 1.5rem 0; }
img { display: block; width: 100%; min-width: 40rem; height: auto; } /* on a phone it scrolls, to stay legible */
figcaption, .notes { font-size: .875rem; color: #444; }
@media print {
  @page { margin: 14mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  .scroll { overflow: visible; break-inside: avoid; }
  img { min-width: 0; }
  figcaption, .notes { font-size: 8pt; }
  table { font-size: 7.5pt; width: 100%; }
  th, td, thead th { padding: .15rem .3rem; min-width: 0; }
  h2, h3 { break-after: avoid; }
  figure { break-inside: avoid; }
}
"""


def read_published(path: Path) -> tuple[list[list[list[str]]], list[str]]:
    """What `tables.markdown` wrote: tables (rows of texts, the head first) and the notes below them."""
    tables, notes, before = [], [], ""
    for line in path.read_text().splitlines():
        if line.startswith("| ---"):
            continue
        if line.startswith("|"):
            if not before.startswith("|"):
                tables.append([])
            tables[-1].append([cell.strip() for cell in line.split("|")[1:-1]])
        elif line.startswith("- "):
            notes.append(line[2:])
        before = line
    return tables, notes


def write_report(suite: Suite, name: str, profile: str, runs: list[Run], folder: Path) -> Path:
    """Writes `folder`/report.html from `folder`/tables and `folder`/figures and the records of the runs.

    name: of the suite's file. Raises FileNotFoundError if notebooks 90 and 91 have not been run.
    """
    states = collect(runs).states.drop_duplicates(["run", "world_seed", "seed"])
    done = [run for run, state in zip(runs, states["state"], strict=True) if state == "done"]
    sections = {
        "What was run": _facts(name, profile, runs, done),
        "Runs without a result": _unfinished(states),
        "Tables": _tables(suite, runs, folder / "tables"),
        "Figures": _figures(suite, folder / "figures"),
    }
    links = "".join(f'<li><a href="#part-{i}">{title}</a></li>' for i, title in enumerate(sections))
    parts = "\n".join(
        f'<section aria-labelledby="part-{i}">\n<h2 id="part-{i}">{title}</h2>\n{content}\n</section>'
        for i, (title, content) in enumerate(sections.items())
    )
    title = escape(f"LSS: suite {name}, profile {profile}")
    text = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>Language-based action concept spaces for video self-supervised learning: an open implementation of Ranasinghe and Ryoo,
NeurIPS 2023 (arXiv 2307.10922).</p>
<nav aria-label="Contents"><ul>{links}</ul></nav>
</header>
<main>
{parts}
</main>
</body>
</html>
"""
    path = folder / "report.html"
    write_text(path, text)
    return path


def _facts(name: str, profile: str, runs: list[Run], done: list[Run]) -> str:
    records = [read_json(run.folder / file) for run in done for file in ("adapt.json", "metrics.json")]
    first = runs[0].params
    data, usual = (
        getattr(params, f"data_{first.dataset}")
        for params in (first, load(profile=profile, world_seed=first.world_seed))
    )
    times = [record["started"] for record in records if "started" in record]  # those of older commits do not say
    hours = sum(record["seconds"] for record in records) / 3600
    mentioned = {
        "Commit": "commit",
        "Hardware": "hardware",
        "torch": "torch",
        "transformers": "transformers",
        "PyAV": "av",
    }
    facts = {
        "Command": f"make reproduce PROFILE={profile} SUITE={name}" + (f" DATA={data}" if data != usual else ""),
        "Videos": f"adapted to {first.dataset}, evaluated on {', '.join(first.evaluate_on)}",
        "CLIP": ", ".join(dict.fromkeys(run.params.clip for run in runs)),
        "Rows": ", ".join(dict.fromkeys(run.ablation for run in runs)),
        "Runs": f"{len(done)} of {len(runs)} done",
        "When": f"adaptations and evaluations begun between {min(times)} and {max(times)} UTC"
        if times
        else "not recorded",
        "Time": f"{hours:.2f} hours of adaptation and evaluation, an interrupted adaptation from its last start on",
        **{spoken: _shares(record[key] for record in records) for spoken, key in mentioned.items()},
    }
    return "<dl>" + "".join(f"<dt>{key}</dt><dd>{escape(text)}</dd>" for key, text in facts.items()) + "</dl>"


def _shares(values: Iterable[Any]) -> str:
    """What all result files say, or each of several answers with the number of files."""
    counts = Counter(values)
    return (
        "; ".join(value if len(counts) == 1 else f"{value} ({count} files)" for value, count in counts.items()) or "-"
    )


def _unfinished(states: pd.DataFrame) -> str:
    rows = [
        [row.run, str(row.world_seed), str(row.seed), row.state, row.where or "-"]
        for row in states[states["state"] != "done"].itertuples()
    ]
    if not rows:
        return "<p>None: every run of the suite is done.</p>"
    return _table("Runs that have failed or were not run", [["run", "world", "seed", "state", "log"], *rows])


def _tables(suite: Suite, runs: list[Run], folder: Path) -> str:
    titles = tables_of_rows(runs_of_table(runs, suite.rows, suite.replicas))
    titles |= {name: table.title for name, table in suite.comparisons.items()}
    parts, number = [], 0
    for name, title in titles.items():
        tables, notes = read_published(folder / f"{name}.md")
        parts.append(f"<h3>{escape(title[:1].upper() + title[1:])}</h3>")
        for i, rows in enumerate(tables):
            number += 1
            parts.append(_table(f"Table {number}. {title[:1].upper() + title[1:]}{', continued' if i else ''}", rows))
        parts.append('<ul class="notes">' + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>")
        parts.append(f'<p class="notes">All digits, with the runs they come from: <code>tables/{name}.csv</code></p>')
    return "\n".join(parts)


def _table(caption: str, rows: list[list[str]]) -> str:
    """Rows of texts, the head first, in a box that scrolls by itself."""
    head, *body = [[escape(text) for text in row] for row in rows]
    lines = [
        f'<th scope="row">{first}</th>' + "".join(f"<td>{_bold(text)}</td>" for text in rest) for first, *rest in body
    ]
    return f"""<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0">
<table>
<caption>{escape(caption)}</caption>
<thead><tr>{"".join(f'<th scope="col">{text}</th>' for text in head)}</tr></thead>
<tbody>
{"".join(f"<tr>{line}</tr>{os.linesep}" for line in lines)}</tbody>
</table>
</div>"""


def _bold(text: str) -> str:
    return f"<strong>{text[2:-2]}</strong>" if text.startswith("**") and text.endswith("**") else text


def _figures(suite: Suite, folder: Path) -> str:
    record, parts = read_json(folder / "figures.json"), []
    kinds = {name: next(kind for kind in CAPTIONS if f"{name}_".startswith(f"{kind}_")) for name in record["made"]}
    for number, name in enumerate(sorted(kinds, key=lambda name: list(CAPTIONS).index(kinds[name])), start=1):
        (title, seen), of = CAPTIONS[kinds[name]], name.removeprefix(kinds[name]).lstrip("_")
        title += f": {suite.comparisons[of].title if of in suite.comparisons else of}" if of else ""
        picture = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        parts.append(f"""<h3>{escape(title)}</h3>
<figure>
<div class="scroll" role="region" aria-label="Figure {number}" tabindex="0">
<img src="data:image/png;base64,{picture}" alt="{escape(f"{title}. {seen}")}">
</div>
<figcaption>Figure {number}. {escape(seen)} For print: <code>figures/{name}.pdf</code></figcaption>
</figure>""")
    if record["left_out"]:
        parts.append(
            "<h3>Figures that were left out</h3><ul>"
            + "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in record["left_out"].items())
            + "</ul>"
        )
    return "\n".join(parts)
