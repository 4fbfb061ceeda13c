"""Records of finished runs under former names of parameters are renamed; nothing is computed again."""

import json
import os
import subprocess
import sys

import pytest

from lib.run.fields import AdaptParams, EvaluateParams
from lib.run.files import read_json, write_json, write_text
from lib.run.params import ROOT, load
from workflow.migrate import renamed

PUBLISHED = ROOT / "outputs/published/embedded/study/records"
FORMER = {
    "uniform_prior_weight": "prior_weight",
    "queue_size": "prior_memory",
    "sinkhorn_iterations": "sinkhorn_rounds",
    "max_gradient_norm": "clip_gradient",
    "bootstrap_resamples": "bootstrap_rounds",
    "flip_probability": "flip",
}


def test_published_records_are_of_todays_parameters():
    runs = sorted(PUBLISHED.glob("*/*"))
    for run in runs:
        world_seed, seed = map(int, run.name.removeprefix("world").split("-seed"))
        p = load(profile="embedded", ablation=run.parent.name, world_seed=world_seed, seed=seed)
        assert p.made(read_json(run / "adapt.json"), AdaptParams), run
        assert p.made(read_json(run / "metrics.json"), EvaluateParams), run
    assert len(runs) == 104


@pytest.mark.parametrize(
    "prior, normalisation, weight",
    [
        (["sinkhorn", "penalty"], "sinkhorn", 0.5),
        (["penalty"], "none", 0.5),
        (["centring"], "centring", 0.0),
        ([], "none", 0.0),
    ],
)
def test_the_list_of_priors_becomes_a_normalisation_and_a_weight(prior, normalisation, weight):
    new = renamed({"prior": prior, "prior_weight": 0.5, "seed": 3})
    assert new == {"target_normalisation": normalisation, "uniform_prior_weight": weight, "seed": 3}


def test_a_finished_run_is_done_after_the_migration(tmp_path):
    p = load(profile="paper", ablation="lss", data_kinetics400="/old/disk")
    run = tmp_path / "lss" / "world0-seed0"
    former = {FORMER.get(name, name): value for name, value in p.model_dump().items()}
    del former["target_normalisation"]
    former["prior"] = ["sinkhorn", "penalty"]
    record = {"params": former, "params_hash": "0123456789ab"}
    for folder in (run, run / "student", run / "teacher"):
        write_json(folder / "adapt.json", record)
    write_text(run / "teacher" / "README.md", "parameters 0123456789ab\n")
    write_json(run / "metrics.json", {"metrics": [1.5], **record})
    os.utime(run / "metrics.json", ns=(10**18, 10**18))
    assert not p.made(read_json(run / "adapt.json"), AdaptParams)

    command = [sys.executable, "-m", "workflow.migrate", str(tmp_path)]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert len(output.splitlines()) == 2
    adapted, measured = read_json(run / "adapt.json"), read_json(run / "metrics.json")
    assert p.made(adapted, AdaptParams) and adapted["params"] == json.loads(json.dumps(p.model_dump()))
    assert p.made(measured, EvaluateParams) and measured["metrics"] == [1.5]
    assert read_json(run / "teacher" / "adapt.json") == read_json(run / "student" / "adapt.json") == adapted
    assert adapted["params_hash"] in (run / "teacher" / "README.md").read_text()
    assert (run / "metrics.json").stat().st_mtime_ns == 10**18  # tables made from it are not out of date
    assert subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout == ""


def test_a_record_that_lacks_a_parameter_is_left_unchanged(tmp_path):
    path = tmp_path / "lss" / "world0-seed0" / "adapt.json"
    write_json(path, {"params": {"prior": [], "prior_weight": 0.5, "dataset": "folder"}, "params_hash": "0123456789ab"})
    before = path.read_bytes()
    command = [sys.executable, "-m", "workflow.migrate", str(tmp_path)]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "older than the parameter" in output and path.read_bytes() == before
