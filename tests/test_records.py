import shutil
import subprocess

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard

from lib.run import code
from lib.run.checkpoints import check_space, checkpoints, load_checkpoint, save_checkpoint
from lib.run.code import code_hash, commit
from lib.run.fields import AdaptParams
from lib.run.files import read_json
from lib.run.params import ROOT, load
from lib.run.records import continued, model_card, provenance, sources_of
from lib.train import adapt


def test_the_newest_two_checkpoints_stay_and_the_newest_whole_one_of_the_parameters_is_loaded(tmp_path, capsys):
    mine = load(profile="paper")

    def found(params=mine, **sources):
        state = load_checkpoint(tmp_path, params, sources, torch.device("cpu"))
        return state and state["x"].tolist()

    def save(step, params_hash=mine.stage_hash(AdaptParams)):
        state = {"params": mine.model_dump(), "params_hash": params_hash, "sources": {}, "step": step}
        save_checkpoint(tmp_path, state | {"x": torch.tensor([step])})

    assert found() is None
    for step in (3, 6, 10):
        save(step)
    newest, before = checkpoints(tmp_path)
    assert [newest.name, before.name] == ["checkpoint-00000010.pt", "checkpoint-00000006.pt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        name + suffix for name in (newest.name, before.name) for suffix in ("", ".sha256")
    )
    assert subprocess.run(["sha256sum", "-c", newest.name + ".sha256"], cwd=tmp_path).returncode == 0
    assert found() == found(load(profile="paper", data_kinetics400="/moved", workers=1)) == [10]
    assert found(load(profile="paper", epochs=11)) is None and "made with other parameters" in capsys.readouterr().out
    assert (
        found(concepts="edited") is None
        and "another CLIP, concepts, prompts, list of videos or objective" in capsys.readouterr().out
    )
    newest.write_bytes(newest.read_bytes()[:-1])
    assert found() == [6] and f"{newest} is not whole" in capsys.readouterr().out
    save(9)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-00000009.pt", before.name] and found() == [9]
    save(9, params_hash="0123456789ab")  # of former rules: today's hash is that of its parameters
    assert found() == [9]
    (tmp_path / "checkpoint-00000009.pt.sha256").unlink()
    before.write_text("")
    assert found() is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_checkpoint_with_numbers_that_are_not_finite_is_refused(tmp_path, value):
    mine = load(profile="paper")
    state = {
        "params_hash": mine.stage_hash(AdaptParams),
        "sources": {},
        "step": 3,
        "student": {"fc1.weight": torch.tensor([[1.0, value], [value, 0.0]])},
        "optimizer": {"state": {0: {"exp_avg": torch.tensor([value])}}, "param_groups": [{"lr": 0.1}]},
    }
    save_checkpoint(tmp_path, state)
    with pytest.raises(
        ValueError,
        match=r"checkpoint-00000003\.pt holds numbers that are not finite: student/fc1\.weight \(2 of 4\), "
        r"optimizer/state/0/exp_avg \(1 of 1\)\. .*learning_rate",
    ):
        load_checkpoint(tmp_path, mine, {}, torch.device("cpu"))
    assert (
        load_checkpoint(tmp_path, load(profile="paper", seed=1), {}, torch.device("cpu")) is None
    )  # of other parameters: not looked at


def test_a_run_is_told_before_it_begins_that_its_disk_is_small(tmp_path, capsys):
    check_space(tmp_path, torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    assert capsys.readouterr().out == ""
    with torch.device("meta"):
        large = torch.nn.Linear(10**7, 10**7)  # 400 TB
    check_space(tmp_path, large, large)
    assert (
        f"warning: the disk of {tmp_path} has " in (said := capsys.readouterr().out)
        and "needs about 5,600,000,560,000,000: " in said
    )


def test_an_adaptation_is_made_of_concepts_prompts_and_the_clip_of_a_folder():
    made_of = sources_of(load(profile="embedded"), "0123456789ab")
    assert made_of["videos"] == "0123456789ab"
    assert made_of.keys() == {
        "videos",
        "concepts/merge.yaml",
        "concepts/embedded.yaml",
        "prompts/photo.yaml",
        "0/model.safetensors",
    }


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
    assert record["code"] == code_hash("train") != code_hash("evaluation.evaluate")


def test_the_hash_of_the_code_is_over_what_computes_a_stage(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "lib", tmp_path / "lib")
    monkeypatch.setattr(code, "ROOT", tmp_path)

    def hashes():
        code_hash.cache_clear()
        return {
            module: code_hash(module)
            for module in ("evaluation.features", "train", "evaluation.evaluate", "world.pretrain")
        }

    before = hashes()
    assert commit() == "unversioned"  # an unpacked archive, also in a repository that is another
    for module, changed in (
        ("video/views", {"evaluation.features", "train", "evaluation.evaluate", "world.pretrain"}),
        ("video/manifest", {"train", "evaluation.evaluate"}),
        ("losses", {"train", "evaluation.evaluate"}),
        ("evaluation/probes", {"evaluation.evaluate"}),
        ("run/fields", set()),
        ("study/report", set()),
    ):
        source = tmp_path / "lib" / f"{module}.py"
        source.write_text(source.read_text() + "# a comment\n")
        assert hashes() == before
        source.write_text(source.read_text() + "changed = True\n")
        after = hashes()
        assert {name for name in after if after[name] != before[name]} == changed, module
        before = after
    monkeypatch.undo()
    code_hash.cache_clear()


def test_a_run_lists_all_code_that_made_it(capsys):
    first, other = {"commit": "aaa", "code": "1"}, {"commit": "bbb", "code": "2"}
    fresh = continued(first)
    assert fresh == {"made_by": [{"step": 0, **first}], **first}
    state = {"step": 5, **fresh}
    assert continued(first, state) == fresh and not capsys.readouterr().out
    second = continued(other, state)
    assert second == {"made_by": [{"step": 0, **first}, {"step": 5, **other}], "commit": "aaa bbb", "code": "1 2"}
    assert "begun at commit aaa (code 1), resumed at bbb (2)" in capsys.readouterr().out
    assert continued(first, {"step": 9, **second})["commit"] == "aaa bbb"
    assert continued(other, {"step": 5})["commit"] == "unknown bbb"  # a checkpoint from before they said it


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
    record = {
        "params": p.model_dump(),
        "videos": 90,
        "missing": 7,
        "concepts": 400,
        "steps": 3,
        "bad_videos": [["a", "cut off"]],
        "seconds": 1.0,
        **provenance(load(profile="embedded"), AdaptParams),
    }
    card = ModelCard(model_card(record, "teacher"))
    assert card.data.base_model == "openai/clip-vit-base-patch16"
    assert "7 listed ones had no file, 1 could not be decoded" in card.text
    assert "| labels of the videos | used |" in card.text
    nothing = model_card(record | {"steps": 0}, "teacher")
    assert "Made by nothing" in nothing and "| not used |" in nothing
