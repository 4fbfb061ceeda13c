import hashlib
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from test_make import clone, make

from lib.datasets.lists import list_folder
from lib.datasets.parts import groups_of, list_dataset, training_videos
from lib.evaluation.evaluate import evaluate
from lib.language.selection import read_concepts
from lib.run.fields import Params, WorldParams
from lib.run.files import read_json
from lib.run.params import FOLDER, ParamsError, load
from lib.train import adapt
from lib.video.decode import decode
from lib.world.build import build_world
from lib.world.definition import read_world
from lib.world.pretrain import pretrain
from lib.world.render import render

WORLD = read_world("embedded")
ACTIONS = WORLD.actions

SMALL = {"size": 32, "num_frames": 8, "fps": 12}


def rendered(action="walk", seed=0, *, still=False, difficulty=0.5):
    return render(WORLD, action, np.random.default_rng(seed), **SMALL, still=still, difficulty=difficulty)


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_renders_as_video_and_still(action):
    frames, facts = rendered(action)
    assert frames.shape == (8, 32, 32, 3) and frames.dtype == np.uint8 and frames.std() > 5
    assert facts["action"] == action
    assert np.abs(np.diff(frames.astype(int), axis=0)).max() > 30  # something moves
    assert rendered(action, still=True)[0].shape == (1, 32, 32, 3)


def test_the_seed_fixes_every_pixel():
    assert np.array_equal(rendered(seed=3)[0], rendered(seed=3)[0])
    assert not np.array_equal(rendered(seed=3)[0], rendered(seed=4)[0])


def test_harder_videos_are_darker_and_noisier():
    def look(difficulty):
        videos = [rendered(seed=seed, difficulty=difficulty)[0].astype(float) for seed in range(20)]
        return np.mean([v.mean() for v in videos])

    assert look(1.0) < look(0.0) - 20


def test_the_world_on_disk_is_whole_balanced_decodable_and_the_same_again(tiny, tmp_path):
    params = tiny(workers=2, data_embedded=str(tmp_path / "world"))
    record = build_world(params)
    assert (record["train"], record["validation"], record["test"]) == (80, 16, 32)

    def digest(folder="world"):
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted((tmp_path / folder / "train").rglob("*.mp4"))
        }

    for part, count in (("train", 80), ("validation", 16), ("test", 32)):
        videos = list_folder(tmp_path / "world" / part)
        assert len(videos) == count and sorted(videos.classes) == sorted(ACTIONS)
        assert np.ptp(np.bincount([video.label for video in videos.videos])) == 0
    frames = decode(list_folder(tmp_path / "world" / "test").videos[0].path, lambda n, fps: range(n))
    assert frames.pixels.shape == (8, 32, 32, 3) and frames.fps == 12
    first = digest()
    assert len(set(first.values())) == 80  # no two videos alike
    time = (tmp_path / "world" / "world.json").stat().st_mtime_ns
    build_world(params)
    assert (tmp_path / "world" / "world.json").stat().st_mtime_ns == time  # it was there: nothing is rendered again
    build_world(tiny(workers=2, data_embedded=str(tmp_path / "again")))
    assert digest("again") == first


def test_worlds_of_other_parameters_lie_side_by_side_and_replace_none(tiny, tmp_path):
    small, large = (tiny(data_embedded=str(tmp_path / "{world}"), world_test=count) for count in (16, 32))
    assert Path(small.data_embedded).name == f"0-{small.stage_hash(WorldParams)[:6]}"
    assert [build_world(p)["test"] for p in (small, large)] == [16, 32]
    with pytest.raises(FileExistsError, match="a world with other parameters .* end `data_embedded` in {world}"):
        build_world(large.model_copy(update={"data_embedded": small.data_embedded}))
    assert len(list_folder(Path(small.data_embedded) / "test")) == 16


def test_a_folder_of_ones_own_is_never_replaced(tiny, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "video.mp4").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="files other than a rendered world"):
        build_world(tiny(data_embedded=str(tmp_path / "mine")))
    assert (tmp_path / "mine" / "video.mp4").read_bytes() == b"precious"


# ---- three benchmarks ------------------------------------------------------------------------------------------------

BENCHMARKS = read_world("rendered")
SPLIT_TESTS = ["test-1", "test-2", "test-3"]


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory) -> Params:
    sizes = dict(world_size=32, world_frames=8, world_train=400, world_validation=40, world_test=40)
    small = {name: size for name, size in TINY.items() if not name.startswith("world_")} | sizes
    folder = tmp_path_factory.mktemp("rendered")
    places = {"data_rendered": str(folder / "world"), "clip": str(folder / "clip")}
    params = load(profile="rendered", **small | places | {"world_clips_per_film": 1, "workers": 2})
    record = build_world(params)
    assert record["rendered_u"] == 20 * 25 and record["rendered_h"] == 16 * 25
    return params


def test_the_benchmarks_share_actions_under_other_names():
    actions = {name: set(BENCHMARKS.classes(name).values()) for name in BENCHMARKS.sets}
    assert [len(each) for each in actions.values()] == [40, 20, 16]
    assert len(actions["rendered_k"] & actions["rendered_u"]) == 12
    assert len(actions["rendered_k"] & actions["rendered_h"]) == 8
    assert set().union(*actions.values()) == set(BENCHMARKS.actions)


@pytest.mark.parametrize("name", BENCHMARKS.actions)
def test_every_action_of_the_benchmarks_renders_for_every_crew(name):
    stills = [
        render(BENCHMARKS, name, np.random.default_rng(seed), size=32, num_frames=24, fps=12, still=True)[0]
        for seed in range(2)
    ]
    assert all(still.shape == (1, 32, 32, 3) and still.std() > 5 for still in stills)
    for crew in BENCHMARKS.crews.values():
        video, facts = render(
            BENCHMARKS, name, np.random.default_rng(0), size=32, num_frames=8, fps=12, still=False, crew=crew
        )
        assert video.shape == (8, 32, 32, 3) and facts["action"] == name


def test_rendered_k_is_balanced_on_disk_and_long_tailed_as_it_is_adapted_to(benchmarks):
    parts = list_dataset(benchmarks, "rendered_k")
    labels = [video.label for video in training_videos(benchmarks, parts).videos]
    assert np.bincount(labels, minlength=40).tolist().count(10) == 1 and len(labels) < 200
    counts = {part: np.bincount([v.label for v in parts[part].videos], minlength=40) for part in parts}
    assert {part: each.sum() for part, each in counts.items()} == {"train": 400, "validation": 40, "test": 40}
    assert all(np.ptp(each) == 0 for each in counts.values())


@pytest.mark.parametrize("name", ["rendered_u", "rendered_h"])
def test_official_splits_keep_films_together(benchmarks, name):
    parts = list_dataset(benchmarks, name)
    assert set(parts["train-1"].classes) == set(BENCHMARKS.classes(name))
    for split in (1, 2, 3):
        train, test = parts[f"train-{split}"], parts[f"test-{split}"]
        films = {part: set(groups_of(name, each)) for part, each in (("train", train), ("test", test))}
        assert not films["train"] & films["test"] and len(films["test"]) == 7 * (20 if name == "rendered_u" else 1)
        assert not {v.name for v in train.videos} & {v.name for v in test.videos}


def test_clips_of_a_film_share_the_person_and_the_place():
    crew, settings = BENCHMARKS.crews["sport"], dict(size=32, num_frames=8, fps=12, still=False)
    facts = [
        render(BENCHMARKS, "ski", np.random.default_rng(seed), **settings, crew=crew, film=np.random.default_rng(9))[1]
        for seed in (1, 2)
    ]
    assert all(facts[0][key] == facts[1][key] for key in ("shirt", "trousers", "scene", "view"))


def test_a_place_that_alone_tells_an_action_is_never_another():
    def scenes(name):
        settings = dict(size=32, num_frames=8, fps=12, still=True)
        return {render(BENCHMARKS, name, np.random.default_rng(s), **settings)[1]["scene"] for s in range(20)}

    assert scenes("walk on the beach") == {"beach"} and scenes("walk") == {"street"} and len(scenes("run")) > 4


def test_a_world_with_an_unknown_movement_is_refused(tmp_path, monkeypatch):
    text = (FOLDER / "worlds" / "embedded.yaml").read_text().replace("movement: walk,", "movement: waltz,")
    (tmp_path / "worlds").mkdir()
    (tmp_path / "worlds" / "mine.yaml").write_text(text)
    monkeypatch.setattr("lib.world.definition.FOLDER", tmp_path)
    monkeypatch.setattr("lib.world.definition.ROOT", tmp_path)
    with pytest.raises(ParamsError, match="worlds/mine.yaml.*walk: no movement 'waltz'"):
        read_world("mine")


def test_make_runs_the_benchmarks_from_rendering_and_pretraining_to_the_report(tmp_path):
    copy, sizes = clone(tmp_path), {"world_train": 400, "world_validation": 40, "world_test": 40}
    places = {"clip": "outputs/rendered/clip/tiny-{world_seed}", "clip_keep_epochs": [], "workers": 0}
    copy.write("params/profiles/tiny.yaml", TINY | sizes | places | {"world_clips_per_film": 1})
    status, output = make(copy, "reproduce", "PROFILE=rendered+tiny", "SUITE=baseline")
    assert status == 0, output
    assert "11_world" in output and "10_embedded_clip" in output
    (report,) = copy.folder.glob("outputs/rendered+tiny/baseline/report.html")
    assert "rendered_u" in report.read_text()


def test_a_clip_is_pretrained_adapted_to_one_benchmark_and_evaluated_on_three(benchmarks, tmp_path):
    params = benchmarks.model_copy(update={"workers": 0, "clip_keep_epochs": [1], "clip_epochs": 2})
    record = pretrain(params)
    kept = read_json(Path(f"{params.clip}-epoch1") / "record.json")
    assert record["steps"] == 4 and kept["epoch"] == 1 and set(kept["stills"]["per_class"]) == set(BENCHMARKS.actions)
    adapted = adapt(params, tmp_path / "run")
    assert adapted["videos"] == len(training_videos(params, list_dataset(params, "rendered_k")))
    assert len(read_concepts(params, [])) == 56
    metrics = evaluate(params, tmp_path / "run")["metrics"]
    values = {(m["dataset"], m["part"], m["protocol"], m["metric"]): m["value"] for m in metrics}
    for name, parts in {"rendered_k": ["test"], "rendered_u": SPLIT_TESTS, "rendered_h": SPLIT_TESTS}.items():
        for part in parts:
            for protocol in ("zero_shot", "linear_probe"):
                assert 0 <= values[name, part, protocol, "top1"] <= 100
                assert ((name, part, protocol, "top1_unseen") in values) == (name != "rendered_k")
    seen, unseen, every = (
        values["rendered_u", "test-1", "zero_shot", f"top1{kind}"] for kind in ("_seen", "_unseen", "")
    )
    assert every == pytest.approx((12 * seen + 8 * unseen) / 20)  # classes are equally frequent
