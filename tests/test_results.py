"""Results: which runs lie on a curve, and where."""

import numpy as np
import pandas as pd

from lib.run.files import write_json
from lib.study import results, suites


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
