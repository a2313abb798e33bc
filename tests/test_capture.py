"""Per-task gradients from one backward equal those of a plain backward a task, whatever the model is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mtk.assembly import assemble
from mtk.capture import Capture, RowRanges, verify
from mtk.data import fuse
from mtk.device import Hardware
from mtk.errors import NonFiniteError
from mtk.gradients import GradientEngine
from mtk.gramian import gramian, gramian_of_stack, weighted_sums
from mtk.interfaces import StepInfo
from mtk.training import Training
from mtk_combiners.graddrop import GradDrop
from mtk_combiners.pcgrad import PCGrad
from mtk_combiners.sum import Sum
from mtk_combiners.uncertainty import Uncertainty
from mtk_encoders.tiny import tiny_bert
from tests.test_training import FOUR, toy_parts
from tests.toy_plugin import config

pytestmark = pytest.mark.usefixtures("toys")
torch.set_num_threads(1)
RANGES = RowRanges(5, {5: {"a": (0, 2), "b": (2, 5)}})
TASKS = ("a", "b")


def both(model: nn.Module, forward, ranges: RowRanges = RANGES):
    """Captured gradients by task, those of T plain backwards, and the capture."""
    capture = Capture(model.parameters())
    capture.begin(TASKS, ranges)
    with capture:
        losses = forward()
    torch.autograd.backward(list(losses.values()))
    parameters = list(model.parameters())
    left = [p.grad is not None for p in parameters]
    model.zero_grad()
    gram = sum(g.double() for g in capture.grams().values())
    torch.testing.assert_close(gram, sum(g.double() for g in capture.grams(apart=False).values()), rtol=1e-5, atol=1e-6)
    columns = capture.columns(parameters)
    plain = forward()
    wanted = {
        name: torch.autograd.grad(plain[name], parameters, retain_graph=True, allow_unused=True) for name in TASKS
    }
    return columns, wanted, left, gram, capture


def assert_equal(columns, wanted, **tolerance) -> None:
    for name in TASKS:
        for ours, right in zip(columns[name], wanted[name], strict=True):
            torch.testing.assert_close(ours, torch.zeros_like(ours) if right is None else right, **tolerance)


def split(out: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two losses, each of its own rows."""
    return {"a": out[:2].sin().sum(), "b": out[2:].square().sum()}


class Block(nn.Module):
    """Tokens [5, L] through an embedding, a norm and two linear layers; the tokens may be packed or padded."""

    def __init__(self, padding_idx=None, bias=True, tied=False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(11, 6, padding_idx=padding_idx)
        self.positions = nn.Embedding(4, 6)
        self.norm = nn.LayerNorm(6, bias=bias)
        self.dense = nn.Linear(6, 6, bias=bias)
        self.out = nn.Linear(6, 11, bias=False)
        if tied:
            self.out.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(ids.size(1))[None]  # [1, L], broadcast over the rows
        hidden = self.words(ids) + self.positions(positions)
        hidden = self.dense(self.dense(self.norm(hidden)).relu())  # one layer used twice
        return self.out(hidden)


@pytest.mark.parametrize("settings", [{}, {"padding_idx": 3}, {"padding_idx": -8}, {"bias": False}, {"tied": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_norm_and_embedding(settings, dtype) -> None:
    model = Block(**settings).to(dtype)
    ids = torch.randint(0, 11, (5, 4), generator=torch.Generator().manual_seed(1))
    columns, wanted, left, gram, _ = both(model, lambda: split(model(ids)))
    assert not any(left)
    assert_equal(columns, wanted)
    torch.testing.assert_close(gram, gramian([wanted[name] for name in TASKS]), rtol=1e-5, atol=1e-6)


def test_under_bfloat16_autocast_they_are_what_autocast_gives() -> None:
    model = Block()
    ids = torch.randint(0, 11, (5, 4), generator=torch.Generator().manual_seed(1))

    def forward():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return split(model(ids).float())

    columns, wanted, left, _, _ = both(model, forward)
    assert not any(left)
    assert all(g.dtype == torch.float32 for g in columns["a"])
    assert_equal(columns, wanted, rtol=0.02, atol=0.02)


class Odd(nn.Module):
    """Parameters used as tensors, on rows that are nobody's, through a list, twice in two ways, and not at all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.randn(6))
        self.table = nn.Linear(6, 6)
        self.pieces = nn.ParameterList([torch.randn(3, 6), torch.randn(3, 6)])
        self.dense = nn.Linear(6, 6)
        self.unused = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        table = self.table(torch.ones(3, 6)).mean(0)
        joined = torch.cat(list(self.pieces))
        return self.dense(x * self.scale + table) @ joined + self.dense.weight.sum()


def test_other_uses_are_left_to_autograd() -> None:
    model, x = Odd(), torch.randn(5, 6)
    columns, wanted, left, _, _ = both(model, lambda: split(model(x)))
    names = [name for name, _ in model.named_parameters()]
    found = {name for name, is_left in zip(names, left, strict=True) if is_left}
    assert found == {"scale", "table.weight", "table.bias", "pieces.0", "pieces.1", "dense.weight"}
    place = names.index("dense.bias")
    torch.testing.assert_close(columns["b"][place], wanted["b"][place])
    assert [g is None for g in columns["a"]] == [name not in ("dense.weight", "dense.bias") for name in names]


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("combiner", [PCGrad, GradDrop])
@pytest.mark.parametrize("make", [Odd, Block])
def test_the_engine_adds_what_autograd_has_to_what_was_captured(make, combiner, micro_batches) -> None:
    """Watched and not, the same gradients come out, at every one of several steps."""
    model = make()
    x = torch.randn(5, 6) if make is Odd else torch.randint(0, 11, (5, 4))
    watched, plain = (GradientEngine(list(model.parameters()), combiner()) for _ in range(2))
    for step in range(3):
        found = []
        for engine in (watched, plain):
            info = StepInfo(TASKS, step, 0, torch.Generator().manual_seed(step))
            engine.start(info, micro_batches)
            for part in range(micro_batches):
                rows = (x + step + part) if make is Odd else (x + step + part) % 11
                if engine is watched:
                    with engine.watch(RANGES):
                        losses = split(model(rows))
                else:
                    losses = split(model(rows))
                engine.backward(losses)
            report = engine.finish()
            found.append(([None if p.grad is None else p.grad.clone() for p in model.parameters()], report))
            with torch.no_grad():  # the loop may do as it likes with what it was given
                for p in model.parameters():
                    if p.grad is not None and step == 1:
                        p.grad.add_(1)
            model.zero_grad(set_to_none=True)
        for ours, right in zip(found[0][0], found[1][0], strict=True):
            zero = torch.zeros(()) if right is None else torch.zeros_like(right)
            torch.testing.assert_close(zero if ours is None else ours, zero if right is None else right)
        assert found[0][1].conflicts == found[1][1].conflicts
        torch.testing.assert_close(found[0][1].weights, found[1][1].weights)


@pytest.mark.parametrize("diagnose", [False, True])
@pytest.mark.parametrize("max_norm", [None, 0.1, 1e6])
@pytest.mark.parametrize("settings", [{}, {"padding_idx": 3}, {"tied": True}])
def test_a_plain_backward_makes_embedding_gradients_of_their_rows(settings, max_norm, diagnose) -> None:
    """The same gradient and norm as autograd's and torch's clipping, step after step."""
    model = Block(**settings)
    engine = GradientEngine(list(model.parameters()), Sum())
    for step in range(3):
        x = torch.randint(0, 11, (5, 4), generator=torch.Generator().manual_seed(step))
        engine.start(StepInfo(TASKS, step, 0, torch.Generator()), diagnose=diagnose)
        with engine.watch(RANGES):
            losses = split(model(x))
        engine.backward(losses)
        report = engine.finish(max_norm)
        found = [p.grad.clone() for p in model.parameters()]
        model.zero_grad(set_to_none=step != 1)
        plain = split(model(x))
        wanted = torch.autograd.grad(sum(plain.values()), list(model.parameters()))
        norm = torch.cat([g.flatten() for g in wanted]).norm()
        assert report.norm == pytest.approx(float(norm), rel=1e-5)
        factor = 1.0 if max_norm is None else min(1.0, max_norm / float(norm))
        for ours, right in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, right * factor)
        assert (report.gram is not None) is diagnose


# ---------------------------------------------------------------------------------------------- the check


class Coupled(Block):
    """Rows that feel each other: what the spans say of them is not true."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.dense(self.norm(self.words(ids)))
        return self.out(hidden - hidden.mean(0, keepdim=True))


def test_verify_refuses_what_differs() -> None:
    model, ids = Coupled(), torch.randint(0, 11, (5, 4), generator=torch.Generator().manual_seed(1))
    capture = Capture(model.parameters())
    slow = verify(capture, lambda: split(model(ids)), RANGES)
    names = {p: name for name, p in model.named_parameters()}
    assert {names[p] for p in slow} == {"words.weight", "norm.weight", "norm.bias", "dense.weight", "dense.bias"}
    assert all(p.grad is None for p in model.parameters())
    engine = GradientEngine(list(model.parameters()), PCGrad())
    assert set(engine.check(lambda: split(model(ids)), RANGES)) == set(slow)
    engine.start(StepInfo(TASKS, 0, 0, torch.Generator().manual_seed(0)))
    with engine.watch(RANGES):
        losses = split(model(ids))
    engine.backward(losses)
    report = engine.finish()
    plain = split(model(ids))
    rows = [
        torch.autograd.grad(plain[n], list(model.parameters()), retain_graph=True, allow_unused=True) for n in TASKS
    ]
    torch.testing.assert_close(report.gram, gramian(rows), rtol=1e-5, atol=1e-6)


class SequenceFirst(nn.Module):
    """A layer that sees [L, B, D]: where L happens to equal B, its spans look right and are wrong."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, L, D]
        return self.last(self.first(x.transpose(0, 1)).transpose(0, 1))


def test_what_is_autograds_at_the_check_stays_so_when_sizes_coincide() -> None:
    model, generator = SequenceFirst(), torch.Generator().manual_seed(0)
    engine = GradientEngine(list(model.parameters()), PCGrad())
    slow = engine.check(lambda: split(model(torch.ones(5, 3, 4))), RANGES)
    assert {id(p) for p in slow} == {id(p) for p in model.first.parameters()}
    x = torch.randn(5, 5, 4, generator=generator)
    engine.start(StepInfo(TASKS, 0, 0, torch.Generator()))
    with engine.watch(RANGES):
        losses = split(model(x))
    engine.backward(losses)
    plain = split(model(x))
    rows = [torch.autograd.grad(plain[n], list(model.parameters()), retain_graph=True) for n in TASKS]
    torch.testing.assert_close(engine.finish().gram, gramian(rows), rtol=1e-5, atol=1e-6)


class Hidden(torch.autograd.Function):
    """A use of a parameter that no function mode sees."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x)
        return x * weight.sum()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return None, (grad * x).sum() * torch.ones(4, 4)


def test_a_use_that_nobody_saw_is_found_by_the_check() -> None:
    model, x = SequenceFirst(), torch.randn(5, 3, 4)
    engine = GradientEngine(list(model.parameters()), PCGrad())

    def forward():
        out = model.last(x)
        return split(out + Hidden.apply(x, model.last.weight))

    assert [id(p) for p in engine.check(forward, RANGES)] == [id(model.last.weight)]
    for _ in range(2):  # nothing lingers of the first
        engine.start(StepInfo(TASKS, 0, 0, torch.Generator().manual_seed(0)))
        with engine.watch(RANGES):
            losses = forward()
        engine.backward(losses)
        plain = forward()
        shared = list(model.last.parameters())
        rows = [torch.autograd.grad(plain[n], shared, retain_graph=True) for n in TASKS]
        torch.testing.assert_close(engine.finish().gram, gramian(rows), rtol=1e-5, atol=1e-5)


def test_sparse_embeddings_stay_sparse_in_a_plain_backward() -> None:
    words = nn.Embedding(11, 3, sparse=True)
    engine = GradientEngine([words.weight], Sum())
    engine.start(StepInfo(TASKS, 0, 0, torch.Generator()))
    with engine.watch(RANGES):
        losses = split(words(torch.arange(5)))
    engine.backward(losses)
    engine.finish(finite=False)
    assert words.weight.grad.is_sparse


def test_one_tasks_nan_stays_in_its_rows() -> None:
    """Also in the padding that attention adds, whichever row comes first."""
    encoder = tiny_bert(dropout=0.0)
    mask = torch.arange(6) < torch.tensor([3, 6, 4, 5, 2])[:, None]
    from mtk import TokenBatch

    batch = TokenBatch(torch.randint(5, 90, (5, 6)) * mask, torch.zeros(5, 6, dtype=torch.long), mask)
    ranges = RowRanges(
        5, {20: {"a": (0, 9), "b": (9, 20)}, 30: {"a": (0, 12), "b": (12, 30)}, 5: {"a": (0, 2), "b": (2, 5)}}
    )
    for bad, good in (("a", 1), ("b", 0)):
        engine = GradientEngine(list(encoder.parameters()), PCGrad())
        engine.start(StepInfo(TASKS, 0, 0, torch.Generator().manual_seed(0)))
        with engine.watch(ranges):
            losses = split(encoder(batch).pooled)
        losses[bad] = losses[bad] + (losses[bad] - losses[bad].detach()).abs().sqrt()
        engine.backward(losses)
        with pytest.raises(NonFiniteError) as caught:
            engine.finish()
        assert caught.value.tasks == (bad,), good


@pytest.mark.parametrize("diagnose", ["whole", "none"])
def test_whatever_takes_gradients_by_task_is_checked_first(diagnose) -> None:
    """Loss weights under accumulation need them too."""
    chosen = config(FOUR, combiner="uncertainty", train={"accumulate": 2, "diagnose": diagnose, "max_steps": 2})
    parts = toy_parts(chosen, Uncertainty())
    plain = parts.model.encoder.forward

    def coupled(batch):
        features = plain(batch)
        return type(features)(features.pooled - features.pooled.mean(0), features.tokens, features.mask)

    parts.model.encoder.forward = coupled
    training = Training(parts)
    assert training.slow_parameters


def test_the_check_moves_no_buffer() -> None:
    parts = toy_parts(config(FOUR, combiner="pcgrad"), PCGrad())
    norm = nn.BatchNorm1d(2)
    head = parts.model.head("words")
    head.norm, plain = norm, head.forward
    head.forward = lambda *features: norm(plain(*features))
    Training(parts)
    assert norm.num_batches_tracked == 0 and norm.running_mean.tolist() == [0, 0]


def test_a_model_that_the_recorded_calls_break_is_left_alone() -> None:
    class Squeezing(Block):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            positions = self.positions(torch.arange(ids.size(1))[None]).view(ids.size(1), 6)  # fails for [5, L, 6]
            return self.out(self.dense(self.norm(self.words(ids) + positions)))

    model, ids = Squeezing(), torch.randint(0, 11, (5, 4))
    slow = verify(Capture(model.parameters()), lambda: split(model(ids)), RANGES)
    assert len(slow) == len(list(model.parameters()))


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_our_bert_takes_one_backward_with_every_kind_of_head(pooling) -> None:
    parts = assemble(
        config(tasks=FOUR, combiner="pcgrad"), Hardware("cpu", "fp32", 1), encoder=tiny_bert(pooling=pooling)
    )
    training = Training(parts)
    assert training.slow_parameters == []
    names = training.engine().shared
    assert len(names) == len(list(parts.model.encoder.parameters()))


def test_the_check_changes_no_draw_and_no_gradient() -> None:
    parts = toy_parts(config(tasks=FOUR, combiner="pcgrad"), PCGrad(), dropout=0.3)
    before = torch.get_rng_state()
    training = Training(parts)
    assert torch.equal(before, torch.get_rng_state())
    assert training.slow_parameters == [] and all(p.grad is None for p in parts.model.parameters())


KINDS = ["bert", "roberta", "distilbert", "electra", "t5", "gpt2"]


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_models(kind, tmp_path: Path) -> None:
    """Most of each model is captured; whatever is not takes a pass a task, and the sum is exact."""
    pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")
    from mtk_encoders.hf import hf
    from tests.test_mtk_encoders_hf import checkpoint

    parts = assemble(
        config(tasks=FOUR, combiner="pcgrad"),
        Hardware("cpu", "fp32", 1),
        encoder=hf(source=str(checkpoint(tmp_path, kind)), dropout=0.1),
    )
    training = Training(parts)
    shared = parts.model.shared_parameters()
    few = {"t5": 4, "gpt2": 5}.get(kind, 0)  # T5's norms and relative positions, GPT-2's transposed layers
    if kind == "gpt2":
        assert 0 < len(training.slow_parameters) < len(shared)
    else:
        assert len(training.slow_parameters) == few, training.slow_parameters
    rows = {name: torch.arange(3).numpy() for name in parts.train}
    batch = fuse(parts.train, rows, parts.model.encoder.tokenizer.pad_id)
    engine = training.engine()

    def losses():
        torch.manual_seed(4)
        return parts.model.losses(batch, parts.model(batch))

    plain = losses()
    wanted = [torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True) for loss in plain.values()]
    engine.start(StepInfo(tuple(plain), 0, 0, torch.Generator().manual_seed(0)))
    with engine.watch(batch.ranges):
        found = losses()
    engine.backward(found)
    report = engine.finish()
    torch.testing.assert_close(report.gram, gramian(wanted), rtol=1e-4, atol=1e-4 * float(gramian(wanted).max()))
    weights = report.weights.tolist()
    for place, p in enumerate(shared):
        parts_of = [row[place] for row in wanted]
        right = sum(w * g for w, g in zip(weights, parts_of, strict=True) if g is not None)
        torch.testing.assert_close(p.grad, right, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 4095, 4096, 3 * 4096 + 5, 1_500_000])
def test_gramian_of_a_stack(dtype, size) -> None:
    stack = torch.randn(3, size, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = stack.double() @ stack.double().T
    found = gramian_of_stack(stack)
    assert found.dtype == torch.float64
    assert float((found - exact).abs().max()) <= 2e-6 * float(exact.max())


def test_weighted_sums_leave_their_terms() -> None:
    stack, other = torch.randn(3, 4, 5), torch.randn(3, 2).bfloat16()
    kept = stack.clone()
    found = weighted_sums([stack, other], [0.5, 2.0, -1.0])
    torch.testing.assert_close(found[0], 0.5 * stack[0] + 2 * stack[1] - stack[2])
    torch.testing.assert_close(found[1], 0.5 * other[0].float() + 2 * other[1].float() - other[2].float())
    assert torch.equal(stack, kept) and found[1].dtype == torch.float32
    assert weighted_sums([], [1.0]) == []


def test_linear_is_the_function_that_modules_call() -> None:
    assert F.linear is torch._C._nn.linear  # the recorded calls are known by their function
