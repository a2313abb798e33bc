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


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """Scaled dot-product attention: query, key, value [B, H, L, d], bias [B, 1, 1, L] or None -> [B, H, L, d].

    On the CPU, SDPA is the slower one in bfloat16 (1.2x to 6x at lengths 16 to 256) and with dropout.
    """
    if query.device.type == "cpu" and (dropout > 0 or query.dtype != torch.float32):
        return plain_attention(query, key, value, bias, dropout)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """What SDPA computes, as batched products and a softmax, to rounding. Shapes as in `attention`."""
    scores = torch.matmul(query, key.transpose(-1, -2)) * query.size(-1) ** -0.5  # [B, H, L, L]
    if bias is not None:
        scores = scores + bias
    return torch.matmul(F.dropout(scores.softmax(-1), dropout), value)


def attention_bias(mask: Tensor, like: Tensor) -> Tensor | None:
    """mask [B, L] -> what to add to scores [B, 1, 1, L], in the dtype that attention will run in.

    None where no row is padded; only the CPU is asked, because the answer would make another device wait.
    """
    kind = mask.device.type
    if kind == "cpu" and bool(mask.all()):
        return None
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill_(~mask, torch.finfo(dtype).min)[:, None, None, :]


class Embeddings(nn.Module):
    """ids, types [B, L] -> [B, L, D]."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, ids: Tensor, types: Tensor) -> Tensor:
        # Expanded to [B, L], so that each row's share of the position gradient can be told apart.
        positions = torch.arange(ids.size(1), device=ids.device).expand_as(ids)
        words = self.word_embeddings(ids) + self.token_type_embeddings(types)
        return self.dropout(self.LayerNorm(words + self.position_embeddings(positions)))


class SelfAttention(nn.Module):
    """hidden [B, L, D] -> [B, L, D]."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.num_attention_heads, config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, bias: Tensor | None) -> Tensor:
        # [B, L, D] -> [B, H, L, D / H]
        query, key, value = (
            linear(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        return attention(query, key, value, bias, self.dropout if self.training else 0.0).transpose(1, 2).flatten(2)


class AddNorm(nn.Module):
    """Projection, dropout, residual and layer norm: [B, L, N], residual [B, L, D] -> [B, L, D]."""

    def __init__(self, config: BertConfig, size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(hidden)) + residual)


class Layer(nn.Module):
    """One block: hidden [B, L, D] -> [B, L, D]."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(config), "output": AddNorm(config, config.hidden_size)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.intermediate_size)})
        self.output = AddNorm(config, config.intermediate_size)
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden: Tensor, bias: Tensor | None) -> Tensor:
        attended = self.attention["output"](self.attention["self"](hidden, bias), hidden)
        return self.output(self.activation(self.intermediate["dense"](attended)), attended)


class BertEncoder(Encoder):
    """Our own BERT: a TokenBatch of B rows -> Features(pooled [B, D], tokens [B, L, D], mask [B, L]).

    pooling: `mean` over real tokens, `cls` (the first token), or `pooler` (tanh of a linear layer on the first token).
    """

    tokenizer: FastTokenizer

    def __init__(self, config: BertConfig, tokenizer: FastTokenizer, *, pooling: str, dropout: float | None) -> None:
        super().__init__()
        self.config = config = config.with_dropout(dropout)
        self.tokenizer, self.pooling = tokenizer, pooling
        self.hidden_size, self.max_length = config.hidden_size, config.max_position_embeddings
        self.spec = ("bert", {"pooling": pooling, "dropout": dropout})
        self.embeddings = Embeddings(config)
        layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})
        if pooling == "pooler":
            self.pooler = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.hidden_size)})

    def forward(self, batch: TokenBatch) -> Features:
        hidden = self.embeddings(batch.ids, batch.types)
        bias = attention_bias(batch.mask, hidden)
        for layer in self.encoder["layer"].children():
            hidden = layer(hidden, bias)
        if self.pooling == "pooler":
            return Features(torch.tanh(self.pooler["dense"](hidden[:, 0])), hidden, batch.mask)
        return Features(pool(hidden, batch.mask, self.pooling), hidden, batch.mask)

    def save(self, folder: Path) -> None:
        """config.json, model.safetensors and the tokenizer's files, as transformers' BertModel reads them."""
        write_json(folder / "config.json", self.config.to_dict())
        write_weights(folder / "model.safetensors", self.state_dict())
        self.tokenizer.save(folder)
