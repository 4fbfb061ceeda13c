import pytest
import yaml

from lib import fields, params
from lib.fields import AdaptParams, ClipParams, EvaluateParams, WorldParams
from lib.params import FOLDER, ParamsError, load, read_yaml


def test_every_parameter_stands_in_the_base_file_and_no_other():
    base = read_yaml(FOLDER / "base.yaml")
    assert list(sorted(base)) == sorted(fields.Params.model_fields)


@pytest.mark.parametrize("profile", sorted(path.stem for path in (FOLDER / "profiles").glob("*.yaml")))
@pytest.mark.parametrize("ablation", sorted(path.stem for path in (FOLDER / "ablations").glob("*.yaml")))
def test_every_ablation_fits_every_profile(profile, ablation):
    other_concepts = "concepts" in read_yaml(FOLDER / "ablations" / f"{ablation}.yaml")
    if other_concepts and load(profile=profile).concept_labels == "dataset":  # which does not look at them
        with pytest.raises(ParamsError, match="concept_labels: dataset looks into class_vocabularies"):
            load(profile=profile, ablation=ablation)
    else:
        load(profile=profile, ablation=ablation)


def test_a_later_layer_wins():
    assert read_yaml(FOLDER / "base.yaml")["image_size"] == 224 and load(profile="embedded").image_size == 48
    assert load(profile="embedded", image_size=32).image_size == 32


def test_an_unknown_parameter_is_named_with_its_file_and_the_nearest_valid_name(tmp_path, monkeypatch):
    (tmp_path / "params" / "profiles").mkdir(parents=True)
    (tmp_path / "params" / "base.yaml").write_text((FOLDER / "base.yaml").read_text())
    (tmp_path / "params" / "profiles" / "mine.yaml").write_text("learning_rat: 0.1\n")
    monkeypatch.setattr(params, "FOLDER", tmp_path / "params")
    monkeypatch.setattr(params, "ROOT", tmp_path)
    with pytest.raises(ParamsError, match=r"params/profiles/mine.yaml: learning_rat: unknown.*'learning_rate'"):
        load(profile="mine")
    base = read_yaml(FOLDER / "base.yaml")
    del base["epochs"]
    (tmp_path / "params" / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "params" / "profiles" / "mine.yaml").write_text("seed: 1\n")
    with pytest.raises(ParamsError, match=r"epochs: missing"):
        load(profile="mine")


@pytest.mark.parametrize("wrong, message", [
    ({"epochs": "4"}, r"overrides: epochs: .*integer.*'4'"),
    ({"learning_rate": "3e-5"}, r"learning_rate: .*write 3.0e-5"),
    ({"epochs": True}, r"epochs"),
    ({"flip": 1.5}, r"flip: .*less than or equal to 1"),
    ({"temporal": "divded"}, r"temporal: .*'divided'"),
    ({"prior": ["sinkhorn", "centring"]}, r"both act on the teacher"),
    ({"concept_spaces": ["category"]}, r"alignment_weight needs both"),
    ({"zero_shot_views": ["16x1x2@224"]}, r"zero_shot_views"),
    ({"probe_on": ["ucf101"]}, r"must stand in evaluate_on"),
    ({"batch_size": 30, "devices": 4}, r"batch_size, 30, is over all devices: make it a multiple of 4"),
    ({"batch_size": 8, "devices": 4, "micro_batch": 3}, r"3 videos on each of 4 devices exceed batch_size, 8"),
    ({"objective": "feature"}, r"prior is \[centring\]"),
])
def test_a_value_that_cannot_be_is_an_error_that_says_so(wrong, message):
    with pytest.raises(ParamsError, match=message):
        load(profile="embedded", **wrong)


def test_all_problems_are_reported_at_once():
    with pytest.raises(ParamsError) as caught:
        load(profile="embedded", epochs="4", sed=1)
    assert "epochs" in str(caught.value) and "'seed'" in str(caught.value)


def test_an_unknown_profile_names_the_nearest(tmp_path):
    with pytest.raises(ParamsError, match="did you mean 'embedded'"):
        load(profile="embeded")


@pytest.mark.parametrize("change, stages", [
    ({"world_seed": 1}, {WorldParams, ClipParams, AdaptParams, EvaluateParams}),
    ({"world_difficulty": 0.9}, {WorldParams, AdaptParams, EvaluateParams}),
    ({"clip_epochs": 3}, {ClipParams, AdaptParams, EvaluateParams}),
    ({"alignment_weight": 0.3}, {AdaptParams, EvaluateParams}),
    ({"knn_k": [7]}, {EvaluateParams}),
    ({"workers": 5}, set()),
    ({"data_embedded": "elsewhere"}, {AdaptParams, EvaluateParams}),
    ({"data_ucf101": "elsewhere"}, set()),
])
def test_a_parameter_changes_the_hash_of_exactly_the_stages_that_depend_on_it(change, stages):
    before, after = load(profile="embedded"), load(profile="embedded", **change)
    every = (WorldParams, ClipParams, AdaptParams, EvaluateParams)
    changed = {stage for stage in every if before.stage_hash(stage) != after.stage_hash(stage)}
    assert changed == stages


def test_the_world_seed_chooses_data_and_checkpoint():
    chosen = load(profile="embedded", world_seed=2)
    assert chosen.data_embedded == "data/embedded/2" and chosen.clip == "outputs/embedded/clip/2"


def test_the_stage_that_evaluates_depends_on_the_place_of_what_it_evaluates_on():
    before, after = (load(profile="paper", data_ucf101=place) for place in ("here", "there"))
    assert before.stage_hash(AdaptParams) == after.stage_hash(AdaptParams)
    assert before.stage_hash(EvaluateParams) != after.stage_hash(EvaluateParams)


def test_a_second_profile_changes_the_first():
    both, paper = load(profile="paper+embedded"), load(profile="paper")
    assert (both.dataset, both.zero_shot_protocols) == ("embedded", paper.zero_shot_protocols)


def test_a_key_that_stands_twice_in_a_file_is_an_error(tmp_path):
    (tmp_path / "mine.yaml").write_text("epochs: 3\nseed: 1\nepochs: 5\n")
    with pytest.raises(ParamsError, match=r"mine.yaml: epochs: given more than once"):
        read_yaml(tmp_path / "mine.yaml")


@pytest.mark.parametrize("encoding, sound", [("utf-8-sig", True), ("utf-16", True), ("cp1252", False)])
def test_yaml_with_a_byte_order_mark_is_read_and_another_encoding_refused_by_name(tmp_path, encoding, sound):
    (tmp_path / "mine.yaml").write_bytes("caf\u00e9: [drinking coffee]\n".encode(encoding))
    if sound:
        assert read_yaml(tmp_path / "mine.yaml") == {"caf\u00e9": ["drinking coffee"]}
    else:
        with pytest.raises(ParamsError, match="mine.yaml: not valid YAML: "):
            read_yaml(tmp_path / "mine.yaml")
