"""The plain side: a transformers BertModel with linear heads in loops by hand, and rows that mtk wrote out for it.

`prepare` (which imports mtk) writes a folder; everything else here knows only that folder and transformers, so that a
peer's process never imports mtk. Shapes: B rows, L tokens, D features, C outputs.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TASKS = ("sst", "quora", "sts")
LENGTH = 128  # tokens at most, as mtk's default
WINDOW = 32  # batches whose rows are sorted by length together


def source(data: str | None) -> dict[str, Any]:
    """The flat settings that say where mtk takes its rows from."""
    return {"sample": "always"} if data is None else {"data": data}


def prepare(folder: Path, encoder: str, data: str | None, tasks: Sequence[str] = TASKS) -> None:
    """Writes the encoder in the Hugging Face layout, and the tasks' rows with labels as their losses want them."""
    import mtk
    from mtk.interfaces import TaskContext
    from mtk.options import parse_spec

    name, given = parse_spec(encoder)
    (folder / "encoder").mkdir(exist_ok=True)
    mtk.build("encoder", name, **given).save(folder / "encoder")
    rows: dict[str, Any] = {}
    for task in tasks:
        context = TaskContext(task, None if data is None else Path(data), "always" if data is None else "never")
        built = mtk.build("task", task, context)
        rows[task] = {"outputs": built.target.size}
        for split in ("train", "dev"):
            examples = [row for row in built.examples(split) if row.label is not None]
            labels = built.target.collate([row.label for row in examples], 0).labels
            if built.target.size == 1:  # standardised as mtk's loss does it
                labels = (labels - (built.target.low + built.target.high) / 2) / (
                    (built.target.high - built.target.low) / 4
                )
            texts = [(row.text, row.pair) for row in examples]
            rows[task][split] = [[*text, label] for text, label in zip(texts, labels.tolist(), strict=True)]
    (folder / "rows.json").write_text(json.dumps(rows))


@dataclass(frozen=True)
class Rows:
    """One task's split: texts, token ids and types of each row, labels; outputs C (1 is regression)."""

    texts: list[tuple[str, str | None]]
    ids: list[list[int]]
    types: list[list[int]]
    labels: list[float]
    outputs: int

    def __len__(self) -> int:
        return len(self.labels)


def read(folder: Path, split: str = "train", limit: int | None = None, seed: int = 0) -> dict[str, Rows]:
    """The prepared rows, tokenised by transformers; at most `limit` of each task, drawn at random."""
    tokenizer = load_tokenizer(folder / "encoder")
    found = {}
    for task, stored in json.loads((folder / "rows.json").read_text()).items():
        rows = stored[split]
        if limit is not None and limit < len(rows):
            rows = random.Random(seed).sample(rows, limit)
        texts = [(first, second) for first, second, _ in rows]
        ids, types = tokenise(tokenizer, texts)
        found[task] = Rows(texts, ids, types, [label for *_, label in rows], stored["outputs"])
    return found


def load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def tokenise(tokenizer: Any, texts: Sequence[tuple[str, str | None]]) -> tuple[list[list[int]], list[list[int]]]:
    first = [text for text, _ in texts]
    pairs = None if texts[0][1] is None else [pair for _, pair in texts]
    out = tokenizer(first, pairs, truncation=True, max_length=LENGTH, return_token_type_ids=True)
    return out["input_ids"], out["token_type_ids"]


@dataclass(frozen=True)
class Batch:
    """ids, types, mask [B, L]; labels [B]; how many tokens are real."""

    ids: Tensor
    types: Tensor
    mask: Tensor
    labels: Tensor
    tokens: int


def collate(rows: Rows, chosen: Sequence[int], device: str) -> Batch:
    """Pads the chosen rows to the longest of them."""
    width = max(len(rows.ids[i]) for i in chosen)
    ids = torch.tensor([rows.ids[i] + [0] * (width - len(rows.ids[i])) for i in chosen])
    types = torch.tensor([rows.types[i] + [0] * (width - len(rows.types[i])) for i in chosen])
    lengths = torch.tensor([len(rows.ids[i]) for i in chosen])
    labels = torch.tensor([rows.labels[i] for i in chosen], dtype=torch.float32 if rows.outputs == 1 else torch.int64)
    mask = (torch.arange(width) < lengths[:, None]).long()
    return Batch(ids.to(device), types.to(device), mask.to(device), labels.to(device), int(lengths.sum()))


def batches(rows: Rows, size: int, seed: int, *, bucketed: bool) -> Iterator[list[int]]:
    """Endless full batches of row numbers: shuffled; or sorted by length inside windows, the batches then shuffled."""
    draw = random.Random(seed)
    while True:
        order = draw.sample(range(len(rows)), len(rows))
        step = size * WINDOW if bucketed else len(order)
        for first in range(0, len(order), step):
            pool = order[first : first + step]
            if bucketed:
                pool.sort(key=lambda i: len(rows.ids[i]))
            starts = list(range(0, max(1, len(pool) - size + 1), size))
            if bucketed:
                draw.shuffle(starts)
            yield from (pool[i : i + size] for i in starts)


class Multitask(nn.Module):
    """transformers' BertModel, mean pooling, dropout and a linear head a task: what mtk trains by default."""

    def __init__(self, folder: Path, outputs: Mapping[str, int], dropout: float | None = None) -> None:
        super().__init__()
        from transformers import BertModel

        both = ("hidden_dropout_prob", "attention_probs_dropout_prob")
        given: dict[str, Any] = {} if dropout is None else dict.fromkeys(both, dropout)
        self.encoder: Any = BertModel.from_pretrained(folder, add_pooling_layer=False, **given)
        size = self.encoder.config.hidden_size
        self.heads = nn.ModuleDict({task: nn.Linear(size, n) for task, n in outputs.items()})
        self.dropout = nn.Dropout(0.1 if dropout is None else dropout)
        for p in self.heads.parameters():
            nn.init.normal_(p, std=0.02) if p.dim() > 1 else nn.init.zeros_(p)

    def pooled(self, ids: Tensor, types: Tensor, mask: Tensor) -> Tensor:
        """ids, types, mask [B, L] -> [B, D]: the mean over real tokens."""
        hidden = self.encoder(input_ids=ids, token_type_ids=types, attention_mask=mask).last_hidden_state
        keep = mask.unsqueeze(-1).float()
        return (hidden.float() * keep).sum(1) / keep.sum(1)  # [B, L, D] -> [B, D]

    def outputs(self, task: str, pooled: Tensor) -> Tensor:
        return self.heads[task](self.dropout(pooled))  # [B, D] -> [B, C]

    def loss(self, task: str, batch: Batch) -> Tensor:
        """One forward of one task's batch, and its mean loss."""
        return mean_loss(self.outputs(task, self.pooled(batch.ids, batch.types, batch.mask)), batch.labels)


def mean_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """outputs [B, C], labels [B]: cross-entropy of classes, squared error of one standardised number."""
    if outputs.size(-1) == 1:
        return F.mse_loss(outputs.float().squeeze(-1), labels)
    return F.cross_entropy(outputs.float(), labels)


def fuse(parts: Mapping[str, tuple[Rows, Sequence[int]]], device: str) -> tuple[Batch, dict[str, slice], list[Tensor]]:
    """Rows of several tasks in one padded batch: the batch, each task's slice of it, each task's labels."""
    single = {task: collate(rows, chosen, device) for task, (rows, chosen) in parts.items()}
    width = max(batch.ids.size(1) for batch in single.values())

    def joined(name: str) -> Tensor:
        return torch.cat([F.pad(getattr(b, name), (0, width - b.ids.size(1))) for b in single.values()])

    slices, at = {}, 0
    for task, batch in single.items():
        slices[task] = slice(at, at + len(batch.labels))
        at += len(batch.labels)
    tokens = sum(batch.tokens for batch in single.values())
    none = torch.empty(0)
    return (
        Batch(joined("ids"), joined("types"), joined("mask"), none, tokens),
        slices,
        [b.labels for b in single.values()],
    )
