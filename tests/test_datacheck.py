"""What `check_data` finds, on toy tasks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from mtk.datacheck import Quantiles, check_data, leaks_between, normalised, quantiles
from mtk.errors import DataError
from mtk.interfaces import Encoding, Example, Source, Task, TaskContext
from mtk.targets import Classes, MultiLabel, Range


class Toy(Task):
    def __init__(self, name: str, target: Any, **splits: list[Example]) -> None:
        super().__init__(TaskContext(name))
        self.target, self.splits = target, splits

    @property
    def source(self) -> Source:
        return Source("toys", {split: None for split in self.splits})  # type: ignore[misc]

    def examples(self, split: str) -> Sequence[Example]:
        if split not in self.splits:
            raise DataError(f"no {split}")
        return self.splits[split]


def row(id: str, text: str, label: Any = 0, pair: str | None = None) -> Example:
    return Example(id, text, pair, label)


YES_NO = Classes(["no", "yes"])


def test_counts_labels_and_lengths() -> None:
    rows = [row("a", "one two", 1), row("b", "three", 1), row("c", "four five six", None)]
    report = check_data([Toy("t", YES_NO, train=rows, dev=[row("d", "seven")])], first=1)
    train = report.splits[0]
    assert (train.rows, train.unlabelled, train.labels, train.values) == (3, 1, {"no": 0, "yes": 2}, None)
    assert train.lengths == Quantiles(1, 2, 2, 3, 3)
    assert (train.first, train.first_labels) == (rows[:1], ["yes"])
    assert (report.unit, report.leaks, report.errors) == ("words", [], [])


def test_several_labels_a_row_are_counted_one_by_one() -> None:
    rows = [row("a", "x", (0, 2)), row("b", "y", ()), row("c", "z", (2,)), row("d", "w", None)]
    report = check_data([Toy("t", MultiLabel(["p", "q", "r"]), train=rows, dev=[])])
    assert report.splits[0].labels == {"p": 1, "q": 0, "r": 2} and report.splits[0].unlabelled == 1
    assert report.splits[0].first_labels == ["p, r", "", "r"]


def test_numbers_get_quantiles_and_no_counts() -> None:
    report = check_data([Toy("t", Range(0, 5), train=[row("a", "x", 1.0), row("b", "y", 4.0)], dev=[])])
    assert report.splits[0].labels is None
    assert report.splits[0].values == Quantiles(1, 1, 2.5, 4, 4)
    assert (report.splits[1].rows, report.splits[1].lengths) == (0, None)
    assert quantiles([]) is None


def test_a_tokenizer_counts_tokens() -> None:
    class Letters:
        pad_id = 0

        def encode(self, rows: Sequence[tuple[str, str | None]], max_length: int) -> list[Encoding]:
            return [Encoding([1] * min(max_length, len(a + (b or ""))), [], []) for a, b in rows]

    report = check_data([Toy("t", YES_NO, train=[row("a", "x" * 700, 0, "yy")], dev=[])], Letters())
    assert report.unit == "tokens"
    assert report.splits[0].lengths is not None and report.splits[0].lengths.max == 702


def test_duplicates_and_contradictions() -> None:
    rows = [row("a", "It's fine.", 0), row("b", "it s FINE", 1), row("c", "Bad", 0), row("d", "bad!", 0)]
    split = check_data([Toy("t", YES_NO, train=rows, dev=[])]).splits[0]
    assert split.duplicates == [["a", "b"], ["c", "d"]]
    assert split.contradictions == [["a", "b"]]


def test_a_pair_is_the_same_in_either_order_and_signs_alone_still_count() -> None:
    assert normalised(row("a", "One.", 0, "two")) == normalised(row("b", "Two", 0, "one"))
    assert normalised(row("a", "!!!")) != normalised(row("b", "???"))
    assert normalised(row("a", "one two")) != normalised(row("b", "one", 0, "two"))


def test_leaks_within_a_task_and_across_tasks() -> None:
    first = Toy("a", YES_NO, train=[row("1", "x"), row("2", "y")], dev=[row("3", "X!"), row("4", "z")])
    other = Toy("b", YES_NO, train=[row("5", "z"), row("6", "y")], dev=[row("7", "q")], test=[row("8", "q")])
    found = [(k.task, k.split, k.other_task, k.other_split, k.ids) for k in check_data([first, other]).leaks]
    assert found == [
        ("a", "dev", "a", "train", ["3"]),
        ("a", "dev", "b", "train", ["4"]),
        ("b", "test", "b", "dev", ["8"]),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_leaks_between_trained_tasks_are_those_that_a_check_of_the_data_finds(seed: int) -> None:
    draw = random.Random(seed)
    words = ["one", "ONE", "two.", "Zwölf", "zwölf!", "двенадцать", "«Двенадцать»", "十二", "\u212a", "k", "?!", "…"]
    words += ["3_4", "3 4"]

    def rows(count: int) -> list[Example]:
        texts = [" ".join(draw.choices(words, k=draw.randint(1, 2))) for _ in range(2 * count)]
        return [row(str(i), texts[i], 0, draw.choice([None, texts[i + count]])) for i in range(count)]

    tasks = {name: {"train": rows(60), "dev": rows(30)} for name in "abc"}
    found = leaks_between({n: tasks[n]["train"] for n in "ab"}, {n: tasks[n]["dev"] for n in tasks})
    whole = check_data([Toy(name, YES_NO, **splits) for name, splits in tasks.items()]).leaks
    wanted = {(one.task, one.other_task): set(one.ids) for one in whole if one.task != one.other_task}
    assert {(one.task, one.other_task): set(one.ids) for one in found} == {
        k: v for k, v in wanted.items() if k[1] != "c"
    }
    assert len(found) == 4 and all(len(one.ids) < one.rows == 30 for one in found)


@pytest.mark.parametrize("held", [row("2", "ONE: two"), row("2", "Three?", 0, "one, two")])
def test_leaks_are_found_whatever_the_case_the_signs_and_the_order(held: Example) -> None:
    train = [row("1", "one two"), row("3", "«One» Two!", 0, "THREE")]
    found = leaks_between({"a": train}, {"a": [], "b": [held, row("4", "one two three")]})
    assert [(one.task, one.other_task, one.rows, one.ids) for one in found] == [("b", "a", 2, ["2"])]


def test_one_task_by_itself_leaks_to_no_other() -> None:
    assert leaks_between({"a": [row("1", "x")]}, {"a": [row("2", "x")]}) == []


def test_a_split_that_cannot_be_read_is_reported_and_the_rest_goes_on() -> None:
    report = check_data([Toy("t", YES_NO, train=[row("a", "x")]), Toy("u", YES_NO, train=[], dev=[])])
    assert report.errors == ["no dev"]
    assert [(s.task, s.split) for s in report.splits] == [("t", "train"), ("u", "train"), ("u", "dev")]


@pytest.mark.parametrize("bad", [["f.csv:3: row 'x': empty"], []])
def test_bad_rows_are_listed(bad: list[str]) -> None:
    task = Toy("t", YES_NO, train=[row("a", "x")], dev=[])
    task.bad = bad  # type: ignore[attr-defined]
    assert check_data([task]).splits[0].bad == bad
