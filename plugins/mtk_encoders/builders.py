"""What the registered encoder names build."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from mtk import ConfigError, Encoder
from mtk_encoders.bert import BertConfig, BertEncoder
from mtk_encoders.folders import read_config
from mtk_encoders.sources import BERT_BASE, minilm_folder, resolve
from mtk_encoders.tokenizer import load_bert_tokenizer
from mtk_encoders.weights import bert_names, fill, read_weights

Pooling = Literal["mean", "cls", "pooler"]


def minilm(*, pooling: Pooling = "mean", dropout: float | None = None) -> BertEncoder:
    """all-MiniLM-L6-v2 (6 layers, D = 384, 22 M parameters): the default.

    pooling: see BertEncoder. dropout: of hidden states and attention, in [0, 1); None keeps the checkpoint's.
    Raises CheckpointError where the weights cannot be had, ConfigError for a wrong dropout.
    """
    return load_bert(minilm_folder(), pooling=pooling, dropout=dropout)


def bert_base(*, pooling: Pooling = "cls", dropout: float | None = None) -> BertEncoder:
    """bert-base-uncased (12 layers, D = 768, 110 M parameters). Options and errors as `minilm`."""
    return load_bert(resolve(BERT_BASE, name="bert-base"), pooling=pooling, dropout=dropout)


def bert(*, source: str, pooling: Pooling = "mean", dropout: float | None = None) -> BertEncoder:
    """Any BERT checkpoint in the Hugging Face layout. source: a folder, or owner/name. The rest as `minilm`."""
    return load_bert(resolve(source), pooling=pooling, dropout=dropout)


def auto(*, source: str, pooling: Pooling = "mean", dropout: float | None = None) -> Encoder:
    """A checkpoint by its config.json: `model_type` bert is read by our own BERT, any other through transformers.

    source: a folder, or owner/name. pooling: `pooler` for BERT only. Raises CheckpointError and ConfigError.
    """
    folder = resolve(source)
    if read_config(folder).get("model_type") == "bert":
        return load_bert(folder, pooling=pooling, dropout=dropout)
    if pooling == "pooler":
        raise ConfigError(f"encoder '{source}': pooling 'pooler' is for BERT checkpoints; use 'mean' or 'cls'")
    from mtk_encoders.hf import hf

    return hf(source=str(folder), pooling=pooling, dropout=dropout)


def load_bert(folder: Path, *, pooling: Pooling, dropout: float | None) -> BertEncoder:
    """Reads a folder that `resolve` found complete. Raises CheckpointError naming the bad file or weights."""
    config = BertConfig.from_dict(read_config(folder), str(folder / "config.json"))
    tokenizer = load_bert_tokenizer(folder, config.pad_token_id)
    tokenizer.check_rows(config.vocab_size, str(folder))
    with torch.device("meta"):  # no memory, and no global randomness, for weights that the checkpoint replaces
        encoder = BertEncoder(config, tokenizer, pooling=pooling, dropout=dropout)
    fill(encoder, bert_names(read_weights(folder)), folder)
    return encoder
