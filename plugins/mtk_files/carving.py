"""Splits carved out of one set of rows: no text on two sides, strata in proportion, the same for the same seed."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from mtk import ConfigError, did_you_mean

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Split:
    """How dev and test are carved. dev, test: shares of the rows; None for the default.

    stratify: by the column of that name, by the task's own label, a class (True), or not at all: then tasks with other
    labels on the same rows are carved alike, and none trains on another's dev rows. group: a column whose equal values
    stay together.
    """

    dev: float | None = None
    test: float | None = None
    seed: int = 11711
    stratify: bool | str = False
    group: str | None = None

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Split:
        """From the table of a task file. Raises ConfigError."""
        known = {field.name: field for field in fields(cls)}
        types: dict[str, tuple[Any, str]] = {
            "seed": (int, "a whole number"),
            "stratify": (bool | str, "true, false or a column"),
        }
        types |= {"dev": (int | float, "a share"), "test": (int | float, "a share"), "group": (str, "a column")}
        for key, value in table.items():
            if key not in known:
                raise ConfigError(f"split: unknown key '{key}'{did_you_mean(key, known)}")
            kind, wanted = types[key]
            if not isinstance(value, kind) or (isinstance(value, bool) and key != "stratify"):
                raise ConfigError(f"split: {key}: expected {wanted}, found {value!r}")
        split = cls(**table)
        shares = [share for share in (split.dev, split.test) if share is not None]
        if any(not 0 <= share < 1 for share in shares) or sum(shares) >= 1:
            raise ConfigError(f"split: expected shares from 0 on that leave some rows to train, found {shares}")
        return split


@dataclass(frozen=True, slots=True)
class Item:
    """What carving knows of a row: its texts, what else ties it to other rows, and its stratum."""

    texts: tuple[str, ...]
    group: Hashable = None
    stratum: Hashable = None


def carve(items: Sequence[Item], shares: Mapping[str, float], seed: int) -> list[str]:
    """The split of every row: a name of `shares`, or `train` for the rest.

    Rows that share a text (case and punctuation aside; either text of a pair) or a group are tied, and so are all that
    hang together by such ties: they go to one side whole. A split takes tied rows in seeded order while none of its
    strata gets more than its quota, so strata are within one row of their share. What larger ties leave open is filled
    with those that exceed the quotas least. The order hangs on seed and texts alone, so rows that join the file move
    few of the others.
    """
    ties: dict[int, list[int]] = defaultdict(list)
    for row, root in enumerate(_components(items)):
        ties[root].append(row)
    keys = {root: min(_digest(seed, *items[row].texts) for row in rows) for root, rows in ties.items()}
    order = sorted(ties, key=lambda root: (keys[root], root))
    strata = Counter(item.stratum for item in items)
    out = ["train"] * len(items)
    for name, share in shares.items():
        found = {root: Counter(items[row].stratum for row in ties[root]) for root in order}
        free = Counter(items[row].stratum for root in order for row in ties[root])
        taken = _taken(found, _quotas(strata, free, share, seed))
        for root in taken:
            for row in ties[root]:
                out[row] = name
        order = [root for root in order if root not in taken]
    return out


def _taken(ties: Mapping[int, Counter[Hashable]], quota: Counter[Hashable]) -> set[int]:
    """Those of the tied rows, by their counts a stratum, that a split takes; `quota` is used up."""
    taken: set[int] = set()
    for root, found in ties.items():
        if all(count <= quota[stratum] for stratum, count in found.items()):
            quota.subtract(found)
            taken.add(root)
    room = quota.total()
    left = sorted(
        ((root, found) for root, found in ties.items() if room and root not in taken and found.total() < 2 * room),
        key=lambda tie: sum(max(0, count - max(0, quota[stratum])) for stratum, count in tie[1].items()),
    )
    for root, found in left:
        if found.total() <= room:
            room -= found.total()
            taken.add(root)
    over = [(found.total(), root) for root, found in left if root not in taken and found.total() < 2 * room]
    if over and len(taken) + 1 < len(ties):  # one too many is nearer than none, but train keeps some
        taken.add(min(over)[1])
    return taken


def largest_tie(items: Sequence[Item]) -> int:
    """How many rows the largest set of tied ones has."""
    return max(Counter(_components(items)).values(), default=0)


def normalised(text: str) -> str:
    """A text without case and punctuation: equal means `the same`, as in `mtk data check`."""
    return " ".join(_WORD.findall(text.lower())) or text.strip()


def _components(items: Sequence[Item]) -> list[int]:
    """For every row, the first row that it is tied to (union-find)."""
    parent = list(range(len(items)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[Hashable, int] = {}
    for row, item in enumerate(items):
        ties: list[Hashable] = [("text", normalised(text)) for text in item.texts]
        for tie in ties if item.group is None else [*ties, ("group", item.group)]:
            a, b = sorted((root(row), root(first.setdefault(tie, row))))
            parent[b] = a
    return [root(row) for row in range(len(items))]


def _quotas(strata: Mapping[Hashable, int], free: Mapping[Hashable, int], share: float, seed: int) -> Counter[Hashable]:
    """Rows a stratum, by largest remainder: together the share of all rows, and each within one of its own.

    free: its rows in no other split yet; its last one is left to train while other strata can do.
    """
    exact = {stratum: share * count for stratum, count in strata.items()}
    quota = Counter({stratum: math.floor(number + 1e-9) for stratum, number in exact.items()})
    able = [stratum for stratum in exact if free.get(stratum, 0) > quota[stratum]]
    last = {stratum: free[stratum] - quota[stratum] == 1 for stratum in able}
    able.sort(key=lambda one: (last[one], quota[one] - exact[one], _digest(seed, str(one))))
    for stratum in able[: max(0, round(share * sum(strata.values())) - quota.total())]:
        quota[stratum] += 1
    return quota


def _digest(seed: int, *texts: str) -> bytes:
    return hashlib.sha256(repr((seed, *texts)).encode("utf-8", "surrogatepass")).digest()
