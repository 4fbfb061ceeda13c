"""Features of every clip of a data set: one decoding pass and one forward pass serve all splits and protocols."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from safetensors.numpy import load_file, save_file
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from lib.backbone import VideoCLIP, in_precision
from lib.datasets.lists import Video, VideoList
from lib.datasets.loader import batches_of
from lib.datasets.samples import EvaluationViews
from lib.run.code import code_hash, commit
from lib.run.files import file_hash, read_json, whole_file, write_json
from lib.video.views import EvalView


class FeatureError(ValueError):
    """Features of a decoded clip are not finite."""


class Features:
    """What `extract` computes: rows of clips by view and kind. A clip that cannot be decoded has NaN.

    paths: of the clips; arrays: "<view>/<kind>" -> 'n v w'; failed: path -> why it cannot be decoded. Raises
    FeatureError if any other row is not finite.
    """

    def __init__(self, paths: Sequence[str], arrays: dict[str, np.ndarray], failed: dict[str, str]):
        self.rows = {path: row for row, path in enumerate(paths)}
        self.arrays, self.failed = arrays, failed
        decoded = [row for path, row in self.rows.items() if path not in failed]
        for name, array in arrays.items():
            check_finite(array[decoded], name, [paths[row] for row in decoded])

    def of(self, videos: VideoList, kind: str, views: Sequence[str], *, average: bool) -> np.ndarray:
        """The rows of a list, 'n v w' with all views of all entries of `views`, or with `average` their mean, 'n 1 w'.

        kind: "features" before the projection, "embedding" after it, L2-normalised, "frames": features of each frame.
        """
        rows = [self.rows[str(video.path)] for video in videos.videos]
        every_view = np.concatenate([self.arrays[f"{view}/{kind}"][rows] for view in views], axis=1)
        return reduce(every_view, "n v w -> n 1 w", "mean") if average else every_view

    def decoded(self, videos: VideoList) -> np.ndarray:
        """Which clips of a list could be decoded, 'n' bool."""
        return np.array([str(video.path) not in self.failed for video in videos.videos])

    def failures(self, videos: VideoList) -> list[list[str]]:
        """Name and reason of every clip of a list that cannot be decoded."""
        return [[video.name, self.failed[str(video.path)]] for video in videos.videos if str(video.path) in self.failed]


def check_finite(rows: np.ndarray, name: str, paths: Sequence[str]) -> None:
    """Raises FeatureError, naming the first clip, if rows 'n v w' of the decoded clips `paths` are not finite."""
    broken = np.flatnonzero(~np.isfinite(rows).all(axis=(1, 2)))
    if len(broken):
        raise FeatureError(
            f"{name} of {paths[broken[0]]} (and {len(broken) - 1} more of {len(paths)} decoded clips) are not finite: "
            "set eval_precision to float32, or use an earlier state of the model"
        )


@torch.no_grad()
def interpolate(model: nn.Module, start: nn.Module, alpha: float) -> None:
    """The model's weights become (1 - alpha) x those of `start` + alpha x its own; exact at 0 and 1."""
    first = start.state_dict()
    for name, weight in model.state_dict().items():
        weight.copy_(torch.lerp(first[name], weight, alpha))


@torch.inference_mode()
def extract(
    model: VideoCLIP,
    videos: Sequence[Video],
    view_names: Sequence[str],
    *,
    batch_size: int,
    precision: str,
    workers: int,
    loader_timeout: int,
    title: str,
    frame_views: Sequence[str] = (),
) -> Features:
    """Decodes every video once and runs all its views through the model.

    view_names: as `EvalView.parse` reads them; frame_views: those whose frames are kept too, "<view>/frames" 'n (v t)
    w'; precision: float32 or bfloat16; loader_timeout: seconds.
    """
    views = {name: EvalView.parse(name) for name in view_names}
    sizes = {"features": model.config.vision_config.hidden_size, "embedding": model.config.projection_dim}
    arrays = {
        f"{name}/{kind}": np.full((len(videos), view.clips * view.crops, size), np.nan, np.float32)
        for name, view in views.items()
        for kind, size in sizes.items()
    }
    for name in frame_views:
        frames = views[name].clips * views[name].crops * views[name].num_frames
        arrays[f"{name}/frames"] = np.full((len(videos), frames, sizes["features"]), np.nan, np.float32)
    failed, device, visual = {}, model.device, in_precision(model.visual, precision)
    frame_features: list[torch.Tensor] = []  # of the last pass, '(b v t) w'
    hook = visual.final_norm.register_forward_hook(lambda module, inputs, rows: frame_features.append(rows))
    samples = EvaluationViews(videos, list(views.values()))
    loading = batches_of(samples, workers=workers, loader_timeout=loader_timeout, batch_size=batch_size)
    with hook, loading as batches, tqdm(total=len(videos), desc=f"features of {title}", unit="clip") as progress:
        for batch in batches:
            failed |= {str(videos[i].path): error.reason for i, error in batch.errors}
            for name, clips in zip(views, batch.views):
                (output,) = visual([rearrange(clips.to(device), "b v c t h w -> (b v) c t h w")])
                kinds = {"features": output.features, "embedding": F.normalize(output.embedding, dim=-1)}
                kinds |= {"frames": frame_features.pop()} if name in frame_views else {}
                frame_features.clear()
                for kind, rows in kinds.items():
                    rows = rearrange(rows, "(b v) w -> b v w", b=len(clips)).cpu().numpy()
                    check_finite(rows, f"{name}/{kind}", [str(videos[i].path) for i in batch.indices])
                    arrays[f"{name}/{kind}"][batch.indices] = rows
            progress.update(len(batch.indices) + len(batch.errors))
    return Features([str(video.path) for video in videos], arrays, failed)


def cached_features(
    model_folder: Path,
    dataset: str,
    lists: Iterable[VideoList],
    *,
    view_names: Sequence[str],
    precision: str,
    device: str,
    start: VideoCLIP | None = None,
    alpha: float = 1.0,
    frame_views: Sequence[str] = (),
    **loading: int,
) -> Features:
    """The features of all clips of some lists, read from `features` beside the model or computed and kept there.

    They are computed again if a file has changed (size or time), and for other views or another precision (kept side by
    side). Those of other weights or other code are removed. start, alpha: for weights between those of `start` and the
    model's (`interpolate`). frame_views: of `extract`. loading: `batch_size`, `workers`, `loader_timeout`.
    """
    videos = list({video.path: video for videos in lists for video in videos.videos}.values())
    paths = [str(video.path) for video in videos]
    stats = [video.path.stat() for video in videos]
    files = [[path, stat.st_size, stat.st_mtime_ns] for path, stat in zip(paths, stats)]
    made_by = {
        "weights": " ".join(file_hash(path) for path in sorted(model_folder.glob("*.safetensors"))),
        "code": code_hash("evaluation.features"),
        "manifest": code_hash("video.manifest"),  # says which files are opened and how many frames they have
        "torch": torch.__version__,
        "av": version("av"),
    }
    settings = made_by | {"views": sorted(set(view_names)), "precision": precision}
    settings |= {} if alpha == 1 else {"interpolate": alpha}
    settings |= {"frames": sorted(frame_views)} if frame_views else {}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    record = model_folder.with_name("features") / f"{dataset}-{digest}.json"
    path = record.with_suffix(".safetensors")
    if record.exists() and (cached := read_json(record))["files"] == files:
        return Features(paths, load_file(path), cached["failed"])
    model, title = VideoCLIP.from_pretrained(str(model_folder)), dataset
    if alpha != 1:
        interpolate(model.visual, start.visual, alpha)
        title = f"{dataset}, interpolated {alpha:g}"
    kept = {"precision": precision, "frame_views": frame_views}
    features = extract(model.to(device).eval(), videos, view_names, title=title, **kept, **loading)
    record.parent.mkdir(exist_ok=True)
    for other in record.parent.glob(f"{dataset}-*.json"):
        if other == record or not made_by.items() <= read_json(other)["settings"].items():
            other.unlink()  # the record is removed first and written last: with it, the features are complete
            other.with_suffix(".safetensors").unlink(missing_ok=True)
    with whole_file(path, size=sum(array.nbytes for array in features.arrays.values())) as partial:
        save_file(features.arrays, partial)
    write_json(record, {"settings": settings, "commit": commit(), "files": files, "failed": features.failed})
    return features
