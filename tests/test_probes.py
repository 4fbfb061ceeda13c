"""The probes against scikit-learn and values computed by hand."""

import functools
import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler, normalize

from lib.evaluation.metrics import topk_correct
from lib.evaluation.probes import ProbeError, few_per_class, fit_linear_probe, knn, mean_over_views, refit

NAN = float("nan")


# Linear probe ---------------------------------------------------------------------------------------------------------


def noisy_classes(num_clips: int, *, num_classes: int = 4, width: int = 8, seed: int = 0, scale: float = 2.0):
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_classes, width)) * scale
    labels = np.arange(num_clips) % num_classes
    return centres[labels] + generator.normal(size=(num_clips, width)) * np.arange(1, width + 1), labels


PROBE = {
    "num_classes": 4,
    "grid": [0.01, 1.0, 100.0],
    "refinements": 0,
    "held_out": 0.25,
    "max_iter": 1000,
    "tolerance": 1e-4,
    "seed": 0,
}
NORMALISED = {"raw": lambda x: x, "standardise": lambda x: StandardScaler().fit_transform(x), "l2": normalize}


def test_the_linear_probe_is_scikit_learns_at_the_chosen_c_refitted_on_the_whole_training_split():
    train, labels = noisy_classes(120)
    test, _ = noisy_classes(40, seed=1)
    probe = fit_linear_probe(train, labels, normalise="standardise", **PROBE)
    scaler = StandardScaler().fit(train)
    reference = LogisticRegression(C=probe.C, max_iter=1000).fit(scaler.transform(train), labels)
    assert np.allclose(probe.scores(test), reference.decision_function(scaler.transform(test)))
    assert np.allclose(probe.probabilities(test), reference.predict_proba(scaler.transform(test)))
    sweep, refit = probe.records[:-1], probe.records[-1]
    assert [record["C"] for record in sweep] == [0.01, 1.0, 100.0]
    best = max(record["held_out_top1"] for record in sweep)
    assert probe.C == min(record["C"] for record in sweep if record["held_out_top1"] == best)
    assert refit["fit"] == "refit" and refit["C"] == probe.C and refit["held_out_top1"] is None
    assert all(record["iterations"] > 0 for record in probe.records)


@pytest.mark.parametrize("normalise", NORMALISED)
def test_the_centred_fit_is_the_plain_fit_when_both_are_run_to_the_end(normalise):
    train, labels = noisy_classes(120)
    train = train + np.array([20, -9, 5, 0, 0, 0, 0, 0])  # a few large offsets, as CLIP's features have
    probe = fit_linear_probe(train, labels, normalise=normalise, **PROBE | {"tolerance": 1e-8, "max_iter": 10000})
    plain = LogisticRegression(C=probe.C, max_iter=100000, tol=1e-10).fit(NORMALISED[normalise](train), labels)
    assert probe.model[-1].coef_ == pytest.approx(plain.coef_, abs=1e-4)
    assert probe.probabilities(train) == pytest.approx(plain.predict_proba(NORMALISED[normalise](train)), abs=1e-4)


def test_the_sweep_is_refined_around_its_peak():
    train, labels = noisy_classes(240)
    coarse = fit_linear_probe(train, labels, normalise="raw", **PROBE | {"grid": [1e-4, 1e-2, 1.0]})
    fine = fit_linear_probe(train, labels, normalise="raw", **PROBE | {"grid": [1.0, 1e-4, 1e-2], "refinements": 2})
    known = {record["C"]: record["held_out_top1"] for record in coarse.records[:-1]}
    sweep = fine.records[:-1]
    assert [record["held_out_top1"] for record in sweep[:3]] == list(known.values())
    for _ in range(2):  # by hand: the smallest of the best, and the geometric means on both sides of it
        tried = sorted(known)
        place = tried.index(min(C for C in tried if known[C] == max(known.values())))
        around = tried[max(0, place - 1) : place + 2]
        for low, high in zip(around, around[1:]):
            record = sweep[len(known)]
            assert record["C"] == pytest.approx(math.sqrt(low * high))
            known[record["C"]] = record["held_out_top1"]
    assert len(sweep) == len(known) > 4
    assert fine.C == min(C for C in known if known[C] == max(known.values()))


def test_no_other_clip_moves_the_score_of_a_test_clip():
    train, labels = noisy_classes(120)
    test, _ = noisy_classes(40, seed=1)
    probe = fit_linear_probe(train, labels, normalise="standardise", **PROBE)
    assert np.allclose(probe.scores(test[:1])[0], probe.scores(np.concatenate([test, 1e6 * test]))[0])


def test_the_l2_probe_does_not_see_the_length_of_a_feature():
    train, labels = noisy_classes(120)
    test, _ = noisy_classes(40, seed=1)
    first = fit_linear_probe(train, labels, normalise="l2", **PROBE)
    scaled = fit_linear_probe(train * np.linspace(1, 9, 120)[:, None], labels, normalise="l2", **PROBE)
    assert np.allclose(first.scores(test), scaled.scores(test * 7))


def test_an_unknown_normalisation_is_an_error():
    train, labels = noisy_classes(120)
    with pytest.raises(ValueError, match="choose 'raw', 'standardise' or 'l2'"):
        fit_linear_probe(train, labels, normalise="none", **PROBE)


@pytest.mark.parametrize("normalise", NORMALISED)
def test_a_fit_that_stopped_early_is_an_error_that_says_which_and_what_to_do(normalise):
    train, labels = noisy_classes(120)
    with pytest.raises(ProbeError, match=r"C = 0.01 stopped early, with probe_max_iter = 1: raise it") as error:
        fit_linear_probe(train, labels, normalise=normalise, **PROBE | {"max_iter": 1})
    assert ("set probe_normalise to standardise" in str(error.value)) == (normalise != "standardise")


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
    probe = fit_linear_probe(train[kept], labels[kept], normalise="standardise", **PROBE)
    scores, probabilities = probe.scores(test), np.delete(probe.probabilities(test), 5, axis=0)
    assert scores.shape == (40, 4) and np.isnan(scores[5]).all()
    assert np.isneginf(np.delete(scores, 5, axis=0)[:, 2]).all()
    assert (probabilities[:, 2] == 0).all() and np.allclose(probabilities.sum(axis=1), 1)
    assert np.isnan(probe.probabilities(test)[5]).all()
    right = topk_correct(scores, test_labels, 1)
    expected = np.isin(test_labels, seen) & (np.arange(40) != 5)
    assert np.array_equal(right, expected)


def test_training_clips_without_finite_features_are_an_error_and_not_left_out_in_silence():
    train, labels = noisy_classes(120)
    train[3] = NAN
    with pytest.raises(ValueError, match="1 of 120 training clips"):
        fit_linear_probe(train, labels, normalise="l2", **PROBE)


# k-NN -----------------------------------------------------------------------------------------------------------------


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


# Views ----------------------------------------------------------------------------------------------------------------


def test_views_are_scored_one_by_one_and_their_probabilities_averaged():
    train, labels = noisy_classes(120)
    first, second = noisy_classes(10, seed=1)[0], noisy_classes(10, seed=2)[0]
    second[3] = NAN
    probe = fit_linear_probe(train, labels, normalise="raw", **PROBE)
    neighbours = functools.partial(knn, train, labels, num_classes=4, k=5)
    for probabilities in (probe.probabilities, neighbours):
        averaged = mean_over_views(probabilities, np.stack([first, second], axis=1))
        assert np.allclose(averaged, (probabilities(first) + probabilities(second)) / 2, equal_nan=True)
        assert np.isnan(averaged[3]).all() and np.isfinite(np.delete(averaged, 3, axis=0)).all()


def test_few_clips_of_each_class_are_nested_and_none_is_drawn_twice():
    labels = np.array([0, 1, 0, 2, 1, 0, 2, 0, 1, 1])
    two, three = few_per_class(labels, 2, seed=0), few_per_class(labels, 3, seed=0)
    assert np.bincount(labels[two]).tolist() == [2, 2, 2] and np.bincount(labels[three]).tolist() == [3, 3, 2]
    assert set(two) < set(three) and len(set(three)) == len(three)
    assert two.tolist() == few_per_class(labels, 2, seed=0).tolist() != few_per_class(labels, 2, seed=1).tolist()


def test_a_probe_with_a_known_c_is_the_refit_of_the_sweep_that_chose_it():
    train, labels = noisy_classes(200)
    swept = fit_linear_probe(train, labels, normalise="standardise", **PROBE)
    known = refit(
        train,
        labels,
        normalise="standardise",
        C=swept.C,
        **{name: PROBE[name] for name in ("num_classes", "max_iter", "tolerance")},
    )
    np.testing.assert_array_equal(known.scores(train), swept.scores(train))
