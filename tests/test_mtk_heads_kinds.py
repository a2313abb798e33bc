"""The heads of ordered classes, tags, and pairs that belong together."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mtk import Classes, ConfigError, Features, MultiLabel, Number, Ordinal, Range, Ranking, Tags, Target
from mtk.testing import check_head
from mtk_heads.contrastive import Contrastive
from mtk_heads.cosine import Cosine
from mtk_heads.linear import Linear
from mtk_heads.ordinal import OrdinalHead
from mtk_heads.tagger import Tagger
from tests.toys import ToyTagger, ToyTags

SIZES = Ordinal(["small", "medium", "large", "huge"])
NOUNS = Tags(["noun", "verb", "other"])


def features(*rows: list[float]) -> Features:
    return Features(torch.tensor(rows, dtype=torch.float32), None, torch.ones(len(rows), 1, dtype=torch.bool))


def random_features(rows: int, size: int, seed: int) -> Features:
    pooled = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))
    return Features(pooled, None, torch.ones(rows, 1, dtype=torch.bool))


# ---------------------------------------------------------------------------------------------- ordinal


def test_ordinal_by_hand() -> None:
    head = OrdinalHead(2, SIZES).eval()
    with torch.no_grad():
        head.out.weight.copy_(torch.tensor([[1.0, -1.0]]))
        head.biases.copy_(torch.tensor([[3.0, 0.0], [0.5, 0.5], [1.0, -2.0]]))  # their sums: 3, 1, -1
    assert head(features([2, 1], [0, 4])).tolist() == [[4, 2, 0], [-1, -3, -5]]
    assert sum(p.numel() for p in head.parameters()) == 2 + 3 * 2


@pytest.mark.parametrize("shares", [(1, 1, 1, 1, 1), (1, 4, 8, 6, 2)])
@pytest.mark.parametrize("head", [OrdinalHead, Linear])
def test_the_classes_in_the_middle_are_learned_at_a_small_learning_rate(head: Any, shares: tuple[int, ...]) -> None:
    """As in fine-tuning: 600 steps at 7e-5, where a single bias comes to 0.04. A direction of the features tells the
    class. Linear needs the target's prior, OrdinalHead thresholds as fast as its score."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.multinomial(torch.tensor(shares).float(), 400, replacement=True, generator=draw)
    grades = (labels - 2 + 0.2 * torch.randn(400, generator=draw)).unsqueeze(-1)
    signs = torch.randn(384, generator=draw).sign()
    rows = Features(0.5 * torch.randn(400, 384, generator=draw) + grades * signs / 4, None, torch.ones(400, 1).bool())
    torch.manual_seed(0)
    target = Ordinal(["1", "2", "3", "4", "5"])
    target.fit(labels[:200].tolist())
    built = head(384, target)
    optimizer = torch.optim.AdamW(built.parameters(), lr=7e-5)
    for step in range(600):
        start = step % 25 * 8
        optimizer.zero_grad()
        some = target.collate(labels[start : start + 8].tolist(), 1)
        (built.loss(built(rows.rows(start, start + 8)), some) / 8).backward()
        optimizer.step()
    found = built.eval().predict(built(rows.rows(200, 400)), target.collate([None] * 200, 1))
    assert {p.value for p in found} >= {1, 2, 3}
    assert target.metrics(found, labels[200:].tolist())["accuracy"] > 0.78  # before: 0.19 to 0.39


def test_trained_thresholds_fall_in_order_whatever_the_row() -> None:
    """CORAL's theorem 1; with a weight vector for each threshold some rows are more than large but not than medium."""
    torch.manual_seed(0)
    labels = torch.randint(0, 4, (24,)).tolist()
    parts, others = random_features(24, 4, 0), random_features(500, 4, 1)
    targets = SIZES.collate(labels, 1)

    def disordered(head: Any) -> int:
        optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
        for _ in range(300):
            optimizer.zero_grad()
            head.loss(head(parts), targets).backward()
            optimizer.step()
        outputs = head.eval()(others)
        return int((outputs[:, :-1] < outputs[:, 1:]).any(1).sum())

    assert disordered(OrdinalHead(4, SIZES, dropout=0.0)) == 0
    assert disordered(Linear(4, SIZES, dropout=0.0)) > 20


@pytest.mark.parametrize("target", [Range(0, 5), Number(), Classes(["no", "yes"]), MultiLabel(["a"])])
def test_ordinal_refuses_what_has_no_order(target: Target) -> None:
    with pytest.raises(
        ConfigError, match=r"^expected ordered classes as the target, found \w+; use the head 'linear'$"
    ):
        OrdinalHead(4, target)


# ---------------------------------------------------------------------------------------------- tagger


def test_tagger_by_hand() -> None:
    head = Tagger(2, NOUNS).eval()
    with torch.no_grad():
        head.out.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        head.out.bias.copy_(torch.tensor([0.0, 0.5, 0.0]))
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    outputs = head(Features(torch.zeros(1, 2), tokens, torch.ones(1, 2, dtype=torch.bool)))
    assert outputs.tolist() == [[[1, 2.5, 3], [3, 4.5, 7]]]


def test_tagger_needs_tokens() -> None:
    with pytest.raises(ConfigError, match=r"^head 'tagger': expected features of tokens, found none; choose another"):
        Tagger(2, NOUNS)(features([1, 2]))
    assert Tagger.needs_tokens


# ---------------------------------------------------------------------------------------------- contrastive


def loss_of(head: Contrastive, a: Features, b: Features, labels: list[int | None]) -> Tensor:
    return head.loss(head(a, b), head.target.collate(labels, 1))


def test_contrastive_by_hand() -> None:
    """Cosines 0.6 and 0 with the own text's 1 and 0.8, divided by 0.5; the other way round, the columns."""
    head = Contrastive(2, Ranking(), temperature=0.5, symmetric=False).eval()
    a, b = features([2, 0], [0, 3]), features([5, 0], [3, 4])
    forth = math.log(1 + math.exp((0.6 - 1) / 0.5)) + math.log(1 + math.exp((0 - 0.8) / 0.5))
    assert loss_of(head, a, b, [1, 1]).item() == pytest.approx(forth)
    back = math.log(1 + math.exp((0 - 1) / 0.5)) + math.log(1 + math.exp((0.6 - 0.8) / 0.5))
    assert loss_of(head, b, a, [1, 1]).item() == pytest.approx(back)
    both = Contrastive(2, Ranking(), temperature=0.5).eval()
    assert loss_of(both, a, b, [1, 1]).item() == pytest.approx((forth + back) / 2)
    assert loss_of(both, a, b, [1, 1]).item() == pytest.approx(loss_of(both, b, a, [1, 1]).item())
    cosines = [p.value for p in both.predict(both(a, b), Ranking().collate([None] * 2, 1))]
    assert cosines == pytest.approx([1, 0.8])


def test_a_row_labelled_0_is_a_negative_and_one_without_a_label_is_none() -> None:
    head = Contrastive(4, Ranking()).eval()
    a, b = random_features(3, 4, 0), random_features(3, 4, 1)
    rest = loss_of(head, a.rows(0, 2), b.rows(0, 2), [1, 1]).item()
    assert loss_of(head, a, b, [1, 1, None]).item() == pytest.approx(rest)
    assert loss_of(head, a, b, [1, 1, 0]).item() > rest + 1e-4


def test_the_temperature_is_learned_within_its_bound_or_stays() -> None:
    a, b = random_features(8, 4, 0), random_features(8, 4, 0)  # each text with itself: the sharper the better

    def trained(head: Contrastive) -> Contrastive:
        parameters = [*head.parameters()]
        if parameters:
            optimizer = torch.optim.Adam(parameters, lr=0.5)
            for _ in range(40):
                optimizer.zero_grad()
                loss_of(head, a, b, [1] * 8).backward()
                optimizer.step()
        return head.eval()

    learned = trained(Contrastive(4, Ranking(), learned=True, dropout=0.0))
    assert learned.sharpness.item() > math.log(20) + 0.1
    with torch.no_grad():
        learned.sharpness.fill_(50.0)
    assert learned(a, b)[0].norm(dim=-1).tolist() == pytest.approx([100] * 8, rel=1e-5)
    fixed = trained(Contrastive(4, Ranking(), temperature=0.1))
    assert fixed.sharpness.item() == pytest.approx(math.log(10)) and not list(fixed.parameters())
    assert list(fixed.state_dict()) == ["sharpness"]


def test_more_rows_are_more_negatives() -> None:
    """Split in two, the same rows have a smaller loss: in-batch negatives are those of the micro-batch."""
    head = Contrastive(4, Ranking()).eval()
    a, b = random_features(6, 4, 0), random_features(6, 4, 1)
    halves = [loss_of(head, a.rows(i, i + 3), b.rows(i, i + 3), [1] * 3).item() for i in (0, 3)]
    assert sum(halves) < loss_of(head, a, b, [1] * 6).item()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_contrastive_refuses_a_wrong_temperature(temperature: float) -> None:
    with pytest.raises(ConfigError, match=rf"^temperature: expected a positive, finite number, found {temperature}$"):
        Contrastive(4, Ranking(), temperature=temperature)


# ---------------------------------------------------------------------------------------------- which goes with which


@pytest.mark.parametrize(
    ("target", "found"), [(Number(), "Number"), (SIZES, "Ordinal"), (MultiLabel(["a", "b"]), "MultiLabel")]
)
def test_cosine_refuses_what_no_cosine_scales_to(target: Target, found: str) -> None:
    with pytest.raises(ConfigError, match=rf"^expected a number in a range or two classes .* found {found}, to which"):
        Cosine(4, target)


def test_r_drop_of_a_number_is_that_of_a_range() -> None:
    views = torch.tensor([[1.0], [0.5]]), torch.tensor([[-0.5], [9.0]])
    number = Linear(2, Number(), rdrop=2.0)
    loss = number.loss(views, number.target.collate([0.0, None], 1)).item()
    assert loss == pytest.approx((1 + 0.25) / 2 + 2.25)


def test_a_strangers_target_and_head_of_tokens_go_together() -> None:
    """A target that says nothing of its level is one of rows, and so is such a head."""
    assert ToyTagger(4, ToyTags()).target.level == "row"
    check_head(Tagger)
    check_head(Contrastive)
    check_head(OrdinalHead)


def test_the_check_finds_a_head_that_lets_unlabelled_rows_count() -> None:
    class Counts(Contrastive):
        def loss(self, outputs: Any, targets: Any) -> Tensor:
            return super().loss(outputs, self.target.collate([1] * len(outputs[0]), 1))

    with pytest.raises(AssertionError, match=r"rows without labels count \(reads bi"):
        check_head(Counts)
