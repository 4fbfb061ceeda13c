import hashlib
from pathlib import Path

import numpy as np
import pytest

from lib.datasets.lists import list_folder
from lib.run.fields import WorldParams
from lib.video.decode import decode
from lib.world.build import build_world
from lib.world.definition import read_world
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
