import subprocess

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard

from lib.fields import AdaptParams
from lib.files import read_json
from lib.params import load
from lib.runs import checkpoints, load_checkpoint, look_for_room, model_card, provenance, save_checkpoint, sources_of
from lib.train import adapt


def test_the_newest_two_checkpoints_stay_and_the_newest_whole_one_of_the_parameters_is_loaded(tmp_path, capsys):
    def load(params_hash="a", **sources):
        state = load_checkpoint(tmp_path, params_hash, sources, torch.device("cpu"))
        return state and state["x"].tolist()

    assert load() is None
    for step in (3, 6, 10):
        save_checkpoint(tmp_path, {"params_hash": "a", "sources": {}, "step": step, "x": torch.tensor([step])})
    newest, before = checkpoints(tmp_path)
    assert [newest.name, before.name] == ["checkpoint-00000010.pt", "checkpoint-00000006.pt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        name + suffix for name in (newest.name, before.name) for suffix in ("", ".sha256"))
    assert subprocess.run(["sha256sum", "-c", newest.name + ".sha256"], cwd=tmp_path).returncode == 0
    assert load() == [10] and load("b") is None and "made with other parameters" in capsys.readouterr().out
    assert load(concepts="edited") is None and "another CLIP, concepts, prompts or list of videos" in capsys.readouterr().out
    newest.write_bytes(newest.read_bytes()[:-1])
    assert load() == [6] and f"{newest} is not whole" in capsys.readouterr().out
    save_checkpoint(tmp_path, {"params_hash": "a", "sources": {}, "step": 9, "x": torch.tensor([9])})
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-00000009.pt", before.name]
    (tmp_path / "checkpoint-00000009.pt.sha256").unlink()
    before.write_text("")
    assert load() is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_checkpoint_with_numbers_that_are_not_finite_is_refused(tmp_path, value):
    state = {"params_hash": "a", "sources": {}, "step": 3, "student": {"fc1.weight": torch.tensor([[1.0, value], [value, 0.0]])},
             "optimizer": {"state": {0: {"exp_avg": torch.tensor([value])}}, "param_groups": [{"lr": 0.1}]}}
    save_checkpoint(tmp_path, state)
    with pytest.raises(ValueError, match=r"checkpoint-00000003\.pt holds numbers that are not finite: student/fc1\.weight \(2 of 4\), "
                                         r"optimizer/state/0/exp_avg \(1 of 1\)\. .*learning_rate"):
        load_checkpoint(tmp_path, "a", {}, torch.device("cpu"))
    assert load_checkpoint(tmp_path, "b", {}, torch.device("cpu")) is None  # of other parameters: not looked at


def test_a_run_is_told_before_it_begins_that_its_disk_is_small(tmp_path, capsys):
    look_for_room(tmp_path, torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    assert capsys.readouterr().out == ""
    with torch.device("meta"):
        large = torch.nn.Linear(10**7, 10**7)  # 400 TB
    look_for_room(tmp_path, large, large)
    assert f"warning: the disk of {tmp_path} has " in (said := capsys.readouterr().out) and "needs about 5,600,000,560,000,000: " in said


def test_an_adaptation_is_made_of_concepts_prompts_and_the_clip_of_a_folder():
    made_of = sources_of(load(profile="embedded"), "0123456789ab")
    assert made_of["videos"] == "0123456789ab"
    assert made_of.keys() == {"videos", "concepts/merge.yaml", "concepts/embedded.yaml", "prompts/photo.yaml", "0/model.safetensors"}


def test_a_clip_of_the_hub_is_known_by_its_revision(tmp_path, monkeypatch):
    cached = tmp_path / "models--openai--clip-vit-base-patch16"
    for name, content in (("refs/main", "abc123"), ("snapshots/abc123/config.json", "{}")):
        (cached / name).parent.mkdir(parents=True)
        (cached / name).write_text(content)
    assert "revision" not in sources_of(load(profile="paper"), "")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert sources_of(load(profile="paper"), "")["revision"] == "abc123"


def test_the_record_names_commit_parameters_and_hardware():
    record = provenance(load(profile="embedded"), AdaptParams)
    assert record["params_hash"] == load(profile="embedded").stage_hash(AdaptParams)
    assert record["torch"] == torch.__version__ and "cores" in record["hardware"] and record["commit"]


def test_an_adapted_checkpoint_has_a_card_that_the_hub_reads_and_that_says_what_made_it(tiny, tmp_path):
    record = adapt(tiny("lss", epochs=1), tmp_path)
    for role in ("student", "teacher"):
        card = ModelCard.load(tmp_path / role / "README.md")
        assert card.data.library_name == "lss" and card.data.pipeline_tag == "video-classification"
        assert card.data.base_model is None  # the embedded CLIP is on no hub
        assert card.text.lstrip().startswith(f"# clip, adapted to video: the {role}")
        assert "(LSS)" in card.text and str(tmp_path) not in card.content
        assert record["params_hash"] in card.text and f"| {record['steps']} of 20 videos" in card.text
        assert "| labels of the videos | not used |" in card.text
        assert read_json(tmp_path / role / "adapt.json") == record


def test_the_card_of_a_hub_checkpoint_names_it_and_counts_what_was_lost():
    p = load(profile="paper", objective="label")
    record = {"params": p.model_dump(), "videos": 90, "missing": 7, "concepts": 400, "steps": 3,
              "bad_videos": [["a", "cut off"]], "seconds": 1.0, **provenance(load(profile="embedded"), AdaptParams)}
    card = ModelCard(model_card(record, "teacher"))
    assert card.data.base_model == "openai/clip-vit-base-patch16"
    assert "7 listed ones had no file, 1 could not be decoded" in card.text
    assert "| labels of the videos | used |" in card.text
    nothing = model_card(record | {"steps": 0}, "teacher")
    assert "Made by nothing" in nothing and "| not used |" in nothing
