"""The long film reviews: two classes, the course's files and submission, and a sample of our own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mtk import DataError, Example, Prediction, TaskContext, build
from mtk.cli.app import run as command
from mtk.testing import check_task
from mtk_text.download import blob_id
from mtk_text.export import CS224N
from mtk_text.published import PUBLISHED
from mtk_text.tasks import CFIMDB, SST

REAL = Path(__file__).parent.parent / ".." / "shared" / "data"
real_data = pytest.mark.skipif(
    not (REAL / "ids-cfimdb-train.csv").is_file(), reason="../shared/data is not here: the real files are not ours"
)
HEADER = "\tid\tsentence\tsentiment\n"


@pytest.fixture(autouse=True)
def no_data_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MTK_DATA", raising=False)
    monkeypatch.setenv("MTK_CACHE", str(tmp_path / "cache"))


def put(folder: Path, rows: str = "0\ta\tbad\t0\n1\tb\tgood\t1\n") -> Path:
    folder.mkdir(exist_ok=True)
    for split in ("train", "dev"):
        (folder / f"ids-cfimdb-{split}.csv").write_text(HEADER + rows)
    (folder / "ids-cfimdb-test-student.csv").write_text("\t\tid\tsentence\n1\t0.0\tc\tSo so\n")
    return folder


def test_rows_of_the_courses_files(tmp_path: Path) -> None:
    task = build("task", "cfimdb", TaskContext("reviews", put(tmp_path)))
    assert isinstance(task, CFIMDB)
    assert list(task.examples("train")) == [Example("a", "bad", None, 0), Example("b", "good", None, 1)]
    assert list(task.examples("test")) == [Example("c", "So so")]
    assert task.target.names == ("negative", "positive")
    check_task(CFIMDB, tmp_path)


def test_a_label_of_sst_is_refused(tmp_path: Path) -> None:
    task = CFIMDB(TaskContext("cfimdb", put(tmp_path, "0\ta\tbad\t0\n1\tb\tgood\t4\n")))
    with pytest.raises(DataError, match=r"ids-cfimdb-train.csv:3: row 'b': column 'sentiment': .*found '4'"):
        task.examples("train")


@real_data
@pytest.mark.parametrize("split", ["train", "dev"])
def test_the_real_files_are_the_published_ones(split: str) -> None:
    file = PUBLISHED["cfimdb"].files[split]
    assert (REAL / file.name).stat().st_size == file.size
    assert blob_id(REAL / file.name) == file.blob


class ToyModel(SimpleNamespace):
    def predict(self, task: str, rows: list[Example]) -> list[Prediction]:
        return [Prediction(1, "positive", 1.0) for _ in rows]


def test_the_courses_submission(tmp_path: Path) -> None:
    """Beside the six files of the multitask project, which are named even where there is no such task."""
    folder = put(tmp_path / "data")
    out = tmp_path / "out"
    results = CS224N()(ToyModel(left_out={}, tasks={"reviews": CFIMDB(TaskContext("reviews", folder))}), out)
    written = {result.file.name: result.rows for result in results if not result.skipped}
    assert written == {"finetune-cfimdb-dev-out.csv": 2, "finetune-cfimdb-test-out.csv": 1}
    assert (out / "finetune-cfimdb-dev-out.csv").read_bytes() == b"id \t Predicted_Sentiment \na , 1 \nb , 1 \n"
    assert len(results) == 8
    without = CS224N()(ToyModel(left_out={}, tasks={"sst": SST(TaskContext("sst", folder))}), out)
    assert not [result for result in without if "cfimdb" in result.file.name]


def test_the_sample_is_long_and_dev_has_sentences_of_its_own() -> None:
    task = CFIMDB(TaskContext("cfimdb", sample="always"))
    rows = {split: task.examples(split) for split in ("train", "dev")}
    lengths = sorted(len(row.text.split()) for row in (*rows["train"], *rows["dev"]))
    assert lengths[0] >= 80 and lengths[-1] >= 120
    sentences = {split: {part for row in rows[split] for part in row.text.split(". ")} for split in rows}
    assert not sentences["train"] & sentences["dev"]


def test_a_dry_run_and_a_check_on_the_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "train --task cfimdb --sample --encoder tiny --dry-run --device cpu --threads 1"
    assert command(line.split()) == 0
    assert "cfimdb" in capsys.readouterr().out
    assert command(["data", "check", "--task", "cfimdb", "--sample"]) == 0
    assert "negative 30, positive 30" in capsys.readouterr().out
