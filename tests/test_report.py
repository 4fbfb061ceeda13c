"""The report: one page that stands by itself, holds every number of the tables, and says what there is not."""

import base64
import re
from html.parser import HTMLParser

import pytest
from test_tables import fail, finish, outputs  # noqa: F401 - runs made up by hand, and the folder that they lie in

from lib.run.fields import AdaptParams
from lib.run.files import write_json
from lib.study import figures, report, suites, tables

VOID = {"meta", "img", "br", "link", "hr"}
CLASSES = ["sit down", "stand up", "walk"]


class Page(HTMLParser):
    """Every element with its attributes, and the texts of headings and table cells; refuses what is not nested."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.elements, self.texts = [], [], {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        assert len(dict(attributes)) == len(attributes)
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in self.open:
            self.texts[tag][-1] += data

    def all(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture
def suite():
    return suites.Suite(
        folder="",
        rows=["image_clip", "lss", "no_language"],
        reference="lss",
        replicas=[[0, 0], [0, 1]],
        tables={"objectives": suites.Table(title="What each <term> does", rows=["image_clip", "lss", "no_language"])},
    )


@pytest.fixture
def made(outputs, suite):  # noqa: F811
    """A suite of which one run has failed and one was not run: the folder, and the report's text."""
    runs = suites.runs_of(suite, "embedded")
    for run, right in zip(runs, (20, 24, 26)):  # image_clip, and lss with both seeds
        versions = {
            "hardware": "a <small> laptop, 2 cores",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "av": "18.1.0",
            "started": "2026-11-24 10:00",
        }
        finish(run, right=right, seconds=1800, **versions)
        write_json(
            run.folder / "adapt.json",
            {"seconds": 5400, "commit": "1234567890", "params_hash": run.params.stage_hash(AdaptParams), **versions},
        )
    runs[3].folder.mkdir(parents=True)
    fail(runs[3])
    tables.write_tables(suite, runs, outputs / "tables")
    for name in ("training_objectives", "accuracies"):
        figures.save(figures.shares(CLASSES, {"accuracy": [0, 50, 100]}), outputs / "figures" / name)
    write_json(
        outputs / "figures" / "figures.json",
        {"made": ["accuracies", "training_objectives"], "left_out": {"shots": "no run has probes on few examples"}},
    )
    return outputs, report.write_report(suite, "mine", "embedded", runs, outputs).read_text()


def test_a_report_on_the_rendered_benchmarks_names_their_videos():
    runs = suites.runs_of(suites.read_suite("reproduce"), "rendered")
    facts = report._facts("reproduce", "rendered", runs, [])
    assert facts["Videos"] == "adapted to rendered_k, evaluated on rendered_k, rendered_u, rendered_h"
    assert facts["Command"] == "make reproduce PROFILE=rendered SUITE=reproduce" and facts["Runs"] == "0 of 3 done"


def test_the_page_is_well_formed_and_loads_nothing(made):
    page = Page(made[1])
    assert made[1].startswith("<!DOCTYPE html>") and page.all("html") == [{"lang": "en"}]
    for attributes in (attributes for _, attributes in page.elements):
        for name in {"src", "srcset", "href", "data", "action", "style"} & attributes.keys():
            assert attributes[name].startswith(("data:image/png;base64,", "#")), attributes[name][:60]
    assert not page.all("script", "link", "iframe", "object") and "url(" not in made[1] and "@import" not in made[1]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {attributes["href"][1:] for attributes in page.all("a")} <= set(ids)


def test_headings_go_down_one_level_at_a_time(made):
    levels = [int(tag[1]) for tag, _ in Page(made[1]).elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:]))


def test_tables_have_captions_and_heads_and_every_text_of_the_published_ones(made):
    folder, text = made
    page = Page(text)
    # the result, zero-shot, linear probe, few labels, objectives, missing runs
    assert len(page.texts["caption"]) == len(page.all("table")) == 6
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.all("th"))
    shown = page.texts["td"] + page.texts["th"]
    for name in ("zero_shot", "linear_probe", "objectives"):
        cells = [
            cell.strip().strip("*")
            for line in (folder / "tables" / f"{name}.md").read_text().splitlines()
            if line.startswith("|") and "---" not in line
            for cell in line.split("|")[1:-1]
        ]
        assert "62.5 ± 2.5" in cells or name == "linear_probe"
        for cell in set(cells):
            assert shown.count(cell) >= cells.count(cell), cell
    assert "**" not in "".join(shown)


def test_pictures_have_a_text_for_those_who_cannot_see_them_and_are_the_files(made):
    folder, text = made
    images = Page(text).all("img")
    assert [image["alt"].split(".")[0] for image in images] == [
        "Accuracy of every run",
        "Training: What each <term> does",
    ]
    for image, name in zip(images, ("accuracies", "training_objectives")):
        assert base64.b64decode(image["src"].partition(",")[2]) == (folder / "figures" / f"{name}.png").read_bytes()


def test_what_there_is_not_is_said(made):
    page = Page(made[1])
    rows = [row for row in page.texts["tr"] if "failed" in row or "not run" in row]
    assert "no_language00failedno_language/world0-seed0/02_adapt.log" in rows
    assert "no_language01not run-" in rows
    assert "shots: no run has probes on few examples" in page.texts["li"]


def test_what_was_run_is_told_with_commits_hardware_and_hours(made):
    page = Page(made[1])
    facts = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert facts["Runs"] == "3 of 5 done" and facts["Time"].startswith("6.00 hours")
    assert facts["Commit"] == "1234567890 (3 files); abcdef0123 (3 files)"
    assert facts["Hardware"] == "a <small> laptop, 2 cores" and facts["torch"] == "2.13.0"
    assert facts["Command"] == "make reproduce PROFILE=embedded SUITE=mine"


def test_a_suite_of_which_nothing_has_run_has_a_report(outputs, suite):  # noqa: F811
    runs = suites.runs_of(suite, "embedded")
    tables.write_tables(suite, runs, outputs / "tables")
    write_json(outputs / "figures" / "figures.json", {"made": [], "left_out": {"accuracies": "no run is done"}})
    page = Page(report.write_report(suite, "mine", "embedded", runs, outputs).read_text())
    assert "0 of 5 done" in page.texts["dd"] and "accuracies: no run is done" in page.texts["li"]
    assert sum("not run" in row for row in page.texts["tr"]) >= 5
