"""What is checked before a run computes: on lists alone, so the files of most tests are empty."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from lib.datasets import preflight
from lib.datasets.parts import DataError, manifest_of
from lib.datasets.preflight import check_run, length_of, warnings_of
from lib.evaluation.evaluate import evaluate
from lib.language.vocabulary import ConceptError
from lib.run.files import read_json, write_json
from lib.run.params import FOLDER, load
from lib.study.suites import read_suite, runs_of
from lib.train import adapt
from lib.video import manifest
from workflow import planned
from workflow.planned import problems_of

ENOUGH = {"walk": 10, "run": 10, "wave": 10}
OWN = {
    "dataset": "folder",
    "evaluate_on": ["folder"],
    "probe_on": ["folder"],
    "probe_shots": [],
    "knn_k": [5],
    "batch_size": 8,
    "imbalance": 1.0,
}


def lay_out(root: Path, parts: dict[str, dict[str, int]]) -> Path:
    """{part}/<class>/<number>.mp4, empty."""
    for part, classes in parts.items():
        for name, count in classes.items():
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                (root / part / name / f"{part}{number}.mp4").touch()
    return root


def ucf101(root: Path, groups: dict[str, list[int]]) -> Path:
    """<class>/v_<class>_g<group>_c01.avi, empty; the groups 1 to 7 are the test part of split 1."""
    for name, numbers in groups.items():
        (root / name).mkdir(parents=True)
        for group in numbers:
            (root / name / f"v_{name}_g{group:02d}_c01.avi").touch()
    return root


@pytest.mark.parametrize(
    "train, changes, message",
    [
        (
            {"walk": 1, "run": 9, "wave": 9},
            {},
            r"folder, train: class 'walk' has 1 training clip.*\(probe_held_out\).*probe_on",
        ),
        (
            {"walk": 3, "run": 3, "wave": 4},
            {},
            r"folder, train: probe_held_out: 0.2 of the 10 training clips are 2.*'\w+' has 3.*set it to 0.3, .*_on",
        ),
        (
            {"walk": 9},
            {},
            r"folder, train: .*two classes or more, but all 9 training clips are of class 'walk': .*probe_on",
        ),
        ({"walk": 1}, {"epochs": 0}, r"all 1 training clips are of class 'walk'"),
        (ENOUGH, {"knn_k": [5, 31]}, r"folder, train: knn_k: 31 neighbours need more than 30 training clips"),
        (ENOUGH, {"batch_size": 32}, r"folder: 30 training videos make no batch of 32; lower batch_size"),
        (ENOUGH, {"train_videos": 31}, r"train_videos is 31, but there are only 30"),
        (
            ENOUGH,
            {"imbalance": 11.0},
            r"imbalance: 11 to 1 needs 11 videos of the most frequent class, but there are 10",
        ),
        (ENOUGH | {"juggle": 10}, {}, r"folder: no vocabulary of \['embedded'\] .*lacks \['juggle'\]"),
        (ENOUGH, {"class_vocabularies": ["embeded"]}, r"embeded.yaml.*\n.*no such file; did you mean 'embedded'"),
        (ENOUGH, {"concepts": ["nothing"]}, r"nothing.yaml.*\n.*no such file; there are: .*kinetics400"),
        (ENOUGH, {"prompts": "photos"}, r"photos.yaml.*\n.*did you mean 'photo'"),
        (ENOUGH, {"zero_shot_prompts": "zzz"}, r"zzz.yaml.*\n.*there are: \['bare', 'clip_kinetics'"),
        (ENOUGH, {"num_descriptions": 5}, r"(?s)embedded.yaml.*'\w+' has 4 descriptions of 5"),
        (ENOUGH, {"evaluate_parts": ["validation"]}, r"has no part validation"),
    ],
)
def test_what_a_later_step_would_stop_with_is_said_first(tmp_path, train, changes, message):
    data = lay_out(tmp_path, {"train": train, "test": dict.fromkeys(train, 2)})
    with pytest.raises(ValueError, match=message):
        check_run(load(profile="embedded", data_folder=str(data), **OWN | changes), adapt=True)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"probe_on": ["kinetics600"]}, "kinetics600: .* has no part train-1, .*, only test-1, test-2, test-3"),
        ({"dataset": "kinetics600"}, "kinetics600: .* has no part train, only test-1"),
        ({"lists_kinetics600": "lists"}, r"kinetics600: no vocabulary .*'kinetics600'.*yaml lacks \['juggling'\]: add"),
        ({"allow_missing": False}, r"(?s)9820 of 9842 listed clips have no file.*classes have no clip in test-1"),
    ],
)
def test_kinetics600_is_refused_for_training_and_with_classes_that_no_vocabulary_has(
    laid_out, tmp_path, changes, message
):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "kinetics600.csv").write_text("class,splits,clips\njuggling,111,-u8W9n8IOks@11\n")
    if "lists_kinetics600" in changes:
        changes = {"lists_kinetics600": str(tmp_path / "lists")}
    params = load(
        profile="paper",
        **{"evaluate_on": ["kinetics600"], "probe_on": [], "allow_missing": True, "manifests": str(tmp_path)}
        | {"data_kinetics600": str(laid_out("kinetics600", "folders"))}
        | changes,
    )
    with pytest.raises(ValueError, match=message):
        check_run(params, adapt=params.dataset == "kinetics600")


def test_classes_that_differ_between_parts_are_named_and_matter_only_where_they_are_used(tmp_path):
    data = lay_out(tmp_path, {"train": {"walk": 9, "run": 9}, "test": {"run": 2, "wave": 2}})
    own = OWN | {"data_folder": str(data), "manifests": str(tmp_path / "none")}
    with pytest.raises(DataError, match="(?s)folder is incomplete.*no clip in train: wave.*no clip in test: walk"):
        check_run(load(profile="embedded", **own), adapt=True)
    with pytest.raises(ValueError, match="folder, train: class 'wave' has no training clip, but is tested: .*probe_on"):
        check_run(load(profile="embedded", allow_missing=True, **own), adapt=True)
    lists = check_run(load(profile="embedded", allow_missing=True, **own | {"probe_on": []}), adapt=True)
    assert {part: len(videos) for part, videos in lists["folder"].items()} == {"train": 18, "test": 4}


@pytest.mark.parametrize(
    "groups, changes, message",
    [
        (
            {"Lunges": [8, 9], "JumpingJack": [1, 10, 11]},
            {},
            r"ucf101, train-1: 4 groups are too few .*set probe_held_out to 0.5, or .*probe_on",
        ),
        (
            {"Lunges": range(1, 20), "JumpingJack": [1]},
            {},
            r"ucf101, train-1: class 'JumpingJack' has no training clip, but is tested",
        ),
        (
            {"Lunges": range(8, 20), "JumpingJack": range(8, 20)},
            {},
            r"ucf101: the part test-1 has no labelled clips: .*evaluate_splits",
        ),
        (
            {"Lunges": range(1, 20)},
            {"zero_shot_protocols": ["half"], "probe_on": []},
            "ucf101: zero_shot_protocols: half: none of the",
        ),
        (
            {"Lunges": range(1, 20), "JumpingJack": range(1, 20)},
            {"probe_held_out": 0.8},
            "1 fold is too few to hold out 0.8 .*set probe_held_out to 0.5",
        ),
    ],
)
def test_subsets_of_an_official_set_are_checked_by_groups_and_splits(tmp_path, groups, changes, message):
    own = {
        "data_ucf101": str(ucf101(tmp_path, groups)),
        "knn_k": [2],
        "batch_size": 2,
        "manifests": str(tmp_path / "none"),
    }
    with pytest.raises(ValueError, match=message):
        check_run(load(profile="ucf101", **own | changes), adapt=True)


def test_all_problems_are_said_at_once(tmp_path):
    data = lay_out(tmp_path, {"train": {"walk": 1, "juggle": 5}, "test": {"walk": 1, "juggle": 1}})
    with pytest.raises(
        ValueError,
        match=r"(?s)^3 problems stop this run.*no batch of 8.*lacks \['juggle'\].*'walk' has 1 training clip",
    ):
        check_run(load(profile="embedded", data_folder=str(data), **OWN), adapt=True)


def test_what_check_data_has_found_broken_does_not_count(tmp_path):
    data = lay_out(tmp_path, {"train": {"walk": 3, "run": 3}, "test": {"walk": 1, "run": 1}})
    own = load(
        profile="embedded",
        data_folder=str(data),
        manifests=str(tmp_path / "m"),
        allow_missing=True,
        **OWN | {"knn_k": [1], "batch_size": 4},
    )
    videos = [video.path for video in check_run(own, adapt=True)["folder"]["train"].videos]
    manifest.write(
        pd.DataFrame([manifest.entry(path, str(path.relative_to(data))) for path in videos[1:]]),
        manifest_of(own, "folder"),
    )
    with pytest.raises(
        ValueError,
        match=r"(?s)folder: 5 training videos cannot be decoded .*max_bad_videos is 0.*'walk' has 3 training "
        r"clips, of which none",
    ):
        check_run(own, adapt=True)


def test_a_suite_says_of_every_run_that_is_not_done_what_stops_it(tmp_path, capsys):
    data = ucf101(tmp_path, {"Lunges": [1, 8, 9], "JumpingJack": [1, 10, 11]})
    own = {"data_ucf101": str(data), "knn_k": [2], "batch_size": 5, "manifests": str(tmp_path / "none")}
    runs = runs_of(read_suite("reproduce"), "ucf101", own)
    untrained, trained = problems_of(runs)
    assert untrained.startswith("image_clip: ucf101, train-1: 4 groups are too few")
    assert capsys.readouterr().out.startswith(
        "ucf101: runs without what is missing: 244 of 250 listed clips have no file; 99 of 101 classes"
    )
    assert (
        trained.startswith("no_language, lss: 2 problems stop this run")
        and "4 training videos make no batch of 5" in trained
    )
    assert problems_of(runs_of(read_suite("reproduce"), "ucf101", own | {"batch_size": 4, "probe_held_out": 0.5})) == []
    elsewhere = runs_of(
        read_suite("reproduce"), "ucf101", own | {"batch_size": 4, "probe_held_out": 0.5, "device": "cuda:99"}
    )
    (told,) = problems_of(elsewhere)
    assert told.startswith("image_clip, no_language, lss: device: 'cuda:99' cannot be used on ")
    assert problems_of(elsewhere, here=False) == []  # on a cluster it is another machine's


def test_more_gpus_than_this_machine_has_are_told_before_the_first_job(tmp_path, monkeypatch):
    monkeypatch.setattr(planned, "usable_device", lambda name: None)  # as if there were one
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    data = ucf101(tmp_path, {"Lunges": [1, 8, 9], "JumpingJack": [1, 10, 11]})
    own = {"data_ucf101": str(data), "knn_k": [2], "batch_size": 4, "probe_held_out": 0.5, "device": "cuda"}
    own |= {"manifests": str(tmp_path / "none")}
    assert problems_of(runs_of(read_suite("reproduce"), "ucf101", own)) == []
    (told,) = problems_of(runs_of(read_suite("reproduce"), "ucf101", own | {"devices": 2}))
    assert told.startswith("image_clip, no_language, lss: 2 device(s) requested, but ") and "shows 1 (0)" in told
    assert problems_of(runs_of(read_suite("reproduce"), "ucf101", own | {"devices": 2}), here=False) == []


def test_a_checkpoint_that_a_run_would_stop_with_is_told_before_the_first_job(tmp_path):
    """Snakemake removes the metrics.json of a job as it starts it."""
    own = {
        "data_ucf101": str(ucf101(tmp_path / "data", {"Lunges": [1, 8, 9], "JumpingJack": [1, 10, 11]})),
        "knn_k": [2],
        "batch_size": 4,
        "probe_held_out": 0.5,
        "manifests": str(tmp_path / "none"),
    }
    (told,) = problems_of(runs_of(read_suite("reproduce"), "ucf101", own | {"zero_shot_views": ["2x1x1@50"]}))
    assert (
        told == "image_clip, no_language, lss: zero_shot_views: 50 pixels: a view's must be a multiple of the patch "
        "of outputs/embedded/clip/0, 8"
    )
    (clip := tmp_path / "clip").mkdir()
    (clip / "config.json").write_text("version https://git-lfs.github.com/spec/v1")
    (told,) = problems_of(runs_of(read_suite("reproduce"), "ucf101", own | {"clip": str(clip)}))
    assert told.startswith(f"image_clip, no_language, lss: {clip}: config.json is a pointer of Git LFS")


def test_a_failed_check_leaves_records_models_and_checkpoints_as_they_were(tiny, tmp_path):
    params, run = tiny("image_clip"), tmp_path / "run"
    adapt(params, run)
    for name in ("metrics.json", "checkpoint-00000008.pt"):
        write_json(run / name, {})
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file()}
    data = lay_out(tmp_path / "few", {"train": {"walk": 1, "run": 9}, "test": {"walk": 1, "run": 1}})
    own = {"evaluate_on": ["folder"], "probe_on": ["folder"], "data_folder": str(data)}
    with pytest.raises(ValueError, match="'walk' has 1 training clip"):
        adapt(params.model_copy(update=own | {"epochs": 1}), run)
    with pytest.raises(ValueError, match="'walk' has 1 training clip"):
        evaluate(params.model_copy(update=own), run)
    for changes, message in (
        (
            {"zero_shot_views": ["2x1x1@25"]},
            r"zero_shot_views: 25 pixels: a view's must be a multiple of the patch .* 8$",
        ),
        ({"trained": "last_blocks", "trained_last_blocks": 3}, "trained_last_blocks is 3, but .* has 2"),
        ({"objective": "label", "num_concepts": 8}, "needs every class among the concepts"),
    ):
        with pytest.raises(ValueError, match=message):
            adapt(params.model_copy(update={"epochs": 1, "temporal": "divided"} | changes), run)
    after = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file()}
    assert after.pop(run / ".lock") and before.pop(run / ".lock") and after == before


def test_words_that_the_checkpoint_cannot_read_are_found_before_it_is_adapted(tiny, tmp_path, monkeypatch):
    (tmp_path / "prompts").mkdir()
    for path in (FOLDER / "prompts").glob("*.yaml"):
        shutil.copy(path, tmp_path / "prompts")
    (tmp_path / "prompts" / "long.yaml").write_text(f"templates: ['{'a photo of ' * 40}{{}}']\n")
    monkeypatch.setattr(preflight, "FOLDER", tmp_path)
    with pytest.raises(ConceptError, match="tokens long"):
        adapt(tiny(zero_shot_prompts="long"), tmp_path / "run")
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_class_of_which_no_training_clip_can_be_decoded_is_named(tiny, tmp_path):
    params = tiny("image_clip")
    shutil.copytree(params.data_embedded, tmp_path / "world")
    own = {"data_embedded": str(tmp_path / "world")}
    adapt(params.model_copy(update=own), tmp_path / "run")
    for path in (tmp_path / "world" / "train" / "walk").iterdir():
        path.write_bytes(b"no video")
    with pytest.raises(
        ValueError, match="embedded, train: class 'walk' has 5 training clips, of which none can be decoded.*probe_on"
    ):
        evaluate(params.model_copy(update=own), tmp_path / "run")


def test_five_classes_of_real_videos_under_the_embedded_clip(tiny, tmp_path):
    params = tiny(
        "image_clip",
        dataset="folder",
        data_folder=str(tmp_path / "own"),
        evaluate_on=["folder"],
        probe_on=["folder"],
        probe_shots=[2, 6],
    )
    for part in ("train", "test"):
        (tmp_path / "own" / part).mkdir(parents=True)
        for name in ("walk", "run", "sit down", "stand up", "wave"):
            (tmp_path / "own" / part / name).symlink_to(Path(params.data_embedded) / part / name)
    adapt(params, tmp_path / "run")
    record = evaluate(params, tmp_path / "run")
    assert {m["metric"] for m in record["metrics"]} == {"top1", "pair_top1", "prediction_entropy"}  # no top-5 of five
    blind, few = record["warnings"]
    assert blind == (
        "folder: the embedded CLIP has seen only rendered people: results on real videos are near chance by design"
    )
    assert (
        few == "folder, train: 5 of 5 classes have fewer than 6 training clips (at least 5): the probe on "
        "6 uses all of theirs"
    )


def test_a_run_says_its_steps_and_unused_clips_and_warns_where_they_are_few(tiny, tmp_path, capsys):
    params = load(profile="ucf101")
    few = length_of(params, 59)
    assert few.text == "59 training clips make 16 steps of 32; 27 clips per epoch unused" and few.steps == 16
    assert few.warnings[0].startswith(f"{few.text}: fewer than 100 steps teach little")
    enough = length_of(params, 448)
    assert enough == (224, "448 training clips make 224 steps of 32", [])
    record = adapt(tiny(epochs=1, batch_size=32), tmp_path)
    assert "80 training clips make 2 steps of 32; 16 clips per epoch unused" in capsys.readouterr().out
    assert (
        record["warnings"]
        == read_json(tmp_path / "adapt.json")["warnings"]
        == length_of(tiny(epochs=1, batch_size=32), 80).warnings
        != []
    )


def test_test_clips_that_were_adapted_to_are_said():
    lists = {"ucf101": {}}
    params = load(profile="ucf101", evaluate_splits=[1, 3], clip="elsewhere")
    assert warnings_of(params, lists) == [
        "ucf101: the test parts of 3 share clips with split 1, which the model was adapted to"
    ]
    assert warnings_of(params.model_copy(update={"epochs": 0}), lists) == []
