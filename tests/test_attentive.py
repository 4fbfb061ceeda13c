"""The attentive probe: what it learns, on which tokens, and beside the other probes."""

import numpy as np
import pytest
import torch

from lib.backbone import VideoCLIP
from lib.datasets.parts import list_dataset
from lib.evaluation.attentive import AttentivePool, fit_attentive_probe, train_probes
from lib.evaluation.evaluate import evaluate
from lib.evaluation.features import extract
from lib.evaluation.probes import ProbeError
from lib.run.fields import EvaluateParams
from lib.run.params import load
from lib.train import adapt

TRAINING = {"epochs": 30, "batch_size": 32, "weight_decay": 0.01}


def clips(count, seed):
    """Tokens 'n 6 16' of which one, marked in the last dimension, has the class; the others have random ones,
    larger."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=count)
    tokens = 0.1 * generator.normal(size=(count, 6, 16))
    tokens[np.arange(count)[:, None], np.arange(6), generator.integers(3, size=(count, 6))] += 2
    place = generator.integers(6, size=count)
    tokens[np.arange(count), place, :3] = np.eye(3)[labels]
    tokens[np.arange(count), place, 15] = 4
    return tokens.astype(np.float32), labels


def fit(tokens, labels, rates=(1e-5, 1e-2), **changes):
    settings = {"num_classes": 3, "learning_rates": rates, "held_out": 0.25, "seed": 0}
    return fit_attentive_probe(tokens, labels, **settings, **TRAINING | changes)


def test_it_finds_the_frame_that_tells_the_class_at_the_better_rate_and_the_same_seed_gives_the_same_bits():
    probe = fit(*clips(300, 0))
    tokens, labels = clips(200, 1)
    tokens[7] = np.nan
    scores = probe.scores(tokens, batch_size=50)
    decoded = np.arange(200) != 7
    assert (scores.argmax(1) == labels)[decoded].mean() > 0.9 and np.isnan(scores[7]).all()
    assert np.isfinite(scores[decoded]).all()
    assert probe.learning_rate == 1e-2 and [record["learning_rate"] for record in probe.sweep] == [1e-5, 1e-2]
    assert probe.sweep[0]["held_out_top1"] < 60 < 90 < probe.sweep[1]["held_out_top1"]
    again = fit(*clips(300, 0)).scores(tokens)
    np.testing.assert_array_equal(again, scores)


def test_rates_trained_together_end_as_each_alone():
    tokens, labels = map(torch.as_tensor, clips(40, 0))
    start = AttentivePool(16, 3, seed=0)
    together = train_probes(start, tokens, labels, [1e-3, 1e-2], seed=3, **TRAINING)
    for rate, model in zip((1e-3, 1e-2), together):
        (alone,) = train_probes(start, tokens, labels, [rate], seed=3, **TRAINING)
        for a, b in zip(model.parameters(), alone.parameters()):
            torch.testing.assert_close(a, b)


def test_a_probe_that_diverges_at_every_rate_is_an_error():
    with pytest.raises(ProbeError, match="diverged at .*: add lower values to attentive_learning_rates"):
        fit(*clips(60, 0), rates=[1e30], epochs=3)


def test_the_frames_are_those_whose_mean_the_features_are(tiny):
    params = tiny("image_clip")
    model = VideoCLIP.from_image_clip(params.clip)
    videos = list_dataset(params, "embedded")["test"]
    loading = dict(precision="float32", workers=0, loader_timeout=50, batch_size=3, title="")
    found = extract(model, videos.videos[:4], ["2x2x1@24", "1x1x1@24"], frame_views=["2x2x1@24"], **loading)
    assert set(found.arrays) == {f"{v}/{k}" for v in ("2x2x1@24", "1x1x1@24") for k in ("features", "embedding")} | {
        "2x2x1@24/frames"
    }
    frames = found.arrays["2x2x1@24/frames"]
    assert frames.shape == (4, 4, 24)
    np.testing.assert_allclose(frames.reshape(4, 2, 2, 24).mean(2), found.arrays["2x2x1@24/features"], atol=1e-5)
    assert not model.visual.final_norm._forward_hooks


def test_it_is_measured_beside_the_linear_probe_and_off_by_default(tiny, tmp_path):
    params = tiny("image_clip", attentive_epochs=2)
    adapt(params, tmp_path)
    record = evaluate(params, tmp_path)
    assert {m["metric"] for m in record["metrics"] if m["protocol"] == "attentive_probe"} >= {"top1", "top5"}
    attentive = record["datasets"]["embedded"]["probe"]["test"]["attentive"]
    assert attentive["learning_rate"] in params.attentive_learning_rates and len(attentive["sweep"]) == 5
    plain = evaluate(params.model_copy(update={"attentive_epochs": 0}), tmp_path)
    others = [m for m in record["metrics"] if m["protocol"] != "attentive_probe"]
    assert plain["metrics"] == others and "attentive" not in plain["datasets"]["embedded"]["probe"]["test"]


@pytest.mark.parametrize("changes, used", [({"attentive_batch_size": 8}, False), ({"attentive_epochs": 20}, True)])
def test_its_parameters_count_where_it_is_used(changes, used):
    hashes = {load(profile="paper", **own).stage_hash(EvaluateParams) for own in ({}, changes)}
    assert len(hashes) == 1 + used
