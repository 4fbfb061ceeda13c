"""What a researcher runs on real data, on recorded clips laid out as the data sets of the field: every suite of every
profile is planned, and one of each kind of profile runs from `make reproduce` to its tables, figures and report.

The embedded profile does so in test_workflow.
"""

import json
import os
import re
import shlex
import shutil
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import layouts
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_make import clone, make
from test_workflow import ROOT, Copy
from transformers import BertConfig, BertModel, BertTokenizer

from lib.run.files import read_lines

README = (ROOT / "params/README.md").read_text()
RUNS = {"baseline": 1, "embedded": 104, "long_tailed": 3, "objectives": 20, "one_gpu": 6, "paper": 29, "rehearsal": 2}
RUNS |= {"reproduce": 3, "interpolation": 7, "pilot": 5, "rendered": 55, "quality": 52, "names": 27}
OF_RENDERED = {"rendered", "quality", "names"}  # their rows set what fits this profile alone
# What makes a run of the paper's profile small. The learning rate is one that changes predictions in three steps.
SMALL = {
    "device": "cpu",
    "workers": 0,
    "micro_batch": 1,
    "short_side": 64,
    "image_size": 32,
    "local_image_size": 16,
    "num_frames": 4,
    "frame_stride": 8,
    "global_num_frames": [2, 4],
    "local_num_frames": [1, 2],
    "prompts": "bare",
    "epochs": 1,
    "warmup_epochs": 0,
    "batch_size": 4,
    "learning_rate": 1.0e-2,
    "temporal_learning_rate": 1.0e-2,
    "teacher_momentum": 0.5,
    "final_teacher_momentum": 0.5,
    "queue_size": 16,
    "head_hidden": 16,
    "head_bottleneck": 8,
    "head_prototypes": 32,
    "zero_shot_prompts": "bare",
    "zero_shot_views": ["2x1x1@32"],
    "still_views": ["1x1x1@32"],
    "probe_views": ["2x1x1@32", "2x1x3@16"],
    "probe_held_out": 0.34,
    "probe_c": [1.0],
    "probe_refinements": 0,
    "knn_k": [3],
    "bootstrap_resamples": 100,
}
OWN_WORDS = {
    name: {
        "class_name": name.replace("_", " "),
        "descriptions": [
            f"{start} {name.replace('_', ' ')} is seen here on a carpet of a room."
            for start in ("Someone who is", "A person while", "The body in", "All that")
        ],
    }
    for name in ("daily_life", "falling_backwards", "falling_otherwise")
}


@pytest.fixture(scope="module")
def mine(laid_out, hub_clip) -> dict:
    """The one file that a researcher edits: where data and checkpoint are."""
    return {
        "data_kinetics400": str(laid_out("kinetics400")),
        "data_ucf101": str(laid_out("ucf101")),
        "data_hmdb51": str(laid_out("hmdb51")),
        "data_kinetics600": str(laid_out("kinetics600")),
        "data_ssv2": str(laid_out("ssv2")),
        "clip": str(hub_clip),
        "allow_missing": True,
    }


@pytest.fixture(scope="module")
def own(laid_out) -> dict:
    """The README's profile of one's own videos, with a folder of them."""
    block = re.search(r"```yaml\n(dataset: folder.*?)```", README, re.DOTALL)[1]
    return yaml.safe_load(block) | {
        "data_folder": str(laid_out("folder")),
        "device": "cpu",
        "knn_k": [3],
        "batch_size": 4,
        "micro_batch": 2,
    }


def counts(plan: str) -> dict[str, int]:
    """How many jobs of which rule a dry run lists."""
    table = plan.partition("Job stats:")[2].partition("total")[0].splitlines()
    return {words[0]: int(words[1]) for line in table if len(words := line.split()) == 2 and words[1].isdigit()}


def results(copy: Copy) -> Path:
    """The one folder with a finished suite: tables, figures, records and report."""
    (report,) = copy.folder.glob("outputs/*/*/report.html")
    assert report.stat().st_size > 10_000
    return report.parent


def table_of(place: Path, name: str) -> pd.DataFrame:
    """Accuracies of a table by run, data set (without what is said of its size) and protocol; each a share in
    percent."""
    table = pd.read_csv(place / "tables" / f"{name}.csv")
    table = table.assign(dataset=table["dataset"].str.split().str[0])[["run", "dataset", "protocol", "metric", "mean"]]
    table = (
        table[table["mean"].astype(str) != "not measured"].astype({"mean": float}).dropna()
    )  # of others' rows, what they reported
    assert len(table) and table["mean"].between(0, 100).all()
    return table.set_index(["run", "dataset", "protocol", "metric"])["mean"]


# ---- every profile, every suite -------------------------------------------------------------------------------------

PROFILES = {  # as they are asked for, and the data sets that they look into
    "embedded": [],
    "rendered": [],
    "ucf101": ["ucf101"],
    "paper+mine": ["kinetics400", "ucf101", "hmdb51"],
    "paper+more_sets+mine": ["kinetics400", "ucf101", "hmdb51", "kinetics600", "ssv2"],
    "paper+rehearsal+places": ["ucf101"],
    "paper+first": ["ucf101"],
    "paper+own": ["folder"],
    "paper+charades": ["charades"],
    "clip_b32+mine": ["ucf101", "hmdb51"],
    "clip_b32+mine+interpolated": ["ucf101", "hmdb51"],
    "paper+pilot+mine": ["kinetics400"],
}
REFUSED = {
    ("ucf101", "embedded"): "concept_labels: dataset looks into class_vocabularies",
    ("embedded", "paper"): "params/ablations/independent_frames.yaml: changes nothing in profile 'embedded'",
    ("ucf101", "paper"): "params/ablations/independent_frames.yaml: changes nothing in profile 'ucf101'",
    ("clip_b32+mine+interpolated", "paper"): "params/ablations/layer_decay.yaml: changes nothing",
    ("clip_b32+mine", "paper"): "params/ablations/layer_decay.yaml: changes nothing in profile 'clip_b32+mine'",
    ("clip_b32+mine", "embedded"): "params/ablations/layer_decay.yaml: changes nothing in profile 'clip_b32+mine'",
    ("clip_b32+mine+interpolated", "embedded"): "params/ablations/layer_decay.yaml: changes nothing",
    (
        "paper+rehearsal+places",
        "embedded",
    ): "params/ablations/epochs_1.yaml: changes nothing in profile 'paper+rehearsal+places'",
    ("paper+charades", "embedded"): "objective: label needs one label a clip, and those of charades have several",
    ("paper+charades", "paper"): "objective: label needs one label a clip, and those of charades have several",
    ("paper+charades", "interpolation"): "objective: label needs one label a clip, and those of charades have several",
    ("paper+charades", "long_tailed"): "imbalance: 10 needs one label a clip, and those of charades have several",
    (
        "paper+charades",
        "objectives",
    ): "evaluate_on: no descriptions of classes of charades; set score_spaces to [category]",
}
REFUSED |= {(name, "pilot"): "reports test clips, on which a pilot chooses nothing" for name in PROFILES}
del REFUSED["paper+pilot+mine", "pilot"]
REFUSED |= {("rendered", suite): "changes nothing in profile 'rendered'" for suite in ("embedded", "paper")}

PLANNED = [(name, suite) for name in PROFILES for suite in RUNS if name == "rendered" or suite not in OF_RENDERED]
for suite in ("quality", "names"):
    REFUSED["rendered", suite] = "is neither a folder nor available"  # CLIPs beside the profile's

# One process imports Snakemake once, and forks for each plan.
DRY_RUNS = """
import json, os, sys, tempfile
import snakemake.cli
from lib.datasets import check
from lib.study import suites, tables
from workflow import make
for wanted in json.load(sys.stdin):
    with tempfile.TemporaryFile() as said:
        if not (pid := os.fork()):
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            settings = make.Settings.read("reproduce", wanted)
            os.environ |= make.configuration(settings)
            sys.argv = make.snakemake(settings, "--dry-run")[2:]
            status = 1
            try:
                snakemake.cli.main()
            except SystemExit as end:
                status = end.code or 0
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said.seek(0)
        print(json.dumps([status, said.read().decode()]), flush=True)
"""


@pytest.fixture(scope="module")
def plans(laid_out, hub_clip, mine, own, tmp_path_factory) -> dict[tuple[str, str], tuple[int, str]]:
    """Exit status and output of the dry run of every suite of every profile."""
    copy = Copy(tmp_path_factory.mktemp("plans"))
    # the checkpoint alone, against known numbers: the keys that the README names
    first = [
        yaml.safe_load(key) for key in re.findall(r"`((?:dataset|evaluate_on|probe_on): [^`]*ucf101[^`]*)`", README)
    ]
    files = {
        "mine": mine,
        "first": {"data_ucf101": mine["data_ucf101"], "clip": mine["clip"]} | first[0] | first[1] | first[2],
        "own": own | {"clip": str(hub_clip)},
        "places": {"data_ucf101": str(laid_out("ucf101")), "clip": str(hub_clip)},
        "charades": {
            "dataset": "charades",
            "data_charades": str(laid_out("charades")),
            "evaluate_on": ["charades"],
            "probe_on": [],
            "clip": str(hub_clip),
            "batch_size": 4,
            "micro_batch": 0,
            "device": "cpu",
        },
    }
    for name, content in files.items():
        copy.write(f"params/profiles/{name}.yaml", content)
    copy.write("params/concepts/mine.yaml", OWN_WORDS)
    wanted = [
        {"PROFILE": profile, "SUITE": suite, "DATA": str(laid_out("ucf101")) if profile == "ucf101" else ""}
        for profile, suite in PLANNED
    ]
    done = subprocess.run(
        [sys.executable, "-c", DRY_RUNS],
        cwd=copy.folder,
        env=os.environ | {"PYTHONPATH": str(copy.folder)},
        text=True,
        check=True,
        input=json.dumps(wanted),
        stdout=subprocess.PIPE,
    )
    return {
        (of["PROFILE"], of["SUITE"]): tuple(json.loads(line))
        for of, line in zip(wanted, done.stdout.splitlines(), strict=True)
    }


def test_nothing_under_params_is_left_out_of_the_plans():
    stems = {kind: {path.stem for path in (ROOT / "params" / kind).glob("*.yaml")} for kind in ("profiles", "suites")}
    assert (
        stems["profiles"] <= {name for names in PROFILES for name in names.split("+")}
        and stems["suites"] == RUNS.keys()
    )


@pytest.mark.parametrize("profile, suite", PLANNED)
def test_a_suite_of_a_profile_is_planned_on_its_data_or_refused_with_the_reason(plans, profile, suite):
    status, said = plans[profile, suite]
    if (profile, suite) in REFUSED:
        assert status == 2 and REFUSED[profile, suite] in said and "Traceback" not in said
        return
    assert status == 0, said
    jobs = counts(said)
    of_worlds = profile in ("embedded", "rendered") and suite == "objectives"
    runs = 36 if of_worlds else RUNS[suite]  # of three worlds
    assert (
        jobs["adapt"] == jobs["evaluate"] == runs and jobs["figures"] == jobs["report"] == jobs["tables_protocols"] == 1
    )
    tables = yaml.safe_load((ROOT / "params/suites" / f"{suite}.yaml").read_text()).get("tables", ["objectives"])
    assert {f"tables_{name}" for name in tables} <= jobs.keys()
    checked = [] if suite == "pilot" else PROFILES[profile]
    assert {name for name in jobs if name.startswith("check_")} == {f"check_{name}" for name in checked}


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
    status, output = make(copy, "reproduce", "PROFILE=clip_b32+mine", "SUITE=one_gpu")
    assert status == 0, output
    assert {"adapt": 6, "evaluate": 6}.items() <= counts(output).items()
    place, rows = results(copy), {"chance", "image_clip", "no_language", "must", "temporal_only", "lss"}
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


def test_the_notebooks_for_real_clips_run_on_them(laid_out, hub_clip, made_bpe, tmp_path):
    """One's own videos, and the rehearsal of the paper's profile up to its plan; both at once, as papermill is called
    by hand."""
    copy = Copy(tmp_path)
    given = {
        "20_your_videos": {
            "videos": str(laid_out("folder") / "train"),
            "model": str(hub_clip),
            "num_frames": 4,
            "shots": 3,
        },
        "checks/92_rehearsal": {"videos": str(laid_out("ucf101")), "bpe": str(made_bpe), "groups": [1, 8, 15, 22]},
    }
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "papermill",
                f"notebooks/{name}.ipynb",
                f"{Path(name).name}.ipynb",
                "-k",
                "python3",
                "-y",
                json.dumps(own),
            ],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for name, own in given.items()
    ]
    for process in started:
        said, _ = process.communicate()
        assert process.returncode == 0, said
    table = pd.read_csv(tmp_path / "outputs/predictions/predictions.csv")
    classes = ["daily_life", "falling_backwards", "falling_otherwise"]
    assert (
        len(table) == 14
        and table["truth"].value_counts().to_dict() == dict(zip(classes, [6, 4, 4]))
        and table["error"].isna().all()
    )
    assert (table[classes].sum(axis=1) - 1).abs().max() < 0.01
    assert len(pd.read_csv(tmp_path / "outputs/predictions/probe_predictions.csv")) == 14 - 3 * 3
    planned = copy("--dry-run", profile="paper+rehearsal", suite="rehearsal")
    assert planned.returncode == 0, planned.stdout
    assert {"check_ucf101": 1, "adapt": 2, "evaluate": 2}.items() <= counts(planned.stdout).items()
    assert len(list((tmp_path / "data/rehearsal/UCF-101").glob("*/*"))) == 4 * 4 - 1
    shutil.rmtree(tmp_path / "data")  # 600 MB


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Copy:
    """A copy for the notebooks that measure, with the committed CLIP of the embedded world."""
    copy = Copy(tmp_path_factory.mktemp("measured"))
    shutil.copytree(ROOT / "outputs/embedded/clip/0", copy.folder / "outputs/embedded/clip/0")
    return copy


def sentence_model(folder: Path) -> Path:
    """A BERT of one layer with random weights, whose words are letters."""
    folder.mkdir()
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase])
    )
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(BertConfig(vocab_size=31, **sizes)).save_pretrained(folder)
    return folder


ON_CPU = {"device": "cpu", "batch_size": 2, "micro_batch": 1, "workers": 0, "warmup_epochs": 0}


def inputs_of(notebook: str, laid_out: Callable[..., Path], folder: Path) -> dict:
    """The parameters of a notebook that say what it reads, of recorded clips."""
    folder.mkdir()
    if notebook == "13_descriptions":
        return {"sentence_model": str(sentence_model(folder / "bert"))}
    if notebook == "checks/94_zoo":  # it cuts off the film of this name
        for clip, name in zip(
            sorted(layouts.clips(), key=lambda clip: clip.stat().st_size), ("nasa_13013.mp4", "b.mp4")
        ):
            shutil.copy(clip, folder / name)
        return {"zoo": str(folder)}
    if notebook == "checks/95_speed":
        shutil.copy(layouts.clips()[0], folder / "clip.avi")
        return {"originals": str(folder)}
    if notebook == "checks/98_gpu_speed":
        return {"overrides": ON_CPU | {"data_ucf101": str(laid_out("ucf101")), "probe_on": []}}
    return {}


@pytest.mark.parametrize(
    "notebook, parameters, written, columns",
    [
        (
            "04_your_experiment",
            {"epochs": 1, "overrides": {"world_train": 160, "world_test": 32, "probe_c": [1.0]}},
            "embedded/runs/my_loss-*/world0-seed0/compared_with_lss.csv",
            {"dataset", "protocol", "my_loss", "lss", "difference", "low", "high"},
        ),
        (
            "12_difficulty",
            {"difficulties": [0.2], "overrides": {"world_validation": 16, "probe_c": [1.0]}},
            "embedded/tables/difficulty_world0.csv",
            {"world_difficulty", "zero_shot, top1", "linear_probe, top1", "commit"},
        ),
        (
            "13_descriptions",
            {"vocabularies": ["embedded"]},
            "concepts/descriptions.csv",
            {"vocabulary", "label", "own", "nearest", "cosine", "right"},
        ),
        (
            "checks/93_checkpoints",
            {"configurations": ["openai/clip-vit-base-patch32"], "frames": [1], "repeats": 1},
            "speed/checkpoints.csv",
            {"configuration", "deviation", "spread", "bfloat16", "weights"},
        ),
        ("checks/94_zoo", {"count": 10}, "speed/fuzz.csv", {"source", "exact", "error", "differs", "crashed"}),
        (
            "checks/95_speed",
            {"repeats": 1, "spacings": [12]},
            "speed/decode.csv",
            {"task", "file", "method", "median_ms", "ratio_to_ours"},
        ),
        (
            "checks/96_probe_speed",
            {"clips": 90, "width": 8, "classes": 3},
            "speed/probe.csv",
            {"fitted_by", "C", "seconds", "ratio", "commit"},
        ),
        (
            "checks/97_model_speed",
            {"frames": 2, "image_size": 32, "layers": 1, "repeats": 1},
            "speed/model.csv",
            {"model", "pass", "dtype", "median_s", "ratio_to_ours"},
        ),
        (
            "checks/98_gpu_speed",
            {
                "profile": "ucf101",
                "variants": {"cut later": {"views_on_device": True}},
                "only": [],
                "steps": 2,
                "warm": 1,
            },
            "speed/gpu.csv",
            {"variant", "videos_per_s", "share_of_matrix_rate", "loss_of_the_last_step"},
        ),
        ("checks/99_ops", {"variants": [1]}, "speed/ops.csv", {"micro_batches", "kind", "operation", "count"}),
    ],
)
def test_a_notebook_that_measures_reaches_its_table(
    measured, laid_out, made_bpe, tmp_path, notebook, parameters, written, columns
):
    """On a few clips: its numbers mean nothing here."""
    parameters = parameters | inputs_of(notebook, laid_out, tmp_path / "inputs")
    if notebook == "checks/93_checkpoints":
        parameters |= {"bpe": str(made_bpe)}
    command = [sys.executable, "-m", "papermill", f"notebooks/{notebook}.ipynb", str(tmp_path / "executed.ipynb")]
    done = subprocess.run(
        [*command, "-k", "python3", "-y", json.dumps(parameters)],
        cwd=measured.folder,
        env=os.environ | {"PYTHONPATH": str(measured.folder)},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = (measured.folder / "outputs").glob(written)
    table = pd.read_csv(path)
    assert len(table) and columns <= {*table.columns}, table
