"""Fixtures of several test files: recorded clips laid out as data sets, small videos made on the spot, a tiny world,
and what a checkpoint of the hub has."""

import gzip
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import av
import layouts
import numpy as np
import pytest
import torch
import yaml
import zoo
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPModel

from lib.run.checkpoints import save_model
from lib.run.clip_files import VOCABULARY
from lib.run.fields import Params
from lib.run.params import FOLDER, load, read_yaml
from lib.run.random_clip import HUB, Architecture, clip_tokenizer, hub_config
from lib.video.views import CLIP_MEAN, CLIP_STD, ViewSettings
from lib.world import pretrain
from lib.world.build import build_world


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: of several processes, none waits for them at the end."""
    longest = ["test_real_path.py", "test_workflow.py", "test_plans.py", "test_measurements.py", "test_distributed.py"]
    items.sort(key=lambda item: longest.index(item.path.name) if item.path.name in longest else len(longest))


def svt_settings(**changes) -> ViewSettings:
    """The view settings of params/base.yaml, which are SVT's, with changes."""
    base = read_yaml(FOLDER / "base.yaml")
    values = {name: base[name] for name in ViewSettings.__dataclass_fields__}
    return ViewSettings(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()} | changes)


def reference_data() -> Path:
    """The folder of reference clips and lists that are not in this repository; LSS_SHARED_DATA overrides the place."""
    return Path(os.environ.get("LSS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Tests that cannot do without the reference data are skipped where they are absent."""
    if not (folder := reference_data()).is_dir():
        pytest.skip(f"no reference data at {folder}; LSS_SHARED_DATA overrides the place")
    return folder


@pytest.fixture(scope="session")
def laid_out(tmp_path_factory) -> Callable[..., Path]:
    """laid_out("ucf101") -> a folder with the recorded clips as that data set (`layouts`), made once; not to be
    changed."""
    root = tmp_path_factory.mktemp("laid_out")

    def folder(dataset: str, *form: str) -> Path:
        place = root.joinpath("_".join((dataset, *form)))
        return place if place.exists() else getattr(layouts, dataset)(place, *form)

    return folder


@pytest.fixture(scope="session")
def mine(laid_out, hub_clip) -> dict:
    """The one file that a researcher edits: where data and checkpoint are."""
    return {
        "data_kinetics400": str(laid_out("kinetics400")),
        "data_ucf101": str(laid_out("ucf101")),
        "data_hmdb51": str(laid_out("hmdb51")),
        "data_kinetics600": str(laid_out("kinetics600")),
        "data_ssv2": str(laid_out("ssv2")),
        "clip": str(hub_clip),
        "allow_missing": True,
    }


@pytest.fixture(scope="session")
def own(laid_out) -> dict:
    """The README's profile of one's own videos, with a folder of them."""
    block = re.search(r"```yaml\n(dataset: folder.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)[1]
    return yaml.safe_load(block) | {
        "data_folder": str(laid_out("folder")),
        "device": "cpu",
        "knn_k": [3],
        "batch_size": 4,
        "micro_batch": 2,
    }


@pytest.fixture(scope="session")
def made_bpe(tmp_path_factory) -> Path:
    """A file of byte-pair merges in the form and length of OpenAI's: learned from the shipped vocabularies, then
    filled up with letters that no text here has."""
    vocabularies = [read_yaml(FOLDER / "concepts" / f"{name}.yaml") for name in ("kinetics400", "ucf101", "hmdb51")]
    texts = [
        text
        for words in vocabularies
        for label, of in words.items()
        if label != "confusable_pairs"
        for text in (label, of["class_name"], *of["descriptions"])
    ]
    learned = pretrain.train_tokenizer([*texts, *["a photo of a cat, a diagram of a dog"] * 9], 4000)
    merges = [" ".join(pair) for pair in json.loads(learned.backend_tokenizer.to_str())["model"]["merges"]]
    rare = sorted(ByteLevel.alphabet())[-160:]
    pairs = [f"{a} {b}" for a in rare for b in rare]
    merges += [*pairs, *(f"{pair.replace(' ', '')} {rare[0]}" for pair in pairs)]
    path = tmp_path_factory.mktemp("bpe") / "bpe_simple_vocab_16e6.txt.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(["a title", *merges[: VOCABULARY - 512 - 2], "not used"]))
    return path


@pytest.fixture(scope="session")
def openai_bpe(shared_data) -> Path:
    """OpenAI's own file, which is not in this repository."""
    return shared_data / "clip-bpe" / "bpe_simple_vocab_16e6.txt.gz"


@pytest.fixture(scope="session")
def clip_bpe(request) -> Path:
    """OpenAI's own file where the reference data are, else one made in its form."""
    return request.getfixturevalue("openai_bpe" if reference_data().is_dir() else "made_bpe")


def small_hub_config(architecture: Architecture, **vision: int) -> dict:
    """The `config.json` of a checkpoint of the hub with both towers made small; fields, activation and token ids
    stay."""
    config = hub_config(architecture)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2}
    config["text_config"].update(sizes)
    config["vision_config"].update(sizes, **vision)
    return config


@pytest.fixture(scope="session")
def hub_clip(made_bpe, tmp_path_factory) -> Path:
    """A checkpoint with the hub's files and random weights: ViT-B/16 with two layers of 64."""
    folder, config = tmp_path_factory.mktemp("hub") / "clip", small_hub_config(HUB["openai/clip-vit-base-patch16"])
    torch.manual_seed(0)
    pixels = {"image_processor_type": "CLIPImageProcessor", "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    save_model(
        CLIPModel(CLIPConfig.from_dict(config)),
        clip_tokenizer(made_bpe),
        folder,
        config=config,
        preprocessor_config=pixels,
    )
    return folder


@pytest.fixture(scope="session")
def ffmpeg() -> Callable[..., bytes]:
    """ffmpeg(*arguments) -> what it writes to stdout."""
    package = pytest.importorskip("imageio_ffmpeg")
    try:
        program = package.get_ffmpeg_exe()
    except RuntimeError as error:
        pytest.skip(str(error))

    def run(*arguments) -> bytes:
        command = [program, "-hide_banner", "-loglevel", "error", "-y", "-threads", "1", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True).stdout

    return run


@pytest.fixture(scope="session")
def made_zoo(ffmpeg, tmp_path_factory) -> dict[str, Path]:
    """Files of every kind that ffmpeg can make, by name (`zoo`), and some of the recorded clips."""
    return zoo.make(ffmpeg, tmp_path_factory.mktemp("zoo"))


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
    "world_size": 32,
    "world_frames": 8,
    "world_train": 80,
    "world_validation": 16,
    "world_test": 32,
    "short_side": 32,
    "clip_stills": 128,
    "clip_held_out_stills": 32,
    "clip_epochs": 1,
    "clip_batch_size": 64,
    "clip_width": 24,
    "clip_heads": 2,
    "clip_layers": 2,
    "clip_text_width": 16,
    "clip_text_layers": 1,
    "clip_projection": 16,
    "clip_image_size": 24,
    "clip_vocabulary": 600,
    "image_size": 24,
    "local_image_size": 16,
    "batch_size": 20,
    "epochs": 2,
    "checkpoint_every": 3,
    "queue_size": 8,
    "local_views": 1,
    "head_hidden": 16,
    "head_bottleneck": 8,
    "head_prototypes": 32,
    "zero_shot_views": ["2x1x1@24"],
    "probe_views": ["2x1x1@24"],
    "workers": 1,
    "knn_k": [5],
    "probe_c": [0.1, 1.0],
    "still_views": ["1x1x1@24"],
    "probe_shots": [2],
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

    build_world(params())
    pretrain.pretrain(params())
    return lambda ablation=None, **overrides: params(ablation, **{"workers": 0} | overrides)
