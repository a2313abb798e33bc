"""`mtk predict`: a trained run's answers for a text, a pair or a file of them, and the course's submission files."""

from __future__ import annotations

import csv
import io
import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mtk import notices
from mtk.cli.evaluate import Device, DeviceOption, Run, ThreadsOption

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mtk.inference import TrainedModel
    from mtk.interfaces import Prediction


class Format(StrEnum):
    """How predictions are written."""

    csv = "csv"
    jsonl = "jsonl"


def predict(
    run: Run,
    more: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts, as with --text.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text; twice for a pair. --text A B works too.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE|-", help="CSV, TSV or JSON lines, with named columns; - is standard input."),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="A task of the run. Repeatable. Default: all that the texts fit.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: standard output.")] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="Default: by --out's suffix; else jsonl for texts, csv for files.")
    ] = None,
    cs224n: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the CS 224N project's submission files into this folder.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --cs224n: the folder of the project's data files.")
    ] = None,
    device: DeviceOption = Device.auto,
    threads: ThreadsOption = None,
) -> None:
    """Predict with a trained run: label, score and probabilities, one line a row and task."""
    texts = [*(text or []), *(more or [])]
    out = None if str(out) == "-" else out
    _check_options(texts, file, cs224n, data, out, {"--task": task, "--out": out, "--format": form})
    from mtk.inference import load

    model = load(run, device=device.value, threads=threads)
    for name in task or ():
        model.at(name)  # or why it is not here
    if cs224n is not None:
        _export(model, cs224n, data)
        return
    rows = _rows_of_texts(model, texts, task) if file is None else _rows_of_file(model, file, task)
    if form is None:
        plain = Format.csv if file is not None else Format.jsonl
        form = plain if out is None else _FORMATS.get(out.suffix.lower(), Format.csv)
    written = _jsonl(rows) if form is Format.jsonl else _csv(rows)
    if out is None:
        typer.echo(written, nl=False)
    else:
        _write(out, written)
        typer.echo(f"{out}: {len(rows):,} predictions", err=True)


_FORMATS = {".jsonl": Format.jsonl, ".ndjson": Format.jsonl, ".json": Format.jsonl}


def _check_options(
    texts: list[str],
    file: Path | None,
    cs224n: Path | None,
    data: Path | None,
    out: Path | None,
    without_cs224n: Mapping[str, Any],
) -> None:
    """Raises ConfigError for options that do not go together, before anything is loaded."""
    from mtk.errors import ConfigError

    given = [n for n, v in (("--text", texts), ("--file", file), ("--cs224n", cs224n)) if v not in (None, [])]
    if len(given) != 1:
        raise ConfigError(f"expected one of --text, --file and --cs224n, found {' and '.join(given) or 'none'}")
    if len(texts) > 2:
        raise ConfigError(f"--text: expected one text, or two for a pair, found {len(texts)}; --file takes many rows")
    if data is not None and cs224n is None:
        raise ConfigError("--data belongs to --cs224n; the rows to predict come with --file or --text")
    needless = [name for name, value in without_cs224n.items() if value not in (None, [])]
    if cs224n is not None and needless:
        raise ConfigError(f"--cs224n writes all the submission files in their own form; leave out {needless[0]}")
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        found = "a folder" if out.is_dir() else f"no folder {out.parent}"
        raise ConfigError(f"--out {out}: expected a file to write, found {found}")


# ---------------------------------------------------------------------------------------------- what is predicted


def _rows_of_texts(model: TrainedModel, texts: list[str], tasks: list[str] | None) -> list[dict[str, Any]]:
    answers = model.predict_all([texts[0] if len(texts) == 1 else texts], tasks)
    return _records([1], answers)


def _rows_of_file(model: TrainedModel, file: Path, tasks: list[str] | None) -> list[dict[str, Any]]:
    """Predictions in the file's order. Raises DataError that names file and line."""
    from mtk.cli.texts import read_texts

    texts = read_texts(file, model.tasks, tasks)
    answers: list[dict[str, Prediction]] = [{} for _ in texts.ids]
    for columns, rows in texts.rows.items():
        names = [name for name, own in texts.columns.items() if own == columns]
        for answer, some in zip(answers, model.predict_all(rows, names), strict=True):
            answer.update(some)
    return _records(texts.ids, [{name: answer[name] for name in texts.columns} for answer in answers])


# ---------------------------------------------------------------------------------------------- what is written


def _records(ids: Sequence[str | int], answers: Sequence[Mapping[str, Prediction]]) -> list[dict[str, Any]]:
    from mtk.inference import to_json

    return [
        {"id": identity, "task": name, **to_json(prediction)}
        for identity, row in zip(ids, answers, strict=True)
        for name, prediction in row.items()
    ]


def _jsonl(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A header, then a line a row and task, with a column p_CLASS for every class of these tasks."""
    classes = dict.fromkeys(name for row in rows for name in row.get("probabilities", {}))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["id", "task", "label", "score", *(f"p_{name}" for name in classes)])
    for row in rows:
        probabilities = row.get("probabilities", {})
        label = row["label"]
        label = label if isinstance(label, str | int | float) else json.dumps(label, ensure_ascii=False)
        writer.writerow([row["id"], row["task"], label, row["score"], *(probabilities.get(n, "") for n in classes)])
    return stream.getvalue()


def _write(out: Path, text: str) -> None:
    from mtk.errors import DataError
    from mtk.run import write_atomically

    try:
        write_atomically(out, text)
    except OSError as error:
        raise DataError(f"--out {out}: cannot be written: {error.strerror or error}") from error


def _export(model: TrainedModel, folder: Path, data: Path | None) -> None:
    """The submission files. Raises DataError where not one could be written."""
    from mtk import plugins
    from mtk.errors import DataError

    results = plugins.build("exporter", "cs224n")(model, folder, data)
    if data is None and model.of_sample:
        typer.echo(notices.SAMPLE)
    for result in results:
        typer.echo(f"{result.file}: " + (f"skipped: {result.skipped}" if result.skipped else f"{result.rows:,} rows"))
    if all(result.skipped for result in results):
        raise DataError(f"--cs224n {folder}: no file could be written; the first: {results[0].skipped}")
