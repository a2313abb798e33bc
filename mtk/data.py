"""Rows -> token arrays -> length-bucketed, fused batches. Everything drawn here is a function of (seed, epoch).

A *step* is what one optimizer step sees: some rows of every present task, split into `accumulate` micro-batches. In a
micro-batch the rows of all tasks are fused into one token batch; each task owns one slice of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mtk import plugins
from mtk.capture import RowRanges
from mtk.errors import ConfigError, DataError
from mtk.interfaces import Encoder, Encoding, Example, Head, Mixer, Target, Targets, TokenBatch, Tokenizer

_NO_LIMIT = 1 << 20  # tokens
WINDOW = 32  # steps whose rows are sorted by length together: more is less padding and less randomness


def generator(*key: object) -> torch.Generator:
    """A generator seeded by `key`, so that adding a task or an epoch changes nobody else's draws."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class FlatTokens:
    """Token sequences end to end: row i is ids[offsets[i]:offsets[i+1]]."""

    ids: NDArray[np.int32]
    types: NDArray[np.int8]
    offsets: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def take(self, rows: NDArray[np.int64]) -> FlatTokens:
        """Some of the rows, in the order given."""
        places = np.concatenate([np.arange(self.offsets[row], self.offsets[row + 1]) for row in rows])
        return FlatTokens(self.ids[places], self.types[places], np.cumsum([0, *self.lengths[rows]]))


@dataclass(frozen=True)
class TaskRows:
    """A task's tokenised rows: one FlatTokens a text part (two for a bi head on pairs), labels aligned to the first."""

    examples: Sequence[Example]
    parts: tuple[FlatTokens, ...]
    labels: list[Any]
    target: Target
    views: int
    truncated: int

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> TaskRows:
        """Some of the rows, at least one, in the order given."""
        examples, labels = [self.examples[row] for row in rows], [self.labels[row] for row in rows]
        parts = tuple(part.take(rows) for part in self.parts)
        return TaskRows(examples, parts, labels, self.target, self.views, self.truncated)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The longest part of each row, in tokens."""
        return np.max([part.lengths for part in self.parts], axis=0)


def tokenise(encoder: Encoder, head: Head, paired: bool, rows: Sequence[Example], max_length: int) -> TaskRows:
    """Tokenises rows once, as the head reads them, and aligns their labels. Raises DataError for a label that does not
    fit its text.

    A target of tokens has labels for words, and white space says no more than where they end: its texts are read with
    single spaces, since a byte-level tokenizer makes tokens of the others.
    """
    for row in rows:
        try:
            head.target.check(row)
        except ValueError as error:
            raise DataError(f"row '{row.id}': {error}") from None
    tagged = head.target.level == "token"
    firsts = [" ".join(row.text.split()) if tagged else row.text for row in rows]
    if paired and head.reads == "bi":
        texts: list[list[tuple[str, str | None]]] = [[(text, None) for text in firsts]]
        texts.append([(row.pair or "", None) for row in rows])
    else:
        texts = [[(text, row.pair) for text, row in zip(firsts, rows, strict=True)]]
    limit = min(max_length, encoder.max_length)
    encoded = [encoder.tokenizer.encode(part, limit) for part in texts]
    if any(len(part) != len(rows) for part in encoded):
        raise plugins.wrong(encoder, "tokenizer.encode", f"{len(rows)} encodings", len(encoded[0]))
    odd = next((e for part in encoded for e in part if not isinstance(e, Encoding)), None)
    if odd is not None:
        raise plugins.wrong(encoder, "tokenizer.encode", "Encodings", type(odd).__name__)
    words: Sequence[Sequence[int | None]] = [e.words for e in encoded[0]]
    if tagged:
        words = whole_words(encoder.tokenizer, firsts, encoded[0])
    labels = [head.target.align(row.label, of_row) for row, of_row in zip(rows, words, strict=True)]
    truncated = sum(any(part[i].truncated for part in encoded) for i in range(len(rows)))
    flat = tuple(
        FlatTokens(
            np.fromiter((i for e in part for i in e.ids), np.int32),
            np.fromiter((t for e in part for t in e.types), np.int8),
            np.cumsum([0, *(len(e.ids) for e in part)]),
        )
        for part in encoded
    )
    return TaskRows(rows, flat, labels, head.target, head.views, truncated)


def whole_words(tokenizer: Tokenizer, texts: Sequence[str], encodings: Sequence[Encoding]) -> list[list[int | None]]:
    """Each encoding's `words`, counted in the words that single spaces separate: a tokenizer may split those further,
    and differently behind a space (GPT-2's: "'s" is one word, " 's" two).

    Raises ConfigError for a tokenizer whose words hold white space.
    """
    split = [[f" {word}" if number else word for number, word in enumerate(text.split())] for text in texts]
    known = list(dict.fromkeys(word for words in split for word in words))
    alone = tokenizer.encode([(word, None) for word in known], _NO_LIMIT)
    pieces = {
        word: 1 + max((w for w in e.words if w is not None), default=-1) for word, e in zip(known, alone, strict=True)
    }
    found: list[list[int | None]] = []
    for text, words, encoding in zip(texts, split, encodings, strict=True):
        owner = [number for number, word in enumerate(words) for _ in range(pieces[word])]
        seen = 1 + max((w for w in encoding.words if w is not None), default=-1)
        if seen > len(owner) or (seen < len(owner) and not encoding.truncated):
            raise ConfigError(
                f"a target of tokens needs a tokenizer that splits texts at white space; this encoder's finds {seen} "
                f"words in '{text[:60]}', and {len(owner)} in its words one by one; choose another --encoder"
            )
        found.append([None if w is None else owner[w] for w in encoding.words])
    return found


# ---------------------------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class TaskSlice:
    """Rows start..stop of the fused batch: `copies` blocks (parts x views) of the same B rows."""

    start: int
    stop: int
    copies: int
    targets: Targets


@dataclass(frozen=True)
class MicroBatch:
    """Fused rows, padded to one [B, L], and each task's slice of them. lengths: [B] tokens of each row, on the host."""

    tokens: TokenBatch
    slices: dict[str, TaskSlice]
    lengths: NDArray[np.int64]

    def to(self, device: torch.device) -> MicroBatch:
        slices = {n: TaskSlice(s.start, s.stop, s.copies, s.targets.to(device)) for n, s in self.slices.items()}
        return MicroBatch(self.tokens.to(device), slices, self.lengths)

    @property
    def ranges(self) -> RowRanges:
        """Whose are the B rows, the B * L places, and the N tokens where they are packed."""
        rows, length = self.tokens.ids.shape
        ends = np.cumsum([0, *self.lengths]).tolist()
        spans = {name: (part.start, part.stop) for name, part in self.slices.items()}
        places = {name: (start * length, stop * length) for name, (start, stop) in spans.items()}
        tokens = {name: (ends[start], ends[stop]) for name, (start, stop) in spans.items()}
        return RowRanges(rows, {ends[-1]: tokens, rows * length: places, rows: spans})


@dataclass(frozen=True)
class Step:
    """The rows of one optimizer step, by task."""

    rows: dict[str, NDArray[np.int64]]

    def micro_batches(
        self, data: Mapping[str, TaskRows], pad_id: int, accumulate: int = 1, *, views: bool = True
    ) -> list[MicroBatch]:
        """The step's rows in `accumulate` fused batches of nearly equal size."""
        split = {name: np.array_split(rows, accumulate) for name, rows in self.rows.items()}
        parts = [{name: pieces[i] for name, pieces in split.items() if len(pieces[i])} for i in range(accumulate)]
        return [fuse(data, part, pad_id, views=views) for part in parts if part]


def fuse(
    data: Mapping[str, TaskRows], rows: Mapping[str, NDArray[np.int64]], pad_id: int, *, views: bool = True
) -> MicroBatch:
    """Pads the chosen rows of every task to one [B, L] token batch."""
    blocks = [
        (name, part, chosen)
        for name, chosen in rows.items()
        for _ in range(data[name].views if views else 1)
        for part in data[name].parts
    ]
    height = sum(len(chosen) for _, _, chosen in blocks)
    width = max(int(part.lengths[chosen].max()) for _, part, chosen in blocks)
    ids = np.full((height, width), pad_id, np.int64)
    types = np.zeros((height, width), np.int64)
    mask = np.zeros((height, width), np.bool_)
    at = 0
    for _, part, chosen in blocks:
        for row in chosen:
            begin, end = part.offsets[row], part.offsets[row + 1]
            ids[at, : end - begin] = part.ids[begin:end]
            types[at, : end - begin] = part.types[begin:end]
            mask[at, : end - begin] = True
            at += 1
    tokens = TokenBatch(torch.from_numpy(ids), torch.from_numpy(types), torch.from_numpy(mask))
    slices, at = {}, 0
    for name, chosen in rows.items():
        copies = len(data[name].parts) * (data[name].views if views else 1)
        targets = data[name].target.collate([data[name].labels[i] for i in chosen], width)
        slices[name] = TaskSlice(at, at + copies * len(chosen), copies, targets)
        at += copies * len(chosen)
    return MicroBatch(tokens, slices, mask.sum(1))


# ---------------------------------------------------------------------------------------------- an epoch


@dataclass(frozen=True)
class EpochPlan:
    """How an epoch draws its steps: rows a task (from the mixer), rows a step, composition and seed.

    earlier: the plans of the first epochs, where those had others.
    """

    mixer: Mixer
    batch_sizes: Mapping[str, int]
    composition: Literal["all", "one"]
    epochs: int
    seed: int
    earlier: Sequence[EpochPlan] = ()

    def rows(self, data: Mapping[str, TaskRows], epoch: int) -> dict[str, int]:
        sizes = {name: len(rows) for name, rows in data.items()}
        counts = self.mixer.rows(sizes, epoch, self.epochs, generator(self.seed, "mixer", epoch))
        if not isinstance(counts, Mapping) or not all(_is_count(counts.get(name, 0)) for name in sizes):
            raise plugins.wrong(self.mixer, "rows", "a whole number of rows for each task", counts)
        if strange := [name for name in counts if name not in sizes]:
            found = ", ".join(map(str, strange))
            raise plugins.wrong(self.mixer, "rows", f"counts of the tasks {', '.join(sizes)} alone", found)
        return {name: counts.get(name, 0) for name in sizes}  # in the order of `data`, whatever the mixer's is

    def check(self, data: Mapping[str, TaskRows]) -> None:
        """Raises PluginError where a task has no rows in any epoch; in some epochs it may have none."""
        idle = set(data)
        for epoch in range(self.epochs):
            plan = self.earlier[epoch] if epoch < len(self.earlier) else self
            idle -= {name for name, count in plan.rows(data, epoch).items() if count}
            if not idle:
                return
        names = ", ".join(name for name in data if name in idle)
        raise plugins.wrong(
            self.mixer, "rows", f"rows of every task in some epoch of {self.epochs}", f"none of {names}"
        )

    def step_count(self, data: Mapping[str, TaskRows], epoch: int) -> int:
        batches = [-(-count // self.batch_sizes[name]) for name, count in self.rows(data, epoch).items()]
        return max(batches) if self.composition == "all" else sum(batches)

    def steps(self, data: Mapping[str, TaskRows], epoch: int) -> list[Step]:
        """The epoch's steps. `all`: a batch of every task still in its epoch; `one`: one task's batch at a time."""
        batches = {
            name: self._batches(name, rows, count, epoch)
            for (name, rows), count in zip(data.items(), self.rows(data, epoch).values(), strict=True)
        }
        if self.composition == "one":
            turns = max(map(len, batches.values()))
            return [Step({name: b[turn]}) for turn in range(turns) for name, b in batches.items() if turn < len(b)]
        steps: list[Step] = []
        total = max(map(len, batches.values()))
        for first in range(0, total, WINDOW):
            size = min(WINDOW, total - first)
            order = torch.randperm(size, generator=generator(self.seed, "order", epoch, first)).tolist()
            drawn: list[dict[str, NDArray[np.int64]]] = [{} for _ in range(size)]
            for name, all_batches in batches.items():
                window = all_batches[first : first + size]  # sorted by length, so that equal ranks pad alike
                for rank, batch in enumerate(window):
                    drawn[rank * size // len(window)][name] = batch
            steps += [Step(drawn[rank]) for rank in order]
        return steps

    def coverage(self, data: Mapping[str, TaskRows], epoch: int, steps: int | None = None) -> dict[str, float]:
        """The share of each task's rows that were drawn at least once, from the first epoch to `steps` of `epoch`."""
        seen = {name: np.zeros(len(rows), np.bool_) for name, rows in data.items()}
        for number in range(epoch + 1):
            plan = self.earlier[number] if number < len(self.earlier) else self
            for step in plan.steps(data, number)[: steps if number == epoch else None]:
                for name, rows in step.rows.items():
                    seen[name][rows] = True
        return {name: float(marks.mean()) for name, marks in seen.items()}

    def _batches(self, name: str, rows: TaskRows, count: int, epoch: int) -> list[NDArray[np.int64]]:
        """`count` rows in seeded random order, then sorted by length inside every window of batches."""
        size = self.batch_sizes[name]
        draw = generator(self.seed, "rows", name, epoch)
        chosen = draw_rows(len(rows), count, draw)
        lengths = rows.lengths
        batches: list[NDArray[np.int64]] = []
        for first in range(0, count, size * WINDOW):
            pool = chosen[first : first + size * WINDOW]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        if self.composition == "one":  # no ranks to keep: shuffle the batches themselves
            batches = [batches[i] for i in torch.randperm(len(batches), generator=draw).tolist()]
        return batches


def _is_count(value: object) -> bool:
    return isinstance(value, int | np.integer) and bool(value >= 0)


def draw_rows(size: int, count: int, draw: torch.Generator) -> NDArray[np.int64]:
    """`count` row indices: whole random passes over the rows, then a random part of one more."""
    passes = [torch.randperm(size, generator=draw).numpy() for _ in range(-(-count // size) if size else 0)]
    return np.concatenate(passes)[:count] if passes else np.empty(0, np.int64)


def evaluation_batches(rows: TaskRows, max_tokens: int = 4096) -> Iterator[NDArray[np.int64]]:
    """All rows, sorted by length, in batches of at most `max_tokens` padded tokens (at least one row)."""
    lengths = rows.lengths
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, max_tokens // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size
