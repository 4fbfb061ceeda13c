"""Figures of videos, concepts and distributions, in one style: print width, a colour-blind palette, PNG and PDF.

What runs measured is drawn by `lib/study/charts.py` in the same style. Each function returns a Figure and touches no file and no global state of pyplot; `save` writes both formats.
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

from lib.study.attention import Maps

WIDTH = 6.75  # inches, the text width of a two-column page
PALETTE = sns.color_palette("colorblind")
BEFORE, AFTER = PALETTE[7], PALETTE[0]
STYLE = {
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

# name of a figure of notebook 91, or its beginning -> title, and what there is to be seen, for those who cannot see it
CAPTIONS = {
    "accuracies": (
        "Accuracy of every run",
        "Bars of mean top-1 accuracy for each row, zero-shot and linear probe, with a point "
        "for each run. The tables have the same numbers.",
    ),
    "pairs": (
        "Confusable pairs",
        "Bars for each row: how often it chooses the right one of two actions that only their motion "
        "tells apart. A dashed line marks chance, 50 per cent.",
    ),
    "differences": (
        "What the reference has more",
        "For each other row how much more the reference has, zero-shot and linear "
        "probe, a point with its 95 per cent interval; coloured where that excludes zero. The tables have the same numbers.",
    ),
    "gain_per_class": (
        "Gain per class",
        "For each action its accuracy with the image CLIP and after the adaptation, two points "
        "joined by a line, ordered by the gain in zero-shot.",
    ),
    "confusion": (
        "Confusions before and after",
        "Two heat maps, image CLIP and adapted model: the share of each action's clips "
        "that zero-shot calls each action. Right answers lie on the diagonal.",
    ),
    "scaling_videos": (
        "Unlabelled videos",
        "Accuracy against the number of unlabelled videos, zero-shot and linear probe, means "
        "with error bars over seeds. A dashed line is the image CLIP.",
    ),
    "scaling_epochs": (
        "Length of the adaptation",
        "Accuracy against the epochs, zero-shot and linear probe, means with error "
        "bars over seeds. A dashed line is the image CLIP.",
    ),
    "shots": (
        "Labelled examples",
        "Linear-probe accuracy against the labelled examples per class, a line with error bars over "
        "seeds for each of image CLIP, baseline without language and reference.",
    ),
    "concepts": (
        "The concept spaces",
        "Three heat maps of cosines between actions: within the category space, within the "
        "description space, and across the two, where the diagonal is each action with itself.",
    ),
    "training": (
        "Training",
        "Curves over the steps of every trained run: loss, two entropies, spread of the features, agreement "
        "of student and teacher. In a collapse an entropy or the spread falls to zero.",
    ),
    "attention": (
        "Where the adapted model looks",
        "For two test clips the frames; overlaid with what each frame's class token "
        "looks at; overlaid with how much the patches of the middle frame look at each frame.",
    ),
}


def subplots(rows: int, columns: int, height: float, **options) -> tuple[Figure, np.ndarray]:
    """A figure as wide as the page and `height` inches high, and its panels 'rows columns'."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def name_rows(panel: Axes, names: Sequence[str]) -> None:
    """One row of a panel for each name, the first one on top."""
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.grid(False, axis="y")
    sns.despine(ax=panel, left=True)


def save(figure: Figure, stem: Path) -> None:
    """Writes `stem`.png (200 dpi) and `stem`.pdf, each under a temporary name that is renamed when it is whole."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    # without the date, the same picture is the same file
    for suffix, options in (("png", {"dpi": 200}), ("pdf", {"metadata": {"CreationDate": None}})):
        partial = stem.with_name(f"{stem.name}.{suffix}.partial")
        with matplotlib.rc_context(STYLE):
            figure.savefig(partial, format=suffix, **options)
        os.replace(partial, stem.with_name(f"{stem.name}.{suffix}"))


def similarities(maps: dict[str, pd.DataFrame]) -> Figure:
    """Cosines between concepts as maps, each on a scale of its own, up to three in a row. maps: title -> cosines 'k k'."""
    columns = len(maps) if len(maps) < 4 else 2
    rows = -(-len(maps) // columns)
    with matplotlib.rc_context(STYLE):
        figure, axes = subplots(rows, columns, rows * (WIDTH / columns + 1.1))
        for panel in axes.flat[len(maps) :]:
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
        figure, axes = subplots(1, 1, 4.2)
        panel = axes[0, 0]
        sns.scatterplot(every, x="cosine", y="own", hue="group", style="group", palette="colorblind", s=16, ax=panel)
        ends = [every[["own", "cosine"]].min().min() - 0.02, every[["own", "cosine"]].max().max() + 0.02]
        panel.plot(ends, ends, color="0.3", linewidth=0.8, zorder=1)
        for row in worst.itertuples():
            panel.annotate(
                row.label.split("/")[-1], (row.cosine, row.own), xytext=(3, -7), textcoords="offset points", fontsize=6
            )
        panel.set(
            xlabel="cosine to the nearest other label",
            ylabel="cosine to its own label",
            xlim=ends,
            ylim=ends,
            title=f"{100 * every['right'].mean():.0f} % of {len(every)} labels are found by their descriptions",
        )
        panel.legend(title=None)
        return figure


def shares(classes: Sequence[str], columns: dict[str, Sequence[float]]) -> Figure:
    """Bars of per-class percentages, a panel for each column. columns: title -> per cent, in the order of `classes`."""
    with matplotlib.rc_context(STYLE):
        figure, axes = subplots(1, len(columns), 0.9 + 0.17 * len(classes), sharey=True)
        for panel, (title, percent) in zip(axes[0], columns.items()):
            panel.barh(range(len(classes)), percent, color=AFTER, height=0.7, zorder=2)
            panel.set(title=title, xlabel="%", xlim=(0, max(1, *percent)))
            name_rows(panel, classes)
        return figure


def contact_sheet(pictures: Sequence[np.ndarray], titles: Sequence[str], *, columns: int) -> Figure:
    """Pictures 'h w c' uint8 in a grid, each below its title (an empty one for none)."""
    rows = -(-len(pictures) // columns)
    with matplotlib.rc_context(STYLE):
        figure, axes = subplots(rows, columns, WIDTH / columns * rows * (1.15 if any(titles) else 1.02))
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
        figure, axes = subplots(len(rows), 1, sum(heights) + 0.25 * len(rows), height_ratios=heights)
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
        figure, ((axes,),) = subplots(1, 1, 0.4 + WIDTH * (height + above) / (t * (width + gap)))
        for place, frame in zip(places, frames):
            axes.imshow(frame, extent=(place, place + width, height, 0), interpolation="nearest", zorder=1)
            axes.vlines(place + np.arange(0, width + 1, patch), 0, height, color="white", linewidth=0.4, zorder=2)
            axes.hlines(np.arange(0, height + 1, patch), place, place + width, color="white", linewidth=0.4, zorder=2)
            axes.add_patch(
                matplotlib.patches.Rectangle(
                    (place + column * patch, row * patch),
                    patch,
                    patch,
                    fill=False,
                    edgecolor=PALETTE[1],
                    linewidth=2.5,
                    zorder=4,
                )
            )
        for down, across, colour, marker, name in (
            (y, places + x, PALETTE[1], "s", f"the patch in row {row}, column {column} of every frame"),
            (-0.5 * above, places + width / 2, PALETTE[0], "o", "the class token of every frame"),
        ):
            axes.plot(
                across, np.full(t, down), color=colour, marker=marker, linewidth=2, markersize=5, zorder=3, label=name
            )
        axes.set(xlim=(-1, places[-1] + width + 1), ylim=(height + 1, -above))
        axes.axis("off")
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        return figure


def attention_maps(clips: dict[str, tuple[np.ndarray, Maps]]) -> Figure:
    """Where a model looks, three strips of frames a clip: the frames; where each frame's class token looks; how much every
    patch of the middle frame (outlined) looks at the same place in each frame.

    clips: title -> frames 't h w c' in 0..1, and their maps. Heat is in multiples of an even look, with a scale for
    each strip, and is the clearer the further it lies from none (within a frame) or from even (over time); below the last
    strip stands the share of the middle class token's look that goes to each frame.
    """
    t = len(next(iter(clips.values()))[0])
    names = ["", "class token,\nwithin a frame", "patches,\nover time"]
    with matplotlib.rc_context(STYLE):
        figure, axes = subplots(3 * len(clips), t, 3 * len(clips) * (0.85 * WIDTH / t + 0.12) + 0.3 * len(clips))
        for (title, (frames, maps)), strips in zip(clips.items(), np.split(axes, len(clips))):
            middle, extent = t // 2, (0, frames.shape[2], frames.shape[1], 0)
            space, over_time = maps.space * (maps.space[0].size + 1), maps.patches[middle] * t
            spread = max(0.05, np.abs(over_time - 1).max())
            looks = [None, (space, "viridis", 0, 0, space.max()), (over_time, "vlag", 1, 1 - spread, 1 + spread)]
            for name, look, strip in zip(names, looks, strips):
                for number, panel in enumerate(strip):
                    panel.set(xticks=[], yticks=[])
                    if look is None:
                        panel.imshow(frames[number], extent=extent)
                        continue
                    panel.imshow(frames[number].mean(axis=-1), extent=extent, cmap="gray", vmin=0, vmax=1)
                    heat, colours, neutral, low, high = look
                    far = np.abs(heat[number] - neutral) / (high - neutral)
                    panel.imshow(
                        heat[number],
                        extent=extent,
                        cmap=colours,
                        alpha=0.85 * far,
                        vmin=low,
                        vmax=high,
                        interpolation="bilinear",
                    )
                strip[0].set_ylabel(name, fontsize="small")
                if look is not None:
                    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(low, high), colours)
                    figure.colorbar(scale, ax=strip, label="times even", pad=0.01, aspect=8)
            strips[0, 0].set_title(title, loc="left", fontsize="small")
            strips[2, middle].spines[:].set(color=PALETTE[1], linewidth=2.5)
            for panel, share in zip(strips[2], maps.class_token[middle]):
                panel.set_xlabel(f"class token {100 * share:.0f} %", fontsize="x-small")
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
        figure, axes = subplots(1, len(panels), 1.2 + 0.17 * len(rows), sharey=True, sharex=True)
        for panel, (title, table) in zip(axes[0], panels.items()):
            shown, places = 100 * table.iloc[rows], np.arange(len(rows))
            panel.barh(places, shown.iloc[:, 0], color="0.8", height=0.75, zorder=2, label=shown.columns[0])
            for (name, values), marker, colour in zip(list(shown.items())[1:], "o^sDvP", PALETTE):
                panel.scatter(values, places, s=16, marker=marker, color=colour, zorder=3, label=name, clip_on=False)
            panel.axvline(100 / len(table), color=PALETTE[3], linestyle="--", linewidth=1, zorder=2.5, label="uniform")
            panel.set(title=title, xlabel="%", xlim=(0, high))
            name_rows(panel, table.index[rows])
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        return figure


def pair_losses(tables: dict[str, pd.DataFrame]) -> Figure:
    """Cross-entropies in nats between teacher views (rows) and student views (columns), a map each; NaN: not compared.

    tables: title -> values. The mean of a map's values stands below it.
    """
    with matplotlib.rc_context(STYLE):
        rows, columns = next(iter(tables.values())).shape
        figure, axes = subplots(2, -(-len(tables) // 2), 2 * (1.1 + 0.3 * rows))
        high = max(np.nanmax(table) for table in tables.values())
        for panel, (title, table) in zip(axes.flat, tables.items()):
            sns.heatmap(
                table,
                ax=panel,
                annot=True,
                fmt=".2f",
                cmap="rocket_r",
                vmin=0,
                vmax=high,
                cbar=False,
                linewidths=1,
                annot_kws={"fontsize": "small"},
                xticklabels=True,
                yticklabels=True,
            )
            panel.set_facecolor("0.92")
            panel.set_title(title)
            panel.set_xlabel(f"mean: {np.nanmean(table):.3f} nats")
            panel.tick_params(axis="x", rotation=0)
            panel.tick_params(axis="y", rotation=0)
        return figure
