"""The measures against scikit-learn and values computed by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, top_k_accuracy_score

from lib.evaluation.metrics import (
    balanced_scores,
    half_class_accuracies,
    mean_average_precision,
    pair_correct,
    prediction_summary,
    topk_accuracy,
    topk_correct,
    zero_shot_probabilities,
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


def test_pairs_are_asked_only_between_the_two_classes_of_a_pair():
    scores = np.array(
        [
            [0.1, 0.0, 0.9, 0.0],  # class 0 against 1: right, although class 2 scores best
            [0.3, 0.2, 0.0, 0.0],  # class 1 against 0: wrong
            [0.0, 0.0, 0.9, 0.0],  # class 2 is in no pair
            [NAN, NAN, NAN, NAN],  # class 1, undecoded: wrong
        ]
    )
    assert pair_correct(scores, [0, 1, 2, 1], [(0, 1)]).tolist() == [True, False, False]
    assert pair_correct(scores, [0, 1, 2, 1], [(1, 0)]).tolist() == [True, False, False]


def test_a_clip_whose_class_is_in_two_pairs_is_asked_twice():
    scores = np.array([[0.2, 0.5, 0.1]])
    assert pair_correct(scores, [0], [(0, 1), (0, 2)]).tolist() == [False, True]


def test_pairs_without_clips_and_pairs_that_are_none_are_errors():
    with pytest.raises(ValueError, match="none of the 1 clips"):
        pair_correct(np.zeros((1, 4)), [3], [(0, 1)])
    with pytest.raises(ValueError, match="not a pair"):
        pair_correct(np.zeros((1, 4)), [0], [(0, 4)])


def test_half_of_the_classes_is_drawn_and_scored_as_by_hand():
    # numpy's legacy generator: seed 0 permutes five classes to 2 0 1 3 4, seed 1 to 2 1 4 0 3. Half of five is two.
    scores = np.array(
        [
            [0.1, 0.9, 0.2, 0.9, 0.9],  # class 0: wrong in {0, 2}
            [0.3, 0.9, 0.2, 0.9, 0.9],  # class 0: right in {0, 2}, whatever the classes outside of it
            [0.1, 0.5, 0.6, 0.9, 0.9],  # class 2: right in both halves
            [0.9, 0.5, 0.6, 0.9, 0.9],  # class 1: wrong in {1, 2}
            [NAN] * 5,  # class 2, undecoded: wrong in both
        ]
    )
    assert half_class_accuracies(scores, [0, 0, 2, 1, 2], seeds=[0, 1]) == pytest.approx([50, 100 / 3])


def test_the_ten_halves_are_those_of_numpys_global_seed():
    generator = np.random.default_rng(0)
    scores, labels, expected = generator.normal(size=(300, 11)), generator.integers(11, size=300), []
    for seed in range(10):
        np.random.seed(seed)
        half = sorted(np.random.permutation(11)[:5])
        clips = [(row, label) for row, label in zip(scores, labels) if label in half]
        expected.append(100 * np.mean([max(half, key=lambda c: row[c]) == label for row, label in clips]))
    assert half_class_accuracies(scores, labels) == pytest.approx(expected)


def test_a_drawn_class_without_clips_is_no_candidate_and_a_half_without_clips_is_an_error():
    scores = np.array([[0.1, 0.0, 0.9, 0.0, 0.0]])
    assert half_class_accuracies(scores, [0], seeds=[0]) == pytest.approx([100])
    with pytest.raises(ValueError, match="half of the classes of seed 1"):
        half_class_accuracies(scores, [0], seeds=[0, 1])


def test_the_prediction_summary_counts_what_was_predicted_and_what_failed():
    scores = np.array([[1.0, 0, 0], [0, 1.0, 0], [1.0, 0, 0], [NAN, NAN, NAN]])
    summary = prediction_summary(scores, [0, 0, 1, 1])
    assert summary["confusion"].tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert summary["per_class_accuracy"][:2].tolist() == [50.0, 0.0]
    assert np.isnan(summary["per_class_accuracy"][2])
    by_hand = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert summary["prediction_entropy"] == pytest.approx(by_hand)


def test_a_set_of_which_nothing_decoded_has_a_summary_too():
    summary = prediction_summary(np.full((2, 3), NAN), [0, 1])
    assert summary["confusion"].sum() == 0 and np.isnan(summary["prediction_entropy"])


def test_mean_average_precision_by_hand():
    truth = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    scores = np.array([[0.9, 0.1, 0.5], [0.5, 0.9, 0.5], [0.1, 0.5, 0.5]])
    # class 0: positives at ranks 1 and 3, (1/1 + 2/3) / 2; class 1: at ranks 1 and 2, 1; class 2: none
    found = mean_average_precision(scores, truth)
    assert found == pytest.approx(100 * (5 / 6 + 1) / 2)


def test_undecoded_clips_lower_the_mean_average_precision():
    truth = np.array([[1], [0], [1]], dtype=bool)
    assert mean_average_precision([[0.9], [0.1], [0.8]], truth) == pytest.approx(100)
    # the positive at rank 3 has precision 2/3
    assert mean_average_precision([[0.9], [0.1], [NAN]], truth) == pytest.approx(100 * (1 + 2 / 3) / 2)
    # nothing decoded: everything is tied, and the precision is the share of positives
    assert mean_average_precision([[NAN]] * 3, truth) == pytest.approx(100 * 2 / 3)


def test_clips_without_any_class_are_ranked_last_as_in_charades_own_evaluation():
    truth = np.array([[1, 0], [0, 1], [0, 0]])
    scores = np.array([[0.5, 0.1], [0.1, 0.5], [0.9, 0.9]])
    assert mean_average_precision(scores, truth) == 100


def test_mean_average_precision_equals_scikit_learns_where_every_clip_has_a_class_and_a_score():
    generator = np.random.default_rng(0)
    scores, truth = generator.normal(size=(60, 5)), generator.random((60, 5)) < 0.3
    truth[:, 0] |= ~truth.any(axis=1)
    assert mean_average_precision(scores, truth) == pytest.approx(100 * average_precision_score(truth, scores))
    scores[:, 2] = -np.inf  # a class without training clips
    expected = np.where(np.isinf(scores), -99, scores)
    assert mean_average_precision(scores, truth) == pytest.approx(100 * average_precision_score(truth, expected))


def test_a_truth_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="0 or 1"):
        mean_average_precision(np.zeros((2, 2)), np.full((2, 2), 2))
    with pytest.raises(ValueError, match="none of the 2 clips"):
        mean_average_precision(np.zeros((2, 3)), np.zeros((2, 3)))


# Zero-shot ------------------------------------------------------------------------------------------------------------


def test_zero_shot_scores_are_cosines_and_the_two_spaces_are_averaged():
    embeddings = np.array([[3.0, 4.0], [NAN, NAN]])
    category, description = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 5.0], [0.6, 0.8]])
    assert zero_shot_scores(embeddings, category)[0] == pytest.approx([0.6, 0.8])
    both = zero_shot_scores(embeddings, category, description)
    assert both[0] == pytest.approx([(0.6 + 0.8) / 2, (0.8 + 1.0) / 2])
    assert np.isnan(both[1]).all()


def test_zero_shot_probabilities_are_a_softmax_at_clips_scale():
    probabilities = zero_shot_probabilities([[0.30, 0.29], [NAN, NAN]])
    assert probabilities[0] == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))])
    assert np.isnan(probabilities[1]).all()


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
