"""BERT (arXiv 1810.04805) with the parameter names of the Hugging Face layout. Shapes: B rows, L tokens, D features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtk import CheckpointError, ConfigError, Encoder, Features, did_you_mean
from mtk_encoders.folders import write_json
from mtk_encoders.packing import Packing, attention, dropout, dropout_add
from mtk_encoders.pooling import pool
from mtk_encoders.weights import write_weights

if TYPE_CHECKING:
    from mtk import TokenBatch
    from mtk_encoders.tokenizer import FastTokenizer

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


QKV = ("query", "key", "value")


@dataclass(frozen=True)
class BertConfig:
    """The part of a Hugging Face BERT `config.json` that the model reads. Raises ValueError for what it cannot do."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        if self.hidden_act not in ACTIVATIONS:
            known = did_you_mean(self.hidden_act, ACTIVATIONS)
            raise ValueError(f"hidden_act '{self.hidden_act}' is not supported{known}")
        if self.hidden_size % self.num_attention_heads:
            sizes = f"hidden_size {self.hidden_size}, num_attention_heads {self.num_attention_heads}"
            raise ValueError(f"hidden_size must be a multiple of num_attention_heads, found {sizes}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], origin: str) -> BertConfig:
        """The configuration in a parsed `config.json`, called `origin` in errors. Raises CheckpointError."""
        wanted = {
            "model_type": "bert",
            "position_embedding_type": "absolute",
            "is_decoder": False,
            "add_cross_attention": False,
        }
        for key, value in wanted.items():
            found = data.get(key, None if key == "model_type" else value)
            if found is None:
                raise CheckpointError(f"{origin}: has no {key}: damaged, or an old one that --encoder hf:... may read")
            if found != value:
                raise CheckpointError(
                    f"{origin}: {key} is {found!r}; this BERT only does {value!r}, try --encoder hf:..."
                )
        try:
            known = {f.name: _number_or_word(f.name, data[f.name]) for f in fields(cls) if data.get(f.name) is not None}
            return cls(**known)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{origin}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        fixed = {"architectures": ["BertModel"], "model_type": "bert", "position_embedding_type": "absolute"}
        return {**fixed, **asdict(self)}

    def with_dropout(self, dropout: float | None) -> BertConfig:
        """The same with both dropouts set; None keeps them. Raises ConfigError outside [0, 1)."""
        if dropout is None:
            return self
        check_dropout(dropout)
        return BertConfig(**{**asdict(self), "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout})


def check_dropout(dropout: float | None) -> None:
    if dropout is not None and not 0 <= dropout < 1:
        raise ConfigError(f"dropout must be at least 0 and less than 1, found {dropout}")


def _number_or_word(name: str, value: Any) -> Any:
    default = getattr(BertConfig, name)
    fits = isinstance(value, (int, float)) if isinstance(default, float) else isinstance(value, type(default))
    if not fits or isinstance(value, bool):
        raise ValueError(f"{name} must be a {type(default).__name__}, found {value!r}")
    return value


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
    """tokens [N, D] -> [N, D]. Query, key and value are one layer; `state_dict` has the three of the usual layout."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dropout = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.register_state_dict_post_hook(_split_qkv)
        self.register_load_state_dict_pre_hook(_join_qkv)

    def forward(self, tokens: Tensor, packing: Packing) -> Tensor:
        return attention(self.qkv(tokens), packing, self.dropout * self.training)


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

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(config), "output": AddNorm(config, config.hidden_size)})
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
        layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
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
        """config.json, model.safetensors and the tokenizer's files, as transformers' BertModel reads them."""
        write_json(folder / "config.json", self.config.to_dict())
        write_weights(folder / "model.safetensors", self.state_dict())
        self.tokenizer.save(folder)
