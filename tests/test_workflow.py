"""The suite as a graph: what is planned, what runs again after a change, what a failing run does to the rest.

The workflow runs in a copy of the repository with a profile that is tiny in every respect.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import layouts
import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from safetensors.numpy import save_file

from lib.run import params
from lib.run.fields import AdaptParams, ClipParams, EvaluateParams, WorldParams
from lib.run.files import read_lines, results_folder, write_json

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "world_size": 32,
    "world_frames": 8,
    "world_train": 32,
    "world_validation": 16,
    "world_test": 32,
    "clip_stills": 64,
    "clip_held_out_stills": 32,
    "clip_epochs": 1,
    "clip_batch_size": 32,
    "clip_width": 24,
    "clip_layers": 1,
    "clip_heads": 2,
    "clip_text_width": 24,
    "clip_text_layers": 1,
    "clip_projection": 16,
    "epochs": 1,
    "warmup_epochs": 0,
    "batch_size": 8,
    "evaluate_parts": ["test"],
    "probe_c": [1.0],
    "probe_held_out": 0.5,
    "knn_k": [5],
    "bootstrap_resamples": 100,
}
RUN = Path("outputs/tiny/runs/lss/world0-seed0")


class Copy:
    """A copy of the repository, in which `lib` is the copy's own."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("lib", "params", "notebooks", "workflow"):
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
            )
        shutil.copy(ROOT / "Snakefile", folder)
        self.write(
            "params/profiles/tiny.yaml", yaml.safe_load((ROOT / "params/profiles/embedded.yaml").read_text()) | TINY
        )
        self.write(
            "params/suites/tiny.yaml",
            {"folder": "", "rows": ["lss", "broken"], "reference": "lss", "replicas": [[0, 0]]},
        )
        self.write("params/ablations/broken.yaml", {"num_descriptions": 9})
        # another environment's kernel of the same name, which comes before this one's wherever Jupyter looks
        write_json(
            folder / "jupyter/kernels/python3/kernel.json",
            {"argv": ["false"], "display_name": "Python 3", "language": "python"},
        )

    def write(self, path: str, content: dict) -> None:
        (self.folder / path).write_text(yaml.safe_dump(content))

    def __call__(self, *options: str, **config) -> subprocess.CompletedProcess:
        """Snakemake as the Makefile calls it; both of its outputs as `stdout`."""
        with self.start(*options, **config) as process:
            said, _ = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, said)

    def start(self, *options: str, **config) -> subprocess.Popen:
        settings = [
            f"{key}={value}" for key, value in ({"profile": "tiny", "suite": "tiny", "data": ""} | config).items()
        ]
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "-c",
            "2",
            "--rerun-incomplete",
            "--rerun-triggers",
            "mtime",
            "params",
            "input",
            "--nolock",
            "--keep-going",
            *options,
            "--config",
            *settings,
        ]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(self.folder), "JUPYTER_PATH": str(self.folder / "jupyter")},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def plan(self, **config) -> dict[str, int]:
        """How many jobs of which rule a dry run lists."""
        done = self("--dry-run", **config)
        assert done.returncode == 0, done.stdout
        table = done.stdout.partition("Job stats:")[2].partition("total")[0].splitlines()
        return {words[0]: int(words[1]) for line in table if len(words := line.split()) == 2 and words[1].isdigit()}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Copy:
    return Copy(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Copy, subprocess.CompletedProcess, subprocess.CompletedProcess]:
    """The tiny suite after `make reproduce` that was killed while a run trained, and called again: the copy,
    Snakemake's
    call after the kill, and the one with partial=1. SIGKILL takes the workflow alone: the jobs that it began go on, and
    write where those of the second call do. (What a run does that is killed itself is in test_train.)"""
    # as a user may call a folder; with a colon there is no virtual environment
    copy = Copy(tmp_path_factory.mktemp("done") / "it's [my] {video} $HOME #1 & ü")
    with copy.start() as killed:
        while not (copy.folder / RUN / "log.jsonl").exists():
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.fail(f"ended before anything was trained: {killed.wait(timeout=0.2)}")
        jobs = psutil.Process(killed.pid).children(recursive=True)
        killed.kill()
    assert not (copy.folder / RUN / "metrics.json").exists()
    again = copy()
    psutil.wait_procs(jobs)
    return copy, again, copy(partial=1)


def make_up(copy: Copy, rows: list[str], tables: list[str]) -> None:
    """The files of a finished suite, without anything having been computed."""
    for row in rows:
        p = params.load(profile="embedded", ablation=row, **TINY)
        folder = copy.folder / f"outputs/tiny/runs/{row}/world0-seed0"
        write_json(folder / "adapt.json", {"params_hash": p.stage_hash(AdaptParams)})
        save_file({"none": np.zeros(1)}, folder / "correct.safetensors")
        write_json(folder / "metrics.json", {"params_hash": p.stage_hash(EvaluateParams)})
    write_json(copy.folder / p.data_embedded / "world.json", {"params_hash": p.stage_hash(WorldParams)})
    write_json(copy.folder / "outputs/embedded/clip/0/record.json", {"params_hash": p.stage_hash(ClipParams)})
    paths = [
        copy.folder / "outputs/tiny" / f"tables/{name}.{suffix}"
        for name in tables
        for suffix in ("csv", "md", "tex", "json")
    ]
    for number, path in enumerate(
        [
            *copy.folder.rglob("world.json"),
            *copy.folder.rglob("record.json"),
            *copy.folder.rglob("adapt.json"),
            *copy.folder.rglob("metrics.json"),
            *paths,
            copy.folder / "outputs/tiny/figures/figures.json",
            copy.folder / "outputs/tiny/report.html",
        ]
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        later = time.time() + number  # each later than what it is made of
        os.utime(path, (later, later))


def test_the_plan_has_every_run_of_the_suite(fresh):
    assert fresh.plan() == {
        "world_0": 1,
        "clip_0": 1,
        "adapt": 2,
        "evaluate": 2,
        "tables_protocols": 1,
        "tables_objectives": 1,
        "figures": 1,
        "report": 1,
        "all": 1,
    }
    many = fresh.plan(profile="embedded", suite="objectives")
    rows = yaml.safe_load((ROOT / "params/suites/objectives.yaml").read_text())["rows"]
    untrained = sum(params.load(profile="embedded", ablation=row).epochs == 0 for row in rows)
    assert many["adapt"] == many["evaluate"] == 5 * (len(rows) - untrained) + 3 * untrained
    assert many["world_2"] == many["clip_2"] == 1


def test_the_committed_clips_are_what_the_parameters_say_and_are_not_made_again(fresh):
    for world in range(3):
        record = f"outputs/embedded/clip/{world}/record.json"
        p = params.load(profile="embedded", world_seed=world)
        assert json.loads((ROOT / record).read_text())["params_hash"] == p.stage_hash(ClipParams)
        (fresh.folder / record).parent.mkdir(parents=True)
        shutil.copy(ROOT / record, fresh.folder / record)
    assert not {"clip_0", "clip_1", "clip_2"} & fresh.plan(profile="embedded", suite="objectives").keys()
    shutil.rmtree(fresh.folder / "outputs")


@pytest.mark.parametrize(
    "path, content, message",
    [
        (
            "params/ablations/broken.yaml",
            {"epoch": 3},
            "params/ablations/broken.yaml: epoch: unknown parameter; the nearest valid name is 'epochs'",
        ),
        ("params/suites/tiny.yaml", {"rows": ["lss"]}, "params/suites/tiny.yaml: folder: Field required"),
    ],
)
def test_faulty_parameters_stop_before_anything_runs_with_the_reason_alone(tmp_path, path, content, message):
    copy = Copy(tmp_path)
    copy.write(path, content)
    stopped = copy("--quiet", "all")
    assert stopped.returncode != 0
    assert stopped.stdout.startswith(message) and "Traceback" not in stopped.stdout
    assert not (tmp_path / "outputs").exists()


def test_a_data_folder_that_is_not_there_stops_before_anything_runs(fresh):
    stopped = fresh("--dry-run", "--quiet", "all", profile="ucf101", suite="reproduce", data="no/folder")
    assert stopped.returncode != 0
    assert "ucf101: " in stopped.stdout and "no/folder is no folder" in stopped.stdout
    assert "`data_ucf101` in params/profiles/ucf101.yaml, which DATA= or an override replaces" in stopped.stdout


def test_what_is_in_partial_stays_until_the_suite_is_finished(tmp_path):
    copy, clips = Copy(tmp_path / "copy"), layouts.ucf101(tmp_path / "clips")
    partial = (
        copy.folder / results_folder("ucf101", {"data_ucf101": str(clips)}).relative_to(ROOT) / "reproduce/partial"
    )
    partial.mkdir(parents=True)
    done = copy("--until", "check_ucf101", profile="ucf101", suite="reproduce", data=clips)
    assert done.returncode == 0 and "(Rule: check_ucf101)" in done.stdout, done.stdout
    assert partial.exists()


def test_the_papers_profile_stops_with_what_is_absent_where_to_get_it_and_what_to_edit(fresh):
    stopped = fresh("--dry-run", "--quiet", "all", profile="paper", suite="reproduce")
    assert stopped.returncode != 0 and "Traceback" not in stopped.stdout
    for dataset, source in (("kinetics400", "cvdfoundation"), ("ucf101", "crcv.ucf.edu"), ("hmdb51", "serre.lab")):
        assert f"edit:   `data_{dataset}` in params/profiles/paper.yaml" in stopped.stdout
        assert source in stopped.stdout


def test_a_failing_run_does_not_stop_the_others_and_shows_as_failed(done):
    copy, first, partial = done
    assert first.returncode != 0 and "ConceptError" in first.stdout
    assert partial.returncode == 0
    assert (copy.folder / RUN / "metrics.json").exists()
    assert [line["step"] for line in read_lines(copy.folder / RUN / "log.jsonl")] == [
        0,
        1,
        2,
        3,
    ]  # each once, whoever did it
    place = copy.folder / "outputs/tiny/partial"
    assert not (place.parent / "tables").exists()  # those of a finished suite are never replaced by fewer runs
    table = pd.read_csv(place / "tables/zero_shot.csv", dtype=str).set_index(["run", "metric"])["mean"]
    assert table["broken", "top1"] == "failed" and 0 <= float(table["lss", "top1"]) <= 100
    text = (place / "tables/objectives.md").read_text()
    assert "failed: broken, world 0, seed 0 (see outputs/tiny/runs/broken/world0-seed0/02_adapt.log)" in text
    assert "32 of 32 test clips decoded" in text
    figures = json.loads((place / "figures/figures.json").read_text())
    assert figures["made"] == ["accuracies", "attention", "concepts", "pairs", "shots", "training"]
    page = (place / "report.html").read_text()
    assert "<td>failed</td><td>outputs/tiny/runs/broken/world0-seed0/02_adapt.log</td>" in page
    assert page.count("<img ") == len(figures["made"])
    assert figures["left_out"]["confusion"].startswith("image_clip and lss are needed, in world 0")
    assert "done: ['lss']" in figures["left_out"]["confusion"]
    for name in figures["made"]:
        assert (place / f"figures/{name}.png").stat().st_size > 0
    assert "lss embedded" in partial.stdout and "broken embedded    failed" in partial.stdout


def test_a_suite_goes_on_with_what_is_missing(done):
    copy, _, _ = done
    assert copy.plan() == {
        "adapt": 1,
        "evaluate": 1,
        "tables_protocols": 1,
        "tables_objectives": 1,
        "figures": 1,
        "report": 1,
        "all": 1,
    }  # the broken run
    assert copy.plan(partial=1) == {}


def test_the_notebook_of_the_concepts_runs_with_the_clip_of_the_suite(done):
    copy, _, _ = done
    command = [
        sys.executable,
        "-m",
        "papermill",
        "notebooks/01_concepts.ipynb",
        "01.ipynb",
        "-k",
        "python3",
        "-p",
        "profile",
        "tiny",
    ]
    subprocess.run(command, cwd=copy.folder, env=os.environ | {"PYTHONPATH": str(copy.folder)}, check=True)
    result = json.loads((copy.folder / "outputs/tiny/concepts/embedded-world0.json").read_text())
    assert result["labels"] == 16 and 1 <= result["effective_rank"]["category"] <= 15


def test_results_of_other_parameters_are_made_again_also_without_snakemakes_records(done):
    copy, _, _ = done
    nothing = {
        "adapt": 1,
        "evaluate": 1,
        "tables_protocols": 1,
        "tables_objectives": 1,
        "figures": 1,
        "report": 1,
        "all": 1,
    }  # the broken run
    records = copy.folder / ".snakemake/metadata"
    records.rename(records.with_name("elsewhere"))
    try:
        assert copy.plan() == nothing
        for name, again in (("metrics.json", {"evaluate": 2}), ("adapt.json", {"adapt": 2, "evaluate": 2})):
            result = copy.folder / RUN / name
            whole, times = result.read_text(), result.stat()
            result.write_text(json.dumps(json.loads(whole) | {"params_hash": "0123456789ab"}))
            os.utime(result, ns=(times.st_atime_ns, times.st_mtime_ns))
            assert copy.plan() == nothing | again
            assert (copy.folder / RUN / "teacher/model.safetensors").exists() and result.exists()  # nothing goes before
            assert copy.plan(partial=1).keys() <= {"tables_protocols", "tables_objectives", "figures", "all"}
            result.write_text(whole)
            os.utime(result, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert copy.plan() == nothing
    finally:
        records.with_name("elsewhere").rename(records)


def test_the_records_of_finished_runs_are_taken_up_by_another_clone(done, tmp_path):
    copy, _, _ = done
    records = copy.folder / "outputs/tiny/records"
    assert sorted(str(path.relative_to(records)) for path in records.rglob("*.*")) == [
        f"lss/world0-seed0/{name}" for name in ("adapt.json", "correct.safetensors", "log.jsonl", "metrics.json")
    ]
    another = Copy(tmp_path)
    world = params.load(profile="embedded", **TINY).data_embedded
    for source, target in (
        (world,) * 2,
        ("outputs/embedded/clip/0",) * 2,
        ("outputs/tiny/records", "outputs/tiny/runs"),
    ):
        shutil.copytree(copy.folder / source, another.folder / target, copy_function=shutil.copyfile)
    (another.folder / RUN / "metrics.json").touch()  # later than adapt.json, whatever order they were copied in
    assert another.plan() == {
        "adapt": 1,
        "evaluate": 1,
        "tables_protocols": 1,
        "tables_objectives": 1,
        "figures": 1,
        "report": 1,
        "all": 1,
    }  # the broken run
    assert another(partial=1).returncode == 0
    tables = [
        (of.folder / "outputs/tiny/partial/tables/objectives.csv").read_text().splitlines() for of in (copy, another)
    ]
    assert (
        [[line for line in lines if line.startswith("lss,")] for lines in tables][0]
        == [line for line in tables[1] if line.startswith("lss,")]
        != []
    )
    figures = json.loads((another.folder / "outputs/tiny/partial/figures/figures.json").read_text())
    assert figures["made"] == ["accuracies", "concepts", "pairs", "shots", "training"]
    assert figures["left_out"]["attention"].startswith("a finished run of lss with its model")


def test_a_changed_weight_of_one_ablation_reruns_its_row_and_the_tables_that_show_it_alone(tmp_path):
    copy = Copy(tmp_path)
    copy.write(
        "params/suites/tiny.yaml",
        {
            "folder": "",
            "rows": ["lss"],
            "reference": "lss",
            "replicas": [[0, 0]],
            "tables": {
                "terms": {"title": "", "rows": ["lss", "no_alignment"]},
                "priors": {"title": "", "rows": ["lss", "centring"]},
            },
        },
    )
    make_up(copy, ["lss", "no_alignment", "centring"], ["zero_shot", "linear_probe", "few_labels", "terms", "priors"])
    assert copy.plan() == {}
    copy.write("params/ablations/no_alignment.yaml", {"alignment_weight": 0.25})
    assert copy.plan() == {"adapt": 1, "evaluate": 1, "tables_terms": 1, "figures": 1, "report": 1, "all": 1}
    planned = copy("--dry-run").stdout
    assert set(re.findall(r"output: outputs/tiny/runs/(\w+)/", planned)) == {"no_alignment"}


def test_a_run_is_lent_as_many_devices_as_it_has_processes_and_an_evaluation_one(fresh):
    fresh.write(
        "params/profiles/cuda.yaml",
        yaml.safe_load((fresh.folder / "params/profiles/tiny.yaml").read_text())
        | {"device": "cuda", "devices": 2, "workers": 3},
    )
    asked = re.findall(
        r"rule (adapt|evaluate):.*?resources: (.*?)\n", fresh("--dry-run", profile="cuda").stdout, re.DOTALL
    )
    assert {rule: ("gpu=2" in resources, "gpu=1" in resources) for rule, resources in asked} == {
        "adapt": (True, False),
        "evaluate": (False, True),
    }
    assert all(f"cpus_per_task={8 if rule == 'adapt' else 4}" in resources for rule, resources in asked)


def test_devices_asked_for_take_cores_and_run_nothing_again(fresh, done):
    plan = fresh("--dry-run", devices=2).stdout
    assert re.findall(r"rule (\w+):(?:(?!rule ).)*?threads: 2", plan, re.DOTALL) == ["adapt", "adapt"]
    copy, _, _ = done
    assert copy.plan(devices=2) == copy.plan()
    assert "batch_size, 8, is over all devices: make it a multiple of 3" in fresh("--dry-run", devices=3).stdout


def test_a_changed_parameter_reruns_what_depends_on_it(done):
    copy, _, _ = done
    copy.write("params/ablations/broken.yaml", {"epochs": 0})  # what it takes to be planned, whatever else is changed
    copy.write("params/ablations/lss.yaml", {"alignment_weight": 0.5})
    assert copy.plan() == {
        "adapt": 2,
        "evaluate": 2,
        "tables_protocols": 1,
        "tables_objectives": 1,
        "figures": 1,
        "report": 1,
        "all": 1,
    }
    copy.write("params/ablations/lss.yaml", {"score_spaces": ["description"]})
    assert copy.plan() == {
        "adapt": 1,
        "evaluate": 2,
        "tables_protocols": 1,
        "tables_objectives": 1,
        "figures": 1,
        "report": 1,
        "all": 1,
    }
    copy.write("params/ablations/lss.yaml", {})
    profile = copy.folder / "params/profiles/tiny.yaml"
    copy.write("params/profiles/tiny.yaml", yaml.safe_load(profile.read_text()) | {"workers": 1})
    assert copy.plan() == {
        "adapt": 1,
        "evaluate": 1,
        "tables_protocols": 1,
        "tables_objectives": 1,
        "figures": 1,
        "report": 1,
        "all": 1,
    }
    copy.write("params/profiles/tiny.yaml", yaml.safe_load(profile.read_text()) | {"world_test": 48})
    assert copy.plan() == {
        "world_0": 1,
        "adapt": 2,
        "evaluate": 2,
        "tables_protocols": 1,
        "tables_objectives": 1,
        "figures": 1,
        "report": 1,
        "all": 1,
    }
    copy.write("params/profiles/tiny.yaml", yaml.safe_load(profile.read_text()) | {"world_test": 32, "clip_epochs": 2})
    stopped = copy("--dry-run", "--quiet", "all")
    assert stopped.returncode != 0
    assert stopped.stdout.startswith("outputs/embedded/clip/0: this CLIP was made with other parameters")


def test_slurm_runs_the_suite_each_step_a_job(tmp_path):
    """On a cluster that this machine submits to, `params/cluster/one_node.md` for one."""
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="pip install -c constraints.txt -e '.[cluster]'")
    if not shutil.which("sinfo") or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("no Slurm answers here: params/cluster/one_node.md starts one")
    copy = Copy(tmp_path)
    copy.write("params/suites/tiny.yaml", {"folder": "", "rows": ["lss"], "reference": "lss", "replicas": [[0, 0]]})
    done = copy(
        "--profile",
        "params/cluster/slurm",
        "--jobs",
        "2",
        "--default-resources",
        "mem_mb=2000",
        "runtime=30",
        "--slurm-status-command",
        "squeue",
        "--slurm-init-seconds-before-status-checks",
        "5",
        "--slurm-keep-successful-logs",
    )
    assert done.returncode == 0, done.stdout
    jobs = {path.parent.name for path in (tmp_path / ".snakemake/slurm_logs").rglob("*.log")}
    assert {name.split("_")[1] for name in jobs} == {"world", "clip", "adapt", "evaluate", "tables", "figures"}
    table = pd.read_csv(tmp_path / "outputs/tiny/tables/zero_shot.csv").set_index(["run", "metric"])["mean"]
    assert 0 <= table["lss", "top1"] <= 100
