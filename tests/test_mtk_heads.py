from __future__ import annotations

import importlib
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mtk
import mtk_heads
from mtk import Classes, ConfigError, Features, Head, Range, Target, build
from mtk.testing import check_head
from mtk_heads.concat import Concat
from mtk_heads.concat_diff import ConcatDiff, compare
from mtk_heads.contrastive import Contrastive
from mtk_heads.cosine import Cosine
from mtk_heads.linear import Linear
from mtk_heads.mlp import MLP
from mtk_heads.ordinal import OrdinalHead
from mtk_heads.tagger import Tagger

torch.set_num_threads(1)
HEADS = [Linear, MLP, Cosine, Concat, ConcatDiff]
PAIR_HEADS = [Cosine, Concat, ConcatDiff]


def features(*rows: list[float]) -> Features:
    return Features(torch.tensor(rows, dtype=torch.float32), None, torch.ones(len(rows), 1, dtype=torch.bool))


def random_features(rows: int, size: int, seed: int) -> Features:
    pooled = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))
    return Features(pooled, None, torch.ones(rows, 1, dtype=torch.bool))


def inputs(head: type[Head], rows: int, size: int) -> list[Features]:
    return [random_features(rows, size, seed) for seed in range(1 if head.reads == "cross" else 2)]


def test_registers_what_it_has_and_imports_no_torch() -> None:
    found: dict[str, str] = {}
    mtk_heads.register_heads(lambda name, build, summary, **more: found.update({name: build}))
    assert list(found) == ["linear", "mlp", "cosine", "concat", "concat-diff", "ordinal", "tagger", "contrastive"]
    built = [getattr(importlib.import_module(b.split(":")[0]), b.split(":")[1]) for b in found.values()]
    assert built == [*HEADS, OrdinalHead, Tagger, Contrastive]
    light = "import sys, mtk_heads; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", light], check=False).returncode == 0


def test_heads_say_how_they_read() -> None:
    assert [head.reads for head in HEADS] == ["cross", "cross", "bi", "bi", "bi"]
    assert [getattr(head, "pairs_only", False) for head in HEADS] == [False, False, True, True, True]
    assert all(head.views == 1 and not head.needs_tokens for head in HEADS)


def test_linear_by_hand() -> None:
    head = Linear(2, Classes(["a", "b"])).eval()
    with torch.no_grad():
        head.out.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
        head.out.bias.copy_(torch.tensor([0.5, 0.0]))
    assert head(features([1, 3], [0, 2])).tolist() == [[7.5, -3.0], [4.5, -2.0]]


@pytest.mark.parametrize(("activation", "at_one"), [("tanh", math.tanh(1)), ("gelu", 0.5 * (1 + math.erf(2**-0.5)))])
def test_mlp_by_hand(activation: str, at_one: float) -> None:
    head = MLP(2, Range(0, 5), hidden=1, activation=activation).eval()
    with torch.no_grad():
        head.inner.weight.copy_(torch.tensor([[1.0, -1.0]]))
        head.out.weight.fill_(3.0)
    assert head(features([3, 2], [4, 4])).squeeze(-1).tolist() == pytest.approx([3 * at_one, 0.0])
    assert MLP(4, Range(0, 5)).inner.out_features == 4


def test_concat_by_hand_and_the_order_of_texts_matters() -> None:
    head = Concat(2, Range(0, 5)).eval()
    with torch.no_grad():
        head.out.weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
    assert head(features([1, 2]), features([3, 4])).tolist() == [[4321.0]]
    assert head(features([3, 4]), features([1, 2])).tolist() == [[2143.0]]


def test_concat_diff_by_hand() -> None:
    """u = (1, 2), v = (3, 1): |u - v| = (2, 1) and u * v = (3, 2), as digits of base 4, the first the lowest."""
    head = ConcatDiff(2, Range(0, 5)).eval()
    with torch.no_grad():
        head.out.weight.copy_(4.0 ** torch.arange(8))
    assert head(features([1, 2]), features([3, 1])).tolist() == [[int("23121321", 4)]]
    assert head(features([3, 1]), features([1, 2])).tolist() == [[int("23122113", 4)]]


def test_compare_against_a_loop_and_its_symmetric_half() -> None:
    u, v = (random_features(3, 4, seed).pooled for seed in (0, 1))
    rows = [
        [*a, *b, *(abs(x - y) for x, y in zip(a, b, strict=True)), *(x * y for x, y in zip(a, b, strict=True))]
        for a, b in zip(u.tolist(), v.tolist(), strict=True)
    ]
    assert torch.allclose(compare(u, v), torch.tensor(rows))
    assert torch.equal(compare(u, v)[:, 8:], compare(v, u)[:, 8:])
    assert not compare(u, u)[:, 8:12].any() and torch.equal(compare(u, u)[:, 12:], u * u)


def test_concat_diff_of_the_same_text_twice_has_a_finite_gradient() -> None:
    head = ConcatDiff(3, Range(0, 5)).eval()
    same = Features(torch.ones(2, 3, requires_grad=True), None, torch.ones(2, 1, dtype=torch.bool))
    head(same, same).sum().backward()
    assert same.pooled.grad is not None and same.pooled.grad.isfinite().all()


def test_concat_diff_learns_what_concat_cannot() -> None:
    """Whether two vectors are the same is linear in |u - v|, and in [u; v] it is not."""
    torch.manual_seed(0)
    target, same = Classes(["no", "yes"]), torch.arange(64) % 2
    texts = torch.randn(2, 64, 8)
    texts[1, same == 1] = texts[0, same == 1]
    parts = [Features(text, None, torch.ones(64, 1, dtype=torch.bool)) for text in texts]
    targets = target.collate(same.tolist(), 1)

    def loss_after_training(head: Head) -> float:
        optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
        for _ in range(100):
            optimizer.zero_grad()
            loss = head.loss(head(*parts), targets) / targets.count
            loss.backward()
            optimizer.step()
        return loss.item()

    assert loss_after_training(ConcatDiff(8, target, dropout=0.0)) < 0.1
    assert loss_after_training(Concat(8, target, dropout=0.0)) > 0.4


def test_cosine_by_hand() -> None:
    """Cosines 1, 0, -1 and 0.6 are scores 2, -2, -6 and 0.4."""
    a, b = features([1, 1], [1, 0], [1, 0], [2, 0]), features([3, 3], [0, 5], [-2, 0], [3, 4])
    outputs = Cosine(2, Range(0, 5)).eval()(a, b)
    assert outputs.shape == (4, 1) and outputs.squeeze(-1).tolist() == pytest.approx([2, -2, -6, 0.4], abs=1e-6)
    logits = Cosine(2, Classes(["no", "yes"])).eval()(a, b)
    assert logits.flatten().tolist() == pytest.approx([-1, 1, 1, -1, 3, -3, -0.2, 0.2], abs=1e-6)


def test_cosine_covers_the_range_at_first() -> None:
    target = Range(1, 4)
    head = Cosine(2, target).eval()
    a, b = features([1, 0], [1, 0], [1, 0]), features([1, 0], [0, 1], [-1, 0])
    values = [p.value for p in head.predict(head(a, b), target.collate([None] * 3, 1))]
    assert values == pytest.approx([4, 1, 1])


@pytest.mark.parametrize("target", [Range(0, 5), Classes(["no", "yes"])])
def test_cosine_is_symmetric_and_blind_to_length(target: Target) -> None:
    head = Cosine(6, target).eval()
    a, b = random_features(5, 6, 0), random_features(5, 6, 1)
    longer = Features(7 * a.pooled, None, a.mask)
    assert torch.equal(head(a, b), head(b, a))
    assert torch.allclose(head(a, b), head(longer, b), atol=1e-5)


def test_cosine_of_a_zero_vector_has_a_finite_value_and_gradient() -> None:
    head = Cosine(3, Range(0, 5))
    zero = Features(torch.zeros(1, 3, requires_grad=True), None, torch.ones(1, 1, dtype=torch.bool))
    outputs = head(zero, zero)
    outputs.sum().backward()
    assert outputs.isfinite().all() and zero.pooled.grad is not None and zero.pooled.grad.isfinite().all()


@pytest.mark.parametrize("target", [Range(0, 5), Classes(["no", "yes"])])
def test_a_trained_cosine_head_separates_identical_from_unrelated(target: Target) -> None:
    """A small encoder in front learns to ignore the noisy half of the features; the head learns its scale."""
    torch.manual_seed(0)
    shared, head = torch.nn.Linear(16, 8, bias=False), Cosine(8, target)
    same = torch.arange(32) % 2
    meaning, noise = torch.randn(2, 32, 8), 2 * torch.randn(2, 32, 8)
    meaning[1, same == 1] = meaning[0, same == 1]
    texts = torch.cat((meaning, noise), dim=-1)  # [2, 32, 16]
    targets = target.collate((same * (1 if target.size == 2 else 5)).tolist(), 1)
    optimizer = torch.optim.Adam([*shared.parameters(), *head.parameters()], lr=0.02)

    def outputs() -> torch.Tensor:
        return head(*(Features(shared(t), None, torch.ones(32, 1, dtype=torch.bool)) for t in texts))

    def value() -> list[float]:
        head.eval()
        rows = outputs()
        head.train()
        return [p.value for p in head.predict(rows, targets)]

    before = head.loss(outputs(), targets).item()
    for _ in range(150):
        optimizer.zero_grad()
        head.loss(outputs(), targets).div(targets.count).backward()
        optimizer.step()
    assert head.loss(outputs(), targets).item() < before / 2
    values = torch.tensor(value()) / (1 if target.size == 2 else 5)
    assert values[same == 1].mean() > 0.8 and values[same == 0].mean() < 0.2
    assert float(head.scale.detach()) != 4.0 and float(head.offset.detach()) != -2.0


def test_a_cosine_scaled_as_the_paper_s_baseline() -> None:
    """cos -1, 0, 0.6 and 1 over the whole of 0 to 5, and as logits of the second class; nothing is trained."""
    fixed = {"scale": 2.0, "offset": 0.0, "learned": False}
    a, b = features([1, 0], [1, 0], [2, 0], [1, 1]), features([-2, 0], [0, 5], [3, 4], [3, 3])
    target = Range(0, 5)
    head = Cosine(2, target, **fixed).eval()
    values = [p.value for p in head.predict(head(a, b), target.collate([None] * 4, 1))]
    assert values == pytest.approx([0, 2.5, 4, 5], abs=1e-6)
    logits = Cosine(2, Classes(["no", "yes"]), **fixed).eval()(a, b)
    assert (logits[:, 1] - logits[:, 0]).tolist() == pytest.approx([-2, 0, 1.2, 2], abs=1e-6)
    assert not list(head.parameters())


@pytest.mark.parametrize("learned", [True, False])
def test_a_cosine_s_scale_and_offset_are_saved_whether_learned_or_not(learned: bool) -> None:
    head = Cosine(2, Range(0, 5), scale=3, offset=0.5, learned=learned)
    assert {name: float(value) for name, value in head.state_dict().items()} == {"scale": 3.0, "offset": 0.5}
    assert [name for name, _ in head.named_parameters()] == (["scale", "offset"] if learned else [])
    other = Cosine(2, Range(0, 5), learned=learned)
    other.load_state_dict(head.state_dict())
    parts = features([1, 2]), features([2, 1])
    assert torch.equal(other.eval()(*parts), head.eval()(*parts))


@pytest.mark.parametrize("target", [Range(0, 5), Classes(["no", "yes"])])
def test_a_fixed_cosine_trains_the_encoder_and_is_not_trained(target: Target) -> None:
    head = Cosine(3, target, learned=False)
    parts = [Features(p.pooled.requires_grad_(), None, p.mask) for p in inputs(Cosine, 4, 3)]
    head.loss(head(*parts), target.collate([0, 1, 1, 0], 1)).backward()
    assert all(part.pooled.grad is not None and part.pooled.grad.any() for part in parts)
    check_head(lambda size, own: Cosine(size, own, learned=False))


def test_a_run_with_a_fixed_cosine_keeps_it_and_loads_again(tmp_path: Path) -> None:
    """From the command line's own text; the saved numbers are those given, and the loaded run predicts the same."""
    heads = {"sts": "cosine:scale=2,offset=0,learned=false", "quora": "cosine"}
    run = mtk.train(
        ["sts", "quora"], out=tmp_path / "run", quiet=True, sample=True, encoder="tiny", head=heads,
        combiner="pcgrad", max_steps=3, max_train_rows=48, lr=0.01, device="cpu", precision="fp32", threads=1,
    )  # fmt: skip
    tensors = load_file(run.best / "heads.safetensors")
    assert {name: float(tensors[name]) for name in ("sts.scale", "sts.offset")} == {"sts.scale": 2.0, "sts.offset": 0.0}
    assert float(tensors["quora.scale"]) != 4.0 and float(tensors["quora.offset"]) != -2.0
    model = mtk.load(run, device="cpu", threads=1)
    assert model.model.head("sts").scale.item() == 2.0 and not list(model.model.head("sts").parameters())
    assert model.evaluate(tasks=["sts"]).tasks["sts"] == pytest.approx(run.scores["tasks"]["sts"], abs=1e-6)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("target", [Range(0, 5), Classes(["no", "yes"])])
def test_shapes_small_start_rows_and_bf16(head: type[Head], target: Target) -> None:
    torch.manual_seed(0)
    built, parts = head(16, target).eval(), inputs(head, 5, 16)
    outputs = built(*parts)
    assert outputs.shape == (5, target.size)
    assert torch.allclose(built(*(part.rows(2, 4) for part in parts)), outputs[2:4], atol=1e-6)
    weights = [p for name, p in built.named_parameters() if name.endswith("weight")]
    assert all(0.005 < float(p.detach().std()) < 0.04 for p in weights)
    assert all(not p.any() for name, p in built.named_parameters() if name.endswith("bias"))
    half = [Features(part.pooled.bfloat16().requires_grad_(), None, part.mask) for part in parts]
    with torch.autocast("cpu", torch.bfloat16):
        rough = built(*half)
    assert rough.shape == outputs.shape and torch.allclose(rough.float(), outputs, atol=0.05)
    label = 1 if target.size == 2 else 2.0
    built.loss(rough, target.collate([label] * 5, 1)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())
    assert all(part.pooled.grad is not None and part.pooled.grad.isfinite().all() for part in half)


@pytest.mark.parametrize("head", HEADS)
def test_dropout_works_in_training_only(head: type[Head]) -> None:
    torch.manual_seed(0)
    built, parts = head(16, Range(0, 5), dropout=0.5), inputs(head, 4, 16)
    assert not torch.equal(built(*parts), built(*parts))
    built.eval()
    assert torch.equal(built(*parts), built(*parts))
    still = head(16, Range(0, 5), dropout=0.0)
    assert torch.equal(still(*parts), still(*parts))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dropout", [-0.1, 1.0, 2.0, math.nan])
def test_refuses_a_wrong_dropout(head: type[Head], dropout: float) -> None:
    with pytest.raises(ConfigError, match=rf"^dropout: expected .* found {dropout}$"):
        head(4, Range(0, 5), dropout=dropout)


@pytest.mark.parametrize("head", PAIR_HEADS)
def test_pair_heads_refuse_single_texts(head: type[Head]) -> None:
    with pytest.raises(ConfigError, match=r"expected rows of two texts, found 1 per row; .* 'linear' or 'mlp'$"):
        head(4, Range(0, 5))(random_features(2, 4, 0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Cosine(4, Classes(["a", "b", "c"])), r"^expected .* found 3 outputs; use .*'concat', 'linear'"),
        (lambda: Cosine(4, Range(0, 5), scale=0.0), r"^scale: expected a finite number other than 0, found 0.0$"),
        (lambda: Cosine(4, Range(0, 5), scale=math.inf), r"^scale: expected a finite number .* found inf$"),
        (lambda: Cosine(4, Range(0, 5), offset=math.nan), r"^offset: expected a finite number, found nan$"),
        (lambda: MLP(4, Range(0, 5), hidden=0), r"^hidden: expected at least 1 unit, found 0$"),
        (lambda: MLP(4, Range(0, 5), activation="relu"), r"activation: expected one of gelu, tanh, found 'relu'$"),
    ],
)
def test_refuses_wrong_options_in_one_line(build: Callable[[], Head], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_built_by_name_from_a_command_line() -> None:
    head = build("head", "mlp", 4, Range(0, 5), hidden="3", activation="tanh", dropout="0.2")
    assert (head.inner.out_features, head.dropout.p) == (3, 0.2)
    with pytest.raises(ConfigError, match=r"^head 'cosine': dropout: expected a number .* found 1.5"):
        build("head", "cosine", 4, Range(0, 5), dropout="1.5")
