"""Any transformers model as an encoder (extra `hf`). Never runs code that a checkpoint brings along."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from mtk import CheckpointError, ConfigError, Encoder, Features, PluginError
from mtk_encoders.config import check_dropout
from mtk_encoders.folders import AGAIN, read_config
from mtk_encoders.pooling import pool
from mtk_encoders.sources import resolve
from mtk_encoders.tokenizer import FastTokenizer

if TYPE_CHECKING:
    from mtk import TokenBatch

DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_dropout", "attention_dropout", "dropout"),
    *("dropout_rate", "activation_dropout", "embedding_dropout", "mlp_dropout", "attn_pdrop", "embd_pdrop"),
    "resid_pdrop",
)
DEFAULT_LENGTH = 512


def hf(
    *, source: str, pooling: Literal["mean", "cls", "last"] = "mean", dropout: float | None = None
) -> TransformersEncoder:
    """The encoder of any model that transformers' AutoModel reads, by safetensors or torch weights.

    source: a folder, or owner/name on the Hub. pooling: `mean` over real tokens, `cls` (the first) or `last`.
    dropout: every dropout of the configuration, in [0, 1); None keeps the checkpoint's.
    Raises PluginError without transformers; CheckpointError and ConfigError for what cannot be loaded or set.
    """
    try:
        import transformers
    except ImportError as error:
        raise PluginError("encoder 'hf' needs transformers: pip install 'multitask-toolkit[hf]'") from error
    check_dropout(dropout)
    folder = resolve(source)
    read_config(folder)  # what transformers says of a damaged one is long
    with _quiet(transformers), _one_line(source):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        set_dropout(config, dropout)
        if pooling == "cls" and _is_decoder_only(transformers, config):
            raise ConfigError(f"encoder '{source}': {config.model_type} has no [CLS] in front; use 'mean' or 'last'")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if not getattr(tokenizer, "is_fast", False):
            raise CheckpointError(f"encoder '{source}': it has no fast tokenizer (tokenizer.json), which mtk needs")
        model = _load(transformers, folder, config)
        encoder = TransformersEncoder(model, tokenizer, pooling=pooling, dropout=dropout)
        encoder.tokenizer.check_rows(encoder.model.get_input_embeddings().num_embeddings, str(folder))
    return encoder


class TransformersEncoder(Encoder):
    """A transformers model behind mtk's Encoder: a TokenBatch of B rows -> Features of [B, D] and [B, L, D].

    Of an encoder-decoder model only the encoder runs and trains; `save` writes all of it.
    """

    tokenizer: FastTokenizer

    def __init__(self, whole: nn.Module, tokenizer: Any, *, pooling: str, dropout: float | None) -> None:
        super().__init__()
        config: Any = whole.config
        if not isinstance(getattr(config, "hidden_size", None), int):
            raise ConfigError(f"a {config.model_type} model is no text encoder: its configuration has no hidden_size")
        self._whole = (whole,)  # in a tuple, so that a decoder's weights are not among the encoder's parameters
        self._transformers_tokenizer = tokenizer
        model: Any = whole.get_encoder() if config.is_encoder_decoder else whole  # type: ignore[operator]
        self.model = model
        self.tokenizer = FastTokenizer(tokenizer.backend_tokenizer, _pad_id(tokenizer, config), {})
        self.pooling = pooling
        self.hidden_size = config.hidden_size
        self.max_length = _max_length(self.model, config, tokenizer)
        self.spec = ("hf", {"pooling": pooling, "dropout": dropout})
        takes = inspect.signature(self.model.forward).parameters
        # Without a table of types, models that take them (GPT-2) look them up among the words.
        self._takes_types = "token_type_ids" in takes and (getattr(config, "type_vocab_size", None) or 0) > 1

    def forward(self, batch: TokenBatch) -> Features:
        types = {"token_type_ids": batch.types} if self._takes_types else {}
        output = self.model(input_ids=batch.ids, attention_mask=batch.mask.long(), return_dict=True, **types)
        tokens = output.last_hidden_state
        return Features(pool(tokens, batch.mask, self.pooling), tokens, batch.mask)

    def save(self, folder: Path) -> None:
        """What `save_pretrained` writes: config.json, safetensors and the tokenizer's files."""
        import transformers

        with _quiet(transformers):
            self._whole[0].save_pretrained(folder)  # type: ignore[operator]
        self._transformers_tokenizer.save_pretrained(folder)


def set_dropout(config: Any, dropout: float | None) -> None:
    """Sets every dropout that a transformers configuration has. Raises ConfigError where it has none."""
    if dropout is None:
        return
    found = [name for name in DROPOUTS if isinstance(getattr(config, name, None), (int, float))]
    if not found:
        raise ConfigError(f"a {config.model_type} model has no dropout to set")
    for name in found:
        setattr(config, name, dropout)


def _load(transformers: Any, folder: Path, config: Any) -> nn.Module:
    """The model in float32, without the pooling layer that nothing here reads. Raises CheckpointError."""
    settings = {"config": config, "local_files_only": True, "trust_remote_code": False, "output_loading_info": True}
    try:
        model, report = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False, **settings)
    except TypeError as error:  # most model types have no such layer, and then no such argument
        if "add_pooling_layer" not in str(error):
            raise
        model, report = transformers.AutoModel.from_pretrained(folder, **settings)
    faults = {
        "missing": [name for name in report["missing_keys"] if "pooler" not in name],
        "misshapen": [name[0] if isinstance(name, tuple) else name for name in report["mismatched_keys"]],
    }
    for fault, names in faults.items():
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise CheckpointError(f"{folder}: {fault} weights: {', '.join(sorted(names)[:3])}{more}")
    return model.float()


def _is_decoder_only(transformers: Any, config: Any) -> bool:
    causal = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    return causal and type(config) not in transformers.MODEL_FOR_MASKED_LM_MAPPING and not config.is_encoder_decoder


def _pad_id(tokenizer: Any, config: Any) -> int:
    known = (tokenizer.pad_token_id, getattr(config, "pad_token_id", None), tokenizer.eos_token_id)
    return next((token for token in known if isinstance(token, int) and token >= 0), 0)


def _max_length(model: nn.Module, config: Any, tokenizer: Any) -> int:
    """The most tokens that have a position: RoBERTa and its kin count theirs from padding_idx + 1."""
    limits = [int(tokenizer.model_max_length)] if tokenizer.model_max_length < 10**6 else []
    if isinstance(positions := getattr(config, "max_position_embeddings", None), int) and positions > 0:
        limits.append(positions)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    return min(limits, default=DEFAULT_LENGTH)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No progress bars and reports while loading: what matters in them is raised."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _one_line(source: str) -> Iterator[None]:
    """transformers' many errors about a checkpoint as one CheckpointError line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        advice = f"; {AGAIN}" if isinstance(error, SafetensorError) else ""
        raise CheckpointError(f"encoder '{source}': transformers cannot load it: {lines[0]}{advice}") from error
