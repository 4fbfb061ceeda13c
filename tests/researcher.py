"""What tests of a researcher's commands share: small sizes, and the results that a suite leaves."""

from pathlib import Path

import pandas as pd
from test_workflow import ROOT, Copy

README = (ROOT / "params/README.md").read_text()
# What makes a run of the paper's profile small. The learning rate is one that changes predictions in three steps.
SMALL = {
    "device": "cpu",
    "workers": 0,
    "micro_batch": 1,
    "short_side": 64,
    "image_size": 32,
    "local_image_size": 16,
    "num_frames": 4,
    "frame_stride": 8,
    "global_num_frames": [2, 4],
    "local_num_frames": [1, 2],
    "prompts": "bare",
    "epochs": 1,
    "warmup_epochs": 0,
    "batch_size": 4,
    "learning_rate": 1.0e-2,
    "temporal_learning_rate": 1.0e-2,
    "teacher_momentum": 0.5,
    "final_teacher_momentum": 0.5,
    "queue_size": 16,
    "head_hidden": 16,
    "head_bottleneck": 8,
    "head_prototypes": 32,
    "zero_shot_prompts": "bare",
    "zero_shot_views": ["2x1x1@32"],
    "still_views": ["1x1x1@32"],
    "probe_views": ["2x1x1@32", "2x1x3@16"],
    "probe_held_out": 0.34,
    "probe_c": [1.0],
    "probe_refinements": 0,
    "knn_k": [3],
    "bootstrap_resamples": 100,
}
OWN_WORDS = {
    name: {
        "class_name": name.replace("_", " "),
        "descriptions": [
            f"{start} {name.replace('_', ' ')} is seen here on a carpet of a room."
            for start in ("Someone who is", "A person while", "The body in", "All that")
        ],
    }
    for name in ("daily_life", "falling_backwards", "falling_otherwise")
}


def counts(plan: str) -> dict[str, int]:
    """How many jobs of which rule a dry run lists."""
    table = plan.partition("Job stats:")[2].partition("total")[0].splitlines()
    return {words[0]: int(words[1]) for line in table if len(words := line.split()) == 2 and words[1].isdigit()}


def results(copy: Copy) -> Path:
    """The one folder with a finished suite: tables, figures, records and report."""
    (report,) = copy.folder.glob("outputs/*/*/report.html")
    assert report.stat().st_size > 10_000
    return report.parent


def table_of(place: Path, name: str) -> pd.DataFrame:
    """Accuracies of a table by run, data set (without what is said of its size) and protocol; each a share in
    percent."""
    table = pd.read_csv(place / "tables" / f"{name}.csv")
    table = table.assign(dataset=table["dataset"].str.split().str[0])[["run", "dataset", "protocol", "metric", "mean"]]
    table = (
        table[table["mean"].astype(str) != "not measured"].astype({"mean": float}).dropna()
    )  # of others' rows, what they reported
    assert len(table) and table["mean"].between(0, 100).all()
    return table.set_index(["run", "dataset", "protocol", "metric"])["mean"]
