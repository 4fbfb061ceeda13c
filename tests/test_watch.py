"""What a run says of itself: warnings by hand-made logs, and TensorBoard beside the log."""

import math

import pytest

from lib.run.files import read_lines
from lib.run.watch import CURES, Watch, signs

HEALTHY = {
    "loss": 1.0,
    "teacher_entropy": 1.0,
    "batch_entropy": 2.5,
    "feature_spread": 0.8,
    "concepts_used": 12,
    "videos": 20,
    "seconds": 1.0,
    "data_wait": 0.5,
    "memory_gb": 1.0,
}


@pytest.mark.parametrize(
    "changes, limit, cure",
    [
        ({"teacher_entropy": 0.95 * math.log(16)}, "collapse_teacher_entropy", "Lower teacher_temperature"),
        ({"batch_entropy": 0.4 * math.log(16)}, "collapse_batch_entropy", "Raise uniform_prior_weight"),
        (
            {"batch_entropy": 0.6, "videos": 4, "concepts_used": 2},
            "collapse_batch_entropy",
            "Raise uniform_prior_weight",
        ),
        ({"feature_spread": 0.1}, "collapse_feature_spread", "Lower teacher_temperature"),
        ({"concepts_used": 3}, "collapse_concepts_used", "Raise uniform_prior_weight"),
    ],
)
def test_every_sign_of_collapse_is_named_with_its_value_and_its_cure(tiny, changes, limit, cure):
    limits = {name: getattr(tiny(), name) for name in CURES}
    found = signs(limits, [HEALTHY | changes], num_concepts=16)
    assert list(found) == [limit] and cure in found[limit] and str(limits[limit]) in found[limit]
    assert not signs(limits, [HEALTHY], num_concepts=16)


def test_one_video_alone_is_not_compared_with_others(tiny):
    limits = {name: getattr(tiny(), name) for name in CURES}
    alone = HEALTHY | {"videos": 1, "batch_entropy": 0.0, "feature_spread": 0.01, "concepts_used": 1}
    assert not signs(limits, [alone], num_concepts=16)


def test_a_warning_comes_once_when_the_mean_crosses_the_limit_and_is_known_after_a_restart(tiny, tmp_path):
    params = tiny(collapse_window=2)
    spreads = [0.8, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1]
    kept = {}
    for first_step in (0, 3):  # the second time, the first three steps are in the log already
        with Watch(params, tmp_path, steps=7, first_step=first_step, num_concepts=16) as watch:
            for step in range(first_step, 7):
                watch.step(HEALTHY | {"step": step, "feature_spread": spreads[step]})
        kept[first_step] = watch.warnings
    assert [text.split(":")[0] for text in kept[0]] == ["step 2", "step 6"] and kept[0] == kept[3]
    lines = read_lines(tmp_path / "log.jsonl")
    assert [line["step"] for line in lines] == list(range(7))
    assert [line["warnings"] for line in lines if "warnings" in line] == [[text] for text in kept[0]]


@pytest.mark.parametrize("ablation, warned", [("lss", ["step 5"]), ("no_language", [])])
def test_a_teacher_much_surer_than_at_the_start_is_a_sign_that_clip_is_lost(tiny, tmp_path, ablation, warned):
    """Two steps at 1 nat, then 0.6 and 0.2: a mean of 0.6, 0.4 and 0.2 of the start; the limit is 0.35."""
    params = tiny(ablation, collapse_window=2)
    for first_step in (0, 4):  # also after a restart, from the log
        with Watch(params, tmp_path, steps=6, first_step=first_step, num_concepts=16) as watch:
            for step, entropy in enumerate([1.0, 1.0, 0.6, 0.6, 0.2, 0.2]):
                if step >= first_step:
                    watch.step(HEALTHY | {"step": step, "teacher_entropy": entropy})
        assert [text.split(":")[0] for text in watch.warnings] == warned
        assert all("trained: temporal" in text and "0.20 of" in text for text in watch.warnings)


@pytest.mark.parametrize("ablation, warned", [("lss", ["step 3", "step 7"]), ("no_language", [])])
def test_a_teacher_that_no_longer_agrees_with_clip_on_stills_is_a_sign_that_clip_is_lost(
    tiny, tmp_path, ablation, warned
):
    """Measured at every second step; the limit is 0.5. A warning comes once, and again after the agreement was back."""
    agreement = {1: 0.9, 3: 0.45, 5: 0.6, 7: 0.3, 9: 0.2}
    for first_step in (0, 5):  # also after a restart, from the log
        with Watch(tiny(ablation), tmp_path, steps=10, first_step=first_step, num_concepts=16) as watch:
            for step in range(first_step, 10):
                stills = {"still_agreement": agreement[step]} if step in agreement else {}
                watch.step(HEALTHY | {"step": step} | stills)
        assert [text.split(":")[0] for text in watch.warnings] == warned
        assert all("the limit 0.5: CLIP is being lost. Lower learning_rate" in text for text in watch.warnings)
    logged = {line["step"]: line["still_agreement"] for line in read_lines(tmp_path / "log.jsonl") if line["step"] % 2}
    assert logged == agreement
