"""The submission files of the CS 224N default project.

The format is that of `evaluation.py` in github.com/gpoesia/minbert-default-final-project at commit 7ac8260: a header
line, then a line `{id} , {prediction} ` for every row, in the file's order. Sentiment is an index, a paraphrase is
`0.0` or `1.0`, similarity a number. The third header is misspelt there, and so here. CFIMDB is no part of that
submission but of the one that `classifier.py` writes: the same form under another file name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtk import DataError, Exported, Prediction
from mtk_text.tasks import CFIMDB, SST, STS, FileTask, Quora


@dataclass(frozen=True, slots=True)
class Form:
    """One task's submission files: their names for a split, their header, and how a prediction is written.

    wanted: a model without the task is told so; the others' files are written where there is one, and else not named.
    """

    name: str
    header: str
    show: Callable[[Any], str]
    wanted: bool = True


FORMS: Mapping[type[FileTask], Form] = {
    SST: Form("sst-{split}-output.csv", "id \t Predicted_Sentiment \n", lambda value: str(int(value))),
    Quora: Form("para-{split}-output.csv", "id \t Predicted_Is_Paraphrase \n", lambda value: str(float(value))),
    STS: Form("sts-{split}-output.csv", "id \t Predicted_Similiary \n", lambda value: repr(float(value))),
    CFIMDB: Form(
        "finetune-cfimdb-{split}-out.csv",
        "id \t Predicted_Sentiment \n",
        lambda value: str(int(value)),
        wanted=False,
    ),
}


class CS224N:
    """Writes {sst,para,sts}-{dev,test}-output.csv; finetune-cfimdb-{dev,test}-out.csv too for a model with that task.

    Built with (); called with (model, folder, data).
    """

    def __call__(self, model: Any, folder: Path, data: Path | None = None) -> list[Exported]:
        """Predicts every split that there is and writes its file; returns what was written and what was skipped.

        data: the folder of the CS 224N files, in place of the one that the model's tasks know.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder}: cannot be made: {error.strerror or error}") from None
        results = []
        for kind, form in FORMS.items():
            name, task = next(((n, t) for n, t in model.tasks.items() if isinstance(t, kind)), ("", None))
            if task is None and not form.wanted:
                continue
            if task is not None and data is not None:
                task = task.moved(data)
            for split in ("dev", "test"):
                results.append(_export(model, name, task, form, split, folder / form.name.format(split=split)))
        return results


def _export(model: Any, name: str, task: FileTask | None, form: Form, split: str, file: Path) -> Exported:
    if task is None:
        away = f"; left out: {', '.join(model.left_out)}" if model.left_out else ""
        return Exported(file, skipped=f"the model has no such task (it has {', '.join(model.tasks) or 'none'}{away})")
    try:
        there = split in task.source.files
    except DataError as error:
        return Exported(file, skipped=str(error))
    if not there:
        return Exported(file, skipped=f"task '{name}' has no {split} file in {task.source.origin}")
    rows = task.examples(split)
    predictions: list[Prediction] = model.predict(name, rows)
    lines = [f"{row.id} , {form.show(p.value)} \n" for row, p in zip(rows, predictions, strict=True)]
    _replace(file, form.header + "".join(lines))
    return Exported(file, len(lines))


def _replace(file: Path, content: str) -> None:
    """Writes beside the file, then moves in place, so that no half a file can be handed in."""
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_text(content, encoding="utf-8", newline="\n")
        part.replace(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
