import re
from typing import Annotated

import pytest
import yaml

from lib.gradients import schedule_area
from lib.run import fields, params
from lib.run.fields import AdaptParams, ClipParams, EvaluateParams, WorldParams
from lib.run.params import FOLDER, ParamsError, elsewhere, is_made_here, load, overrides_hash, read_yaml


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


# area under the schedule of CLIP's weights, of those who adapt CLIP to video: as their recipes were first worked out
PEERS = {"MAXI": 0.04, "ViFi-CLIP": 0.04, "TC-CLIP": 0.04, "Open-VCLIP": 0.14, "FROSTER's 12": 0.07, "MoTE": 0.07}


def recipe_table() -> dict[str, list[str]]:
    """Rows of the recipe table of params/README.md: name -> cells."""
    rows = re.findall(r"^\| (.+) \|$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    cells = [row.split(" | ") for row in rows]
    return {name.strip("*`"): rest for name, *rest in cells if len(rest) == 8 and rest[2].isdigit()}


def shown(area: float) -> str:
    return f"{area:.2f}" if area < 1 else f"{area:.1f}"


def test_the_recipe_tables_areas_are_those_of_its_schedules():
    table, clips = recipe_table(), {True: 9_537, False: 240_000}
    for name, (clip, new, batch, epochs, warmup, _, area, new_area) in table.items():
        schedule = {"batch_size": int(batch), "epochs": int(epochs), "warmup_epochs": float(warmup)}
        for rate, stated in ((clip, area), (new, new_area)):
            if rate != "-":
                assert stated == shown(schedule_area(clips["UCF" in name], peak=float(rate), **schedule)), name
        assert (new == "-") == (new_area == "-")
    for peer, area in PEERS.items():
        (row,) = [cells for name, cells in table.items() if name.startswith(peer)]
        assert float(row[6]) == area


@pytest.mark.parametrize(
    "profile, ablation, row",
    [
        ("paper", "lss", "paper"),
        ("paper", "svt_rates", "SVT = `svt_rates"),
        ("clip_b32", "lss", "clip_b32`** (UCF-101)"),
    ],
)
def test_the_recipe_table_has_the_rates_of_the_profiles(profile, ablation, row):
    p = load(profile=profile, ablation=ablation)
    clip, new, *schedule, trained, _, _ = recipe_table()[row]
    assert (f"{p.layer_decay} a block" in trained) == (p.layer_decay < 1)
    assert [float(clip), float(new)] == [p.learning_rate, p.temporal_learning_rate]
    assert [float(number) for number in schedule] == [p.batch_size, p.epochs, p.warmup_epochs]


@pytest.mark.parametrize("ablation", ["lss", "svt_rates"])
def test_the_papers_area_lies_within_the_peers_and_svts_does_not(ablation):
    p = load(profile="paper", ablation=ablation)
    exact = schedule_area(
        240_000,
        batch_size=p.batch_size,
        epochs=p.epochs,
        warmup_epochs=p.warmup_epochs,
        peak=p.learning_rate,
        last=p.final_learning_rate,
    )
    assert (min(PEERS.values()) <= exact <= max(PEERS.values())) == (ablation == "lss")


def test_the_area_of_a_schedule_by_hand():
    """Ten steps: a warm-up of 0.5 and 1, then a cosine over eight from 1 to 0, whose mean is 1/2."""
    assert schedule_area(20, batch_size=4, epochs=2, warmup_epochs=0.4, peak=1.0) == pytest.approx(1.5 + 4)


def test_svts_rates_are_those_of_the_base_file_and_the_baselines_row_has_them_too():
    base, rates = read_yaml(FOLDER / "base.yaml"), read_yaml(FOLDER / "ablations/svt_rates.yaml")
    assert rates == {name: base[name] for name in rates}
    baseline = read_yaml(FOLDER / "ablations/no_language.yaml")
    assert read_yaml(FOLDER / "ablations/no_language_svt_rates.yaml") == baseline | rates


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


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"epochs": "4"}, r"overrides: epochs: .*integer.*'4'"),
        ({"learning_rate": "3e-5"}, r"learning_rate: .*write 3.0e-5"),
        ({"epochs": True}, r"epochs"),
        ({"flip_probability": 1.5}, r"flip_probability: .*less than or equal to 1"),
        ({"temporal": "divded"}, r"temporal: .*'divided'"),
        ({"target_normalisation": "sinkhorm"}, r"target_normalisation: .*'sinkhorn'"),
        ({"prior": ["sinkhorn"]}, r"overrides: prior: renamed; now 'target_normalisation'"),
        ({"prior_memory": 8}, r"overrides: prior_memory: renamed; now 'queue_size'"),
        ({"concept_spaces": ["category"]}, r"alignment_weight needs both"),
        ({"zero_shot_views": ["16x1x2@224"]}, r"zero_shot_views"),
        ({"probe_on": ["ucf101"]}, r"must stand in evaluate_on"),
        ({"batch_size": 30, "devices": 4}, r"batch_size, 30, is over all devices: make it a multiple of 4"),
        ({"batch_size": 8, "devices": 4, "micro_batch": 3}, r"3 videos on each of 4 devices exceed batch_size, 8"),
        ({"objective": "feature"}, r"set target_normalisation: centring and uniform_prior_weight: 0.0"),
        ({"num_frames": 0}, r"overrides: num_frames: .*greater than or equal to 1, got 0"),
        (
            {"zero_shot_views": ["0x1x1@48"]},
            r"overrides: zero_shot_views: write frames x clips x crops @ pixels, .* no number is 0, got '0x1x1@48'",
        ),
        ({"still_views": ["2x1x1@48"]}, r"overrides: still_views: a still is one frame of one clip"),
        (
            {"global_scale": [0.9, 0.4]},
            r"overrides: global_scale: two shares of the picture's area, the lower one first",
        ),
        ({"local_span": 0.0}, r"overrides: local_span"),
        ({"warmup_epochs": 6.5}, r"warmup_epochs, 6.5, is above epochs, 6: lower it"),
        ({"train_videos": 31}, r"train_videos: 31 make no batch of 32; lower batch_size"),
        (
            {"evaluate_on": ["charades"], "probe_on": [], "score_spaces": ["category", "description"]},
            r"charades; set score_spaces to \[category\]",
        ),
        (
            {"dataset": "charades", "objective": "label"},
            r"objective: label needs one label a clip, and those of charades",
        ),
        ({"dataset": "charades", "imbalance": 2.0}, r"imbalance: 2 needs one label a clip"),
        ({"zero_shot_protocols": ["full"]}, r"\['embedded'\] would have no zero-shot; add split"),
        *[
            ({name: [value, *others, value]}, rf"overrides: {name}: {value}: named more than once; keep one")
            for name, value, *others in (
                ("concept_spaces", "category"),
                ("score_spaces", "category"),
                ("zero_shot_views", "6x1x1@48"),
                ("still_views", "1x1x1@48"),
                ("probe_views", "6x1x1@48"),
                ("evaluate_on", "embedded"),
                ("probe_on", "embedded"),
                ("probe_shots", 2, 4),
                ("knn_k", 5),
                ("evaluate_splits", 1),
                ("evaluate_parts", "test"),
                ("zero_shot_protocols", "split"),
                ("concepts", "embedded"),
                ("class_vocabularies", "embedded"),
                ("concept_names", "walk"),
                ("probe_c", 1.0),
                ("interpolate", 1.0),
                ("attentive_learning_rates", 1e-3),
            )
        ],
    ],
)
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


@pytest.mark.parametrize(
    "profile, change, stages",
    [
        ("embedded", {"world_seed": 1}, {WorldParams, ClipParams, AdaptParams, EvaluateParams}),
        ("embedded", {"world_difficulty": 0.9}, {WorldParams, AdaptParams, EvaluateParams}),
        ("embedded", {"clip_epochs": 3}, {ClipParams, AdaptParams, EvaluateParams}),
        ("embedded", {"alignment_weight": 0.3}, {AdaptParams, EvaluateParams}),
        ("embedded", {"layer_decay": 1.0}, set()),  # neutral
        ("embedded", {"layer_decay": 0.65}, {AdaptParams, EvaluateParams}),
        ("embedded", {"max_gradient_norm": 0.3}, {AdaptParams, EvaluateParams}),  # no parameter of the embedded CLIP
        ("embedded", {"knn_k": [7]}, {EvaluateParams}),
        ("embedded", {"interpolate": [0.5, 1.0]}, {EvaluateParams}),
        ("embedded", {"workers": 5}, set()),
        ("embedded", {"max_bad_videos": 5}, set()),  # raised to go on with a run that it has stopped
        ("embedded", {"data_embedded": "elsewhere"}, set()),
        ("embedded", {"data_ucf101": "elsewhere"}, set()),
        # what is not used
        ("embedded", {"head_hidden": 7, "centre_momentum": 0.5, "trained_last_blocks": 1, "local_span": 0.3}, set()),
        ("embedded", {"local_views": 1}, {AdaptParams, EvaluateParams}),
        ("embedded", {"balance_temperature": 0.5}, set()),
        ("paper", {"local_span": 0.3}, {AdaptParams, EvaluateParams}),
        ("paper", {"num_frames_draw": "independent"}, {AdaptParams, EvaluateParams}),
        # real data know nothing of the rendered world, nor of the CLIP that is trained on it; nor of the disk they
        # lie on
        ("paper", {"world_seed": 1, "world_difficulty": 0.9}, {WorldParams, ClipParams}),
        ("ucf101", {"clip_epochs": 3}, {ClipParams}),
        ("paper", {"data_kinetics400": "elsewhere", "data_hmdb51": "elsewhere", "lists_ucf101": "elsewhere"}, set()),
        ("paper", {"clip": "openai/clip-vit-base-patch32"}, {ClipParams, AdaptParams, EvaluateParams}),
    ],
)
def test_a_parameter_changes_the_hash_of_exactly_the_stages_that_use_it(profile, change, stages):
    before, after = load(profile=profile), load(profile=profile, **change)
    every = (WorldParams, ClipParams, AdaptParams, EvaluateParams)
    assert {stage for stage in every if before.stage_hash(stage) != after.stage_hash(stage)} == stages


@pytest.mark.parametrize(
    "ablation, changes, used",
    [
        ("no_language", {"head_hidden": 7}, True),
        ("must", {"must_threshold": 0.7}, True),
        ("lss", {"must_threshold": 0.7}, False),
        ("no_language", {"centre_momentum": 0.5}, True),
        ("centring", {"centre_momentum": 0.5}, True),
        ("last_blocks", {"trained_last_blocks": 1}, True),
        ("lss", {"feature_learning_rate_scale": 0.5}, False),
    ],
)
def test_a_parameter_counts_in_the_runs_that_use_it(ablation, changes, used):
    hashes = {load(profile="embedded", ablation=ablation, **own).stage_hash(AdaptParams) for own in ({}, changes)}
    assert len(hashes) == 1 + used


def test_a_new_parameter_with_its_neutral_value_changes_no_hash():
    class Adapt(AdaptParams):
        blur: Annotated[float, fields.Neutral(0.0)]

    class Later(fields.Params):
        blur: Annotated[float, fields.Neutral(0.0)]

    known = load(profile="paper")
    without, with_blur = (Later(**dict(known), blur=blur) for blur in (0.0, 0.5))
    assert without.stage_hash(Adapt) == known.stage_hash(AdaptParams) != with_blur.stage_hash(Adapt)
    assert with_blur.stage_hash(Adapt) != Later(**dict(known), blur=0.6).stage_hash(Adapt)
    assert without.stage_hash(Later) == known.stage_hash(fields.Params)
    assert fields.stage_hash(dict(known), Adapt) == known.stage_hash(AdaptParams)  # as a record of then holds them


def test_a_record_is_of_the_parameters_and_of_the_places_that_the_stage_reads():
    here, there = load(profile="paper"), load(profile="paper", data_ucf101="there", data_charades="unused")
    record = {"params": here.model_dump(), "params_hash": here.stage_hash(AdaptParams)}
    assert here.made(record, AdaptParams) and there.made(record, AdaptParams)  # adapted to Kinetics
    record = {"params": here.model_dump(), "params_hash": here.stage_hash(EvaluateParams)}
    assert here.made(record, EvaluateParams) and not there.made(record, EvaluateParams)
    assert not load(profile="paper", epochs=30).made(record, EvaluateParams)
    rendered = load(profile="embedded", data_embedded="a")
    assert load(profile="embedded", data_embedded="b").made(
        {"params": rendered.model_dump(), "params_hash": rendered.stage_hash(EvaluateParams)}, EvaluateParams
    )
    one, other = (load(profile="paper", clip=f"/{disk}/clip") for disk in "ab")
    assert (
        one.stage_hash(AdaptParams)
        == other.stage_hash(AdaptParams)
        != load(profile="paper", clip="/a/other").stage_hash(AdaptParams)
    )
    assert not other.made({"params": one.model_dump(), "params_hash": one.stage_hash(AdaptParams)}, AdaptParams)


def test_the_world_seed_chooses_data_and_checkpoint():
    chosen = load(profile="embedded", world_seed=2)
    assert (
        chosen.data_embedded == f"data/embedded/2-{chosen.stage_hash(WorldParams)[:6]}"
        and chosen.clip == "outputs/embedded/clip/2"
    )


def test_videos_from_elsewhere_are_refused_by_a_profile_that_renders_its_own():
    with pytest.raises(
        ParamsError, match=r"DATA=/my/clips: profile 'embedded' renders its videos and reads no others. Name a profile"
    ):
        elsewhere("embedded", "/my/clips")
    assert elsewhere("ucf101", "/my/clips") == {"data_ucf101": "/my/clips"}
    assert elsewhere("ucf101", "data/UCF-101/") == {}  # the profile's own


def test_a_second_profile_changes_the_first():
    both, paper = load(profile="paper+embedded"), load(profile="paper")
    assert (both.dataset, both.zero_shot_protocols) == ("embedded", paper.zero_shot_protocols)


def test_a_key_that_stands_twice_in_a_file_is_an_error(tmp_path):
    (tmp_path / "mine.yaml").write_text("epochs: 3\nseed: 1\nepochs: 5\n")
    with pytest.raises(ParamsError, match=r"mine.yaml: epochs: given more than once"):
        read_yaml(tmp_path / "mine.yaml")


def test_overrides_have_a_short_hash_of_what_they_change_and_none_if_they_say_only_how():
    assert overrides_hash({}) == overrides_hash({"device": "cuda", "workers": 4, "micro_batch": 2}) == ""
    shorter = overrides_hash({"epochs": 1, "knn_k": [5]})
    assert len(shorter) == 6 and shorter == overrides_hash({"knn_k": [5], "workers": 4, "epochs": 1})
    assert shorter != overrides_hash({"epochs": 2, "knn_k": [5]}) and overrides_hash({"data_ucf101": "elsewhere"})


@pytest.mark.parametrize("encoding, sound", [("utf-8-sig", True), ("utf-16", True), ("cp1252", False)])
def test_yaml_with_a_byte_order_mark_is_read_and_another_encoding_refused_by_name(tmp_path, encoding, sound):
    (tmp_path / "mine.yaml").write_bytes("caf\u00e9: [drinking coffee]\n".encode(encoding))
    if sound:
        assert read_yaml(tmp_path / "mine.yaml") == {"caf\u00e9": ["drinking coffee"]}
    else:
        with pytest.raises(ParamsError, match="mine.yaml: not valid YAML: "):
            read_yaml(tmp_path / "mine.yaml")


def test_a_micro_batch_that_cannot_be_measured_is_refused():
    with pytest.raises(ParamsError, match="micro_batch: auto cannot measure activation_checkpointing; set a number"):
        load(profile="paper", activation_checkpointing=True)
    assert load(profile="paper", activation_checkpointing=True, micro_batch=8).micro_batch == 8


def test_a_row_can_start_from_another_clip_beside_the_profiles():
    params = load(profile="rendered", ablation="category_only@epoch4", world_seed=1)
    assert params.clip == "outputs/rendered/clip/1-epoch4" and params.concept_spaces == ["category"]
    assert is_made_here("outputs/rendered/clip/1") and is_made_here("outputs/embedded/clip/mine-0")
    assert not is_made_here(params.clip) and not is_made_here("openai/clip-vit-base-patch16")
