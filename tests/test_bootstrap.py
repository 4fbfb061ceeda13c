"""Intervals of the paired bootstrap against the normal approximation and cases worked out by hand."""

import math

import numpy as np
import pytest

from lib.study.results import paired_bootstrap

NAN = float("nan")


def test_the_bootstrap_interval_of_one_seed_agrees_with_the_normal_approximation():
    generator = np.random.default_rng(0)
    a, b = generator.random(2000) < 0.7, generator.random(2000) < 0.6
    difference = paired_bootstrap([(a, b, np.arange(a.shape[-1]))], seed=0)
    points = 100.0 * (a.astype(float) - b)
    half = 1.96 * points.std() / math.sqrt(2000)
    assert difference.mean == pytest.approx(points.mean())
    assert difference.low == pytest.approx(points.mean() - half, abs=0.2)
    assert difference.high == pytest.approx(points.mean() + half, abs=0.2)
    assert difference == paired_bootstrap([(a, b, np.arange(a.shape[-1]))], seed=0)


def test_the_bootstrap_is_paired_over_clips():
    a = np.random.default_rng(0).random(500) < 0.5
    same = paired_bootstrap([(a, a, np.arange(a.shape[-1]))], seed=0)
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_the_bootstrap_carries_the_spread_between_seeds():
    # Half of the seeds are right on every clip, the others on none: clips tell nothing, seeds everything.
    a = np.repeat([[True], [False]], 100, axis=1)
    b = np.zeros(100, dtype=bool)
    difference = paired_bootstrap([(a, b, np.arange(a.shape[-1]))], seed=0)
    # The standard error of the mean of 100 and 0 is 50; the draws are 50 half of the time, else 50 -+ 50 sqrt(2).
    assert (difference.mean, difference.low, difference.high) == pytest.approx((50, 50 - 50 * 2**0.5, 50 + 50 * 2**0.5))


def test_answers_to_one_clip_in_several_splits_are_drawn_together():
    generator = np.random.default_rng(0)
    a, b = generator.random((2, 200)) < [[0.7], [0.6]]
    once = paired_bootstrap([(a, b, np.arange(200))], seed=0)
    thrice = paired_bootstrap([(np.tile(a, 3), np.tile(b, 3), np.tile(np.arange(200), 3))], seed=0)
    assert thrice == pytest.approx(once)  # three looks at the same clips tell no more than one
    apart = paired_bootstrap([(np.tile(a, 3), np.tile(b, 3), np.arange(600))], seed=0)
    assert apart.high - apart.low < 0.7 * (once.high - once.low)
    with pytest.raises(ValueError, match=r"clips \(3,\) must be"):
        paired_bootstrap([(a, b, np.arange(3))], seed=0)


def test_the_bootstrap_refuses_different_clips_and_answers_that_are_not_right_or_wrong():
    with pytest.raises(ValueError, match="with the same n"):
        paired_bootstrap([(np.ones(3), np.ones(4), np.arange(3))], seed=0)
    with pytest.raises(ValueError, match="0 or 1"):
        paired_bootstrap([(np.ones(3), np.full(3, NAN), np.arange(3))], seed=0)
