"""The pilot: clips that an adaptation never sees, too few of them, and the verdict."""

import pytest
import yaml
from test_preflight import ENOUGH, OWN, lay_out, ucf101

from lib.datasets import parts as of_run
from lib.datasets.parts import DataError, list_dataset, training_videos
from lib.datasets.preflight import check_run
from lib.evaluation.evaluate import evaluate
from lib.run.fields import AdaptParams
from lib.run.params import ParamsError, load
from lib.study import charts, pilot
from lib.study.results import Difference
from lib.study.suites import Run, read_suite, runs_of
from lib.train import adapt
from workflow.make import Settings

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


# ---- the verdict ----------------------------------------------------------------------------------------------------


def row(zero_shot=0.0, stills=0.0, over=0.0, *, half=0.5, agreement=90.0, signs=()) -> pilot.Row:
    """Differences in points with intervals of ± `half`; over: zero-shot minus the reference's, None if that failed."""
    ends = (Difference(mean, mean - half, mean + half) for mean in (zero_shot, stills, over or 0.0))
    first, second, third = ends
    return pilot.Row(first, second, None if over is None else third, agreement, signs)


COLLAPSE = "step 40: collapse_batch_entropy is 0.20, the limit 0.5: few concepts take all videos. Raise"
DRIFT = "step 40: the teacher's entropy is 0.20 of that of the first steps, the limit 0.35: the teacher"


FAILED = "failed, see x.log"
# rows, failed, decision, row of the whole run, words of the reason
VERDICTS = [
    ({"rates_quarter": row(0.9), "lss": row(2.0)}, {}, "go", "lss", "2.0 [+1.5, +2.5] points"),
    ({"lss": row(2.0), "temporal_only": row(2.3, over=0.3)}, {}, "go", "lss", "No row is better beyond doubt."),
    ({"lss": row(2.0)}, {"rates_quadruple": FAILED}, "go", "lss", "rates_quadruple: failed, see x.log"),
    ({"lss": row(2.0), "rates_quadruple": row(3.0, over=1.0)}, {}, "go", "lss", "no reason to raise them"),
    (
        {"lss": row(0.3), "rates_quadruple": row(3.0, over=2.7)},
        {},
        "go",
        "lss",
        "to tell: +0.3 [-0.2, +0.8]. But rates_q",
    ),
    ({"lss": row(2.0), "temporal_only": row(3.0, over=1.0)}, {}, "change this", "temporal_only", "+1.0 [+0.5"),
    ({"lss": row(0.3), "rates_quarter": row(0.6)}, {}, "change this", "rates_quarter", "of lss includes zero"),
    ({"lss": row(3.0, -1.0), "rates_quarter": row(0.8)}, {}, "change this", "rates_quarter", "CLIP is being lost"),
    ({"lss": row(3.0, -1.0), "rates_quarter": row(0.8)}, {}, "change this", "rates_quarter", "still lower ones"),
    ({"lss": row(3.0, agreement=40.0), "temporal_only": row(0.8)}, {}, "change this", "temporal_only", "40 %"),
    ({"lss": row(3.0, signs=(DRIFT,)), "temporal_only": row(0.8)}, {}, "change this", "temporal_only", "0.35"),
    ({"temporal_only": row(0.8, over=None)}, {"lss": FAILED}, "change this", "temporal_only", "lss: failed, see x"),
    ({"lss": row(5.0, signs=(COLLAPSE,)), "rates_quarter": row(0.1)}, {}, "change this", "", "collapse_batch_entropy"),
    ({"lss": row(1.0, half=3.0), "rates_quarter": row(0.5, half=3.0)}, {}, "change this", "", "about 2700 would do"),
    ({"lss": row(0.2), "rates_quarter": row(0.1)}, {}, "change this", "", "nothing has changed yet: raise max_train"),
    ({"lss": row(-2.0), "rates_quarter": row(-0.8)}, {}, "stop", "", "a tenth of the rates"),
    ({"lss": row(5.0, signs=(COLLAPSE,)), "temporal_only": row(-0.8)}, {}, "stop", "", "Do what the signs of collapse"),
    ({}, {"lss": "failed", "temporal_only": "failed"}, "stop", "", "lss: failed"),
]


@pytest.mark.parametrize("rows, failed, decision, chosen, words", VERDICTS)
def test_the_verdict_is_go_change_or_stop_with_its_reason(rows, failed, decision, chosen, words):
    found = pilot.verdict(rows, reference="lss", clips=300, failed=failed)
    assert (found.decision, found.row) == (decision, chosen) and words in found.reason, found
    of_guessing = pilot.verdict(rows, reference="lss", clips=300, failed=failed, above_chance=1.0)
    assert of_guessing.decision == "stop" and "cannot be told from guessing" in of_guessing.reason


def test_the_lines_to_paste_are_those_of_the_row_with_its_rates_written_out():
    assert pilot.whole_profile("paper+pilot+mine") == "paper+mine"
    assert pilot.lines_to_paste("lss", "paper") == [] and pilot.lines_to_paste("temporal_only", "paper") == [
        "trained: temporal"
    ]
    lines = pilot.lines_to_paste("rates_quarter", "paper")
    pasted, scaled = (
        load(profile="paper", **yaml.safe_load("\n".join(lines))),
        load(profile="paper", learning_rate_scale=0.25),
    )
    assert lines[0] == "learning_rate: 8.325e-07" and len(lines) == 2
    assert pasted.learning_rate == pytest.approx(0.25 * scaled.learning_rate)
    assert pasted.temporal_learning_rate == pytest.approx(0.25 * scaled.temporal_learning_rate)


def test_the_overlay_evaluates_on_what_is_adapted_to_and_a_pilot_never_on_test_clips():
    for profile, dataset in (("paper", "kinetics400"), ("clip_b32", "ucf101"), ("embedded", "embedded")):
        assert load(profile=f"{profile}+pilot").evaluate_on == [dataset]
        with pytest.raises(ParamsError, match=f"profile '{profile}' reports test clips, .*: {profile}.pilot"):
            runs_of(read_suite("pilot"), profile)
    with pytest.raises(ParamsError, match="a pilot needs clips with one label, and still_views"):
        runs_of(read_suite("pilot"), "paper+pilot", {"still_views": []})
    environment = {"PROFILE": "paper+mine"}
    assert Settings.read("pilot", environment)[:2] == ("paper+mine+pilot", "pilot")
    assert Settings.read("pilot", {"PROFILE": "paper+pilot+mine"}).profile == "paper+pilot+mine"


def test_what_is_measured_is_the_difference_from_the_image_clip_and_a_row_that_failed_is_named(tiny, tmp_path):
    held_out = {"held_out_videos": 16, "evaluate_parts": ["held_out"], "probe_on": [], "learning_rate": 0.01}
    runs = [Run(name, 0, 0, tiny(name, **held_out), tmp_path / name) for name in ("image_clip", "lss", "temporal_only")]
    for run in runs[:2]:
        adapt(run.params, run.folder)
        evaluate(run.params, run.folder)
    measured = pilot.measure(runs, "lss")
    assert measured.clips == 16 and measured.failed == {"temporal_only": "not run"} and set(measured.rows) == {"lss"}
    lss, top1 = measured.rows["lss"], measured.top1
    for difference, after, before in zip((lss.zero_shot, lss.stills), top1["lss"], top1["image_clip"]):
        assert difference.mean == pytest.approx(after - before) and difference.low <= difference.mean <= difference.high
    found = pilot.table(measured).set_index("row")
    assert found.loc["temporal_only", "signs"] == "not run" and found.loc["lss", "zero-shot - reference"] == ""
    assert (
        found.loc["lss", "stills"] == f"{top1['lss'][1]:.1f}" and found.loc["image_clip", "agreement on stills"] == ""
    )
    figure = charts.pilot(pilot.points(measured))
    assert [text.get_text() for text in figure.axes[0].get_legend().texts] == ["image_clip", "lss"]
    text = pilot.page("embedded", measured, pilot.Verdict("go", "Because.", "temporal_only"), {}, runs[0].params)
    assert "# Pilot of embedded: go" in text and "trained: temporal" in text and "PROFILE=embedded CORES=1" in text
    with pytest.raises(ValueError, match="a pilot needs the image CLIP to compare with: not run"):
        pilot.measure([runs[0]._replace(folder=tmp_path / "none"), *runs[1:]], "lss")
