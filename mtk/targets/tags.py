"""A tag for every word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mtk.errors import ConfigError, PluginError
from mtk.interfaces import Example, Prediction, Target, Targets
from mtk.targets.divergences import of_classes
from mtk.targets.names import Names, macro_f1

UNREAD = -1  # the tag of a word of which the model read nothing
_WORD = re.compile(r"\S+")
_CHUNK = re.compile(r"O|[BIES](-.+)?")


class Tags(Target):
    """One of C tags a word; outputs [B, L, C] are logits, the loss is cross-entropy at the first token of each word.

    Words are what white space, however much, separates in the row's first text; a task whose files hold lists of words
    joins them by spaces. Parsed labels are tuples of indices, one a word. A file holds names or indices with white
    space between them ("B-PER I-PER O"), or in JSON a list.

    Names of the form O, B-TYPE, I-TYPE (E- and S- too: IOBES) mark entities, and the main metric is their micro F1, as
    seqeval counts them: conlleval's reading, which lets an entity begin with I. All other names are plain tags, and the
    main metric is the share of words that have the right one. Words behind `max_length` are not read: they are tagged
    O, or not at all where tags are plain, and count as any other word does.

    Raises ConfigError for names that are none or repeat, or mark entities without O, and PluginError where entities are
    to be found without seqeval.
    """

    level = "token"
    head = "tagger"

    def __init__(self, names: Sequence[str]) -> None:
        self._known = Names("tags", names)
        self.names = self._known.all
        self.size = len(self.names)
        self.entities = any(name.startswith("B-") for name in self.names)
        strange = next((name for name in self.names if not _CHUNK.fullmatch(name)), None)
        if self.entities and ("O" not in self.names or strange is not None):
            found = ", ".join(self.names) if strange is None else f"'{strange}'"
            raise ConfigError(f"tags: expected O, B-TYPE and I-TYPE for entities, found {found}")
        if self.entities and find_spec("seqeval") is None:
            raise PluginError("tags of entities need seqeval: pip install 'multitask-toolkit[tagging]'")
        self.primary = "entity_f1" if self.entities else "accuracy"
        self._unread = self.names.index("O") if self.entities else UNREAD

    def parse(self, raw: Any) -> tuple[int, ...]:
        parts = raw if isinstance(raw, list | tuple) else str(raw).split()
        return tuple(self._known.parse(part) for part in parts)

    def check(self, row: Example) -> None:
        words = len(row.text.split())
        if row.label is not None and len(row.label) != words:
            raise ValueError(f"expected {words} tags, one a word of '{row.text[:60]}', found {len(row.label)}")

    def align(self, label: Any, words: Sequence[int | None]) -> list[tuple[int, int] | None]:
        """At the first token of each word its tag (-1 without label) and its number, elsewhere None."""
        first = [word is not None and (i == 0 or words[i - 1] != word) for i, word in enumerate(words)]
        return [
            (-1 if label is None else label[word], word) if begins and word is not None else None
            for word, begins in zip(words, first, strict=True)
        ]

    def collate(self, labels: Sequence[Any], length: int) -> Targets:
        """labels [B, L, 2]: tag and word, where `places` says that a word begins."""
        none = (-1, -1)
        rows = [[mark or none for mark in aligned] + [none] * (length - len(aligned)) for aligned in labels]
        values = torch.tensor(rows)
        places, mask = values[..., 1] >= 0, values[..., 0] >= 0
        return Targets(values, mask, int(mask.sum()), places)

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        wanted = targets.labels[..., 0].clamp(min=0)  # [B, L]
        each = F.cross_entropy(outputs.float().transpose(1, 2), wanted, reduction="none")  # [B, L, C] -> [B, L]
        return (each * targets.mask).sum()

    def divergence(self, first: Tensor, second: Tensor) -> Tensor:
        return of_classes(first, second)  # [B, L, C] -> [B, L]

    def predict(self, outputs: Tensor, targets: Targets) -> list[Prediction]:
        """A tag for each word up to the last one read; `complete` adds the text's other words.

        The score is the mean probability of the tags; 0 where no word was read.
        """
        assert targets.places is not None
        best, tags = outputs.float().softmax(-1).max(-1)  # [B, L, C] -> [B, L]
        found = []
        for row, places in enumerate(targets.places):
            words = targets.labels[row, places, 1].tolist()
            value = [self._unread] * (max(words, default=-1) + 1)
            for word, tag in zip(words, tags[row, places].tolist(), strict=True):
                value[word] = tag
            score = float(best[row, places].mean()) if words else 0.0
            found.append(Prediction(tuple(value), [self._name(tag) for tag in value], score))
        return found

    def complete(self, prediction: Prediction, row: Example) -> Prediction:
        """With a tag for every word of the text, words, and where there are entities, those: type, text, and the
        characters from `start` up to `end`."""
        words = list(_WORD.finditer(row.text))
        value = (*prediction.value, *[self._unread] * (len(words) - len(prediction.value)))
        tags = [self._name(tag) for tag in value]
        label: dict[str, Any] = {"words": [word.group() for word in words], "tags": tags}
        if self.entities:
            from seqeval.metrics.sequence_labeling import get_entities

            spans = [(kind, words[a].start(), words[b].end()) for kind, a, b in get_entities(tags)]
            label["entities"] = [
                {"type": kind, "text": row.text[start:end], "start": start, "end": end} for kind, start, end in spans
            ]
        return replace(prediction, value=value, label=label)

    def metrics(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> dict[str, float]:
        """Of words, accuracy and macro F1; of entities, their micro F1, precision and recall, and the words' accuracy.

        0 where there is nothing to count.
        """
        from sklearn.metrics import accuracy_score

        guesses = [p.value for p in predictions]
        wanted, guessed = ([tag for row in rows for tag in row] for rows in (labels, guesses))
        accuracy = {"accuracy": float(accuracy_score(wanted, guessed)) if wanted else 0.0}
        if not self.entities:
            return {**accuracy, "macro_f1": macro_f1(wanted, guessed) if wanted else 0.0}
        from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

        rows = ([[self.names[tag] for tag in row] for row in side] for side in (labels, guesses))
        precision, recall, f1, _ = precision_recall_fscore_support(*rows, average="micro", zero_division=0)
        found = {"entity_f1": f1, "entity_precision": precision, "entity_recall": recall}
        return {**{name: float(value) for name, value in found.items()}, **accuracy}

    def _name(self, tag: int) -> str | None:
        return None if tag == UNREAD else self.names[tag]
