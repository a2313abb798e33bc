"""Predictions in the rows' order, whole-split scores, and one pass for tasks that read alike."""

from __future__ import annotations

import pytest
import torch

from mtk.data import fuse, tokenise
from mtk.device import Hardware
from mtk.errors import DataError
from mtk.evaluation import Scores, evaluate, predict, predict_together, score
from mtk.interfaces import Example, Prediction, TaskContext
from mtk.model import MultitaskModel
from mtk.targets import Classes, Range
from tests import toy_plugin
from tests.toys import ToyCosine, ToyEncoder, ToyLinear, ToyRDrop

CPU = Hardware("cpu", "fp32", 1)


@pytest.fixture
def world():
    torch.manual_seed(0)
    encoder = ToyEncoder(dropout=0.5)
    tasks = {
        "words": toy_plugin.words(TaskContext("words"), dev=40),
        "views": toy_plugin.words(TaskContext("views"), dev=40),
        "pairs": toy_plugin.pairs(TaskContext("pairs"), dev=40),
    }
    heads = {
        "words": ToyLinear(8, tasks["words"].target, dropout=0.5),
        "views": ToyRDrop(8, tasks["views"].target),
        "pairs": ToyCosine(8, tasks["pairs"].target),
    }
    rows = {n: tokenise(encoder, heads[n], t.paired, t.examples("dev"), 64) for n, t in tasks.items()}
    return MultitaskModel(encoder, heads).train(), tasks, rows


def test_predictions_stand_in_the_rows_order(world, monkeypatch):
    model, _, rows = world
    import mtk.evaluation

    monkeypatch.setattr(mtk.evaluation, "evaluation_batches", lambda r: mtk.data.evaluation_batches(r, 60))
    for name, part in rows.items():
        found = predict(model, name, part, CPU)
        assert len(found) == len(part) == 40
        assert len({p.score for p in found}) > 10
        model.eval()
        for i in range(0, 40, 7):
            batch = fuse({name: part}, {name: [i]}, 0, views=False)
            with torch.no_grad():
                one = model.head(name).predict(model(batch)[name], batch.slices[name].targets)[0]
            assert found[i].score == pytest.approx(one.score, abs=1e-5)
        model.train()


def test_dropout_is_off_and_the_mode_is_given_back(world):
    model, _, rows = world
    state = torch.get_rng_state()
    assert predict(model, "words", rows["words"], CPU) == predict(model, "words", rows["words"], CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and model.encoder.training
    model.eval()
    predict(model, "words", rows["words"], CPU)
    assert not model.training


def test_the_mode_is_given_back_after_an_error(world, monkeypatch):
    model, _, rows = world
    monkeypatch.setattr(model.heads["words"], "forward", None)
    with pytest.raises(TypeError):
        predict(model, "words", rows["words"], CPU)
    assert model.training


def test_tasks_of_one_text_share_the_pass(world, monkeypatch):
    model, tasks, _ = world
    examples = tasks["words"].examples("dev")
    alike = {name: tokenise(model.encoder, model.head(name), False, examples, 64) for name in ("words", "views")}
    apart = {name: predict(model, name, part, CPU) for name, part in alike.items()}
    calls = []
    real = model.encoder.forward
    monkeypatch.setattr(model.encoder, "forward", lambda batch: calls.append(len(batch.ids)) or real(batch))
    together = predict_together(model, alike, CPU)
    assert sum(calls) == 40
    assert together == apart


def test_no_rows_no_predictions(world):
    model, _, _ = world
    empty = tokenise(model.encoder, model.head("words"), False, [], 64)
    assert predict(model, "words", empty, CPU) == []


def test_scores_are_of_labelled_rows_only():
    task = toy_plugin.words(TaskContext("words"))
    labels = [0, 1, None, 1]
    rows = [Example(str(i), "a", None, label) for i, label in enumerate(labels)]
    part = tokenise(ToyEncoder(), ToyLinear(8, task.target), False, rows, 64)
    guesses = [Prediction(value, value, 1.0) for value in (0, 0, 1, 1)]
    assert score(task, part, guesses)["accuracy"] == pytest.approx(2 / 3)


def test_nothing_to_score():
    task = toy_plugin.words(TaskContext("words"))
    part = tokenise(ToyEncoder(), ToyLinear(8, task.target), False, [Example("0", "a", None, None)], 64)
    with pytest.raises(DataError, match="task 'words': none of the 1 rows has a label"):
        score(task, part, [Prediction(0, 0, 1.0)])


def test_metrics_are_of_the_whole_split_and_the_aggregate_is_their_plain_mean(world):
    model, tasks, rows = world
    scores = evaluate(model, tasks, rows, CPU)
    assert list(scores.tasks) == list(tasks)
    guesses = predict(model, "pairs", rows["pairs"], CPU)
    labelled = [(p, e.label) for p, e in zip(guesses, rows["pairs"].examples, strict=True) if e.label is not None]
    assert scores.tasks["pairs"] == Range(0, 5).metrics(*map(list, zip(*labelled, strict=True)))
    primary = [scores.tasks["words"]["accuracy"], scores.tasks["views"]["accuracy"], scores.tasks["pairs"]["pearson"]]
    assert scores.aggregate == pytest.approx(sum(primary) / 3)
    assert scores.to_dict()["primary"] == {"words": "accuracy", "views": "accuracy", "pairs": "pearson"}
    assert isinstance(scores, Scores) and isinstance(tasks["words"].target, Classes)
