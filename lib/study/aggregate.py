"""Means over data sets, worlds and seeds together, robust ones too (Agarwal et al., NeurIPS 2021).

A row's gain is its top-1 minus that of the image CLIP that it started from, on the same data set, so that data sets of
different difficulty can be averaged.
"""

import numpy as np
import pandas as pd

from lib.study.results import PROTOCOLS

BASE = "image_clip"
COLUMNS = ["run", "protocol", "results", "gain", "iqm", "improvement"]
NOTE = (
    "gain: top-1 minus that of image_clip on the same data set, mean over data sets, worlds and seeds; IQM: the mean "
    "of their middle half; P: how often a seed of {reference} is above a seed of the row on the same data set"
)


def aggregate(values: pd.DataFrame, reference: str) -> pd.DataFrame:
    """The reported numbers of runs (`Collected.values`) -> a line per run and protocol, in `COLUMNS`.

    `results` counts data sets x seeds; gains are in percentage points, `improvement` is a share (NaN for the reference
    itself). Splits of a data set are averaged first. Empty without a run of the image CLIP.
    """
    top1 = values[(values["metric"] == "top1") & values["protocol"].isin(list(PROTOCOLS))]
    scores = top1.groupby(["protocol", "dataset", "run", "seed"])["value"].mean()
    rows = []
    for (protocol, run), of_run in scores.groupby(["protocol", "run"], sort=False):
        gains, improved = [], []
        for dataset, of_dataset in of_run.groupby("dataset"):
            base = scores.get((protocol, dataset, "@".join([BASE, *run.split("@")[1:]])))
            gains += [] if base is None else (of_dataset - base.mean()).tolist()
            ours = scores.get((protocol, dataset, reference))
            if ours is not None and run != reference:
                pairs = ours.to_numpy()[:, None] - of_dataset.to_numpy()[None]
                improved.append(((pairs > 0) + 0.5 * (pairs == 0)).mean())
        if gains and run.split("@")[0] != BASE:
            mean = sum(gains) / len(gains)
            probability = sum(improved) / len(improved) if improved else float("nan")
            rows.append((run, protocol, len(gains), mean, _interquartile_mean(gains), probability))
    return pd.DataFrame(rows, columns=COLUMNS)


def _interquartile_mean(values: list[float]) -> float:
    cut = len(values) // 4
    return float(np.sort(values)[cut : len(values) - cut].mean())


def aggregate_table(values: pd.DataFrame, reference: str) -> pd.DataFrame:
    """`aggregate` as text: a line per run, with gain, IQM and P of both protocols."""
    numbers, table = aggregate(values, reference), {}
    for row in numbers.itertuples():
        title, cells = PROTOCOLS[row.protocol], table.setdefault(row.run, {"results": str(row.results)})
        cells[f"{title}, gain"], cells[f"{title}, IQM"] = f"{row.gain:+.1f}", f"{row.iqm:+.1f}"
        cells[f"{title}, P"] = "" if row.improvement != row.improvement else f"{row.improvement:.2f}"
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("run").reset_index()
