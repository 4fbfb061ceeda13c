"""Figures of videos, concepts and distributions in one style: print width, a colour-blind palette, PNG and PDF.

`lib/study/charts.py` draws what runs measured, in the same style. Each function returns a Figure without the global
state of pyplot; `save` writes both formats.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.run.files import whole_file
from lib.study.attention import Maps

WIDTH = 6.75  # inches, the text width of a two-column page
PALETTE = sns.color_palette("colorblind")
BEFORE, AFTER = PALETTE[7], PALETTE[0]
LABELLED = 40  # more classes or concepts than these have no legible names
DASHED = {"linestyle": "--", "linewidth": 1}
styled = matplotlib.rc_context(
    {
        **sns.axes_style("whitegrid"),
        **sns.plotting_context("paper", font_scale=0.9),
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "grid.linewidth": 0.5,
        "axes.edgecolor": "0.3",
        "figure.dpi": 120,
        "text.parse_math": False,
        "pdf.fonttype": 42,
        "savefig.facecolor": "white",
    }
)


@styled
def save(figure: Figure, stem: Path) -> None:
    """Writes `stem`.png (200 dpi) and `stem`.pdf; the same figure gives the same bytes."""
    for suffix, options in {"png": {"dpi": 200}, "pdf": {"metadata": {"CreationDate": None}}}.items():
        with whole_file(stem.with_name(f"{stem.name}.{suffix}")) as partial:
            figure.savefig(partial, format=suffix, **options)


def subplots(rows: int, columns: int, height: float, **options) -> tuple[Figure, np.ndarray]:
    """A figure of print width, `height` inches high, and its panels 'rows columns'."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def name_rows(panel: Axes, names: Sequence[str]) -> None:
    """One row of a panel for each name, the first on top."""
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.grid(False, axis="y")
    sns.despine(ax=panel, left=True)


# ---- concepts and distributions --------------------------------------------------------------------------------------


@styled
def similarities(maps: dict[str, pd.DataFrame]) -> Figure:
    """Cosine similarities between concepts, each map on its own scale. maps: title -> cosines 'k k'."""
    columns = len(maps) if len(maps) < 4 else 2
    rows = -(-len(maps) // columns)
    figure, axes = subplots(rows, columns, rows * (WIDTH / columns + 1.4))
    figure.get_layout_engine().set(hspace=0.05)  # between the label of a colour bar and the title below it
    for panel in axes.flat[len(maps) :]:
        panel.set_axis_off()
    for panel, (title, cosines) in zip(axes.flat, maps.items()):
        named = len(cosines) <= LABELLED
        names = {"xticklabels": named, "yticklabels": named and panel in axes[:, 0]}
        scale = {"orientation": "horizontal", "shrink": 0.7, "label": "cosine similarity"}
        sns.heatmap(cosines, cmap="rocket", square=True, cbar_kws=scale, ax=panel, **names)
        panel.set(title=title, xlabel="", ylabel="")
    return figure


@styled
def own_against_others(groups: dict[str, pd.DataFrame]) -> Figure:
    """Cosine of each label's descriptions to its own name against the nearest other name; the six worst are named.

    groups: title -> a table of `concepts.own_against_others`.
    """
    every = pd.concat(groups, names=["group"]).reset_index("group")
    worst = every[~every["right"]].assign(gap=lambda t: t["cosine"] - t["own"]).nlargest(6, "gap")
    figure, ((panel,),) = subplots(1, 1, 4.2)
    sns.scatterplot(every, x="cosine", y="own", hue="group", style="group", palette="colorblind", s=16, ax=panel)
    ends = every[["own", "cosine"]].min().min() - 0.02, every[["own", "cosine"]].max().max() + 0.02
    panel.plot(ends, ends, color="0.3", linewidth=0.8, zorder=1)
    for row in worst.itertuples():
        where = {"xy": (row.cosine, row.own), "xytext": (3, -7), "textcoords": "offset points"}
        panel.annotate(row.label.split("/")[-1], **where, fontsize=6)
    panel.set(xlabel="cosine to the nearest other label", ylabel="cosine to its own label", xlim=ends, ylim=ends)
    panel.set_title(f"{100 * every['right'].mean():.0f} % of {len(every)} labels are nearest to their own descriptions")
    panel.legend(title=None)
    return figure


@styled
def shares(classes: Sequence[str], columns: dict[str, Sequence[float]]) -> Figure:
    """Bars of percentages per class, a panel per column. columns: title -> percent, in the order of `classes`."""
    figure, axes = subplots(1, len(columns), 0.9 + 0.17 * len(classes), sharey=True)
    for panel, (title, percent) in zip(axes[0], columns.items()):
        panel.barh(range(len(classes)), percent, color=AFTER, height=0.7, zorder=2)
        panel.set(title=title, xlabel="%", xlim=(0, max(1, *percent)))
        name_rows(panel, classes)
    return figure


@styled
def distributions(panels: dict[str, pd.DataFrame], *, count: int = 16) -> Figure:
    """Distributions over concepts; of many concepts, the `count` most probable in any of them.

    panels: title -> probabilities, a row per concept (the same everywhere), a column per distribution: the first as
    bars, the others as points.
    """
    largest = np.max([table.max(axis=1) for table in panels.values()], axis=0)
    rows = np.sort(np.argsort(-largest, kind="stable")[:count])
    figure, axes = subplots(1, len(panels), 1.2 + 0.17 * len(rows), sharey=True, sharex=True)
    for panel, (title, table) in zip(axes[0], panels.items()):
        shown, places = 100 * table.iloc[rows], np.arange(len(rows))
        panel.barh(places, shown.iloc[:, 0], color="0.8", height=0.75, zorder=2, label=shown.columns[0])
        for name, marker, colour in zip(shown.columns[1:], "o^sDvP", PALETTE):
            panel.scatter(shown[name], places, s=16, marker=marker, color=colour, zorder=3, label=name, clip_on=False)
        panel.axvline(100 / len(table), color=PALETTE[3], zorder=2.5, label="uniform", **DASHED)
        panel.set(title=title, xlabel="probability (%)", xlim=(0, 104 * largest.max()))
        name_rows(panel, table.index[rows])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


@styled
def pair_losses(tables: dict[str, pd.DataFrame]) -> Figure:
    """Cross-entropies in nats between teacher views (rows) and student views (columns), a map each; NaN: not compared.

    tables: title -> values, whose mean stands below the map.
    """
    rows = len(next(iter(tables.values())))
    figure, axes = subplots(2, -(-len(tables) // 2), 2 * (1.1 + 0.3 * rows))
    high = max(np.nanmax(table) for table in tables.values())
    for panel, (title, table) in zip(axes.flat, tables.items()):
        look = {"cmap": "rocket_r", "vmin": 0, "vmax": high, "cbar": False, "linewidths": 1}
        sns.heatmap(table, ax=panel, annot=True, fmt=".2f", annot_kws={"fontsize": "small"}, **look)
        panel.set(facecolor="0.92", title=title, xlabel=f"mean: {np.nanmean(table):.3f} nats")
        panel.tick_params(rotation=0)
    return figure


# ---- frames ----------------------------------------------------------------------------------------------------------


def _strip(panel: Axes, frames: Sequence[np.ndarray], title: str, *, step: float, **look) -> None:
    """Frames 'h w' or 'h w c' side by side, `step` pixels apart."""
    height, width = frames[0].shape[:2]
    for number, frame in enumerate(frames):
        panel.imshow(frame, extent=(number * step, number * step + width, height, 0), **look)
    panel.set(xlim=(-1, (len(frames) - 1) * step + width + 1), ylim=(height + 1, -1))
    panel.set_title(title, loc="left", fontsize="small", pad=3)
    panel.axis("off")


@styled
def contact_sheet(pictures: Sequence[np.ndarray], titles: Sequence[str], *, columns: int) -> Figure:
    """Pictures 'h w c' uint8 in a grid, each below its title (an empty one for none)."""
    rows = -(-len(pictures) // columns)
    figure, axes = subplots(rows, columns, WIDTH / columns * rows * (1.15 if any(titles) else 1.02))
    for panel in axes.flat:
        panel.axis("off")
    for panel, picture, title in zip(axes.flat, pictures, titles, strict=False):
        panel.imshow(picture, interpolation="nearest")
        panel.set_title(title, fontsize="small", pad=2)
    return figure


@styled
def filmstrips(rows: dict[str, np.ndarray]) -> Figure:
    """Views as rows of frames, in proportion to their pixels. rows: title -> frames 't h w c', uint8 or in 0..1."""
    step = 1.1 * max(frames.shape[2] for frames in rows.values())
    longest = max(6, *(len(frames) for frames in rows.values()))  # a few frames would fill the screen
    heights = [frames.shape[1] / step * WIDTH / longest for frames in rows.values()]
    figure, axes = subplots(len(rows), 1, sum(heights) + 0.25 * len(rows), height_ratios=heights)
    for panel, (title, frames) in zip(axes[:, 0], rows.items()):
        _strip(panel, frames, title, step=step, interpolation="nearest")
        panel.set(xlim=(0, longest * step), ylim=(frames.shape[1], 0))
    return figure


@styled
def temporal_tokens(frames: np.ndarray, *, patch: int, row: int, column: int) -> Figure:
    """The tokens that temporal attention joins: one patch (`row`, `column`) in all frames, and the class tokens.

    frames: 't h w c', h and w multiples of `patch` pixels.
    """
    t, height, width = frames.shape[:3]
    step, above = 1.25 * width, 0.3 * height
    starts, x, y = np.arange(t) * step, column * patch, row * patch
    figure, ((panel,),) = subplots(1, 1, 0.4 + WIDTH * (height + above) / (t * step))
    _strip(panel, frames, "", step=step, interpolation="nearest", zorder=1)
    for start in starts:
        panel.vlines(start + np.arange(0, width + 1, patch), 0, height, color="white", linewidth=0.4, zorder=2)
        panel.hlines(np.arange(0, height + 1, patch), start, start + width, color="white", linewidth=0.4, zorder=2)
        look = {"fill": False, "edgecolor": PALETTE[1], "linewidth": 2.5, "zorder": 4}
        panel.add_patch(matplotlib.patches.Rectangle((start + x, y), patch, patch, **look))
    line = {"linewidth": 2, "markersize": 5, "zorder": 3}
    label = f"the patch in row {row}, column {column} of every frame"
    panel.plot(starts + x + patch / 2, np.full(t, y + patch / 2), "s-", color=PALETTE[1], label=label, **line)
    label = "the class token of every frame"
    panel.plot(starts + width / 2, np.full(t, -0.5 * above), "o-", color=PALETTE[0], label=label, **line)
    panel.set_ylim(height + 1, -above)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


@styled
def attention_maps(clips: dict[str, tuple[np.ndarray, Maps]]) -> Figure:
    """Three strips per clip: the frames; the attention of each frame's class token to its patches; the attention of the
    patches of the middle frame (outlined) to the same place in each frame, above that of its class token in percent.

    clips: title -> frames 't h w c' in 0..1, and their maps. Heat is relative to uniform attention, with a scale per
    strip, and more opaque the further it is from zero (within a frame) or from uniform (over time).
    """
    t, height, width = next(iter(clips.values()))[0].shape[:3]
    step = 1.08 * width
    figure, axes = subplots(3 * len(clips), 1, 3 * len(clips) * (0.9 * WIDTH / t * height / width + 0.35))
    for (title, (frames, maps)), panels in zip(clips.items(), np.split(axes[:, 0], len(clips))):
        middle = t // 2
        space, over_time = maps.space * (maps.space[0].size + 1), maps.patches[middle] * t
        spread = max(0.05, np.abs(over_time - 1).max())
        grey = [frame.mean(axis=-1) for frame in frames]
        _strip(panels[0], frames, title, step=step)
        for panel, heat, colours, neutral, ends, title in (
            (panels[1], space, "viridis", 0, (0, space.max()), "class token to the patches of its frame"),
            (panels[2], over_time, "vlag", 1, (1 - spread, 1 + spread), "patches of the outlined frame to all frames"),
        ):
            _strip(panel, grey, title, step=step, cmap="gray", vmin=0, vmax=1)
            scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(*ends), colours)
            for number, values in enumerate(heat):
                opacity = 0.85 * np.abs(values - neutral) / (ends[1] - neutral)
                place = {"extent": (number * step, number * step + width, height, 0), "interpolation": "bilinear"}
                panel.imshow(values, cmap=colours, norm=scale.norm, alpha=opacity, **place)
            figure.colorbar(scale, ax=panel, label="attention\nrelative to\nuniform", pad=0.01, aspect=8)
        outline = {"fill": False, "edgecolor": PALETTE[1], "linewidth": 2.5, "clip_on": False}
        panels[2].add_patch(matplotlib.patches.Rectangle((middle * step, 0), width, height, **outline))
        for number, share in enumerate(maps.class_token[middle]):
            where = {"x": number * step + width / 2, "y": 1.04 * height, "ha": "center", "va": "top"}
            panels[2].text(**where, s=f"{100 * share:.0f} %", fontsize="x-small")
    return figure
