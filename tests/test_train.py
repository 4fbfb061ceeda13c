import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

from lib.backbone import VideoCLIP, VideoCLIPOutput
from lib.concepts import ConceptSpace
from lib.gradients import cosine, learning_rate, make_optimizer, set_schedules, update_teacher
from lib.objectives import Objective, Result, make_objective
from lib.run.checkpoints import checkpoints, save_checkpoint
from lib.run.fields import AdaptParams
from lib.run.files import DiskError, read_json, read_lines
from lib.run.params import ROOT
from lib.train import INTERRUPTED, AdaptationError, adapt, load_spaces


def weights(folder, model="teacher"):
    return load_file(folder / model / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_schedules_by_hand():
    assert [cosine(step, 11, 1.0, 0.0) for step in (0, 5, 10)] == pytest.approx([1.0, 0.5, 0.0])
    rates = [learning_rate(step, steps=12, warmup=2, peak=1.0, last=0.1) for step in range(12)]
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[-1] == pytest.approx(0.1)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert learning_rate(5, steps=12, warmup=0, peak=0.0, last=0.1) == 0.0  # frozen stays frozen


def test_the_teacher_is_the_moving_average():
    teacher, student = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    before = teacher.weight.detach().clone()
    update_teacher(teacher, student, 0.9)
    torch.testing.assert_close(teacher.weight, 0.9 * before + 0.1 * student.weight)


def test_the_optimiser_treats_clip_new_weights_and_biases_apart(tiny):
    rates = {"learning_rate": 0.2, "temporal_learning_rate": 0.4, "feature_learning_rate_scale": 0.5}
    model = VideoCLIP.from_image_clip(tiny().clip, temporal="divided", temporal_positions=4)
    model.requires_grad_(False).visual.requires_grad_(True)
    of_lss = make_optimizer(tiny(**rates), model.visual, torch.nn.Identity())
    assert {group["peak"] for group in of_lss.param_groups} == {0.2, 0.4}  # the scale is the baseline's alone
    scaled = make_optimizer(tiny(learning_rate_scale=0.25, **rates), model.visual, torch.nn.Identity())
    assert {group["peak"] for group in scaled.param_groups} == {0.05, 0.1}
    params = tiny("no_language", **rates)
    optimizer = make_optimizer(params, model.visual, make_objective(params, model, {}))
    group_of = {id(p): (group["peak"], group["decayed"]) for group in optimizer.param_groups for p in group["params"]}
    by_name = {name: group_of.get(id(p)) for name, p in model.named_parameters()}
    assert by_name["visual.blocks.0.fc1.weight"] == (0.1, True) and by_name["visual.blocks.0.fc1.bias"] == (0.1, False)
    assert by_name["visual.position_embedding"] == (0.1, False)
    assert by_name["visual.blocks.0.temporal_attention.qkv.weight"] == (0.2, True)
    assert by_name["visual.temporal_position_embedding"] == (0.2, False)
    assert by_name["text_projection.weight"] is None and by_name["logit_scale"] is None


def test_layer_decay_lowers_the_rates_of_clips_weights_block_by_block(tiny):
    """Two blocks, half the rate at each: the last block 1, the first 1/2, the embeddings 1/4, at every step."""
    settings = {"clip_layers": 2, "learning_rate": 0.2, "temporal_learning_rate": 0.4, "final_learning_rate": 0.1}
    model = VideoCLIP.from_image_clip(tiny().clip, temporal="divided", temporal_positions=4)
    assert len(model.visual.blocks) == 2
    model.requires_grad_(False).visual.requires_grad_(True)
    params = tiny(layer_decay=0.5, **settings)
    optimizer = make_optimizer(params, model.visual, torch.nn.Identity())
    for step, (clip, new) in {0: (0.1, 0.2), 1: (0.2, 0.4), 11: (0.1, 0.1)}.items():  # warm-up, peak, end
        set_schedules(params, optimizer, step, 12, 2)
        rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        rates = {name: rate_of[id(p)] for name, p in model.visual.named_parameters()}
        for name in ("projection.weight", "final_norm.bias", "blocks.1.fc1.weight", "blocks.1.norm1.bias"):
            assert rates[name] == pytest.approx(clip), name
        for name in ("blocks.0.fc1.weight", "blocks.0.attention.qkv.bias"):
            assert rates[name] == pytest.approx(clip / 2), name
        for name in ("patch_embedding.weight", "class_embedding", "position_embedding", "pre_norm.weight"):
            assert rates[name] == pytest.approx(clip / 4), name
        for name in ("temporal_position_embedding", "blocks.0.temporal_attention.qkv.weight"):
            assert rates[name] == pytest.approx(new), name
        assert optimizer.param_groups[0]["lr"] == pytest.approx(clip)  # the one in the log
    groups = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    again = make_optimizer(params, model.visual, torch.nn.Identity())
    assert groups == [[id(p) for p in group["params"]] for group in again.param_groups]
    same_rate = make_optimizer(tiny(layer_decay=1.0, **settings), model.visual, torch.nn.Identity())
    assert [(group["peak"], group["layer_scale"], group["decayed"]) for group in same_rate.param_groups] == [
        (0.2, 1.0, False), (0.2, 1.0, True), (0.4, 1.0, False), (0.4, 1.0, True)
    ]  # fmt: skip


@pytest.mark.parametrize("ablation", ["lss", "no_language", "must", "supervised", "distillation", "random_concepts"])
def test_every_objective_trains_the_visual_tower_and_nothing_else(tiny, tmp_path, ablation):
    params = tiny(ablation, epochs=1)
    record = adapt(params, tmp_path)
    before = VideoCLIP.from_image_clip(
        params.clip, temporal="divided", temporal_positions=params.temporal_positions, seed=params.seed
    ).state_dict()
    after = VideoCLIP.from_pretrained(str(tmp_path / "student")).state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("visual.") for name in changed)
    assert "visual.projection.weight" in changed if ablation != "no_language" else True
    log = read_lines(tmp_path / "log.jsonl")
    assert [line["step"] for line in log] == list(range(4)) == list(range(record["steps"]))
    assert {"loss", "teacher_entropy", "batch_entropy", "feature_spread", "agreement", "data_wait"} <= set(log[0])
    assert 0.1 < log[0]["memory_gb"] <= record["memory_gb"] < 64


@pytest.mark.parametrize("trained", ["temporal", "last_blocks"])
def test_only_the_weights_that_are_to_learn_change(tiny, tmp_path, trained):
    changes = {"trained": trained, "trained_last_blocks": 1, "epochs": 1}
    adapt(tiny(**changes), tmp_path / "run")
    adapt(tiny(epochs=0), tmp_path / "before")
    before, after = weights(tmp_path / "before", "student"), weights(tmp_path / "run", "student")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("temporal_" in name for name in changed)
    blocks = len({name.split("blocks.")[1].split(".")[0] for name in before if "blocks." in name})
    last = f"blocks.{blocks - 1}."
    others = {name for name in changed if "temporal_" not in name}
    assert bool(others) == (trained == "last_blocks") and all(last in name for name in others)


def test_concepts_learn_only_if_they_are_told_to(tiny):
    generator = torch.Generator().manual_seed(0)
    spaces = {
        name: ConceptSpace(list("abcd"), F.normalize(torch.randn(4, 8, generator=generator), dim=-1))
        for name in ("category", "description")
    }
    params = tiny(train_concepts=True)
    objective = make_objective(params, None, copy.deepcopy(spaces))
    views = [VideoCLIPOutput(torch.zeros(6, 4), torch.randn(6, 8, generator=generator)) for _ in range(2)]
    objective(views, views, torch.zeros(6)).loss.backward()
    grads = {name: p.grad for name, p in objective.named_parameters()}
    assert set(grads) == {"spaces.category.vectors", "spaces.description.vectors"}
    assert all(grad.abs().sum() > 0 for grad in grads.values())
    space = objective.spaces["category"]
    with torch.no_grad():
        space.vectors.mul_(3.0)
    torch.testing.assert_close(
        space.logits(views[0].embedding, 0.1), spaces["category"].logits(views[0].embedding, 0.1)
    )
    assert not list(make_objective(tiny(), None, spaces).parameters())


def test_a_run_may_see_a_part_of_the_videos(tiny, tmp_path):
    assert adapt(tiny(train_videos=24, epochs=1), tmp_path)["videos"] == 24
    with pytest.raises(ValueError, match="train_videos is 1000, but there are only 80"):
        adapt(tiny(train_videos=1000), tmp_path)


def test_with_no_epochs_clip_is_saved_as_it_is(tiny, tmp_path):
    params = tiny("image_clip")
    adapt(params, tmp_path)
    expected = VideoCLIP.from_image_clip(params.clip, temporal="none", temporal_positions=params.temporal_positions)
    assert same(expected.state_dict(), VideoCLIP.from_pretrained(str(tmp_path / "teacher")).state_dict())


def test_a_seed_fixes_the_run_to_the_bit_and_another_changes_it(tiny, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        adapt(tiny(seed=seed, epochs=1), tmp_path / name)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def run_with(accident, params, ablation, folder):
    """The run in a process of its own, to which the accident happens (tests/dying.py)."""
    command = [
        sys.executable,
        "-m",
        "tests.dying",
        "embedded",
        "--ablation",
        ablation,
        "--overrides",
        json.dumps(params.model_dump()),
        "--folder",
        str(folder),
    ]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"ACCIDENT": accident},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )  # seconds; one that hangs has failed


def same_run(whole, other):
    logs = [[(line["step"], line["loss"]) for line in read_lines(run / "log.jsonl")] for run in (whole, other)]
    assert logs[0] == logs[1] and logs[0]
    return all(same(weights(whole, model), weights(other, model)) for model in ("student", "teacher"))


@pytest.mark.parametrize("ablation", ["lss", "no_language"])
def test_a_killed_run_goes_on_to_bit_identical_weights(tiny, tmp_path, ablation):
    params = tiny(ablation, epochs=6, checkpoint_every=2)
    adapt(params, tmp_path / "whole")
    assert run_with("SIGKILL 6", params, ablation, tmp_path / "killed").returncode == -signal.SIGKILL
    assert [path.name for path in checkpoints(tmp_path / "killed")] == [
        "checkpoint-00000006.pt",
        "checkpoint-00000004.pt",
    ]
    assert not (tmp_path / "killed" / "adapt.json").exists()
    adapt(params, tmp_path / "killed")
    assert same_run(tmp_path / "whole", tmp_path / "killed")
    board = EventAccumulator(str(tmp_path / "killed" / "tensorboard")).Reload()
    log = read_lines(tmp_path / "killed" / "log.jsonl")
    assert [event.step for event in board.Scalars("loss")] == list(range(24))
    assert [event.value for event in board.Scalars("loss")] == pytest.approx([line["loss"] for line in log])


def test_views_cut_on_the_device_give_the_same_losses_up_to_rounding(tiny, tmp_path):
    adapt(tiny(epochs=2), tmp_path / "cut by workers")
    adapt(tiny(epochs=2, views_on_device=True, workers=1), tmp_path / "cut on the device")
    expected, losses = (
        [line["loss"] for line in read_lines(tmp_path / folder / "log.jsonl")]
        for folder in ("cut by workers", "cut on the device")
    )
    assert len(losses) == 8 and losses == pytest.approx(expected, rel=1e-3)


def test_sigterm_leaves_a_checkpoint_after_the_step_and_a_cut_one_is_passed_over(tiny, tmp_path, capsys):
    params = tiny(epochs=6, checkpoint_every=6)
    adapt(params, tmp_path / "whole")
    stopped = run_with("SIGTERM 7", params, "lss", tmp_path / "stopped")
    assert stopped.returncode == INTERRUPTED == 75 and "stopped after 8 of 24 steps" in stopped.stdout
    newest, before = checkpoints(tmp_path / "stopped")
    assert (newest.name, before.name) == ("checkpoint-00000008.pt", "checkpoint-00000006.pt")
    newest.write_bytes(newest.read_bytes()[:-1000])
    adapt(params, tmp_path / "stopped")
    said = capsys.readouterr().out
    assert "checkpoint-00000008.pt is not whole" in said and "resuming at step 6 of 24" in said
    assert same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_that_is_killed_again_and_again_at_random_moments_ends_in_the_same_bits(tiny, tmp_path):
    # LSS_KILLS=20 .venv/bin/python -m pytest tests/test_train.py -k again_and_again
    kills = int(os.environ.get("LSS_KILLS", 3))
    params = tiny(epochs=4 + 4 * kills, checkpoint_every=3, workers=1)
    begun = time.time()
    adapt(params, tmp_path / "whole")
    longest = (time.time() - begun) / (kills + 1)  # so that hardly a kill comes too late
    codes = []
    for kill, moment in enumerate(np.random.default_rng().uniform(0, longest, kills)):
        done = run_with(f"{('SIGKILL', 'SIGTERM')[kill % 2]} {moment:.6f}", params, "lss", tmp_path / "killed")
        codes.append(done.returncode)
    assert {-signal.SIGKILL, INTERRUPTED} & set(codes) and set(codes) <= {-signal.SIGKILL, INTERRUPTED, 0}
    adapt(params, tmp_path / "killed")
    assert same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_checkpoint_of_other_parameters_is_not_taken(tiny, tmp_path, capsys):
    adapt(tiny(epochs=1), tmp_path / "run")
    adapt(tiny(epochs=1, alignment_weight=0.5), tmp_path / "run")
    assert "other parameters" in capsys.readouterr().out
    adapt(tiny(epochs=1, alignment_weight=0.5), tmp_path / "fresh")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "fresh"))


def spoilt(params, tmp_path, *, count):
    """The training videos, the first `count` of which are not videos at all."""
    shutil.copytree(params.data_embedded, tmp_path / "spoilt")
    for path in sorted(Path(tmp_path / "spoilt" / "train").rglob("*.mp4"))[:count]:
        path.write_text("no video")
    return str(tmp_path / "spoilt")


def test_undecodable_videos_are_listed_and_stop_the_run_past_the_limit(tiny, tmp_path):
    data = spoilt(tiny(), tmp_path, count=2)
    record = adapt(tiny(data_embedded=data, max_bad_videos=2), tmp_path / "tolerant")
    assert len(record["bad_videos"]) == 2 and all(reason for _, reason in record["bad_videos"])
    with pytest.raises(AdaptationError, match="max_bad_videos is 1") as caught:
        adapt(tiny(data_embedded=data, max_bad_videos=1), tmp_path / "strict")
    assert record["bad_videos"][0][0] in str(caught.value)
    assert read_json(tmp_path / "tolerant" / "adapt.json")["videos"] == 80


def test_a_run_that_fails_ends_its_decoding_processes_and_itself(tiny, tmp_path):
    params = tiny(data_embedded=spoilt(tiny(), tmp_path, count=1), max_bad_videos=0, workers=2)
    assert run_with("SIGKILL 99", params, "lss", tmp_path / "run").returncode == 1


def test_a_full_disk_loses_no_more_than_the_steps_since_the_last_checkpoint(tiny, tmp_path, capsys):
    params = tiny(epochs=2, checkpoint_every=3)
    adapt(params, tmp_path / "whole")
    (tmp_path / "full").mkdir()
    partial = tmp_path / "full" / "checkpoint-00000006.pt.partial"
    partial.symlink_to("/dev/full")  # writing there fails as on a full disk
    with pytest.raises(
        DiskError, match=rf"the disk of {tmp_path / 'full'} is full .*: checkpoint-00000006\.pt needs [\d,]+ bytes"
    ):
        adapt(params, tmp_path / "full")
    assert not partial.is_symlink() and len(checkpoints(tmp_path / "full")) == 1
    adapt(params, tmp_path / "full")
    assert "resuming at step 3 of 8" in capsys.readouterr().out
    assert same_run(tmp_path / "whole", tmp_path / "full")


def test_a_device_that_is_not_there_is_told_before_anything_is_made(tiny, tmp_path):
    with pytest.raises(ValueError, match="device: 'cuda:64' cannot be used"):
        adapt(tiny(device="cuda:64"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run_with_its_terms(tiny, tmp_path):
    with pytest.raises(AdaptationError, match=r"step \d+: the loss is nan.*learning_rate"):
        adapt(
            tiny(learning_rate=1.0e30, temporal_learning_rate=1.0e30, max_gradient_norm=1.0e30, warmup_epochs=0),
            tmp_path,
        )
    assert not (tmp_path / "adapt.json").exists()


@pytest.mark.parametrize(
    "changes, cure",
    [
        ({"teacher_temperature": 10.0}, "Lower teacher_temperature"),
        ({"collapse_feature_spread": 1.0}, "raise uniform_prior_weight"),
    ],
)
def test_a_run_that_collapses_warns_in_its_record_and_names_the_cure(tiny, tmp_path, changes, cure):
    quiet = {
        "collapse_teacher_entropy": 0.999,
        "collapse_batch_entropy": 0.0,
        "collapse_feature_spread": 0.0,
        "collapse_concepts_used": 0.0,
        "drift_teacher_entropy": 0.0,
        "collapse_window": 3,
    }
    assert adapt(tiny(**quiet), tmp_path / "quiet")["collapse_warnings"] == []
    (warning,) = adapt(tiny(**quiet | changes), tmp_path / "loud")["collapse_warnings"]
    assert warning.startswith("step 2: collapse_") and cure in warning
    assert read_lines(tmp_path / "loud" / "log.jsonl")[2]["warnings"] == [warning]


def still_agreement(folder):
    lines = read_lines(folder / "log.jsonl")
    return {line["step"]: line["still_agreement"] for line in lines if "still_agreement" in line}


def test_agreement_with_clip_on_stills_is_watched_and_a_run_that_loses_clip_warns(tiny, tmp_path):
    watched = {"drift_clips": 64, "drift_every": 3, "drift_teacher_entropy": 0.0}
    record = adapt(tiny(**watched), tmp_path / "lss")
    kept = still_agreement(tmp_path / "lss")
    assert list(kept) == [2, 5, 7] and min(kept.values()) > 0.8 and record["collapse_warnings"] == []
    rates = {"learning_rate": 0.1, "temporal_learning_rate": 0.1, "teacher_momentum": 0.5}
    warnings = adapt(tiny(**watched | rates, collapse_window=99), tmp_path / "lost")["collapse_warnings"]
    assert len(warnings) == 1 and warnings[0].startswith("step 2: teacher and image CLIP agree on")
    assert "the limit 0.5: CLIP is being lost. Lower learning_rate" in warnings[0]
    assert max(still_agreement(tmp_path / "lost").values()) < 0.5


def test_before_the_first_step_the_teacher_agrees_with_clip_on_every_still(tiny, tmp_path):
    still = {"learning_rate": 0.0, "temporal_learning_rate": 0.0, "final_learning_rate": 0.0, "weight_decay": 0.0}
    adapt(tiny(drift_clips=16, drift_every=4, final_weight_decay=0.0, **still), tmp_path)
    assert still_agreement(tmp_path) == {3: 1.0, 7: 1.0}


def test_watching_stills_changes_no_bit_and_a_killed_run_logs_the_same(tiny, tmp_path):
    params = tiny(epochs=3, checkpoint_every=2, workers=1)
    adapt(params, tmp_path / "plain")
    watched = params.model_copy(update={"drift_clips": 40, "drift_every": 3, "eval_batch_size": 16})
    adapt(watched, tmp_path / "watched")
    assert run_with("SIGKILL 6", watched, "lss", tmp_path / "killed").returncode == -signal.SIGKILL
    adapt(watched, tmp_path / "killed")
    assert same_run(tmp_path / "plain", tmp_path / "watched") and same_run(tmp_path / "plain", tmp_path / "killed")
    assert list(still_agreement(tmp_path / "watched")) == [2, 5, 8, 11]
    assert still_agreement(tmp_path / "watched") == still_agreement(tmp_path / "killed")


def test_stills_of_clips_that_cannot_be_decoded_are_named_and_left_out(tiny, tmp_path, capsys):
    params = tiny(epochs=1, max_bad_videos=80, drift_clips=40)
    shutil.copytree(params.data_embedded, tmp_path / "spoilt")
    for path in sorted((tmp_path / "spoilt" / "train").rglob("*.mp4"))[:2]:  # every second clip is one of the stills
        path.write_text("no video")
    adapt(params.model_copy(update={"data_embedded": str(tmp_path / "spoilt")}), tmp_path / "run")
    assert "agreement on stills is watched without 1 of 40 clips: " in capsys.readouterr().out
    assert list(still_agreement(tmp_path / "run")) == [3]


def test_an_absent_data_folder_and_a_wrong_checkpoint_are_named(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        adapt(tiny(data_embedded=str(tmp_path / "nowhere")), tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        adapt(tiny(clip=str(tmp_path / "empty")), tmp_path / "run")


def test_labels_that_are_no_concept_and_a_single_concept_are_named(tiny, tmp_path):
    with pytest.raises(ValueError, match="needs every class among the concepts, and these are not: .*num_concepts"):
        adapt(tiny("supervised", num_concepts=8), tmp_path)
    with pytest.raises(ValueError, match="needs two concepts or more"):
        adapt(tiny(num_concepts=1), tmp_path)


def test_a_checkpoint_of_another_list_of_videos_is_not_taken(tiny, tmp_path, capsys):
    shutil.copytree(tiny().data_embedded, tmp_path / "world")
    params = tiny(epochs=2, checkpoint_every=2, data_embedded=str(tmp_path / "world"))
    adapt(params, tmp_path / "run")
    next((tmp_path / "world" / "train").rglob("*.mp4")).unlink()
    adapt(params, tmp_path / "run")
    assert "list of videos or objective: it is not used" in capsys.readouterr().out


def test_a_run_that_other_code_goes_on_with_lists_both_commits(tiny, tmp_path, capsys):
    params = tiny(epochs=1, checkpoint_every=2)
    whole = adapt(params, tmp_path / "whole")
    assert whole["made_by"] == [{"step": 0, "commit": whole["commit"], "code": whole["code"]}]
    older = checkpoints(tmp_path / "whole")[1]
    state = torch.load(older, weights_only=True)
    assert state["params"] == params.model_dump()
    (tmp_path / "run").mkdir()
    save_checkpoint(
        tmp_path / "run", state | {"made_by": [{"step": 0, "commit": "0123456789", "code": "abcdefabcdef"}]}
    )
    record = adapt(params, tmp_path / "run")
    assert f"begun at commit 0123456789 (code abcdefabcdef), resumed at {whole['commit']}" in capsys.readouterr().out
    assert record["commit"] == f"0123456789 {whole['commit']}" and record["made_by"][1]["step"] == 2
    assert f"commit {record['commit']}," in (tmp_path / "run" / "teacher" / "README.md").read_text()
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_finished_models_are_taken_up_also_where_the_videos_have_moved(tiny, tmp_path, capsys):
    shutil.copytree(tiny().data_embedded, tmp_path / "old disk")
    own = {"dataset": "folder", "epochs": 1, "evaluate_on": ["folder"], "probe_on": []}
    before = adapt(tiny(**own, data_folder=str(tmp_path / "old disk")), tmp_path / "run")
    for path in (tmp_path / "run" / "adapt.json", *checkpoints(tmp_path / "run")):
        path.unlink()
    (tmp_path / "run" / "metrics.json").write_text("{}")
    (tmp_path / "old disk").rename(tmp_path / "new disk")
    moved = tiny(**own, data_folder=str(tmp_path / "new disk"))
    assert not moved.made(before, AdaptParams)
    after = adapt(moved, tmp_path / "run")
    assert "used as it is" in capsys.readouterr().out and moved.made(
        read_json(tmp_path / "run" / "adapt.json"), AdaptParams
    )
    assert after == before | {"params": moved.model_dump()} and (tmp_path / "run" / "metrics.json").exists()
    next((tmp_path / "new disk" / "train").rglob("*.mp4")).unlink()
    assert adapt(moved, tmp_path / "run")["videos"] == 79 and "used as it is" not in capsys.readouterr().out


class Agreement(Objective):
    """An objective of one's own: every student view agrees with the mean teacher."""

    def __init__(self, spaces):
        super().__init__()
        self.space = spaces["category"]

    def forward(self, teacher, student, labels):
        with torch.no_grad():
            targets = torch.stack([self.space.logits(view.embedding, 0.05).softmax(-1) for view in teacher])
        logits = torch.stack([self.space.logits(view.embedding, 0.1) for view in student])
        loss = -(targets.mean(0) * logits.log_softmax(-1)).sum(-1).mean()
        return Result(loss, {"agreement": loss}, targets, logits)


def test_an_objective_of_ones_own_adapts_and_is_part_of_what_identifies_the_run(tiny, tmp_path):
    params = tiny(epochs=1)
    spaces = load_spaces(params)
    assert set(spaces) == {"category", "description"}
    record = adapt(params, tmp_path, objective=Agreement(spaces))
    assert "agreement" in read_lines(tmp_path / "log.jsonl")[-1] and record["sources"]["objective"]
    own = weights(tmp_path)
    assert adapt(params, tmp_path, objective=Agreement(load_spaces(params))) == record  # finished: taken up
    lss = adapt(params, tmp_path)  # the same parameters, but the objective that they name
    assert "objective" not in lss["sources"] and not same(own, weights(tmp_path))


class Broken(Agreement):
    def forward(self, teacher, student, labels):
        return super().forward(teacher, student, labels).loss


def test_an_own_objective_that_fails_leaves_the_finished_run_as_it_is(tiny, tmp_path):
    params = tiny(epochs=1)
    record = adapt(params, tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(TypeError, match=r"Broken\.forward must return lib\.objectives\.Result"):
        adapt(params, tmp_path, objective=Broken(load_spaces(params)))
    assert read_json(tmp_path / "adapt.json") == record and (tmp_path / "metrics.json").exists()
    assert adapt(params, tmp_path) == record
