# The suite as a graph of papermill runs: world, clip -> adapt -> evaluate -> tables, figures -> report. `make reproduce` calls
# it; `snakemake -n --config profile=embedded suite=objectives` shows the plan.
#
# config: profile, suite (params/profiles, params/suites); data: another folder of videos than the profile's for the data
# set that it adapts to; devices: of each adaptation, another number than the profile's; partial=1: tables and figures from
# the runs that are finished, nothing else.
#
# The tracked output of a notebook is the result file that it writes last, so what was interrupted is done again (an
# adaptation goes on from its checkpoint). A rule's `params` carry the hash of what its stage depends on: a changed
# parameter reruns that and what comes after it.

import json
import os
import shutil
import sys
from pathlib import Path

from lib.datasets.check import absent, datasets_of
from lib.datasets.parts import manifest_of
from lib.run.fields import AdaptParams, ClipParams, EvaluateParams, WorldParams
from lib.run.files import results_folder
from lib.run.params import ParamsError, elsewhere, is_made_here, world_folder
from lib.study.suites import folder_of, outdated_records, read_suite, runs_of, runs_of_table, state_of
from lib.study.tables import summary, tables_of_rows
from workflow.make import PUBLISHED

ROOT = Path(workflow.basedir)
config = json.loads(os.environ.get("LSS_CONFIG", "{}")) | config  # of workflow/make.py, beneath what --config says
PROFILE = config.get("profile", "embedded")
SUITE = config.get("suite", "reproduce")
DATA = str(config.get("data") or "")
PARTIAL = bool(config.get("partial"))


def stop(message):
    """Ends Snakemake with nothing but the message."""
    print(message, file=sys.stderr)
    sys.exit(2)


try:
    suite = read_suite(SUITE)
    OVERRIDES = elsewhere(PROFILE, DATA)
    # how a run is computed, not what: not in its rule's `params`, else a finished one would run again
    HOW = OVERRIDES | ({"devices": int(config["devices"])} if config.get("devices") not in (None, "") else {})
    runs = runs_of(suite, PROFILE, HOW)
except ParamsError as error:
    stop(error)
first = runs[0].params
OUT = str(results_folder(PROFILE, OVERRIDES).relative_to(ROOT))
SUFFIXES = ("csv", "md", "tex", "json")
# name of a rule -> the tables that it writes, and the runs that they show
own = runs_of_table(runs, suite.rows, suite.replicas)
TABLES = {"protocols": (list(tables_of_rows(own)), own)}
TABLES |= {name: ([name], runs_of_table(runs, t.rows, t.replicas)) for name, t in suite.comparisons.items()}
# what is asked for is the finished suite; of an unfinished one, with partial=1, a folder beside it
PLACE = str(folder_of(suite, PROFILE, runs, OVERRIDES).relative_to(ROOT)) if PARTIAL else str(Path(OUT) / suite.folder)
TABLE_FILES = [expand(f"{PLACE}/tables/{{name}}.{{suffix}}", name=names, suffix=SUFFIXES) for names, _ in TABLES.values()]


def clip_record(params):
    """The record of the CLIP that a run starts from, if it is one that the workflow makes."""
    return f"{params.clip}/record.json" if is_made_here(params.clip) else None


def world_record(params):
    """The record of the rendered data sets that a run reads, if it reads any."""
    return str((world_folder(params) / "world.json").relative_to(ROOT)) if params.rendered else None


def path_of(run):
    return str(run.folder.relative_to(ROOT))


by_folder = {path_of(run): run for run in runs}
worlds = {record: run for run in runs if (record := world_record(run.params))}
clips = {record: run for run in runs if (record := clip_record(run.params))}

problems = list(dict.fromkeys(problem for run in runs for problem in absent(run.params, profile=PROFILE))) if not PARTIAL else []
if problems:
    stop("\n".join([f"{PROFILE}: {len(problems)} thing(s) that it needs are not here", *problems]))
for record, run in clips.items():
    # half an hour of work, and part of the repository for worlds 0 to 2: made where there is none, never replaced
    made_by = json.loads((ROOT / record).read_text())["params_hash"] if (ROOT / record).exists() else None
    if made_by not in (None, run.params.stage_hash(ClipParams)):
        stop(f"{run.params.clip}: this CLIP was made with other parameters (hash {made_by}). Restore the clip_* and world_* "
             f"parameters, or give the other one a place of its own: in the profile, clip: outputs/{Path(run.params.clip).parts[1]}/clip/<name>-{{world_seed}}")


def arguments(**parameters):
    """A notebook's parameters, as JSON."""
    return json.dumps({"profile": PROFILE, **parameters, "overrides": OVERRIDES})


def arguments_of(run):
    return arguments(ablation=run.ablation, world_seed=run.world_seed, seed=run.seed)


# A notebook keeps a line for every move of a progress bar: one in ten seconds is enough.
ENVIRONMENT = "OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false TQDM_MININTERVAL=10"
shell.prefix(f"set -euo pipefail; export {ENVIRONMENT}; ")
HOW_OVERRIDES = json.dumps(HOW)
PYTHON = sys.executable
# What failed has a mark beside its log; what was stopped by a signal has none.
CLEAR = "rm -f {log:q}.failed; "
NOTEBOOK = """{PYTHON:q} -m workflow.execute {params.notebook} {params.executed:q} {params.arguments:q} {HOW_OVERRIDES:q} > {log:q} 2>&1 \\
    || {{ status=$?; [ $status -ge 128 ] || touch {log:q}.failed; tail -n 25 {log:q}; exit $status; }}"""
PAPERMILL = CLEAR + NOTEBOOK
ON_DEVICES = CLEAR + "{PYTHON:q} -m lib.run.devices {resources.gpu} " + NOTEBOOK


rule all:
    input:
        TABLE_FILES,
        f"{PLACE}/figures/figures.json",
        f"{PLACE}/report.html",
        [f"{PLACE}/pilot.json"] if suite.pilot else [],


onsuccess:
    # what was asked for may have been less than the suite
    if (ROOT / PLACE / "report.html").exists() and folder_of(suite, PROFILE, runs, OVERRIDES) == ROOT / PLACE:
        shutil.rmtree(ROOT / PLACE / "partial", ignore_errors=True)  # of before it was finished
    if suite.pilot and (ROOT / PLACE / "pilot.md").exists():
        print("", (ROOT / PLACE / "pilot.md").read_text(), f"This page: {PLACE}/pilot.md", sep="\n")
    elif all((ROOT / PLACE / "tables" / f"{name}.csv").exists() for name in ("zero_shot", "linear_probe")):
        print("\nTop-1 on the test part, in percent (±: standard deviation over seeds)\n")
        published = next((place for name in (suite.folder, "objectives") if (place := PUBLISHED / PROFILE / name / "tables").exists()), None)
        print(summary(ROOT / PLACE / "tables", published))
        print(f"\ntables and figures: {PLACE}/tables, {PLACE}/figures; all of it on one page: {PLACE}/report.html\n")


for record, run in worlds.items():

    rule:
        name: f"world_{run.world_seed}"
        output: update(record)  # lib/world/build.py wants to see whose world it is
        log: f"{OUT}/worlds/{run.world_seed}/11_world.log"
        params:
            notebook="11_world",
            executed=f"{OUT}/worlds/{run.world_seed}/11_world.ipynb",
            arguments=arguments(world_seed=run.world_seed),
            hash=run.params.stage_hash(WorldParams),
        shell: PAPERMILL


for record, run in clips.items():

    rule:
        name: f"clip_{run.world_seed}"
        output: record
        log: f"{OUT}/worlds/{run.world_seed}/10_embedded_clip.log"
        params:
            notebook="10_embedded_clip",
            executed=f"{OUT}/worlds/{run.world_seed}/10_embedded_clip.ipynb",
            arguments=arguments(world_seed=run.world_seed),
        shell: PAPERMILL


def manifest_path(params, dataset):
    path = manifest_of(params, dataset)
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def checked(params):
    """The data sets whose files are all read before a run; not for a pilot, which decodes a few of them."""
    return [] if suite.pilot else datasets_of(params)


for dataset, run in {dataset: run for run in runs for dataset in checked(run.params)}.items():

    rule:
        name: f"check_{dataset}"
        output: update(manifest_path(run.params, dataset))  # what it knows of unchanged files is kept
        log: f"{OUT}/check_{dataset}.log"
        threads: workflow.cores or 8  # no limit where a cluster runs it
        # what is missing or broken stops the runs themselves, unless `allow_missing`
        # No `params`: of another profile or Python they would differ, this job would run again, and Snakemake passes over what
        # else has changed in the jobs behind an `ancient` input whose own job runs.
        # A command is filled in when it runs, after this loop: it takes its data set from the name of its rule.
        shell:
            "rule={rule}; {PYTHON:q} -m lib.datasets.check {PROFILE:q} --dataset ${{rule#check_}} --data={DATA:q} "
            "--workers {threads} 2>&1 | tee {log:q} || test -f {output:q}"


def gpus(p, count):
    """How many devices a run is lent for itself. What names one (`device: cuda:1`) does without, and may share it."""
    return count if p.device == "cuda" else 0


def cores(p):
    """How much of `-c` an adaptation takes: each of its processes on the CPU is one, on GPUs they are limited by these."""
    return p.devices if p.device == "cpu" else 1


def plan_what_is_not_done(run):
    """Snakemake sees changed parameters only in its own records. Results that came without them (copied, of an older
    commit) say themselves what made them; where that is not this run, their job is planned, and replaces them as it
    starts. So is a run without metrics whose tables came along."""
    workflow.dag.forcefiles.update(str(path.relative_to(ROOT)) for path in outdated_records(run))
    if state_of(run)[0] != "done":
        workflow.dag.forcefiles.add(f"{path_of(run)}/metrics.json")


def inputs_of_adapt(wildcards):
    p = by_folder[wildcards.folder].params
    plan_what_is_not_done(by_folder[wildcards.folder])
    made = [world_record(p)] if p.rendered else []
    made += [clip_record(p)] if clip_record(p) else []
    made += [ancient(manifest_path(p, dataset)) for dataset in checked(p)]  # a new look changes no result
    return made + ["params/concepts/merge.yaml", *(f"params/concepts/{name}.yaml" for name in p.concepts), f"params/prompts/{p.prompts}.yaml"]


rule adapt:
    input: inputs_of_adapt
    output: "{folder}/adapt.json"
    retries: 2  # each goes on from the last checkpoint, also after a machine was taken away (SIGTERM)
    log: "{folder}/02_adapt.log"
    params:
        notebook="02_adapt",
        executed="{folder}/02_adapt.ipynb",
        arguments=lambda wildcards: arguments_of(by_folder[wildcards.folder]),
        hash=lambda wildcards: by_folder[wildcards.folder].params.stage_hash(AdaptParams),
    threads: lambda wildcards: cores(by_folder[wildcards.folder].params)
    resources:
        gpu=lambda wildcards: gpus((p := by_folder[wildcards.folder].params), p.devices),
        # of a cluster's job; on one machine `-c` counts runs, or their processes on the CPU
        cpus_per_task=lambda wildcards: (p := by_folder[wildcards.folder].params).devices * (p.threads + p.workers),
    shell: "rm -f {wildcards.folder:q}/03_evaluate.log.failed; " + ON_DEVICES  # of the model that is made anew


def inputs_of_evaluate(wildcards):
    p = by_folder[wildcards.folder].params
    return [f"{wildcards.folder}/adapt.json", "params/concepts/merge.yaml", f"params/prompts/{p.zero_shot_prompts}.yaml",
            *(f"params/concepts/{name}.yaml" for name in p.label_vocabularies)]


rule evaluate:
    input: inputs_of_evaluate
    output: "{folder}/metrics.json"
    priority: 1  # before the next adaptation: an interrupted suite has numbers of what it did
    log: "{folder}/03_evaluate.log"
    params:
        notebook="03_evaluate",
        executed="{folder}/03_evaluate.ipynb",
        arguments=lambda wildcards: arguments_of(by_folder[wildcards.folder]),
        hash=lambda wildcards: by_folder[wildcards.folder].params.stage_hash(EvaluateParams),
    resources:
        gpu=lambda wildcards: gpus(by_folder[wildcards.folder].params, 1),
        cpus_per_task=lambda wildcards: (p := by_folder[wildcards.folder].params).threads + p.workers,
    shell: ON_DEVICES


def seen(shown):
    """What tables and figures are made from. Partial: whatever is there, and they say of the other runs what became of
    them; the runs are no inputs then, else a failed one would be tried again."""
    if not PARTIAL:
        return [run.params.stage_hash(EvaluateParams) for run in shown]
    return [[*state_of(run), os.path.getmtime(run.folder / "metrics.json")] if state_of(run)[0] == "done" else state_of(run)
            for run in shown]


def metrics_of(shown):
    return [] if PARTIAL else [f"{path_of(run)}/metrics.json" for run in shown]


for name, (names, shown) in TABLES.items():

    rule:
        name: f"tables_{name}"
        input: metrics_of(shown), "params/reported.csv"
        output: expand(f"{PLACE}/tables/{{name}}.{{suffix}}", name=names, suffix=SUFFIXES)
        log: f"{PLACE}/90_tables/{name}.log"
        params:
            notebook="90_tables",
            executed=f"{PLACE}/90_tables/{name}.ipynb",
            arguments=arguments(suite=SUITE, only=names, place=PLACE),  # other tables' runs may not be done yet
            suite=[suite.folder, suite.reference, suite.rows, suite.comparisons[name].model_dump_json() if name in suite.comparisons else ""],
            seen=seen(shown),
        shell: PAPERMILL


rule figures:
    input: metrics_of(runs)
    output: f"{PLACE}/figures/figures.json"
    log: f"{PLACE}/91_figures.log"
    params:
        notebook="91_figures",
        executed=f"{PLACE}/91_figures.ipynb",
        arguments=arguments(suite=SUITE),
        suite=suite.model_dump_json(),
        seen=seen(runs),
    shell: PAPERMILL


rule report:
    input:
        TABLE_FILES,
        f"{PLACE}/figures/figures.json",
    output: f"{PLACE}/report.html"
    log: f"{PLACE}/99_report.log"
    params:
        notebook="99_report",
        executed=f"{PLACE}/99_report.ipynb",
        arguments=arguments(suite=SUITE),
        seen=seen(runs),
    shell: PAPERMILL


if suite.pilot:

    rule pilot:
        input: metrics_of(runs)
        output: f"{PLACE}/pilot.json"
        log: f"{PLACE}/05_pilot.log"
        params:
            notebook="05_pilot",
            executed=f"{PLACE}/05_pilot.ipynb",
            arguments=arguments(suite=SUITE),
            suite=suite.model_dump_json(),
            seen=seen(runs),
        shell: PAPERMILL
