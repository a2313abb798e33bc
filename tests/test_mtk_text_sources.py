"""Where rows come from, in order; what the published files hold; and what the sample promises."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from mtk import DataError, TaskContext
from mtk.datacheck import check_data, normalised
from mtk_text.published import cache_folder
from mtk_text.tasks import CFIMDB, SST, STS, FileTask, Quora

REAL = Path(__file__).parent.parent / ".." / "shared" / "data"
real_data = pytest.mark.skipif(
    not REAL.is_dir(), reason="../shared/data is not here: the real files are not ours to ship"
)
TASKS: tuple[type[FileTask], ...] = (SST, CFIMDB, Quora, STS)


@pytest.fixture(autouse=True)
def no_data_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MTK_DATA", raising=False)
    monkeypatch.setenv("MTK_CACHE", str(tmp_path / "cache"))


def put(folder: Path, *splits: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split in splits:
        (folder / f"ids-sst-{split}.csv").write_text(f"\tid\tsentence\tsentiment\n0\t{folder.name}\tx\t1\n")
    return folder


def origin(**context: object) -> str:
    return SST(TaskContext("sst", **context)).examples("train")[0].id  # type: ignore[arg-type]


def test_the_order_of_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert origin(sample="fallback").startswith("sample-")
    put(cache_folder(), "train")
    assert origin(sample="fallback").startswith("sample-"), "half a task in the cache does not count"
    put(cache_folder(), "dev")
    assert origin(sample="fallback") == "cs224n"
    monkeypatch.setenv("MTK_DATA", str(put(tmp_path / "variable", "train")))
    assert origin(sample="fallback") == "variable"
    assert origin(data=put(tmp_path / "mine", "train")) == "mine"


def test_no_data_names_the_ways_out() -> None:
    with pytest.raises(DataError, match=r"'sst' has no data: .*--data DIR.*`mtk data fetch sst`.*--sample"):
        _ = SST(TaskContext("sst")).source


def test_only_the_sample_is_marked_as_one(tmp_path: Path) -> None:
    assert SST(TaskContext("sst", sample="fallback")).source.sample
    assert not SST(TaskContext("sst", put(tmp_path / "mine", "train"), sample="fallback")).source.sample


def test_a_folder_without_the_tasks_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "mine", "train")
    with pytest.raises(
        DataError, match=r"mine: expected a file of task 'sts' \(sts-train.csv.*found ids-sst-train.csv"
    ):
        _ = STS(TaskContext("sts", tmp_path / "mine", sample="fallback")).source
    with pytest.raises(DataError, match="gone: no such folder"):
        _ = SST(TaskContext("sst", tmp_path / "gone")).source
    with pytest.raises(DataError, match="expected a folder that holds"):
        _ = SST(TaskContext("sst", tmp_path / "mine" / "ids-sst-train.csv")).source
    monkeypatch.setenv("MTK_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"^MTK_DATA: .*gone: no such folder"):
        _ = SST(TaskContext("sst")).source


def test_missing_and_unknown_splits(tmp_path: Path) -> None:
    task = SST(TaskContext("sst", put(tmp_path / "mine", "train")))
    with pytest.raises(DataError, match=r"'sst' has no dev rows: expected ids-sst-dev.csv in .*mine"):
        task.examples("dev")
    with pytest.raises(DataError, match="splits train, dev and test, not 'valid'"):
        task.examples("valid")


def test_the_published_test_file_has_two_index_columns(tmp_path: Path) -> None:
    (tmp_path / "ids-sst-test-student.csv").write_text(
        "\t\tid\tsentence\n1\t0.0\tb7\t Effective but too-tepid biopic\n"
    )
    (row,) = SST(TaskContext("sst", tmp_path)).examples("test")
    assert (row.id, row.text, row.label) == ("b7", "Effective but too-tepid biopic", None)


@real_data
@pytest.mark.parametrize(
    "kind, train, dev, bad",
    [(SST, 8544, 1101, 0), (CFIMDB, 1707, 245, 0), (Quora, 16208, 2014, 2), (STS, 6040, 863, 0)],
)
def test_the_real_files(kind: type[FileTask], train: int, dev: int, bad: int) -> None:
    task = kind(TaskContext(kind.kind, REAL))
    assert (len(task.examples("train")), len(task.examples("dev"))) == (train, dev)
    assert [row.known for row in task.bad] == [True] * bad


@real_data
def test_the_known_leak_of_sts() -> None:
    report = check_data([STS(TaskContext("sts", REAL))])
    assert [(leak.split, leak.other_split, len(leak.ids), leak.rows) for leak in report.leaks] == [
        ("dev", "train", 18, 863)
    ]


@pytest.mark.parametrize("kind", TASKS)
def test_the_sample_is_large_enough_balanced_and_clean(kind: type[FileTask]) -> None:
    task = kind(TaskContext(kind.kind, sample="fallback"))
    report = check_data([task])
    assert (report.errors, report.leaks) == ([], [])
    sizes = {split.split: split.rows for split in report.splits}
    train, dev = (60, 30) if isinstance(task, CFIMDB) else (300, 100)  # its rows are five times as long
    assert sizes["train"] >= train and sizes["dev"] >= dev
    for split in report.splits:
        assert (split.bad, split.duplicates, split.unlabelled) == ([], [], 0)
        rows = task.examples(split.split)
        if isinstance(task, STS):  # no class, but every band of one point is well filled
            bands = Counter(min(int(row.label), 4) for row in rows)
            assert min(bands[band] for band in range(5)) >= 0.12 * len(rows), bands
        else:
            assert split.labels is not None and len(set(split.labels.values())) == 1, split.labels


def test_no_row_of_the_sample_stands_in_two_tasks_or_splits() -> None:
    tasks = [kind(TaskContext(kind.kind, sample="fallback")) for kind in TASKS]
    assert check_data(tasks).leaks == []
    rows = [normalised(row) for task in tasks for split in ("train", "dev") for row in task.examples(split)]
    assert len(rows) == len(set(rows))
