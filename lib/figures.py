"""Figures: from data frames to matplotlib, in one style: print width, a colour-blind palette, PNG and PDF.

Each function returns a Figure and touches no file and no global state of pyplot; `save` writes both formats.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 6.75  # inches, the text width of a two-column page
PALETTE = sns.color_palette("colorblind")
BEFORE, AFTER = PALETTE[7], PALETTE[0]
STYLE = {**sns.axes_style("whitegrid"), **sns.plotting_context("paper", font_scale=0.9), "font.family": "sans-serif",
         "font.sans-serif": ["DejaVu Sans"], "grid.linewidth": 0.5, "axes.edgecolor": "0.3", "figure.dpi": 120,
         "pdf.fonttype": 42, "savefig.facecolor": "white"}
PROTOCOLS = {"zero_shot": "Zero-shot", "linear_probe": "Linear probe"}
DIAGNOSTICS = {"loss": "Loss", "teacher_entropy": "Entropy of a teacher's\ndistribution (nats)",
               "batch_entropy": "Entropy of their mean\n(nats)", "feature_spread": "Spread of the features",
               "agreement": "Student agrees\nwith teacher"}


def _axes(rows: int, columns: int, height: float, **options) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: Figure, stem: Path) -> None:
    """Writes `stem`.png (200 dpi) and `stem`.pdf, each under a temporary name that is renamed when it is whole."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    # without the date, the same picture is the same file
    for suffix, options in (("png", {"dpi": 200}), ("pdf", {"metadata": {"CreationDate": None}})):
        partial = stem.with_name(f"{stem.name}.{suffix}.partial")
        with matplotlib.rc_context(STYLE):
            figure.savefig(partial, format=suffix, **options)
        os.replace(partial, stem.with_name(f"{stem.name}.{suffix}"))


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
            axes.scatter(points["value"], np.full(len(points), place), s=14, linewidths=0.8, zorder=4, clip_on=False,
                         edgecolors="0.15", facecolors="none" if world else "0.15")
    axes.set_yticks(range(len(order)), [run.replace("_", " ") for run in order])
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.grid(False, axis="y")
    sns.despine(ax=axes, left=True)


def accuracies(values: pd.DataFrame, order: Sequence[str], *, highlight: str, metric: str = "top1",
               chance: float | None = None) -> Figure:
    """Zero-shot and linear-probe accuracy of every run.

    values: run, world_seed, protocol, metric, value; order: the rows; chance: per cent, a dashed line.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(1, 2, 0.9 + 0.27 * len(order), sharey=True)
        for panel, (protocol, title) in zip(axes[0], PROTOCOLS.items()):
            shown = (values["protocol"] == protocol) & (values["metric"] == metric)
            _runs_panel(panel, values[shown], order, highlight)
            label = {"top1": "top-1 (%)", "pair_top1": "right one of a confusable pair (%)"}[metric]
            panel.set(title=title, xlabel=label if chance is None else f"{label}\ndashed: chance")
            if chance is not None:
                panel.axvline(chance, color=PALETTE[3], linestyle="--", linewidth=1, zorder=5)
        if values["world_seed"].nunique() > 1:
            figure.supxlabel("bars: mean over seeds   ● a run   ○ a run in a remade world", fontsize="small")
        return figure


def training_curves(logs: pd.DataFrame, *, smooth: int = 10) -> Figure:
    """Loss and collapse diagnostics over the epochs of every run, as running means over `smooth` steps.

    logs: run, world_seed, seed, epoch and the columns of `DIAGNOSTICS`. Losses of different objectives have different
    terms and scales: each is to be compared with itself. Lines of one colour are seeds and worlds.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(2, 3, 3.9)
        colours = dict(zip(logs["run"].unique(), [*PALETTE[:7], *PALETTE[8:], "black"]))
        for panel, (column, title) in zip(axes.flat, DIAGNOSTICS.items()):
            for (run, _, _), log in logs.groupby(["run", "world_seed", "seed"], sort=False):
                running = log[column].rolling(smooth, min_periods=1).mean()
                panel.plot(log["epoch"], running, color=colours[run], linewidth=1)
            panel.set_title(title)
            sns.despine(ax=panel)
            panel.set_xlabel("epoch")
        axes.flat[-1].axis("off")
        handles = [matplotlib.lines.Line2D([], [], color=colour, label=run.replace("_", " "))
                   for run, colour in colours.items()]
        axes.flat[-1].legend(handles=handles, loc="center left", frameon=False)
        return figure


def gain_per_class(classes: Sequence[str], before: dict[str, Sequence[float]], after: dict[str, Sequence[float]], *,
                   names: tuple[str, str]) -> Figure:
    """Accuracy of every class before and after, in both protocols, ordered by the gain in zero-shot.

    before, after: protocol -> accuracy in per cent, in the order of `classes`; names: of the two runs.
    """
    gain = np.subtract(after["zero_shot"], before["zero_shot"])
    order = np.argsort(gain, kind="stable")[::-1]
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(1, 2, 1.1 + 0.17 * len(classes), sharey=True)
        for panel, (protocol, title) in zip(axes[0], PROTOCOLS.items()):
            low, high = np.asarray(before[protocol])[order], np.asarray(after[protocol])[order]
            rows = np.arange(len(classes))
            panel.hlines(rows, low, high, color="0.6", linewidth=1.5, zorder=2)
            panel.scatter(low, rows, color=BEFORE, s=22, zorder=3, clip_on=False)
            panel.scatter(high, rows, color=AFTER, s=22, zorder=4, clip_on=False)
            panel.set(title=title, xlabel="accuracy of the class (%)", xlim=(0, 100), ylim=(len(classes) - 0.5, -0.5))
            panel.set_yticks(rows, [classes[i] for i in order])
            panel.grid(False, axis="y")
            sns.despine(ax=panel, left=True)
        handles = [matplotlib.lines.Line2D([], [], marker="o", linestyle="", color=colour, label=name.replace("_", " "))
                   for colour, name in zip((BEFORE, AFTER), names)]
        figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False)
        return figure


def confusions(classes: Sequence[str], tables: dict[str, Sequence[Sequence[int]]]) -> Figure:
    """Confusion matrices side by side: rows the true class, columns the prediction, per cent of the row.

    tables: title -> counts 'c c'.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(1, len(tables), WIDTH / 2 + 0.6, sharey=True)
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


def similarities(maps: dict[str, pd.DataFrame]) -> Figure:
    """Cosines between concepts as maps, each on a scale of its own, up to three in a row. maps: title -> cosines 'k k'."""
    columns = len(maps) if len(maps) < 4 else 2
    rows = -(-len(maps) // columns)
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(rows, columns, rows * (WIDTH / columns + 1.1))
        for panel in axes.flat[len(maps):]:
            panel.set_axis_off()
        for panel, (title, cosines) in zip(axes.flat, maps.items()):
            image = panel.imshow(cosines, cmap="rocket")
            many = len(cosines) > 40
            panel.set_xticks([] if many else range(cosines.shape[1]), [] if many else cosines.columns, rotation=90)
            shown = panel in axes[:, 0] and not many
            panel.set_yticks(range(len(cosines)) if shown else [], cosines.index if shown else [])
            panel.set_title(f"{title} (cosine)")
            panel.grid(False)
            figure.colorbar(image, ax=panel, orientation="horizontal", shrink=0.7)
        return figure


def own_against_others(groups: dict[str, pd.DataFrame]) -> Figure:
    """How near each label's descriptions are to its own name, against the nearest other name; the furthest below the
    line are named. groups: title -> a table of `concepts.own_against_others`."""
    every = pd.concat(groups, names=["group"]).reset_index("group")
    worst = every[~every["right"]].assign(gap=lambda t: t["cosine"] - t["own"]).nlargest(6, "gap")
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(1, 1, 4.2)
        panel = axes[0, 0]
        sns.scatterplot(every, x="cosine", y="own", hue="group", style="group", palette="colorblind", s=16, ax=panel)
        ends = [every[["own", "cosine"]].min().min() - 0.02, every[["own", "cosine"]].max().max() + 0.02]
        panel.plot(ends, ends, color="0.3", linewidth=0.8, zorder=1)
        for row in worst.itertuples():
            panel.annotate(row.label.split("/")[-1], (row.cosine, row.own), xytext=(3, -7), textcoords="offset points", fontsize=6)
        panel.set(xlabel="cosine to the nearest other label", ylabel="cosine to its own label", xlim=ends, ylim=ends,
                  title=f"{100 * every['right'].mean():.0f} % of {len(every)} labels are found by their descriptions")
        panel.legend(title=None)
        return figure


def shares(classes: Sequence[str], columns: dict[str, Sequence[float]]) -> Figure:
    """Bars of per-class percentages, a panel for each column. columns: title -> per cent, in the order of `classes`."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(1, len(columns), 0.9 + 0.17 * len(classes), sharey=True)
        for panel, (title, percent) in zip(axes[0], columns.items()):
            panel.barh(range(len(classes)), percent, color=AFTER, height=0.7, zorder=2)
            panel.set_yticks(range(len(classes)), classes)
            panel.set(title=title, xlabel="%", xlim=(0, max(1, *percent)), ylim=(len(classes) - 0.5, -0.5))
            panel.grid(False, axis="y")
            sns.despine(ax=panel, left=True)
        return figure


def contact_sheet(pictures: Sequence[np.ndarray], titles: Sequence[str], *, columns: int) -> Figure:
    """Pictures 'h w c' uint8 in a grid, each below its title (an empty one for none)."""
    rows = -(-len(pictures) // columns)
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(rows, columns, WIDTH / columns * rows * (1.15 if any(titles) else 1.02))
        for panel in axes.flat:
            panel.axis("off")
        for panel, picture, title in zip(axes.flat, pictures, titles, strict=False):
            panel.imshow(picture, interpolation="nearest")
            panel.set_title(title, fontsize="small", pad=2)
        return figure


def filmstrips(rows: dict[str, np.ndarray]) -> Figure:
    """Views as rows of frames, in proportion to their pixels. rows: title -> frames 't h w c', uint8 or in 0..1."""
    step = 1.1 * max(frames.shape[2] for frames in rows.values())
    longest = max(max(len(frames) for frames in rows.values()), 6)  # a few frames would fill the screen
    with matplotlib.rc_context(STYLE):
        heights = [frames.shape[1] / step * WIDTH / longest for frames in rows.values()]
        figure, axes = _axes(len(rows), 1, sum(heights) + 0.25 * len(rows), height_ratios=heights)
        for panel, (title, frames) in zip(axes[:, 0], rows.items()):
            height, width = frames.shape[1:3]
            for number, frame in enumerate(frames):
                panel.imshow(frame, extent=(number * step, number * step + width, 0, height), interpolation="nearest")
            panel.set(xlim=(0, longest * step), ylim=(0, height))
            panel.set_title(title, loc="left", fontsize="small", pad=2)
            panel.axis("off")
        return figure


def temporal_tokens(frames: np.ndarray, *, patch: int, row: int, column: int) -> Figure:
    """What temporal attention joins: the tokens of one patch (`row`, `column`) over all frames, and the class tokens.

    frames: 't h w c', h and w multiples of `patch` pixels.
    """
    t, height, width = frames.shape[:3]
    gap, above = 0.25 * width, 0.3 * height
    x, y = (column + 0.5) * patch, (row + 0.5) * patch
    places = np.arange(t) * (width + gap)
    with matplotlib.rc_context(STYLE):
        figure, ((axes,),) = _axes(1, 1, 0.4 + WIDTH * (height + above) / (t * (width + gap)))
        for place, frame in zip(places, frames):
            axes.imshow(frame, extent=(place, place + width, height, 0), interpolation="nearest", zorder=1)
            axes.vlines(place + np.arange(0, width + 1, patch), 0, height, color="white", linewidth=0.4, zorder=2)
            axes.hlines(np.arange(0, height + 1, patch), place, place + width, color="white", linewidth=0.4, zorder=2)
            axes.add_patch(matplotlib.patches.Rectangle((place + column * patch, row * patch), patch, patch, fill=False,
                                                        edgecolor=PALETTE[1], linewidth=2.5, zorder=4))
        for down, across, colour, marker, name in (
                (y, places + x, PALETTE[1], "s", f"the patch in row {row}, column {column} of every frame"),
                (-0.5 * above, places + width / 2, PALETTE[0], "o", "the class token of every frame")):
            axes.plot(across, np.full(t, down), color=colour, marker=marker, linewidth=2, markersize=5, zorder=3,
                      label=name)
        axes.set(xlim=(-1, places[-1] + width + 1), ylim=(height + 1, -above))
        axes.axis("off")
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        return figure


def distributions(panels: dict[str, pd.DataFrame], *, count: int = 16) -> Figure:
    """Distributions over concepts: of many concepts, the `count` most probable in any of them.

    panels: title -> probabilities, a row per concept (the same ones everywhere), a column per distribution: the first as
    bars, the others as points.
    """
    tables = list(panels.values())
    largest = np.max([table.max(axis=1) for table in tables], axis=0)
    rows, high = np.sort(np.argsort(-largest, kind="stable")[:count]), 104 * largest.max()
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(1, len(panels), 1.2 + 0.17 * len(rows), sharey=True, sharex=True)
        for panel, (title, table) in zip(axes[0], panels.items()):
            shown, places = 100 * table.iloc[rows], np.arange(len(rows))
            panel.barh(places, shown.iloc[:, 0], color="0.8", height=0.75, zorder=2, label=shown.columns[0])
            for (name, values), marker, colour in zip(list(shown.items())[1:], "o^sDvP", PALETTE):
                panel.scatter(values, places, s=16, marker=marker, color=colour, zorder=3, label=name, clip_on=False)
            panel.axvline(100 / len(table), color=PALETTE[3], linestyle="--", linewidth=1, zorder=2.5,
                          label="uniform")
            panel.set_yticks(places, table.index[rows])
            panel.set(title=title, xlabel="%", xlim=(0, high), ylim=(len(rows) - 0.5, -0.5))
            panel.grid(False, axis="y")
            sns.despine(ax=panel, left=True)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        return figure


def pair_losses(tables: dict[str, pd.DataFrame]) -> Figure:
    """Cross-entropies in nats between teacher views (rows) and student views (columns), a map each; NaN: not compared.

    tables: title -> values. The mean of a map's values stands below it.
    """
    with matplotlib.rc_context(STYLE):
        rows, columns = next(iter(tables.values())).shape
        figure, axes = _axes(2, -(-len(tables) // 2), 2 * (1.1 + 0.3 * rows))
        high = max(np.nanmax(table) for table in tables.values())
        for panel, (title, table) in zip(axes.flat, tables.items()):
            sns.heatmap(table, ax=panel, annot=True, fmt=".2f", cmap="rocket_r", vmin=0, vmax=high, cbar=False,
                        linewidths=1, annot_kws={"fontsize": "small"}, xticklabels=True, yticklabels=True)
            panel.set_facecolor("0.92")
            panel.set_title(title)
            panel.set_xlabel(f"mean: {np.nanmean(table):.3f} nats")
            panel.tick_params(axis="x", rotation=0)
            panel.tick_params(axis="y", rotation=0)
        return figure
