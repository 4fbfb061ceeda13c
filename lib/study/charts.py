"""Charts of what runs measured, in the style of `lib/study/figures.py`."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.study.figures import AFTER, BEFORE, DASHED, LABELLED, PALETTE, WIDTH, name_rows, styled, subplots
from lib.study.results import PROTOCOLS
from lib.study.tables import one_decimal

DIAGNOSTICS = {
    "loss": "Loss",
    "teacher_entropy": "Entropy of the teacher's\ndistributions (1: uniform)",
    "batch_entropy": "Entropy of the batch mean\n(1: uniform)",
    "feature_spread": "Spread of the features",
    "agreement": "Agreement of student\nand teacher",
}


def protocol_panels(height: float, xlabel: str) -> tuple[Figure, dict[str, Axes]]:
    """A figure with one panel per protocol, side by side."""
    figure, axes = subplots(1, 2, height, sharey=True)
    for panel, title in zip(axes[0], PROTOCOLS.values()):
        panel.set(title=title.capitalize(), xlabel=xlabel)
        sns.despine(ax=panel)
    return figure, dict(zip(PROTOCOLS, axes[0]))


@styled
def accuracies(
    values: pd.DataFrame, order: Sequence[str], *, highlight: str, metric: str = "top1", chance: float | None = None
) -> Figure:
    """Accuracy of every row: bars, the mean over seeds of world 0; points, the runs, open in other worlds.

    values: run, world_seed, protocol, metric, value; order: the rows; chance: in percent, a dashed line.
    """
    label = {"top1": "top-1 (%)", "pair_top1": "right one of a confusable pair (%)"}[metric]
    figure, panels = protocol_panels(0.9 + 0.27 * len(order), label if chance is None else f"{label}\ndashed: chance")
    values = values[values["metric"] == metric]
    for protocol, panel in panels.items():
        for place, run in enumerate(order):
            points = values[(values["protocol"] == protocol) & (values["run"] == run)]
            first = points.loc[points["world_seed"] == 0, "value"]
            if points.empty:
                panel.text(1, place, "no result", va="center", color="0.4", fontstyle="italic")
            if len(first):
                fill, ink = (AFTER, "white") if run == highlight else ("0.8", "0.2")
                panel.barh(place, first.mean(), height=0.66, color=fill, zorder=2)
                panel.text(2, place, one_decimal(first.mean()), va="center", color=ink, zorder=3)
            filled = np.where(points["world_seed"] == 0, "0.15", "none")
            look = {"s": 14, "linewidths": 0.8, "edgecolors": "0.15", "facecolors": filled}
            panel.scatter(points["value"], np.full(len(points), place), **look, zorder=4, clip_on=False)
        panel.set_xlim(0, 100)
        name_rows(panel, order)
        if chance is not None:
            panel.axvline(chance, color=PALETTE[3], zorder=5, **DASHED)
    if values["world_seed"].nunique() > 1:
        figure.supxlabel("bars: mean over seeds   ● a run   ○ a run in another world", fontsize="small")
    return figure


@styled
def differences(compared: pd.DataFrame, order: Sequence[str], *, reference: str) -> Figure:
    """Top-1 of the reference minus each row with its 95 % interval, coloured where that excludes zero.

    compared: from `results.differences`, of one data set; order: the rows.
    """
    rows = [run for run in order if run != reference]
    figure, panels = protocol_panels(0.9 + 0.22 * len(rows), f"{reference} - row (points of top-1)")
    for protocol, panel in panels.items():
        panel.axvline(0, color="0.3", linewidth=1, zorder=1)
        intervals = compared[compared["protocol"] == protocol].set_index("run")
        for place, run in enumerate(rows):
            if run not in intervals.index:
                where = {"x": 0.98, "y": place, "transform": panel.get_yaxis_transform()}
                panel.text(**where, s="no result", ha="right", va="center", color="0.4", fontstyle="italic")
                continue
            mean, low, high = intervals.loc[run, ["mean", "low", "high"]]
            look = {"color": AFTER if low > 0 or high < 0 else BEFORE, "marker": "o", "markersize": 4, "capsize": 3}
            panel.errorbar(mean, place, xerr=[[mean - low], [high - mean]], linewidth=1.2, **look)
        name_rows(panel, rows)
    return figure


@styled
def training_curves(logs: pd.DataFrame, *, highlight: str, smooth: int = 10) -> Figure:
    """Loss and collapse diagnostics, running means over `smooth` steps, a line per run; `highlight` in black.

    logs: from `results.training_logs`. Entropies are shares of their maximum. Losses of different objectives have
    different terms and scales and cannot be compared.
    """
    keys = ["run", "world_seed", "seed"]  # of one line
    entropies = logs[["teacher_entropy", "batch_entropy"]].div(np.log(logs["concepts"].astype(float)), axis=0)
    logs = logs.assign(**entropies).reset_index(drop=True)
    means = logs.groupby(keys, sort=False)[list(DIAGNOSTICS)].rolling(smooth, min_periods=1).mean()
    logs[list(DIAGNOSTICS)] = means.droplevel(keys)
    logs["curve"] = logs.groupby(keys, sort=False).ngroup()
    others = [run for run in logs["run"].unique() if run != highlight]
    colours, dashes = [PALETTE[i] for i in (0, 1, 2, 3, 4, 5, 7, 9)], ["", (4, 1.5), (1, 1)]
    colour = dict(zip(others, itertools.cycle(colours))) | {highlight: "black"}
    dash = dict(zip(others, itertools.cycle(dashes))) | {highlight: ""}
    lines = {"hue": "run", "style": "run", "palette": colour, "dashes": dash, "units": "curve", "estimator": None}
    figure, axes = subplots(2, 3, 3.9)
    for panel, (column, title) in zip(axes.flat, DIAGNOSTICS.items()):
        sns.lineplot(logs, x="step", y=column, **lines, linewidth=1, ax=panel, legend=panel is axes[0, 0])
        panel.set(title=title, ylabel="")
        sns.despine(ax=panel)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    axes[0, 0].get_legend().remove()
    axes[1, 2].axis("off")
    axes[1, 2].legend(handles, labels, loc="center left", frameon=False)
    return figure


@styled
def gain_per_class(
    classes: Sequence[str],
    before: dict[str, Sequence[float]],
    after: dict[str, Sequence[float]],
    *,
    names: Sequence[str],
) -> Figure:
    """Accuracy of every class before and after in both protocols, sorted by the zero-shot gain.

    before, after: protocol -> accuracy in percent, in the order of `classes`; names: of the two runs.
    """
    order = np.argsort(np.subtract(after["zero_shot"], before["zero_shot"]), kind="stable")[::-1]
    rows = np.arange(len(classes))
    figure, panels = protocol_panels(1.1 + 0.17 * len(classes), "accuracy of the class (%)")
    for protocol, panel in panels.items():
        low, high = np.asarray(before[protocol])[order], np.asarray(after[protocol])[order]
        panel.hlines(rows, low, high, color="0.6", linewidth=1.5, zorder=2)
        for accuracy, colour, name in zip((low, high), (BEFORE, AFTER), names):
            panel.scatter(accuracy, rows, color=colour, s=22, zorder=3, clip_on=False, label=name)
        panel.set_xlim(0, 100)
        name_rows(panel, [classes[i] for i in order])
    figure.legend(*panel.get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    return figure


@styled
def confusions(classes: Sequence[str], tables: dict[str, Sequence[Sequence[int]]]) -> Figure:
    """Confusion matrices: rows the true class, columns the prediction, in percent of the row.

    tables: title -> counts 'c c'. More than ten classes have a row of the figure each, so that numbers are legible.
    """
    columns = len(tables) if len(classes) <= 10 or len(classes) > LABELLED else 1
    rows = -(-len(tables) // columns)
    figure, axes = subplots(rows, columns, rows * (WIDTH / columns * 0.8 + 0.6), sharey=True)
    names, size = classes if len(classes) <= LABELLED else False, "small" if columns > 1 else "x-small"
    for panel, (title, counts) in zip(axes.flat, tables.items()):
        counts = np.asarray(counts, dtype=float)
        share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        texts = np.vectorize(lambda percent: f"{percent:.0f}" if percent else "")(share)
        look = {"cmap": "rocket_r", "vmin": 0, "vmax": 100, "cbar": False, "square": True}
        look |= {"annot": texts if names else None, "fmt": "", "annot_kws": {"fontsize": size}}
        sns.heatmap(share, ax=panel, xticklabels=names, yticklabels=names, **look)
        panel.set(title=title, xlabel="predicted")
        panel.tick_params(axis="x", rotation=90)
    figure.supylabel("true class", fontsize="medium")
    figure.colorbar(panel.collections[0], ax=axes, shrink=0.6, label="% of the clips of the class")
    return figure


def _lines(panel: Axes, points: pd.DataFrame, **options) -> None:
    """Lines through the means over seeds of `value` against `amount`; bars: one population standard deviation."""
    interval = lambda values: (values.mean() - values.std(ddof=0), values.mean() + values.std(ddof=0))  # noqa: E731
    bars = {"errorbar": interval, "err_style": "bars", "err_kws": {"capsize": 3}}
    sns.lineplot(points, x="amount", y="value", **bars, markersize=5, markeredgewidth=0, ax=panel, **options)
    sns.despine(ax=panel)


@styled
def scaling(points: pd.DataFrame, before: dict[str, float], *, axis: str, label: str) -> Figure:
    """Both protocols against the amount `axis` of `results.scaling`; dashed, the image CLIP's accuracies `before`."""
    figure, panels = protocol_panels(2.7, label)
    for protocol, panel in panels.items():
        shown = points[(points["axis"] == axis) & (points["protocol"] == protocol)]
        shown = shown.astype({"amount": float, "value": float})
        _lines(panel, shown, color=AFTER, marker="o", label="adapted", legend=False)
        panel.axhline(before[protocol], color="0.3", label="image_clip", **DASHED)
        amounts = sorted(shown["amount"].unique())
        panel.set(xscale="log", xlabel=label, ylabel="top-1 (%)")
        panel.set_xticks(amounts, [f"{amount:g}" for amount in amounts])
        panel.minorticks_off()
    panels["zero_shot"].legend(frameon=False)
    return figure


@styled
def operations(kinds: pd.DataFrame) -> Figure:
    """Stacked bars of the operations of a step; rows: micro-batches, columns: kinds."""
    figure, ((panel,),) = subplots(1, 1, 1 + 0.35 * len(kinds))
    kinds.plot.barh(stacked=True, ax=panel, color=PALETTE, width=0.7, zorder=2)
    panel.bar_label(panel.containers[-1], [f"{total:,}" for total in kinds.sum(axis=1)], padding=3)
    panel.set(xlabel="operations of a step", ylabel="micro-batches", xlim=(0, 1.12 * kinds.sum(axis=1).max()))
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.legend(title=None, loc="upper left", bbox_to_anchor=(1, 1))
    panel.grid(False, axis="y")
    panel.invert_yaxis()
    return figure


@styled
def shots(points: pd.DataFrame) -> Figure:
    """The linear probe against labelled examples per class (`results.shots`), a line per run."""
    amounts = sorted(points["amount"].unique())
    figure, ((panel,),) = subplots(1, 1, 3.2)
    colours = dict(zip(points["run"].unique(), (BEFORE, PALETTE[1], AFTER, *PALETTE[2:])))
    places = points.assign(amount=points["amount"].map(amounts.index))
    _lines(panel, places, hue="run", palette=colours, style="run", markers=True, dashes=False)
    panel.set_xticks(range(len(amounts)), ["all" if np.isinf(amount) else f"{amount:g}" for amount in amounts])
    panel.set(xlabel="labelled examples per class", ylabel="linear probe, top-1 (%)")
    panel.legend(frameon=False)
    return figure


@styled
def interpolation(points: pd.DataFrame) -> Figure:
    """Zero-shot accuracy against what is kept on stills, a line per run through its alphas (means over seeds, world 0).

    points: of `interpolation.points`. Filled points have the alpha that was chosen without labels for most seeds.
    """
    measures = ["zero-shot", "stills", "agreement on stills"]
    points = points[points["world_seed"] == 0].astype(dict.fromkeys([*measures, "chosen"], float))
    means = points.groupby(["run", "alpha"], sort=False)[[*measures, "chosen"]].mean().reset_index()
    shown = [measure for measure in measures[1:] if means[measure].notna().any()]
    figure, axes = subplots(1, len(shown), 3.2, sharey=True)
    for panel, measure in zip(axes[0], shown):
        for (run, line), colour in zip(means.groupby("run", sort=False), itertools.cycle(PALETTE)):
            x, y = line[measure], line["zero-shot"]
            filled = [colour if chosen > 0.5 else "white" for chosen in line["chosen"]]
            panel.plot(x, y, color=colour, linewidth=1, label=run, zorder=2)
            panel.scatter(x, y, s=20, edgecolors=[colour], facecolors=filled, zorder=3)
            for alpha, *place in zip(line["alpha"], x, y):
                panel.annotate(f"{alpha:g}", place, xytext=(3, 3), textcoords="offset points", fontsize=6, color="0.3")
        panel.set(xlabel=f"{measure} (%)", ylabel="zero-shot, top-1 (%)" if panel is axes[0, 0] else "")
        sns.despine(ax=panel)
    axes[0, 0].legend(frameon=False, fontsize="small")
    return figure


@styled
def pilot(rows: pd.DataFrame) -> Figure:
    """Zero-shot against stills, a point per row; dashed: the image CLIP, from which both should rise.

    rows: row, zero-shot, stills, in percent; and for trained rows the ends of the 95 % intervals of their differences
    from the image CLIP, in points: zero-shot low, zero-shot high, stills low, stills high.
    """
    figure, ((panel,),) = subplots(1, 1, 3.4)
    before = rows[rows["row"] == "image_clip"].iloc[0]
    panel.axvline(before["stills"], color="0.3", zorder=1, **DASHED)
    panel.axhline(before["zero-shot"], color="0.3", zorder=1, **DASHED)
    for colour, row in zip((BEFORE, *PALETTE), rows.to_dict("records")):
        place = {axis: row[axis] for axis in ("stills", "zero-shot")}
        arms = {}
        for axis, value in place.items():
            ends = before[axis] + row[f"{axis} low"], before[axis] + row[f"{axis} high"]
            arms[axis] = [[max(0, value - ends[0])], [max(0, ends[1] - value)]]
        trained = row["row"] != "image_clip"
        bars = {"xerr": arms["stills"], "yerr": arms["zero-shot"]} if trained else {}
        panel.errorbar(*place.values(), **bars, marker="o", color=colour, linestyle="", linewidth=0.8, label=row["row"])
    panel.set(xlabel="stills, top-1 (%)", ylabel="zero-shot, top-1 (%)")
    panel.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    sns.despine(ax=panel)
    return figure


@styled
def gains(points: pd.DataFrame) -> Figure:
    """The gain of each row against the accuracy of the image CLIP that it started from: a line per row through its mean
    over data sets and seeds for each CLIP, points for each run. points: as `aggregate.gains` returns them."""
    figure, panels = protocol_panels(2.8, "image CLIP's top-1 (%)")
    palette = dict(zip(points["row"].unique(), itertools.cycle(PALETTE)))
    for protocol, panel in panels.items():
        shown, look = points[points["protocol"] == protocol], {"hue": "row", "palette": palette, "ax": panel}
        sns.scatterplot(shown, x="clip", y="gain", style="dataset", s=18, alpha=0.6, **look)
        means = shown.groupby(["row", "run"], sort=False)[["clip", "gain"]].mean().reset_index()
        sns.lineplot(means, x="clip", y="gain", legend=False, **look)
        panel.axhline(0, **DASHED)
        panel.set(ylabel="gain (points)")
        panel.get_legend().remove()
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure
