"""How BERT's tokenizer joins the two texts of a pair into one sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Tokenizer, processors

from mtk import CheckpointError

Pair = Literal["standard", "no-final-sep", "keep-second-cls"]

TEMPLATES: Mapping[str, str] = {
    "standard": "{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
    "no-final-sep": "{cls}:0 $A:0 {sep}:0 $B:1",
    "keep-second-cls": "{cls}:0 $A:0 {sep}:0 {cls}:1 $B:1 {sep}:1",
}


@dataclass(frozen=True, slots=True)
class PairFormat:
    """The special tokens and types of a pair; a single text is always [CLS] a [SEP], of type 0.

    pair: `standard`, [CLS] a [SEP] b [SEP] (BERT, arXiv 1810.04805); `no-final-sep`, [CLS] a [SEP] b ("BERT and
        Learnie", CS224N 2023: the second text without its own [CLS] and [SEP]); `keep-second-cls`,
        [CLS] a [SEP] [CLS] b [SEP], both texts as they would be alone.
    token_types: whether all after the first [SEP] is of type 1; without it every type is 0.
    """

    pair: Pair = "standard"
    token_types: bool = True

    def apply(self, backend: Tokenizer, first: str, separator: str) -> None:
        """Sets the post-processor of a tokenizer whose [CLS] and [SEP] have these names. Raises CheckpointError."""
        ids = {name: backend.token_to_id(name) for name in (first, separator)}
        if missing := [name for name, number in ids.items() if number is None]:
            raise CheckpointError(f"vocabulary: special tokens {', '.join(missing)} are missing")
        pair = TEMPLATES[self.pair].format(cls=first, sep=separator)
        backend.post_processor = processors.TemplateProcessing(
            single=f"{first}:0 $A:0 {separator}:0",
            pair=pair if self.token_types else pair.replace(":1", ":0"),
            special_tokens=list(ids.items()),
        )

    def to_dict(self) -> dict[str, Any]:
        return {"pair": self.pair, "token_types": self.token_types}


STANDARD = PairFormat()
