"""Linguistic acceptability: the rows of a folder, or those that this package brings along."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtk import Classes, DataError, Example, Prediction, Source, Task, TaskContext, read_table

OURS = Path(__file__).parent / "data"
SAMPLE = False  # our rows are a data set; True for rows made up to try things out, whose scores mean nothing


class CoLA(Task):
    """Whether a sentence is acceptable English (CoLA's task; Warstadt, Singh and Bowman, TACL 2019).

    Rows come from cola-{train,dev,test}.tsv with the columns `sentence` and `acceptable`, which is 1 or 0.

    data: a folder for this task alone, in place of the data folder.
    """

    columns = ("sentence",)
    target = Classes(["unacceptable", "acceptable"])
    primary = "matthews"

    def __init__(self, context: TaskContext, *, data: str | None = None) -> None:
        super().__init__(context)
        self.data = None if data is None else Path(data)

    @property
    def source(self) -> Source:
        """The folder of the option; else the user's, where it has our files; else our rows. Raises DataError."""
        given, sample = self.data or self.context.data, self.context.sample
        if given is not None and sample != "always" and (files := files_in(given)):
            return Source(str(given), files)
        if sample == "always" or (self.data is None and (sample == "fallback" or not SAMPLE)):
            return Source("the rows of mtk-cola", files_in(OURS), sample=SAMPLE)
        raise DataError(
            f"task '{self.name}': expected cola-train.tsv and cola-dev.tsv in {given or 'a folder'}, found neither; "
            f"give --data DIR, or {self.name}:data=DIR for this task alone"
        )

    def examples(self, split: str) -> Sequence[Example]:
        """The rows of a split. Raises DataError."""
        source = self.source
        if split not in source.files:
            raise DataError(f"task '{self.name}' has no cola-{split}.tsv in {source.origin}")
        return self.read(source.files[split])

    def read(self, file: Path) -> Sequence[Example]:
        """The rows of a TSV, CSV or JSON lines file; labels may be missing. Raises DataError with file and line."""
        rows = []
        for row in read_table(file).rows:
            sentence, label = row.fields.get("sentence"), row.fields.get("acceptable")
            if row.problem or not sentence:
                problem = row.problem or "expected a text in the column 'sentence', found none"
                raise DataError(f"{file}:{row.line}: {problem}")
            try:
                parsed = None if label in (None, "") else self.target.parse(label)
            except ValueError as error:
                raise DataError(f"{file}:{row.line}: {error}") from error
            rows.append(Example(str(row.line), sentence, None, parsed))
        return rows

    def metrics(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> dict[str, float]:
        """The target's own, and Matthews correlation: 0 for one answer to all, whatever its share, 1 for all right."""
        from sklearn.metrics import matthews_corrcoef

        answers = [prediction.value for prediction in predictions]
        varied = len({*labels, *answers}) > 1  # scikit-learn warns of a single label
        matthews = float(matthews_corrcoef(labels, answers)) if varied else 0.0
        return {"matthews": matthews, **super().metrics(predictions, labels)}


def files_in(folder: Path) -> dict[str, Path]:
    """The files of the splits that the folder has."""
    files = {split: folder / f"cola-{split}.tsv" for split in ("train", "dev", "test")}
    return {split: file for split, file in files.items() if file.is_file()}
