"""SICK's sentence pairs as further training rows of a similarity task."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mtk import Augmentation, ConfigError, DataError, Example, Range, Task, check_bad_rows
from mtk_text.reading import Layout, read_examples
from mtk_text.tasks import STS

FILES = {"train": "SICK_train.txt", "trial": "SICK_trial.txt"}
SCORES = Range(1.0, 5.0)
LAYOUT = Layout(("sentence_A", "sentence_B"), "relatedness_score", SCORES.parse, id="pair_ID")
HELD_OUT = ("dev", "test")
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Joined:
    """A task's rows with SICK's behind them; how many pairs were read, and how many of them were left out."""

    rows: tuple[Example, ...]
    read: int
    held_out: int


class SICK(Augmentation):
    """Joins SICK's pairs (SemEval-2014 task 1: train and trial) to the training rows of the STS task.

    Relatedness from 1 to 5 becomes the task's range, linearly: 0 to 5 for STS. A pair that stands in the task's dev or
    test split is left out: the same two texts, in either order, when case, whitespace and punctuation are ignored, as
    in `mtk data check`. (STS ends its sentences with a full stop and SICK does not: with the punctuation not one pair
    would be found.) Test rows count where the task's data have them. A pair that shares one sentence with such a row
    stays, and so does one that the training rows have already, or that SICK has twice: each was scored by itself.
    Draws nothing at random.

    folder: where SICK_train.txt and SICK_trial.txt are; default: where the task's own files are. A run records it as
    given, so a relative one is looked for below the folder that the run is resumed from. task: the name of the paired
    task of numbers that gets the rows; default: every task of the kind `sts`. Other tasks keep their rows.

    Source: Marelli et al., LREC 2014; as an augmentation: "BERT and Learnie" (CS224N 2023). Raises ConfigError for a
    named task that is not paired or no Range, and where no folder is known; DataError, with file and line, for a
    missing or damaged file, and where no pair is left.
    """

    def __init__(self, *, folder: str | None = None, task: str | None = None) -> None:
        self.folder = folder
        self.task = task

    def __call__(self, task: Task, rows: Sequence[Example], generator: torch.Generator) -> Sequence[Example]:
        wanted = isinstance(task, STS) if self.task is None else task.name == self.task
        return join(task, rows, self.folder).rows if wanted and rows else rows


def join(task: Task, rows: Sequence[Example], folder: str | None = None) -> Joined:
    """The rows and behind them SICK's, in the files' order, without those of the task's held-out splits.

    Raises ConfigError and DataError as SICK does.
    """
    if not task.paired or not isinstance(task.target, Range):
        kind = f"{'pairs' if task.paired else 'single texts'} with {type(task.target).__name__} as the target"
        raise ConfigError(f"augmentation 'sick': expected a task of pairs with a Range, but '{task.name}' has {kind}")
    place = _folder(task, folder)
    pairs = [row for split in FILES for row in read_pairs(place, split, task.target)]
    keys = {key(row) for row in held_out_rows(task)}
    kept = [pair for pair in pairs if key(pair) not in keys]
    if not kept:
        raise DataError(f"{place}: all {len(pairs)} pairs of SICK stand in the dev or test rows of task '{task.name}'")
    ids = {row.id for row in rows}
    if twice := next((pair.id for pair in kept if pair.id in ids), None):
        raise ConfigError(f"augmentation 'sick': task '{task.name}' has a row '{twice}' already; name 'sick' once only")
    return Joined((*rows, *kept), len(pairs), len(pairs) - len(kept))


def read_pairs(folder: Path, split: str, target: Range) -> list[Example]:
    """The pairs of SICK's `train` or `trial`, their scores in the target's range. Raises DataError."""
    file = folder / FILES[split]
    if not file.is_file():
        raise DataError(
            f"{file}: no such file; augmentation 'sick' expects {' and '.join(FILES.values())} beside the task's files,"
            f" (mtk data fetch sick --to {folder}), or in a folder of their own: --augment sick:folder=DIR"
        )
    examples, bad = read_examples(file, LAYOUT)
    check_bad_rows(bad, 0)
    return [Example(f"sick-{split}-{row.id}", row.text, row.pair, rescaled(row.label, target)) for row in examples]


def rescaled(score: float, target: Range) -> float:
    """A score from 1 to 5 as the same share of the target's range."""
    return ((SCORES.high - score) * target.low + (score - SCORES.low) * target.high) / (SCORES.high - SCORES.low)


def held_out_rows(task: Task) -> Iterator[Example]:
    """The rows of dev and test. Raises DataError where a split has a file that cannot be read."""
    for split in HELD_OUT:
        try:
            yield from task.examples(split)
        except DataError:
            if split in task.source.files:
                raise
            # A task says so where it has no such split; test often is not there.


def key(row: Example) -> tuple[str, ...]:
    """Equal for two rows whose texts are the same in either order, but for case, whitespace and punctuation."""
    texts = (row.text, row.pair or "")
    return tuple(sorted(" ".join(_WORD.findall(text.lower())) or text.strip() for text in texts))


def _folder(task: Task, folder: str | None) -> Path:
    """The user's folder, else the one of the task's own files."""
    if folder is not None:
        return Path(folder).expanduser()
    own = next((task.source.files[split] for split in ("train", *HELD_OUT) if split in task.source.files), None)
    if own is None or task.source.sample:
        raise ConfigError(
            f"augmentation 'sick': task '{task.name}' has no data folder to look in ({task.source.origin});"
            f" name the one that holds {' and '.join(FILES.values())}: --augment sick:folder=DIR"
        )
    return own.parent
