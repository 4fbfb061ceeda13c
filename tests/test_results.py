"""Results: which runs lie on a curve, and where."""

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from lib.run.files import write_json
from lib.study import results, suites
from lib.study.results import paired_bootstrap


def test_runs_lie_on_the_curve_of_the_amount_that_alone_sets_them_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(
        suites, "run_folder", lambda profile, row, world, seed, overrides: tmp_path / row / f"{world}-{seed}"
    )
    runs = suites.runs_of(suites.read_suite("embedded"), "embedded")
    rows = ["image_clip", "no_language", "category_only", "videos_200", "videos_400", "epochs_1", "epochs_12", "lss"]
    runs = [run for run in runs if run.ablation in rows and run.seed == 0]
    for run in runs:
        write_json(run.folder / "adapt.json", {"videos": run.params.train_videos or 1600})
    values = pd.DataFrame(
        [
            {
                "run": row,
                "world_seed": world,
                "seed": 0,
                "protocol": protocol,
                "metric": metric,
                "value": 10.0 * number + world,
            }
            for number, row in enumerate(rows)
            for world in (0, 1)
            for protocol in ("zero_shot", "linear_probe", "knn_10")
            for metric in ("top1", "top5")
        ]
    )
    points = results.scaling(runs, values, "lss")
    zero_shot = points[points["protocol"] == "zero_shot"]
    assert sorted(zero_shot[["axis", "run", "amount", "value"]].itertuples(index=False, name=None)) == [
        ("epochs", "epochs_1", 1, 50.0),
        ("epochs", "epochs_12", 12, 60.0),
        ("epochs", "lss", 6, 70.0),
        ("videos", "lss", 1600, 70.0),
        ("videos", "videos_200", 200, 30.0),
        ("videos", "videos_400", 400, 40.0),
    ]
    assert len(points) == 2 * len(zero_shot)


def test_probes_are_ordered_by_row_and_the_one_on_all_examples_is_at_infinity():
    protocols = ["linear_probe", "linear_probe_4_shot", "zero_shot", "linear_probe_16_shot"]
    values = pd.DataFrame(
        [
            {"run": row, "world_seed": 0, "seed": 0, "protocol": protocol, "metric": "top1", "value": 1.0 * i}
            for row in ("lss", "image_clip", "other")
            for i, protocol in enumerate(protocols)
        ]
    )
    points = results.shots(values, ["image_clip", "no_language", "lss"])
    assert list(points["run"].unique()) == ["image_clip", "lss"]
    assert dict(zip(points["amount"], points["value"])) == {np.inf: 0, 4: 1, 16: 3}


def leave(folder, right, data="0f0f0f"):
    """The files of a run that `compare` reads: 40 test clips, of which so many are right, and validation clips."""
    folder.mkdir()
    write_json(folder / "metrics.json", {"datasets": {"mine": {"data": data}}})
    answers = {"mine/test/clips": np.arange(40), "mine/validation/clips": np.arange(9)}
    answers |= {f"mine/{part}/zero_shot": np.zeros(9, np.uint8) for part in ("test", "validation")}
    save_file(
        answers | {"mine/test/zero_shot": (np.arange(40) < right).astype(np.uint8)}, folder / "correct.safetensors"
    )
    return folder


def test_two_run_folders_are_compared_on_their_test_clips_without_a_suite(tmp_path):
    a, b = leave(tmp_path / "a", 30), leave(tmp_path / "b", 20)
    (row,) = results.compare(a, b, resamples=500, seed=3).to_dict("records")
    clips = np.arange(40)
    interval = paired_bootstrap([(clips < 30, clips < 20, clips)], resamples=500, seed=3)
    assert row == {
        "dataset": "mine", "protocol": "zero_shot", "a": 75.0, "b": 50.0,
        "difference": interval.mean, "low": interval.low, "high": interval.high,
    }  # fmt: skip
    with pytest.raises(ValueError, match="b and .*c were evaluated on different files of mine"):
        results.compare(b, leave(tmp_path / "c", 20, data="f0f0f0"))
