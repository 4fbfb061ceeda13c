"""Several processes, as torchrun really starts them, against one with the same batch."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from lib.run import distributed
from lib.run.files import read_json, read_lines
from lib.train import adapt


def launch(params, ablation, folder, module="lib.train"):
    distributed.launch(
        module,
        "embedded",
        "--ablation",
        ablation,
        "--overrides",
        json.dumps(params.model_dump()),
        "--folder",
        str(folder),
        count=params.devices,
    )


def losses(folder):
    return [line["loss"] for line in read_lines(folder / "log.jsonl")]


def test_one_process_needs_no_others():
    rows = torch.arange(6.0).view(3, 2)
    assert distributed.processes() == 1 and distributed.gather_objects("a") == ["a"]
    assert torch.equal(distributed.gather_rows(rows, [3]), rows)


# The prior looks at the whole batch; the head of the baseline is trained beside the model; with one video each, a
# process whose video cannot be decoded has none.
@pytest.mark.parametrize(
    "ablation, devices, changes",
    [
        ("lss", 2, {"batch_size": 2, "epochs": 1, "drift_clips": 10}),
        ("lss", 4, {"micro_batch": 2}),
        ("no_language", 2, {"micro_batch": 3}),
    ],
)
def test_processes_together_train_as_one_does(tiny, tmp_path, capfd, ablation, devices, changes):
    params = tiny(ablation, max_bad_videos=2, **changes)
    shutil.copytree(params.data_embedded, tmp_path / "spoilt")
    for path in sorted((tmp_path / "spoilt" / "train").rglob("*.mp4"))[:2]:
        path.write_text("no video")
    params = params.model_copy(update={"data_embedded": str(tmp_path / "spoilt")})
    expected = adapt(params.model_copy(update={"micro_batch": 0}), tmp_path / "one")
    launch(params.model_copy(update={"devices": devices}), ablation, tmp_path / "many")
    record = read_json(tmp_path / "many" / "adapt.json")
    assert record["bad_videos"] == [list(bad) for bad in expected["bad_videos"]] and len(record["bad_videos"]) == 2
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    stills = [read_lines(tmp_path / run / "log.jsonl")[-1].get("still_agreement") for run in ("one", "many")]
    assert stills[0] == stills[1] and (stills[0] is not None) == bool(params.drift_clips)
    for name in ("student", "teacher"):
        one, many = (load_file(tmp_path / run / name / "model.safetensors") for run in ("one", "many"))
        assert all(torch.allclose(one[key], many[key], atol=1e-3) for key in one)
    assert "loss=" in capfd.readouterr().out  # the progress of the processes is shown where they were launched


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    launch(tiny(devices=2, checkpoint_every=3), "lss", folder)
    return folder


# A kill loses the steps since the checkpoint. SIGTERM to one process stops all after the same step.
@pytest.mark.parametrize("accident, first_step", [("SIGKILL 4", 3), ("SIGTERM 4", 5)])
def test_processes_are_started_again_and_go_on_from_the_checkpoint(
    tiny, undisturbed, tmp_path, monkeypatch, capfd, accident, first_step
):
    monkeypatch.setenv("ACCIDENT", accident)
    launch(tiny(devices=2, checkpoint_every=3), "lss", tmp_path, module="tests.dying")
    assert f"resuming at step {first_step} of 8" in capfd.readouterr().out
    whole, killed = (load_file(run / "student" / "model.safetensors") for run in (undisturbed, tmp_path))
    assert all(torch.equal(whole[key], killed[key]) for key in whole)
    assert losses(undisturbed) == losses(tmp_path)


def test_processes_that_fail_say_why_where_they_were_launched(tiny, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(distributed, "RESTARTS", 0)
    with pytest.raises(RuntimeError, match="exit code is 1"):
        launch(tiny(devices=2, data_embedded=str(tmp_path / "nowhere")), "lss", tmp_path / "run")
    assert "nowhere" in capfd.readouterr().out


def test_too_few_processes_are_an_error_that_says_how_to_start_more(tiny, tmp_path):
    with pytest.raises(ValueError, match="torchrun --nproc-per-node 2 -m lib.train"):
        adapt(tiny(devices=2), tmp_path)
