"""Fixtures of several test files: the reference clips, and small videos made on the spot."""

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from lib import pretrain, world
from lib.fields import Params
from lib.params import FOLDER, load, read_yaml
from lib.views import ViewSettings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: of several processes, none waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_workflow.py")


def svt_settings(**changes) -> ViewSettings:
    """The view settings of params/base.yaml, which are SVT's, with changes."""
    base = read_yaml(FOLDER / "base.yaml")
    values = {name: base[name] for name in ViewSettings.__dataclass_fields__}
    return ViewSettings(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()} | changes)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of reference clips and lists; tests that need it are skipped where it is absent."""
    default = Path(__file__).parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("LSS_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}; LSS_SHARED_DATA overrides the place")
    return folder


@pytest.fixture(scope="session")
def clip_bpe(shared_data) -> Path:
    """The file of OpenAI's byte-pair merges."""
    return shared_data / "clip-bpe" / "bpe_simple_vocab_16e6.txt.gz"


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """write_video(path, frames 't h w c' uint8 RGB, codec=, rate=, times=, aspect=, options=) -> path.

    `times` are presentation times in milliseconds, for a variable frame rate.
    """

    def write(path, frames, *, codec="mpeg4", rate=10, times=None, aspect=None, options=None, movflags=None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
            stream = container.add_stream(codec, rate=1000 if times else rate, options=options or {})
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            stream.bit_rate = 4_000_000
            if aspect:
                stream.codec_context.sample_aspect_ratio = aspect
            for number, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                frame.pts = times[number] if times else number
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return write


@pytest.fixture(scope="session")
def gray_frames() -> Callable[..., np.ndarray]:
    """gray_frames(n, height, width) -> frames that differ by their brightness: 20, 30, 40, ..."""

    def frames(count: int, height: int = 48, width: int = 64) -> np.ndarray:
        levels = (20 + 10 * np.arange(count)).astype(np.uint8)
        return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()

    return frames


TINY = {  # the whole method in a second: a world of 128 videos, a CLIP of a few thousand weights
    "world_size": 32, "world_frames": 8, "world_train": 80, "world_validation": 16, "world_test": 32, "short_side": 32,
    "clip_stills": 128, "clip_held_out_stills": 32, "clip_epochs": 1, "clip_batch_size": 64, "clip_width": 24,
    "clip_heads": 2,
    "clip_layers": 2, "clip_text_width": 16, "clip_text_layers": 1, "clip_projection": 16, "clip_image_size": 24,
    "clip_vocabulary": 600, "image_size": 24, "local_image_size": 16, "batch_size": 20,
    "epochs": 2, "checkpoint_every": 3, "prior_memory": 8, "local_views": 1, "head_hidden": 16, "head_bottleneck": 8,
    "head_prototypes": 32, "zero_shot_views": ["2x1x1@24"], "probe_views": ["2x1x1@24"],
    "workers": 1,
    "knn_k": [5], "probe_c": [0.1, 1.0],
    "still_views": ["1x1x1@24"], "probe_shots": [2],
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Callable[..., Params]:
    """tiny(ablation=, **overrides) -> parameters of a very small world and CLIP, both of which are made once."""
    folder = tmp_path_factory.mktemp("tiny")

    def params(ablation: str | None = None, **overrides) -> Params:
        places = {"data_embedded": str(folder / "world"), "clip": str(folder / "clip")}
        own = read_yaml(FOLDER / "ablations" / f"{ablation}.yaml") if ablation else {}
        sizes = {name: size for name, size in TINY.items() if name not in own}
        return load(profile="embedded", ablation=ablation, **sizes | places | overrides)

    world.build(params())
    pretrain.pretrain(params())
    return lambda ablation=None, **overrides: params(ablation, **{"workers": 0} | overrides)
