"""`mtk data check`, in process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from mtk.cli.data import app
from mtk.errors import DataError, MTKError


@pytest.fixture(autouse=True)
def no_data_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MTK_DATA", raising=False)
    monkeypatch.setenv("MTK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    header = "\tid\tsentence1\tsentence2\tsimilarity\n"
    (tmp_path / "sts-train.csv").write_text(header + "0\ta\tone\ttwo\t1.0\n1\tb\tone\tthree\t9\n")
    (tmp_path / "sts-dev.csv").write_text(header + "0\tc\tTwo.\tOne!\t1.5\n")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["check", "--encoder", "none", *arguments])


def test_tables_are_readable_when_piped(folder: Path) -> None:
    result = run("--data", str(folder), "--task", "sts:bad_rows=1")
    assert result.exit_code == 0, result.output
    assert f"bad row skipped: {folder / 'sts-train.csv'}:3: row 'b'" in result.output
    assert "leak: 1 of the 1 sts dev rows also stand in sts train: c\n" in result.output
    assert "sts dev c: [1.5] Two. | One!" in result.output
    assert "…" not in result.output
    assert "\nlengths: words\n" in result.output
    assert not [line for line in result.output.splitlines() if line != line.rstrip()]


def test_leaks_come_before_duplicates_whose_lists_are_cut(folder: Path) -> None:
    header = "\tid\tsentence1\tsentence2\tsimilarity\n"
    rows = [f"0\tr{i:02}\ttext {i % 7}\tother\t1.0\n" for i in range(35)]
    (folder / "sts-train.csv").write_text(header + "".join(rows))
    (folder / "sts-dev.csv").write_text(header + rows[0].replace("r00", "c"))
    lines = run("--data", str(folder), "--task", "sts").output.splitlines()
    leak = lines.index("leak: 1 of the 1 sts dev rows also stand in sts train: c")
    same = next(i for i, line in enumerate(lines) if line.startswith("sts train: same text (7)"))
    assert leak < same
    assert lines[same].startswith("sts train: same text (7): r00 = r07 = r14 = ..., r01 = ")
    assert lines[same].endswith("r04 = r11 = r18 = ... and 2 more (--json names all)")
    split = json.loads(run("--data", str(folder), "--task", "sts", "--json").stdout)["splits"][0]
    assert [len(group) for group in split["duplicates"]] == [5] * 7


def test_a_fault_is_shown_and_ends_in_an_error(folder: Path) -> None:
    result = run("--data", str(folder), "--task", "sts")
    assert isinstance(result.exception, DataError)
    assert "sts-train.csv:3: row 'b'" in str(result.exception)
    assert "sts dev c:" in result.output, "what can be read is shown"


def test_every_task_of_a_folder_and_why_others_are_skipped(folder: Path) -> None:
    (folder / "sts-train.csv").unlink()
    (folder / "ids-sst-train.csv").write_text("\tid\tsentence\tsentiment\n0\ta\tx\t1\n")
    result = run("--data", str(folder), "--json")
    report = json.loads(result.stdout)
    assert {split["task"] for split in report["splits"]} == {"sst", "sts"}
    assert "expected a file of task 'quora'" in report["skipped"]["quora"]
    assert str(result.exception).startswith("2 faults, the first: task 'sst' has no dev rows")


def test_json_of_the_sample() -> None:
    result = run("--sample", "--json", "--rows", "1", "--task", "sst", "--task", "para")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [(s["task"], s["split"]) for s in report["splits"]] == [
        ("sst", "train"), ("sst", "dev"), ("quora", "train"), ("quora", "dev"),
    ]  # fmt: skip
    assert (report["unit"], report["leaks"], report["errors"]) == ("words", [], [])
    assert "sample" in report["origins"]["sst"]
    assert len(report["splits"][0]["first"]) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "'sst' has no data: .*--sample|has no data"),
        (["--task", "stt"], "unknown task 'stt'; did you mean"),
        (["--sample", "--task", "quora", "--task", "para"], "task 'quora' is named twice"),
        (["--sample", "--task", "sst:bad=1"], "no option 'bad'"),
        (["--sample", "--encoder", "minilmm"], "unknown encoder 'minilmm'"),
    ],
)
def test_errors(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, MTKError), result.output
    with pytest.raises(MTKError, match=message):
        raise result.exception
