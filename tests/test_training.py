"""The loop: its gradients equal the plain reference, seeds fix it, and it ends when and how it should."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import mtk.training
from mtk.assembly import Parts, assemble
from mtk.device import Hardware
from mtk.errors import CheckpointError
from mtk.evaluation import Scores, evaluate
from mtk.gradients import GradientEngine
from mtk.interfaces import StepInfo
from mtk.model import MultitaskModel
from mtk.training import EpochDone, Finished, StepDone, Training, label_counts
from mtk_combiners.pcgrad import PCGrad, pcgrad_weights
from mtk_combiners.sum import Sum
from tests.toy_plugin import Stateful, config, still
from tests.toys import ToyEncoder, ToyFAMO, collate, reference_gradients, reference_losses

pytestmark = pytest.mark.usefixtures("toys")
CPU = Hardware("cpu", "fp32", 1)
FOUR = {
    "words": {"batch_size": 6},
    "pairs": {"head": "cosine", "batch_size": 5, "weight": 0.5},
    "tags": {"batch_size": 4},
    "views": {"kind": "words", "head": "rdrop", "weight": 2.0},
}


def toy_parts(settings, combiner, dropout: float = 0.0) -> Parts:
    """The parts of a configuration, with a toy encoder of always the same weights."""
    torch.manual_seed(3)
    parts = assemble(settings, CPU, encoder=ToyEncoder(dropout=dropout))
    return replace(parts, combiner=combiner)


def reference(parts: Parts, step, combiner) -> tuple[dict, list[torch.Tensor], dict[str, torch.Tensor]]:
    """Losses, clipped shared gradients and head gradients by T plain backwards over separate batches."""
    model = parts.model
    names = list(step.rows)
    part = {
        name: collate(
            model.encoder,
            parts.tasks[name].target,
            model.head(name),
            [parts.train[name].examples[i] for i in rows],
            parts.tasks[name].paired,
        )
        for name, rows in step.rows.items()
    }
    raw = reference_losses(model.encoder, {name: model.head(name) for name in names}, [part])
    losses = {name: loss * parts.weight(name) for name, loss in raw.items()}
    shared = model.shared_parameters()
    flat = torch.stack(list(reference_gradients(losses, shared).values()))  # [T, P]
    heads = {
        f"{name}.{key}": torch.autograd.grad(losses[name], p, retain_graph=True, allow_unused=True)[0]
        for name in names
        for key, p in model.head(name).named_parameters()
    }
    weights = torch.ones(len(names), dtype=torch.float64)
    if combiner == "pcgrad":
        generator = torch.Generator()
        generator.set_state(Training(parts).generator.get_state())
        weights = pcgrad_weights(flat.double() @ flat.double().T, generator)
    whole = (weights @ flat.double()).float()
    norm = math.sqrt(
        float(whole.square().sum()) + sum(float(g.square().sum()) for g in heads.values() if g is not None)
    )
    factor = min(1.0, parts.config.optim.max_norm / (norm + 1e-6)) if parts.config.optim.max_norm else 1.0
    pieces, at = [], 0
    for p in shared:
        pieces.append(whole[at : at + p.numel()].view_as(p) * factor)
        at += p.numel()
    return {n: v.item() for n, v in losses.items()}, pieces, {k: g * factor for k, g in heads.items() if g is not None}


def record_gradients(training: Training) -> list[dict[str, torch.Tensor]]:
    """The gradients that each optimizer step saw."""
    seen: list[dict[str, torch.Tensor]] = []

    def look(optimizer, *_):
        named = training.parts.model.named_parameters()
        seen.append({name: p.grad.clone() for name, p in named if p.grad is not None})

    training.optimizer.register_step_pre_hook(look)
    return seen


@pytest.mark.parametrize("max_norm", [0.0, 0.05])
@pytest.mark.parametrize("combiner", ["sum", "pcgrad"])
def test_a_fused_step_has_the_reference_s_gradients(combiner, max_norm):
    made = {"sum": Sum, "pcgrad": PCGrad}[combiner]()
    parts = toy_parts(still(FOUR, optim={"max_norm": max_norm}), made)
    step = parts.plan.steps(parts.train, 0)[0]
    assert set(step.rows) == set(FOUR)
    losses, shared, heads = reference(parts, step, combiner)
    training = Training(parts)
    seen = record_gradients(training)
    done = next(training.run())
    assert done.losses == pytest.approx(losses, rel=1e-5)
    names = {id(p): name for name, p in parts.model.named_parameters()}
    for p, wanted in zip(parts.model.shared_parameters(), shared, strict=True):
        torch.testing.assert_close(seen[0][names[id(p)]], wanted, rtol=1e-4, atol=1e-6)
    assert heads
    for name, wanted in heads.items():
        torch.testing.assert_close(seen[0][f"heads.{name}"], wanted, rtol=1e-4, atol=1e-6)
    if combiner == "pcgrad" and max_norm == 0.0:
        plain = reference(parts, step, "sum")[1]
        assert done.report.conflicts is not None and done.report.gram is not None
        if done.report.conflicts:
            assert any(not torch.allclose(a, b) for a, b in zip(shared, plain, strict=True))


@pytest.mark.parametrize("accumulate", [2, 3])
@pytest.mark.parametrize("combiner", [Sum, PCGrad])
def test_accumulation_changes_nothing(combiner, accumulate):
    runs = []
    for parts in (1, accumulate):
        training = Training(toy_parts(still(FOUR, train={"accumulate": parts}), combiner()))
        seen = record_gradients(training)
        runs.append((list(training.run()), seen))
    (whole, one), (split, two) = runs
    assert len(one) == len(two) > 10
    for a, b in zip(whole, split, strict=True):
        if isinstance(a, StepDone):
            assert a.losses == pytest.approx(b.losses, rel=1e-3)
            assert a.rows == b.rows
    for a, b in zip(one[:3], two[:3], strict=True):  # later on, rounding grows
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-5)


def test_a_loss_is_the_mean_over_the_step_s_labelled_items():
    parts = toy_parts(still(FOUR), Sum())
    step = parts.plan.steps(parts.train, 0)[0]
    batches = step.micro_batches(parts.train, 0, 3)
    labelled = {n: sum(parts.train[n].examples[i].label is not None for i in rows) for n, rows in step.rows.items()}
    counts = label_counts(batches)
    assert {n: counts[n] for n in ("words", "pairs", "views")} == {n: labelled[n] for n in ("words", "pairs", "views")}
    tagged = [parts.train["tags"].examples[i] for i in step.rows["tags"]]
    assert counts["tags"] == sum(len(row.text.split()) for row in tagged if row.label is not None)


# ---------------------------------------------------------------------------------------------- seeds and states


def trained(settings, combiner=None, dropout: float = 0.3) -> tuple[list, Training]:
    parts = toy_parts(settings, combiner or Sum(), dropout)
    with torch.random.fork_rng():
        torch.manual_seed(settings.train.seed)
        training = Training(parts)
        return list(training.run()), training


def figures(events: list) -> list:
    return [(e.losses, e.lr) if isinstance(e, StepDone) else getattr(e, "scores", e) for e in events]


def test_a_seed_fixes_losses_and_weights():
    (one, a) = trained(config())
    (two, b) = trained(config())
    (other, c) = trained(config(train={"seed": 2}))
    assert figures(one) == figures(two)
    assert figures(one) != figures(other)
    pairs = zip(a.parts.model.parameters(), b.parts.model.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    assert not all(
        torch.equal(p, q) for p, q in zip(a.parts.model.parameters(), c.parts.model.parameters(), strict=True)
    )


def test_the_state_goes_on_where_it_was_taken():
    settings = config(train={"epochs": 2})
    whole, _ = trained(settings, Stateful())
    training = Training(toy_parts(settings, Stateful(), 0.3))
    torch.manual_seed(settings.train.seed)
    first = []
    for event in training.run():
        first.append(event)
        if len(first) == 3:
            break
    state, weights = training.state_dict(), {k: v.clone() for k, v in training.parts.model.state_dict().items()}
    torch.rand(7)
    again = Training(toy_parts(settings, Stateful(), 0.3))
    again.parts.model.load_state_dict(weights)
    again.load_state_dict(state)
    assert figures(first + list(again.run())) == figures(whole)


def test_moments_find_their_parameters_whatever_the_order_of_the_groups():
    settings = config(train={"epochs": 2}, optim={"layer_decay": 0.5, "head_lr": 0.1})
    whole, done = trained(settings)
    training = Training(toy_parts(settings, Sum(), 0.3))
    torch.manual_seed(settings.train.seed)
    first = [event for _, event in zip(range(4), training.run(), strict=False)]
    state, weights = training.state_dict(), {k: v.clone() for k, v in training.parts.model.state_dict().items()}
    again = Training(toy_parts(settings, Sum(), 0.3))
    again.optimizer.param_groups.reverse()
    for group in again.optimizer.param_groups:
        group["params"].reverse()
    again.parts.model.load_state_dict(weights)
    again.load_state_dict({**state, "moments": dict(reversed(state["moments"].items()))})
    assert figures(first + list(again.run())) == figures(whole)
    for key, tensor in done.parts.model.state_dict().items():
        assert torch.equal(again.parts.model.state_dict()[key], tensor)


def test_moments_that_have_no_place_are_no_exact_resume():
    training = Training(toy_parts(config(), Sum()))
    next(training.run())
    state = training.state_dict()
    with pytest.raises(CheckpointError, match=r"heads\.tags"):
        Training(toy_parts(config({"words": {}, "pairs": {"head": "cosine"}}), Sum())).load_state_dict(state)


# ---------------------------------------------------------------------------------------------- when it ends


def ends(settings) -> tuple[list[StepDone], list[EpochDone], Finished]:
    events, _ = trained(settings)
    steps = [e for e in events if isinstance(e, StepDone)]
    epochs = [e for e in events if isinstance(e, EpochDone)]
    assert isinstance(events[-1], Finished)
    return steps, epochs, events[-1]


def test_all_epochs():
    steps, epochs, finished = ends(config())
    assert finished.reason == "epochs"
    assert [e.epoch for e in epochs] == [0, 1, 2] and [e.done for e in epochs] == [5, 10, 15]
    assert [(s.step, s.steps, s.done, s.total) for s in steps[4:7]] == [(5, 5, 5, 15), (1, 5, 6, 15), (2, 5, 7, 15)]
    assert all(set(e.losses) == {"words", "pairs", "tags"} for e in epochs)
    of_words = [s.losses["words"] for s in steps[5:10]]
    assert epochs[1].losses["words"] == pytest.approx(sum(of_words) / 5)
    assert epochs[1].rows == sum(s.rows for s in steps[5:10]) == 13 + 13 + 10


@pytest.mark.parametrize(("bound", "last"), [(1, [1]), (5, [5]), (7, [5, 7]), (15, [5, 10, 15]), (99, [5, 10, 15])])
def test_max_steps(bound, last):
    steps, epochs, finished = ends(config(train={"max_steps": bound}))
    assert len(steps) == min(bound, 15)
    assert [e.done for e in epochs] == last  # what is left of an epoch is scored, too
    assert finished.reason == ("epochs" if bound >= 15 else "max_steps")
    assert steps[-1].lr > 0


def test_the_learning_rate_follows_the_schedule():
    steps, _, _ = ends(config(scheduler="linear:warmup=5", train={"max_steps": 10}, optim={"lr": 1.0}))
    assert [s.lr for s in steps] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2])


SCRIPT = {"a": {"kind": "scripted", "script": [1.0, 3.0, 2.0, 2.5, 9.0, 9.0]}, "words": {}}


@pytest.mark.parametrize(
    ("train", "best", "epochs"),
    [
        ({"patience": 2}, [True, True, False, False], 4),
        ({"patience": 1}, [True, True, False], 3),
        ({"patience": 3}, [True, True, False, False, True, False], 6),
        ({"patience": 0}, [True, True, False, False, True, False], 6),
    ],
)
def test_patience(train, best, epochs):
    _, done, finished = ends(config(SCRIPT, train={"epochs": 6, "select_on": "a.scripted", **train}))
    assert [e.is_best for e in done] == best
    assert finished.reason == ("epochs" if epochs == 6 else "patience")
    assert [e.selected for e in done] == [1.0, 3.0, 2.0, 2.5, 9.0, 9.0][:epochs]


def test_a_score_that_is_no_number_is_worse_than_any():
    tasks = {"a": {"kind": "scripted", "script": [math.nan, -1.0, math.nan, 2.0]}}
    _, done, _ = ends(config(tasks, train={"epochs": 4, "select_on": "a.scripted"}))
    assert [e.is_best for e in done] == [True, True, False, True]


def test_scores_that_are_no_numbers_are_no_better_than_each_other_and_end_the_run():
    tasks = {"a": {"kind": "scripted", "script": [math.nan] * 5}}
    _, done, finished = ends(config(tasks, train={"epochs": 5, "select_on": "a.scripted", "patience": 2}))
    assert [e.is_best for e in done] == [True, False, False] and finished.reason == "patience"


@pytest.mark.parametrize(
    ("script", "gain", "patience", "best", "reason"),
    [
        # 1.8 is the second score that counts, 2.3 is no more than 0.5 above it
        ([1.0, 1.4, 1.8, 2.2, 2.3, 9.0], 0.5, 2, [True, True, True, True, True], "patience"),
        ([1.0, 1.5, 9.0], 0.5, 1, [True, True], "patience"),  # a rise of just so much is not enough
        ([1.0, 1.5, 9.0], 0.25, 1, [True, True, True], "epochs"),
        ([1.0, 1.1, 1.2, 1.3], 0.5, 0, [True, True, True, True], "epochs"),
        ([1.0, 1.1, 1.0, 1.2], 0.0, 1, [True, True, False], "patience"),
        ([math.nan, 1.0, math.nan, 1.2, 9.0], 0.5, 2, [True, True, False, True], "patience"),
        ([-9.0, -8.0, -8.0, 0.0], 0.5, 1, [True, True, False], "patience"),
    ],
)
def test_a_gain_that_is_too_small_does_not_count(script, gain, patience, best, reason):
    tasks = {"a": {"kind": "scripted", "script": script}}
    train = {"epochs": len(script), "select_on": "a.scripted", "patience": patience, "min_gain": gain}
    training = Training(toy_parts(config(tasks, train=train), Sum()))
    events = list(training.run())
    assert [e.is_best for e in events if isinstance(e, EpochDone)] == best
    assert events[-1].reason == reason
    assert training.position.best_epoch == max(i for i, is_best in enumerate(best) if is_best)


def test_a_task_s_score_ends_the_run_and_leaves_the_schedule_alone():
    tasks = {"a": {"kind": "scripted", "script": [1.0, 2.0, 2.05, 2.1, 3.0, 4.0], "main": True}, "words": {}}
    train = {"epochs": 6, "select_on": "a", "patience": 2}
    settings = {"scheduler": "linear:warmup=0.25", "optim": {"lr": 1.0}}
    steps, epochs, finished = ends(config(tasks, train={**train, "min_gain": 0.2}, **settings))
    assert [e.selected for e in epochs] == [1.0, 2.0, 2.05, 2.1] and finished == Finished("patience")
    assert [e.selected for e in epochs] == [e.scores.tasks["a"]["scripted"] for e in epochs]
    assert all(e.selected != e.scores.aggregate for e in epochs)
    whole, all_epochs, _ = ends(config(tasks, train=train, **settings))
    assert len(all_epochs) == 6 and len(whole) > len(steps)
    assert [s.lr for s in steps] == [s.lr for s in whole][: len(steps)]
    assert {s.total for s in steps} == {len(whole)}  # the rate falls towards the end that was planned


def test_select_on():
    scores = Scores({"a": {"x": 1.0, "y": 2.0}, "b": {"z": 4.0}}, {"a": "x", "b": "z"})
    assert scores.aggregate == 2.5
    assert [scores.pick(s) for s in ("aggregate", "a", "a.x", "a.y", "b")] == [2.5, 1.0, 1.0, 2.0, 4.0]
    _, done, _ = ends(config(train={"select_on": "words", "epochs": 1}))
    assert done[0].selected == done[0].scores.tasks["words"]["accuracy"]


# ---------------------------------------------------------------------------------------------- training rows scored


LABELLED = {"words": 22, "pairs": 16, "tags": 9}  # of 24, 17 and 10: every ninth has no label


def scored_rows(monkeypatch, settings) -> list[dict[str, list[str]]]:
    """The ids of the training rows that were scored after each epoch, by task."""
    seen: list[dict[str, list[str]]] = []
    real = mtk.training.evaluate

    def evaluate(model, tasks, rows, hardware):
        if not any(part is own for part in rows.values() for own in training.parts.dev.values()):
            seen.append({name: [example.id for example in part.examples] for name, part in rows.items()})
        return real(model, tasks, rows, hardware)

    monkeypatch.setattr(mtk.training, "evaluate", evaluate)
    training = Training(toy_parts(settings, Sum()))
    list(training.run())
    return seen


@pytest.mark.parametrize("some", [1, 5, 22, 1000])
def test_scored_training_rows_are_the_same_ones_every_epoch(monkeypatch, some):
    one, two, three = scored_rows(monkeypatch, config(train={"score_train": some}))
    assert one == two == three
    assert {name: len(ids) for name, ids in one.items()} == {name: min(some, n) for name, n in LABELLED.items()}
    for ids in one.values():
        assert len(set(ids)) == len(ids) and not {"8", "17"} & set(ids)
        assert ids == sorted(ids, key=int)


def test_scored_training_rows_are_drawn_by_the_seed_and_more_hold_fewer(monkeypatch):
    few, more, other = (
        scored_rows(monkeypatch, config(train={"epochs": 1, "score_train": some, "seed": seed}))[0]
        for some, seed in ((5, 1), (9, 1), (5, 2))
    )
    assert few != other
    assert all(set(few[name]) < set(more[name]) for name in ("words", "pairs"))
    one = scored_rows(monkeypatch, config({"words": {"batch_size": 3}}, train={"epochs": 1, "score_train": 5}))[0]
    assert one["words"] == few["words"]  # another task changes nobody's


@pytest.mark.parametrize("step", ["all", "one"])
def test_scoring_training_rows_draws_nothing(step):
    runs = []
    for some in (0, 5, 1000):
        events, training = trained(config(combiner="sum", train={"score_train": some, "step": step}), dropout=0.4)
        runs.append((events, training.state_dict(), training.parts.model.state_dict()))
    assert [e.train_scores is None for e in runs[0][0] if isinstance(e, EpochDone)] == [True] * 3
    for events, state, weights in runs[1:]:
        assert all(set(e.train_scores.tasks) == set(LABELLED) for e in events if isinstance(e, EpochDone))
        assert figures(events) == figures(runs[0][0])
        assert all(torch.equal(tensor, runs[0][2][key]) for key, tensor in weights.items())
        assert torch.equal(state["rng"]["cpu"], runs[0][1]["rng"]["cpu"])
        assert torch.equal(state["generator"], runs[0][1]["generator"])


def test_training_rows_are_scored_without_dropout_after_the_epoch():
    parts = toy_parts(config(train={"score_train": 1000, "epochs": 1}), Sum(), dropout=0.5)
    *_, done, _ = Training(parts).run()
    labelled = {
        name: rows.take(np.flatnonzero([example.label is not None for example in rows.examples]))
        for name, rows in parts.train.items()
    }
    assert done.train_scores == evaluate(parts.model, parts.tasks, labelled, CPU)
    assert done.train_scores != done.scores and parts.model.training


def test_what_has_no_labels_is_not_scored():
    tasks = {"words": {}, "tags": {}, "pairs": {"head": "cosine", "trained": False}}
    parts = toy_parts(config(tasks, train={"score_train": 3, "epochs": 1}), Sum())
    parts.train["tags"] = replace(
        parts.train["tags"], examples=[replace(example, label=None) for example in parts.train["tags"].examples]
    )
    *_, done, _ = Training(parts).run()
    assert set(done.train_scores.tasks) == {"words"}  # pairs are only evaluated
    for name, rows in parts.train.items():
        parts.train[name] = replace(rows, examples=[replace(example, label=None) for example in rows.examples])
    *_, done, _ = Training(parts).run()
    assert done.train_scores is None


# ---------------------------------------------------------------------------------------------- tasks


def test_a_task_that_is_only_evaluated():
    settings = config({"words": {}, "pairs": {"head": "cosine", "trained": False}})
    parts = toy_parts(settings, Sum())
    before = {k: v.clone() for k, v in parts.model.heads["pairs"].state_dict().items()}
    training = Training(parts)
    events = list(training.run())
    assert set(parts.train) == {"words"} and set(parts.dev) == {"words", "pairs"}
    assert all(set(e.losses) == {"words"} for e in events if isinstance(e, StepDone))
    assert set(events[-2].scores.tasks) == {"words", "pairs"}
    for key, tensor in parts.model.heads["pairs"].state_dict().items():
        assert torch.equal(tensor, before[key])


def test_the_plugin_says_whether_a_task_is_trained_and_the_run_may_disagree():
    quiet = {"kind": "words", "head": "linear"}
    one = assemble(config({"words": {}, "b": {**quiet, "trained": False}}), CPU)
    assert set(one.train) == {"words"}
    both = assemble(config({"words": {}, "b": quiet}), CPU)
    assert set(both.train) == {"words", "b"}


@pytest.mark.parametrize("combiner", [Sum, PCGrad])
def test_a_weight_of_zero_leaves_only_weight_decay(combiner):
    decay, lr = 0.1, 0.01
    settings = still(
        {"words": {}, "tags": {"weight": 0.0}},
        scheduler="constant",
        optim={"weight_decay": decay, "lr": lr},
    )
    parts = toy_parts(settings, combiner())
    head = parts.model.heads["tags"].out
    weight, bias = head.weight.detach().clone(), head.bias.detach().clone()
    training = Training(parts)
    events = list(training.run())
    present = sum("tags" in e.losses for e in events if isinstance(e, StepDone))
    torch.testing.assert_close(head.weight, weight * (1 - lr * decay) ** present)
    assert torch.equal(head.bias, bias)


def test_a_weight_scales_the_loss():
    losses = []
    for weight in (1.0, 3.0):
        training = Training(toy_parts(still({"words": {"weight": weight}}), Sum()))
        losses.append(next(training.run()).losses["words"])
    assert losses[1] == pytest.approx(3 * losses[0], rel=1e-5)


def test_one_task_a_step():
    steps, _, _ = ends(config(train={"step": "one"}))
    assert all(len(s.losses) == 1 for s in steps)
    assert len(steps) == 3 * (5 + 4 + 3)


def test_a_frozen_encoder_is_left_alone_and_may_thaw():
    for combiner in (Sum(), PCGrad(), Stateful()):
        parts = toy_parts(config(), combiner)
        for p in parts.model.encoder.parameters():
            p.requires_grad_(False)
        before = {k: v.clone() for k, v in parts.model.state_dict().items()}
        training = Training(parts)
        assert parts.model.shared_parameters() == []
        list(training.run())
        for key, tensor in parts.model.state_dict().items():
            assert torch.equal(tensor, before[key]) == key.startswith("encoder."), key
        assert not any(name.startswith("encoder.") for name in training.state_dict()["moments"])


def test_a_shared_projection_takes_part():
    parts = toy_parts(config({"words": {}, "pairs": {"head": "linear"}}), PCGrad())
    parts = replace(parts, model=MultitaskModel(parts.model.encoder, dict(parts.model.heads.items()), nn.Linear(8, 8)))
    before = parts.model.projection.weight.detach().clone()
    list(Training(parts).run())
    assert not torch.equal(parts.model.projection.weight, before)


# ---------------------------------------------------------------------------------------------- second look


class Watching(ToyFAMO):
    """Keeps both looks."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[tuple[torch.Tensor, torch.Tensor]] = []

    def after_step(self, losses_again: torch.Tensor, info: StepInfo) -> None:
        self.looks.append((self.before.clone(), losses_again.clone()))
        super().after_step(losses_again, info)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_second_look_has_the_same_dropout(accumulate):
    # with a learning rate too small for float32 nothing moves, and any difference would be dropout's
    combiner = Watching()
    settings = config(optim={"lr": 1e-30}, train={"accumulate": accumulate})
    trained(settings, combiner, dropout=0.5)
    assert len(combiner.looks) == 15
    assert all(torch.equal(first, again) for first, again in combiner.looks)
    combiner = Watching()
    trained(config(), combiner, dropout=0.5)
    assert all(not torch.equal(first, again) for first, again in combiner.looks)


def test_the_second_look_does_not_disturb_the_dropout_of_the_next_step():
    class Deaf(ToyFAMO):
        looks_again = False

        def loss_weights(self, losses, info):
            return torch.ones(len(info.tasks))

    class Looking(Deaf):
        looks_again = True

        def after_step(self, losses_again, info):
            assert not losses_again.requires_grad

    one, _ = trained(config(), Deaf())
    two, _ = trained(config(), Looking())
    assert figures(one) == figures(two)


def test_an_epoch_begins_with_the_parameters_that_are_shared_then(monkeypatch):
    counts = []
    real = GradientEngine.__init__

    def init(self, shared, *args, **more):
        counts.append(len(shared))
        real(self, shared, *args, **more)

    monkeypatch.setattr(GradientEngine, "__init__", init)
    parts = toy_parts(config(train={"epochs": 2}), PCGrad())
    parts.model.encoder.words.weight.requires_grad_(False)
    for event in Training(parts).run():
        if isinstance(event, EpochDone):
            parts.model.encoder.words.weight.requires_grad_(True)
    assert counts == [2, 3]
