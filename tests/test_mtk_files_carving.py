"""Carved splits: nothing leaks, strata in proportion, the same for the same seed."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from mtk_files.carving import Item, carve, normalised

SHARES = {"test": 0.1, "dev": 0.2}


def singles(*counts: int) -> list[Item]:
    return [
        Item((f"text {stratum} {row}",), stratum=stratum)
        for stratum, count in enumerate(counts)
        for row in range(count)
    ]


def graph(seed: int, rows: int, texts: int) -> list[Item]:
    """Pairs of texts drawn at random: some rows hang together by many steps."""
    draw = random.Random(seed)
    return [
        Item((f"text {draw.randrange(texts)}", f"text {draw.randrange(texts)}"), stratum=draw.randrange(3))
        for _ in range(rows)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_no_text_stands_on_two_sides_even_through_other_rows(seed: int) -> None:
    items = graph(seed, 400, 900)
    sides: dict[str, set[str]] = {}
    names = carve(items, SHARES, seed)
    for item, name in zip(items, names, strict=True):
        for text in item.texts:
            sides.setdefault(text, set()).add(name)
    assert all(len(names) == 1 for names in sides.values())
    assert set(names) == {"train", "test", "dev"}


def test_rows_tied_in_a_chain_stay_together() -> None:
    chain = [Item((f"link {a}", f"LINK {b}!")) for a, b in pairwise(range(30))]
    assert len(set(carve([*chain, *singles(100)], SHARES, 1)[: len(chain)])) == 1


def test_groups_stay_together() -> None:
    items = [Item((f"text {row}",), group=row % 25) for row in range(100)]
    names = carve(items, SHARES, 3)
    assert Counter(names) == {"train": 70 + 2, "test": 8, "dev": 20}  # groups of four
    assert all(len({names[row] for row in range(100) if row % 25 == group}) == 1 for group in range(25))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("skew", [0.0, 0.8, 1.0])
def test_groups_come_near_their_shares_whatever_their_strata(seed: int, skew: float) -> None:
    """One large group and small ones, whose strata fit no quota: train takes the large one, the others fill up."""
    draw = random.Random(seed)
    sizes = [480, *[draw.randint(4, 14) for _ in range(16)]]
    items = [
        Item((f"text {group} {row}",), group, group % 5 if draw.random() < skew else draw.randrange(5))
        for group, size in enumerate(sizes)
        for row in range(size)
    ]
    names = carve(items, {"test": 0.09, "dev": 0.09}, seed)
    assert names[0] == "train" and names == carve(items, {"test": 0.09, "dev": 0.09}, seed)
    for split in ("test", "dev"):
        assert abs(names.count(split) - 0.09 * len(items)) <= 7


def test_groups_larger_than_a_share_leave_one_to_train() -> None:
    items = [Item((f"text {row}",), group=row // 50) for row in range(100)]
    assert Counter(carve(items, {"dev": 0.4}, 1)) == {"dev": 50, "train": 50}
    assert Counter(carve(items, {"dev": 0.2}, 1)) == {"train": 100}
    assert Counter(carve(items[:50], {"dev": 0.9}, 1)) == {"train": 50}


@pytest.mark.parametrize("counts", [(100, 100), (1000, 37, 3), (5, 5, 5, 5), (99, 1)])
def test_strata_are_within_one_row_of_their_share(counts: tuple[int, ...]) -> None:
    items = singles(*counts)
    names = carve(items, SHARES, 7)
    for split, share in SHARES.items():
        found = Counter(item.stratum for item, name in zip(items, names, strict=True) if name == split)
        assert found.total() == round(share * len(items))
        assert all(abs(found[stratum] - share * count) < 1 for stratum, count in enumerate(counts))


def test_rare_strata_leave_a_row_to_train() -> None:
    items = singles(200, *[2] * 10)
    names = carve(items, SHARES, 7)
    assert {item.stratum for item, name in zip(items, names, strict=True) if name == "train"} == set(range(11))


def test_the_same_seed_carves_the_same_whatever_the_order() -> None:
    items = singles(80, 40)
    names = dict(zip(items, carve(items, SHARES, 5), strict=True))
    shuffled = random.Random(0).sample(items, len(items))
    assert names == dict(zip(shuffled, carve(shuffled, SHARES, 5), strict=True))
    assert names != dict(zip(items, carve(items, SHARES, 6), strict=True))


def test_rows_that_join_move_few_others() -> None:
    items = singles(200)
    before = carve(items, SHARES, 5)
    after = carve([*items, Item(("a new one",), stratum=0)], SHARES, 5)[:-1]
    assert sum(a != b for a, b in zip(before, after, strict=True)) <= 2


def test_texts_are_the_same_but_for_case_and_punctuation() -> None:
    assert normalised("It's  FINE!") == normalised("it s fine")
    assert normalised("?!") != normalised("!?")
