"""Charts: what runs measured, in the style of `lib/study/figures.py`: accuracies, training, classes, curves."""

import itertools
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.study.figures import AFTER, BEFORE, PALETTE, STYLE, WIDTH, name_rows, subplots
from lib.study.results import PROTOCOLS

DIAGNOSTICS = {
    "loss": "Loss",
    "teacher_entropy": "Entropy of a teacher's\ndistribution (1: uniform)",
    "batch_entropy": "Entropy of their mean\n(1: uniform)",
    "feature_spread": "Spread of the features",
    "agreement": "Student agrees\nwith teacher",
}


def _runs_panel(axes: Axes, values: pd.DataFrame, order: Sequence[str], highlight: str) -> None:
    """Bars: the mean over seeds of the first world. Points: every run, open for the remade worlds."""
    for place, run in enumerate(order):
        own = values[values["run"] == run]
        first = own[own["world_seed"] == 0]["value"]
        if own.empty:
            axes.text(1, place, "no result", va="center", color="0.4", fontstyle="italic")
            continue
        if len(first):
            axes.barh(place, first.mean(), height=0.66, color=AFTER if run == highlight else "0.8", zorder=2)
            colour = "white" if run == highlight else "0.2"
            axes.text(2, place, f"{first.mean():.1f}", va="center", color=colour, zorder=3)
        for world, points in own.groupby("world_seed"):
            axes.scatter(
                points["value"],
                np.full(len(points), place),
                s=14,
                linewidths=0.8,
                zorder=4,
                clip_on=False,
                edgecolors="0.15",
                facecolors="none" if world else "0.15",
            )
    axes.set_xlim(0, 100)
    name_rows(axes, [run.replace("_", " ") for run in order])


def accuracies(
    values: pd.DataFrame, order: Sequence[str], *, highlight: str, metric: str = "top1", chance: float | None = None
) -> Figure:
    """Zero-shot and linear-probe accuracy of every run.

    values: run, world_seed, protocol, metric, value; order: the rows; chance: per cent, a dashed line.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = subplots(1, 2, 0.9 + 0.27 * len(order), sharey=True)
        for panel, (protocol, spoken) in zip(axes[0], PROTOCOLS.items()):
            shown = (values["protocol"] == protocol) & (values["metric"] == metric)
            _runs_panel(panel, values[shown], order, highlight)
            label = {"top1": "top-1 (%)", "pair_top1": "right one of a confusable pair (%)"}[metric]
            panel.set(title=spoken.capitalize(), xlabel=label if chance is None else f"{label}\ndashed: chance")
            if chance is not None:
                panel.axvline(chance, color=PALETTE[3], linestyle="--", linewidth=1, zorder=5)
        if values["world_seed"].nunique() > 1:
            figure.supxlabel("bars: mean over seeds   ● a run   ○ a run in a remade world", fontsize="small")
        return figure


def differences(compared: pd.DataFrame, order: Sequence[str], *, reference: str) -> Figure:
    """What the reference has more than each row, in points of top-1: the mean and its 95 % interval, coloured where that
    excludes zero.

    compared: a table of `results.differences`, of one data set; order: the rows.
    """
    rows = [run for run in order if run != reference]
    with matplotlib.rc_context(STYLE):
        figure, axes = subplots(1, 2, 0.9 + 0.22 * len(rows), sharey=True)
        for panel, (protocol, spoken) in zip(axes[0], PROTOCOLS.items()):
            panel.axvline(0, color="0.3", linewidth=1, zorder=1)
            own = compared[compared["protocol"] == protocol].set_index("run")
            for place, run in enumerate(rows):
                if run not in own.index:
                    panel.text(
                        0.98,
                        place,
                        "no result",
                        ha="right",
                        va="center",
                        color="0.4",
                        fontstyle="italic",
                        transform=panel.get_yaxis_transform(),
                    )
                    continue
                mean, low, high = own.loc[run, ["mean", "low", "high"]]
                panel.errorbar(
                    mean,
                    place,
                    xerr=[[mean - low], [high - mean]],
                    color=AFTER if low > 0 or high < 0 else BEFORE,
                    marker="o",
                    markersize=4,
                    capsize=3,
                    linewidth=1.2,
                )
            panel.set(title=spoken.capitalize(), xlabel=f"{reference} - row (points of top-1)")
            name_rows(panel, [run.replace("_", " ") for run in rows])
        return figure


def training_curves(logs: pd.DataFrame, *, highlight: str, smooth: int = 10) -> Figure:
    """Loss and collapse diagnostics over the steps of every run, as running means over `smooth` steps; the row `highlight`
    in black.

    logs: run, world_seed, seed, concepts, step and the columns of `DIAGNOSTICS`. Losses of different objectives have
    different terms and scales: each is to be compared with itself. Entropies are shares of the largest, log k. Lines of
    one look are seeds and worlds.
    """
    largest = np.log(logs["concepts"])
    logs = logs.assign(teacher_entropy=logs["teacher_entropy"] / largest, batch_entropy=logs["batch_entropy"] / largest)
    others = [run for run in logs["run"].unique() if run != highlight]
    looks = zip(itertools.cycle(("-", "--", ":")), itertools.cycle([PALETTE[i] for i in (0, 1, 2, 3, 4, 5, 7, 9)]))
    lines = {run: {"linestyle": line, "color": colour, "linewidth": 1} for run, (line, colour) in zip(others, looks)}
    if highlight in set(logs["run"]):
        lines[highlight] = {"linestyle": "-", "color": "black", "linewidth": 1.4}
    with matplotlib.rc_context(STYLE):
        figure, axes = subplots(2, 3, 3.9)
        for panel, (column, title) in zip(axes.flat, DIAGNOSTICS.items()):
            for (run, _, _), log in logs.groupby(["run", "world_seed", "seed"], sort=False):
                running = log[column].rolling(smooth, min_periods=1).mean()
                panel.plot(log["step"], running, **lines[run], zorder=3 if run == highlight else 2)
            panel.set_title(title)
            sns.despine(ax=panel)
            panel.set_xlabel("step")
        axes.flat[-1].axis("off")
        handles = [matplotlib.lines.Line2D([], [], **line, label=run.replace("_", " ")) for run, line in lines.items()]
        axes.flat[-1].legend(handles=handles, loc="center left", frameon=False)
        return figure


def gain_per_class(
    classes: Sequence[str],
    before: dict[str, Sequence[float]],
    after: dict[str, Sequence[float]],
    *,
    names: tuple[str, str],
) -> Figure:
    """Accuracy of every class before and after, in both protocols, ordered by the gain in zero-shot.

    before, after: protocol -> accuracy in per cent, in the order of `classes`; names: of the two runs.
    """
    gain = np.subtract(after["zero_shot"], before["zero_shot"])
    order = np.argsort(gain, kind="stable")[::-1]
    with matplotlib.rc_context(STYLE):
        figure, axes = subplots(1, 2, 1.1 + 0.17 * len(classes), sharey=True)
        for panel, (protocol, spoken) in zip(axes[0], PROTOCOLS.items()):
            low, high = np.asarray(before[protocol])[order], np.asarray(after[protocol])[order]
            rows = np.arange(len(classes))
            panel.hlines(rows, low, high, color="0.6", linewidth=1.5, zorder=2)
            panel.scatter(low, rows, color=BEFORE, s=22, zorder=3, clip_on=False)
            panel.scatter(high, rows, color=AFTER, s=22, zorder=4, clip_on=False)
            panel.set(title=spoken.capitalize(), xlabel="accuracy of the class (%)", xlim=(0, 100))
            name_rows(panel, [classes[i] for i in order])
        handles = [
            matplotlib.lines.Line2D([], [], marker="o", linestyle="", color=colour, label=name.replace("_", " "))
            for colour, name in zip((BEFORE, AFTER), names)
        ]
        figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False)
        return figure


def confusions(classes: Sequence[str], tables: dict[str, Sequence[Sequence[int]]]) -> Figure:
    """Confusion matrices side by side: rows the true class, columns the prediction, per cent of the row.

    tables: title -> counts 'c c'.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = subplots(1, len(tables), WIDTH / 2 + 0.6, sharey=True)
        for panel, (title, counts) in zip(axes[0], tables.items()):
            counts = np.asarray(counts, dtype=float)
            share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            image = panel.imshow(share, cmap="rocket_r", vmin=0, vmax=100)
            many = len(classes) > 40  # names would not be legible
            panel.set_xticks([] if many else range(len(classes)), [] if many else classes, rotation=90)
            panel.set_yticks([] if many else range(len(classes)), [] if many else classes)
            panel.set(title=title.replace("_", " "), xlabel="predicted")
            panel.grid(False)
        axes[0, 0].set_ylabel("true")
        figure.colorbar(image, ax=axes, shrink=0.6, label="% of the clips of the class")
        return figure


def scaling(points: pd.DataFrame, before: dict[str, float], *, axis: str, label: str) -> Figure:
    """Zero-shot and linear probe against an amount, a panel each: means over seeds, bars one standard deviation.

    points: a table of `results.scaling`, of which those of `axis` are drawn; before: protocol -> accuracy of the image
    CLIP in per cent, a dashed line; label: of the amount.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = subplots(1, 2, 2.7)
        for panel, (protocol, spoken) in zip(axes[0], PROTOCOLS.items()):
            own = points[(points["axis"] == axis) & (points["protocol"] == protocol)]
            _error_bars(panel, own, color=AFTER, marker="o", label="adapted")
            panel.axhline(before[protocol], color="0.3", linestyle="--", linewidth=1, label="image clip")
            panel.set_xscale("log")
            amounts = sorted(own["amount"].unique())
            panel.set_xticks(amounts, [f"{amount:g}" for amount in amounts])
            panel.minorticks_off()
            panel.set(title=spoken.capitalize(), xlabel=label)
            sns.despine(ax=panel)
        axes[0, 0].set_ylabel("top-1 (%)")
        axes[0, 0].legend(frameon=False)
        return figure


def shots(points: pd.DataFrame) -> Figure:
    """Linear probe against the labelled examples per class, a line a run: means over seeds, bars one standard deviation.

    points: a table of `results.shots`; the amount inf (all examples) stands last.
    """
    amounts = sorted(points["amount"].unique())
    with matplotlib.rc_context(STYLE):
        figure, ((panel,),) = subplots(1, 1, 3.2)
        for (run, own), marker, colour in zip(
            points.groupby("run", sort=False), "o^sDvP", (BEFORE, PALETTE[1], AFTER, *PALETTE[2:])
        ):
            places = own.assign(amount=own["amount"].map(amounts.index))
            _error_bars(panel, places, color=colour, marker=marker, label=run.replace("_", " "))
        panel.set_xticks(range(len(amounts)), ["all" if np.isinf(amount) else f"{amount:g}" for amount in amounts])
        panel.set(xlabel="labelled examples per class", ylabel="linear probe, top-1 (%)")
        panel.legend(frameon=False)
        sns.despine(ax=panel)
        return figure


def _error_bars(axes: Axes, points: pd.DataFrame, **look) -> None:
    by_amount = points.groupby("amount")["value"]
    axes.errorbar(
        by_amount.mean().index,
        by_amount.mean(),
        yerr=by_amount.std(ddof=0),
        capsize=3,
        linewidth=1.2,
        markersize=4,
        **look,
    )
