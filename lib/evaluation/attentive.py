"""Attentive probe (V-JEPA's protocol): one cross-attention layer with a learned query on frozen features, and a
classifier.

The tokens are the class features of every frame (before the projection) of all probe views, not V-JEPA's patches: these
would take hundreds of times the disk. No positions are added: what the probe knows of order is what the backbone's
temporal attention put into the features. Several learning rates are trained at once, on the same batches from the same
start; the best one on held-out clips of the training part is trained again on the whole part.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from lib.datasets.draws import hold_out
from lib.evaluation.probes import ProbeError

HEAD_WIDTH = 64


class AttentivePool(nn.Module):
    """Tokens 'b n w' -> class scores 'b c'. Weights are drawn from `seed`."""

    def __init__(self, width: int, num_classes: int, *, seed: int):
        super().__init__()
        heads = width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.query = nn.Parameter(0.02 * torch.randn(1, 1, width))
            self.norm, self.final_norm = nn.LayerNorm(width), nn.LayerNorm(width)
            self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
            self.classifier = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(tokens)
        query = self.query.expand(len(x), -1, -1)
        pooled, _ = self.attention(query, x, x, need_weights=False)
        return self.classifier(self.final_norm(query + pooled)[:, 0])


class AttentiveProbe(NamedTuple):
    """A trained probe and its learning rate; sweep: a record for each rate, with `held_out_top1` in percent."""

    model: AttentivePool
    learning_rate: float
    sweep: list[dict[str, Any]]

    @torch.no_grad()
    def scores(self, tokens: ArrayLike, *, batch_size: int = 256) -> np.ndarray:
        """'n t w' -> 'n c'; NaN for a clip with a token of NaN."""
        tokens = torch.as_tensor(np.asarray(tokens, np.float32))
        device = self.model.query.device
        return np.concatenate([self.model(part.to(device)).cpu().numpy() for part in tokens.split(batch_size)])


def fit_attentive_probe(
    tokens: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    learning_rates: Sequence[float],
    held_out: float,
    seed: int,
    groups: ArrayLike | None = None,
    classes: Sequence[str] = (),
    **training: Any,
) -> AttentiveProbe:
    """The probe of training clips 'n t w' with labels 'n', all decoded.

    The share `held_out` of the clips (whole `groups`) chooses among `learning_rates`, the smallest of equally good
    ones.
    training: of `train_probes`. Raises ProbeError if no rate gives finite scores, ValueError for too few clips
    (`hold_out`).
    """
    features, targets = torch.as_tensor(np.asarray(tokens, np.float32)), torch.as_tensor(np.asarray(labels))
    start = AttentivePool(features.shape[-1], num_classes, seed=seed)
    fit, choice = hold_out(labels, groups, fraction=held_out, seed=seed, classes=classes)
    rates, sweep = sorted(learning_rates), []
    models = train_probes(start, features[fit], targets[fit], rates, seed=seed, **training)
    for rate, model in zip(rates, models):
        scores = AttentiveProbe(model, rate, []).scores(features[choice])
        right = np.isfinite(scores).all(axis=1) & (scores.argmax(axis=1) == np.asarray(labels)[choice])
        sweep.append({"learning_rate": rate, "held_out_top1": 100.0 * float(right.mean())})
    best = max(sweep, key=lambda record: record["held_out_top1"])["learning_rate"]
    (model,) = train_probes(start, features, targets, [best], seed=seed, **training)
    if not all(p.isfinite().all() for p in model.parameters()):
        raise ProbeError(f"the attentive probe diverged at {best:g}: add lower values to attentive_learning_rates")
    return AttentiveProbe(model, best, sweep)


def train_probes(
    start: AttentivePool,
    tokens: Tensor,
    labels: Tensor,
    learning_rates: Sequence[float],
    *,
    epochs: int,
    batch_size: int,
    weight_decay: float,
    seed: int,
    device: str = "cpu",
) -> nn.ModuleList:
    """A copy of `start` for each learning rate, trained by AdamW with a cosine to zero, all on the same batches."""
    models = nn.ModuleList(copy.deepcopy(start) for _ in learning_rates).to(device)
    groups = [{"params": list(model.parameters()), "lr": rate} for model, rate in zip(models, learning_rates)]
    optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay)
    steps = epochs * math.ceil(len(tokens) / batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    with tqdm(desc=f"attentive probe, {len(models)} rates", total=steps, unit="step") as progress:
        for _ in range(epochs):
            for rows in torch.randperm(len(tokens), generator=generator).split(batch_size):
                batch, targets = tokens[rows].to(device), labels[rows].to(device)
                loss = sum(F.cross_entropy(model(batch), targets) for model in models)  # each has its own gradient
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.update()
    return models.eval()
