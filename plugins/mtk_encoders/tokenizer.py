"""Fast tokenizers (the `tokenizers` library) behind mtk's Tokenizer interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from mtk import CheckpointError, ConfigError, Encoding
from mtk_encoders.folders import AGAIN, read_json, write_json
from mtk_encoders.pairs import STANDARD, PairFormat

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NAMES = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")}
FORMAT = "mtk_pairs"  # in tokenizer_config.json: tokenizer.json has a pair format in it that BERT's is not
# transformers' BertTokenizer makes its own format; this class takes that of tokenizer.json, but must be told the rest.
BY_FILE = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
}


class FastTokenizer:
    """Encodes texts and pairs with a `tokenizers.Tokenizer`, of which it keeps a copy without padding and truncation.

    config: what `save` writes as tokenizer_config.json. pairs: the format that the backend was given, for `save`.
    """

    def __init__(
        self, backend: Tokenizer, pad_id: int, config: Mapping[str, Any], pairs: PairFormat = STANDARD
    ) -> None:
        self.pad_id = pad_id
        self.pairs = pairs
        self.config = dict(config)
        self._backend = _unlimited(backend)
        self._limit = 0
        self.vocab_size = max(self._backend.get_vocab().values(), default=-1) + 1

    def encode(self, rows: Sequence[tuple[str, str | None]], max_length: int) -> list[Encoding]:
        """Encodings of at most `max_length` tokens, special tokens included; the longer text of a pair is cut first.

        `words` are counted in the first text; tokens of the second have None, as special tokens do. An encoding holds
        at least one token. Raises ConfigError where `max_length` has no room beside the special tokens.
        """
        self._limit_to(max_length)
        inputs = [text if pair is None else (text, pair) for text, pair in rows]
        encoded = self._backend.encode_batch(inputs) if inputs else []
        return [self._convert(row, paired=pair is not None) for row, (_, pair) in zip(encoded, rows, strict=True)]

    def check_rows(self, rows: int, origin: str) -> None:
        """Raises CheckpointError where an embedding of `rows` rows has none for some token."""
        if self.vocab_size > rows:
            sizes = f"{self.vocab_size} tokens, {rows} word embeddings"
            raise CheckpointError(f"{origin}: tokenizer and weights do not belong together ({sizes}); {AGAIN}")

    def save(self, folder: Path) -> None:
        """tokenizer.json, without this run's truncation, and tokenizer_config.json."""
        _unlimited(self._backend).save(str(folder / "tokenizer.json"))
        config = self.config
        if self.pairs != STANDARD:
            config = {**NAMES, **config, **BY_FILE, FORMAT: self.pairs.to_dict()}
        write_json(folder / "tokenizer_config.json", config)

    def _limit_to(self, max_length: int) -> None:
        if max_length == self._limit:
            return
        special = self._backend.num_special_tokens_to_add(True)
        if max_length <= special:
            raise ConfigError(
                f"max_length must be more than the {special} special tokens of a pair, found {max_length}"
            )
        self._backend.enable_truncation(max_length, strategy="longest_first")
        self._limit = max_length

    def _convert(self, row: Any, paired: bool) -> Encoding:
        words = row.word_ids
        if paired:
            words = [w if s == 0 else None for w, s in zip(words, row.sequence_ids, strict=True)]
        ids = row.ids
        if not ids:  # an empty text where the tokenizer adds no special tokens
            return Encoding([self.pad_id], [0], [None])
        return Encoding(ids, row.type_ids, words, bool(row.overflowing))


def _unlimited(backend: Tokenizer) -> Tokenizer:
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def wordpiece(
    vocabulary: Mapping[str, int], settings: Mapping[str, Any] | None = None, pairs: PairFormat = STANDARD
) -> FastTokenizer:
    """BERT's tokenizer over a WordPiece vocabulary (token -> id); `settings` as in tokenizer_config.json.

    Raises CheckpointError where the vocabulary lacks a special token.
    """
    settings = dict(settings or {})
    unknown, separator, pad, first, mask = (_name(settings, role) for role in ("unk", "sep", "pad", "cls", "mask"))
    missing = [token for token in (unknown, separator, pad, first) if token not in vocabulary]
    if missing:
        raise CheckpointError(f"vocabulary: special tokens {', '.join(missing)} are missing")
    backend = Tokenizer(models.WordPiece(dict(vocabulary), unk_token=unknown, max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_special_tokens([token for token in (pad, unknown, first, separator, mask) if token in vocabulary])
    pairs.apply(backend, first, separator)
    names = {"unk_token": unknown, "sep_token": separator, "pad_token": pad, "cls_token": first, "mask_token": mask}
    config = {"do_lower_case": True, **settings, **names, "tokenizer_class": "BertTokenizer"}
    return FastTokenizer(backend, vocabulary[pad], config, pairs)


def load_bert_tokenizer(folder: Path, pad_id: int, pairs: PairFormat = STANDARD) -> FastTokenizer:
    """The tokenizer of a BERT checkpoint: tokenizer.json, else vocab.txt. Raises CheckpointError naming the bad file.

    pad_id: what pads where the tokenizer knows no [PAD]. pairs: the standard one leaves a tokenizer.json as it is, save
        one that we wrote with another format.
    """
    settings = _read_settings(folder / "tokenizer_config.json")
    if reshaped := settings.pop(FORMAT, None) is not None:
        settings = {key: value for key, value in settings.items() if key not in BY_FILE}
    file = folder / "tokenizer.json"
    if file.is_file():
        try:
            backend = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"{file}: damaged, not a tokenizer ({error}); {AGAIN}") from error
        first, separator, pad = (_name(settings, role) for role in ("cls", "sep", "pad"))
        if reshaped or pairs != STANDARD:
            _apply(pairs, backend, first, separator, file)
        known = backend.token_to_id(pad)
        config = {"tokenizer_class": "BertTokenizer", **settings}
        return FastTokenizer(backend, pad_id if known is None else known, config, pairs)
    file = folder / "vocab.txt"
    try:
        tokens = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{folder}: has neither tokenizer.json nor a readable vocab.txt ({error}); {AGAIN}"
        ) from error
    tokens = [token.rstrip("\r") for token in (tokens[:-1] if tokens[-1] == "" else tokens)]
    try:
        return wordpiece({token: index for index, token in enumerate(tokens)}, settings, pairs)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}; {AGAIN}") from error


def _apply(pairs: PairFormat, backend: Tokenizer, first: str, separator: str, file: Path) -> None:
    try:
        pairs.apply(backend, first, separator)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}; {AGAIN}") from error


def _read_settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    return read_json(file)


def _name(settings: Mapping[str, Any], role: str) -> str:
    """What a checkpoint calls its [CLS], [SEP], ...: a word, or a mapping with the word as its content."""
    token = settings.get(f"{role}_token", NAMES[f"{role}_token"])
    return str(token.get("content") if isinstance(token, Mapping) else token)
