"""Data sets of the Hub: a stand-in for the library says what it was asked, and its rows become a task's."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from mtk import DataError, MTKError, TaskContext, build

NAMES = ["negative", "positive"]


class Rows(list[dict[str, Any]]):
    """A split as the library gives it: rows, and the features of its columns."""

    def __init__(self, number: int, label: str) -> None:
        super().__init__({"sentence": f"{label} {i}", label: i % 3 - 1, "tags": [0, 1]} for i in range(number))
        self.features = {
            "sentence": SimpleNamespace(dtype="string"),
            label: SimpleNamespace(names=NAMES),
            "tags": SimpleNamespace(feature=SimpleNamespace(names=["O", "X"])),
        }


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, *, revision: str | None) -> dict[str, Rows]:
        calls.append((name, config, revision))
        if name == "away/away":
            raise ConnectionError("Couldn't reach\nthe Hub (offline mode)")
        return {"train": Rows(30, "label"), "validation": Rows(9, "label"), "validation_other": Rows(6, "label")}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


def task(**options: Any) -> Any:
    return build("task", "auto", TaskContext("mine"), text="sentence", **options)


def test_rows_of_the_hub(asked: list[tuple[Any, ...]]) -> None:
    found = task(hub="glue/sst2", config="sst2", revision="abc")
    assert asked == [("glue/sst2", "sst2", "abc")]
    assert found.target.names == ("negative", "positive")
    assert [row.label for row in found.examples("dev")] == [None, 0, 1] * 3
    assert len(found.examples("train")) == 20  # those with a label
    assert "hub" in found.spec[1] and found.source.files == {}
    again = build("task", found.spec[0], TaskContext("mine"), **found.spec[1])
    assert asked[1:] == [] and again.target.names == found.target.names, "a run is loaded without the Hub"


def test_splits_by_another_name(asked: list[tuple[Any, ...]]) -> None:
    found = task(hub="glue/mnli", splits={"train": "train", "dev": "validation_other"})
    assert len(found.examples("dev")) == 6
    with pytest.raises(DataError, match=r"hub 'glue/mnli': no split 'validatoin' for dev; did you mean 'validation'"):
        task(hub="glue/mnli", splits={"train": "train", "dev": "validatoin"})


def test_names_inside_lists(asked: list[tuple[Any, ...]]) -> None:
    assert task(hub="a/b", label="tags").target.names == ("O", "X")


def test_what_cannot_be_had(asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"hub 'away/away': cannot be loaded \(ConnectionError: Couldn't reach the Hub"):
        task(hub="away/away")
    with pytest.raises(MTKError, match=r"config: belongs to hub"):
        task(data="a.csv", config="x")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MTKError, match=r"hub = 'a/b' needs datasets: pip install 'multitask-toolkit\[hf\]'"):
        task(hub="a/b")
