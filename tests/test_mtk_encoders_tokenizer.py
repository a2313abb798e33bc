"""The tokenizer: pairs, truncation, words, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtk import CheckpointError, ConfigError, Encoding
from mtk_encoders.pairs import PairFormat
from mtk_encoders.tiny import vocabulary
from mtk_encoders.tokenizer import FastTokenizer, load_bert_tokenizer, wordpiece


@pytest.fixture(scope="module")
def tokenizer() -> FastTokenizer:
    return wordpiece(vocabulary())


def tokens(tokenizer: FastTokenizer, encoding: Encoding) -> list[str]:
    return [tokenizer._backend.id_to_token(i) for i in encoding.ids]


def test_a_text(tokenizer) -> None:
    (encoding,) = tokenizer.encode([("The moviEs, guitars!", None)], 32)
    assert tokens(tokenizer, encoding) == ["[CLS]", "the", "movie", "##s", ",", "guitar", "##s", "!", "[SEP]"]
    assert encoding.words == [None, 0, 1, 1, 2, 3, 3, 4, None]
    assert encoding.types == [0] * 9 and not encoding.truncated


def test_a_pair_has_words_in_its_first_text_only(tokenizer) -> None:
    (encoding,) = tokenizer.encode([("good dog", "bad cat")], 32)
    assert tokens(tokenizer, encoding) == ["[CLS]", "good", "dog", "[SEP]", "bad", "cat", "[SEP]"]
    assert encoding.words == [None, 0, 1, None, None, None, None]
    assert encoding.types == [0, 0, 0, 0, 1, 1, 1]


FORMATS = {  # the pair ("good dogs", "bad cat"): its tokens, and where type 1 begins
    "standard": ("[CLS] good dog ##s [SEP] bad cat [SEP]", 5),
    "no-final-sep": ("[CLS] good dog ##s [SEP] bad cat", 5),
    "keep-second-cls": ("[CLS] good dog ##s [SEP] [CLS] bad cat [SEP]", 5),
}


@pytest.mark.parametrize("token_types", [True, False])
@pytest.mark.parametrize("pair", FORMATS)
def test_a_pair_in_each_format(pair, token_types) -> None:
    formatted = wordpiece(vocabulary(), {}, PairFormat(pair, token_types))
    both, single, empty = formatted.encode([("good dogs", "bad cat"), ("good dogs", None), ("", "")], 32)
    text, second = FORMATS[pair]
    assert tokens(formatted, both) == text.split()
    assert both.types == [int(token_types and place >= second) for place in range(len(both.ids))]
    assert both.words == [None, 0, 1, 1] + [None] * (len(both.ids) - 4)
    assert tokens(formatted, single) == ["[CLS]", "good", "dog", "##s", "[SEP]"]
    assert single.types == [0] * 5 and single.words == [None, 0, 1, 1, None]
    assert tokens(formatted, empty) == [token for token in text.split() if token.startswith("[")]


@pytest.mark.parametrize(
    ("pair", "long", "even"),
    [
        ("standard", "[CLS] one two three four [SEP] good dog [SEP]", "[CLS] one two three [SEP] one two three [SEP]"),
        ("no-final-sep", "[CLS] one two three four five [SEP] good dog", None),
        ("keep-second-cls", "[CLS] one two three [SEP] [CLS] good dog [SEP]", None),
    ],
)
def test_each_format_is_cut_to_length(pair, long, even) -> None:
    formatted = wordpiece(vocabulary(), {}, PairFormat(pair))
    text = "one two three four five six seven"
    first, second, both = formatted.encode([(text, "good dog"), ("good dog", text), (text, text)], 9)
    assert tokens(formatted, first) == long.split() and first.truncated
    assert first.words == [None, *range(long.split().index("[SEP]") - 1)] + [None] * (9 - long.split().index("[SEP]"))
    assert tokens(formatted, second)[:3] == ["[CLS]", "good", "dog"] and second.truncated
    assert [len(e.ids) for e in (first, second, both)] == [9, 9, 9]
    assert even is None or tokens(formatted, both) == even.split()
    room = len(FORMATS[pair][0].split()) - 5  # the special tokens of a pair
    for length in range(room + 1, 9):
        assert [len(e.ids) for e in formatted.encode([(text, text), (text, "good dog")], length)] == [length] * 2
    with pytest.raises(ConfigError, match=f"more than the {room} special tokens of a pair, found {room}"):
        formatted.encode([("a", None)], room)


@pytest.mark.parametrize("saved", [PairFormat(), PairFormat("no-final-sep"), PairFormat("keep-second-cls", False)])
@pytest.mark.parametrize("wanted", [PairFormat(), PairFormat("no-final-sep", False), PairFormat("standard", False)])
def test_a_folder_is_read_in_the_format_that_is_asked_for(saved, wanted, tmp_path: Path) -> None:
    row = [("one two three four", "good dog")]
    plain = wordpiece(vocabulary(), {}, wanted)
    wordpiece(vocabulary(), {}, saved).save(tmp_path)
    loaded = load_bert_tokenizer(tmp_path, 0, wanted)
    assert loaded.encode(row, 32) == plain.encode(row, 32) and loaded.config == plain.config
    loaded.save(tmp_path)
    again = load_bert_tokenizer(tmp_path, 0, wanted)
    assert again.encode(row, 6) == plain.encode(row, 6) and again.pairs == wanted


def test_the_standard_format_leaves_a_tokenizer_json_as_it_is(tokenizer, tmp_path: Path) -> None:
    from tokenizers import processors

    backend = tokenizer._backend.from_str(tokenizer._backend.to_str())
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.no_truncation()
    backend.save(str(tmp_path / "tokenizer.json"))
    before = (tmp_path / "tokenizer.json").read_text()
    load_bert_tokenizer(tmp_path, 0).save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_text() == before
    assert "mtk_pairs" not in (tmp_path / "tokenizer_config.json").read_text()
    short = load_bert_tokenizer(tmp_path, 0, PairFormat("no-final-sep"))
    assert tokens(short, short.encode([("dog", "cat")], 9)[0]) == ["[CLS]", "dog", "[SEP]", "cat"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"cls_token": "<s>", "sep_token": {"content": "</s>"}}))
    assert load_bert_tokenizer(tmp_path, 0).encode([("dog", None)], 9)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: .*special tokens <s>, </s> are missing"):
        load_bert_tokenizer(tmp_path, 0, PairFormat("no-final-sep"))


def test_the_longer_text_is_cut_first(tokenizer) -> None:
    rows = [("one two three four five six seven", "good dog"), ("good dog", None), ("one two three four", None)]
    pair, short, cut = tokenizer.encode(rows, 8)
    assert (
        tokens(tokenizer, pair) == ["[CLS]", "one", "two", "three", "[SEP]", "good", "dog", "[SEP]"] and pair.truncated
    )
    assert not short.truncated and not cut.truncated
    (cut,) = tokenizer.encode(rows[2:], 5)
    assert tokens(tokenizer, cut) == ["[CLS]", "one", "two", "three", "[SEP]"] and cut.truncated
    assert len(tokenizer.encode(rows[:1], 32)[0].ids) == 12  # the limit is that of each call


def test_empty_texts_and_no_rows(tokenizer) -> None:
    assert tokenizer.encode([], 8) == []
    empty, pair, spaces = tokenizer.encode([("", None), ("", ""), ("  \n", None)], 8)
    assert tokens(tokenizer, empty) == ["[CLS]", "[SEP]"] == tokens(tokenizer, spaces)
    assert tokens(tokenizer, pair) == ["[CLS]", "[SEP]", "[SEP]"]


def test_an_encoding_is_never_empty() -> None:
    from tokenizers import Tokenizer, models

    bare = FastTokenizer(Tokenizer(models.WordLevel({"a": 0, "pad": 1}, unk_token="a")), 1, {})
    assert bare.encode([("", None)], 4) == [Encoding([1], [0], [None])]


def test_max_length_needs_room(tokenizer) -> None:
    with pytest.raises(ConfigError, match="max_length must be more than the 3 special tokens"):
        tokenizer.encode([("a", None)], 3)


def test_padding_and_truncation_do_not_leak(tokenizer, tmp_path: Path) -> None:
    tokenizer.encode([("one two three four", None)], 4)
    tokenizer.save(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    assert saved["truncation"] is None and saved["padding"] is None
    backend = tokenizer._backend.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_padding(length=64)
    backend.enable_truncation(2)
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = load_bert_tokenizer(tmp_path, 0)
    row = [("one two three four", "good dog")]
    assert loaded.encode(row, 32) == tokenizer.encode(row, 32)
    assert (loaded.pad_id, loaded.config) == (tokenizer.pad_id, tokenizer.config)


def test_vocab_txt_honours_the_settings(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text(
        "\r\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Dog", "dog", "é", "e"])
    )
    rows = [("Dog é", None)]
    lower = load_bert_tokenizer(tmp_path, 0)
    assert tokens(lower, lower.encode(rows, 9)[0]) == ["[CLS]", "dog", "e", "[SEP]"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    cased = load_bert_tokenizer(tmp_path, 0)
    assert tokens(cased, cased.encode(rows, 9)[0]) == ["[CLS]", "Dog", "é", "[SEP]"]
    cased.save(tmp_path)
    assert load_bert_tokenizer(tmp_path, 0).encode(rows, 9) == cased.encode(rows, 9)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("dog\n")
    with pytest.raises(CheckpointError, match=r"vocab\.txt: .*\[UNK\], \[SEP\], \[PAD\], \[CLS\] are missing"):
        load_bert_tokenizer(tmp_path, 0)


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": False}, {"strip_accents": False}])
def test_vocab_txt_agrees_with_tokenizers_own_bert(settings) -> None:
    from tokenizers import BertWordPieceTokenizer

    ours = wordpiece(vocabulary(), settings)
    lowercase = settings.get("do_lower_case", True)
    strip = settings.get("strip_accents")
    theirs = BertWordPieceTokenizer(vocabulary(), lowercase=lowercase, strip_accents=strip)
    for text in ("It's a café; naïve MOVIE-goers 中文 [MASK]", "x" * 120, "a\u200bb\tc"):
        assert ours.encode([(text, "Dogs")], 300)[0].ids == theirs.encode(text, "Dogs").ids


@pytest.mark.parametrize("token_types", [True, False])
@pytest.mark.parametrize("pair", FORMATS)
@pytest.mark.parametrize("named", [True, False])
def test_transformers_reads_what_we_write(pair, token_types, named, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = wordpiece(vocabulary(), {}, PairFormat(pair, token_types))
    if not named:  # a checkpoint's tokenizer_config.json may be silent on the special tokens' names
        tokenizer.config = {"tokenizer_class": "BertTokenizer"}
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text, pair = "It's a café; MOVIE-goers play unbelievably", "two dogs"
    (ours,) = tokenizer.encode([(text, pair)], 20)
    wanted = theirs(text, pair, truncation="longest_first", max_length=20)
    assert (ours.ids, ours.types) == (wanted["input_ids"], wanted["token_type_ids"])
    assert theirs.pad_token_id == tokenizer.pad_id
