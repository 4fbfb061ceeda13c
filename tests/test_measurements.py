"""The notebooks for real clips, and those that measure, run on recorded clips to their tables."""

import json
import os
import shutil
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import layouts
import pandas as pd
import pytest
from researcher import counts
from test_workflow import ROOT, Copy
from transformers import BertConfig, BertModel, BertTokenizer


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
