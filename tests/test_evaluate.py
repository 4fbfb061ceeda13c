import shutil

import layouts
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoTokenizer, CLIPModel

from lib.datasets.parts import DataError, list_dataset
from lib.evaluation import features
from lib.evaluation.evaluate import evaluate
from lib.evaluation.protocols import Record
from lib.language.selection import class_concepts
from lib.language.vocabulary import read_prompts, readable_name
from lib.run.code import code_hash
from lib.run.fields import EvaluateParams
from lib.run.files import read_json, write_json
from lib.run.params import FOLDER
from lib.train import adapt
from lib.video.decode import decode
from lib.video.views import EvalView, evaluation_indices, evaluation_views


@pytest.fixture(scope="module")
def image_clip(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("image_clip")
    params = tiny("image_clip")
    adapt(params, folder)
    return params, folder, evaluate(params, folder)


def value(record, protocol, metric="top1", part="test"):
    wanted = (part, protocol, metric)
    (found,) = [m["value"] for m in record["metrics"] if (m["part"], m["protocol"], m["metric"]) == wanted]
    return found


@torch.no_grad()
@pytest.mark.parametrize("protocol, views", [("zero_shot", "zero_shot_views"), ("zero_shot_still", "still_views")])
def test_image_clip_zero_shot_equals_hugging_faces_clip_averaged_over_frames(image_clip, protocol, views):
    params, folder, record = image_clip
    model, tokenizer = CLIPModel.from_pretrained(params.clip).eval(), AutoTokenizer.from_pretrained(params.clip)
    videos = list_dataset(params, "embedded")["test"]
    (view,) = map(EvalView.parse, getattr(params, views))
    (template,) = read_prompts(FOLDER / "prompts" / f"{params.prompts}.yaml")
    prompts = [template.format(concept.class_name) for concept in class_concepts(params, videos.classes)]
    texts = tokenizer(prompts, padding=True, return_tensors="pt")
    text = torch.nn.functional.normalize(model.get_text_features(**texts).pooler_output, dim=-1)
    predicted = []
    for video in videos.videos:
        frames = decode(
            video.path,
            lambda n, fps: evaluation_indices(n, num_frames=view.num_frames).ravel(),
            short_side=view.image_size,
        )
        clip = evaluation_views(frames.pixels, frames.rows[None], crops=1, image_size=view.image_size)[0]
        embedding = model.get_image_features(clip.transpose(0, 1)).pooler_output.mean(0)
        predicted.append(int((embedding @ text.T).argmax()))
    right = [label == video.label for label, video in zip(predicted, videos.videos)]
    answers = load_file(folder / "correct.safetensors")
    assert value(record, protocol) == pytest.approx(100 * np.mean(right))
    assert answers[f"embedded/test/{protocol}"].tolist() == right
    assert answers[f"embedded/test/{protocol}/predicted"].tolist() == predicted


def test_probes_on_few_clips_use_the_c_for_one_and_choose_within_more(image_clip):
    params, folder, record = image_clip
    chosen = record["datasets"]["embedded"]["probe"]["test"]["C"]
    by_part = evaluate(params.model_copy(update={"probe_shots": [1, 2]}), folder)
    few = {"probe_shots": [1, 2], "probe_one_shot_c": chosen}
    within = evaluate(params.model_copy(update=few), folder)
    assert value(within, "linear_probe_1_shot") == value(by_part, "linear_probe_1_shot")  # the same C
    tiny_c = evaluate(params.model_copy(update=few | {"probe_one_shot_c": 1e-9}), folder)
    assert value(tiny_c, "linear_probe_2_shot") == value(within, "linear_probe_2_shot")  # chosen among its own clips
    evaluate(params, folder)


def test_every_protocol_is_measured_and_what_was_used_is_recorded(image_clip):
    params, folder, record = image_clip
    assert {(m["protocol"], m["metric"]) for m in record["metrics"]} == {
        (protocol, metric)
        for protocol in ("zero_shot", "zero_shot_still", "linear_probe", "knn_5")
        for metric in ("top1", "top5", "pair_top1", "prediction_entropy")
    } | {("linear_probe_2_shot", "top1")}
    found = record["datasets"]["embedded"]
    assert len(found["data"]) == 12
    assert found["parts"]["test"] == {
        "listed": 32,
        "found": 32,
        "decoded": 32,
        "failed": [],
        "missing": [],
        "extra": [],
        "left_out": [],
        "absent_classes": [],
    }
    assert found["probe"]["test"]["C"] in params.probe_c
    assert record["views"] == {"zero_shot": ["2x1x1@24"], "probe": ["2x1x1@24"], "average": "features"}
    assert len(record["prompts"]["photo"]) == len(record["concepts"]["embedded"]) == 12
    per_class, confusion = (
        record["per_class"]["embedded/test/zero_shot"],
        record["confusion"]["embedded/test/linear_probe"],
    )
    assert len(per_class) == 16 and np.sum(confusion) == 32
    assert value(record, "zero_shot") == pytest.approx(np.mean(per_class))  # classes are equally frequent


def test_the_answer_to_every_test_clip_is_written_beside_the_metrics(image_clip):
    params, folder, record = image_clip
    answers = pd.read_csv(folder / "answers.csv")
    assert list(answers) == ["dataset", "part", "protocol", "clip", "truth", "prediction", "score"]
    assert set(answers["dataset"]) == {"embedded"} and set(answers["part"]) == {"test"}
    videos = list_dataset(params, "embedded")["test"]
    kept = load_file(folder / "correct.safetensors")
    for protocol, rows in answers.groupby("protocol"):
        assert rows["clip"].tolist() == [video.name for video in videos.videos]
        assert rows["truth"].tolist() == [videos.classes[video.label] for video in videos.videos]
        assert 100 * (rows["truth"] == rows["prediction"]).mean() == value(record, protocol)
        predicted = [videos.classes[number] for number in kept[f"embedded/test/{protocol}/predicted"]]
        assert rows["prediction"].tolist() == predicted
    assert set(answers["protocol"]) == {"zero_shot", "linear_probe"}
    assert answers.loc[answers["protocol"] == "zero_shot", "score"].between(-1, 1).all()  # cosines


def test_features_are_extracted_once_for_a_model_its_views_and_the_code(image_clip, monkeypatch):
    params, folder, record = image_clip
    made = {path: path.stat().st_mtime_ns for path in (folder / "features").glob("embedded-*.safetensors")}
    again = evaluate(params.model_copy(update={"knn_k": [3]}), folder)
    (first,) = made
    assert first.stat().st_mtime_ns == made[first] and value(again, "zero_shot") == value(record, "zero_shot")
    known = read_json(first.with_suffix(".json"))
    assert known["settings"]["code"] == code_hash("evaluation.features") and known["commit"] == record["commit"]
    evaluate(params.model_copy(update={"zero_shot_views": ["4x1x1@24"]}), folder)
    assert (
        first.stat().st_mtime_ns == made[first] and len(list(first.parent.glob("*.safetensors"))) == 2
    )  # side by side
    monkeypatch.setattr(features, "code_hash", lambda module: f"other {module}")
    evaluate(params, folder)
    (now,) = first.parent.glob("*.safetensors")  # of other code, features cannot be asked for again
    assert now != first and read_json(now.with_suffix(".json"))["settings"]["code"] == "other evaluation.features"


def test_a_record_says_what_was_evaluated_with_which_parameters_and_not_in_place_of_other_data(image_clip, tmp_path):
    params, folder, record = image_clip
    adapted = read_json(folder / "adapt.json")
    assert record["params"] == {name: getattr(params, name) for name in EvaluateParams.model_fields}
    assert record["adapted"] == {name: adapted[name] for name in ("commit", "code", "params_hash", "sources")}
    assert params.made(record, EvaluateParams) and record["code"] == code_hash("evaluation.evaluate")
    write_json(tmp_path / "adapt.json", adapted | {"params": adapted["params"] | {"clip": "/elsewhere/clip"}})
    with pytest.raises(ValueError, match="adapted with data from another folder; run 02_adapt"):
        evaluate(params, tmp_path)


def test_a_corrupt_test_video_counts_as_wrong_and_is_listed(tiny, tmp_path):
    whole = tiny("image_clip")
    shutil.copytree(whole.data_embedded, tmp_path / "world")
    params = whole.model_copy(update={"data_embedded": str(tmp_path / "world"), "max_bad_videos": 0})
    adapt(params, tmp_path / "run")
    before = evaluate(params, tmp_path / "run")
    victim = sorted((tmp_path / "world" / "test").rglob("*.mp4"))[5]
    victim.write_bytes(victim.read_bytes()[:300])
    after = evaluate(params, tmp_path / "run")  # the changed file is noticed
    counts = after["datasets"]["embedded"]["parts"]["test"]
    assert (counts["decoded"], counts["found"], counts["listed"]) == (31, 32, 32)
    ((name, reason),) = counts["failed"]
    assert name.endswith(victim.stem) and reason
    for protocol in ("zero_shot", "linear_probe", "knn_5"):
        assert value(after, protocol) in (value(before, protocol), pytest.approx(value(before, protocol) - 100 / 32))
    answers = pd.read_csv(tmp_path / "run" / "answers.csv", keep_default_na=False)
    unanswered = answers[answers["prediction"] == ""]
    assert unanswered["protocol"].tolist() == ["zero_shot", "linear_probe"] and set(unanswered["score"]) == {""}
    assert unanswered["clip"].str.endswith(victim.stem).all() and len(answers) == 64


def test_scores_of_nan_belong_to_clips_that_cannot_be_decoded_and_to_no_others(image_clip):
    params, folder, _ = image_clip
    videos = list_dataset(params, "embedded")["test"]
    scores, record = np.zeros((32, 16)), Record([])
    scores[5] = np.nan
    with pytest.raises(ValueError, match="embedded/test/zero_shot: scores are NaN of clips that were decoded"):
        record.scores("embedded/test/zero_shot", scores, videos)
    record.failed.add(str(videos.videos[5].path))
    record.scores("embedded/test/zero_shot", scores, videos)
    assert record.correct["embedded/test/zero_shot/predicted"].tolist().index(-1) == 5
    with pytest.raises(ValueError, match="device: 'cuda:64' cannot be used"):
        evaluate(params.model_copy(update={"device": "cuda:64"}), folder)
    assert (folder / "metrics.json").exists()  # nothing was touched


def test_without_a_finished_adaptation_there_is_nothing_to_evaluate(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="run 02_adapt"):
        evaluate(tiny(), tmp_path)


def test_balanced_predictions_spread_over_the_classes(tiny, tmp_path):
    params = tiny("image_clip_balanced", sinkhorn_iterations=50)
    adapt(params, tmp_path)
    plain = evaluate(params.model_copy(update={"balance_predictions": False}), tmp_path)
    balanced = evaluate(params, tmp_path)
    assert value(balanced, "zero_shot", "prediction_entropy") > value(plain, "zero_shot", "prediction_entropy")


def test_the_protocols_of_the_field_on_real_clips_from_one_decoding_pass(tiny, laid_out, tmp_path):
    params = tiny(
        "image_clip",
        evaluate_on=["ucf101"],
        probe_on=["ucf101"],
        data_ucf101=str(laid_out("ucf101")),
        allow_missing=True,
        concepts=["ucf101"],
        class_vocabularies=["ucf101"],
        concept_spaces=["category"],
        alignment_weight=0.0,
        zero_shot_prompts="bare",
        zero_shot_protocols=["split", "full", "half"],
        zero_shot_views=["2x1x1@24"],
        probe_views=["2x1x1@24", "4x2x3@16"],
        manifests=str(tmp_path),
        probe_held_out=0.3,
    )
    adapt(params, tmp_path / "run")
    record = evaluate(params, tmp_path / "run")
    found = record["datasets"]["ucf101"]
    assert found["classes"] == list(layouts.UCF101)
    assert {part: counts["found"] for part, counts in found["parts"].items()} == {
        "all": 23,
        "train-1": 15,
        "test-1": 8,
        "train-2": 15,
        "test-2": 8,
        "train-3": 19,
        "test-3": 4,
    }
    assert (
        found["counts"]["found"] == found["counts"]["decoded"] == 20 and found["counts"]["listed"] == 387
    )  # the three test parts
    accuracies = [value(record, "zero_shot", part=f"test-{split}") for split in (1, 2, 3)]
    # every clip of the split is scored by the same features as in the whole set
    answers = load_file(tmp_path / "run" / "correct.safetensors")
    assert accuracies == pytest.approx([100 * answers[f"ucf101/test-{s}/zero_shot"].mean() for s in (1, 2, 3)])
    whole = value(record, "zero_shot_full", part="all")
    assert 100 * answers["ucf101/all/zero_shot_full"].sum() / 23 == pytest.approx(whole)
    halves = [m["value"] for m in record["metrics"] if m["protocol"] == "zero_shot_half"]
    assert len(halves) == 10 and np.mean(halves) > whole  # two classes are easier than four
    (kept,) = (tmp_path / "run" / "features").glob("ucf101-*.safetensors")
    features = load_file(kept)
    assert features["4x2x3@16/features"].shape[:2] == (23, 6)
    assert np.allclose(np.linalg.norm(features["2x1x1@24/embedding"], axis=-1), 1, atol=1e-5)
    by_views = evaluate(params.model_copy(update={"average_views": "probabilities"}), tmp_path / "run")
    # a single view: the softmax keeps the order
    assert [value(by_views, "zero_shot", part=f"test-{s}") for s in (1, 2, 3)] == accuracies
    assert [value(by_views, "linear_probe", part=f"test-{s}") for s in (1, 2, 3)] != [
        value(record, "linear_probe", part=f"test-{s}") for s in (1, 2, 3)
    ]


def test_kinetics600_is_classified_among_the_classes_of_each_split(tiny, laid_out, tmp_path):
    params = tiny(
        "image_clip",
        evaluate_on=["kinetics600"],
        probe_on=[],
        data_kinetics600=str(laid_out("kinetics600")),
        allow_missing=True,
        zero_shot_prompts="bare",
        zero_shot_views=["2x1x1@24"],
        manifests=str(tmp_path),
        evaluate_splits=[1, 3],
    )
    adapt(params, tmp_path / "run")
    record = evaluate(params, tmp_path / "run")
    parts = list_dataset(params, "kinetics600")
    answers = load_file(tmp_path / "run" / "correct.safetensors")
    assert set(record["concepts"]) == {"merge", "embedded", "kinetics600"}
    assert record["datasets"]["kinetics600"]["classes"] == parts["test-1"].classes
    assert record["datasets"]["kinetics600"]["counts"] == {"listed": 9266, "found": 22, "decoded": 22}
    model, tokenizer = CLIPModel.from_pretrained(params.clip).eval(), AutoTokenizer.from_pretrained(params.clip)
    (kept,) = (tmp_path / "run" / "features").glob("kinetics600-*.safetensors")
    embeddings = load_file(kept)["2x1x1@24/embedding"][:, 0]
    clips = list(dict.fromkeys(video.path for part in ("test-1", "test-3") for video in parts[part].videos))
    for part in ("test-1", "test-3"):
        texts = tokenizer([readable_name(name) for name in parts[part].classes], padding=True, return_tensors="pt")
        with torch.no_grad():
            text = torch.nn.functional.normalize(model.get_text_features(**texts).pooler_output, dim=-1).numpy()
        rows = [clips.index(video.path) for video in parts[part].videos]
        predicted = answers[f"kinetics600/{part}/zero_shot/predicted"]
        assert predicted.tolist() == (embeddings[rows] @ text.T).argmax(axis=1).tolist()
        right = predicted == [video.label for video in parts[part].videos]
        assert value(record, "zero_shot", part=part) == 100 * right.mean()
        assert value(record, "zero_shot", "top5", part=part) >= 100 * right.mean()
    assert len(parts["test-1"].classes) == 160 and parts["test-1"].classes != parts["test-3"].classes


def test_ssv2_is_scored_on_its_validation_part_and_directions_apart(tiny, laid_out, tmp_path):
    params = tiny(
        "image_clip",
        evaluate_on=["ssv2"],
        probe_on=["ssv2"],
        data_ssv2=str(laid_out("ssv2")),
        allow_missing=True,
        zero_shot_prompts="bare",
        probe_held_out=0.3,
        manifests=str(tmp_path),
    )
    adapt(params, tmp_path / "run")
    record = evaluate(params, tmp_path / "run")
    assert any("pair_top1 (chance: 50)" in warning for warning in record["warnings"])
    assert record["datasets"]["ssv2"]["counts"] == {"listed": 8, "found": 8, "decoded": 8}
    assert len(record["datasets"]["ssv2"]["classes"]) == 174
    answers = load_file(tmp_path / "run" / "correct.safetensors")
    # of the two templates whose reversal is a template too
    assert len(answers["ssv2/validation/zero_shot/pairs"]) == 6
    pairs = 100 * answers["ssv2/validation/zero_shot/pairs"].mean()
    assert value(record, "zero_shot", "pair_top1", part="validation") == pytest.approx(pairs)
    assert value(record, "linear_probe", part="validation") >= 0


def test_missing_files_stop_the_run_before_it_computes_unless_allowed(tiny, laid_out, tmp_path):
    params = tiny(
        "image_clip",
        dataset="ucf101",
        data_ucf101=str(laid_out("ucf101")),
        concepts=["ucf101"],
        class_vocabularies=["ucf101"],
        probe_on=[],
        evaluate_on=["ucf101"],
        manifests=str(tmp_path / "manifests"),
    )
    with pytest.raises(DataError, match=r"(?s)ucf101.*440 of 463 .*allow_missing"):
        adapt(params, tmp_path / "run")
    assert not (tmp_path / "run" / "teacher").exists()
