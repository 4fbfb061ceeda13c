"""Predictions for one's own videos: from a folder or a list, whatever cannot be decoded stays in the table."""

import json
import os
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import torch

from lib.backbone import VideoCLIP
from lib.evaluation.features import FeatureError, Features
from lib.evaluation.predict import (
    TooFewClips,
    cautions,
    few_shot_probe,
    films,
    find_videos,
    load_model,
    video_features,
    zero_shot,
)
from lib.language.vocabulary import ConceptError
from lib.run.params import ROOT
from lib.train import adapt


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
    assert by_class.videos[0].name == "JumpingJack/film0_c0.mp4"
    assert flat.classes == [] and len(flat) == 11 and {video.label for video in flat.videos} == {None}
    listed = find_videos([folder / "push_up" / "film0_c0.mp4", "absent.mp4"])
    assert [video.name for video in listed.videos] == [str(folder / "push_up" / "film0_c0.mp4"), "absent.mp4"]
    (one,) = find_videos(folder / "push_up" / "film0_c0.mp4").videos
    assert one.path == folder / "push_up" / "film0_c0.mp4" and one.label is None


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("absent", FileNotFoundError, "absent is no folder; expected videos, .*or give a list"),
        ([], ValueError, "empty list"),
        ("push_up/notes.txt", ValueError, "notes.txt is no video by its suffix .*: give a video, a folder"),
        (
            ".",
            FileNotFoundError,
            r"no videos; expected <video> or <folder>/<video>, .*\n"
            r"  jump/one/: 1 video, one level too deep; move them up\n",
        ),
    ],
)
def test_what_holds_no_videos_says_what_was_expected(folder, tmp_path, given, error, message):
    for take in ("one", "two"):
        (tmp_path / "jump" / take).mkdir(parents=True)
        shutil.copy(folder / "push_up" / "film0_c0.mp4", tmp_path / "jump" / take)
    place = given if given in ("absent", []) else tmp_path if given == "." else folder / given
    with pytest.raises(error, match=message):
        find_videos(place)


def test_every_video_of_a_folder_is_in_the_list_or_left_out_for_a_reason(folder, tmp_path):
    clip = folder / "push_up" / "film0_c0.mp4"
    for name in ("jump/a.mp4", "jump/a.avi", "run/b.mp4", "run/take 2/c.mp4", "loose.mp4", "walk/take/d.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, tmp_path / name)
    (tmp_path / "run" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (tmp_path / "swim").mkdir()
    found = find_videos(tmp_path)
    assert found.classes == ["jump", "run"]
    assert {video.name: video.label for video in found.videos} == {"jump/a.avi": 0, "run/b.mp4": 1, "loose.mp4": None}
    assert [line.split(":")[0] for line in found.left_out] == [
        "jump/a.mp4",
        "run/gone.mp4",
        "run/take 2/",
        "swim/",
        "walk/take/",
    ]
    assert films(found) == ["loose", "jump/a", "run/b"]


def test_a_name_that_no_table_can_hold_is_refused(folder, tmp_path):
    shutil.copy(folder / "push_up" / "film0_c0.mp4", os.path.join(os.fsencode(tmp_path), b"caf\xe9.mp4"))
    for given in (tmp_path, [os.fsdecode(b"caf\xe9.mp4")]):
        with pytest.raises(ValueError, match="caf.*: the name is not UTF-8"):
            find_videos(given)


def test_an_image_clip_and_an_adapted_one_are_loaded_and_agree_before_training(tiny, folder, rows, tmp_path):
    params = tiny(epochs=0)
    adapt(params, tmp_path)
    adapted, tokenizer = load_model(tmp_path / "teacher")
    assert isinstance(adapted, VideoCLIP) and adapted.config.temporal == "divided" and not adapted.training
    found = video_features(adapted, find_videos(folder), num_frames=3)
    np.testing.assert_allclose(found.embedding, rows.embedding, atol=1e-5)
    for place, message in (
        (
            tmp_path / "absent",
            "absent: no such folder; give the folder of a CLIP or of an adapted model .* or a hub id",
        ),
        (tmp_path, "no config.json; its folders student, teacher have one"),
        (tmp_path / "teacher" / "config.json", "config.json is a file: give the folder"),
    ):
        with pytest.raises((FileNotFoundError, ValueError), match=message):
            load_model(place)


def test_real_videos_under_the_embedded_clip_are_not_left_without_a_word(tiny, model, folder):
    tokenizer, videos = model[1], find_videos(folder)
    (caution,) = cautions(tokenizer, videos)
    assert "knows only this repository's rendered people" in caution and "openai/clip-vit-base-patch16" in caution
    assert cautions(tokenizer, find_videos(Path(tiny().data_embedded) / "test")) == []
    assert cautions(range(49408), videos) == []  # as many tokens as every CLIP of the hub has


def test_class_names_are_the_labels_and_the_truth(model, folder, rows):
    videos = find_videos(folder)
    table = zero_shot(*model, videos, rows)
    assert list(table.columns) == ["video", "truth", "prediction", "score", "error", "JumpingJack", "push_up"]
    assert table["truth"].tolist() == [videos.classes[video.label] for video in videos.videos]
    decoded = table["error"] == ""
    assert decoded.sum() == 20 and table[~decoded]["video"].tolist() == ["push_up/broken.mp4"]
    assert table[~decoded]["prediction"].isna().all() and table[~decoded]["score"].isna().all()
    np.testing.assert_allclose(table[decoded][videos.classes].sum(axis=1), 1)
    assert (table[decoded]["score"] == table[decoded][videos.classes].max(axis=1)).all()
    # the scores are CLIP's own: the softmax of its scaled cosines with the words in the template
    network, tokenizer = model
    tokens = tokenizer(
        [f"a photo of a person {word}." for word in ("jumping jack", "push up")], padding=True, return_tensors="pt"
    )
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


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (["walking"], ValueError, "no labels to choose among but 'walking': give two or more"),
        (["walking", "running", "walking"], ValueError, "labels: 'walking' reads like 'walking'"),
        (["JumpingJack", "jumping jack"], ValueError, "labels: 'jumping jack' reads like 'JumpingJack'"),
        (["walking", " "], ValueError, "labels: entry 2 is ' ', no word"),
        (["walking", "score"], ValueError, "labels: score would be two columns"),
        (["walking", "walking " * 80], ConceptError, "tokens long"),
        ([], ValueError, "no labels to choose among: give two or more, or a folder with a folder per class"),
    ],
)
def test_labels_that_cannot_be_chosen_among_are_named(model, folder, rows, labels, error, message):
    with pytest.raises(error, match=message):
        zero_shot(*model, find_videos(folder / "push_up"), rows, labels)


def test_prompts_that_are_not_there_name_the_nearest(model, folder, rows):
    with pytest.raises(ConceptError, match="phot.yaml: .*\n.*no such file; did you mean 'photo'"):
        zero_shot(*model, find_videos(folder), rows, prompts="phot")


def test_a_probe_of_few_clips_asks_all_others(model, folder, rows):
    videos = find_videos(folder)
    table, probe = few_shot_probe(videos, rows, shots=4)
    assert len(table) == 21 - 8 and (table["error"] != "").sum() == 1  # what cannot be decoded is asked, and is wrong
    assert (table["prediction"] == table["truth"]).sum() == 12  # red and blue
    assert probe.records[-1]["fit"] == "refit"


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
def test_features_that_are_not_finite_are_no_undecodable_videos(tiny, folder, model, rows):
    network, _ = load_model(tiny().clip)
    with torch.no_grad():
        network.visual.blocks[0].fc1.bias[0] = float("nan")
    videos = find_videos(folder / "push_up")
    with pytest.raises(
        FeatureError, match=r"3x1x1@24/features of .*push_up/film\d_c\d\.mp4 .*not finite.*eval_precision"
    ):
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


def test_clips_of_one_film_are_never_on_both_sides(model, folder, rows):
    videos = find_videos(folder)
    table, _ = few_shot_probe(videos, rows, shots=3, same_source=r"_c\d$")
    assert len(table) == 2 * (5 - 3) * 2 + 1  # of five films a class three were learned from, by one clip each
    counts = table["video"].str.replace(r"_c\d.mp4$", "", regex=True).value_counts()
    assert (counts.drop("push_up/broken.mp4") == 2).all()
    with pytest.raises(
        TooFewClips,
        match="it takes 6 films of every class that can be decoded, JumpingJack has 5, push_up has 5: add some",
    ):
        few_shot_probe(videos, rows, shots=6, same_source=r"_c\d$")


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (["push_up/film*"], "two class folders or more, and at least 2 shots; here are 1 and 4"),
        (
            ["JumpingJack/film*", "push_up/film[01]_c0.mp4", "push_up/broken.mp4"],
            "it takes 4 clips of every class that can be decoded, push_up has 2: add some",
        ),
        (["*/film[01]*"], "all clips are among the 4 shots of a class, none is left"),
    ],
)
def test_classes_too_small_for_a_probe_are_named_with_their_clips(model, folder, tmp_path, kept, message):
    for path in (path for pattern in kept for path in folder.glob(pattern)):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / path.parent.name)
    videos = find_videos(tmp_path)
    with pytest.raises(TooFewClips, match=message):
        few_shot_probe(videos, video_features(model[0], videos, num_frames=2), shots=4)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("(", r"'\(' is no regular expression: missing \)"),
        ("_x[0-9]+$", "matches none of the names, e.g. 'film0_c0'"),
        (".*", "leaves nothing of 'film0_c0', so it tells no films apart"),
    ],
)
def test_an_expression_for_films_that_tells_none_apart_is_refused(folder, expression, message):
    with pytest.raises(ValueError, match=f"same_source: .*{message}"):
        films(find_videos(folder), expression)


def test_clips_beside_the_classes_are_predicted_without_a_truth(model, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "videos")
    shutil.copy(folder / "push_up" / "film0_c0.mp4", tmp_path / "videos" / "loose.mp4")
    videos = find_videos(tmp_path / "videos")
    rows = video_features(model[0], videos, num_frames=3)
    answers, _ = few_shot_probe(videos, rows, shots=4)
    for table, count in ((zero_shot(*model, videos, rows), 22), (answers, 22 - 8)):
        (loose,) = table[table["truth"].isna()].itertuples()
        assert len(table) == count and loose.video == "loose.mp4"
    assert loose.prediction == "push_up"


def test_the_notebook_ends_well_on_a_folder_as_people_have_them(tiny, folder, tmp_path):
    """Clips beside the classes, a class too small for the probe, older answers of a probe: reported, not errors."""
    place, output = tmp_path / "my $x $y", tmp_path / "out"
    shutil.copytree(folder / "push_up", place / "push_up")
    for name in ("punch/a.mp4", "punch/a.avi", "loose.mp4", "wave/take/b.mp4"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "push_up" / "film0_c0.mp4", place / name)
    output.mkdir()
    (output / "probe_predictions.csv").write_text("of other videos")
    given = {"videos": str(place), "model": tiny().clip, "num_frames": 2, "output": str(output)}
    papermill.execute_notebook(
        ROOT / "notebooks" / "20_your_videos.ipynb",
        tmp_path / "out.ipynb",
        given,
        kernel_name="python3",
        cwd=tmp_path,
        progress_bar=False,
    )
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    shown = "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))
    for text in (
        "13 videos, 2 classes",
        "1 of them lie beside the folders of the classes",
        "wave/take/: 1 video, one level too deep; move them up",
        "punch/a.mp4: another file of the same clip; punch/a.avi is used",
        "push_up/notes.txt: no video",
        "CAUTION: this model comes from the embedded CLIP",
        "%; chance 50.0 %\nCAUTION",
        "every class that can be decoded, punch has 1",
    ):
        assert text in shown
    table, record = pd.read_csv(output / "predictions.csv"), json.loads((output / "predictions.json").read_text())
    assert table["video"].tolist()[:2] == ["loose.mp4", "punch/a.avi"] and len(record["left_out"]) == 3  # notes.txt too
    assert (
        record["zero_shot"]["chance"] == 50
        and record["decoded"] == 12
        and record["cautions"]
        and "punch has 1" in record["probe"]
    )
    assert not (output / "probe_predictions.csv").exists()
