"""The measures against scikit-learn and values computed by hand."""

import math
import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score
from sklearn.preprocessing import StandardScaler

from lib.metrics import (
    balanced_scores,
    knn,
    linear_probe,
    pair_accuracy,
    pair_correct,
    paired_bootstrap,
    prediction_summary,
    topk_accuracy,
    topk_correct,
    zero_shot_scores,
)

NAN = float("nan")


# Accuracy -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 5])
def test_topk_accuracy_equals_scikit_learns(k):
    generator = np.random.default_rng(0)
    scores, labels = generator.normal(size=(200, 7)), generator.integers(7, size=200)
    expected = 100 * top_k_accuracy_score(labels, scores, k=k, labels=range(7))
    assert topk_accuracy(scores, labels, k) == pytest.approx(expected)


def test_clips_that_could_not_be_decoded_are_wrong_and_stay_in_the_count():
    scores = np.array([[0.9, 0.1], [NAN, NAN], [0.2, 0.8]])
    assert topk_correct(scores, [0, 0, 1], 1).tolist() == [True, False, True]
    assert topk_accuracy(scores, [0, 0, 1], 1) == pytest.approx(200 / 3)
    assert topk_accuracy(scores, [0, 0, 1], 5) == pytest.approx(200 / 3)


def test_equal_scores_go_to_the_lower_class_as_in_argmax():
    scores = np.array([[0.5, 0.5, 0.1]] * 3)
    assert topk_correct(scores, [0, 1, 2], 1).tolist() == [True, False, False]
    assert topk_correct(scores, [0, 1, 2], 2).tolist() == [True, True, False]


def test_labels_outside_the_scored_classes_are_an_error():
    with pytest.raises(ValueError, match="labels run from 0 to 3"):
        topk_accuracy(np.zeros((2, 3)), [0, 3], 1)


def test_pair_accuracy_asks_only_between_the_two_classes_of_a_pair():
    scores = np.array([
        [0.1, 0.0, 0.9, 0.0],  # class 0 against 1: right, although class 2 scores best
        [0.3, 0.2, 0.0, 0.0],  # class 1 against 0: wrong
        [0.0, 0.0, 0.9, 0.0],  # class 2 is in no pair
        [NAN, NAN, NAN, NAN],  # class 1, undecoded: wrong
    ])
    assert pair_correct(scores, [0, 1, 2, 1], [(0, 1)]).tolist() == [True, False, False]
    assert pair_accuracy(scores, [0, 1, 2, 1], [(1, 0)]) == pytest.approx(100 / 3)


def test_a_clip_whose_class_is_in_two_pairs_is_asked_twice():
    scores = np.array([[0.2, 0.5, 0.1]])
    assert pair_accuracy(scores, [0], [(0, 1), (0, 2)]) == pytest.approx(50)


def test_pairs_without_clips_and_pairs_that_are_none_are_errors():
    with pytest.raises(ValueError, match="none of the 1 clips"):
        pair_accuracy(np.zeros((1, 4)), [3], [(0, 1)])
    with pytest.raises(ValueError, match="not a pair"):
        pair_accuracy(np.zeros((1, 4)), [0], [(0, 4)])


def test_the_prediction_summary_counts_what_was_predicted_and_what_failed():
    scores = np.array([[1.0, 0, 0], [0, 1.0, 0], [1.0, 0, 0], [NAN, NAN, NAN]])
    summary = prediction_summary(scores, [0, 0, 1, 1])
    assert summary["confusion"].tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert summary["per_class_accuracy"][:2].tolist() == [50.0, 0.0]
    assert np.isnan(summary["per_class_accuracy"][2])
    by_hand = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert summary["prediction_entropy"] == pytest.approx(by_hand)
    assert summary["num_failed"] == 1


def test_a_set_of_which_nothing_decoded_has_a_summary_too():
    summary = prediction_summary(np.full((2, 3), NAN), [0, 1])
    assert summary["num_failed"] == 2 and np.isnan(summary["prediction_entropy"])


# Zero-shot ------------------------------------------------------------------------------------------------------------


def test_zero_shot_scores_are_cosines_and_the_two_spaces_are_averaged():
    embeddings = np.array([[3.0, 4.0], [NAN, NAN]])
    category, description = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 5.0], [0.6, 0.8]])
    assert zero_shot_scores(embeddings, category)[0] == pytest.approx([0.6, 0.8])
    both = zero_shot_scores(embeddings, category, description)
    assert both[0] == pytest.approx([(0.6 + 0.8) / 2, (0.8 + 1.0) / 2])
    assert np.isnan(both[1]).all()


def test_balanced_predictions_undo_a_favourite_class_and_leave_failed_clips_out():
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 50)
    scores = np.eye(4)[labels] + generator.normal(scale=0.3, size=(200, 4))
    biased = scores + np.array([1.0, 0, 0, 0])
    with_failure = np.concatenate([biased, np.full((1, 4), NAN)])
    balanced = balanced_scores(with_failure, temperature=0.1, rounds=20)
    assert np.isnan(balanced[-1]).all()
    assert np.allclose(balanced[:-1].sum(axis=1), 1)
    assert topk_accuracy(balanced[:-1], labels, 1) > topk_accuracy(biased, labels, 1) + 20
    assert np.array_equal(balanced[:-1], balanced_scores(biased, temperature=0.1, rounds=20))


# Probes ---------------------------------------------------------------------------------------------------------------


def noisy_classes(num_clips: int, *, num_classes: int = 4, width: int = 8, seed: int = 0, scale: float = 2.0):
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_classes, width)) * scale
    labels = np.arange(num_clips) % num_classes
    return centres[labels] + generator.normal(size=(num_clips, width)) * np.arange(1, width + 1), labels


PROBE = {"num_classes": 4, "grid": [0.01, 1.0, 100.0], "held_out": 0.25, "max_iter": 1000, "seed": 0}


def test_the_linear_probe_is_scikit_learns_at_the_chosen_c_refitted_on_the_whole_training_split():
    train, labels = noisy_classes(120)
    test, _ = noisy_classes(40, seed=1)
    probe = linear_probe(train, labels, test, normalise="standardise", **PROBE)
    scaler = StandardScaler().fit(train)
    reference = LogisticRegression(C=probe.C, max_iter=1000).fit(scaler.transform(train), labels)
    assert np.allclose(probe.scores, reference.decision_function(scaler.transform(test)))
    sweep, refit = probe.records[:-1], probe.records[-1]
    assert [record["C"] for record in sweep] == [0.01, 1.0, 100.0]
    best = max(record["held_out_top1"] for record in sweep)
    assert probe.C == min(record["C"] for record in sweep if record["held_out_top1"] == best)
    assert refit["fit"] == "refit" and refit["C"] == probe.C and refit["held_out_top1"] is None
    assert all(record["warning"] is None and record["iterations"] > 0 for record in probe.records)


def test_nothing_of_the_test_set_moves_the_probe():
    train, labels = noisy_classes(120)
    test, _ = noisy_classes(40, seed=1)
    alone = linear_probe(train, labels, test[:1], normalise="standardise", **PROBE)
    among_others = linear_probe(train, labels, np.concatenate([test, 1e6 * test]), normalise="standardise", **PROBE)
    assert alone.C == among_others.C and alone.records == among_others.records
    assert np.allclose(alone.scores[0], among_others.scores[0])


def test_the_l2_probe_does_not_see_the_length_of_a_feature():
    train, labels = noisy_classes(120)
    test, _ = noisy_classes(40, seed=1)
    first = linear_probe(train, labels, test, normalise="l2", **PROBE)
    scaled = linear_probe(train * np.linspace(1, 9, 120)[:, None], labels, test * 7, normalise="l2", **PROBE)
    assert np.allclose(first.scores, scaled.scores)


def test_a_probe_that_does_not_converge_says_so_in_its_records():
    train, labels = noisy_classes(120)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe = linear_probe(train, labels, train, normalise="standardise", **PROBE | {"max_iter": 2})
    assert all("converge" in record["warning"] and record["iterations"] == 2 for record in probe.records[1:])


def test_groups_are_held_out_whole():
    # The features only tell the group, never the class: a clip's twin in the fitted part would give its label away.
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 4)
    labels = generator.permutation(40)[groups] % 4
    features = generator.normal(size=(40, 64))[groups] + 1e-3 * generator.normal(size=(160, 64))
    leaky = linear_probe(features, labels, features, normalise="standardise", **PROBE)
    whole = linear_probe(features, labels, features, normalise="standardise", groups=groups, **PROBE)
    assert max(record["held_out_top1"] for record in leaky.records[:-1]) > 95
    assert max(record["held_out_top1"] for record in whole.records[:-1]) < 60
    with pytest.raises(ValueError, match="2 groups are too few"):
        linear_probe(features, labels, features, normalise="standardise", groups=groups // 20, **PROBE)


@pytest.mark.parametrize("seen", [(0, 3), (0, 1, 3)])
def test_classes_without_training_clips_are_never_predicted_and_undecoded_clips_are_nan(seen):
    train, labels = noisy_classes(120)
    kept = np.isin(labels, seen)
    test, test_labels = noisy_classes(40, seed=1, scale=20.0)
    train, test = train + noisy_classes(120, scale=20.0)[0], test.copy()
    test[5] = NAN
    scores = linear_probe(train[kept], labels[kept], test, normalise="standardise", **PROBE).scores
    assert scores.shape == (40, 4) and np.isnan(scores[5]).all()
    assert np.isneginf(np.delete(scores, 5, axis=0)[:, 2]).all()
    right = topk_correct(scores, test_labels, 1)
    expected = np.isin(test_labels, seen) & (np.arange(40) != 5)
    assert np.array_equal(right, expected)


def test_training_clips_without_finite_features_are_an_error_and_not_left_out_in_silence():
    train, labels = noisy_classes(120)
    train[3] = NAN
    with pytest.raises(ValueError, match="1 of 120 training clips"):
        linear_probe(train, labels, train, normalise="l2", **PROBE)


def test_knn_votes_are_exponentials_of_cosines():
    generator = np.random.default_rng(0)
    train, labels, test = generator.normal(size=(60, 5)), generator.integers(3, size=60), generator.normal(size=(9, 5))
    test[4] = NAN
    scores = knn(train, labels, test, num_classes=4, k=10)
    cosines = (test / np.linalg.norm(test, axis=1)[:, None]) @ (train / np.linalg.norm(train, axis=1)[:, None]).T
    for clip in (0, 1, 2, 3, 5, 6, 7, 8):
        votes = np.zeros(4)
        for neighbour in np.argsort(-cosines[clip])[:10]:
            votes[labels[neighbour]] += math.exp(cosines[clip, neighbour] / 0.07)
        assert scores[clip] == pytest.approx(votes / votes.sum())
    assert np.isnan(scores[4]).all()


def test_more_neighbours_than_training_clips_is_an_error_that_names_both():
    with pytest.raises(ValueError, match="k = 10 .* 4 training clips"):
        knn(np.eye(4), [0, 1, 2, 3], np.eye(4), num_classes=4, k=10)


# Comparison -----------------------------------------------------------------------------------------------------------


def test_the_bootstrap_interval_of_one_seed_agrees_with_the_normal_approximation():
    generator = np.random.default_rng(0)
    a, b = generator.random(2000) < 0.7, generator.random(2000) < 0.6
    difference = paired_bootstrap(a, b, seed=0)
    points = 100.0 * (a.astype(float) - b)
    half = 1.96 * points.std() / math.sqrt(2000)
    assert difference.mean == pytest.approx(points.mean())
    assert difference.low == pytest.approx(points.mean() - half, abs=0.2)
    assert difference.high == pytest.approx(points.mean() + half, abs=0.2)
    assert difference == paired_bootstrap(a, b, seed=0)


def test_the_bootstrap_is_paired_over_clips():
    a = np.random.default_rng(0).random(500) < 0.5
    same = paired_bootstrap(a, a, seed=0)
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_the_bootstrap_carries_the_spread_between_seeds():
    # Half of the seeds are right on every clip, the others on none: clips tell nothing, seeds everything.
    a = np.repeat([[True], [False]], 100, axis=1)
    b = np.zeros(100, dtype=bool)
    difference = paired_bootstrap(a, b, seed=0)
    assert (difference.mean, difference.low, difference.high) == (50, 0, 100)


def test_the_bootstrap_refuses_different_clips_and_answers_that_are_not_right_or_wrong():
    with pytest.raises(ValueError, match="same n clips"):
        paired_bootstrap(np.ones(3), np.ones(4), seed=0)
    with pytest.raises(ValueError, match="0 or 1"):
        paired_bootstrap(np.ones(3), np.full(3, NAN), seed=0)
