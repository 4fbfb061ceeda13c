"""Predictions for one's own videos: from a folder or a list, whatever cannot be decoded stays in the table."""

import os
import shutil

import numpy as np
import pytest
import torch

from lib.backbone import VideoCLIP
from lib.features import FeatureError, Features
from lib.predict import few_shot_probe, find_videos, load_model, video_features, zero_shot
from lib.train import adapt
from lib.vocabulary import ConceptError


@pytest.fixture(scope="module")
def model(tiny):
    return load_model(tiny().clip)


@pytest.fixture(scope="module")
def folder(write_video, tmp_path_factory):
    """Two classes that differ by their colour, five clips each, and one that is no video."""
    root, generator = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for name, colour in (("JumpingJack", (220, 40, 40)), ("push_up", (40, 60, 220))):
        for number in range(10):
            frames = np.clip(np.array(colour) + generator.normal(0, 20, (6, 32, 40, 3)), 0, 255).astype(np.uint8)
            write_video(root / name / f"film{number // 2}_c{number % 2}.mp4", frames)
    (root / "push_up" / "broken.mp4").write_bytes(b"no video")
    (root / "push_up" / "notes.txt").write_text("not a video")
    return root


@pytest.fixture(scope="module")
def rows(model, folder):
    return video_features(model[0], find_videos(folder), num_frames=3)


def test_a_folder_per_class_a_flat_folder_and_a_list_are_found(folder):
    by_class, flat = find_videos(folder), find_videos(folder / "push_up")
    assert by_class.classes == ["JumpingJack", "push_up"] and len(by_class) == 21
    assert by_class.extra == ["push_up/notes.txt"]
    assert flat.classes == [] and len(flat) == 11 and {video.label for video in flat.videos} == {None}
    listed = find_videos([folder / "push_up" / "film0_c0.mp4", "absent.mp4"])
    assert [video.name for video in listed.videos] == [str(folder / "push_up" / "film0_c0.mp4"), "absent.mp4"]
    with pytest.raises(FileNotFoundError, match="or give a list"):
        find_videos("absent")
    with pytest.raises(ValueError, match="empty list"):
        find_videos([])
    with pytest.raises(ValueError, match=r"caf.xe9.mp4': a name that is not UTF-8"):
        find_videos([os.fsdecode(b"caf\xe9.mp4")])


def test_a_loose_clip_beside_class_folders_has_no_truth_and_takes_none_from_the_others(folder, rows, tmp_path):
    shutil.copytree(folder, tmp_path / "videos")
    shutil.copy(folder / "push_up" / "film0_c0.mp4", tmp_path / "videos" / "loose.mp4")
    found = find_videos(tmp_path / "videos")
    assert found.classes == ["JumpingJack", "push_up"] and (found.videos[0].name, found.videos[0].label) == ("loose", None)
    more = rows._replace(features=rows.features[[-1, *range(21)]], embedding=rows.embedding[[-1, *range(21)]], errors=["", *rows.errors])
    table, _ = few_shot_probe(found, more, shots=2, same_source=r"_c\d+$")
    assert "loose" not in set(table["video"]) and table["truth"].notna().all()


def test_an_image_clip_and_an_adapted_one_are_loaded_and_agree_before_training(tiny, folder, rows, tmp_path):
    params = tiny(epochs=0)
    adapt(params, tmp_path)
    adapted, tokenizer = load_model(tmp_path / "teacher")
    assert isinstance(adapted, VideoCLIP) and adapted.config.temporal == "divided" and not adapted.training
    found = video_features(adapted, find_videos(folder), num_frames=3)
    np.testing.assert_allclose(found.embedding, rows.embedding, atol=1e-5)
    with pytest.raises(ValueError, match="no folder or hub id"):
        load_model(tmp_path / "absent")


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
def test_features_that_are_not_finite_are_no_undecodable_videos(tiny, folder, model, rows):
    network, _ = load_model(tiny().clip)
    with torch.no_grad():
        network.visual.blocks[0].fc1.bias[0] = float("nan")
    videos = find_videos(folder / "push_up")
    with pytest.raises(FeatureError, match=r"3x1x1@24/features of .*push_up/film\d_c\d\.mp4 .*not finite.*eval_precision"):
        video_features(network, videos, num_frames=3)
    embedding = rows.embedding.copy()
    embedding[3] = 0  # has no direction
    with pytest.raises(ValueError, match="scores are NaN of videos that were decoded"):
        zero_shot(*model, find_videos(folder), rows._replace(embedding=embedding))
    values = np.zeros((2, 1, 4), np.float32)
    values[1] = np.nan
    assert Features(["a", "b"], {"view/features": values}, {"b": "cut off"}).failed == {"b": "cut off"}
    with pytest.raises(FeatureError, match="view/features of b .*decoded"):
        Features(["a", "b"], {"view/features": values}, {})


def test_a_device_that_is_not_there_is_told_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="device: 'cuda:64' cannot be used"):
        load_model(tmp_path / "absent", device="cuda:64")


def test_class_names_are_the_labels_and_the_truth(model, folder, rows):
    videos = find_videos(folder)
    table = zero_shot(*model, videos, rows)
    assert list(table.columns) == ["video", "truth", "prediction", "score", "error", "JumpingJack", "push_up"]
    assert table["truth"].tolist() == [videos.classes[video.label] for video in videos.videos]
    decoded = table["error"] == ""
    assert decoded.sum() == 20 and table[~decoded]["video"].tolist() == ["push_up/broken"]
    assert table[~decoded]["prediction"].isna().all() and table[~decoded]["score"].isna().all()
    np.testing.assert_allclose(table[decoded][videos.classes].sum(axis=1), 1)
    assert (table[decoded]["score"] == table[decoded][videos.classes].max(axis=1)).all()
    # the scores are CLIP's own: the softmax of its scaled cosines with the words in the template
    network, tokenizer = model
    tokens = tokenizer([f"a photo of a person {word}." for word in ("jumping jack", "push up")], padding=True,
                       return_tensors="pt")
    text = network.encode_text(**tokens).detach().numpy()
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    logits = network.logit_scale.exp().item() * rows.embedding[:1] @ text.T
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(table.loc[[0], videos.classes], expected, rtol=1e-4)


def test_plain_words_are_matched_to_the_folders_where_they_mean_the_same(model, folder, rows):
    videos = find_videos(folder)
    table = zero_shot(*model, videos, rows, ["walking", "jumping jack"])
    assert set(table["truth"][:10]) == {"jumping jack"} and table["truth"][10:].isna().all()
    assert set(table["prediction"].dropna()) <= {"walking", "jumping jack"}
    for labels, message in ((["walking", "walking"], "differ"), (["walking", "score"], "differ")):
        with pytest.raises(ValueError, match=message):
            zero_shot(*model, videos, rows, labels)
    with pytest.raises(ConceptError, match="tokens long"):
        zero_shot(*model, videos, rows, ["walking " * 80])
    flat = find_videos(folder / "push_up")
    with pytest.raises(ValueError, match="no labels"):
        zero_shot(*model, flat, video_features(model[0], flat, num_frames=3))


def test_a_probe_of_few_clips_asks_all_others(model, folder, rows):
    videos = find_videos(folder)
    table, probe = few_shot_probe(videos, rows, shots=4)
    assert len(table) == 21 - 8 and (table["error"] != "").sum() == 1  # what cannot be decoded is asked, and is wrong
    assert (table["prediction"] == table["truth"]).sum() == 12  # red and blue
    assert probe.records[-1]["fit"] == "refit"


def test_clips_of_one_film_are_never_on_both_sides(model, folder, rows):
    videos = find_videos(folder)
    table, _ = few_shot_probe(videos, rows, shots=3, same_source=r"_c\d$")
    assert len(table) == 2 * (5 - 3) * 2 + 1  # of five films a class three were learned from, by one clip each
    films = table["video"].str.replace(r"_c\d$", "", regex=True).value_counts()
    assert (films.drop("push_up/broken") == 2).all()
    with pytest.raises(ValueError, match="'JumpingJack' has 5 decodable clips"):
        few_shot_probe(videos, rows, shots=6, same_source=r"_c\d$")
