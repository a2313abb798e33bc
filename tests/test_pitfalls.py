"""Mistakes that other multitask projects on these data made, each guarded on the path that a real run takes.

Small files in the CS 224N layout, the tiny encoder, and a look at what reaches the encoder, the loss and the metrics.
"""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mtk.data
import mtk.evaluation
from mtk import Encoder, Example, Range, Targets, Task, TrainedModel, session
from mtk.cli.app import run as command
from mtk.config import make_config, merge
from mtk.data import Step, TaskRows, evaluation_batches, fuse
from mtk.datacheck import normalised
from mtk.evaluation import evaluate
from mtk.training import EpochDone, StepDone
from mtk_text.sick import FILES
from tests import toy_plugin

REAL = Path(__file__).parent.parent / ".." / "shared" / "data"
real_data = pytest.mark.skipif(
    not all((REAL / name).is_file() for name in ("sts-train.csv", "quora-train.csv", *FILES.values())),
    reason="../shared/data is not here: its files are not ours to ship",
)
PAIR_FORMATS = {"standard": 1, "no-final-sep": 0, "keep-second-cls": 2}  # special tokens of the second text
SIZES = {"sst": (13, 9), "quora": (21, 7), "sts": (5, 8)}  # train and dev
WORDS = "the movie was good bad fine dull bright long short story actor music funny sad boy dog cat horse"


# ---------------------------------------------------------------------------------------------- files and runs


def sentences(count: int, kind: str, longest: int = 24) -> list[str]:
    """Texts of 1 to `longest` words behind a tag that no other text has."""
    draw = random.Random(kind)
    return [f"{kind} {i} " + " ".join(draw.choices(WORDS.split(), k=draw.randint(1, longest))) for i in range(count)]


def write_split(folder: Path, task: str, split: str, rows: int, labels: bool = True) -> None:
    texts, pairs = sentences(rows, f"{task} {split}"), sentences(rows, f"{task} {split} two")
    ids = [f"{task}-{split}-{i}" for i in range(rows)]
    columns = {"sst": ["sentence", "sentiment"], "quora": ["sentence1", "sentence2", "is_duplicate"]}
    header = ["", "id", *columns.get(task, ["sentence1", "sentence2", "similarity"])]
    name = f"{'ids-sst' if task == 'sst' else task}-{split if labels else 'test-student'}.csv"
    with (folder / name).open("w", newline="") as stream:
        out = csv.writer(stream, delimiter="\t")
        out.writerow(header if labels else header[:-1])
        for i in range(rows):
            text = [texts[i]] if task == "sst" else [texts[i], pairs[i]]
            label = {"sst": i % 5, "quora": float(i % 2)}.get(task, round((i * 0.7) % 5, 1))
            out.writerow([i, ids[i], *text, *([label] if labels else [])])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for task, sizes in SIZES.items():
        for split, rows in zip(("train", "dev"), sizes, strict=True):
            write_split(folder, task, split, rows)
    return folder


def settings(folder: Path, **over: Any) -> Any:
    """All three tasks, no dropout, a step of up to 4 rows a task; `over` is laid over it."""
    tree: dict[str, Any] = {
        "tasks": {"sst": {}, "quora": {}, "sts": {}},
        "encoder": {"name": "tiny", "dropout": 0.0},
        "model": {"dropout": 0.0},
        "combiner": "sum",
        "mixer": "all",
        "data": {"folder": str(folder), "sample": "never"},
        "train": {
            "epochs": 1, "batch_size": 4, "patience": 0, "precision": "fp32", "device": "cpu", "threads": 1, "seed": 3
        },
    }  # fmt: skip
    return make_config(merge(tree, over))


def used(run: session.Session) -> TrainedModel:
    """The run's model as it stands."""
    return TrainedModel(run.parts.config, run.parts.tasks, run.parts.model, run.parts.hardware)


Sequences = list[tuple[int, ...]]


@dataclass
class Seen:
    """The token sequences, without padding, that an encoder was given: while training, and otherwise."""

    training: Sequences = field(default_factory=list)
    evaluated: Sequences = field(default_factory=list)
    types: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)


@contextmanager
def watching(encoder: Encoder) -> Iterator[Seen]:
    seen = Seen()

    def look(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        (batch,) = arguments
        for ids, types, mask in zip(batch.ids, batch.types, batch.mask, strict=True):
            row = tuple(ids[mask].tolist())
            (seen.training if module.training else seen.evaluated).append(row)
            seen.types[row] = tuple(types[mask].tolist())

    handle = encoder.register_forward_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def sequences(run: session.Session, split: str, name: str) -> Sequences:
    """What a task's rows of a split are as token sequences, straight from its file and the tokenizer."""
    task, head = run.parts.tasks[name], run.parts.model.head(name)
    rows = task.examples(split)
    both: list[list[tuple[str, str | None]]] = [[(row.text, row.pair) for row in rows]]
    if task.paired and head.reads == "bi":
        both = [[(row.text, None) for row in rows], [(row.pair or "", None) for row in rows]]
    encode = run.parts.model.encoder.tokenizer.encode
    return [tuple(encoding.ids) for part in both for encoding in encode(part, 128)]


# ---------------------------------------------------------------------------------------------- labels


def test_sts_labels_reach_the_loss_as_fractions(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against STS labels that are cast to whole numbers on their way to the loss or the metric."""
    trained: list[float] = []
    scored: list[list[float]] = []
    loss, metrics = Range.loss, Range.metrics

    def watched_loss(self: Range, outputs: Any, targets: Targets) -> Any:
        assert targets.labels.is_floating_point()
        trained.extend(targets.labels.tolist())
        return loss(self, outputs, targets)

    def watched_metrics(self: Range, predictions: Any, labels: Any) -> Any:
        scored.append(list(labels))
        return metrics(self, predictions, labels)

    run = session.start(settings(data), tmp_path / "run")
    monkeypatch.setattr(Range, "loss", watched_loss)
    monkeypatch.setattr(Range, "metrics", watched_metrics)
    list(run.run())

    def in_file(split: str) -> list[float]:
        with (data / f"sts-{split}.csv").open(newline="") as stream:
            return [float(row["similarity"]) for row in csv.DictReader(stream, delimiter="\t")]

    assert sorted(trained) == pytest.approx(sorted(in_file("train")), abs=1e-6)
    assert scored == [in_file("dev")]
    assert sum(label % 1 != 0 for label in trained) >= 3


# ---------------------------------------------------------------------------------------------- positions and types


@pytest.mark.parametrize("pair", PAIR_FORMATS)
@pytest.mark.parametrize("head", ["linear", "concat", "cosine"])
def test_positions_do_not_depend_on_batch_mates(data: Path, head: str, pair: str) -> None:
    """Guards against texts that are joined after padding, so that a row's positions shift with its longest batch mate.

    Features and outputs in a fused training batch, and predictions: a row alone, and beside longer rows.
    """
    heads = {"quora": {"head": head if head != "cosine" else "concat"}, "sts": {"head": head}}
    run = session.start(settings(data, tasks=heads, encoder={"pair": pair}), None)
    parts, model = run.parts, run.parts.model.train()  # there is no dropout in it
    pad = model.encoder.tokenizer.pad_id
    everything = {name: np.arange(len(rows)) for name, rows in parts.train.items()}
    with torch.no_grad():
        whole = fuse(parts.train, everything, pad)
        features, outputs = model.encoder(whole.tokens).pooled, model(whole)
        widths = set()
        for name, rows in everything.items():
            for place, row in enumerate(rows):
                (alone,) = Step({name: np.array([row])}).micro_batches(parts.train, pad)
                widths.add(alone.tokens.ids.shape[1])
                start = whole.slices[name].start + place
                blocks = features[start : whole.slices[name].stop : len(rows)]  # the row's texts
                torch.testing.assert_close(model.encoder(alone.tokens).pooled, blocks, rtol=0, atol=1e-5)
                torch.testing.assert_close(model(alone)[name][0], outputs[name][place], rtol=0, atol=1e-5)
    assert len(widths) > 10 and max(widths) == whole.tokens.ids.shape[1]
    trained = used(run)
    for name, task in parts.tasks.items():
        dev = task.examples("dev")
        together = [p.score for p in trained.predict(name, dev)]
        assert together == pytest.approx([trained.predict(name, [row])[0].score for row in dev], abs=1e-5)


@pytest.mark.parametrize("pair", PAIR_FORMATS)
def test_token_types_are_set_for_the_second_text(data: Path, tmp_path: Path, pair: str) -> None:
    """Guards against token types that are 0 throughout: in training, in evaluation and in prediction.

    A single text is of type 0; of a pair, the second text and its special tokens are of type 1, and the encoder reads
    the types.
    """
    run = session.start(settings(data, encoder={"pair": pair}), tmp_path / "run")
    encoder = run.parts.model.encoder
    with watching(encoder) as seen:
        list(run.run())
        used(run).predict("quora", [("a dog runs", "the boy sings a song")])
    told = 0
    for name, task in run.parts.tasks.items():
        for split in ("train", "dev"):
            for row, ids in zip(task.examples(split), sequences(run, split, name), strict=True):
                second = 0
                if row.pair is not None:
                    second = len(encoder.tokenizer.encode([(row.pair, None)], 128)[0].ids) - 2 + PAIR_FORMATS[pair]
                assert seen.types[ids] == (0,) * (len(ids) - second) + (1,) * second
                told += 1
    assert told == sum(map(sum, SIZES.values()))
    (extra,) = set(seen.types) - {s for n in SIZES for split in ("train", "dev") for s in sequences(run, split, n)}
    assert sum(seen.types[extra]) >= 5
    batch = fuse(run.parts.dev, {"sts": np.arange(4)}, encoder.tokenizer.pad_id, views=False).tokens
    with torch.no_grad():
        read, unread = encoder(batch).pooled, encoder(mtk.TokenBatch(batch.ids, batch.types * 0, batch.mask)).pooled
    assert (read - unread).abs().max() > 1e-3


# ---------------------------------------------------------------------------------------------- rows to train on


def write_sick(folder: Path, held_out: Sequence[Example]) -> None:
    """SICK with four pairs of its own and one of the dev rows, in capitals: an uncased tokenizer sees the same."""
    header = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
    rows = [(f"sick one {i}", f"sick two {i}") for i in range(4)]
    rows.insert(2, (held_out[3].text.upper(), str(held_out[3].pair).upper()))
    lines = [f"{i}\t{a}\t{b}\t3.5\tNEUTRAL\n" for i, (a, b) in enumerate(rows)]
    (folder / FILES["train"]).write_text(header + "".join(lines[:3]))
    (folder / FILES["trial"]).write_text(header + "".join(lines[3:]))


@pytest.mark.parametrize("over", [{}, {"combiner": "pcgrad"}, {"train": {"step": "one"}}], ids=["sum", "pcgrad", "one"])
def test_no_dev_row_is_ever_trained_on(data: Path, tmp_path: Path, over: dict[str, Any]) -> None:
    """Guards against dev rows in the training rows, also by an augmentation: three epochs with SICK and R-Drop.

    All sequences that the encoder is given in training mode are the training rows', and in evaluation the dev rows'.
    """
    task = mtk.build("task", "sts", mtk.TaskContext("sts", data))
    write_sick(data, task.examples("dev"))
    heads = {"sst": {"head": "linear:rdrop=1"}, "quora": {"head": "concat"}}
    config = settings(data, **merge({"tasks": heads, "augment": ["sick"], "train": {"epochs": 3}}, over))
    run = session.start(config, tmp_path / "run")
    added = [row for row in run.parts.train["sts"].examples if row.id.startswith("sick-")]
    assert len(added) == 4
    with watching(run.parts.model.encoder) as seen:
        list(run.run())
    held_out = {row for name in SIZES for row in sequences(run, "dev", name)}
    encoded = run.parts.model.encoder.tokenizer.encode([(row.text, row.pair) for row in added], 128)
    own = {row for name in SIZES for row in sequences(run, "train", name)} | {tuple(e.ids) for e in encoded}
    assert not set(seen.training) & held_out
    assert set(seen.training) == own
    assert set(seen.evaluated) == held_out


@pytest.mark.slow
@real_data
def test_no_dev_row_is_ever_trained_on_with_the_real_files() -> None:
    """The same of the published files with SICK: every row of three epochs, by id and by text.

    The published STS files have 18 pairs in both train and dev. They are no fault of a run: what is trained on is the
    train file's, row by row, and nothing that SICK adds stands in dev.
    """
    heads = {"sst": {}, "quora": {}, "sts": {}}
    train = {"epochs": 3, "batch_size": 32}
    run = session.start(
        settings(REAL.resolve(), tasks=heads, augment=["sick"], mixer="capped:rows=9000", train=train), None
    )
    parts = run.parts

    drawn: dict[str, dict[str, Example]] = {name: {} for name in parts.train}
    for epoch in range(3):
        for step in parts.plan.steps(parts.train, epoch):
            for name, rows in step.rows.items():
                drawn[name].update((e.id, e) for e in (parts.train[name].examples[i] for i in rows))
    for name, task in parts.tasks.items():
        ids = {row.id for row in task.examples("dev")}
        held_out = {normalised(row) for row in task.examples("dev")}
        file = {row.id: row for row in task.examples("train")}
        assert not ids & set(drawn[name]) and len(drawn[name]) > 5000
        added = [row for row in drawn[name].values() if row.id not in file]
        assert all(file[row.id] == row for row in drawn[name].values() if row.id in file)
        assert all(row.id.startswith("sick-") and normalised(row) not in held_out for row in added)
        assert bool(added) == (name == "sts")


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("step", ["all", "one"])
def test_no_loader_is_cut_short(data: Path, tmp_path: Path, step: str, accumulate: int) -> None:
    """Guards against zip(loaders), which ends with the shortest: tasks of 13, 21 and 5 rows, in steps of 4 rows.

    With the mixer `all`, every row of every task reaches the encoder exactly once an epoch.
    """
    run = session.start(settings(data, train={"step": step, "epochs": 2, "accumulate": accumulate}), tmp_path / "run")
    wanted = Counter(row for name in SIZES for row in sequences(run, "train", name))
    assert len(wanted) == sum(sizes[0] for sizes in SIZES.values())
    done: list[EpochDone] = []
    with watching(run.parts.model.encoder) as seen:
        for event in run.run():
            if isinstance(event, EpochDone):
                assert Counter(seen.training) == wanted
                seen.training.clear()
                done.append(event)
    assert [event.rows for event in done] == [39, 39]
    assert all(event.coverage == {name: 1.0 for name in SIZES} for event in done)


# ---------------------------------------------------------------------------------------------- order


@pytest.fixture
def finished_run(data: Path, tmp_path: Path) -> Path:
    for _ in session.start(settings(data), tmp_path / "run").run():
        pass
    return tmp_path / "run"


def test_predictions_keep_the_order_of_the_file(
    data: Path,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Guards against shuffled test loaders: rows are sorted by length for prediction, and come back as they came.

    `mtk predict --file` for two tasks, and the submission files of a test split, over many small batches.
    """
    monkeypatch.setattr(mtk.evaluation, "evaluation_batches", lambda rows: evaluation_batches(rows, 90))
    write_split(data, "sts", "test", 17, labels=False)
    file = data / "sts-test-student.csv"
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    lengths = [len(row["sentence1"]) + len(row["sentence2"]) for row in rows]
    assert lengths not in (sorted(lengths), sorted(lengths, reverse=True))
    model = mtk.load(finished_run, device="cpu", threads=1)
    alone = {
        name: [model.predict(name, [(row["sentence1"], row["sentence2"])])[0] for row in rows]
        for name in ("quora", "sts")
    }
    assert len({round(p.score, 4) for p in alone["sts"]}) > 10  # so that another order would show
    assert command(["predict", str(finished_run), "--file", str(file), "--format", "jsonl"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for name, wanted in alone.items():
        own = [answer for answer in answers if answer["task"] == name]
        assert [answer["id"] for answer in own] == [row["id"] for row in rows]
        assert [answer["score"] for answer in own] == pytest.approx([p.score for p in wanted], abs=1e-5)
    assert command(["predict", str(finished_run), "--cs224n", str(tmp_path / "out"), "--data", str(data)]) == 0
    lines = (tmp_path / "out" / "sts-test-output.csv").read_text().splitlines()[1:]
    pairs = [line.split(" , ") for line in lines]
    assert [identity for identity, _ in pairs] == [row["id"] for row in rows]
    assert [float(value) for _, value in pairs] == pytest.approx([p.value for p in alone["sts"]], abs=1e-5)


# ---------------------------------------------------------------------------------------------- selection


@pytest.mark.usefixtures("toys")
def test_the_kept_epoch_is_the_aggregate_s(tmp_path: Path) -> None:
    """Guards against a checkpoint chosen on one task: a's best epoch is the first, b's the last, theirs the second."""
    scripts = {"a": [0.9, 0.6, 0.1], "b": [0.0, 0.5, 0.8]}
    tasks = {name: {"kind": "scripted", "script": script, "main": True} for name, script in scripts.items()}
    run = session.start(toy_plugin.config(tasks, train={"epochs": 3}), tmp_path / "run")
    weights: list[dict[str, torch.Tensor]] = []
    selected: list[float] = []
    for event in run.run():
        if isinstance(event, EpochDone):
            weights.append({k: v.clone() for k, v in run.parts.model.heads.state_dict().items()})
            selected.append(event.selected)
    assert selected == pytest.approx([0.45, 0.55, 0.45])
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["best_epoch"] == 2 and facts["scores"]["aggregate"] == pytest.approx(0.55)
    kept = load_file(tmp_path / "run" / "best" / "heads.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in weights[1].items())
    assert any(not torch.equal(kept[name], tensor) for name, tensor in weights[0].items())
    assert any(not torch.equal(kept[name], tensor) for name, tensor in weights[2].items())
    loaded = mtk.load(tmp_path / "run", device="cpu", threads=1)
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in loaded.model.heads.state_dict().items())


# ---------------------------------------------------------------------------------------------- reductions


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("step", ["all", "one"])
def test_a_step_s_loss_is_the_mean_over_its_rows(data: Path, step: str, accumulate: int) -> None:
    """Guards against a sum that is divided by the batch size set, which under-weights the last, smaller batch.

    With a learning rate that moves nothing, every step's loss is the mean of its rows' losses one by one, and the
    gradient of the head's bias that of this mean, whatever the batch's size and its parts.
    """
    over = {
        "optim": {"lr": 1e-30, "weight_decay": 0.0, "max_norm": 0.0},
        "train": {"step": step, "accumulate": accumulate},
    }
    training = session.start(settings(data, **over), None).training
    parts, pad = training.parts, training.parts.model.encoder.tokenizer.pad_id
    heads = {name: parts.model.heads[name].out.bias for name in SIZES}
    bias_gradients: list[dict[str, torch.Tensor]] = []
    training.optimizer.register_step_pre_hook(
        lambda *_: bias_gradients.append({n: p.grad.clone() for n, p in heads.items() if p.grad is not None})
    )
    steps = parts.plan.steps(parts.train, 0)
    done = [event for event in training.run() if isinstance(event, StepDone)]
    assert len(done) == len(steps) == (6 if step == "all" else 12)
    assert {name: min(len(s.rows[name]) for s in steps if name in s.rows) for name in SIZES} == dict.fromkeys(SIZES, 1)
    for event, own, gradients in zip(done, steps, bias_gradients, strict=True):
        assert set(event.losses) == set(own.rows)
        for name, rows in own.rows.items():
            losses = []
            for row in rows:
                batch = fuse(parts.train, {name: np.array([row])}, pad)
                losses.append(parts.model.losses(batch, parts.model(batch))[name])
            mean = torch.stack(losses).mean()
            assert event.losses[name] == pytest.approx(mean.item(), rel=1e-5)
            (slope,) = torch.autograd.grad(mean, heads[name])
            torch.testing.assert_close(gradients[name], slope, rtol=1e-4, atol=1e-6)


def test_metrics_are_of_the_whole_split(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against metrics that are averaged over batches, where the last, smaller one weighs too much.

    Batches of one row, of a few and of all give the same figures, and the mean over batches is another.
    """
    run = session.start(settings(data), None)
    parts = run.parts
    tasks: Mapping[str, Task] = parts.tasks

    def scores(size: int) -> dict[str, dict[str, float]]:
        def batches(rows: TaskRows) -> list[np.ndarray]:
            order = np.concatenate(list(evaluation_batches(rows)))
            return [order[i : i + size] for i in range(0, len(order), size)]

        monkeypatch.setattr(mtk.evaluation, "evaluation_batches", batches)
        return evaluate(parts.model, tasks, parts.dev, parts.hardware).tasks

    whole = evaluate(parts.model, tasks, parts.dev, parts.hardware).tasks
    for size in (1, 4, 5):
        assert scores(size) == {name: pytest.approx(own, abs=1e-5) for name, own in whole.items()}
    trained, dev = used(run), tasks["sst"].examples("dev")
    right = [p.value == row.label for p, row in zip(trained.predict("sst", dev), dev, strict=True)]
    assert whole["sst"]["accuracy"] == pytest.approx(sum(right) / 9)
    assert 0 < sum(right) < 9
    by_batch = [np.mean(right[:8]), np.mean(right[8:])]  # the last batch is of one row
    assert np.mean(by_batch) != pytest.approx(whole["sst"]["accuracy"])
