"""Toy parts of a dozen lines each, and the plain reference step that every faster path must equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtk.interfaces import (
    Encoder,
    Encoding,
    Example,
    Features,
    GradientCombiner,
    Head,
    Prediction,
    Source,
    StepInfo,
    Target,
    Targets,
    Task,
    TaskContext,
    TokenBatch,
)
from mtk.targets import Classes


class WordTokenizer:
    """Words to hashed ids; 0 pads, 1 starts, 2 separates."""

    pad_id = 0

    def encode(self, rows: Sequence[tuple[str, str | None]], max_length: int) -> list[Encoding]:
        out = []
        for text, pair in rows:
            ids, types, words = [1], [0], [None]
            for segment, part in enumerate([text] if pair is None else [text, pair]):
                for i, word in enumerate(part.split()):
                    ids.append(3 + sum(map(ord, word.lower())) % 97)
                    types.append(segment)
                    words.append(i if segment == 0 else None)
                ids.append(2)
                types.append(segment)
                words.append(None)
            cut = len(ids) > max_length
            out.append(Encoding(ids[:max_length], types[:max_length], words[:max_length], cut))
        return out


class ToyEncoder(Encoder):
    """An embedding, one mixing layer and a mean."""

    def __init__(self, *, hidden_size: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.tokenizer, self.hidden_size, self.max_length = WordTokenizer(), hidden_size, 64
        self.spec = ("toy", {})
        self.words = nn.Embedding(100, hidden_size)
        self.mix = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: TokenBatch) -> Features:
        tokens = self.dropout(torch.tanh(self.mix(self.words(batch.ids))))
        mask = batch.mask.unsqueeze(-1)
        return Features((tokens * mask).sum(1) / mask.sum(1), tokens, batch.mask)

    def save(self, folder: Path) -> None:
        torch.save(self.state_dict(), folder / "toy.pt")


class ToyLinear(Head):
    def __init__(self, hidden_size: int, target: Target, *, dropout: float = 0.0) -> None:
        super().__init__(hidden_size, target)
        self.out = nn.Linear(hidden_size, target.size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, *features: Features) -> Any:
        return self.out(self.dropout(features[0].pooled))


class ToyCosine(ToyLinear):
    """A bi head: the cosine of the two texts."""

    reads = "bi"

    def forward(self, *features: Features) -> Tensor:
        a, b = features
        return 2 * F.cosine_similarity(a.pooled, b.pooled).unsqueeze(-1) * self.out.weight.sum()


class ToyRDrop(ToyLinear):
    """Two dropout views and the symmetric divergence between them (R-Drop, arXiv 2106.14448, eq. 4)."""

    views = 2

    def forward(self, *features: Features) -> tuple[Tensor, ...]:
        return tuple(self.out(self.dropout(view.pooled)) for view in features)

    def loss(self, outputs: Any, targets: Targets) -> Tensor:
        natural = sum(self.target.loss(view, targets) for view in outputs) / 2
        p, q = (view.log_softmax(-1) for view in outputs)
        both = F.kl_div(p, q, log_target=True, reduction="none") + F.kl_div(q, p, log_target=True, reduction="none")
        return natural + (both.sum(-1) * targets.mask).sum() / 4

    def predict(self, outputs: Any, targets: Targets) -> list[Prediction]:
        return self.target.predict(outputs[0], targets)


class ToyTags(Target):
    """A tag for the first token of each word; labels are lists of tag indices, one a word, or None."""

    primary = "accuracy"
    size = 3

    def parse(self, raw: Any) -> list[int]:
        return [int(tag) for tag in raw.split()]

    def align(self, label: Any, words: Sequence[int | None]) -> list[int | None]:
        """-1 where the word has no label, None where no prediction is wanted."""
        first = [w is not None and (i == 0 or words[i - 1] != w) for i, w in enumerate(words)]
        return [(-1 if label is None else label[w]) if f else None for w, f in zip(words, first, strict=True)]

    def collate(self, labels: Sequence[Any], length: int) -> Targets:
        rows = [list(label) + [None] * (length - len(label)) for label in labels]
        places = torch.tensor([[tag is not None for tag in row] for row in rows])
        mask = torch.tensor([[tag is not None and tag >= 0 for tag in row] for row in rows])
        values = torch.tensor([[max(0, tag or 0) for tag in row] for row in rows])
        return Targets(values, mask, int(mask.sum()), places)

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        each = F.cross_entropy(outputs.transpose(1, 2), targets.labels, reduction="none")  # [B, L, C] -> [B, L]
        return (each * targets.mask).sum()

    def predict(self, outputs: Tensor, targets: Targets) -> list[Prediction]:
        assert targets.places is not None
        tags = [row[place].tolist() for row, place in zip(outputs.argmax(-1), targets.places, strict=True)]
        return [Prediction(row, row, 1.0) for row in tags]

    def metrics(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> dict[str, float]:
        pairs = [(a, b) for p, y in zip(predictions, labels, strict=True) for a, b in zip(p.value, y, strict=True)]
        return {"accuracy": sum(a == b for a, b in pairs) / max(1, len(pairs))}


class ToyTagger(ToyLinear):
    needs_tokens = True

    def forward(self, *features: Features) -> Tensor:
        assert features[0].tokens is not None
        return self.out(self.dropout(features[0].tokens))


class ToyPairs(Classes):
    """In-batch negatives: row i's second text is the class of row i; every row counts, none has a label."""

    def __init__(self) -> None:
        super().__init__(["other", "own"])

    def collate(self, labels: Sequence[Any], length: int) -> Targets:
        return Targets(torch.arange(len(labels)), torch.ones(len(labels), dtype=torch.bool), len(labels))

    def loss(self, outputs: Any, targets: Targets) -> Tensor:
        a, b = (F.normalize(part, dim=-1) for part in outputs)
        return F.cross_entropy(a @ b.T * 10, targets.labels, reduction="sum")  # [B, B]


class ToyContrast(ToyLinear):
    reads = "bi"

    def forward(self, *features: Features) -> tuple[Tensor, Tensor]:
        return self.out(features[0].pooled), self.out(features[1].pooled)


class ToyFAMO(GradientCombiner):
    """The part of FAMO (arXiv 2306.03792, alg. 1) that asks for a second look at the losses."""

    needs = "losses"
    looks_again = True

    def __init__(self) -> None:
        self.logits: dict[str, float] = {}
        self.before: Tensor | None = None

    def loss_weights(self, losses: Tensor, info: StepInfo) -> Tensor:
        self.before = losses
        logits = torch.tensor([self.logits.get(name, 0.0) for name in info.tasks])
        return logits.softmax(0) * len(info.tasks)

    def after_step(self, losses_again: Tensor, info: StepInfo) -> None:
        assert self.before is not None
        for name, change in zip(info.tasks, (losses_again.log() - self.before.log()).tolist(), strict=True):
            self.logits[name] = self.logits.get(name, 0.0) + change

    def state_dict(self) -> dict[str, Any]:
        return {"logits": self.logits}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.logits = dict(state["logits"])


class ToyTask(Task):
    """Rows held in memory; `rows` maps a split to examples."""

    def __init__(
        self, name: str, target: Target, rows: Mapping[str, Sequence[Example]], *, paired: bool = False
    ) -> None:
        super().__init__(TaskContext(name))
        self.target, self.paired, self._rows = target, paired, rows

    @property
    def source(self) -> Source:
        return Source("toy rows")

    def examples(self, split: str) -> Sequence[Example]:
        return self._rows[split]


@dataclass
class Slice:
    """One task's rows of one micro-batch: parts and views side by side, as a list of TokenBatches."""

    tokens: list[TokenBatch]
    targets: Targets


def collate(encoder: Encoder, target: Target, head: Head, rows: Sequence[Example], paired: bool) -> Slice:
    """What `mtk.data` does, in ten lines: tokenise, align, pad, repeat for views."""
    texts = [[(r.text, r.pair) for r in rows]]
    if paired and head.reads == "bi":
        texts = [[(r.text, None) for r in rows], [(r.pair or "", None) for r in rows]]
    encoded = [encoder.tokenizer.encode(part, 64) for part in texts]
    length = max(len(e.ids) for part in encoded for e in part)
    labels = [target.align(row.label, e.words) for row, e in zip(rows, encoded[0], strict=True)]

    def pad(part: list[Encoding]) -> TokenBatch:
        ids = torch.tensor([e.ids + [0] * (length - len(e.ids)) for e in part])
        types = torch.tensor([e.types + [0] * (length - len(e.types)) for e in part])
        return TokenBatch(ids, types, ids != 0)

    return Slice([pad(part) for part in encoded] * head.views, target.collate(labels, length))


def reference_losses(encoder: nn.Module, heads: Mapping[str, Head], step: Sequence[Mapping[str, Slice]]) -> dict:
    """Per-task losses of a step of micro-batches, each divided by the count of the *whole* step."""
    counts: dict[str, int] = {}
    for micro in step:
        for name, part in micro.items():
            counts[name] = counts.get(name, 0) + part.targets.count
    losses: dict[str, Tensor] = {}
    for micro in step:
        for name, part in micro.items():
            features = [encoder(tokens) for tokens in part.tokens]
            loss = heads[name].loss(heads[name](*features), part.targets) / max(1, counts[name])
            losses[name] = losses[name] + loss if name in losses else loss
    return losses


def reference_gradients(losses: Mapping[str, Tensor], shared: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    """One flat shared gradient [P] a task, by T plain backwards."""
    flat = {}
    for name, loss in losses.items():
        grads = torch.autograd.grad(loss, list(shared), retain_graph=True, allow_unused=True)
        flat[name] = torch.cat(
            [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(shared, grads, strict=True)]
        )
    return flat
