"""Figures: that they show the numbers they are given, and that files are whole."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib import figures

CLASSES = ["sit down", "stand up", "walk"]


@pytest.fixture
def values():
    rows = [("image_clip", 0, 0, 40.0), ("lss", 0, 0, 60.0), ("lss", 0, 1, 64.0), ("lss", 1, 0, 30.0)]
    return pd.DataFrame(
        [
            {
                "run": run,
                "world_seed": world,
                "seed": seed,
                "protocol": protocol,
                "metric": metric,
                "value": value + extra,
            }
            for run, world, seed, value in rows
            for protocol, extra in (("zero_shot", 0), ("linear_probe", 20))
            for metric in ("top1", "pair_top1")
        ]
    )


def test_bars_are_means_over_seeds_of_the_first_world_and_points_are_runs(values):
    figure = figures.accuracies(values, ["image_clip", "no_language", "lss"], highlight="lss")
    zero_shot, probe = figure.axes
    assert [bar.get_width() for bar in zero_shot.patches] == [40.0, 62.0]
    assert [bar.get_width() for bar in probe.patches] == [60.0, 82.0]
    assert sorted(x for points in zero_shot.collections for x, _ in points.get_offsets()) == [30.0, 40.0, 60.0, 64.0]
    assert "no result" in [text.get_text() for text in zero_shot.texts]
    assert [label.get_text() for label in zero_shot.get_yticklabels()] == ["image clip", "no language", "lss"]


def test_the_pair_figure_shows_chance(values):
    figure = figures.accuracies(values, ["image_clip", "lss"], highlight="lss", metric="pair_top1", chance=50)
    assert [line.get_xdata()[0] for line in figure.axes[0].lines] == [50]


def test_training_curves_are_running_means_of_every_run():
    logs = pd.DataFrame(
        [
            {
                "run": run,
                "world_seed": 0,
                "seed": seed,
                "epoch": step / 4,
                **dict.fromkeys(figures.DIAGNOSTICS, float(step)),
            }
            for run in ("no_language", "lss")
            for seed in (0, 1)
            for step in range(8)
        ]
    )
    figure = figures.training_curves(logs, smooth=2)
    curves = figure.axes[0].lines
    assert len(curves) == 4
    assert list(curves[0].get_ydata()) == [0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5]
    assert [text.get_text() for text in figure.axes[-1].get_legend().get_texts()] == ["no language", "lss"]


def test_classes_are_ordered_by_their_gain():
    before = {"zero_shot": [50, 40, 30], "linear_probe": [70, 70, 70]}
    after = {"zero_shot": [40, 80, 35], "linear_probe": [80, 80, 80]}
    figure = figures.gain_per_class(CLASSES, before, after, names=("image_clip", "lss"))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["stand up", "walk", "sit down"]


def test_confusions_are_shares_of_the_true_class():
    figure = figures.confusions(CLASSES, {"before": np.diag([4, 2, 0]), "after": [[1, 3, 0], [0, 2, 0], [0, 0, 0]]})
    after = figure.axes[1].images[0].get_array()
    assert after.tolist() == [[25, 75, 0], [0, 100, 0], [0, 0, 0]]


def test_similarity_maps_bars_and_contact_sheets_can_be_saved(tmp_path):
    cosines = pd.DataFrame(np.eye(3), index=CLASSES, columns=CLASSES)
    pictures = [np.full((8, 8, 3), level, np.uint8) for level in (0, 100, 200)]
    for name, figure in {
        "maps": figures.similarities({"category": cosines, "description": cosines}),
        "bars": figures.shares(CLASSES, {"accuracy": [0, 50, 100]}),
        "sheet": figures.contact_sheet(pictures, CLASSES, columns=2),
    }.items():
        figures.save(figure, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{n}.{s}" for n in ("maps", "bars", "sheet") for s in ("png", "pdf")
    )


def test_files_are_print_wide_and_the_same_for_the_same_numbers(values, tmp_path):
    for name in ("once", "again"):
        figures.save(figures.accuracies(values, ["image_clip", "lss"], highlight="lss"), tmp_path / name / "accuracies")
    for suffix in ("png", "pdf"):
        once, again = ((tmp_path / name / f"accuracies.{suffix}").read_bytes() for name in ("once", "again"))
        assert once == again
    assert Image.open(tmp_path / "once" / "accuracies.png").width == int(figures.WIDTH * 200)


def test_a_filmstrip_shows_every_frame_of_every_view_in_proportion():
    views = {"global 1": np.zeros((3, 48, 48, 3), np.uint8), "local 1": np.ones((2, 32, 32, 3), np.float32)}
    figure = figures.filmstrips(views)
    assert [len(axes.images) for axes in figure.axes] == [3, 2]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["global 1", "local 1"]
    figure.draw_without_rendering()
    pixels = [np.diff(axes.transData.transform([(0, 0), (1, 1)]), axis=0) for axes in figure.axes]
    assert np.allclose(pixels, pixels[0][0, 0], rtol=0.05)  # one scale for all views


def test_temporal_attention_joins_one_patch_of_every_frame():
    figure = figures.temporal_tokens(np.zeros((3, 48, 48, 3)), patch=8, row=2, column=4)
    (axes,) = figure.axes
    patches, class_tokens = axes.lines
    assert np.allclose(patches.get_xdata(), [36 + i * 60 for i in range(3)]) and set(patches.get_ydata()) == {20}
    assert np.allclose(class_tokens.get_xdata(), [24 + i * 60 for i in range(3)])
    assert [box.get_xy() for box in axes.patches] == [(32 + i * 60, 16) for i in range(3)]


def test_distributions_are_in_percent_and_of_many_concepts_the_most_probable_are_shown():
    table = pd.DataFrame({"teacher": [0.7, 0.2, 0.1], "student": [0.1, 0.3, 0.6]}, index=CLASSES)
    figure = figures.distributions({"category": table, "description": table[::-1].set_index(table.index)}, count=2)
    category, description = figure.axes
    assert [bar.get_width() for bar in category.patches] == pytest.approx([70, 10])
    assert category.collections[0].get_offsets()[:, 0].tolist() == pytest.approx([10, 60])
    assert [label.get_text() for label in category.get_yticklabels()] == ["sit down", "walk"]
    assert [bar.get_width() for bar in description.patches] == pytest.approx([10, 70])
    assert category.lines[0].get_xdata()[0] == pytest.approx(100 / 3)


def test_pair_losses_leave_out_the_views_that_are_not_compared():
    table = pd.DataFrame([[np.nan, 1.0, 2.0], [3.0, np.nan, 4.0]], index=["t1", "t2"], columns=["s1", "s2", "s3"])
    figure = figures.pair_losses({name: table for name in "abcd"})
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.00", "2.00", "3.00", "4.00"]
    assert figure.axes[0].get_xlabel() == "mean: 2.500 nats"
