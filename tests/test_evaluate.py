import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoTokenizer, CLIPModel

from lib.data import list_part
from lib.evaluate import evaluate
from lib.params import FOLDER
from lib.concepts import read_prompts
from lib.train import adapt, read_concepts
from lib.video import decode
from lib.views import evaluation_indices, evaluation_views


@pytest.fixture(scope="module")
def image_clip(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("image_clip")
    params = tiny("image_clip", evaluate_parts=["test"])
    adapt(params, folder)
    return params, folder, evaluate(params, folder)


def value(record, protocol, metric="top1", part="test"):
    wanted = (part, protocol, metric)
    (found,) = [m["value"] for m in record["metrics"] if (m["part"], m["protocol"], m["metric"]) == wanted]
    return found


@torch.no_grad()
def test_image_clip_zero_shot_equals_hugging_faces_clip_averaged_over_frames(image_clip):
    params, folder, record = image_clip
    model, tokenizer = CLIPModel.from_pretrained(params.clip).eval(), AutoTokenizer.from_pretrained(params.clip)
    videos = list_part(params, "test")
    (template,) = read_prompts(FOLDER / "prompts" / f"{params.prompts}.yaml")
    prompts = [template.format(concept.spoken) for concept in read_concepts(params, videos.classes)]
    texts = tokenizer(prompts, padding=True, return_tensors="pt")
    text = torch.nn.functional.normalize(model.get_text_features(**texts).pooler_output, dim=-1)
    right = []
    for video in videos.videos:
        frames = decode(video.path, lambda n, fps: evaluation_indices(n, num_frames=params.eval_num_frames).ravel(),
                        short_side=params.eval_image_size)
        view = evaluation_views(frames.pixels, frames.rows[None], crops=1, image_size=params.eval_image_size)[0]
        embedding = model.get_image_features(view.transpose(0, 1)).pooler_output.mean(0)
        right.append(int((embedding @ text.T).argmax()) == video.label)
    assert value(record, "zero_shot") == pytest.approx(100 * np.mean(right))
    assert load_file(folder / "correct.safetensors")["test/zero_shot"].tolist() == right


def test_every_protocol_is_measured_and_what_was_used_is_recorded(image_clip):
    params, folder, record = image_clip
    assert {(m["protocol"], m["metric"]) for m in record["metrics"]} == {
        (protocol, metric) for protocol in ("zero_shot", "linear_probe", "knn_5")
        for metric in ("top1", "top5", "pair_top1", "prediction_entropy")}
    assert record["parts"]["test"] == {
        "listed": 32, "decoded": 32, "failed": [], "missing": [], "extra": [], "absent_classes": []}
    assert record["probe"]["C"] in params.probe_c and record["views"] == "2x1x1"
    assert len(record["prompts"]["hash"]) == 12
    assert len(record["per_class"]["test/zero_shot"]) == 16 and np.sum(record["confusion"]["test/linear_probe"]) == 32
    # classes are equally frequent
    assert value(record, "zero_shot") == pytest.approx(np.mean(record["per_class"]["test/zero_shot"]))


def test_features_are_extracted_once_for_a_model_and_its_views(image_clip):
    params, folder, record = image_clip
    features = folder / "features" / "test.safetensors"
    made = features.stat().st_mtime_ns
    again = evaluate(params.model_copy(update={"knn_k": [3]}), folder)
    assert features.stat().st_mtime_ns == made and value(again, "zero_shot") == value(record, "zero_shot")
    evaluate(params.model_copy(update={"eval_num_frames": 4}), folder)
    assert features.stat().st_mtime_ns != made


def test_a_corrupt_test_video_counts_as_wrong_and_is_listed(tiny, tmp_path):
    whole = tiny("image_clip", evaluate_parts=["test"])
    shutil.copytree(whole.data, tmp_path / "world")
    params = whole.model_copy(update={"data": str(tmp_path / "world"), "max_bad_videos": 0})
    adapt(params, tmp_path / "run")
    before = evaluate(params, tmp_path / "run")
    victim = sorted((tmp_path / "world" / "test").rglob("*.mp4"))[5]
    victim.write_bytes(victim.read_bytes()[:300])
    shutil.rmtree(tmp_path / "run" / "features")
    after = evaluate(params, tmp_path / "run")
    assert after["parts"]["test"]["decoded"] == 31 and after["parts"]["test"]["listed"] == 32
    ((name, reason),) = after["parts"]["test"]["failed"]
    assert name.endswith(victim.stem) and reason
    for protocol in ("zero_shot", "linear_probe", "knn_5"):
        assert value(after, protocol) in (value(before, protocol), pytest.approx(value(before, protocol) - 100 / 32))


def test_without_a_finished_adaptation_there_is_nothing_to_evaluate(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="run 02_adapt"):
        evaluate(tiny(), tmp_path)


def test_balanced_predictions_spread_over_the_classes(tiny, tmp_path):
    params = tiny("image_clip_balanced", evaluate_parts=["test"], sinkhorn_rounds=50)
    adapt(params, tmp_path)
    plain = evaluate(params.model_copy(update={"balance_predictions": False}), tmp_path)
    balanced = evaluate(params, tmp_path)
    assert value(balanced, "zero_shot", "prediction_entropy") > value(plain, "zero_shot", "prediction_entropy")
