"""`mtk predict`: a trained run's answers for a text, a pair or a file of them, and exporters' files."""

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
    from mtk.tables import BadRow

_SHOWN = 8  # bad rows that are named one by one


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
        typer.Option(
            metavar="FILE|-",
            help="CSV, TSV, JSON lines or Parquet, with named columns, read as the tasks' own files are; - is standard "
            "input.",
        ),
    ] = None,
    bad_rows: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="With --file: bad rows are named and left out; of more than so many the exit status is 1. Default: 0.",
        ),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="A task of the run. Repeatable. Default: all that the texts fit.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: standard output.")] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="Default: by --out's suffix; else jsonl for texts, csv for files.")
    ] = None,
    export: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:OPTIONS]",
            help="Write an exporter's files into the folder --out. mtk plugins list --kind exporter shows them.",
        ),
    ] = None,
    cs224n: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The same as --export cs224n --out DIR: the course's files.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --export: a folder of rows, in place of the run's.")
    ] = None,
    device: DeviceOption = Device.auto,
    threads: ThreadsOption = None,
) -> None:
    """Predict with a trained run: label, score and probabilities, one line a row and task.

    Exit status: 0; 1 where more rows of --file were left out than --bad-rows; 2 where nothing was predicted.
    """
    texts = [*(text or []), *(more or [])]
    out = None if str(out) == "-" else out
    _check_options(
        {"--text": texts, "--file": file, "--export": export, "--cs224n": cs224n},
        {"--task": task, "--format": form},
        data,
        out,
        bad_rows,
    )
    from mtk.inference import load

    model = load(run, device=device.value, threads=threads)
    for name in task or ():
        model.at(name)  # or why it is not here
    if cs224n is not None:
        export, out = "cs224n", cs224n
    if export is not None:
        assert out is not None
        _export(export, model, out, data)
        return
    bad: list[BadRow] = []
    if file is None:
        rows = _rows_of_texts(model, texts, task)
    else:
        rows, bad = _rows_of_file(model, file, task)
    if form is None:
        plain = Format.csv if file is not None else Format.jsonl
        form = plain if out is None else _FORMATS.get(out.suffix.lower(), Format.csv)
    written = _jsonl(rows) if form is Format.jsonl else _csv(rows)
    if out is None:
        typer.echo(written, nl=False)
    else:
        _write(out, written)
        typer.echo(f"{out}: {len(rows):,} predictions", err=True)
    for row in bad[:_SHOWN]:
        typer.echo(f"bad row left out: {row}", err=True)
    if len(bad) > _SHOWN:
        typer.echo(f"and {len(bad) - _SHOWN:,} more bad rows", err=True)
    if len(bad) > (bad_rows or 0):
        raise typer.Exit(1)


_FORMATS = {".jsonl": Format.jsonl, ".ndjson": Format.jsonl, ".json": Format.jsonl}


def _check_options(
    wanted: Mapping[str, Any],
    of_predictions: Mapping[str, Any],
    data: Path | None,
    out: Path | None,
    bad_rows: int | None,
) -> None:
    """Raises ConfigError for options that do not go together, before anything is loaded.

    wanted: what is to be predicted, of which there is to be one. of_predictions: what an exporter settles itself.
    """
    from mtk.errors import ConfigError

    given = [name for name, value in wanted.items() if value not in (None, [])]
    if len(given) != 1:
        raise ConfigError(f"expected one of {', '.join(wanted)}, found {' and '.join(given) or 'none'}")
    if len(texts := wanted["--text"]) > 2:
        raise ConfigError(f"--text: expected one text, or two for a pair, found {len(texts)}; --file takes many rows")
    if bad_rows is not None and given[0] != "--file":
        raise ConfigError(f"--bad-rows belongs to --file, found {given[0]}")
    exports = given[0] in ("--export", "--cs224n")
    if data is not None and not exports:
        raise ConfigError("--data belongs to --export; the rows to predict come with --file or --text")
    if exports:
        if given[0] == "--cs224n":
            of_predictions = {**of_predictions, "--out": out}
        elif out is None:
            raise ConfigError("--export: expected the folder to write into, --out DIR")
        needless = [name for name, value in of_predictions.items() if value not in (None, [])]
        if needless:
            raise ConfigError(f"{given[0]} writes its files in their own form; leave out {needless[0]}")
    elif out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        found = "a folder" if out.is_dir() else f"no folder {out.parent}"
        raise ConfigError(f"--out {out}: expected a file to write, found {found}")


# ---------------------------------------------------------------------------------------------- what is predicted


def _rows_of_texts(model: TrainedModel, texts: list[str], tasks: list[str] | None) -> list[dict[str, Any]]:
    from mtk.errors import DataError

    chosen = tasks or list(model.tasks)
    if len(texts) == 2 and not any(model.at(name).paired for name in chosen):
        names = " and ".join(f"'{name}'" for name in chosen)
        read = "reads one text" if len(chosen) == 1 else "read one text each"
        raise DataError(f"--text: two texts are a pair, but {names} {read}; many texts come in a --file, a row each")
    answers = model.predict_all([texts[0] if len(texts) == 1 else texts], tasks)
    return _records([1], answers)


def _rows_of_file(
    model: TrainedModel, file: Path, tasks: list[str] | None
) -> tuple[list[dict[str, Any]], list[BadRow]]:
    """Predictions in the file's order, and the bad rows. Raises DataError that names file and line."""
    from mtk.cli.texts import read_texts

    texts = read_texts(file, model.tasks, tasks)
    answers: list[dict[str, Prediction]] = [{} for _ in texts.ids]
    for columns, rows in texts.rows.items():
        names = [name for name, own in texts.columns.items() if own == columns]
        for place, some in zip(rows, model.predict_all(rows.values(), names), strict=True):
            answers[place].update(some)
    ordered = [{name: answer[name] for name in texts.columns if name in answer} for answer in answers]
    return _records(texts.ids, ordered), texts.bad


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


def _export(exporter: str, model: TrainedModel, folder: Path, data: Path | None) -> None:
    from mtk.exports import export

    files = export(exporter, model, folder, data)
    if data is None and model.of_sample:
        typer.echo(notices.SAMPLE)
    for one in files:
        typer.echo(f"{one.file}: " + (f"skipped: {one.skipped}" if one.skipped else f"{one.rows:,} rows"))
