"""A randomly initialised small BERT that needs no files: for tests and dry runs."""

from __future__ import annotations

import string
from typing import Literal

import torch
from torch import nn

from mtk import ConfigError
from mtk_encoders.bert import BertEncoder
from mtk_encoders.config import BertConfig
from mtk_encoders.pairs import Pair, PairFormat
from mtk_encoders.tokenizer import SPECIAL, wordpiece

WORDS = """
the a an of to in is it and that this for on with as at by from be are was were am been being not no yes or but so if
then than you he she we they i me him her us them my your his its our their who what which when where why how all any
some many much more most few less least other another such only own same too very can could will would should may
might must do does did done have has had having get got make made take took go goes went gone come came see saw seen
know knew think thought say said tell told give gave find found want like love hate good bad great best worst better
worse new old big small long short high low first last one two three four five six seven eight nine ten time year day
week way man woman men women child children people world life hand part place case work fact group problem number
night point home water room mother father area money story movie film plot actor actress scene director character
comedy drama music song funny sad happy boring dull bright dark clever smart stupid fun fine real true false never
always often just even still also back again about after before between into through over under up down out off here
there now question answer learn language program computer india english quora playing guitar dog cat bird horse car
bus train street city country running walking sitting standing eating young boy girl black white red green blue book
read write wrote written watch look looking feel felt show
"""
SUFFIXES = "s es ed er est ing ly ion tion ness ment able ful less ous ive al ic y en ize ity"


def vocabulary() -> dict[str, int]:
    """Token -> id: the special tokens, printable ASCII characters, their continuations, common words and suffixes."""
    characters = string.ascii_lowercase + string.digits
    continued = [f"##{piece}" for piece in (*characters, *SUFFIXES.split())]
    tokens = dict.fromkeys([*SPECIAL, *characters, *string.punctuation, *continued, *WORDS.split()])
    return {token: index for index, token in enumerate(tokens)}


def tiny_bert(
    *,
    seed: int = 0,
    hidden_size: int = 32,
    layers: int = 2,
    dropout: float | None = None,
    pooling: Literal["mean", "cls", "pooler"] = "mean",
    pair: Pair = "standard",
    token_types: bool = True,
) -> BertEncoder:
    """A BERT of two heads with random weights that depend on `seed` only. It reads up to 128 tokens.

    seed: of the weights. hidden_size: D, an even number. layers: 1 or more.
    dropout: of hidden states and attention; None means 0.1. pair, token_types: as `minilm`.
    Raises ConfigError for sizes that cannot be.
    """
    if hidden_size < 2 or hidden_size % 2 or layers < 1:
        raise ConfigError(f"tiny: needs an even hidden_size and a layer, found {hidden_size} and {layers} layers")
    tokenizer = wordpiece(vocabulary(), {"model_max_length": 128}, PairFormat(pair, token_types))
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=128,
        initializer_range=0.1,
    )
    with torch.device("meta"):
        encoder = BertEncoder(config, tokenizer, pooling=pooling, dropout=dropout)
    encoder.to_empty(device="cpu")
    initialise(encoder, config.initializer_range, torch.Generator().manual_seed(seed))
    return encoder


def initialise(model: nn.Module, deviation: float, generator: torch.Generator) -> None:
    """Random weights as BERT's: normal of `deviation`, biases 0, layer norms 1 and 0. Reads no global randomness."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=deviation, generator=generator)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, (nn.Linear, nn.LayerNorm)):
            nn.init.zeros_(module.bias)
