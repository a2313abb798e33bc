"""`mtk evaluate`, `mtk predict` and `mtk runs`, in process, on a tiny run."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from mtk import Classes, MTKError, session
from mtk.cli.evaluate import evaluate
from mtk.cli.predict import predict
from mtk.cli.runs import runs
from mtk.config import make_config
from mtk.testing.rows import ToyRows

CONFIG: dict[str, Any] = {
    "tasks": {"sst": {}, "sts": {}},
    "encoder": {"name": "tiny"},
    "data": {"max_train_rows": 64, "sample": "always"},
    "train": {"epochs": 1, "precision": "fp32", "device": "cpu", "threads": 1},
}
STS_HEADER = "\tid\tsentence1\tsentence2\tsimilarity\n"

app = typer.Typer()
for command in (evaluate, predict, runs):
    app.command()(command)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    for _ in session.start(make_config(CONFIG), out).run():
        pass
    return out


def call(*arguments: str | Path, input: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)


def ok(*arguments: str | Path, input: str | bytes | None = None) -> str:
    result = call(*arguments, input=input)
    assert result.exception is None, result.output
    return result.stdout


def fault(*arguments: str | Path, input: str | bytes | None = None) -> str:
    """The message of the error that the command line shows."""
    result = call(*arguments, input=input)
    assert isinstance(result.exception, MTKError), result.output
    return str(result.exception)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_modules_are_light() -> None:
    code = (
        "import sys, mtk.cli.evaluate, mtk.cli.predict, mtk.cli.runs; "
        "print([m for m in ('torch', 'pydantic', 'mtk.inference', 'rich.table') if m in sys.modules][:2])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "torch" not in found and "pydantic" not in found and "mtk" not in found


# ---------------------------------------------------------------------------------------------- evaluate


def test_evaluate_shows_every_metric_and_the_sample(run: Path) -> None:
    shown = ok("evaluate", run)
    scores = json.loads((run / "run.json").read_text())["scores"]
    assert shown.startswith("THE BUILT-IN SAMPLE: scores on the built-in sample compare with nothing.\n")
    lines = [line.split() for line in shown.splitlines()]
    for task, metrics in scores["tasks"].items():
        for metric, value in metrics.items():
            marked = ["*"] if metric == scores["primary"][task] else []
            assert any(line[3:] == [metric, *marked, f"{value:.4f}"] for line in lines if line[:2] == [task, "dev"])
    assert f"aggregate: {scores['aggregate']:.4f}" in shown
    assert "sst: 120 rows from the built-in sample, ids-sst-dev.csv" in shown


def test_evaluate_as_json(run: Path) -> None:
    found = json.loads(ok("evaluate", run, "--task", "sts", "--split", "train", "--json"))
    assert list(found["tasks"]) == ["sts"] and found["split"] == "train"
    sts = found["tasks"]["sts"]
    assert (sts["sample"], sts["primary"], sts["file"]) == (True, "pearson", "sts-train.csv")
    assert found["aggregate"] == sts["metrics"]["pearson"] and sts["rows"] == sts["labelled"] > 64


def test_evaluate_on_other_data(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "sts-dev.csv"
    file.write_text(STS_HEADER + "0\ta\tone\tone\t5\n1\tb\ta\tsea\t0\n2\tc\tno label\there\t\n3\td\tx\ty\t2\n")
    assert "expected a label" in fault("evaluate", run, "--task", "sts", "--data", tmp_path), "dev rows need labels"
    shown = ok("evaluate", run, "--task", "sts", "--data", file)
    assert f"sts: 3 rows from {file}\nsts: left out, because they have no label: 1\n" in shown
    assert "SAMPLE" not in shown
    assert "one file serves one task, but 2 are to be evaluated (sst, sts)" in fault("evaluate", run, "--data", file)
    assert "no such file or folder" in fault("evaluate", run, "--data", tmp_path / "none")
    (tmp_path / "sts-test-student.csv").write_text("\tid\tsentence1\tsentence2\n0\ta\tone\ttwo\n")
    message = fault("evaluate", run, "--task", "sts", "--data", tmp_path, "--split", "test")
    assert "'sts': none of the 1 rows of the test split" in message and "mtk predict" in message
    assert "did you mean 'sts'" in fault("evaluate", run, "--task", "stss")
    assert "no such run folder" in fault("evaluate", tmp_path / "none")


def test_a_folder_of_runs_is_no_run(run: Path) -> None:
    assert f"{run.parent}: not a run folder, but one of runs: choose {run}" in fault("predict", run.parent, "x")


def test_a_task_without_rows_of_the_split_is_left_out(run: Path, tmp_path: Path) -> None:
    (tmp_path / "sts-dev.csv").write_text(STS_HEADER + "0\ta\tone\tone\t5\n1\tb\ta\tsea\t0\n2\tc\tx\ty\t2\n")
    (tmp_path / "sts-test-student.csv").write_text(STS_HEADER.replace("\tsimilarity", "") + "0\ta\tone\ttwo\n")
    (tmp_path / "ids-sst-test-student.csv").write_text("\tid\tsentence\tsentiment\n0\ta\tfine\t3\n1\tb\tbad\t0\n")
    shown = ok("evaluate", run, "--split", "test", "--data", tmp_path)
    assert "sst: 2 rows from" in shown and "sts: left out: task 'sts': none of the 1 rows of the test" in shown
    shown = ok("evaluate", run, "--data", tmp_path)
    assert "sts: 3 rows from" in shown and "sst: left out: task 'sst' has no dev rows: expected ids-sst-dev" in shown
    found = json.loads(ok("evaluate", run, "--data", tmp_path, "--json"))
    assert list(found["tasks"]) == ["sts"] and list(found["left_out"]) == ["sst"]
    message = fault("evaluate", run, "--data", tmp_path, "--split", "train")
    assert "'sst' has no train rows" in message and "'sts' has no train rows" in message
    (tmp_path / "sts-dev.csv").write_text(STS_HEADER + "0\ta\tone\tone\t9\n")
    assert "expected" in fault("evaluate", run, "--data", tmp_path), "bad rows are no missing ones"


# ---------------------------------------------------------------------------------------------- predict


def test_predict_a_text_and_a_pair(run: Path) -> None:
    sst = json.loads(ok("predict", run, "--text", "A fine film."))
    assert (sst["id"], sst["task"], list(sst)) == (1, "sst", ["id", "task", "label", "score", "probabilities"])
    pairs = [["--text", "A", "B"], ["--text", "A", "--text", "B"], ["A", "B"], ["--task", "sts", "--text", "A", "B"]]
    answers = {ok("predict", run, *texts) for texts in pairs}
    assert len(answers) == 1 and json.loads(answers.pop())["task"] == "sts"
    assert ok("predict", run, "x", "--format", "csv").startswith("id,task,label,score,p_very negative,p_negative,")


FILES = {
    "csv": 'id,sentence1,sentence2,similarity\na,"x, y",z,1\n,q,r,2\n',
    "course": "\tid\tsentence1\tsentence2\tsimilarity\n0\ta\tx, y\tz\t1\n1\t\tq\tr\t2\n",
    "jsonl": '{"id": "a", "sentence1": "x, y", "sentence2": "z"}\n\n{"sentence1": "q", "sentence2": "r"}\n',
    "text and pair": "id\ttext\tpair\na\tx, y\tz\n\tq\tr\n",
    "text_a and text_b": "\ufeffid;text_a;text_b\na;x, y;z\n;q;r\n",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_predict_a_file_of_any_form(run: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "rows"
    file.write_text(content, encoding="utf-8")
    rows = rows_of(ok("predict", run, "--file", file))
    assert [(row["id"], row["task"]) for row in rows] == [("a", "sts"), ("2", "sts")]
    assert list(rows[0]) == ["id", "task", "label", "score"], "other columns are not repeated"
    expected = [json.loads(ok("predict", run, "--text", *texts))["score"] for texts in (("x, y", "z"), ("q", "r"))]
    assert [float(row["score"]) for row in rows] == pytest.approx(expected, abs=1e-5)
    assert rows_of(ok("predict", run, "--task", "sts", "--file", "-", input=content.encode())) == rows


def test_predict_every_task_that_finds_its_columns(run: Path) -> None:
    both = "sentence,sentence1,sentence2\na,b,c\n"
    assert [row["task"] for row in rows_of(ok("predict", run, "--file", "-", input=both))] == ["sst", "sts"]
    assert [r["task"] for r in rows_of(ok("predict", run, "--file", "-", input="text,pair\na,b\n"))] == ["sts"]
    chosen = rows_of(ok("predict", run, "--task", "sst", "--file", "-", input="text,pair\na,b\n"))
    assert [row["task"] for row in chosen] == ["sst"]
    rows = rows_of(ok("predict", run, "--task", "sts", "--task", "sst", "--file", "-", input=both))
    assert {row["task"] for row in rows} == {"sst", "sts"} and rows[0]["p_neutral"] == ""


def test_predict_into_a_file(run: Path, tmp_path: Path) -> None:
    table = "text\nA fine film.\nDull, dull, dull\n"
    out = tmp_path / "out.jsonl"
    assert ok("predict", run, "--file", "-", "--out", out, input=table) == ""
    ids = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    assert ids == [1, 2], "a column of texts keeps its commas"
    ok("predict", run, "--text", "x", "--out", tmp_path / "out.csv")
    assert [row["task"] for row in rows_of((tmp_path / "out.csv").read_text())] == ["sst"]
    ok("predict", run, "--text", "x", "--out", tmp_path / "out.csv", "--format", "jsonl")
    assert json.loads((tmp_path / "out.csv").read_text())["task"] == "sst"
    before = out.read_text()
    fault("predict", run, "--file", "-", "--out", out, input="text\n \n")
    assert out.read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.jsonl"], "nothing half-written stays"


BAD_FILES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "standard input: expected a header and rows, found an empty file (0 bytes)"),
    "header only": ("text\n", "standard input: expected rows below the header, found none"),
    "not Western": ("text\nпривет\n".encode("cp1251"), "standard input:2: expected UTF-8, found byte 0xef"),
    "binary": (b"text\nfine\n\0\n", "standard input:3: expected text, found a NUL byte"),
    "only bad rows": (
        "id,text\n1,\n2, \n3,a,b\n",
        "standard input:2: column 'text' is empty, expected a text (and 2 more bad rows); no row can be predicted",
    ),
    "a JSON list": ('["a"]\n', "standard input:1: expected one JSON object a line"),
    "no column": ("id,tekst\n1,a\n", "standard input:1: no task of this run finds its columns here: 'sst' reads"),
    "a column twice": ("text,text\na,b\n", "standard input:1: expected one column 'text', found 2"),
    "open quote": ('id,text\n1,"a\n2,b\n', "standard input:2: the row cannot be read"),
}


@pytest.mark.parametrize("content, message", BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_one_clear_line(run: Path, content: str | bytes, message: str) -> None:
    found = fault("predict", run, "--file", "-", input=content)
    assert message in found and "\n" not in found


BAD_ROWS: dict[str, tuple[str, str]] = {
    "ragged": ("id,text\n1\n2,a\n", "standard input:2: expected 2 fields, found 1"),
    "too many fields": ("id,text\n1,a,b\n2,a\n", "standard input:2: expected 2 fields, found 3"),
    "empty text": ("id,text\n1, \n2,a\n", "standard input:2: column 'text' is empty, expected a text"),
    "a number": ('{"text": 3}\n{"text": "a"}\n', "standard input:1: column 'text': expected a text, found a int"),
    "a key is missing": ('{"txt": "b"}\n{"text": "a"}\n', "standard input:1: column 'text' is empty"),
    "broken JSON": ('{"text": \n{"text": "a"}\n', "standard input:1: found no JSON"),
}


@pytest.mark.parametrize("content, message", BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_named_and_left_out(run: Path, content: str, message: str) -> None:
    result = call("predict", run, "--file", "-", input=content)
    assert [row["id"] for row in rows_of(result.stdout)] == ["2"] and result.exit_code == 1
    assert result.stderr.startswith(f"bad row left out: {message}") and result.stderr.count("\n") == 1
    assert call("predict", run, "--file", "-", "--bad-rows", "1", input=content).exit_code == 0
    assert call("predict", run, "--file", "-", "--bad-rows", "0", input=content).exit_code == 1


def test_a_row_is_bad_only_for_the_tasks_that_cannot_read_it(run: Path) -> None:
    result = call("predict", run, "--file", "-", input="sentence,sentence1,sentence2\na,b,\na,b,c\n,,\n")
    assert [(row["id"], row["task"]) for row in rows_of(result.stdout)] == [("1", "sst"), ("2", "sst"), ("2", "sts")]
    assert "input:2: column 'sentence2' is empty" in result.stderr
    assert "input:4: column 'sentence' is empty, expected a text; column 'sentence1' is" in result.stderr
    many = call("predict", run, "--file", "-", input="id,text\n1,a\n" + "2,\n" * 10)
    assert many.stderr.count("bad row left out") == 8 and many.stderr.endswith("and 2 more bad rows\n")


def test_a_file_is_read_as_the_task_s_own_is(tmp_path: Path) -> None:
    """Its id column, and its encoding and delimiter where the file has them."""
    from mtk.cli.texts import read_texts

    file = tmp_path / "rows.csv"
    task = ToyRows(Classes(["no", "yes"]), [], paired=False)
    task.columns, task.id_column = ("text",), "Ticket-Nr"

    def read(content: bytes) -> tuple[list[str | int], list[list[str]]]:
        file.write_bytes(content)
        texts = read_texts(file, {"toy": task})
        return texts.ids, list(texts.rows["text",].values())

    table = "Ticket-Nr;text\nT-7;Grün, 5 €\n"
    assert read(table.encode("cp1252")) == (["T-7"], [["Grün, 5 €"]]), "found out"
    assert read(b"id,text\nx,fine\n") == (["x"], [["fine"]])
    assert read(b'{"text": ["a", "b"]}\n') == ([1], [["a b"]]), "a list of words"
    task.encoding, task.delimiter = "cp1251", "^"
    assert read("Ticket-Nr^text\nT-8^привет, мир\n".encode("cp1251")) == (["T-8"], [["привет, мир"]])
    assert read(table.encode("utf-8")) == (["T-7"], [["Grün, 5 €"]]), "another file need not be as the task's"


def test_files_that_cannot_be_read(run: Path, tmp_path: Path) -> None:
    assert "nothing.csv: no such file" in fault("predict", run, "--file", tmp_path / "nothing.csv")
    assert fault("predict", run, "--file", tmp_path).startswith(f"{tmp_path}: ")
    (tmp_path / "rows.jsonl").write_text("text\na\n")
    assert "rows.jsonl:1: expected one JSON object a line" in fault("predict", run, "--file", tmp_path / "rows.jsonl")
    (tmp_path / "rows.csv").write_text("id,sentence1,sentenc2\n")
    message = fault("predict", run, "--task", "sts", "--file", tmp_path / "rows.csv")
    assert "rows.csv:1: task 'sts' needs the column 'sentence2' (or text and pair or text_a and text_b)" in message
    assert "did you mean 'sentenc2'" in message


OPTIONS: dict[str, tuple[list[str], str]] = {
    "nothing to predict": ([], "expected one of --text, --file, --export, --cs224n, found none"),
    "text and file": (["--text", "a", "--file", "b"], "found --text and --file"),
    "three texts": (["--text", "a", "b", "c"], "expected one text, or two for a pair, found 3"),
    "two texts for a task of one": (
        ["--task", "sst", "--text", "a", "--text", "b"],
        "--text: two texts are a pair, but 'sst' reads one text; many texts come in a --file, a row each",
    ),
    "empty text": (["--text", " "], "sentence: expected a text, found an empty one"),
    "wrong number of texts": (
        ["--task", "sts", "--text", "a"],
        "'sts' reads two texts (sentence1, sentence2), found one",
    ),
    "unknown task": (["--task", "ssst", "--text", "a"], "no task 'ssst'; did you mean 'sst'"),
    "unknown task of a file": (["--task", "ssst", "--file", "-"], "no task 'ssst'; did you mean 'sst'"),
    "bad rows of a text": (["--text", "a", "--bad-rows", "1"], "--bad-rows belongs to --file, found --text"),
    "data without the course": (["--text", "a", "--data", "x"], "--data belongs to --export"),
    "out with the course": (["--cs224n", "x", "--out", "y"], "leave out --out"),
    "no folder to export to": (["--export", "cs224n"], "expected the folder to write into, --out DIR"),
    "a form of an export": (["--export", "cs224n", "--out", "y", "--format", "csv"], "leave out --format"),
    "an unknown exporter": (["--export", "cs225n", "--out", "y"], "unknown exporter 'cs225n'; did you mean 'cs224n'"),
    "out in no folder": (["--text", "a", "--out", "/no/such/folder/x.csv"], "found no folder /no/such/folder"),
    "out a folder": (["--text", "a", "--out", "/"], "expected a file to write, found a folder"),
}


@pytest.mark.parametrize("arguments, message", OPTIONS.values(), ids=OPTIONS)
def test_options_that_do_not_go_together(run: Path, arguments: list[str], message: str) -> None:
    assert message in fault("predict", run, *arguments)


def test_the_course_files(run: Path, tmp_path: Path) -> None:
    shown = ok("predict", run, "--cs224n", tmp_path / "out").splitlines()
    assert "compare with nothing" in shown[0]
    assert f"{tmp_path / 'out' / 'sst-dev-output.csv'}: 120 rows" in shown
    again = ok("predict", run, "--export", "cs224n", "--out", tmp_path / "again").splitlines()
    assert [line.replace("again", "out", 1) for line in again] == shown
    assert any("para-dev-output.csv: skipped: the model has no such task (it has sst, sts)" in line for line in shown)
    (tmp_path / "sts-test-student.csv").write_text("\tid\tsentence1\tsentence2\n0\tab12\tone\ttwo\n")
    shown = ok("predict", run, "--cs224n", tmp_path / "other", "--data", tmp_path).splitlines()
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["sts-test-output.csv"]
    assert (tmp_path / "other" / "sts-test-output.csv").read_text().splitlines()[1].startswith("ab12 , ")
    assert "SAMPLE" not in shown[0] and len(shown) == 6
    assert "no file could be written" in fault("predict", run, "--cs224n", tmp_path / "x", "--data", tmp_path / "none")


# ---------------------------------------------------------------------------------------------- runs


def edit(run: Path, **changes: Any) -> Path:
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**facts, **changes}))
    return run


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """Runs of every kind, below one folder."""
    for name in ("old", "seeds/seed-1", "seeds/seed-2", "cut", "lost", "shape", "future", "running"):
        shutil.copytree(run, tmp_path / name)
    edit(tmp_path / "old", started="2024-01-01T00:00:00+0000", seconds=3723.4)
    edit(tmp_path / "seeds/seed-2", started="2031-01-01T00:00:00+0000")
    (tmp_path / "cut" / "run.json").write_text('{"format": 1,')
    (tmp_path / "shape" / "run.json").write_text("[]")
    (tmp_path / "lost" / "config.toml").unlink()
    edit(tmp_path / "future", format=9, mtk="3.0")
    facts = json.loads((run / "run.json").read_text())
    facts = {key: facts[key] for key in facts if key not in ("best_epoch", "scores", "seconds", "ended")}
    (tmp_path / "running" / "run.json").write_text(json.dumps({**facts, "status": "running"}))
    (tmp_path / "running" / "metrics.jsonl").write_text('{"event": "step"}\n{"event": "epoch", "ep')
    shutil.rmtree(tmp_path / "running" / "best")
    return tmp_path


def test_runs_as_json(folder: Path) -> None:
    found = {Path(run["run"]).relative_to(folder).as_posix(): run for run in json.loads(ok("runs", folder, "--json"))}
    assert len(found) == 8 and next(iter(found)) == "seeds/seed-2" and list(found)[-1] == "old"
    old = found["old"]
    expected = {
        "status": "finished", "problem": None, "tasks": ["sst", "sts"], "combiner": "sum", "seed": 11711, "epochs": 1,
        "epochs_done": 1, "best_epoch": 1, "sample": ["sst", "sts"], "seconds": 3723.4,
    }  # fmt: skip
    assert {key: old[key] for key in expected} == expected
    assert list(old["scores"]) == ["sst", "sts"] and old["aggregate"] == sum(old["scores"].values()) / 2
    assert (found["running"]["status"], found["running"]["epochs_done"]) == ("running", 0)
    assert found["running"]["aggregate"] is None and found["running"]["problem"] is None
    assert "run.json is not JSON" in found["cut"]["problem"]
    assert found["shape"]["problem"] == "run.json holds a list where an object was expected"
    assert found["lost"]["problem"] == "config.toml: cannot be read (No such file or directory)"
    assert found["future"]["status"] == "other version" and "format 9 (mtk 3.0)" in found["future"]["problem"]


def test_runs_as_a_table_that_nothing_crops(folder: Path) -> None:
    shown = ok("runs", folder)
    line = next(line for line in shown.splitlines() if line.startswith(str(folder / "old")))
    assert "finished" in line and "1/1, best 1" in line and "SAMPLE" in line and line.endswith("1:02:03")
    assert f"\n{folder / 'future'}: format 9 (mtk 3.0), but this mtk reads format 1\n" in shown
    assert shown.endswith("compare with nothing.\n") and "…" not in shown


def test_where_runs_are_looked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = json.loads(ok("runs", folder / "old", folder / "seeds", folder / "seeds" / "seed-1", "--json"))
    assert len(listed) == 3, "a run that two folders hold is listed once"
    monkeypatch.chdir(folder / "old" / "best")
    assert ok("runs") == "no runs in runs; mtk train makes one\n"
    assert json.loads(ok("runs", "--json")) == []
    assert "no such folder" in fault("runs", "nothing")
    assert "found a file" in fault("runs", "model.json")


def test_bad_rows_that_a_task_skips_are_told(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = (copy / "config.toml").read_text()
    (copy / "config.toml").write_text(config.replace("bad_rows = 0", "bad_rows = 1"))
    (tmp_path / "sts-dev.csv").write_text(STS_HEADER + "0\ta\tone\tone\t5\n1\tb\ta\tsea\t9\n2\tc\tx\ty\t2\n")
    shown = ok("evaluate", copy, "--task", "sts", "--data", tmp_path)
    assert f"sts: bad row left out: {tmp_path / 'sts-dev.csv'}:3: row 'b': column 'similarity'" in shown
    assert "sts: 2 rows from" in shown
