"""Built-in text encoders: our own BERT, and any transformers model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtk import Register, RegisterCommand, hookimpl


def _source(name: str) -> Mapping[str, Any] | None:
    from mtk_encoders.sources import looks_like_source

    return {"source": name} if looks_like_source(name) else None


@hookimpl
def register_encoders(register: Register) -> None:
    register("minilm", "mtk_encoders.builders:minilm", "all-MiniLM-L6-v2, 22 M parameters, mean pooling (default)")
    register(
        "bert-base",
        "mtk_encoders.builders:bert_base",
        "bert-base-uncased, 110 M parameters, [CLS] pooling",
        paper="arXiv 1810.04805",
    )
    register(
        "bert",
        "mtk_encoders.builders:bert",
        "our BERT with the weights of a folder or owner/name: bert:SOURCE",
        paper="arXiv 1810.04805",
    )
    register("hf", "mtk_encoders.hf:hf", "any transformers model from a folder or owner/name: hf:SOURCE")
    register(
        "auto",
        "mtk_encoders.builders:auto",
        "a folder or owner/name by itself: BERT goes to ours, the rest through transformers",
        accepts=_source,
    )
    register("tiny", "mtk_encoders.tiny:tiny_bert", "randomly initialised 2-layer BERT for tests and dry runs")


@hookimpl
def register_commands(register: RegisterCommand) -> None:
    from mtk_encoders.prune_command import prune_command

    register(
        "prune", prune_command, "Experimental: remove a finished run's least important attention heads, as a new run."
    )
