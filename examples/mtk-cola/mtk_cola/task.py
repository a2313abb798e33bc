"""Linguistic acceptability: the rows of a folder, or the sample that this package brings along."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtk import Classes, DataError, Example, Prediction, Source, Task, read_table

SAMPLE = Path(__file__).parent / "data"


class CoLA(Task):
    """Whether a sentence is acceptable English (CoLA's task; Warstadt, Singh and Bowman, TACL 2019).

    Rows come from cola-{train,dev,test}.tsv with the columns `sentence` and `acceptable`, which is 1 or 0.
    """

    columns = ("sentence",)
    target = Classes(["unacceptable", "acceptable"])
    primary = "matthews"

    @property
    def source(self) -> Source:
        """The user's folder; our sample where it is allowed. Raises DataError."""
        given, sample = self.context.data, self.context.sample
        folder = SAMPLE if sample == "always" or (sample == "fallback" and given is None) else given
        if folder is None:
            raise DataError(f"task '{self.name}' has no data: give --data DIR, or --sample to try it out")
        files = {split: folder / f"cola-{split}.tsv" for split in ("train", "dev", "test")}
        found = {split: file for split, file in files.items() if file.is_file()}
        if not found:
            raise DataError(f"{folder}: expected cola-train.tsv and cola-dev.tsv, found neither")
        return Source("the sample of mtk-cola" if folder == SAMPLE else str(folder), found, sample=folder == SAMPLE)

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
