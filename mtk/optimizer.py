"""AdamW over a model's trainable parameters, with a peak learning rate a layer."""

from __future__ import annotations

import torch
from torch import nn

from mtk.assembly import Parts
from mtk.errors import ConfigError


def make_optimizer(parts: Parts) -> torch.optim.Optimizer:
    """AdamW, fused where the device has it; weight decay on matrices only; a peak learning rate a layer.

    The learning rate of what follows the encoder's layers is `optim.lr` (heads: `head_lr`), that of the last layer
    `layer_decay` times as much, and so on down to the embeddings (Howard and Ruder, ACL 2018, arXiv 1801.06146).
    Raises ConfigError where everything is frozen.
    """
    optim, model = parts.config.optim, parts.model
    depths, top = model.encoder.depths(), model.encoder.layer_count + 1
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        part, _, inner = name.partition(".")
        lr = optim.lr * optim.layer_decay ** (top - depths[inner]) if part == "encoder" else optim.lr
        lr = optim.head_lr or optim.lr if part == "heads" else lr
        groups.setdefault((lr, optim.weight_decay if p.dim() > 1 else 0.0), []).append(p)
    if not groups:
        raise ConfigError(
            "nothing is trained: the encoder is frozen, and neither heads nor a projection have parameters; freeze "
            "less, give --projection hidden, or choose another --head"
        )
    fused = parts.hardware.device in ("cpu", "cuda")
    return torch.optim.AdamW(
        [{"params": some, "lr": lr, "peak_lr": lr, "weight_decay": decay} for (lr, decay), some in groups.items()],
        lr=optim.lr,
        fused=fused,
    )
