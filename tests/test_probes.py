"""The probes against scikit-learn and values computed by hand."""

import math

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lib.metrics import topk_correct
from lib.probes import ProbeError, fit_linear_probe, knn

NAN = float("nan")


def noisy_classes(num_clips: int, *, num_classes: int = 4, width: int = 8, seed: int = 0, scale: float = 2.0):
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_classes, width)) * scale
    labels = np.arange(num_clips) % num_classes
    return centres[labels] + generator.normal(size=(num_clips, width)) * np.arange(1, width + 1), labels


PROBE = {"num_classes": 4, "grid": [0.01, 1.0, 100.0], "refinements": 0, "held_out": 0.25, "max_iter": 1000,
         "seed": 0}


@pytest.mark.parametrize("normalise", ["raw", "standardise"])
def test_the_linear_probe_is_scikit_learns_at_the_chosen_c_refitted_on_the_whole_training_split(normalise):
    train, labels = noisy_classes(120)
    test, _ = noisy_classes(40, seed=1)
    train, test = train + 5.0, test + 5.0  # features far from zero: the probe centres them, scikit-learn does not
    probe = fit_linear_probe(train, labels, normalise=normalise, **PROBE)
    scaler = StandardScaler(with_mean=normalise != "raw", with_std=normalise != "raw").fit(train)
    reference = LogisticRegression(C=probe.C, max_iter=100000, tol=1e-8).fit(scaler.transform(train), labels)
    assert np.allclose(probe.probabilities(test), reference.predict_proba(scaler.transform(test)), atol=2e-3)
    sweep, refit = probe.records[:-1], probe.records[-1]
    assert [record["C"] for record in sweep] == [0.01, 1.0, 100.0]
    best = max(record["held_out_top1"] for record in sweep)
    assert probe.C == min(record["C"] for record in sweep if record["held_out_top1"] == best)
    assert refit["fit"] == "refit" and refit["C"] == probe.C and refit["held_out_top1"] is None
    assert all(record["iterations"] > 0 for record in probe.records)


def test_the_sweep_is_refined_around_its_best():
    train, labels = noisy_classes(120, scale=1.0)
    coarse = fit_linear_probe(train, labels, normalise="raw", **PROBE)
    fine = fit_linear_probe(train, labels, normalise="raw", **PROBE | {"refinements": 2})
    tried = [record["C"] for record in fine.records[:-1]]
    assert tried == sorted(tried) and {0.01, 1.0, 100.0} < set(tried)
    around = {0.01: [0.1], 1.0: [0.1, 10.0], 100.0: [10.0]}[coarse.C]
    assert set(np.round(around, 6)) <= set(np.round(tried, 6)) and 1 + len(around) <= len(tried) - 2
    assert max(r["held_out_top1"] for r in fine.records[:-1]) >= max(r["held_out_top1"] for r in coarse.records[:-1])


def test_the_l2_probe_does_not_see_the_length_of_a_feature():
    train, labels = noisy_classes(120)
    test, _ = noisy_classes(40, seed=1)
    first = fit_linear_probe(train, labels, normalise="l2", **PROBE)
    scaled = fit_linear_probe(train * np.linspace(1, 9, 120)[:, None], labels, normalise="l2", **PROBE)
    assert np.allclose(first.scores(test), scaled.scores(test * 7), atol=1e-3)


def test_a_probe_that_does_not_converge_is_an_error_that_names_the_fit_and_the_way_out():
    train, labels = noisy_classes(120)
    with pytest.raises(ProbeError, match=r"C = 0.01 has not converged in 2 iterations: raise probe_max_iter"):
        fit_linear_probe(train, labels, normalise="standardise", **PROBE | {"max_iter": 2})


def test_probabilities_are_the_softmax_of_the_scores_also_with_two_classes():
    train, labels = noisy_classes(120, num_classes=2)
    probe = fit_linear_probe(train, labels, normalise="raw", **PROBE | {"num_classes": 2})
    assert np.allclose(probe.probabilities(train), probe.model.predict_proba(train.astype(np.float32)), atol=1e-5)
    train, labels = noisy_classes(120)
    probe = fit_linear_probe(train, labels, normalise="raw", **PROBE)
    assert np.allclose(probe.probabilities(train), softmax(probe.scores(train), axis=1), atol=1e-6)


def test_groups_are_held_out_whole():
    # The features only tell the group, never the class: a clip's twin in the fitted part would give its label away.
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 4)
    labels = generator.permutation(40)[groups] % 4
    features = generator.normal(size=(40, 64))[groups] + 1e-3 * generator.normal(size=(160, 64))
    leaky = fit_linear_probe(features, labels, normalise="standardise", **PROBE)
    whole = fit_linear_probe(features, labels, normalise="standardise", groups=groups, **PROBE)
    assert max(record["held_out_top1"] for record in leaky.records[:-1]) > 95
    assert max(record["held_out_top1"] for record in whole.records[:-1]) < 60
    with pytest.raises(ValueError, match="2 groups are too few"):
        fit_linear_probe(features, labels, normalise="standardise", groups=groups // 20, **PROBE)


@pytest.mark.parametrize("seen", [(0, 3), (0, 1, 3)])
def test_classes_without_training_clips_are_never_predicted_and_undecoded_clips_are_nan(seen):
    train, labels = noisy_classes(120)
    kept = np.isin(labels, seen)
    test, test_labels = noisy_classes(40, seed=1, scale=20.0)
    train, test = train + noisy_classes(120, scale=20.0)[0], test.copy()
    test[5] = NAN
    scores = fit_linear_probe(train[kept], labels[kept], normalise="standardise", **PROBE).scores(test)
    assert scores.shape == (40, 4) and np.isnan(scores[5]).all()
    assert np.isneginf(np.delete(scores, 5, axis=0)[:, 2]).all()
    right = topk_correct(scores, test_labels, 1)
    expected = np.isin(test_labels, seen) & (np.arange(40) != 5)
    assert np.array_equal(right, expected)


def test_training_clips_without_finite_features_are_an_error_and_not_left_out_in_silence():
    train, labels = noisy_classes(120)
    train[3] = NAN
    with pytest.raises(ValueError, match="1 of 120 training clips"):
        fit_linear_probe(train, labels, normalise="l2", **PROBE)


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
