"""The pilot: clips that an adaptation never sees, too few of them, and the verdict."""

import pytest
from test_preflight import ENOUGH, OWN, lay_out, ucf101

from lib.datasets import parts as of_run
from lib.datasets.parts import DataError, list_dataset, training_videos
from lib.datasets.preflight import check_run
from lib.run.fields import AdaptParams
from lib.run.params import ParamsError, load

HELD_OUT = {"evaluate_parts": ["held_out"], "held_out_videos": 6, "probe_on": []}


def names(videos) -> set[str]:
    return {video.name for video in videos.videos}


def test_clips_that_are_held_out_are_the_same_for_every_run_and_never_adapted_to(tmp_path):
    data = lay_out(tmp_path, {"train": ENOUGH, "test": dict.fromkeys(ENOUGH, 2)})
    given = OWN | HELD_OUT | {"data_folder": str(data), "manifests": str(tmp_path / "none")}
    params = load(profile="embedded", **given)
    parts = check_run(params, adapt=True)["folder"]
    assert (
        of_run.test_parts(params, "folder") == ["held_out"]
        and len(parts["held_out"]) == 6
        and len(parts["train"]) == 24
    )
    for changes in ({"seed": 3}, {"train_videos": 8, "seed": 1}, {"max_train_videos": 9}, {"max_train_videos": 99}):
        changed = load(profile="embedded", **given | changes)
        lists = list_dataset(changed, "folder")
        trained = training_videos(changed, lists)
        assert names(lists["held_out"]) == names(parts["held_out"]) and not names(trained) & names(lists["held_out"])
        assert len(trained) == {"train_videos": 8}.get(
            next(iter(changes)), min(24, changes.get("max_train_videos", 24))
        )
    more = list_dataset(load(profile="embedded", **given | {"held_out_videos": 99}), "folder")
    assert len(more["held_out"]) == 6  # a fifth of 30
    plain = load(profile="embedded", **given | {"held_out_videos": 0, "evaluate_parts": ["test"]})
    assert names(list_dataset(plain, "folder")["train"]) == names(parts["held_out"]) | names(parts["train"])
    assert plain.stage_hash(AdaptParams) != params.stage_hash(AdaptParams)  # it saw other clips


def test_clips_of_one_film_are_held_out_together_and_of_the_split_that_is_adapted_to(tmp_path):
    data = ucf101(tmp_path / "UCF", {name: list(range(1, 26)) for name in ("TaiChi", "JumpingJack")})
    for folder in data.iterdir():
        for clip in list(folder.iterdir()):
            clip.with_name(clip.name.replace("_c01", "_c02")).touch()
    given = {"data_ucf101": str(data), "manifests": str(tmp_path), "allow_missing": True} | HELD_OUT
    params = load(
        profile="clip_b32", **given | {"held_out_videos": 9, "evaluate_on": ["ucf101"], "evaluate_splits": [1, 2]}
    )
    parts = list_dataset(params, "ucf101")
    films = [{name.rsplit("_", 1)[0] for name in names(parts[part])} for part in ("held_out-1", "train-1")]
    assert of_run.test_parts(params, "ucf101") == ["held_out-1"] and len(films[0]) == 4 and not films[0] & films[1]
    assert len(parts["held_out-1"]) == 8 and len(parts["train-1"]) + 8 == 2 * 2 * 18 and not parts["held_out-1"].missing


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"min_steps": 4},
            "24 training clips make 3 steps of 8, and min_steps is 4: it needs 32 beside those held out",
        ),
        ({"min_steps": 7, "epochs": 2}, "24 training clips make 6 steps of 8, .* it needs 32 beside"),
    ],
)
def test_too_few_clips_are_refused_with_the_number_needed(tmp_path, changes, message):
    data = lay_out(tmp_path, {"train": ENOUGH, "test": dict.fromkeys(ENOUGH, 2)})
    given = OWN | HELD_OUT | {"data_folder": str(data), "epochs": 1, "manifests": str(tmp_path)}
    check_run(load(profile="embedded", **given), adapt=True)
    check_run(load(profile="embedded", **given | changes | {"epochs": 0}), adapt=True)  # the image CLIP has no steps
    with pytest.raises(ValueError, match=message):
        check_run(load(profile="embedded", **given | changes), adapt=True)


def test_no_clip_to_hold_out_and_a_data_set_without_a_training_part_are_refused(tmp_path, laid_out):
    data = lay_out(tmp_path / "few", {"train": {"walk": 2, "run": 2}, "test": {"walk": 2, "run": 2}})
    given = OWN | HELD_OUT | {"data_folder": str(data), "batch_size": 2, "manifests": str(tmp_path)}
    with pytest.raises(ValueError, match="folder: the part held_out has no labelled clips: add some"):
        check_run(load(profile="embedded", **given), adapt=True)
    given = HELD_OUT | {"data_kinetics600": str(laid_out("kinetics600")), "evaluate_on": ["kinetics600"]}
    with pytest.raises(DataError, match="kinetics600: .* has no part train, only test-1"):
        list_dataset(load(profile="paper", allow_missing=True, **given), "kinetics600")
    for wrong in ({"evaluate_parts": ["held_out"]}, {"evaluate_parts": ["held_out", "test"], "held_out_videos": 5}):
        with pytest.raises(ParamsError, match="held_out stands alone, and held_out_videos says how many"):
            load(profile="embedded", **wrong)
