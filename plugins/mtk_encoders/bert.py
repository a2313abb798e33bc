"""BERT (arXiv 1810.04805) with the parameter names of the Hugging Face layout. Shapes: B rows, L tokens, D features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mtk import Encoder, Features
from mtk_encoders.config import ACTIVATIONS, BertConfig
from mtk_encoders.folders import write_json
from mtk_encoders.packing import Packing, attention, dropout, dropout_add
from mtk_encoders.pooling import pool
from mtk_encoders.weights import write_weights

if TYPE_CHECKING:
    from mtk import TokenBatch
    from mtk_encoders.tokenizer import FastTokenizer

QKV = ("query", "key", "value")


class Embeddings(nn.Module):
    """ids, types, positions [N] -> [N, D]."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = config.hidden_dropout_prob

    def forward(self, ids: Tensor, types: Tensor, positions: Tensor) -> Tensor:
        words = self.word_embeddings(ids) + self.token_type_embeddings(types)
        return dropout(self.LayerNorm(words + self.position_embeddings(positions)), self.dropout * self.training)


class SelfAttention(nn.Module):
    """tokens [N, D] -> [N, H * d], which is D where no head is pruned.

    Query, key and value are one layer; `state_dict` has the three of the usual layout.
    """

    def __init__(self, config: BertConfig, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(config.hidden_size, 3 * heads * config.head_size)
        self.register_state_dict_post_hook(_split_qkv)
        self.register_load_state_dict_pre_hook(_join_qkv)

    def forward(self, tokens: Tensor, packing: Packing) -> Tensor:
        return attention(self.qkv(tokens), packing.with_heads(self.heads), self.dropout * self.training)


def _split_qkv(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    for kind in ("weight", "bias"):
        parts = state.pop(f"{prefix}qkv.{kind}").chunk(3)
        state |= {f"{prefix}{name}.{kind}": part for name, part in zip(QKV, parts, strict=True)}


def _join_qkv(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for kind in ("weight", "bias"):
        names = [f"{prefix}{name}.{kind}" for name in QKV]
        if all(name in state for name in names):
            state[f"{prefix}qkv.{kind}"] = torch.cat([state.pop(name) for name in names])


class AddNorm(nn.Module):
    """Projection, dropout, residual and layer norm: [N, n], residual [N, D] -> [N, D]."""

    def __init__(self, config: BertConfig, size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = config.hidden_dropout_prob

    def forward(self, tokens: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(dropout_add(self.dense(tokens), residual, self.dropout * self.training))


class Layer(nn.Module):
    """One block: tokens [N, D] -> [N, D]."""

    def __init__(self, config: BertConfig, heads: int) -> None:
        super().__init__()
        output = AddNorm(config, heads * config.head_size)
        self.attention = nn.ModuleDict({"self": SelfAttention(config, heads), "output": output})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.intermediate_size)})
        self.output = AddNorm(config, config.intermediate_size)
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS[config.hidden_act]

    def forward(self, tokens: Tensor, packing: Packing, only_first: bool = False) -> Tensor:
        """only_first: nobody reads but the first token of each row: [B, D] comes back."""
        heard = self.attention["self"](tokens, packing)
        if only_first:
            heard, tokens = packing.first(heard), packing.first(tokens)
        attended = self.attention["output"](heard, tokens)
        return self.output(self.activation(self.intermediate["dense"](attended)), attended)


class BertEncoder(Encoder):
    """Our own BERT: a TokenBatch of B rows -> Features(pooled [B, D], tokens [B, L, D], mask [B, L]).

    pooling: `mean` over real tokens, `cls` (the first token), or `pooler` (tanh of a linear layer on the first token).
    Between embeddings and pooling the rows are packed: [N, D], the batch's N real tokens end to end.
    """

    tokenizer: FastTokenizer

    def __init__(self, config: BertConfig, tokenizer: FastTokenizer, *, pooling: str, dropout: float | None) -> None:
        super().__init__()
        self.config = config = config.with_dropout(dropout)
        self.tokenizer, self.pooling = tokenizer, pooling
        self.hidden_size, self.max_length = config.hidden_size, config.max_position_embeddings
        self.spec = ("bert", {"pooling": pooling, "dropout": dropout, **tokenizer.pairs.to_dict()})
        self.embeddings = Embeddings(config)
        layers = nn.ModuleList(Layer(config, len(config.heads(i))) for i in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})
        if pooling == "pooler":
            self.pooler = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.hidden_size)})

    def forward(self, batch: TokenBatch) -> Features:
        packing = Packing(batch.mask, self.config.num_attention_heads, packed=batch.mask.device.type == "cpu")
        positions = torch.arange(packing.length, device=batch.ids.device).expand_as(batch.ids)
        tokens = self.embeddings(packing.pack(batch.ids), packing.pack(batch.types), packing.pack(positions))
        layers = list(self.encoder["layer"].children())
        only_first = self.pooling != "mean" and not self.needs_tokens
        for layer in layers[:-1]:
            tokens = layer(tokens, packing)
        tokens = layers[-1](tokens, packing, only_first)
        hidden = None if only_first else packing.unpack(tokens)
        first = tokens if hidden is None else hidden[:, 0]
        if self.pooling == "pooler":
            first = torch.tanh(self.pooler["dense"](first))
        pooled = pool(hidden, batch.mask, "mean") if self.pooling == "mean" and hidden is not None else first
        return Features(pooled, hidden, batch.mask)

    def save(self, folder: Path) -> None:
        """config.json, model.safetensors and the tokenizer's files, as transformers' BertModel reads them.

        With pruned heads it does only in transformers before version 5, which has no `pruned_heads` any more.
        """
        write_json(folder / "config.json", self.config.to_dict())
        write_weights(folder / "model.safetensors", self.state_dict())
        self.tokenizer.save(folder)
