"""Tasks on rows of one's own: what is read, how it is split, what is guessed, and a run from end to end."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import mtk
from mtk import Classes, ConfigError, DataError, MTKError, Number, Ordinal, Range, TaskContext, build, session
from mtk.cli.app import run as command
from mtk.run import RunFolder
from mtk.testing import check_task
from mtk.training import Finished
from mtk_files.conll import tags_of
from mtk_files.labels import WeightedClasses

SMALL: dict[str, Any] = dict(encoder="tiny", epochs=1, threads=1, precision="fp32", device="cpu", quiet=True)
WORDS = ("glad", "sad", "angry")


def task(kind: str, **options: Any) -> Any:
    options = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    return build("task", kind, TaskContext("mine"), **options)


def rows(number: int = 60) -> list[tuple[str, str]]:
    return [(f"{WORDS[i % 3]} tweet, number {i}", ("joy", "grief", "anger")[i % 3]) for i in range(number)]


def write(file: Path, text: str, encoding: str = "utf-8") -> Path:
    file.write_bytes(text.encode(encoding))
    return file


def tweets(folder: Path, number: int = 60, name: str = "tweets.csv") -> Path:
    return write(folder / name, "tweet,emotion\n" + "".join(f'"{text}",{label}\n' for text, label in rows(number)))


def all_rows(task: Any) -> list[Any]:
    return [row for split in ("train", "dev", "test") for row in task.examples(split)]


def csv_of(labels: Any, text: str = "text number {}") -> str:
    return "text,label\n" + "".join(f'{text.format(i)},"{label}"\n' for i, label in enumerate(labels))


# ---------------------------------------------------------------------------------------------- forms of a file

FORMS = {
    "commas": ("a.csv", '"{a}, he said",x\n"{b}",y\n', "text,label\n", "utf-8"),
    "semicolons": ("a.csv", "{a}, he said;x\n{b};y\n", "text;label\n", "utf-8"),
    "semicolons, a comma in the header": ("a.csv", "{a}, he said;x;1,5\n{b};y;2,5\n", "text;label;size, cm\n", "utf-8"),
    "bars": ("a.csv", "{a}, he said|x\n{b}|y\n", "text|label\n", "utf-8"),
    "tabs": ("a.csv", "{a}, he said\tx\n{b}\ty\n", "text\tlabel\n", "utf-8"),
    "byte order mark": ("a.csv", "{a}, he said;x\r\n{b};y\r\n", "\ufefftext;label\r\n", "utf-8"),
    "cp1252": ("a.csv", "{a}, he said;x\n{b};y\n", "text;label\n", "cp1252"),
    "utf-16": ("a.csv", "{a}, he said;x\n{b};y\n", "text;label\n", "utf-16"),
    "json lines": (
        "a.jsonl",
        '{{"text": "{a}, he said", "label": "x"}}\n{{"label": "y", "text": "{b}"}}\n',
        "",
        "utf-8",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_in_any_form(form: str, tmp_path: Path) -> None:
    name, lines, header, encoding = FORMS[form]
    body = "".join(lines.format(a=f"A café {i} for you", b=f"A thé {i} for me") for i in range(20))
    found = task("auto", data=write(tmp_path / name, header + body, encoding))
    assert {row.text for row in all_rows(found)} == {
        text for i in range(20) for text in (f"A café {i} for you, he said", f"A thé {i} for me")
    }
    assert found.target.names == ("x", "y")
    assert any("A café" in row.text and row.label == 0 for row in found.examples("train"))


def test_what_was_found_is_said(tmp_path: Path) -> None:
    content = "text;label\n" + "".join(f"one café {i};{'xy'[i % 2]}\n" for i in range(20))
    found = task("auto", data=write(tmp_path / "a.csv", content, "cp1252"))
    found.examples("train")
    notes = " | ".join(found.notes)
    assert "a.csv: separated by ';', cp1252 (no UTF-8: byte 0xe9 in line 2), 20 rows" in notes
    assert "label 'label': 2 different texts -> classes x, y" in notes
    assert "dev and test carved with seed 11711: train 16, dev 2, test 2; rows of one text stay together" in notes


def test_an_encoding_that_utf8_contradicts_is_said(tmp_path: Path) -> None:
    found = task("auto", data=write(tmp_path / "a.csv", csv_of("xy" * 10, "café {}")), encoding="cp1252")
    assert "cp1252 (warning: these bytes are UTF-8 too, which is likelier; leave out encoding)" in found.notes[0]
    plain = task("auto", data=write(tmp_path / "b.csv", csv_of("xy" * 10)), encoding="cp1252")
    assert "warning" not in plain.notes[0]


def test_excels_line_that_names_the_delimiter(tmp_path: Path) -> None:
    body = "sep=|\r\ntext|label\r\n" + "".join(f"a; b, {i}|{'xy'[i % 2]}\r\n" for i in range(20)) + "c\r\n"
    found = task("auto", data=write(tmp_path / "a.csv", body), bad_rows=1)
    assert {row.id: row.text for row in all_rows(found)}["3"] == "a; b, 0"
    assert [(bad.line, bad.reason) for bad in found.bad] == [(23, "expected 2 fields, found 1")]


def test_a_quoted_text_may_break_lines_and_lines_are_counted(tmp_path: Path) -> None:
    body = '"one\ntwo",x\n' + "".join(f"text {i},{'xy'[i % 2]}\n" for i in range(9)) + "short\n"
    found = task("auto", data=write(tmp_path / "a.csv", "text,label\n" + body), bad_rows=1)
    assert {"2": "one\ntwo", "4": "text 0"}.items() <= {row.id: row.text for row in all_rows(found)}.items()
    assert [(bad.line, bad.reason) for bad in found.bad] == [(13, "expected 2 fields, found 1")]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow (extra parquet) is not installed")
    from pyarrow import parquet

    table = pyarrow.table(
        {"text": [f"text {i}" for i in range(20)], "label": [float(i % 2) for i in range(19)] + [None]}
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    found = task("auto", data=tmp_path / "a.parquet")
    assert found.target.names == ("0", "1")
    assert sum(row.label is not None for row in all_rows(found)) in (18, 19)
    write(tmp_path / "b.parquet", "PAR1 and no more")
    with pytest.raises(DataError, match=r"b.parquet: no Parquet file, or a damaged one"):
        task("auto", data=tmp_path / "b.parquet")


def test_parquet_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MTKError, match=r"a.parquet: .* needs pyarrow: pip install 'multitask-toolkit\[parquet\]'"):
        task("auto", data=write(tmp_path / "a.parquet", "PAR1"))


def test_several_files_and_patterns(tmp_path: Path) -> None:
    for number in (1, 2):
        tweets(tmp_path, 30, f"part-{number}.csv")
    found = task("classes", data=tmp_path / "part-*.csv", text="tweet", label="emotion")
    ids = [row.id for row in all_rows(found)]
    assert len(ids) == len(set(ids)) == 60 and "part-1:2" in ids and "part-2:2" in ids
    assert {file.name for file in found.source.files.values()} == {"part-1.csv", "part-2.csv"}


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["a/reviews.csv", "b/reviews.csv"], {"a/reviews.csv:2", "b/reviews.csv:2"}),
        (["reviews.csv", "reviews.jsonl"], {"reviews.csv:2", "reviews.jsonl:2"}),
        (["a/one.csv", "b/two.csv"], {"one:2", "two:2"}),
    ],
)
def test_rows_of_files_of_one_name_have_ids_of_their_own(names: list[str], ids: set[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        texts = [f"a text {number} of {name}" for number in range(20)]
        lines = [json.dumps({"text": text, "label": text[7:8]}) for text in ["", *texts]]
        write(tmp_path / name, csv_of("xy" * 10) if name.endswith(".csv") else "\n".join(lines[1:]))
    options = {"text": "text", "label": "label"}
    found = task("classes", data=[str(tmp_path / name) for name in names], **options)
    seen = [row.id for row in all_rows(found)]
    assert ids <= set(seen) and len(seen) == len(set(seen)) == 40
    twice = task("classes", data=[str(tmp_path / name) for name in [names[0], *names]], **options)
    assert [row.id for row in all_rows(twice)] == seen  # a file that is named twice counts once


# ---------------------------------------------------------------------------------------------- what is wrong

GOOD = csv_of("xy" * 10)
FAULTS: dict[str, tuple[str | bytes, dict[str, Any], str]] = {
    "column": (GOOD, {"text": "txt"}, r"a.csv:1: expected a column 'txt', found none; did you mean 'text'"),
    "label's column": (
        GOOD,
        {"label": "lable"},
        r"a.csv:1: expected a column 'lable', found none; did you mean 'label'",
    ),
    "ragged row": (
        GOOD + "one,two,three\n",
        {},
        r"a.csv:22: expected 2 fields, found 3; mend the file, or .*bad_rows = 1",
    ),
    "no text": (GOOD + ",x\n", {}, r"a.csv:22: column 'text' is empty"),
    "empty": ("", {}, r"a.csv: expected a header and rows, found an empty file \(0 bytes\)"),
    "header alone": ("text,label\n", {}, r"a.csv: expected rows below the header"),
    "label not in labels": (
        GOOD,
        {"labels": ["x", "z"]},
        r"a.csv:3: column 'label': expected one of x, z, found 'y' \(10 b",
    ),
    "byte": (
        b"text,label\nok,x\n\x81\xe9,y\n",
        {},
        r"a.csv:3: expected UTF-8, found byte 0x81 at byte offset 16; name its encoding, or save it as UTF-8$",
    ),
    "an Excel file": (
        b"PK\x03\x04...xl/workbook.xml",
        {"encoding": "cp1252"},
        r"a.csv: expected text, found an Excel file; export it as CSV$",
    ),
    "an old Excel file": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0", {}, r"found an Excel file; export it as CSV$"),
    "an archive": (b"PK\x03\x04...a.csv", {}, r"a.csv: expected text, found a ZIP archive; unpack it$"),
    "Western, UTF-8 forced": (
        GOOD.replace("text", "café").encode("cp1252"),
        {"encoding": "utf-8"},
        r'expected utf-8, found byte 0xe9 .*encoding = "cp1252"',
    ),
    "UTF-8, UTF-16 forced": (
        (GOOD * 200).encode() + b"." * (len(GOOD * 200) % 2),
        {"encoding": "utf-16"},
        r"a.csv:1: expected a column 'text', found none; known: .{1,320}$",
    ),
    "Cyrillic": (
        GOOD.replace("text", "привет").encode("cp1251"),
        {},
        r'a.csv:1: expected UTF-8, found byte 0xef .*such as encoding = "cp1251"',
    ),
    "encoding": (GOOD, {"encoding": "utf-9"}, r"a.csv: unknown encoding 'utf-9'"),
    "delimiter": (GOOD, {"delimiter": "::"}, r"a.csv: delimiter: expected one character, found '::'"),
    "id twice": (
        "id,text,label\n" + "1,one,x\n1,two,y\n" * 2,
        {"id": "id"},
        r"a.csv:3: its id '1' stands already in line 2",
    ),
    "no label": (csv_of([""] * 20), {}, r"label 'label': expected labels, found none in 20 rows"),
    "one label": (csv_of("x" * 20), {}, r"label 'label': expected at least two different labels, found 'x' alone"),
    "texts for labels": (
        csv_of(f"label number {i}" for i in range(30)),
        {},
        r"30 different texts in 30 rows look like no l",
    ),
    "another kind's option": (
        GOOD,
        {"range": [0, 1], "threshold": 0.3},
        r"threshold: a task of range has no such option",
    ),
    "metric": (GOOD, {"metric": "macro_f2"}, r"metric: no 'macro_f2' for classes; did you mean 'macro_f1'"),
    "strata of no classes": (
        csv_of(i / 10 for i in range(40)),
        {"split": {"stratify": True}},
        r"split: stratify: expected a column for a task of range, whose labels are no classes, found true",
    ),
    "share": (GOOD, {"split": {"dev": 0.6, "test": 0.5}}, r"split: expected shares from 0 on that leave some rows"),
    "split's key": (GOOD, {"split": {"dve": 0.6}}, r"split: unknown key 'dve'; did you mean 'dev'"),
    "too few rows": (csv_of("xyxy"), {}, r"carving left dev without rows: 4 rows"),
    "group": (GOOD, {"split": {"group": "author"}}, r"a.csv:1: expected a column 'author'"),
    "names alike": (GOOD, {"labels": ["x", "y", "X"]}, r"labels: expected names that differ in more than case"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_one_line_that_says_where(case: str, tmp_path: Path) -> None:
    content, options, message = FAULTS[case]
    (tmp_path / "a.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(MTKError, match=message) as found:
        task("auto", data=tmp_path / "a.csv", **options).examples("train")
    assert "\n" not in str(found.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no.csv: no such file; task 'mine' reads it"):
        task("auto", data=tmp_path / "no.csv")
    tweets(tmp_path)
    with pytest.raises(DataError, match=r"twets.csv: no such file; task 'mine' .*; did you mean 'tweets.csv'\?$"):
        task("auto", data=tmp_path / "twets.csv")
    with pytest.raises(DataError, match=r"twets.csv: no such file; did you mean 'tweets.csv'\?$"):
        mtk.read_table(tmp_path / "twets.csv")
    with pytest.raises(DataError, match=r"expected a file, found a folder; name a file in it"):
        task("auto", data=tmp_path)
    with pytest.raises(DataError, match=r"no file matches"):
        task("auto", data=tmp_path / "*.tsv")
    with pytest.raises(ConfigError, match=r"data: unknown split 'valid'"):
        task("auto", data={"train": str(tweets(tmp_path)), "valid": "x.csv"})
    with pytest.raises(ConfigError, match=r"expected either data or hub, found none"):
        task("auto")
    with pytest.raises(DataError, match=r"no sample; leave out --sample"):
        build("task", "classes", TaskContext("mine", sample="always"), data=str(tweets(tmp_path)))


# ---------------------------------------------------------------------------------------------- kinds

GUESSES: dict[str, tuple[str, dict[str, Any], str, type]] = {
    "texts": (csv_of(["joy", "grief"] * 10), {}, "classes", Classes),
    "few whole numbers": (csv_of([1, 2, 3, 4, 5] * 4), {}, "classes", Classes),
    "many numbers": (csv_of(i / 10 for i in range(40)), {}, "range", Range),
    "decimal commas": ("text;label\n" + "".join(f"text {i};{i // 8},{i % 8}\n" for i in range(40)), {}, "range", Range),
    "labels given": (csv_of(range(30)), {"labels": [str(i) for i in range(30)]}, "classes", Classes),
    "a range given": (csv_of([1, 2, 3, 4, 5] * 4), {"range": [0, 5]}, "range", Range),
    "weights given": (csv_of([0, 1] * 10), {"class_weights": "balanced"}, "classes", WeightedClasses),
}


@pytest.mark.parametrize("case", GUESSES)
def test_the_kind_is_guessed(case: str, tmp_path: Path) -> None:
    content, options, kind, target = GUESSES[case]
    found = task("auto", data=write(tmp_path / "a.csv", content), **options)
    assert found.spec[0] == kind and type(found.target) is target
    assert len(all_rows(found)) == content.count("\n") - 1
    assert any(f"-> {kind}" in note for note in found.notes)
    given = build("task", kind, TaskContext("mine"), **found.spec[1])
    assert all_rows(given) == all_rows(found) and f"kind {kind}, as given" in given.notes


def test_numbers_are_classes_by_name_not_by_index(tmp_path: Path) -> None:
    found = task("auto", data=write(tmp_path / "a.csv", csv_of(["10", "2.0", "2", "3"] * 5)))
    assert found.target.names == ("2", "3", "10")
    assert Counter(row.label for row in all_rows(found)) == {0: 10, 1: 5, 2: 5}
    with pytest.raises(DataError, match=r"a.csv:2: column 'label': expected one of 2, 3, found '10'"):
        task("classes", data=tmp_path / "a.csv", labels=["2", "3"]).examples("train")
    with pytest.raises(DataError, match=r"b.csv:2: column 'label': expected one of 2, 3, found '0'"):
        task("classes", data=write(tmp_path / "b.csv", csv_of("0123" * 5)), labels=["2", "3"]).examples("train")
    named = task("classes", data=write(tmp_path / "c.csv", csv_of("01" * 10)), labels=["no", "yes"])
    assert Counter(row.label for row in all_rows(named)) == {0: 10, 1: 10}, "an index serves where no name is a number"


def test_spellings_that_differ_in_case_count_as_the_same(tmp_path: Path) -> None:
    found = task("auto", data=write(tmp_path / "a.csv", csv_of(["Joy", "joy", "Joy", "grief"] * 5)))
    assert found.target.names == ("grief", "Joy")
    assert any("'joy' differ from them in case alone" in note for note in found.notes)


def test_the_other_kinds(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", csv_of([3, 1, 2, 5] * 5))
    assert isinstance(task("number", data=file).target, Number)
    ordinal = task("ordinal", data=file)
    assert isinstance(ordinal.target, Ordinal) and ordinal.target.names == ("1", "2", "3", "5")
    with pytest.raises(ConfigError, match=r"expected the classes in ascending order, found none; there are high, low"):
        task("ordinal", data=write(tmp_path / "b.csv", csv_of(["low", "high"] * 10)))


def test_several_labels_a_row(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", csv_of(["joy|love", "love", "grief", "|"] * 5))
    found = task("multilabel", data=file)
    assert found.target.names == ("grief", "joy", "love")
    assert Counter(row.label for row in all_rows(found)) == {(1, 2): 5, (2,): 5, (0,): 5, (): 5}
    lines = [json.dumps({"text": f"text {i}", "label": ["a", "b"][: i % 3]}) for i in range(20)]
    guessed = task("auto", data=write(tmp_path / "a.jsonl", "\n".join(lines)))
    assert guessed.spec[0] == "multilabel" and guessed.target.names == ("a", "b")


CONLL = "Ann NNP B-PER\nsleeps VBZ O\n{0} CD O\n\nOld NNP B-LOC\nYork NNP I-LOC\nsleeps VBZ O\n{0} CD O\n\n"


@pytest.mark.parametrize("columns", [{"text": "emotion"}, {"text": "tweet", "pair": "emotion"}])
def test_a_label_that_the_model_reads(tmp_path: Path, columns: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="label: 'emotion' is what the model reads; expected another column"):
        task("classes", data=tweets(tmp_path), label="emotion", **columns)


def test_tags_in_columns(tmp_path: Path) -> None:
    found = task(
        "auto", data=write(tmp_path / "a.conll", "-DOCSTART- -X- O\n\n" + "".join(map(CONLL.format, range(10))))
    )
    assert found.spec[0] == "tags" and set(found.target.names) == {"O", "B-PER", "I-PER", "B-LOC", "I-LOC"}
    tags = {row.text: [found.target.names[tag] for tag in row.label] for row in all_rows(found)}
    assert tags["Ann sleeps 3"] == ["B-PER", "O", "O"] and tags["Old York sleeps 3"] == ["B-LOC", "I-LOC", "O", "O"]
    other = task("tags", data=tmp_path / "a.conll", label="2")
    assert set(other.target.names) == {"NNP", "VBZ", "CD"}
    with pytest.raises(DataError, match=r"b.conll:1: expected 3 columns a word, word 2 has 2"):
        task("auto", data=write(tmp_path / "b.conll", CONLL.replace("sleeps VBZ O", "sleeps VBZ", 1))).examples("dev")


def test_tags_in_spans(tmp_path: Path) -> None:
    one = {"text": "Ann saw Old York.", "label": [{"start": 0, "end": 3, "label": "PER"}, [8, 16, "LOC"]]}
    lines = [json.dumps({**one, "text": one["text"] + f" {i}"}) for i in range(10)]
    found = task("tags", data=write(tmp_path / "a.jsonl", "\n".join(lines)))
    (tags,) = {tuple(found.target.names[tag] for tag in row.label) for row in all_rows(found)}
    assert tags == ("B-PER", "O", "B-LOC", "I-LOC", "O")
    assert tags_of("Ann saw it", [{"start": 3, "end": 8, "type": "X"}]) == ["O", "B-X", "O"], "blanks belong to no word"
    lines[3] = json.dumps({"text": "Ann", "label": [{"start": 2, "end": 9, "label": "PER"}]})
    with pytest.raises(DataError, match=r"a.jsonl:4: expected spans of characters from 0 to 3, found PER from 2 to 9"):
        task("tags", data=write(tmp_path / "a.jsonl", "\n".join(lines)), labels=list(found.target.names)).examples(
            "dev"
        )


def test_pairs_and_ranking(tmp_path: Path) -> None:
    body = "".join(f"question {i},answer {i}\n" for i in range(30))
    file = write(tmp_path / "a.csv", "q,a\n" + body)
    found = task("auto", data=file, text="q", pair="a")
    assert found.spec[0] == "ranking" and found.columns == ("q", "a")
    assert {row.label for row in all_rows(found)} == {1}
    write(tmp_path / "b.csv", "q,a,label\n" + body.replace("\n", ",1\n"))
    with pytest.raises(ConfigError, match=r"two texts and a column 'label': write label"):
        task("auto", data=tmp_path / "b.csv", text="q", pair="a")


def test_every_kind_conforms(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", csv_of([1, 2, 3, 5] * 10))
    for kind in ("classes", "range", "number", "ordinal", "multilabel"):
        check_task(lambda context, kind=kind: build("task", kind, context, data=str(file)))  # type: ignore[misc]


def test_weights_and_threshold() -> None:
    target = WeightedClasses(["no", "yes"], "balanced", 0.2)
    target.fit([0, 0, 0, 1])
    assert target.weights.tolist() == pytest.approx([4 / (2 * 3), 4 / (2 * 1)])
    outputs = torch.tensor([[1.0, 0.0], [3.0, 0.0]])  # p(yes) = 0.27, 0.05
    targets = target.collate([0, 1], 1)
    each = torch.nn.functional.cross_entropy(outputs, targets.labels, reduction="none")
    assert target.loss(outputs, targets).item() == pytest.approx((each * torch.tensor([2 / 3, 2.0])).sum().item())
    assert [p.label for p in target.predict(outputs, targets)] == ["yes", "no"]
    given = WeightedClasses(["no", "yes"], {"yes": 3.0}, None)
    given.fit([0, 0, 0, 1])
    assert given.weights.tolist() == [1.0, 3.0]
    assert [p.label for p in given.predict(outputs, targets)] == ["no", "no"]
    with pytest.raises(ConfigError, match=r"class_weights: no class 'yse'; did you mean 'yes'"):
        WeightedClasses(["no", "yes"], {"yse": 3.0}, None)
    with pytest.raises(ConfigError, match=r"threshold: expected a probability between 0 and 1, and two classes"):
        WeightedClasses(["a", "b", "c"], None, 0.5)


# ---------------------------------------------------------------------------------------------- missing labels, splits


def test_rows_without_a_label_train_nothing_and_are_no_fault(tmp_path: Path) -> None:
    content = csv_of(["x", "y", ""] * 20)
    found = task("auto", data=write(tmp_path / "a.csv", content), split={"stratify": True})
    assert all(row.label is not None for row in found.examples("train"))
    kept = [row.label for split in ("dev", "test") for row in found.examples(split)]
    assert kept.count(None) == 4 and len(kept) == 12
    assert any("16 rows without a label are left out of training" in note for note in found.notes)


def test_a_test_file_needs_no_labels(tmp_path: Path) -> None:
    bare = write(tmp_path / "test.csv", "tweet\none\ntwo\n")
    data = {"train": str(tweets(tmp_path)), "test": str(bare)}
    found = task("auto", data=data, text="tweet", label="emotion")
    assert [row.label for row in found.examples("test")] == [None, None]
    assert len(found.examples("dev")) == 6 and len(found.examples("train")) == 54
    with pytest.raises(ConfigError, match=r"split: test: these rows have a file of their own"):
        task("auto", data=data, text="tweet", label="emotion", split={"test": 0.2}).examples("train")


def test_files_for_all_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    data = {split: str(tweets(tmp_path, 12, f"{split}.csv")) for split in ("train", "dev")}
    found = task("auto", data=data, text="tweet", label="emotion")
    assert [row.id for row in found.examples("train")] == [row.id for row in found.examples("dev")]
    with pytest.raises(DataError, match=r"task 'mine' has no test rows"):
        found.examples("test")


COLUMNS: dict[str, tuple[str, dict[str, Any]]] = {
    "stars": ("ordinal", {"labels": ["1", "2", "4", "5"], "bad_rows": 9}),  # a 3 is a bad row
    "rare": ("classes", {}),  # of half the rows
    "length": ("range", {}),
    "topics": ("multilabel", {"separator": ";"}),
}


@pytest.mark.parametrize("split", [None, {"stratify": "stars"}, {"test": 0.2}])
def test_tasks_on_the_same_rows_are_carved_alike(split: Any, tmp_path: Path) -> None:
    """Other labels, missing or wrong ones among them, are no reason for another carve."""
    lines = [
        f"text {i % 75},{'12453'[i % 5 if i < 45 else i % 4]},{'yn'[i % 7 > 0] if i % 2 else ''},{i},a;b\n"
        for i in range(80)
    ]
    file = write(tmp_path / "a.csv", "text,stars,rare,length,topics\n" + "".join(lines))
    tasks = [task(kind, data=file, label=name, split=split, **own) for name, (kind, own) in COLUMNS.items()]
    ids = [{name: {row.id for row in one.examples(name)} for name in ("train", "dev", "test")} for one in tasks]
    assert len(tasks[0].bad) == 9 and len(ids[1]["train"]) < len(ids[2]["train"])
    for one in ids:
        assert all(one[name] <= ids[2][name] for name in one)
    assert ids[1]["dev"] == ids[2]["dev"] == ids[3]["dev"] and ids[1]["test"] == ids[3]["test"]


def test_classes_in_proportion_by_choice(tmp_path: Path) -> None:
    """Nine rows of `rare` among ninety: the default leaves dev without one, and says so."""
    file = write(tmp_path / "a.csv", csv_of("rare" if i < 9 else "often" for i in range(90)))
    plain = task("classes", data=file, split={"dev": 0.2, "seed": 0})
    asked = task("classes", data=file, split={"dev": 0.2, "seed": 0, "stratify": True})
    found = [[sum(row.label == 1 for row in one.examples(name)) for name in ("dev", "test")] for one in (plain, asked)]
    assert found == [[0, 0], [2, 1]]
    assert any("in proportion by 'label'" in note for note in asked.notes)
    assert "no dev row of rare" in plain.notes[-1] and not any("no dev row" in note for note in asked.notes)


def test_how_rows_are_carved_is_spelled_out(tmp_path: Path) -> None:
    """A run's configuration carves the same rows where the defaults have changed."""
    found = task("classes", data=tweets(tmp_path), text="tweet", label="emotion", split={"dev": 0.2})
    assert found.spec[1]["split"] == {"dev": 0.2, "seed": 11711, "stratify": False}


def test_fewer_rows_by_choice(tmp_path: Path) -> None:
    whole = task("classes", data=tweets(tmp_path), text="tweet", label="emotion")
    some = task("classes", data=tmp_path / "tweets.csv", text="tweet", label="emotion", max_rows=10)
    assert len(some.examples("train")) == 10 and set(some.examples("train")) < set(whole.examples("train"))
    assert some.examples("dev") == whole.examples("dev")


def test_a_carve_that_falls_short_is_said(tmp_path: Path) -> None:
    """One author wrote 90 of 100 rows: dev and test can have but the 10 that others wrote."""
    lines = [f"text number {i},{'xy'[i % 2]},{'all' if i < 90 else 'few' if i < 95 else i}\n" for i in range(100)]
    file = write(tmp_path / "a.csv", "text,label,author\n" + "".join(lines))
    found = task("classes", data=file, split={"group": "author", "dev": 0.05, "test": 0.05})
    sizes = {split: len(found.examples(split)) for split in ("train", "dev", "test")}
    assert sizes == {"train": 90, "dev": 5, "test": 5} and not any("warning" in note for note in found.notes)
    plain = task("classes", data=file, split={"group": "author", "dev": 0.3, "test": 0.04})
    plain.examples("dev")
    (warning,) = [note for note in plain.notes if note.startswith("warning: carved less")]
    assert re.search(r"dev [1-9] of 30; there are 100 rows, up to 90 of them tied by texts or group$", warning)


def test_a_class_without_a_training_row_is_said(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", csv_of("xy" * 20))
    found = task("classes", data=file, labels=["x", "y", "z"])
    found.examples("train")
    assert [note for note in found.notes if "warning" in note] == [
        "warning: no train row of z: what is in no training row is not learnt"
    ]
    whole = task("classes", data=file)
    whole.examples("train")
    assert not any("warning" in note for note in whole.notes)
    dev = write(tmp_path / "dev.csv", csv_of("xyw"))
    one = task("classes", data={"train": str(file), "dev": str(dev)})
    one.examples("train")
    assert any("no train row of w" in note for note in one.notes)


def test_a_share_of_nothing_asks_for_no_split(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tweets(here)
    task_file = 'data = "tweets.csv"\ntext = "tweet"\nlabel = "emotion"\nsplit = { dev = 0.2, test = 0.0 }\n'
    write(here / "mine.toml", task_file)
    assert command(["data", "check", "mine.toml", "--encoder", "none"]) == 0
    said = capsys.readouterr().out
    assert "train 48, dev 12;" in said and "fault" not in said


def test_one_fault_comes_once_and_every_bad_row_counts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of too many fields, without a text, and with a label out of range: all are counted, and none twice."""
    lines = [f"text {i},{i % 5 + 1}\n" for i in range(20)]
    write(here / "a.csv", "text,label\n" + "".join(lines) + "a,b,c\n,1\n")
    write(here / "mine.toml", 'data = "a.csv"\nrange = [1, 3]\n')
    assert command(["data", "check", "mine.toml", "--encoder", "none"]) == 2
    said = capsys.readouterr()
    assert "fault: " not in said.out and said.err.count("a.csv") == 1
    assert "a.csv:5: column 'label': expected a number from 1 to 3, found '4' (10 bad rows in this file; " in said.err
    assert (
        "lines 6, 10, 11, 15, 16, 20, 21, 22, ...); mend the file, or leave such rows out: bad_rows = 10 in" in said.err
    )
    write(here / "mine.toml", 'data = "a.csv"\nrange = [1, 3]\nbad_rows = 10\n')
    assert command(["data", "check", "mine.toml", "--encoder", "none"]) == 0
    said = capsys.readouterr()
    assert "and 5 more bad rows in" in said.out and "mine train 2: [1] text 0" in said.out


def test_two_tasks_on_one_file_name_its_bad_rows_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "a.csv", "text,x,y\n" + "".join(f"text {i},{i % 2},{i % 3}\n" for i in range(40)) + "short\n")
    table = 'data = "a.csv"\nbad_rows = 1\n'
    write(here / "both.toml", f'[tasks.one]\nlabel = "x"\n{table}[tasks.two]\nlabel = "y"\n{table}')
    assert command(["data", "check", "both.toml", "--encoder", "none"]) == 0
    assert capsys.readouterr().out.count("bad row skipped: ") == 1


# ---------------------------------------------------------------------------------------------- from end to end


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MTK_DATA", raising=False)
    return tmp_path


def options(**more: Any) -> list[str]:
    return [text for key, value in {**SMALL, **more}.items() if key != "quiet" for text in (f"--{key}", str(value))]


def test_init_train_evaluate_predict_and_load_when_the_files_are_gone(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tweets(here)
    assert command(["task", "init", "tweets.csv"]) == 0
    said = capsys.readouterr().out
    assert 'label = "emotion"' in said and "3 different texts -> classes anger, grief, joy" in said
    assert command(["data", "check", "./tweets.toml", "--encoder", "none"]) == 0
    assert "tweets.csv: separated by ',', UTF-8, 60 rows" in capsys.readouterr().out
    assert command(["train", "--task", "./tweets.toml", *options(out="run")]) == 0
    shown = capsys.readouterr().out
    assert "dev and test carved" in shown
    scores = RunFolder.open(here / "run").scores["tasks"]["tweets"]
    (here / "moved").mkdir()
    assert command(["evaluate", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["tweets"]["metrics"] == pytest.approx(scores)
    shutil.move("tweets.csv", "moved/tweets.csv")
    (here / "tweets.toml").unlink()
    assert command(["predict", "run", "--text", "so glad"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("joy", "grief", "anger")
    assert command(["evaluate", "run"]) == 2
    assert "tweets.csv: no such file" in capsys.readouterr().err
    assert command(["evaluate", "run", "--data", "moved", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["tweets"]["metrics"] == pytest.approx(scores)
    assert command(["evaluate", "run", "--data", "moved/tweets.csv", "--json"]) == 2, "all rows, those trained on too"
    assert "trained on rows of this file" in capsys.readouterr().err


INITS: dict[str, tuple[str, str, list[str], str]] = {
    "pairs": (
        "a.jsonl",
        '{"query": "who is %d?", "passage": "it is %d"}\n',
        [],
        'text = "query".*pair = "passage".*"ranking"',
    ),
    "prices": ("a.tsv", "thing number %d\t%d.5\n", [], 'text = "name".*label = "price".*kind = "range"'),
    "options": (
        "a.tsv",
        "thing number %d\t%d.5\n",
        ["--label", "prize"],
        "--label prize: no such column .* mean 'price'",
    ),
    "no label": ("a.csv", "thing number %d\n", [], "a.csv: no column looks like a label, of name; name it: --label"),
}


def test_init_guesses_what_the_tutorial_shows(here: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "tutorials" / "your-own-data.md").read_text(encoding="utf-8")
    made, shown = (re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "toml"))
    assert made and shown
    exec(made[1], {})
    assert command(["task", "init", "reviews.csv"]) == 0
    assert tomllib.loads((here / "reviews.toml").read_text()) == tomllib.loads(shown[1])


def test_init_counts_bad_rows_as_reading_does(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"T-{i:03};{'' if i % 9 == 0 else f'this is ticket {i}'};{'xyz'[i % 3]}\n" for i in range(27)]
    write(here / "my tickets.csv", "Nr;Text;Thema\n" + "".join(lines) + "1;2\n")
    assert command(["task", "init", "my tickets.csv", "--label", "Thema"]) == 0
    said = capsys.readouterr().out
    assert "\n4 bad rows, the first in line 2: column 'Text' is empty" in said
    assert "\nbad_rows = 4  (left out; " in said and '\nid = "Nr"  (different in every row)' in said
    assert "mtk data check 'my tickets.toml'; mtk train --task 'my tickets.toml'" in said
    assert command(["data", "check", "my tickets.toml", "--encoder", "none"]) == 0
    assert capsys.readouterr().out.count("bad row skipped: ") == 4
    write(here / "my tickets.csv", "Nr;Text;Thema\n" + "".join(lines[1:9]) + "1;2\n")
    assert command(["task", "init", "my tickets.csv", "--label", "Thema", "--out", "-"]) == 0
    assert "# 1 bad row, the first in line 10: " in capsys.readouterr().out


def test_init_of_a_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (".", str(here)):
        assert command(["task", "init", folder]) == 2
        assert f"{folder}: expected a file, found a folder; name a file in it" in capsys.readouterr().err


@pytest.mark.parametrize("case", INITS)
def test_init_looks_at_the_rows(case: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, line, more, message = INITS[case]
    header = {"a.tsv": "name\tprice\n", "a.csv": "name\n"}.get(name, "")
    write(here / name, header + "".join(line % ((i,) * line.count("%d")) for i in range(40)))
    code = command(["task", "init", name, *more])
    said = capsys.readouterr()
    assert re.search(message, said.err if code else said.out, re.DOTALL)
    assert (here / "a.toml").exists() == (code == 0)
    if code == 0:
        assert command(["data", "check", "a.toml", "--encoder", "none"]) == 0
        assert command(["task", "init", name]) == 2
        assert "a.toml: there is such a file" in capsys.readouterr().err
        assert command(["task", "init", name, "--out", "-"]) == 0
        assert capsys.readouterr().out == (here / "a.toml").read_text()


def test_one_call_and_the_file_make_the_same_run(here: Path) -> None:
    tweets(here)
    fields = dict(data="tweets.csv", text="tweet", label="emotion", split={"dev": 0.2}, metric="macro_f1", head="mlp")
    run = mtk.train(tasks=[mtk.text_task("emotions", **fields)], out="one", **SMALL)
    lines = 'name = "emotions"\ndata = "tweets.csv"\ntext = "tweet"\nlabel = "emotion"\nsplit = {dev = 0.2}\n'
    write(here / "mine.toml", lines + 'metric = "macro_f1"\nhead = "mlp"\n')
    other = mtk.train(tasks="./mine.toml", out="two", **SMALL)
    assert run.config == other.config and run.scores == other.scores
    assert (
        run.scores["primary"] == {"emotions": "macro_f1"} and len(mtk.load(run).tasks["emotions"].examples("dev")) == 12
    )
    assert run.config.tasks["emotions"].options["labels"] == ["anger", "grief", "joy"]
    again = mtk.train(config="one/config.toml", out="three", **SMALL)
    assert again.scores == run.scores


PROJECT = """
[tasks.emotion]
data = "data/tweets.csv"
text = "tweet"

[tasks.length]
kind = "range"
data = "data/tweets.csv"
text = "tweet"
label = "length"

[train]
epochs = 1
"""


def test_one_file_with_several_tasks_and_the_runs_settings(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "data").mkdir()
    lines = [f'"{text}",{label},{len(text)}' for text, label in rows()]
    write(here / "data" / "tweets.csv", "tweet,emotion,length\n" + "\n".join(lines))
    write(here / "project.toml", PROJECT.replace('text = "tweet"\n\n', 'text = "tweet"\nlabel = "emotion"\n\n', 1))
    assert command(["data", "check", "project.toml", "--encoder", "none"]) == 0
    assert "no leaks between splits" in capsys.readouterr().out
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert command(["train", "--config", "../project.toml", *options(out="../run")]) == 0
    monkeypatch.chdir(here)
    model = mtk.load("run")
    assert set(model.tasks) == {"emotion", "length"} and model.config.train.epochs == 1
    same = [[(row.id, row.text) for row in model.tasks[name].examples("dev")] for name in model.tasks]
    assert same[0] == same[1]
    passes: list[int] = []
    model.model.encoder.register_forward_hook(lambda *_: passes.append(1))
    together = model.evaluate().tasks
    count = len(passes)
    assert together == {name: model.evaluate(tasks=[name]).tasks[name] for name in model.tasks}
    assert count >= 1 and len(passes) == 3 * count
    capsys.readouterr()
    assert command(["train", "--task", "project.toml", *options(out="no")]) == 2
    assert "expected one task, found a run's configuration; use it with --config" in capsys.readouterr().err
    assert command(["train", "--config", "project.toml", "--task", "emotion", *options(out="one")]) == 0
    assert set(mtk.load("one").tasks) == {"emotion"}


@pytest.mark.parametrize("alike", [True, False])
def test_a_training_says_where_one_task_trains_on_anothers_dev_rows(
    alike: bool, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(here / "a.csv", "text,x,y\n" + "".join(f"text {i},{'ab'[i % 2]},{'cde'[i % 3]}\n" for i in range(120)))
    split = {"stratify": True}
    tasks = [mtk.text_task(name, data="a.csv", label=name, split=None if alike else split) for name in "xy"]
    run = mtk.train(tasks=tasks, out="run", **{**SMALL, "quiet": False})
    model = mtk.load(run)
    texts = {n: {s: {row.text for row in model.tasks[n].examples(s)} for s in ("train", "dev")} for n in "xy"}
    leaked = {(a, b): len(texts[a]["dev"] & texts[b]["train"]) for a, b in ("xy", "yx")}
    assert run.facts["leaks"] == [
        {"task": a, "dev_rows": 12, "leaked": number, "trained_by": b} for (a, b), number in leaked.items() if number
    ]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    if alike:
        assert (run.facts["leaks"], lines) == ([], [])
    else:
        assert len(lines) == 1 and leaked["x", "y"] > 0
        assert f"another task trains on {leaked['x', 'y']} of the 12 x dev rows (y), " in lines[0]
        assert lines[0].endswith("give tasks on the same rows the same split; mtk data check names the rows")


def test_resume_compares_every_file(here: Path) -> None:
    for number in (1, 2, 3):
        tweets(here, 30, f"part-{number}.csv")
    mine = mtk.text_task("mine", data="part-*.csv", text="tweet", label="emotion")
    settings = {key: value for key, value in SMALL.items() if key != "quiet"}
    run = session.start(mtk.configure(tasks=[mine], **settings), here / "run")
    for _ in run.run():
        run.stop()
    assert [file["file"] for file in run.folder.facts["data"]["mine"]["files"].values()] == [  # type: ignore[union-attr]
        f"part-{number}.csv" for _ in ("train", "dev", "test") for number in (1, 2, 3)
    ]
    kept = (here / "part-2.csv").read_text()
    write(here / "part-2.csv", kept.replace("glad", "jolly"))
    with pytest.raises(ConfigError, match=r"the train rows of task 'mine' .* \(part-2.csv changed\)"):
        session.resume(here / "run")
    write(here / "part-2.csv", kept)
    tweets(here, 3, "part-4.csv")
    with pytest.raises(ConfigError, match=r"the train rows of task 'mine' .* \(part-4.csv is new\)"):
        session.resume(here / "run")
    (here / "part-4.csv").unlink()
    assert list(session.resume(here / "run").run())[-1] == Finished("epochs")


def test_tasks_of_ones_own_beside_others(here: Path) -> None:
    """--data names the other tasks' folder; a file that is not there is taken from where its task says."""
    import mtk_text.sources

    shutil.copytree(mtk_text.sources.SAMPLE, here / "sample")
    tweets(here)
    mine = mtk.text_task("mine", data="tweets.csv", text="tweet", label="emotion")
    run = mtk.train(tasks=[mine, "sts"], data="sample", out="run", max_train_rows=16, **SMALL)
    model = mtk.load(run)
    assert len(model.tasks["mine"].examples("dev")) == 6
    with pytest.raises(DataError, match=r"no file of task 'mine'"):
        model.evaluate(data="sample", tasks=["mine"])


KEYS = {
    "unknown key": ('data = "a.csv"\nlable = "x"\n', r"mine.toml: unknown key 'lable'; did you mean 'label'"),
    "unknown kind": ('data = "a.csv"\nkind = "clases"\n', r"mine.toml: unknown task 'clases'; did you mean 'classes'"),
    "name": ('data = "a.csv"\nname = 3\n', r"mine.toml: name: expected a text, found 3"),
    "no TOML": ("data = a.csv\n", r"mine.toml: not a TOML file"),
    "wrong type": (
        'data = "a.csv"\nmax_rows = "many"\n',
        r"mine.toml: max_rows: expected a whole number, found 'many'",
    ),
    "no data": ('text = "tweet"\n', r"mine.toml: expected data = \(a file\) or hub = \(a data set\), found neither"),
    "weights": (
        'data = "a.csv"\nclass_weights = "equal"\n',
        r"mine.toml: class_weights: expected \"balanced\", or a table of numbers, found 'equal'$",
    ),
    "bad_rows": ('data = "a.csv"\nbad_rows = -1\n', r"task 'mine': bad_rows: expected 0 or more, found -1$"),
    "backslashes": (
        'data = "C:\\Users\\a.csv"\n',
        r"not a TOML file: .*; a path with backslashes stands in single quotes",
    ),
}


@pytest.mark.parametrize("case", KEYS)
def test_a_wrong_task_file(case: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = KEYS[case]
    write(here / "mine.toml", content)
    assert command(["train", "--task", "./mine.toml", *options(out="run")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1
    assert not (here / "run").exists()


def test_data_check_names_the_task_file_of_a_wrong_value(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tweets(here)
    table = 'data = "tweets.csv"\ntext = "tweet"\nlabel = "emotion"\n'
    write(here / "mine.toml", table + "class_weights = { joi = 2.0 }\n")
    assert command(["data", "check", "mine.toml"]) == 2
    error = capsys.readouterr().err
    assert error == "error: mine.toml: task 'mine': class_weights: no class 'joi'; did you mean 'joy'?\n"
    shutil.move("mine.toml", "Für Straße 2.toml")
    assert command(["data", "check", "Für Straße 2.toml"]) == 2
    assert "task 'fur-strasse-2': " in capsys.readouterr().err


def test_a_wrong_field_of_a_call() -> None:
    with pytest.raises(ConfigError, match=r"text_task\('mine'\): unknown key 'lable'; did you mean 'label'"):
        mtk.text_task("mine", data="a.csv", lable="x")
