"""mteb's video tasks: a task made of the recorded clips, and what is said without the extra."""

import json
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lib.concepts import encode_texts
from lib.evaluation import mteb as ours
from lib.evaluation.predict import find_videos, load_model, video_features

CLASSES = ["body weight squats", "hand stand pushups", "jumping jack", "tai chi"]


@pytest.fixture(scope="module")
def benchmark():
    """mteb itself."""
    pytest.importorskip("torchcodec", reason="no torchcodec: pip install -c constraints.txt -e '.[mteb]'")
    return pytest.importorskip("mteb", reason="no mteb: pip install -c constraints.txt -e '.[mteb]'")


@pytest.fixture(scope="module")
def task(benchmark, laid_out):
    """Zero-shot classification of the clips that stand for UCF-101, as mteb's own tasks on UCF-101 are written."""
    from datasets import ClassLabel, Dataset, Features, Video
    from mteb.abstasks import AbsTaskZeroShotClassification
    from mteb.abstasks.task_metadata import TaskMetadata

    videos = find_videos(laid_out("ucf101"))
    columns = {"video": [str(v.path) for v in videos.videos], "label": [v.label for v in videos.videos]}
    features = Features({"video": Video(), "label": ClassLabel(names=videos.classes)})

    class MiniZeroShot(AbsTaskZeroShotClassification):
        metadata = TaskMetadata(
            name="MiniZeroShot",
            description="Recorded clips under the names of four classes of UCF-101.",
            dataset={"path": "local/mini", "revision": "1"},
            type="VideoZeroshotClassification",
            category="v2t",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="accuracy",
            modalities=["video", "text"],
        )
        input_column_name = "video"

        def load_data(self, **unused):
            self.dataset = {"test": Dataset.from_dict(columns, features=features)}
            self.data_loaded = True

        def get_candidate_labels(self):
            return [f"a video of {name}" for name in CLASSES]

    return MiniZeroShot()


@pytest.fixture(scope="module")
def teacher(hub_clip, tmp_path_factory):
    """An adapted model with its run's record: a random CLIP, said to be adapted to UCF-101."""
    folder = tmp_path_factory.mktemp("run")
    model, tokenizer = load_model(hub_clip)
    model.save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    (folder / "adapt.json").write_text(json.dumps({"params": {"dataset": "ucf101", "epochs": 1, "clip": "some/clip"}}))
    return folder / "teacher"


def test_without_the_extra_the_error_names_it(teacher, monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(ImportError, match=r"mteb.*: install the extra: pip install -c constraints.txt -e '\.\[mteb\]'"):
        ours.main([str(teacher)])


def test_one_command_scores_a_model_as_its_own_evaluation_does(
    benchmark, task, teacher, laid_out, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(benchmark, "get_tasks", lambda tasks=None, modalities=None: [task])
    ours.main([str(teacher), "--tasks", "MiniZeroShot", "--num-frames", "4",
               "--output", str(tmp_path)])  # fmt: skip
    score = float(capsys.readouterr().out.split("MiniZeroShot: ")[1].split()[0])
    (file,) = tmp_path.rglob("MiniZeroShot.json")
    assert json.loads(file.read_text())["scores"]["test"][0]["accuracy"] == pytest.approx(score, abs=1e-4)

    model, tokenizer = load_model(teacher)
    directions = encode_texts(model, tokenizer, [f"a video of {name}" for name in CLASSES])
    videos = find_videos(laid_out("ucf101"))
    rows = torch.from_numpy(video_features(model, videos, num_frames=4).embedding)
    right = (rows @ directions.T).argmax(1).numpy() == [video.label for video in videos.videos]
    assert abs(score - right.mean()) < 0.1  # mteb takes other frames, by another decoder


def test_embeddings_are_those_of_the_model(benchmark, task, teacher, laid_out):
    from datasets import Dataset, Features, Value
    from torch.utils.data import DataLoader

    encoder = ours.load_encoder(teacher, name="local/lss", num_frames=4, device="cpu")
    meta = encoder.mteb_model_meta
    assert "UCF101VideoZeroShotClassification" in meta.training_datasets and meta.adapted_from == "some/clip"
    assert not any(name.startswith("HMDB") for name in meta.training_datasets)
    model, tokenizer = load_model(teacher)

    texts = ["a video of tai chi", "word " * 200]
    loader = DataLoader(Dataset.from_dict({"text": texts}, features=Features({"text": Value("string")})), batch_size=2)
    rows = encoder.encode(loader)
    torch.testing.assert_close(torch.from_numpy(rows[:1]), encode_texts(model, tokenizer, texts[:1]))
    assert np.isfinite(rows).all()  # longer than the text tower: cut

    task.load_data()
    videos = task.dataset["test"].select(range(3)).remove_columns("label")
    rows = torch.from_numpy(encoder.encode(DataLoader(videos, batch_size=2)))
    expected = torch.from_numpy(video_features(model, find_videos(laid_out("ucf101")), num_frames=4).embedding[:3])
    assert rows.shape == expected.shape and F.cosine_similarity(rows, expected).min() > 0.99
    assert encoder.similarity(rows, rows).shape == (3, 3)
    torch.testing.assert_close(encoder.similarity_pairwise(rows, rows), torch.ones(3))

    both = videos.add_column("text", ["a video of tai chi"] * 3)
    added = rows + encode_texts(model, tokenizer, texts[:1])
    torch.testing.assert_close(torch.from_numpy(encoder.encode(DataLoader(both, batch_size=2))), added)
    with pytest.raises(ValueError, match=r"no videos or texts to encode, only \['audio'\]"):
        encoder.encode(DataLoader(Dataset.from_dict({"audio": [0]})))
