"""Every suite of every profile is planned on recorded clips laid out as the data sets of the field, or refused."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from researcher import OWN_WORDS, README, counts
from test_workflow import ROOT, Copy

RUNS = {"baseline": 1, "embedded": 104, "long_tailed": 3, "objectives": 20, "one_gpu": 6, "paper": 29, "rehearsal": 2}
RUNS |= {"reproduce": 3, "interpolation": 7, "pilot": 5, "rendered": 55, "quality": 52, "names": 27}
OF_RENDERED = {"rendered", "quality", "names"}  # their rows set what fits this profile alone


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

# what an overlay changes does not depend on the suite
OVERLAID = {"reproduce", "baseline", "rehearsal", "interpolation", "pilot", "embedded"}
PLANNED = [
    (name, suite)
    for name in PROFILES
    for suite in RUNS
    if (suite not in OF_RENDERED or name == "rendered") and (suite in OVERLAID or len(name.split("+")) < 3)
]
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
