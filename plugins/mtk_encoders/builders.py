"""What the registered encoder names build."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from mtk import ConfigError, Encoder
from mtk_encoders.bert import BertEncoder
from mtk_encoders.config import BertConfig
from mtk_encoders.folders import read_config
from mtk_encoders.pairs import STANDARD, Pair, PairFormat
from mtk_encoders.sources import BERT_BASE, minilm_folder, resolve
from mtk_encoders.tokenizer import load_bert_tokenizer
from mtk_encoders.weights import bert_names, fill, read_weights

Pooling = Literal["mean", "cls", "pooler"]


def minilm(
    *, pooling: Pooling = "mean", dropout: float | None = None, pair: Pair = "standard", token_types: bool = True
) -> BertEncoder:
    """all-MiniLM-L6-v2 (6 layers, D = 384, 22 M parameters): the default.

    pooling: `mean` over real tokens, `cls` (the first), or `pooler` (tanh of a linear layer on the first).
    dropout: of hidden states and attention, in [0, 1); None keeps the checkpoint's.
    pair: how a pair becomes one sequence: `standard`, [CLS] a [SEP] b [SEP]; `no-final-sep`, [CLS] a [SEP] b ("BERT and
        Learnie", CS224N 2023); `keep-second-cls`, [CLS] a [SEP] [CLS] b [SEP]. Single texts and `bi` heads
        know nothing of it.
    token_types: whether all after the first [SEP] is of type 1; otherwise every token is of type 0.
    Raises CheckpointError where the weights cannot be had, ConfigError for a wrong dropout.
    """
    return load_bert(minilm_folder(), pooling=pooling, dropout=dropout, pairs=PairFormat(pair, token_types))


def bert_base(
    *, pooling: Pooling = "cls", dropout: float | None = None, pair: Pair = "standard", token_types: bool = True
) -> BertEncoder:
    """bert-base-uncased (12 layers, D = 768, 110 M parameters). Options and errors as `minilm`."""
    return load_bert(
        resolve(BERT_BASE, name="bert-base"), pooling=pooling, dropout=dropout, pairs=PairFormat(pair, token_types)
    )


def bert(
    *,
    source: str,
    pooling: Pooling = "mean",
    dropout: float | None = None,
    pair: Pair = "standard",
    token_types: bool = True,
) -> BertEncoder:
    """Any BERT checkpoint in the Hugging Face layout. source: a folder, or owner/name. The rest as `minilm`."""
    return load_bert(resolve(source), pooling=pooling, dropout=dropout, pairs=PairFormat(pair, token_types))


def auto(
    *,
    source: str,
    pooling: Pooling = "mean",
    dropout: float | None = None,
    pair: Pair = "standard",
    token_types: bool = True,
) -> Encoder:
    """A checkpoint by its config.json: `model_type` bert is read by our own BERT, any other through transformers.

    source: a folder, or owner/name. pooling `pooler`, and `pair` and `token_types` (see `minilm`) other than the
    defaults: for BERT only. Raises CheckpointError and ConfigError.
    """
    folder = resolve(source)
    model_type = read_config(folder).get("model_type")
    if model_type == "bert":
        return load_bert(folder, pooling=pooling, dropout=dropout, pairs=PairFormat(pair, token_types))
    if pooling == "pooler":
        raise ConfigError(f"encoder '{source}': pooling 'pooler' is for BERT checkpoints; use 'mean' or 'cls'")
    if PairFormat(pair, token_types) != STANDARD:
        raise ConfigError(
            f"encoder '{source}': options 'pair' and 'token_types' are for BERT checkpoints, and this is a "
            f"{model_type} model: leave them out"
        )
    from mtk_encoders.hf import hf

    return hf(source=str(folder), pooling=pooling, dropout=dropout)


def load_bert(folder: Path, *, pooling: Pooling, dropout: float | None, pairs: PairFormat = STANDARD) -> BertEncoder:
    """Reads a folder that `resolve` found complete. Raises CheckpointError naming the bad file or weights."""
    config = BertConfig.from_dict(read_config(folder), str(folder / "config.json"))
    tokenizer = load_bert_tokenizer(folder, config.pad_token_id, pairs)
    tokenizer.check_rows(config.vocab_size, str(folder))
    with torch.device("meta"):  # no memory, and no global randomness, for weights that the checkpoint replaces
        encoder = BertEncoder(config, tokenizer, pooling=pooling, dropout=dropout)
    fill(encoder, bert_names(read_weights(folder)), folder)
    return encoder
