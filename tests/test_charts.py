"""Charts: that they show the numbers they are given."""

import numpy as np
import pandas as pd
import pytest

from lib.study import charts

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
    figure = charts.accuracies(values, ["image_clip", "no_language", "lss"], highlight="lss")
    zero_shot, probe = figure.axes
    assert [bar.get_width() for bar in zero_shot.patches] == [40.0, 62.0]
    assert [bar.get_width() for bar in probe.patches] == [60.0, 82.0]
    assert sorted(x for points in zero_shot.collections for x, _ in points.get_offsets()) == [30.0, 40.0, 60.0, 64.0]
    assert "no result" in [text.get_text() for text in zero_shot.texts]
    assert [label.get_text() for label in zero_shot.get_yticklabels()] == ["image_clip", "no_language", "lss"]


def test_the_pair_figure_shows_chance(values):
    figure = charts.accuracies(values, ["image_clip", "lss"], highlight="lss", metric="pair_top1", chance=50)
    assert [line.get_xdata()[0] for line in figure.axes[0].lines] == [50]


def test_differences_are_coloured_where_their_interval_excludes_zero_and_rows_without_one_say_so():
    compared = pd.DataFrame(
        [
            (run, protocol, *interval)
            for protocol in ("zero_shot", "linear_probe")
            for run, interval in (("clear", (3.0, 1.0, 4.0)), ("unclear", (-1.0, -2.0, 0.5)))
        ],
        columns=["run", "protocol", "mean", "low", "high"],
    )
    figure = charts.differences(compared, ["lss", "clear", "not_run", "unclear"], reference="lss")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["clear", "not_run", "unclear"]
    for panel in figure.axes:
        clear, unclear = (bars.lines for bars in panel.containers)
        assert clear[0].get_xydata().tolist() == [[3, 0]] and clear[2][0].get_segments()[0][:, 0].tolist() == [1, 4]
        assert unclear[0].get_xydata().tolist() == [[-1, 2]] and unclear[2][0].get_segments()[0][:, 0].tolist() == [
            -2,
            0.5,
        ]
        assert clear[0].get_color() != unclear[0].get_color()
        assert [text.get_text() for text in panel.texts] == ["no result"]


def test_training_curves_are_running_means_of_every_run():
    logs = pd.DataFrame(
        [
            {
                "run": run,
                "world_seed": 0,
                "seed": seed,
                "concepts": 16,
                "step": step,
                **dict.fromkeys(charts.DIAGNOSTICS, float(step)),
            }
            for run in ("no_language", "lss")
            for seed in (0, 1)
            for step in range(8)
        ]
    )
    figure = charts.training_curves(logs, highlight="lss", smooth=2)
    curves = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    assert len(curves) == 4
    assert list(curves[0].get_ydata()) == [0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5]
    assert list(figure.axes[1].lines[0].get_ydata()) == pytest.approx(
        np.array([0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5]) / np.log(16)
    )
    assert [line.get_color() == "black" for line in curves] == [False, False, True, True]  # the reference's
    assert [text.get_text() for text in figure.axes[-1].get_legend().get_texts()] == ["no_language", "lss"]


def test_a_dozen_runs_can_be_told_apart():
    logs = pd.DataFrame(
        [
            {
                "run": f"run_{i}",
                "world_seed": 0,
                "seed": 0,
                "concepts": 16,
                "step": 0,
                **dict.fromkeys(charts.DIAGNOSTICS, 1.0),
            }
            for i in range(12)
        ]
    )
    looks = [
        (line.get_color(), line._dash_pattern)
        for line in charts.training_curves(logs, highlight="run_5").axes[0].lines
        if len(line.get_xdata())
    ]
    assert len({str(look) for look in looks}) == 12


def test_classes_are_ordered_by_their_gain():
    before = {"zero_shot": [50, 40, 30], "linear_probe": [70, 70, 70]}
    after = {"zero_shot": [40, 80, 35], "linear_probe": [80, 80, 80]}
    figure = charts.gain_per_class(CLASSES, before, after, names=("image_clip", "lss"))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["stand up", "walk", "sit down"]


def test_confusions_are_shares_of_the_true_class():
    figure = charts.confusions(CLASSES, {"before": np.diag([4, 2, 0]), "after": [[1, 3, 0], [0, 2, 0], [0, 0, 0]]})
    after = figure.axes[1]
    assert after.collections[0].get_array().tolist() == [[25, 75, 0], [0, 100, 0], [0, 0, 0]]
    assert [text.get_text() for text in after.texts] == ["25", "75", "", "", "100", "", "", "", ""]


def test_lines_and_bars_of_an_amount_are_means_and_standard_deviations_over_seeds():
    points = pd.DataFrame(
        [
            ("videos", run, amount, protocol, seed, value + 10 * (protocol == "linear_probe"))
            for run, amount, values in (("lss", 1600, (60.0, 64.0)), ("videos_200", 200, (50.0, 50.0)))
            for seed, value in enumerate(values)
            for protocol in ("zero_shot", "linear_probe")
        ],
        columns=["axis", "run", "amount", "protocol", "seed", "value"],
    )
    figure = charts.scaling(points, {"zero_shot": 45, "linear_probe": 55}, axis="videos", label="videos")
    for panel, extra in zip(figure.axes, (0, 10)):
        assert panel.lines[0].get_xydata().tolist() == [[200, 50 + extra], [1600, 62 + extra]]
        (bars,) = panel.collections
        assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [
            [50 + extra] * 2,
            [60 + extra, 64 + extra],
        ]
        assert panel.lines[-1].get_ydata()[0] == 45 + extra
        assert [label.get_text() for label in panel.get_xticklabels()] == ["200", "1600"]


def test_the_probe_on_all_examples_stands_last():
    points = pd.DataFrame(
        [("image_clip", np.inf, 0, 67.0), ("image_clip", 1, 0, 20.0), ("lss", 1, 0, 30.0), ("lss", 1, 1, 40.0)],
        columns=["run", "amount", "seed", "value"],
    )
    (panel,) = charts.shots(points).axes
    assert [label.get_text() for label in panel.get_xticklabels()] == ["1", "all"]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["image_clip", "lss"]
    image_clip, lss = (
        line.get_xydata().tolist() for line in panel.lines if line.get_marker() in ("o", "X") and len(line.get_xdata())
    )
    assert image_clip == [[0, 20], [1, 67]] and lss == [[0, 35]]
