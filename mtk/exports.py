"""Prediction files in somebody's format: what an exporter answers, and one called and its answer checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mtk import plugins
from mtk.errors import DataError
from mtk.options import parse_spec

if TYPE_CHECKING:
    from mtk.inference import TrainedModel


@dataclass(frozen=True, slots=True)
class Exported:
    """One file of an exporter: the `rows` written to it, or the reason why it was left out."""

    file: Path
    rows: int = 0
    skipped: str = ""


def export(spec: str, model: TrainedModel, folder: Path, data: Path | None = None) -> Sequence[Exported]:
    """Calls the exporter `NAME` or `NAME:OPTIONS`: its files, of which at least one was written.

    data: a folder to take the rows from in place of the run's. Raises DataError where no file could be written,
    PluginError for an answer of another form, and other MTKErrors as the exporter raised them.
    """
    name, options = parse_spec(spec)
    exporter = plugins.build("exporter", name, **options)
    files = exporter(model, folder, data)
    if not isinstance(files, Sequence) or not all(isinstance(file, Exported) for file in files):
        raise plugins.wrong(exporter, "its answer", "a list of mtk.Exported, one a file", repr(files))
    if lost := [file.file for file in files if not file.skipped and not Path(file.file).is_file()]:
        raise plugins.wrong(exporter, "its answer", "files that it wrote", f"no file {lost[0]}")
    if all(file.skipped for file in files):
        first = f"; the first: {files[0].skipped}" if files else ""
        raise DataError(f"exporter '{name}': {folder}: no file could be written{first}")
    return files
