"""Every way that a data file can be wrong is one line that names file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtk import ConfigError, DataError, TaskContext
from mtk_text.tasks import SST, STS, FileTask, Quora

SST_HEADER = "\tid\tsentence\tsentiment\n"
STS_HEADER = "\tid\tsentence1\tsentence2\tsimilarity\n"


def sst(folder: Path, train: str | bytes | None = None, **options: int) -> SST:
    if train is not None:
        content = train.encode() if isinstance(train, str) else train
        (folder / "ids-sst-train.csv").write_bytes(content)
    return SST(TaskContext("sst", folder), **options)


def test_rows_are_read_as_the_course_reads_them(tmp_path: Path) -> None:
    text = SST_HEADER + '0\ta\t  It \'s fine .  \t3\n1\tb\t"""Well"", he said"\t0.0\n2\tc\tsays "no" twice\t4\r\n'
    task = sst(tmp_path, "\ufeff" + text)
    rows = task.examples("train")
    assert [(r.id, r.text, r.label) for r in rows] == [
        ("a", "It 's fine .", 3),
        ("b", '"Well", he said', 0),
        ("c", 'says "no" twice', 4),
    ]
    assert task.examples("train") is rows
    assert task.bad == []


def test_pairs_and_ranges(tmp_path: Path) -> None:
    (tmp_path / "sts-dev.csv").write_text(STS_HEADER + "7\tx\tone\ttwo\t2.75\n")
    (row,) = STS(TaskContext("sts", tmp_path)).examples("dev")
    assert (row.text, row.pair, row.label) == ("one", "two", 2.75)


GOOD = "0\ta\tfine\t3\n"

FAULTS = {
    "empty": ("", r"ids-sst-train.csv: expected a header and rows, found an empty file \(0 bytes\)"),
    "byte order mark alone": ("\ufeff\n", r"found an empty file"),
    "header only": (SST_HEADER, r"ids-sst-train.csv: expected rows below the header, found none"),
    "missing column": ("\tid\tsentnce\tsentiment\n" + GOOD, r"csv:1: expected a column 'sentence'.* mean 'sentnce'"),
    "missing label column": ("\tid\tsentence\n0\ta\tx\n", r"csv:1: expected a column 'sentiment'"),
    "column twice": ("id\tsentence\tsentence\tsentiment\na\tb\tc\t1\n", r"expected one column 'sentence', found 2"),
    "label out of range": (SST_HEADER + GOOD + "1\tb\tbad\t7\n", r"csv:3: row 'b': column 'sentiment': .* found '7'"),
    "label no class": (SST_HEADER + "1\tb\tbad\tgreat\n", r"csv:2: row 'b': .*4 \(very positive\), found 'great'"),
    "label is nan": (SST_HEADER + "1\tb\tbad\tnan\n", r"csv:2: row 'b': .*found 'nan'"),
    "label empty": (SST_HEADER + "1\tb\tbad\t\n", r"csv:2: row 'b': column 'sentiment' is empty"),
    "too few fields": (SST_HEADER + GOOD + "1\tb\n", r"csv:3: row 'b': expected 4 fields, found 2; mend"),
    "swallowed in a line": (SST_HEADER + '1\tb\t"x\t2"\n', r"row 'b': expected 4 fields, found 3; a double quote"),
    "too many fields": (SST_HEADER + "1\tb\tx\t1\t9\t9\n", r"csv:2: row 'b': expected 4 fields, found 6"),
    "text empty": (SST_HEADER + "1\tb\t  \t2\n", r"csv:2: row 'b': column 'sentence' is empty"),
    "id empty": (SST_HEADER + "1\t\tx\t2\n1\t\ty\t9\n", r"csv:3: row 'line 3'"),
    "id twice": (SST_HEADER + GOOD + "1\ta\tx\t1\n", r"csv:3: row 'a': its id stands already in line 2"),
    "blank lines count": (SST_HEADER + "\n\n" + "1\tb\tx\t9\n", r"csv:4: row 'b'"),
    "nul": (SST_HEADER + "1\tb\tx\0y\t2\n", r"csv:2: expected text, found a NUL byte"),
    "utf-16": ((SST_HEADER + GOOD).encode("utf-16"), r"csv:1: expected UTF-8, found byte 0xff at byte offset 0"),
    "latin-1": (SST_HEADER.encode() + b"1\tb\tcaf\xe9 .\t2\n", r"csv:2: expected UTF-8, .* 0xe9 at byte offset 30"),
    "latin-1 behind a mark": (b"\xef\xbb\xbf" + SST_HEADER.encode() + b"1\tb\t\xe9\t2\n", r"0xe9 at byte offset 30"),
    "open quote": (SST_HEADER + '1\tb\t"x\t2\n' + GOOD + GOOD, r"csv:2: row 'b': expected 4 fields, found 3; a double"),
    "closed too late": (SST_HEADER + '1\tb\t"x\t2\n2\tc\ty"\t2\n', r"csv:2: row 'b': one field holds tabs and line"),
    "field too large": (
        SST_HEADER + "1\tb\t" + "x" * 140_000 + "\t2\n",
        r"csv:2: the row cannot be read: field larger",
    ),
    "json list": ('[{"id": "a"}]', r"csv:1: expected one JSON object a line or a table"),
}


@pytest.mark.parametrize("content, message", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_one_line_with_file_and_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        sst(tmp_path, content).examples("train")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no.csv: no such file"):
        sst(tmp_path).read(tmp_path / "no.csv")
    with pytest.raises(DataError, match=r"expected a file, found a folder; name a file in it"):
        sst(tmp_path).read(tmp_path)


def test_bad_rows_are_tolerated_by_choice_and_counted(tmp_path: Path) -> None:
    content = SST_HEADER + GOOD + "1\tb\tx\t9\n2\tc\ty\t1\n3\td\t\t1\n"
    task = sst(tmp_path, content)
    with pytest.raises(DataError, match=r"csv:3: .*\(2 bad rows in this file; also in line 5\).*sst:bad_rows=2"):
        task.examples("train")
    with pytest.raises(DataError, match=r"; mend the file, or train with --task films=sst:bad_rows=2$"):
        SST(TaskContext("films", tmp_path)).examples("train")
    with pytest.raises(DataError, match=r"also in line 5\); mend the file$"):
        task.read(tmp_path / "ids-sst-train.csv")
    assert [row.line for row in task.bad] == [3, 5]
    task = sst(tmp_path, bad_rows=2)
    assert [row.id for row in task.examples("train")] == ["a", "c"]
    assert [(row.line, row.reason[:7], row.known) for row in task.bad] == [(3, "row 'b'", False), (5, "row 'd'", False)]
    with pytest.raises(ConfigError, match="bad_rows >= 0"):
        sst(tmp_path, bad_rows=-1)


def test_nothing_but_tolerated_bad_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found none but bad ones"):
        sst(tmp_path, SST_HEADER + "1\tb\tx\t9\n", bad_rows=5).examples("train")


def test_the_known_quora_rows_are_excepted_by_id(tmp_path: Path) -> None:
    known = sorted(Quora.known_bad)
    header = "\tid\tsentence1\tsentence2\tis_duplicate\n"
    text = header + f"0\t{known[0]}\ta\t\t\n1\tb\tx\ty\t1.0\n2\t{known[1]}\ta\tb\t\n"
    (tmp_path / "quora-train.csv").write_text(text)
    task = Quora(TaskContext("quora", tmp_path))
    assert [(row.id, row.label) for row in task.examples("train")] == [("b", 1)]
    assert [(row.line, row.known) for row in task.bad] == [(2, True), (4, True)]
    assert "known in the published file" in str(task.bad[0])


@pytest.mark.parametrize(
    "name, content",
    [
        ("mine.csv", 'sentence,sentiment\n"Good, really",4\nMeh,\n'),
        ("mine.csv", "sentence;sentiment\nGood, really;4\nMeh;\n"),
        ("mine.tsv", "sentence\tsentiment\nGood, really\t4\nMeh\t\n"),
        ("mine.jsonl", '{"sentence": "Good, really", "sentiment": 4}\n\n{"sentence": "Meh", "sentiment": null}\n'),
    ],
)
def test_a_users_own_file_in_any_form(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    rows = sst(tmp_path).read(tmp_path / name)
    assert [(r.text, r.label) for r in rows] == [("Good, really", 4), ("Meh", None)]
    assert rows[0].id == ("1" if name == "mine.jsonl" else "2"), "a row without an id is named by its line"


def test_a_users_own_file_without_labels(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("sentence\nGood, really\n")
    assert [(r.text, r.label) for r in sst(tmp_path).read(tmp_path / "mine.txt")] == [("Good, really", None)]


def test_json_booleans_and_wrong_types(tmp_path: Path) -> None:
    task, file = Quora(TaskContext("quora", tmp_path)), tmp_path / "mine.jsonl"
    file.write_text('{"id": 5, "sentence1": "a", "sentence2": "b", "is_duplicate": true}\n')
    assert [(r.id, r.label) for r in task.read(file)] == [("5", 1)]
    file.write_text('{"sentence1": "a", "sentence2": "b"}\n{"sentence1": 3, "sentence2": "b"}\n')
    with pytest.raises(DataError, match=r"jsonl:2: .*expected a text, found a int"):
        task.read(file)
    file.write_text('{"sentence1": "a", "sentence2": "b"}\n{"sentence1"\n')
    with pytest.raises(DataError, match=r"jsonl:2: row '2': found no JSON"):
        task.read(file)


def test_a_quote_left_open_in_a_csv_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text('id,sentence\n1,"open\n2,x\n')
    with pytest.raises(DataError, match=r"mine.csv:2: the row cannot be read: unexpected end of data"):
        sst(tmp_path).read(tmp_path / "mine.csv")


def test_every_task_states_its_files_and_columns() -> None:
    for task in (SST, Quora, STS):
        assert issubclass(task, FileTask)
        assert len(task.columns) == 1 + task.paired
        assert task.default_head == "linear"
