"""Models of other kinds through transformers: forward, pooling, files and refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from mtk import CheckpointError, ConfigError, PluginError, TokenBatch, build
from mtk_encoders.hf import TransformersEncoder, hf
from mtk_encoders.tiny import tiny_bert
from tests.test_mtk_encoders import ROWS, batch_of

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")
torch.set_num_threads(1)

TOKENIZER = tiny_bert().tokenizer
BASE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
ZERO = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
MODELS = {
    "bert": {**BASE},
    "roberta": {**BASE, **ZERO, "max_position_embeddings": 51, "type_vocab_size": 1},
    "distilbert": {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 40},
    "electra": {**BASE, "embedding_size": 16},
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 40, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0},
    "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 50, **ZERO},
}


def checkpoint(folder: Path, kind: str, **settings) -> Path:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, vocab_size=TOKENIZER.vocab_size, **MODELS[kind], **settings)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    TOKENIZER.save(folder)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("kind", MODELS)
def test_any_model_reads_rows_by_themselves_and_reloads(kind, tmp_path: Path) -> None:
    encoder = hf(source=str(checkpoint(tmp_path, kind)), dropout=0.3)
    batch = batch_of(encoder)
    assert encoder.hidden_size == 32 and batch.ids.shape[1] <= encoder.max_length
    assert not any("decoder" in name or "pooler" in name for name, _ in encoder.named_parameters())
    encoder(batch).pooled.sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []
    encoder.eval()
    with torch.no_grad():
        features = encoder(batch)
        first = int(batch.mask[0].sum())
        alone = encoder(TokenBatch(batch.ids[:1, :first], batch.types[:1, :first], batch.mask[:1, :first]))
    assert features.tokens.shape == (*batch.ids.shape, 32) and features.pooled.shape == (len(ROWS), 32)
    torch.testing.assert_close(alone.pooled, features.pooled[:1], atol=1e-5, rtol=0)
    (tmp_path / "saved").mkdir()
    encoder.save(tmp_path / "saved")
    assert list((tmp_path / "saved").glob("*.safetensors"))
    name, options = encoder.spec
    again = build("encoder", name, source=str(tmp_path / "saved"), **options)
    with torch.no_grad():
        assert torch.equal(again.eval()(batch_of(again)).pooled, features.pooled)


def test_ours_and_theirs_agree_on_bert(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, "bert")
    ours, theirs = (build("encoder", name, source=str(folder)).eval() for name in ("auto", "hf"))
    assert not isinstance(ours, TransformersEncoder) and isinstance(theirs, TransformersEncoder)
    with torch.no_grad():
        torch.testing.assert_close(ours(batch_of(ours)).pooled, theirs(batch_of(theirs)).pooled, atol=1e-5, rtol=0)


def test_auto_takes_transformers_for_the_rest(tmp_path: Path) -> None:
    folder = str(checkpoint(tmp_path, "roberta"))
    encoder = build("encoder", folder, pooling="cls")
    assert isinstance(encoder, TransformersEncoder)
    assert encoder.max_length == 50  # positions are counted from padding_idx + 1
    assert isinstance(build("encoder", "hf", **{"": folder}), TransformersEncoder)
    with pytest.raises(ConfigError, match="'pooler' is for BERT"):
        build("encoder", folder, pooling="pooler")


def test_token_types_go_where_there_is_a_table_of_them(tmp_path: Path) -> None:
    taken = {}
    for kind in ("bert", "roberta", "gpt2", "distilbert"):
        (tmp_path / kind).mkdir()
        taken[kind] = hf(source=str(checkpoint(tmp_path / kind, kind)))._takes_types
    assert taken == {"bert": True, "roberta": False, "gpt2": False, "distilbert": False}


def test_a_decoder_pools_the_mean_or_the_last(tmp_path: Path) -> None:
    source = str(checkpoint(tmp_path, "gpt2"))
    encoder = hf(source=source, pooling="last").eval()
    batch = batch_of(encoder)
    features = encoder(batch)
    assert torch.equal(features.pooled[0], features.tokens[0, int(batch.mask[0].sum()) - 1])
    with pytest.raises(ConfigError, match=r"has no \[CLS\]"):
        hf(source=source, pooling="cls")


def test_dropout(tmp_path: Path) -> None:
    source = str(checkpoint(tmp_path, "distilbert"))
    assert {m.p for m in hf(source=source, dropout=0.25).modules() if isinstance(m, torch.nn.Dropout)} == {0.25}
    with pytest.raises(ConfigError, match="dropout must be"):
        hf(source=source, dropout=1.0)


def test_without_transformers_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PluginError, match=r"pip install 'multitask-toolkit\[hf\]'"):
        hf(source="owner/name")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 50), "cannot load it: .*; use another checkpoint"),
        (lambda f: (f / "config.json").write_text('{"model_type": "no-such"}'), "cannot load it"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: damaged, not valid JSON"),
        (lambda f: (f / "config.json").write_text("{}"), "config.json has no model_type: not a checkpoint"),
        (lambda f: edit(f, num_hidden_layers=2, n_layers=2), "missing weights: .* and .* more"),
        (lambda f: edit(f, dim=16), "(missing|misshapen) weights|size mismatch|cannot load"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "cannot load it"),
    ],
)
def test_a_bad_folder_is_one_clear_line(spoil, says, tmp_path: Path) -> None:
    spoil(checkpoint(tmp_path, "distilbert"))
    with pytest.raises(CheckpointError, match=says) as caught:
        hf(source=str(tmp_path))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def edit(folder: Path, **changes) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
