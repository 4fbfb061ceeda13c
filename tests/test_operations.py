"""The operations of a step: what a GPU has to launch."""

import pytest

from lib.run.params import load
from lib.study.operations import count_operations


def total(params, **changes):
    return count_operations(params, **changes)["count"].sum()


def test_a_step_of_the_papers_profile_is_a_few_thousand_operations():
    params = load(profile="paper")
    table = count_operations(params)
    assert table["count"].sum() <= 6000 and total(params, micro_batches=2) <= 9000
    by_kind = table.groupby("kind")["count"].sum()
    # per block: six projections of the student's two passes and the teacher's one, four times with their two gradients
    assert by_kind["matrix products"] >= 12 * (6 * 3 + 2 * 6 * 2)
    # temporal attention per number of frames (2 + 4), spatial per size, with gradient; the teacher's without
    assert by_kind["attention"] == 12 * (2 * (2 + 4 + 2) + (2 + 1))


def test_the_count_does_not_depend_on_the_number_of_frames_but_on_how_many_there_are():
    params = load(profile="paper", local_views=0, global_num_frames=[2, 6])
    assert total(params) == total(params.model_copy(update={"global_num_frames": [4, 12]}))
    assert total(params) > total(params.model_copy(update={"global_num_frames": [8]}))


def test_operations_are_counted_of_a_clip_of_the_hub():
    with pytest.raises(ValueError, match="one of .*openai/clip-vit-base-patch16"):
        count_operations(load(profile="embedded"))
