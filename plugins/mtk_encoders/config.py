"""What a BERT is built by: the `config.json` of the Hugging Face layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from mtk import CheckpointError, ConfigError, did_you_mean

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


@dataclass(frozen=True)
class BertConfig:
    """The part of a Hugging Face BERT `config.json` that the model reads. Raises ValueError for what it cannot do.

    pruned_heads: the heads that a layer has no more, both counted from 0; num_attention_heads counts them all.
    """

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
    pruned_heads: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.hidden_act not in ACTIVATIONS:
            known = did_you_mean(self.hidden_act, ACTIVATIONS)
            raise ValueError(f"hidden_act '{self.hidden_act}' is not supported{known}")
        if self.hidden_size % self.num_attention_heads:
            sizes = f"hidden_size {self.hidden_size}, num_attention_heads {self.num_attention_heads}"
            raise ValueError(f"hidden_size must be a multiple of num_attention_heads, found {sizes}")
        every = set(range(self.num_attention_heads))
        for layer, gone in self.pruned_heads.items():
            if not (0 <= layer < self.num_hidden_layers and set(gone) < every):
                of = f"{self.num_hidden_layers} layers of {self.num_attention_heads} heads"
                raise ValueError(f"pruned_heads: expected some heads of {of}, not all, found {layer}: {list(gone)}")

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def heads(self, layer: int) -> list[int]:
        """The heads that a layer has, by their number among all of them."""
        return [head for head in range(self.num_attention_heads) if head not in self.pruned_heads.get(layer, ())]

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
            names = [f.name for f in fields(cls) if f.name != "pruned_heads" and data.get(f.name) is not None]
            known = {name: _number_or_word(name, data[name]) for name in names}
            return cls(**known, pruned_heads=_pruned(data.get("pruned_heads") or {}))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{origin}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        fixed = {"architectures": ["BertModel"], "model_type": "bert", "position_embedding_type": "absolute"}
        pruned = {str(layer): list(heads) for layer, heads in self.pruned_heads.items() if heads}
        known = {key: value for key, value in asdict(self).items() if key != "pruned_heads"}
        return {**fixed, **known, **({"pruned_heads": pruned} if pruned else {})}

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


def _pruned(value: Any) -> dict[int, tuple[int, ...]]:
    whole = isinstance(value, Mapping) and all(
        str(layer).isdecimal() and isinstance(heads, list) and all(type(head) is int for head in heads)
        for layer, heads in value.items()
    )
    if not whole:
        raise ValueError(f"pruned_heads must be lists of heads by layer, found {value!r}")
    return {int(layer): tuple(sorted(set(heads))) for layer, heads in value.items()}
