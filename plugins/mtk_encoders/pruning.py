"""Attention heads of a trained BERT that matter little, and the BERT without them. Shapes: H heads, d features each.

The importance of a head is that of Michel, Levy and Neubig (2019), "Are Sixteen Heads Really Better than One?", arXiv
1905.10650: the expected absolute gradient of the loss by a gate of 1 on the head's output (their equation 2),
normalised by the l2 norm of its layer. We sum the losses of all trained tasks; the paper has one.

In aim this is AUBER (Lee, Lee and Kang 2020, "AUBER: Automated BERT Regularization", arXiv 2009.14409): heads go, so
that a BERT overfits small data less. In method it is not: AUBER learns by reinforcement which heads of each layer to
prune, with the gain in score as the reward. Here nothing is learnt: the order is the importance, how many heads go is
told (in all, and at most so many a layer), and training on afterwards is left to the user.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mtk import ConfigError, Example, TrainedModel
from mtk_encoders.bert import QKV, BertEncoder, SelfAttention
from mtk_encoders.packing import Packing

Call = tuple[Tensor, Packing]  # a layer's heads [N, H * d], and where their tokens lie


# ---------------------------------------------------------------------------------------------- importance


@contextmanager
def recorded(encoder: BertEncoder) -> Iterator[list[Call]]:
    """A list that gets what the heads of each layer say, layer by layer, in the forwards inside."""
    calls: list[Call] = []

    def record(module: Any, arguments: tuple[Any, ...], output: Tensor) -> None:
        calls.append((output, arguments[1].with_heads(module.heads)))

    handles = [m.register_forward_hook(record) for m in encoder.modules() if isinstance(m, SelfAttention)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def gate_gradients(loss: Tensor, calls: Sequence[Call]) -> list[Tensor]:
    """The gradient of `loss` by a gate of 1 on each head of each sequence: by layer [B, H], in float64.

    A gate scales its head's output, so its gradient is the inner product of the output and the output's gradient.
    """
    found = []
    for (output, packing), grad in zip(calls, torch.autograd.grad(loss, [out for out, _ in calls]), strict=True):
        products = (output * grad).detach().double().unflatten(1, (packing.heads, -1)).sum(2)  # [N, H * d] -> [N, H]
        found.append(packing.unpack(products).sum(1))
    return found


def importances(trained: TrainedModel, rows: Mapping[str, Sequence[Example]]) -> list[Tensor]:
    """How much each head matters to the tasks' labelled rows, layer by layer: [H] float64 of l2 norm 1.

    Each task's mean over its rows is weighted as its loss was in training. No dropout.
    """
    model, encoder = trained.model.eval(), trained.model.encoder
    assert isinstance(encoder, BertEncoder)
    total: list[Tensor] = []
    for name, examples in rows.items():
        share = trained.weight(name) / len(examples)
        for batch in trained.batches(name, examples):
            part = batch.slices[name]
            with recorded(encoder) as calls, trained.hardware.computing(), torch.enable_grad():
                loss = model.head(name).loss(model(batch)[name], part.targets)
                gradients = gate_gradients(loss, calls)
            # A row's sequences (two texts, two views) share its gate: their gradients add up before the modulus.
            sums = [g.unflatten(0, (part.copies, -1)).sum(0).abs().sum(0) * share for g in gradients]
            total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
    return [(scores / scores.norm().clamp(min=1e-30)).cpu() for scores in total]


def sample(name: str, rows: Sequence[Example], count: int, seed: int) -> list[Example]:
    """`count` labelled rows of a task, the same for the same seed; all of them where there are no more."""
    labelled = [row for row in rows if row.label is not None]
    return random.Random(f"{seed} prune {name}").sample(labelled, min(count, len(labelled)))


# ---------------------------------------------------------------------------------------------- which, and without them


def wanted_count(total: int, heads: int | None, share: float) -> int:
    """How many of `total` heads go: `heads`, else the `share` rounded down. Raises ConfigError where it is none."""
    if heads is not None:
        if heads < 1:
            raise ConfigError(f"--heads: expected at least 1, found {heads}")
        return heads
    if not 0 < share < 1:
        raise ConfigError(f"--share: expected more than 0 and less than 1, found {share}")
    if (count := int(share * total + 1e-9)) < 1:
        raise ConfigError(f"--share {share}: that is none of {total} heads, so there is nothing to prune; ask for more")
    return count


def room(sizes: Sequence[int], count: int, per_layer: int | None) -> list[int]:
    """How many heads of each layer may go, for layers of `sizes` heads, so that `count` can.

    One head at least stays in each layer, and at most `per_layer` go. Raises ConfigError where that cannot be.
    """
    if per_layer is not None and per_layer < 1:
        raise ConfigError(f"--per-layer: expected at least 1, found {per_layer}")
    found = [size - 1 if per_layer is None else min(size - 1, per_layer) for size in sizes]
    if count > sum(found):
        budget = "" if per_layer is None else f" and at most {per_layer} of a layer may go"
        raise ConfigError(
            f"{count} of {sum(sizes)} heads cannot go, only {sum(found)} can: one stays in each of {len(sizes)} layers"
            f"{budget}; ask for fewer"
        )
    return found


def choose(importance: Sequence[Tensor], count: int, per_layer: int | None = None) -> list[list[int]]:
    """The columns of the `count` least important heads, layer by layer; of equals the first goes. Errors as `room`."""
    left = room([len(scores) for scores in importance], count, per_layer)
    gone: list[list[int]] = [[] for _ in importance]
    ranked = [(value, i, column) for i, scores in enumerate(importance) for column, value in enumerate(scores.tolist())]
    for _, layer, column in sorted(ranked):
        if sum(map(len, gone)) < count and len(gone[layer]) < left[layer]:
            gone[layer].append(column)
    return [sorted(columns) for columns in gone]


def without(encoder: BertEncoder, columns: Sequence[Sequence[int]]) -> BertEncoder:
    """A BERT without some of each layer's heads: their rows of query, key and value, and their columns of the output.

    columns: by layer, among the heads that the layer has. The new encoder is in float32 on the CPU, in eval mode.
    """
    config, state = encoder.config, {name: tensor.cpu() for name, tensor in encoder.state_dict().items()}
    gone = dict(config.pruned_heads)
    for layer, some in enumerate(columns):
        if not some:
            continue
        there = config.heads(layer)
        gone[layer] = tuple(sorted({*gone.get(layer, ()), *(there[column] for column in some)}))
        heads = torch.tensor([column for column in range(len(there)) if column not in set(some)])
        kept = (heads[:, None] * config.head_size + torch.arange(config.head_size)).flatten()
        place = f"encoder.layer.{layer}.attention"
        for name in [f"{place}.self.{part}.{kind}" for part in QKV for kind in ("weight", "bias")]:
            state[name] = state[name][kept]
        state[f"{place}.output.dense.weight"] = state[f"{place}.output.dense.weight"][:, kept]
    _, options = encoder.spec
    with torch.device("meta"):
        smaller = BertEncoder(
            replace(config, pruned_heads=gone), encoder.tokenizer, pooling=encoder.pooling, dropout=options["dropout"]
        )
    smaller.to_empty(device="cpu")
    smaller.load_state_dict(state)
    return smaller.eval()
