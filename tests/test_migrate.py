"""Runs that were finished under the former hash are finished under today's, without anything being computed."""

import json
import os
import subprocess
import sys

import pytest

from lib.run.fields import AdaptParams, EvaluateParams
from lib.run.files import read_json, write_json, write_text
from lib.run.params import ROOT, load
from workflow.migrate import former_hash, migrate

PUBLISHED = ROOT / "outputs/published/embedded/study/records"


def test_the_former_hash_is_that_of_the_runs_of_then():
    run = PUBLISHED / "lss/world0-seed0"
    recorded = read_json(run / "adapt.json")["params"] | read_json(run / "metrics.json")["params"]
    assert (former_hash(recorded, AdaptParams), former_hash(recorded, EvaluateParams)) == (
        "3ab6e7fb5926",
        "d5c8c35949f5",
    )
    paper, moved = (
        former_hash(dict(load(profile="paper", data_kinetics400=place)), AdaptParams) for place in ("here", "there")
    )
    assert paper != moved


def test_published_records_are_of_todays_parameters():
    runs = sorted(PUBLISHED.glob("*/*"))
    for run in runs:
        world_seed, seed = map(int, run.name.removeprefix("world").split("-seed"))
        p = load(profile="embedded", ablation=run.parent.name, world_seed=world_seed, seed=seed)
        assert p.made(read_json(run / "adapt.json"), AdaptParams) and p.made(
            read_json(run / "metrics.json"), EvaluateParams
        ), run
    assert len(runs) == 99


@pytest.fixture
def finished(tmp_path):
    """A run of the paper's profile on videos elsewhere, as it was left by the code of then."""
    p = load(profile="paper", ablation="lss", data_kinetics400="/old/disk")
    run = tmp_path / "lss" / "world0-seed0"
    record = {"params": p.model_dump(), "params_hash": former_hash(dict(p), AdaptParams)}
    for path in (run / "adapt.json", run / "student" / "adapt.json", run / "teacher" / "adapt.json"):
        write_json(path, record)
    write_text(run / "teacher" / "README.md", f"parameters {record['params_hash']}\n")
    write_json(run / "metrics.json", {"metrics": [1.5], "params_hash": former_hash(dict(p), EvaluateParams)})
    os.utime(run / "metrics.json", ns=(10**18, 10**18))
    return p, run


def test_a_finished_run_stays_one(finished, tmp_path):
    p, run = finished
    assert not p.made(read_json(run / "adapt.json"), AdaptParams)
    said = subprocess.run(
        [sys.executable, "-m", "workflow.migrate", "paper", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert len(said.stdout.splitlines()) == 2
    adapted, measured = read_json(run / "adapt.json"), read_json(run / "metrics.json")
    assert p.made(adapted, AdaptParams) and adapted["params"] == p.model_dump()
    assert (
        p.made(measured, EvaluateParams)
        and measured["metrics"] == [1.5]
        and measured["params"]["data_kinetics400"] == "/old/disk"
    )
    assert read_json(run / "teacher" / "adapt.json") == read_json(run / "student" / "adapt.json") == adapted
    assert adapted["params_hash"] in (run / "teacher" / "README.md").read_text()
    assert (run / "metrics.json").stat().st_mtime_ns == 10**18  # what was made from it is not out of date
    assert migrate(run, dict(p)) == []


def test_what_came_after_the_adaptation_is_todays_and_what_does_not_fit_is_left(finished):
    p, run = finished
    adapted = read_json(run / "adapt.json")
    del adapted["params"]["probe_seed"]  # a parameter of the evaluation that is younger than the adaptation
    write_json(run / "adapt.json", adapted)
    assert len(migrate(run, dict(p))) == 2 and p.made(read_json(run / "metrics.json"), EvaluateParams)
    for name in ("adapt.json", "metrics.json"):
        write_json(
            run / name,
            {key: value for key, value in read_json(run / name).items() if key != "params" or name == "adapt.json"}
            | {"params_hash": "0123456789ab"},
        )
        before = (run / name).read_text()
        (line,) = [line for line in migrate(run, dict(p)) if f"{name}: 0123456789ab is not the hash" in line]
        assert (run / name).read_text() == before and json.loads(before)["params_hash"] == "0123456789ab"
