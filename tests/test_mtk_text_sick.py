"""SICK's pairs: their scores in the task's range, no held-out pair among them, and every fault in one line."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

import mtk
from mtk import Classes, ConfigError, DataError, Example, Range, Source, Task, TaskContext, build
from mtk.cli.app import run as command
from mtk.datacheck import normalised
from mtk.testing import check_augmentation
from mtk_text.sick import FILES, SICK, join, key, read_pairs, rescaled
from mtk_text.sources import SAMPLE
from mtk_text.tasks import SST, STS, Quora

REAL = Path(__file__).parent.parent / ".." / "shared" / "data"
real_data = pytest.mark.skipif(
    not (REAL / FILES["train"]).is_file(), reason="../shared/data is not here: SICK is not ours to ship"
)
STS_HEADER = "\tid\tsentence1\tsentence2\tsimilarity\n"
HEADER = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
TRAIN = (
    "1\tA man is dancing\tA man is speaking\t1\tNEUTRAL\n"
    "2\tTwo dogs run\tTwo dogs are running\t5\tENTAILMENT\n"
    "5\tA jet  is flying\tA DOG is barking\t2\tNEUTRAL\n"
)
TRIAL = "4\tA cat sleeps\tA cat is awake\t3.6\tCONTRADICTION\n1\tA boy sings\tA girl sings\t3\tNEUTRAL\n"
NO_DRAWS = torch.Generator()


def put(folder: Path, dev: str, test: str | None = None, train: str = TRAIN, trial: str = TRIAL) -> Path:
    """STS with one training row and these held-out pairs, `A|B` a line, and SICK beside it."""
    folder.mkdir(exist_ok=True)
    for split, pairs in {"train": "One|Two", "dev": dev, "test-student": test}.items():
        if pairs is not None:
            rows = (
                f"{i}\t{split}-{i}\t" + pair.replace("|", "\t") + "\t2.5\n" for i, pair in enumerate(pairs.split("\n"))
            )
            (folder / f"sts-{split}.csv").write_text(STS_HEADER + "".join(rows))
    (folder / FILES["train"]).write_text(HEADER + train)
    (folder / FILES["trial"]).write_text(HEADER + trial)
    return folder


def sts(folder: Path) -> STS:
    return STS(TaskContext("sts", folder))


def augmented(of: Task, /, **options: str) -> list[Example]:
    return list(build("augmentation", "sick", **options)(of, of.examples("train"), NO_DRAWS))


class Memory(Task):
    """A paired task in memory, with dev and no test rows."""

    paired, columns = True, ("a", "b")

    def __init__(self, target: mtk.Target, files: Mapping[str, Path] | None = None) -> None:
        super().__init__(TaskContext("memory"))
        self.target, self.files = target, files or {}

    @property
    def source(self) -> Source:
        return Source("memory", self.files)

    def examples(self, split: str) -> Sequence[Example]:
        if split == "test":
            raise DataError("no test rows")
        return [Example("1", "One", "Two", 1.0)]


# ---------------------------------------------------------------------------------------------- what is joined


def test_pairs_come_behind_the_rows_with_their_scores_rescaled(tmp_path: Path) -> None:
    task = sts(put(tmp_path, "Nothing|Like it"))
    first, *others = augmented(task)
    assert first == task.examples("train")[0] and task.examples("train") == (first,)
    assert [(row.id, row.text, row.pair, row.label) for row in others] == [
        ("sick-train-1", "A man is dancing", "A man is speaking", 0.0),
        ("sick-train-2", "Two dogs run", "Two dogs are running", 5.0),
        ("sick-train-5", "A jet  is flying", "A DOG is barking", 1.25),
        ("sick-trial-4", "A cat sleeps", "A cat is awake", 3.25),
        ("sick-trial-1", "A boy sings", "A girl sings", 2.5),
    ]


@pytest.mark.parametrize(("low", "high"), [(0.0, 5.0), (1.0, 5.0), (-1.0, 1.0), (0.1, 0.7)])
def test_rescaling_against_interpolation(low: float, high: float) -> None:
    target = Range(low, high)
    assert (rescaled(1.0, target), rescaled(5.0, target)) == (low, high)
    for score in (1.0, 1.2, 2.999, 3.435, 4.9, 5.0):
        assert rescaled(score, target) == pytest.approx(low + (score - 1) / 4 * (high - low))
        assert target.parse(rescaled(score, target)) == rescaled(score, target)


SAME = [
    "A man is dancing|A man is speaking",
    "A man is speaking.|A man is dancing.",
    " a  MAN, is dancing!|A man is speaking",
]


@pytest.mark.parametrize("pair", SAME)
@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_held_out_pair_is_left_out_in_either_order(pair: str, split: str, tmp_path: Path) -> None:
    held = {"dev": "Nothing|Like it", "test": "Nor|This", split: "Other|Pair\n" + pair}
    task = sts(put(tmp_path, **held))
    joined = join(task, task.examples("train"))
    assert (joined.read, joined.held_out, len(joined.rows)) == (5, 1, 5)
    assert "sick-train-1" not in {row.id for row in joined.rows}


def test_one_shared_sentence_and_a_training_pair_are_no_reason_to_leave_a_pair_out(tmp_path: Path) -> None:
    task = sts(put(tmp_path, "A man is dancing|A man is walking", train="7\tOne\tTwo\t4\tNEUTRAL\n" + TRAIN))
    assert join(task, task.examples("train")).held_out == 0


def test_draws_nothing_and_gives_the_same_rows(tmp_path: Path) -> None:
    task, generator = sts(put(tmp_path, "Nothing|Like it")), torch.Generator().manual_seed(1)
    state, one = generator.get_state(), SICK()(task, task.examples("train"), generator)
    random.seed(0)
    assert one == SICK()(task, task.examples("train"), torch.Generator().manual_seed(2))
    assert torch.equal(state, generator.get_state())


def test_conforms_where_it_has_data(tmp_path: Path) -> None:
    put(tmp_path, "Nothing|Like it")
    check_augmentation(partial(build, "augmentation", "sick", folder=str(tmp_path), task="toy"))
    check_augmentation(partial(build, "augmentation", "sick"), [sts(tmp_path)])


# ---------------------------------------------------------------------------------------------- which task gets them


def test_other_tasks_keep_their_rows(tmp_path: Path) -> None:
    for task in (SST(TaskContext("sst", SAMPLE)), Quora(TaskContext("quora", SAMPLE)), Memory(Range(0, 5))):
        rows = task.examples("train")
        assert SICK(folder=str(tmp_path))(task, rows, NO_DRAWS) is rows
    put(tmp_path, "Nothing|Like it")
    assert len(augmented(STS(TaskContext("other", tmp_path)))) == 6
    assert len(augmented(sts(tmp_path), task="other")) == 1
    assert SICK()(sts(tmp_path), [], NO_DRAWS) == []


def test_a_named_task_of_another_range_and_without_files(tmp_path: Path) -> None:
    rows = augmented(Memory(Range(-1, 1)), folder=str(put(tmp_path, "x|y")), task="memory")
    assert [row.label for row in rows[1:]] == [-1.0, 1.0, -0.5, pytest.approx(0.3), 0.0]


def test_in_a_run_only_sts_gets_more_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the command line, next to sst; a dry run trains nothing."""
    put(tmp_path, "Nothing|Like it\nA man is dancing.|A man is speaking.")
    for split in ("train", "dev"):
        (tmp_path / f"ids-sst-{split}.csv").write_text("\tid\tsentence\tsentiment\n0\ta\tfine\t3\n1\tb\tbad\t1\n")
    line = f"train --task sst --task sts --augment sick --data {tmp_path} --encoder tiny --dry-run --device cpu"
    assert command([*line.split(), "--threads", "1"]) == 0
    told = {
        cells[1].strip(): cells[3].strip()
        for row in capsys.readouterr().out.splitlines()
        if (cells := row.split("│"))[3:]
    }
    assert (told["sst"], told["sts"]) == ("2", "5")


# ---------------------------------------------------------------------------------------------- what is refused


FAULTS = {
    "score out of range": (
        "2\tx\ty\t5.5\tN\n",
        r"SICK_train.txt:3: row '2': .*from 1 to 5, found '5.5'; mend the file$",
    ),
    "score no number": ("2\tx\ty\thigh\tN\n", r"SICK_train.txt:3: row '2': column 'relatedness_score': .*found 'high'"),
    "score nan": ("2\tx\ty\tnan\tN\n", r"SICK_train.txt:3: row '2': .*found 'nan'"),
    "score empty": ("2\tx\ty\t\tN\n", r"SICK_train.txt:3: row '2': column 'relatedness_score' is empty"),
    "text empty": ("2\tx\t \t3\tN\n", r"SICK_train.txt:3: row '2': column 'sentence_B' is empty"),
    "cut off": ("2\tx\ty", r"SICK_train.txt:3: row '2': expected 5 fields, found 3"),
    "open quote": (
        '2\t"x\ty\t3\tN\n3\tx\ty\t3\tN\n',
        r"SICK_train.txt:3: row '2': expected 5 fields, found 2; a double",
    ),
    "id twice": ("1\tx\ty\t3\tN\n", r"SICK_train.txt:3: row '1': its id stands already in line 2"),
    "two of them": (
        "2\tx\ty\t0\tN\n3\tx\ty\t9\tN\n",
        r"SICK_train.txt:3: .*\(2 bad rows in this file; also in line 4\)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_row_is_named_by_file_and_line(fault: str, tmp_path: Path) -> None:
    rows, message = FAULTS[fault]
    put(tmp_path, "a|b", train="1\tA man\tA woman\t3\tNEUTRAL\n" + rows)
    refused(sts(tmp_path), DataError, message)


FILE_FAULTS = {
    "empty": (b"", r"SICK_trial.txt: expected a header and rows, found an empty file"),
    "header alone": (HEADER.encode(), r"SICK_trial.txt: expected rows below the header, found none"),
    "other columns": (
        b"pair_ID\tsentence_A\tsentence_B\tscore\n",
        r"SICK_trial.txt:1: expected a column 'relatedness_score'",
    ),
    "no UTF-8": (HEADER.encode() + b"1\t\xe9\tb\t3\tN\n", r"SICK_trial.txt:2: expected UTF-8"),
}


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_a_damaged_file_is_named(fault: str, tmp_path: Path) -> None:
    content, message = FILE_FAULTS[fault]
    (put(tmp_path, "a|b") / FILES["trial"]).write_bytes(content)
    refused(sts(tmp_path), DataError, message)


@pytest.mark.parametrize("split", FILES)
def test_a_missing_file_and_the_way_out(split: str, tmp_path: Path) -> None:
    (put(tmp_path, "a|b") / FILES[split]).unlink()
    refused(sts(tmp_path), DataError, rf"{FILES[split]}: no such file; .* --augment sick:folder=DIR$")
    refused(sts(tmp_path), DataError, rf"no/{FILES['train']}: no such file", folder=str(tmp_path / "no"))


def test_no_folder_to_look_in(tmp_path: Path) -> None:
    refused(STS(TaskContext("sts", sample="always")), ConfigError, r"no data folder to look in \(the built-in sample\)")
    refused(Memory(Range(0, 5)), ConfigError, r"'memory' has no data folder to look in \(memory\); name", task="memory")


def test_a_task_that_is_no_paired_range(tmp_path: Path) -> None:
    folder = str(put(tmp_path, "a|b"))
    message = (
        r"^augmentation 'sick': expected a task of pairs with a Range, but '{}' has {} with Classes as the target$"
    )
    sst, quora = SST(TaskContext("sst", SAMPLE)), Quora(TaskContext("quora", SAMPLE))
    refused(sst, ConfigError, message.format("sst", "single texts"), folder=folder, task="sst")
    refused(quora, ConfigError, message.format("quora", "pairs"), folder=folder, task="quora")
    refused(Memory(Classes(["a", "b"])), ConfigError, message.format("memory", "pairs"), folder=folder, task="memory")


def test_nothing_left_and_joined_twice(tmp_path: Path) -> None:
    one = "1\tA man\tA woman\t3\tN\n"
    task = sts(put(tmp_path, "A woman.|A man.", train=one, trial=one))
    refused(task, DataError, r"all 2 pairs of SICK stand in the dev or test rows of task 'sts'$")
    task = sts(put(tmp_path, "Nothing|Like it"))
    with pytest.raises(ConfigError, match=r"has a row 'sick-train-1' already; name 'sick' once only$"):
        SICK()(task, augmented(task), NO_DRAWS)


def test_held_out_rows_that_cannot_be_read_stop_it(tmp_path: Path) -> None:
    """A test file that is there must be read; one that the task has not is no fault."""
    folder = put(tmp_path, "a|b")
    assert len(augmented(sts(folder))) == 6
    (folder / "sts-test-student.csv").write_text(STS_HEADER + "0\tx\tone\n")
    refused(sts(folder), DataError, r"sts-test-student.csv:2: row 'x'")
    files = Memory(Range(0, 5), {"train": folder / "a.csv", "test": folder / "b.csv"})
    refused(files, DataError, "no test rows", task="memory")


def refused(of: Task, kind: type[Exception], message: str, /, **options: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        build("augmentation", "sick", **options)(of, [Example("1", "a", "b", 1.0)], NO_DRAWS)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- the real files


@real_data
def test_the_real_files() -> None:
    task = sts(REAL)
    joined = join(task, task.examples("train"))
    assert (joined.read, joined.held_out, len(joined.rows)) == (5000, 14, 6040 + 4986)
    assert joined.rows[:6040] == task.examples("train")
    added = joined.rows[6040:]
    assert min(row.label for row in added) == 0.0 and max(row.label for row in added) == 5.0
    assert len({row.id for row in joined.rows}) == len(joined.rows)
    assert not {normalised(row) for row in added} & {normalised(row) for row in task.examples("dev")}
    check_augmentation(SICK, [task])


@real_data
def test_the_real_leak_hides_behind_full_stops() -> None:
    """Case and whitespace alone would let every one of the dev pairs through."""
    task = sts(REAL)
    dev, sick = task.examples("dev"), [row for split in FILES for row in read_pairs(REAL, split, STS.target)]

    def spaced(row: Example) -> tuple[str, ...]:
        return tuple(sorted(" ".join(text.lower().split()) for text in (row.text, row.pair or "")))

    assert not {spaced(row) for row in sick} & {spaced(row) for row in dev}
    assert all(key(row) == normalised(row) for row in (*dev, *sick))
    assert len({key(row) for row in sick} & {key(row) for row in dev}) == 13
