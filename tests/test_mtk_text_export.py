"""The CS 224N submission files, to the byte."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import pytest

from mtk import DataError, Example, Prediction, TaskContext, build
from mtk_text.export import CS224N
from mtk_text.tasks import SST, STS, FileTask, Quora


class ToyModel(SimpleNamespace):
    tasks: dict[str, FileTask]
    left_out: Mapping[str, str] = MappingProxyType({})

    def predict(self, task: str, rows: list[Example]) -> list[Prediction]:
        value = {"sst": 3, "para": 1, "sts": 2.5}[task]
        return [Prediction(value, value, 1.0) for _ in rows]


def folder_of(folder: Path, suffix: str = "") -> Path:
    folder.mkdir()
    (folder / "ids-sst-dev.csv").write_text(f"\tid\tsentence\tsentiment\n0\ta{suffix}\tx\t1\n1\tb{suffix}\ty\t2\n")
    (folder / "quora-test-student.csv").write_text("\tid\tsentence1\tsentence2\n0\tc\tx\ty\n")
    (folder / "sts-dev.csv").write_text("\tid\tsentence1\tsentence2\tsimilarity\n0\td\tx\ty\t3.0\n")
    return folder


def model(data: Path) -> ToyModel:
    kinds = {"sst": SST, "para": Quora, "sts": STS}
    return ToyModel(tasks={name: kind(TaskContext(name, data)) for name, kind in kinds.items()})


def test_the_files_of_the_course(tmp_path: Path) -> None:
    out = tmp_path / "out" / "predictions"
    results = build("exporter", "cs224n")(model(folder_of(tmp_path / "data")), out, None)
    assert {r.file.name: r.rows for r in results if not r.skipped} == {
        "sst-dev-output.csv": 2,
        "para-test-output.csv": 1,
        "sts-dev-output.csv": 1,
    }
    assert (out / "sst-dev-output.csv").read_bytes() == b"id \t Predicted_Sentiment \na , 3 \nb , 3 \n"
    assert (out / "para-test-output.csv").read_bytes() == b"id \t Predicted_Is_Paraphrase \nc , 1.0 \n"
    assert (out / "sts-dev-output.csv").read_bytes() == b"id \t Predicted_Similiary \nd , 2.5 \n"
    skipped = {r.file.name: r.skipped for r in results if r.skipped}
    assert sorted(skipped) == ["para-dev-output.csv", "sst-test-output.csv", "sts-test-output.csv"]
    assert "has no test file in" in skipped["sst-test-output.csv"]
    assert sorted(path.name for path in out.iterdir()) == sorted(r.file.name for r in results if not r.skipped)


def test_another_data_folder_and_missing_tasks(tmp_path: Path) -> None:
    known = model(folder_of(tmp_path / "data"))
    del known.tasks["sts"], known.tasks["para"]
    results = CS224N()(known, tmp_path / "out", folder_of(tmp_path / "other", "2"))
    assert (tmp_path / "out" / "sst-dev-output.csv").read_text().splitlines()[1] == "a2 , 3 "
    assert "the model has no such task (it has sst)" in results[-1].skipped
    known.left_out = {"sts": "its labels changed"}
    results = CS224N()(known, tmp_path / "again", None)
    assert "the model has no such task (it has sst; left out: sts)" in results[-1].skipped
    assert known.tasks["sst"].examples("dev")[0].id == "a"


def test_no_data_is_said_and_a_wrong_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    results = CS224N()(model(tmp_path / "empty"), tmp_path / "out", None)
    assert len(results) == 6 and all("found an empty folder" in r.skipped for r in results)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: cannot be made"):
        CS224N()(model(tmp_path / "empty"), tmp_path / "file", None)
