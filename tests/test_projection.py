"""The linear layer between encoder and heads: what it reads, what it learns, and where it goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import mtk.device
from mtk import inference, session
from mtk.assembly import assemble
from mtk.checkpoint import load_matching, load_training
from mtk.device import Hardware
from mtk.errors import CheckpointError
from mtk.gramian import gramian
from mtk.interfaces import Features
from mtk.model import Projection
from mtk.run import RunFolder
from mtk.training import EpochDone, Training
from tests.toy_plugin import config, still

pytestmark = pytest.mark.usefixtures("toys", "one_choice")
CPU = Hardware("cpu", "fp32", 1)
UNITS = {"projection": 6}


@pytest.fixture
def one_choice(monkeypatch):
    """Runs that are compared multiply alike: the choice hangs on a clock, which a busy machine upsets."""
    monkeypatch.setattr(mtk.device, "onednn_or_torch", lambda: "torch")


def run(out: Path, **over) -> Path:
    """A finished run of the toy configuration, by default with a projection."""
    over = {"model": UNITS, **over}
    assert list(session.start(config(**over), out).run())
    return out


def saved(path: Path, part: str = "best") -> dict[str, torch.Tensor]:
    return load_file(path / part / "projection.safetensors")


# ---------------------------------------------------------------------------------------------- the layer


@pytest.mark.parametrize(("wanted", "size"), [(6, 6), ("12", 12), ("hidden", 8), ("none", None), (None, None)])
def test_its_size(wanted, size):
    parts = assemble(config(model={"projection": wanted}), CPU)
    projection, heads = parts.model.projection, parts.model.heads
    assert (projection is None) == (size is None)
    if size is not None:
        assert isinstance(projection, Projection)
        assert projection.linear.weight.shape == (size, 8)
    assert {head.hidden_size for head in heads.values()} == {size or 8}


def test_it_is_dropout_and_a_linear_layer():
    torch.manual_seed(0)
    layer, x = Projection(8, 3, 0.5), torch.randn(1000, 8)
    assert layer.linear.weight.std().item() == pytest.approx(0.02, rel=0.5) and not layer.linear.bias.any()
    torch.testing.assert_close(layer.eval()(x), F.linear(x, layer.linear.weight, layer.linear.bias))
    torch.manual_seed(1)
    noisy = layer.train()(x)
    torch.manual_seed(1)
    torch.testing.assert_close(noisy, F.linear(F.dropout(x, 0.5), layer.linear.weight))
    assert not torch.equal(noisy, layer(x))


def test_its_start_hangs_on_the_seed_alone():
    def made(**over) -> torch.Tensor:
        return assemble(config(**{"model": {"projection": "hidden"}, **over}), CPU).model.projection.linear.weight

    one = made()
    assert torch.equal(one, made(tasks={"pairs": {"head": "cosine"}}, combiner="pcgrad"))
    assert not torch.equal(one, made(train={"seed": 2}))
    with_, without = (assemble(config(model={"projection": p}), CPU).model.heads for p in ("hidden", None))
    for key, tensor in without.state_dict().items():
        assert torch.equal(with_.state_dict()[key], tensor)


def test_every_head_reads_what_it_makes():
    parts = assemble(still(model=UNITS), CPU)
    model = parts.model.eval()
    batch = parts.plan.steps(parts.train, 0)[0].micro_batches(parts.train, 0)[0]
    assert set(batch.slices) == {"words", "pairs", "tags"}  # a pooled row, two of them, and tokens
    features = model.encoder(batch.tokens)
    made = Features(model.projection(features.pooled), model.projection(features.tokens), features.mask)
    outputs = model(batch)
    for name, part in batch.slices.items():
        size = (part.stop - part.start) // part.copies
        blocks = [made.rows(part.start + i * size, part.start + (i + 1) * size) for i in range(part.copies)]
        torch.testing.assert_close(outputs[name], model.heads[name](*blocks))
        assert not torch.allclose(outputs[name], torch.zeros(()))


def test_tokens_that_nobody_reads_are_not_projected(monkeypatch):
    seen = []
    monkeypatch.setattr(Projection, "forward", lambda self, x: seen.append(x.dim()) or self.linear(x))
    for tasks, wanted in (({"words": {}}, [2]), ({"words": {}, "tags": {}}, [3, 2])):
        parts = assemble(still(tasks, model=UNITS), CPU)
        seen.clear()
        parts.model(parts.plan.steps(parts.train, 0)[0].micro_batches(parts.train, 0)[0])
        assert seen == wanted


# ---------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("freeze", [None, "encoder"])
def test_its_gradients_by_task_cost_one_backward_and_are_right(freeze):
    parts = assemble(still(model={**UNITS, "freeze": freeze}, combiner="pcgrad"), CPU)
    training = Training(parts)
    assert training.slow_parameters == []
    shared = parts.model.shared_parameters()
    assert parts.model.projection.linear.weight in set(shared)
    assert len(shared) == 2 if freeze else len(shared) > 2
    step = parts.plan.steps(parts.train, 0)[0]
    losses = parts.model.losses(batch := step.micro_batches(parts.train, 0)[0], parts.model(batch))
    flat = []
    for name, part in batch.slices.items():
        loss = losses[name] / part.targets.count
        flat.append(torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True))
    done = next(training.run())
    torch.testing.assert_close(done.report.gram, gramian(flat), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("combiner", ["sum", "pcgrad", "graddrop", "uncertainty", "famo"])
def test_it_learns_under_every_combiner(combiner, precision):
    settings = config(
        model=UNITS, combiner=combiner, train={"accumulate": 2, "nonfinite": "skip", "diagnose": "layers"}
    )
    parts = assemble(settings, Hardware("cpu", precision, 1))
    before = {name: p.detach().clone() for name, p in parts.model.projection.named_parameters()}
    training = Training(parts)
    for event in training.run():
        if not isinstance(event, EpochDone) and getattr(event, "report", None) and event.report.layers:
            assert "projection.linear" in event.report.layers
    for name, p in parts.model.projection.named_parameters():
        assert p.dtype == torch.float32 and p.isfinite().all() and not torch.equal(p, before[name])


def test_it_learns_with_steps_of_one_task():
    parts = assemble(config(model=UNITS, train={"step": "one"}), CPU)
    before = parts.model.projection.linear.weight.detach().clone()
    next(Training(parts).run())
    assert not torch.equal(parts.model.projection.linear.weight, before)


# ---------------------------------------------------------------------------------------------- on disk and back


def test_a_trained_model_has_it(tmp_path):
    path = run(tmp_path / "run", model={"projection": 6, "dropout": 0.5})
    model = inference.load(path)
    weights = saved(path)
    assert torch.equal(model.model.projection.linear.weight, weights["linear.weight"])
    facts = RunFolder(path).facts["scores"]
    assert model.evaluate().to_dict() == facts
    text = "a funny movie was long"
    alone, together = model.predict("words", [text])[0], model.predict_all([text], ["words", "tags"])[0]
    encoder, head = model.model.encoder, model.model.head("words")
    (encoding,) = encoder.tokenizer.encode([(text, None)], 24)
    tokens = mtk.TokenBatch(
        *(torch.tensor([part]) for part in (encoding.ids, encoding.types)),
        torch.ones(1, len(encoding.ids), dtype=torch.bool),
    )
    with torch.no_grad():
        features = encoder(tokens)
        made = F.linear(features.pooled, weights["linear.weight"], weights["linear.bias"])
        wanted = head(Features(made, None, tokens.mask)).softmax(-1)[0]
    assert list(alone.probabilities.values()) == pytest.approx(wanted.tolist(), abs=1e-5)
    assert together["words"].probabilities == pytest.approx(alone.probabilities)
    assert len(together["tags"].value) == 5


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda file: file.unlink(), "projection.safetensors: missing"),
        (lambda file: file.write_bytes(file.read_bytes()[:40]), "projection.safetensors: corrupt or truncated"),
        (lambda file: other_size(file), "parameters of projection are missing or have another shape: linear.bias"),
    ],
)
def test_a_spoilt_one_is_one_line(spoil, says, tmp_path):
    path = run(tmp_path / "run", train={"epochs": 1})
    spoil(path / "best" / "projection.safetensors")
    with pytest.raises(CheckpointError, match=says) as caught:
        inference.load(path)
    assert "\n" not in str(caught.value)


def other_size(file: Path) -> None:
    from safetensors.torch import save_file

    save_file({"linear.weight": torch.zeros(5, 8), "linear.bias": torch.zeros(5)}, file)


# ---------------------------------------------------------------------------------------------- warm starts and forks

HEADS = ["head words", "head pairs", "head tags"]


@pytest.mark.parametrize(
    ("theirs", "ours", "fresh"),
    [
        (6, 6, []),
        ("hidden", "hidden", []),
        ("hidden", 8, []),
        (None, None, []),
        (6, 5, ["projection", "head words", "head tags", "head pairs"]),
        (None, "hidden", ["projection", *HEADS]),  # heads of the same shapes, but of other features
        ("hidden", None, HEADS),
        (6, None, HEADS),
    ],
)
def test_a_warm_start_with_and_without(theirs, ours, fresh, tmp_path):
    path = run(tmp_path / "run", model={"projection": theirs}, train={"epochs": 1})
    warm = session.start(config(model={"projection": ours}, init=str(path)), tmp_path / "warm")
    cold = session.start(config(model={"projection": ours}), None)
    assert sorted(warm.fresh) == sorted(fresh)
    model, start = warm.parts.model, cold.parts.model.state_dict()
    heads = load_file(path / "best" / "heads.safetensors")
    for name, tensor in model.state_dict().items():
        part, _, inner = name.partition(".")
        if part == "heads":
            own = f"head {inner.partition('.')[0]}" not in fresh
            assert torch.equal(tensor, heads[inner] if own else start[name]), name
        if part == "projection":
            assert torch.equal(tensor, start[name] if "projection" in fresh else saved(path)[inner]), name
    again = session.start(RunFolder(tmp_path / "warm").config, None)  # the written configuration starts alike
    for name, tensor in again.parts.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    list(warm.run())


def test_a_fork_takes_it_with_its_moments(tmp_path):
    path = run(tmp_path / "run")
    state = load_training(path / "last")
    fork = session.fork(path / "last", config(model=UNITS, train={"epochs": 4}), tmp_path / "fork")
    assert fork.fresh == []
    moments = fork.training.state_dict()["moments"]
    for name in ("projection.linear.weight", "projection.linear.bias", "heads.pairs.scale"):
        for key, tensor in state["moments"][name].items():
            assert torch.equal(moments[name][key], tensor), (name, key)
    list(fork.run())


def test_a_fork_without_it_takes_no_moments_of_other_heads(tmp_path):
    path = run(tmp_path / "run", model={"projection": "hidden"})
    fork = session.fork(path / "last", config(train={"epochs": 4}), tmp_path / "fork")
    assert fork.fresh == HEADS
    moments = fork.training.state_dict()["moments"]
    assert moments and all(name.startswith("encoder.") for name in moments)
    path = run(tmp_path / "plain", model={})
    fork = session.fork(path / "last", config(model={"projection": "hidden"}, train={"epochs": 4}), tmp_path / "other")
    assert all(name.startswith("encoder.") for name in fork.training.state_dict()["moments"])


def test_a_checkpoint_without_it_is_no_damage(tmp_path):
    path = run(tmp_path / "run", model={}, train={"epochs": 1})
    assert not (path / "best" / "projection.safetensors").exists()
    model = assemble(config(), CPU).model
    assert load_matching(path / "best", model) == []
    assert json.loads((path / "best" / "model.json").read_text())["format"] == 1
