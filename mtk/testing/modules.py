"""Checks of heads and encoders."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from mtk import plugins
from mtk.errors import ConfigError
from mtk.interfaces import Encoder, Features, Head, Target, TokenBatch
from mtk.model import outputs_of
from mtk.targets import Classes, MultiLabel, Number, Ordinal, Range, Ranking, Tags
from mtk.targets.labels import is_label
from mtk.testing.randomness import global_seed, seeded

HIDDEN, LENGTHS = 8, (5, 3, 1)  # D of the toy features, and the tokens of their rows
LENGTH = max(LENGTHS)
TOLERANCE = 1e-4  # between a row by itself and the same row in a padded batch
TEXTS: list[tuple[str, str | None]] = [
    ("A good film.", None),
    ("The dog and the cat are running over the street, and nobody knows why they would do such a thing.", None),
    ("How do I learn a language?", "What is the best way to learn languages?"),
    ("", None),
]


def check_head(make: Callable[[int, Target], Head], targets: Sequence[tuple[Target, Sequence[Any]]] = ()) -> None:
    """A head's outputs, loss, predictions and gradients on random features, for every target that it takes.

    make: builds one from (hidden_size, target). targets: targets, each with three parsed labels, in place of one or
    two of each kind that comes with mtk, of which the head must take one. Rows have 5, 3 and 1 words, and a token each.
    Raises AssertionError.
    """
    usual: list[tuple[Target, Sequence[Any]]] = [
        (Classes(["no", "yes"]), [0, 1, 1]),
        (Classes(["a", "b", "c"]), [2, 0, 1]),
        (Range(0.0, 5.0), [0.0, 5.0, 2.5]),
        (Number(), [-1.0, 0.5, 2.0]),
        (Ordinal(["low", "middle", "high"]), [2, 0, 1]),
        (MultiLabel(["a", "b", "c"]), [(0, 2), (), (1,)]),
        (Tags(["noun", "verb", "other"]), [(0, 1, 2, 0, 2), (2, 1, 0), (0,)]),
        (Ranking(), [1, 1, 1]),
    ]
    refused = []
    for target, labels in targets or usual:
        try:
            make(HIDDEN, target)
        except ConfigError as error:
            refused.append(str(error))
        else:
            aligned = [target.align(y, range(length)) for y, length in zip(labels, LENGTHS, strict=True)]
            _check_head(lambda target=target: make(HIDDEN, target), target, aligned)  # type: ignore[misc]
    assert len(refused) < len(targets or usual), f"the head refuses every target: {'; '.join(refused)}"


def _check_head(make: Callable[[], Head], target: Target, labels: Sequence[Any]) -> None:
    with global_seed(0):
        head, twin = make(), make()
    shape = f"(reads {head.reads}, {head.views} views, target {type(target).__name__})"
    assert head.reads in ("cross", "bi") and head.views >= 1, f"expected reads cross or bi, views >= 1 {shape}"
    texts = 2 if head.reads == "bi" else 1
    one = _features(texts, head.needs_tokens)
    views = one + _features(texts * (head.views - 1), head.needs_tokens, seed=1)
    head.eval()
    expected, outputs = outputs_of(head, len(LENGTHS), LENGTH), head(*views)
    found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    assert expected in (None, found), f"forward: expected outputs of shape {expected}, found {found} {shape}"
    whole = _loss(head, target, views, labels).detach()
    alone = sum(_loss(head, target, [f.rows(i, i + 1) for f in views], [y]).detach() for i, y in enumerate(labels))
    assert whole.ndim == 0 and torch.isfinite(whole), f"loss: expected a finite number, found {whole} {shape}"
    if target.level != "text":  # whose rows are told from each other
        assert torch.allclose(whole, torch.as_tensor(alone), atol=1e-5), (
            f"loss: expected the sum over rows, {float(alone):.6g}, found {float(whole):.6g} {shape}"
        )
    none = [target.align(None, range(length)) for length in LENGTHS]
    assert _loss(head, target, views, none) == 0, f"loss: rows without labels count {shape}"
    if head.views == 1:
        missing = _loss(head, target, views, [*labels[:-1], none[-1]])
        rest = _loss(head, target, [f.rows(0, len(labels) - 1) for f in views], labels[:-1])
        assert torch.allclose(missing, rest, atol=1e-5), f"loss: a row without a label counts {shape}"
    if head.needs_tokens:
        noise = [Features(f.pooled, _repadded(f), f.mask) for f in views]
        same = torch.allclose(_loss(head, target, noise, labels), whole, atol=1e-5)
        assert same, f"the padding of Features.tokens changes the loss: use Features.mask {shape}"
    _check_predictions(head, target, one, labels)
    state = {name: value.clone().contiguous() for name, value in head.state_dict().items()}
    twin.load_state_dict(load(save(state)))  # safetensors, as checkpoints are saved
    twin.eval()
    assert torch.equal(_loss(twin, target, views, labels), whole), f"saved and loaded, the loss differs {shape}"
    _check_half(head, target, views, labels, shape)
    _check_gradients(head, target, views, labels)


def _check_half(head: Head, target: Target, features: Sequence[Features], labels: Sequence[Any], shape: str) -> None:
    """With bf16 a head itself computes in float32, and its loss under autocast."""
    wide = _loss(head, target, features, labels).item()
    outputs = head(*features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = head.loss(outputs, target.collate(labels, LENGTH)).item()
    close = abs(half - wide) <= 0.05 * (1 + abs(wide))  # not of NaN
    assert close, f"loss: {half:.6g} under bf16, {wide:.6g} in float32 {shape}"


def _features(count: int, tokens: bool, seed: int = 0) -> list[Features]:
    """Features of three rows with 5, 3 and 1 tokens; the padding is noise, which must not matter."""
    generator = seeded(seed)
    mask = torch.arange(LENGTH) < torch.tensor(LENGTHS).unsqueeze(1)  # [B, L]
    made = []
    for _ in range(count):
        all_tokens = torch.randn(3, LENGTH, HIDDEN, generator=generator, requires_grad=True) if tokens else None
        made.append(Features(torch.randn(3, HIDDEN, generator=generator, requires_grad=True), all_tokens, mask))
    return made


def _repadded(features: Features) -> Tensor:
    """The tokens with other numbers in the padding."""
    assert features.tokens is not None
    return torch.where(features.mask.unsqueeze(-1), features.tokens, features.tokens + 7.0)


def _loss(head: Head, target: Target, features: Sequence[Features], labels: Sequence[Any]) -> Tensor:
    return head.loss(head(*features), target.collate(labels, LENGTH))


def _check_predictions(head: Head, target: Target, features: Sequence[Features], labels: Sequence[Any]) -> None:
    with torch.no_grad():
        none = [target.align(None, range(length)) for length in LENGTHS]
        predictions = head.predict(head(*features), target.collate(none, LENGTH))
        alone = head.predict(head(*(f.rows(0, 1) for f in features)), target.collate(none[:1], LENGTH))
    assert len(predictions) == len(labels), f"expected {len(labels)} predictions, found {len(predictions)}"
    for prediction in predictions:
        assert is_label(target, prediction.value), f"predicted {prediction.value!r}, which is no label of the target"
    one, among = alone[0].value, predictions[0].value
    close = abs(one - among) < TOLERANCE if isinstance(one, float) else one == among
    assert close, f"a row by itself is predicted {one}, among others {among}"
    json.dumps([prediction.label for prediction in predictions])


def _check_gradients(head: Head, target: Target, features: Sequence[Features], labels: Sequence[Any]) -> None:
    head.train()
    with global_seed(0):
        first = _loss(head, target, features, labels)
    with global_seed(0):
        assert torch.equal(first, _loss(head, target, features, labels)), "training mode: the same seed, another loss"
    first.backward()
    for name, parameter in head.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"no gradient reaches parameter '{name}'"
            assert torch.isfinite(parameter.grad).all(), f"the gradient of parameter '{name}' is not finite"
    reached = [x for f in features for x in (f.pooled, f.tokens) if x is not None and x.grad is not None]
    assert reached, "no gradient reaches the features: the encoder would learn nothing"


def check_encoder(make: Callable[[], Encoder], folder: Path | None = None) -> None:
    """An encoder's features: shapes, rows that do not depend on each other, determinism, and save + reload by `spec`.

    make: builds one. folder: where to save, in place of a temporary one. Raises AssertionError.
    """
    encoder = make().eval()
    batch = _batch(encoder, TEXTS)
    features = _read(encoder, batch)
    rows, length = batch.ids.shape
    assert features.pooled.shape == (rows, encoder.hidden_size), f"pooled: found shape {list(features.pooled.shape)}"
    assert features.tokens is None or features.tokens.shape == (rows, length, encoder.hidden_size), (
        "tokens: not [B, L, D]"
    )
    assert torch.equal(features.mask.bool(), batch.mask), "mask: expected the batch's"
    _assert_close(_read(encoder, batch), features, 0.0, "the same batch gives other features in eval mode")
    _assert_close(_read(make().eval(), batch), features, 1e-6, "building it again gives other features")
    for i, text in enumerate(TEXTS):
        single = _read(encoder, _batch(encoder, [text]))
        _assert_close(
            single, features.rows(i, i + 1), TOLERANCE, f"row {i} by itself differs from the same row in a batch"
        )
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = encoder(batch).pooled.float()
    apart, size = (half - features.pooled).abs().max().item(), features.pooled.abs().max().item()
    assert apart <= 0.1 * (1 + size), f"under bf16 the pooled features differ by {apart:.2g}"  # NaN fails too
    _check_reached(encoder, batch)
    with tempfile.TemporaryDirectory() as temporary:
        _check_reload(encoder, folder or Path(temporary), batch, features)


def _check_reached(encoder: Encoder, batch: TokenBatch) -> None:
    """A loss on the features reaches every parameter that learns."""
    encoder.train()
    with global_seed(0):
        features = encoder(batch)
        read = [features.pooled] if features.tokens is None else [features.pooled, features.tokens[batch.mask]]
        sum((part * torch.randn(part.shape)).sum() for part in read).backward()
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"no gradient reaches parameter '{name}': freeze it or leave it out"
            assert torch.isfinite(parameter.grad).all(), f"the gradient of parameter '{name}' is not finite"
    encoder.eval()


def _check_reload(encoder: Encoder, folder: Path, batch: TokenBatch, features: Features) -> None:
    encoder.save(folder)
    assert list(folder.rglob("*.safetensors")), f"save: expected weights as .safetensors, found {_names(folder)}"
    name, options = encoder.spec
    options = json.loads(json.dumps(dict(options)))  # as a checkpoint stores them
    again = plugins.build("encoder", name, **{**options, "source": str(folder)}).eval()
    _assert_close(_read(again, _batch(again, TEXTS)), features, 1e-6, "the saved and reloaded encoder differs")
    assert torch.equal(_batch(again, TEXTS).ids, batch.ids), "the saved and reloaded tokenizer differs"
    assert again.max_length == encoder.max_length, "the reloaded encoder has another max_length"


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def _batch(encoder: Encoder, rows: Sequence[tuple[str, str | None]]) -> TokenBatch:
    limit = min(encoder.max_length, 32)
    encodings = encoder.tokenizer.encode(rows, limit)
    assert len(encodings) == len(rows), f"tokenizer: expected {len(rows)} encodings, found {len(encodings)}"
    for row, e in zip(rows, encodings, strict=True):
        assert 0 < len(e.ids) <= limit, f"tokenizer: {len(e.ids)} tokens of {row}, at most {limit} allowed, none empty"
        assert len(e.ids) == len(e.types) == len(e.words), f"tokenizer: ids, types and words differ in length: {row}"
    (cut,) = encoder.tokenizer.encode([("word " * 2 * limit, None)], limit)
    assert cut.truncated and len(cut.ids) <= limit, "tokenizer: a text that is too long is not marked as truncated"
    length = max(len(e.ids) for e in encodings)
    pad = encoder.tokenizer.pad_id
    ids = torch.tensor([e.ids + [pad] * (length - len(e.ids)) for e in encodings])
    types = torch.tensor([e.types + [0] * (length - len(e.types)) for e in encodings])
    mask = torch.arange(length) < torch.tensor([[len(e.ids)] for e in encodings])
    return TokenBatch(ids, types, mask)


@torch.no_grad()
def _read(encoder: Encoder, batch: TokenBatch) -> Features:
    features = encoder(batch)
    assert torch.isfinite(features.pooled).all(), "pooled features are not finite"
    return features


def _assert_close(found: Features, wanted: Features, tolerance: float, text: str) -> None:
    difference = (found.pooled - wanted.pooled).abs().max().item()
    if found.tokens is not None and wanted.tokens is not None:
        width = min(found.tokens.shape[1], wanted.tokens.shape[1])  # a row by itself has less padding
        apart = (found.tokens[:, :width] - wanted.tokens[:, :width]).abs()[wanted.mask[:, :width].bool()]
        difference = max(difference, apart.max().item())
    assert difference <= tolerance, f"{text}: by {difference:.2g}, allowed {tolerance:.2g}"
