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


def gains(values: pd.DataFrame) -> pd.DataFrame:
    """The reported numbers of runs (`Collected.values`) -> a line per trained row, protocol, data set and seed: `run`,
    `row` (without its CLIP), `protocol`, `dataset`, `seed`, `top1` (mean over splits), `clip` (the image CLIP's) and
    `gain`, in percent and points. Rows without the run of their image CLIP have no lines."""
    top1 = values[(values["metric"] == "top1") & values["protocol"].isin(list(PROTOCOLS))]
    keys = ["protocol", "dataset", "run", "seed"]
    scores = top1.groupby(keys, sort=False)["value"].mean().rename("top1").reset_index()
    scores[["row", "checkpoint"]] = [(name + "@").split("@")[:2] for name in scores["run"]]
    is_base, where = scores["row"] == BASE, ["protocol", "dataset", "checkpoint"]
    base = scores[is_base].groupby(where)["top1"].mean().rename("clip")
    trained = scores[~is_base].merge(base.reset_index(), on=where)
    return trained.assign(gain=trained["top1"] - trained["clip"]).drop(columns="checkpoint")


def aggregate(values: pd.DataFrame, reference: str) -> pd.DataFrame:
    """The reported numbers of runs -> a line per trained row and protocol, in `COLUMNS`.

    `results` counts data sets x seeds; gains are in percentage points, `improvement` is a share (NaN for the reference
    itself). Empty without a run of the image CLIP.
    """
    rows, gained = [], gains(values)
    for (run, protocol), of_run in gained.groupby(["run", "protocol"], sort=False):
        ours = gained[(gained["run"] == reference) & (gained["protocol"] == protocol)]
        pairs = ours.merge(of_run, on="dataset", suffixes=("", "_row"))
        above = (pairs["top1"] > pairs["top1_row"]) + 0.5 * (pairs["top1"] == pairs["top1_row"])
        improvement = above.groupby(pairs["dataset"]).mean().mean() if run != reference else float("nan")
        iqm = _interquartile_mean(of_run["gain"])
        rows.append((run, protocol, len(of_run), of_run["gain"].mean(), iqm, improvement))
    return pd.DataFrame(rows, columns=COLUMNS)


def _interquartile_mean(values: pd.Series) -> float:
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
