import pandas as pd
import pytest

from lib.study.aggregate import aggregate, aggregate_table, gains


def numbers(*rows):
    columns = ["run", "dataset", "seed", "part", "value"]
    return pd.DataFrame(rows, columns=columns).assign(protocol="zero_shot", metric="top1")


VALUES = numbers(
    ("image_clip", "u", 0, "test-1", 50.0),
    ("image_clip", "u", 0, "test-2", 54.0),  # splits: 52 on average
    ("image_clip", "h", 0, "test-1", 30.0),
    *(("lss", "u", seed, "test-1", value) for seed, value in enumerate((60.0, 62.0, 58.0))),
    *(("lss", "h", seed, "test-1", value) for seed, value in enumerate((31.0, 29.0, 90.0))),
    *(("must", "u", seed, "test-1", value) for seed, value in enumerate((59.0, 61.0))),
    ("must", "h", 0, "test-1", 31.0),
)


def test_gains_and_the_probability_of_improvement_equal_the_hand_computation():
    table = aggregate(VALUES, "lss").set_index("run")
    assert list(table.index) == ["lss", "must"]  # the image CLIP has no gain over itself
    # gains of lss: 8, 10, 6 and 1, -1, 60; sorted -1 1 6 8 10 60, the middle half is 1 to 10
    assert table.loc["lss", "results"] == 6
    assert table.loc["lss", "gain"] == pytest.approx(84 / 6) and table.loc["lss", "iqm"] == pytest.approx(25 / 4)
    # on u, lss is above in (60, 59), (62, 59), (62, 61): 3 of 6; on h above once, equal once, below once: 0.5
    assert table.loc["must", "improvement"] == pytest.approx((3 / 6 + 1.5 / 3) / 2)
    assert table["improvement"].isna().tolist() == [True, False]


def test_rows_of_another_clip_gain_over_that_clip():
    of_epoch_2 = numbers(("image_clip@epoch2", "u", 0, "test-1", 20.0), ("must@epoch2", "u", 0, "test-1", 25.0))
    (line,) = gains(of_epoch_2).itertuples()
    assert (line.row, line.dataset, line.clip, line.gain) == ("must", "u", 20.0, 5.0)
    table = aggregate(pd.concat([VALUES, of_epoch_2]), "lss").set_index("run")
    assert table.loc["must@epoch2", "gain"] == pytest.approx(5) and "image_clip@epoch2" not in table.index


def test_the_table_shows_signs_and_leaves_the_references_own_probability_empty():
    table = aggregate_table(VALUES, "lss").set_index("run")
    assert table.loc["lss", "zero-shot, gain"] == "+14.0" and table.loc["lss", "zero-shot, P"] == ""
    assert table.loc["must", "zero-shot, P"] == "0.50"


def test_without_an_image_clip_there_is_nothing_to_gain():
    assert aggregate(VALUES[VALUES["run"] != "image_clip"], "lss").empty


def test_the_image_clip_alone_has_no_gains():
    alone = VALUES[VALUES["run"] == "image_clip"]
    assert gains(alone).empty and aggregate(alone, "image_clip").empty and aggregate_table(alone, "image_clip").empty
