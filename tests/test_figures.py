"""Figures: that they show the numbers they are given, and that files are whole."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib.study import figures
from lib.study.attention import Maps

CLASSES = ["sit down", "stand up", "walk"]


def test_similarity_maps_bars_and_contact_sheets_can_be_saved(tmp_path):
    cosines = pd.DataFrame(np.eye(3), index=CLASSES, columns=CLASSES)
    pictures = [np.full((8, 8, 3), level, np.uint8) for level in (0, 100, 200)]
    for name, figure in {
        "maps": figures.similarities({"category": cosines, "description": cosines}),
        "bars": figures.shares(CLASSES, {"accuracy": [0, 50, 100]}),
        "sheet": figures.contact_sheet(pictures, CLASSES, columns=2),
    }.items():
        figures.save(figure, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{n}.{s}" for n in ("maps", "bars", "sheet") for s in ("png", "pdf")
    )


def test_files_are_print_wide_and_the_same_for_the_same_numbers(tmp_path):
    for name in ("once", "again"):
        figures.save(figures.shares(CLASSES, {"accuracy": [0, 50, 100]}), tmp_path / name / "shares")
    for suffix in ("png", "pdf"):
        once, again = ((tmp_path / name / f"shares.{suffix}").read_bytes() for name in ("once", "again"))
        assert once == again
    assert Image.open(tmp_path / "once" / "shares.png").width == int(figures.WIDTH * 200)


def test_a_filmstrip_shows_every_frame_of_every_view_in_proportion():
    views = {"global 1": np.zeros((3, 48, 48, 3), np.uint8), "local 1": np.ones((2, 32, 32, 3), np.float32)}
    figure = figures.filmstrips(views)
    assert [len(axes.images) for axes in figure.axes] == [3, 2]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["global 1", "local 1"]
    figure.draw_without_rendering()
    pixels = [np.diff(axes.transData.transform([(0, 0), (1, 1)]), axis=0) for axes in figure.axes]
    assert np.allclose(np.abs(pixels), pixels[0][0, 0], rtol=0.05)  # one scale for all views


def test_temporal_attention_joins_one_patch_of_every_frame():
    figure = figures.temporal_tokens(np.zeros((3, 48, 48, 3)), patch=8, row=2, column=4)
    (axes,) = figure.axes
    patches, class_tokens = axes.lines
    assert np.allclose(patches.get_xdata(), [36 + i * 60 for i in range(3)]) and set(patches.get_ydata()) == {20}
    assert np.allclose(class_tokens.get_xdata(), [24 + i * 60 for i in range(3)])
    assert [box.get_xy() for box in axes.patches] == [(32 + i * 60, 16) for i in range(3)]


def test_distributions_are_in_percent_and_of_many_concepts_the_most_probable_are_shown():
    table = pd.DataFrame({"teacher": [0.7, 0.2, 0.1], "student": [0.1, 0.3, 0.6]}, index=CLASSES)
    figure = figures.distributions({"category": table, "description": table[::-1].set_index(table.index)}, count=2)
    category, description = figure.axes
    assert [bar.get_width() for bar in category.patches] == pytest.approx([70, 10])
    assert category.collections[0].get_offsets()[:, 0].tolist() == pytest.approx([10, 60])
    assert [label.get_text() for label in category.get_yticklabels()] == ["sit down", "walk"]
    assert [bar.get_width() for bar in description.patches] == pytest.approx([10, 70])
    assert category.lines[0].get_xdata()[0] == pytest.approx(100 / 3)


def test_pair_losses_leave_out_the_views_that_are_not_compared():
    table = pd.DataFrame([[np.nan, 1.0, 2.0], [3.0, np.nan, 4.0]], index=["t1", "t2"], columns=["s1", "s2", "s3"])
    figure = figures.pair_losses({name: table for name in "abcd"})
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.00", "2.00", "3.00", "4.00"]
    assert figure.axes[0].get_xlabel() == "mean: 2.500 nats"


def test_attention_is_laid_over_every_frame_in_multiples_of_an_even_look():
    frames, even = np.zeros((3, 16, 16, 3)), Maps(np.full((3, 2, 2), 1 / 5), np.full((3, 3, 2, 2), 1 / 3), np.eye(3))
    figure = figures.attention_maps({"clip one": (frames, even)})
    panels = figure.axes[:3]
    assert [len(panel.images) for panel in panels] == [3, 6, 6]
    for panel in panels[1:]:
        assert all(np.allclose(image.get_array(), 1) for image in panel.images[1:] if image.get_cmap().name != "gray")
    assert [text.get_text() for text in panels[2].texts] == ["0 %", "100 %", "0 %"]
    (outline,) = panels[2].patches
    assert outline.get_x() == pytest.approx(1.08 * 16)


def test_captions_do_not_overlap_at_sixteen_frames():
    even = Maps(np.full((16, 2, 2), 1 / 5), np.full((16, 16, 2, 2), 1 / 16), np.full((16, 16), 1 / 16))
    figure = figures.attention_maps({"clip one": (np.zeros((16, 16, 16, 3)), even)})
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[2].texts]
    assert all(left.x1 < right.x0 for left, right in zip(boxes, boxes[1:]))
