"""What a researcher runs on real data, on recorded clips laid out as the data sets of the field: one of each kind of
profile, from `make reproduce` to its tables, figures and report.

The embedded profile does so in test_workflow.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pandas as pd
import torch
import yaml
from researcher import OWN_WORDS, README, SMALL, counts, results, table_of
from safetensors.torch import load_file
from test_make import clone, make
from test_workflow import ROOT

from lib.run.files import read_lines

# ---- one of each kind, from end to end ------------------------------------------------------------------------------


def test_the_papers_profile_runs_from_one_file_of_paths_to_its_tables(mine, tmp_path):
    """Kinetics to UCF-101, HMDB-51 and Kinetics, every protocol, in bfloat16, with local views, in two processes."""
    copy = clone(tmp_path)
    copy.write("params/profiles/mine.yaml", mine | SMALL)
    status, said = make(copy, "check-data", "PROFILE=paper+mine", "CORES=2")
    assert status == 0 and said.count("23 of 23 files can be decoded") == 3, said
    for line in (
        "train: 15 of 15 listed clips found (officially 246534)",
        "97 of 101 classes have no clip",
        "47 of 51 classes have no clip",
    ):
        assert line in said
    # by hand, as the README says, on one machine instead of two; the workflow takes its result
    command = re.search(r"`(\w+=1\s+torchrun [^`]*)`", README)[1]
    for there, here in (
        ("--nnodes 2 --nproc-per-node 8", "--nnodes 1 --nproc-per-node 2"),
        ("HOST:29400", "localhost:0"),
    ):
        assert there in command
        command = command.replace(there, here)
    variable, program, *arguments = shlex.split(command)
    copy.write("params/profiles/mine.yaml", mine | SMALL | {"devices": 2})
    by_hand = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *arguments],
        cwd=copy.folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | dict([variable.split("=")]) | {"PYTHONPATH": str(copy.folder)},
    )
    assert program == "torchrun" and by_hand.returncode == 0, by_hand.stdout
    copy.write("params/profiles/mine.yaml", mine | SMALL)
    status, said = make(copy, "reproduce", "PROFILE=paper+mine", "DEVICES=2")
    assert status == 0, said
    assert {"adapt": 2, "evaluate": 3}.items() <= counts(said).items()
    assert "kinetics400" in said.partition("Top-1 on the test part")[2]
    place, rows = results(copy), ["image_clip", "no_language", "lss"]
    protocols = {("ucf101", name) for name in ("zero_shot", "zero_shot_full", "zero_shot_half")}
    protocols |= {("hmdb51", name) for _, name in protocols} | {("kinetics400", "zero_shot")}
    found = table_of(place, "zero_shot").xs("top1", level="metric")
    assert set(found.index) == {(row, *protocol) for row in ["chance", *rows] for protocol in protocols}
    chance = {"zero_shot": 25, "zero_shot_full": 25, "zero_shot_half": 50}
    assert found["chance"].to_dict() == {
        (dataset, name): 0.25 if dataset == "kinetics400" else chance[name] for dataset, name in protocols
    }
    assert found["image_clip"].tolist() != found["lss"].tolist() != found["no_language"].tolist()
    probes = table_of(place, "linear_probe").xs("top1", level="metric")
    assert set(probes.index) == {
        (row, dataset, "linear_probe") for row in ["chance", *rows] for dataset in ("ucf101", "hmdb51")
    }
    text = (place / "tables/zero_shot.md").read_text()
    for line in (
        "ucf101 (4 of 101 classes): 20 of 387 test clips decoded; 367 have no file",
        "hmdb51 (4 of 51 classes): 23 of 343 test clips decoded",
        "kinetics400 (4 of 400 classes): 8 of 8 test clips decoded",
    ):
        assert line in text
    figures = json.loads((place / "figures/figures.json").read_text())
    assert {"accuracies_ucf101", "accuracies_hmdb51", "accuracies_kinetics400", "confusion", "training"} <= set(
        figures["made"]
    )
    assert all((place / f"figures/{name}.png").stat().st_size > 0 for name in figures["made"])
    assert {path.parts[-3] for path in place.glob("records/*/*/metrics.json")} == set(rows)
    runs = place.parent / "runs"
    for row in ("no_language", "lss"):
        adapted = json.loads((runs / row / "world0-seed0/adapt.json").read_text())
        assert (adapted["videos"], adapted["steps"], adapted["bad_videos"]) == (15, 3, [])
        assert [line["step"] for line in read_lines(runs / row / "world0-seed0/log.jsonl")] == [0, 1, 2]
    assert adapted["concepts"] == 472
    teacher = load_file(runs / "lss/world0-seed0/teacher/model.safetensors")
    assert all(weights.dtype == torch.float32 and weights.isfinite().all() for weights in teacher.values())
    assert make(copy, "status", "PROFILE=paper+mine")[1].startswith(
        "profile paper+mine, suite reproduce: 3 runs: 3 done, "
    )


def test_the_profile_of_one_consumer_gpu_runs_from_one_file_of_paths_to_its_tables(mine, tmp_path):
    """UCF-101's training part to UCF-101 and HMDB-51: LSS, its temporal weights alone, two baselines, image CLIP."""
    copy = clone(tmp_path)
    copy.write("params/profiles/mine.yaml", mine | SMALL)
    rows = ["image_clip", "must", "temporal_only", "lss"]
    suite = yaml.safe_load((ROOT / "params/suites/one_gpu.yaml").read_text())
    tables = {"objectives": suite["tables"]["objectives"] | {"rows": rows}}
    copy.write("params/suites/one_gpu.yaml", suite | {"rows": rows, "tables": tables})
    status, output = make(copy, "reproduce", "PROFILE=clip_b32+mine", "SUITE=one_gpu")
    assert status == 0, output
    assert {"adapt": 4, "evaluate": 4}.items() <= counts(output).items()
    place, rows = results(copy), {"chance", *rows}
    for table, protocol in (("zero_shot", "zero_shot"), ("linear_probe", "linear_probe")):
        accuracies = table_of(place, table).xs("top1", level="metric")
        assert set(accuracies.index) == {(row, dataset, protocol) for row in rows for dataset in ("ucf101", "hmdb51")}
    runs = place.parent / "runs"
    adapted = json.loads((runs / "lss/world0-seed0/adapt.json").read_text())
    assert (adapted["videos"], adapted["concepts"], adapted["params"]["layer_decay"]) == (15, 101, 0.65)
    image, temporal = (
        load_file(runs / row / "world0-seed0/teacher/model.safetensors") for row in ("image_clip", "temporal_only")
    )
    assert all(torch.equal(weights, temporal[name]) for name, weights in image.items())


def test_a_pilot_runs_from_one_file_of_paths_to_its_page(mine, tmp_path):
    """Kinetics' training part: three clips held out, three steps on the others. With random weights it says stop."""
    copy, rows = clone(tmp_path), ["image_clip", "lss"]
    copy.write("params/profiles/mine.yaml", mine | SMALL)
    status, output = make(copy, "pilot", "PROFILE=paper+mine")
    assert status == 2 and "kinetics400: 12 training clips make 3 steps of 4, and min_steps is 40" in output, output
    assert "it needs 160 beside those held out" in output and not [*copy.folder.glob("outputs/*/runs/*")]
    suite = yaml.safe_load((ROOT / "params/suites/pilot.yaml").read_text())
    copy.write("params/suites/pilot.yaml", suite | {"rows": rows, "tables": {}})
    places = {name: value for name, value in mine.items() if name != "data_hmdb51"}
    copy.write("params/profiles/mine.yaml", places | SMALL)
    copy.write("params/profiles/few.yaml", {"min_steps": 3, "collapse_window": 1})
    status, output = make(copy, "pilot", "PROFILE=paper+mine+pilot+few")
    assert status == 0, output
    assert {"adapt": 2, "evaluate": 2, "pilot": 1}.items() <= counts(output).items() and "check_" not in output
    place = results(copy)
    text, record = (place / "pilot.md").read_text(), json.loads((place / "pilot.json").read_text())
    assert text.startswith("# Pilot of paper+mine+few: stop") and text in output
    assert record["decision"] == "stop" and set(record["rows"]) == set(rows[1:])
    cost = record["cost"]  # of a whole run on 15 clips, and its evaluation on UCF-101 and Kinetics
    assert cost["steps"] == 3 and cost["absent"] == ["hmdb51"] and cost["hours"] > 0 and cost["memory_gb"] > 0
    assert 0 < cost["area_share"] < 2 and f"{cost['memory_gb']:.1f} GB at the peak" in text
    assert (place / "pilot.png").stat().st_size > 10_000
    found = table_of(place, "zero_shot").xs("top1", level="metric")
    assert set(found.index) == {(row, "kinetics400", "zero_shot") for row in ("chance", *rows)}
    run = place.parent / "runs/lss/world0-seed0"
    answers, adapted = pd.read_csv(run / "answers.csv"), json.loads((run / "adapt.json").read_text())
    assert set(answers["part"]) == {"held_out"} and len(answers) == 3
    assert (adapted["videos"], adapted["steps"]) == (12, 3)


def test_kinetics600_and_ssv2_run_to_their_tables(mine, tmp_path):
    copy = clone(tmp_path)
    copy.write("params/profiles/mine.yaml", mine | SMALL | {"evaluate_on": ["kinetics600", "ssv2"], "probe_on": []})
    status, said = make(copy, "reproduce", "PROFILE=paper+more_sets+mine", "SUITE=rehearsal")
    assert status == 0, said
    place = results(copy)
    found = table_of(place, "zero_shot")
    top1 = found.xs("top1", level="metric")
    assert set(top1.index) == {
        (run, dataset, "zero_shot") for run in ("chance", "image_clip", "lss") for dataset in ("kinetics600", "ssv2")
    }
    assert top1["chance"].tolist() == [0.62, 0.57]
    assert found["lss", "ssv2", "zero_shot", "pair_top1"] >= 0
    text = (place / "tables/zero_shot.md").read_text()
    for line in (
        "kinetics600 (3 of 160 classes): 22 of 9842 test clips decoded; 9820 have no file",
        "ssv2 (4 of 174 classes): 8 of 8 test clips decoded",
        "read pair_top1 (chance: 50) beside top-1",
    ):
        assert line in text, text
    numbers = pd.read_csv(place / "tables/zero_shot.csv")
    of_splits = numbers[(numbers["metric"] == "top1") & (numbers["run"] == "lss")].set_index("dataset")["std"]
    assert of_splits.notna().tolist() == [True, False]  # over three splits and one validation part
    (answers,) = place.parent.glob("runs/lss/world0-seed0/answers.csv")
    assert len(pd.read_csv(answers)) == 16 + 17 + 16 + 8


def test_clips_of_ucf101_run_with_the_embedded_clip_to_their_tables(laid_out, tmp_path):
    copy, folder = clone(tmp_path / "clone"), tmp_path / "my clips of UCF-101"
    folder.symlink_to(laid_out("ucf101"))
    clip = "outputs/embedded/clip/0"
    shutil.copytree(ROOT / clip, copy.folder / clip)
    copy.write(
        "params/profiles/mine.yaml",
        {
            "epochs": 1,
            "warmup_epochs": 0,
            "batch_size": 5,
            "probe_held_out": 0.34,
            "probe_c": [1.0],
            "knn_k": [3],
            "bootstrap_resamples": 100,
        },
    )
    status, said = make(copy, "reproduce", "PROFILE=ucf101+mine", f"DATA={folder}", "SUITE=rehearsal")
    assert status == 0, said
    place = results(copy)
    assert not (copy.folder / "outputs/ucf101+mine").exists()  # results of other videos lie apart
    found = table_of(place, "zero_shot").xs("top1", level="metric")
    assert set(found.index) == {(row, "ucf101", "zero_shot") for row in ("chance", "image_clip", "lss")}
    assert set(found) <= {100 * right / 8 for right in range(9)}  # of eight clips
    assert "8 of 123 test clips decoded; 115 have no file" in (place / "tables/objectives.md").read_text()
    metrics = json.loads((place.parent / "runs/lss/world0-seed0/metrics.json").read_text())
    assert metrics["datasets"]["ucf101"]["classes"] == ["BodyWeightSquats", "HandStandPushups", "JumpingJack", "TaiChi"]


def test_a_folder_of_ones_own_and_charades_run_to_their_tables(laid_out, hub_clip, own, tmp_path):
    copy = clone(tmp_path)
    copy.write("params/profiles/mine.yaml", own)
    copy.write(
        "params/profiles/small.yaml",
        SMALL
        | {"clip": str(hub_clip), "evaluate_on": ["folder", "charades"], "data_charades": str(laid_out("charades"))},
    )
    copy.write("params/concepts/mine.yaml", OWN_WORDS)
    status, said = make(copy, "reproduce", "PROFILE=paper+mine+small", "SUITE=rehearsal")
    assert status == 0, said
    place = results(copy)
    found = table_of(place, "zero_shot")
    assert {(run, dataset, metric) for run, dataset, _, metric in found.index} >= {
        (run, *measured) for run in ("image_clip", "lss") for measured in (("folder", "top1"), ("charades", "mAP"))
    }
    assert set(table_of(place, "linear_probe").index.get_level_values("dataset")) == {"folder"}
    text = (place / "tables/zero_shot.md").read_text()
    assert "folder: 6 of 6 test clips decoded" in text and "charades" in text and "8 of 8 test clips decoded" in text
    adapted = json.loads((place.parent / "runs/lss/world0-seed0/adapt.json").read_text())
    assert (adapted["videos"], adapted["concepts"]) == (14, 3)
