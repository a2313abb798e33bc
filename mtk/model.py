"""MultitaskModel: one encoder, a head a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtk import plugins
from mtk.data import MicroBatch
from mtk.interfaces import Encoder, Features, Head


def _wide(features: Tensor | None) -> Any:
    """In float32 at least."""
    return None if features is None else features.to(torch.promote_types(features.dtype, torch.float32))


class Projection(nn.Module):
    """Dropout and one linear layer that all tasks share: features of size D -> of size `units`."""

    def __init__(self, hidden_size: int, units: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_size, units)
        nn.init.normal_(self.linear.weight, std=0.02)  # as BERT's layers start
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.dropout(features))


class MultitaskModel(nn.Module):
    """One shared encoder and a head for each task, by the task's name.

    projection: an optional module [..., D] -> [..., units] between encoder and heads, shared by all tasks.
    """

    def __init__(self, encoder: Encoder, heads: Mapping[str, Head], projection: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict(heads)
        self.projection = projection
        encoder.needs_tokens = any(head.needs_tokens for head in heads.values())

    def head(self, task: str) -> Head:
        head = self.heads[task]
        assert isinstance(head, Head)
        return head

    def forward(self, batch: MicroBatch) -> dict[str, Any]:
        """One encoder pass over the fused rows; each head's outputs by task, computed in float32."""
        features = self._features(batch)  # [B, L] -> pooled [B, D], tokens [B, L, D]
        if self.projection is not None:
            tokens = features.tokens if self.encoder.needs_tokens else None
            tokens = None if tokens is None else self.projection(tokens)
            features = type(features)(self.projection(features.pooled), tokens, features.mask)
        outputs = {}
        with torch.autocast(features.pooled.device.type, enabled=False):  # heads are small: rounding would be all loss
            features = type(features)(_wide(features.pooled), _wide(features.tokens), features.mask)
            for name, part in batch.slices.items():
                size = (part.stop - part.start) // part.copies
                blocks = [features.rows(part.start + i * size, part.start + (i + 1) * size) for i in range(part.copies)]
                outputs[name] = self.heads[name](*blocks)
                self._check_outputs(name, outputs[name], size, batch.tokens.ids.shape[1])
        return outputs

    def _check_outputs(self, task: str, outputs: Any, rows: int, length: int) -> None:
        """Raises PluginError for a head whose outputs its target cannot read."""
        expected, found = outputs_of(self.head(task), rows, length), _shape(outputs)
        if expected is not None and found != expected:
            raise plugins.wrong(self.head(task), f"forward of task '{task}'", f"outputs of shape {expected}", found)

    def losses(self, batch: MicroBatch, outputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses *summed* over each task's labelled items. Raises PluginError where a head gives something else."""
        losses = {}
        for name, part in batch.slices.items():
            head = self.head(name)
            losses[name] = loss = head.loss(outputs[name], part.targets)
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                raise plugins.wrong(head, f"loss of task '{name}'", "a tensor with one number", _shape(loss))
        return losses

    def _features(self, batch: MicroBatch) -> Features:
        """What the encoder says of the rows. Raises PluginError where that is no Features, or of another shape."""
        features, width = self.encoder(batch.tokens), self.encoder.hidden_size
        rows, length = batch.tokens.ids.shape
        pooled, tokens = getattr(features, "pooled", None), getattr(features, "tokens", None)
        if _shape(pooled) != [rows, width]:
            found = _shape(pooled) if isinstance(features, Features) else f"a {type(features).__name__}"
            raise plugins.wrong(self.encoder, "forward", f"Features with pooled of shape {[rows, width]}", found)
        if tokens is not None and _shape(tokens) != [rows, length, width]:
            raise plugins.wrong(self.encoder, "forward", f"tokens of shape {[rows, length, width]}", _shape(tokens))
        return features

    def shared_parameters(self) -> list[nn.Parameter]:
        """The trainable parameters that all tasks share; changes when something is frozen or thaws."""
        modules = [self.encoder] if self.projection is None else [self.encoder, self.projection]
        return [p for module in modules for p in module.parameters() if p.requires_grad]

    def head_parameters(self) -> dict[str, list[nn.Parameter]]:
        return {name: [p for p in head.parameters() if p.requires_grad] for name, head in self.heads.items()}

    def parameter_counts(self) -> tuple[int, dict[str, int]]:
        """How many parameters are shared, and how many each head has."""
        own = {name: sum(p.numel() for p in head.parameters()) for name, head in self.heads.items()}
        return sum(p.numel() for p in self.parameters()) - sum(own.values()), own


def outputs_of(head: Head, rows: int, length: int) -> list[int] | None:
    """The shape of a head's outputs for B rows of L tokens, [B, C] or [B, L, C]; None where the head or a target of
    somebody's reads them in its own way, or they are vectors of texts."""
    target = head.target
    readers = (head.loss, head.predict, target.loss, target.predict)
    if target.level == "text" or any(reader.__module__.partition(".")[0] != "mtk" for reader in readers):
        return None
    return [rows, *([length] if target.level == "token" else []), target.size]


def _shape(value: Any) -> list[int] | str:
    """A tensor's shape, else the name of a type."""
    return list(value.shape) if isinstance(value, Tensor) else type(value).__name__


def layer_groups(model: MultitaskModel, shared: Sequence[nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    """Shared parameters by layer: a name up to its first number (encoder.layer.3), or its first three parts."""
    wanted, groups = set(shared), dict[str, list[nn.Parameter]]()
    for name, p in model.named_parameters():
        if p in wanted:
            words = name.split(".")
            end = next((place for place, word in enumerate(words) if word.isdigit()), min(1, len(words) - 2))
            groups.setdefault(".".join(words[: end + 1]).removeprefix("encoder."), []).append(p)
    return groups
