"""Interpolated weights: by hand, on a tiny world, in a table and a figure."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from lib.backbone import VideoCLIP
from lib.datasets.lists import Video, VideoList
from lib.evaluation import interpolation as evaluation
from lib.evaluation.evaluate import evaluate
from lib.evaluation.features import interpolate
from lib.run.files import read_json
from lib.run.params import ParamsError, load
from lib.study import charts, results, suites, tables
from lib.study import interpolation as study
from lib.train import adapt

ALPHAS = [0.0, 0.5, 1.0]


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """The image CLIP and an adapted model; the latter evaluated at three alphas and at 1 alone."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for row, alphas in (("image_clip", ALPHAS), ("lss", ALPHAS)):
        params = tiny(row, interpolate=alphas, evaluate_model="student", learning_rate=0.01)
        adapt(params, folder / row)
        found[row] = suites.Run(row, 0, 0, params, folder / row), evaluate(params, folder / row)
    shutil.copytree(folder / "lss", folder / "plain")
    plain = params.model_copy(update={"interpolate": [1.0]})
    return found | {"plain": (suites.Run("lss", 0, 0, plain, folder / "plain"), evaluate(plain, folder / "plain"))}


def answers(run):
    return load_file(run.folder / "correct.safetensors")


def test_weights_are_mixed_and_exact_at_both_ends():
    model, start = nn.Linear(2, 1), nn.Linear(2, 1)
    own, first = ({name: w.clone() for name, w in m.state_dict().items()} for m in (model, start))
    for alpha in (0.25, 0.0, 1.0):
        model.load_state_dict(own)
        interpolate(model, start, alpha)
        for name, weight in model.state_dict().items():
            torch.testing.assert_close(weight, 0.75 * first[name] + 0.25 * own[name] if alpha == 0.25 else weight)
            assert alpha == 0.25 or torch.equal(weight, own[name] if alpha else first[name])


def test_agreement_is_how_often_the_first_class_is_that_of_the_mean_over_alphas():
    before, between, after = np.array([[[0.9, 0.1], [0.6, 0.4]], [[0.7, 0.3], [0.4, 0.6]], [[0.2, 0.8], [0.1, 0.9]]])
    found = evaluation.agreements({0.0: before, 0.5: between, 1.0: after})  # the mean prefers class 0, then class 1
    assert found == {0.0: 0.5, 0.5: 1.0, 1.0: 0.5}
    assert evaluation.agreements({}) == {}


def test_alpha_0_is_the_image_clip_and_1_the_adapted_model_under_its_usual_keys(runs):
    (clip, _), (lss, record), (plain, plain_record) = (runs[name] for name in ("image_clip", "lss", "plain"))
    found, of_clip, of_plain = map(answers, (lss, clip, plain))
    for protocol in ("zero_shot", "zero_shot_still"):
        key = f"embedded/test/{protocol}"
        assert np.array_equal(found[f"{key}@0/predicted"], of_clip[f"{key}/predicted"])
        assert not np.array_equal(found[f"{key}@0/predicted"], found[f"{key}/predicted"])
    assert all(np.array_equal(found[key], of_plain[key]) for key in of_plain)
    extra = {m["protocol"] for m in record["metrics"]} - {m["protocol"] for m in plain_record["metrics"]}
    assert extra == {f"{protocol}@{alpha}" for protocol in ("zero_shot", "zero_shot_still") for alpha in ("0", "0.5")}
    assert not any("@" in key for key in of_clip)  # nothing was trained
    assert "interpolation" not in plain_record["datasets"]["embedded"]


def test_alpha_is_chosen_on_validation_clips_and_recorded(runs):
    record = runs["lss"][1]["datasets"]["embedded"]
    choice = record["interpolation"]
    assert choice["part"] == "validation" and set(record["parts"]) == {"test", "train"}  # no result is reported on it
    assert str(choice["chosen"]).removesuffix(".0") == max(choice["agreement"], key=choice["agreement"].get)
    assert record["data"] == runs["plain"][1]["datasets"]["embedded"]["data"]


def test_the_adapted_weights_are_always_evaluated():
    with pytest.raises(ParamsError, match=r"interpolate needs 1\.0, the adapted weights"):
        load(profile="embedded", interpolate=[0.5])


def test_a_clip_of_another_shape_or_content_is_refused_before_anything_is_computed(runs, monkeypatch):
    run, record = runs["lss"]
    sources = read_json(run.folder / "adapt.json")["sources"]
    first = next(name for name in sources if name.endswith(".safetensors"))
    other = run.params.model_copy(update={"temporal_positions": 3})
    model = VideoCLIP.from_pretrained(str(run.folder / "student"))
    assert evaluation.start_of_run(run.params, model, sources).config.temporal == run.params.temporal
    with pytest.raises(ValueError, match=r"interpolate: .* differ in shape: temporal_position_embedding is \(3, 24\)"):
        evaluation.start_of_run(other, model, sources)
    with pytest.raises(ValueError, match=f"interpolate: {first} has changed since the adaptation"):
        evaluation.start_of_run(run.params, model, sources | {first: "another"})
    monkeypatch.setattr("lib.evaluation.interpolation.sources_of", lambda params, videos: {"revision": "other"})
    with pytest.raises(ValueError, match="revision has changed"):
        evaluate(run.params, run.folder)
    assert read_json(run.folder / "metrics.json")["metrics"] == record["metrics"]


@pytest.mark.parametrize(
    "dataset, names, chosen",
    [
        ("embedded", ["train", "validation", "test"], "validation"),
        ("ucf101", ["train-1", "test-1", "train-2", "test-2", "all"], "train-1"),
        ("kinetics400", ["train", "validation"], "train"),
        ("kinetics400", ["validation"], None),
    ],
)
def test_alpha_is_never_chosen_on_a_part_that_is_reported(dataset, names, chosen, monkeypatch):
    monkeypatch.setattr(evaluation, "CHOICE_CLIPS", 4)
    parts = {name: VideoList([Video(f"{i}.mp4", str(i)) for i in range(9)]) for name in names}
    found = evaluation.unlabelled(load(profile="paper"), dataset, parts)
    assert {name: [video.name for video in videos.videos] for name, videos in found.items()} == (
        {chosen: ["0", "3", "6"]} if chosen else {}
    )


def test_the_table_has_a_column_for_each_alpha_and_says_what_was_chosen(runs, tmp_path, monkeypatch):
    shown = [runs[name][0] for name in ("image_clip", "lss")]
    suite = suites.Suite(folder="", rows=["image_clip", "lss"], reference="lss", replicas=[[0, 0]])
    (table,) = tables.write_tables(suite, shown, tmp_path, only=["interpolation"])["interpolation"]
    assert list(table) == ["run", "dataset", "measure", "0", "0.5", "1"]
    assert set(table["measure"]) == {"zero-shot", "stills", "agreement on stills"}
    rows = table.set_index(["run", "measure"])
    assert rows.loc[("image_clip", "zero-shot"), "0"] == "" and rows.loc[("lss", "agreement on stills"), "0"] == "100.0"
    assert rows.loc[("lss", "zero-shot"), "0"] == rows.loc[("image_clip", "zero-shot"), "1"]
    assert "chosen without labels, embedded/validation: lss" in (tmp_path / "interpolation.md").read_text()


def test_the_figure_draws_accuracy_against_what_is_kept(runs):
    shown = [runs[name][0] for name in ("image_clip", "lss")]
    points = study.points(shown, results.collect(shown).values, "embedded")
    assert points["alpha"].tolist() == ALPHAS and points["chosen"].sum() == 1
    assert points["agreement on stills"][0] == 100 and points["zero-shot"].between(0, 100).all()
    figure = charts.interpolation(points)
    stills, agreement = figure.axes
    assert stills.lines[0].get_ydata().tolist() == points["zero-shot"].tolist()
    assert agreement.lines[0].get_xdata()[0] == 100
    assert [text.get_text() for text in stills.texts] == ["0", "0.5", "1"]
    without = points.assign(**{"agreement on stills": np.nan})
    assert len(charts.interpolation(without).axes) == 1
