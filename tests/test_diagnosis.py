"""What a run tells of its gradients: norms, cosines and conflicts; and what it does when one is not finite."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from mtk import session
from mtk.assembly import assemble
from mtk.data import Step
from mtk.device import Hardware
from mtk.errors import MTKError
from mtk.gradients import GradientReport
from mtk.run import RunFolder, diagnosis
from mtk.training import StepDone, Training
from mtk_combiners.famo import FAMO
from mtk_combiners.pcgrad import PCGrad
from mtk_combiners.sum import Sum
from mtk_combiners.uncertainty import Uncertainty
from mtk_encoders.tiny import tiny_bert
from tests.test_training import FOUR, toy_parts
from tests.toy_plugin import config

pytestmark = pytest.mark.usefixtures("toys")
torch.set_num_threads(1)


def settings(tasks=FOUR, combiner="sum", **train):
    return config(tasks, combiner=combiner, train=train)


def steps_of(training: Training) -> list[StepDone]:
    return [event for event in training.run() if isinstance(event, StepDone)]


def metrics(folder: RunFolder) -> list[dict]:
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == "step"]


# ---------------------------------------------------------------------------------------------- diagnosis


def test_by_hand() -> None:
    gram = torch.tensor([[4.0, -3.0, 0.0], [-3.0, 9.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    found = diagnosis(GradientReport(("a", "b", "c"), torch.ones(3), gram))
    assert found["norms"] == {"a": 2.0, "b": 3.0, "c": 0.0}
    assert found["cosines"] == {"a|b": -0.5, "a|c": None, "b|c": None}
    assert found["conflict_rate"] == 1.0
    assert diagnosis(GradientReport(("a",), torch.ones(1))) == {}


@pytest.mark.parametrize("combiner", ["sum", "pcgrad", "uncertainty", "graddrop", "toy-famo"])
def test_every_combiner_is_diagnosed(combiner, tmp_path) -> None:
    """A Gramian combiner at every step, others at every n-th; norms are those of the unweighted losses."""
    run = session.start(settings(combiner=combiner, diagnose_every=3, diagnose="layers"), tmp_path / "run")
    for _ in run.run():
        pass
    lines = metrics(run.folder)
    told = [line["done"] for line in lines if "cosines" in line]
    sampled = [line["done"] for line in lines if line["done"] % 3 == 1 and len(line["weights"]) > 1]
    assert told == ([line["done"] for line in lines] if combiner == "pcgrad" else sampled)
    first = lines[0]
    assert set(first["norms"]) == set(FOUR) and len(first["cosines"]) == 6
    assert all(abs(cosine) <= 1 + 1e-6 for cosine in first["cosines"].values())
    assert first["conflict_rate"] == sum(c < 0 for c in first["cosines"].values()) / 6
    assert first["conflicts"] == round(first["conflict_rate"] * 6)
    layers = first["layers"]
    for name in FOUR:  # the layers' squares add up to the whole
        whole = math.sqrt(sum(layer["norms"][name] ** 2 for layer in layers.values()))
        assert whole == pytest.approx(first["norms"][name], rel=1e-4)


def test_first_norms_do_not_depend_on_the_combiner(tmp_path) -> None:
    found = {}
    weights = {"name": "weighted", "weights": {"words": 1, "pairs": 2, "tags": 0.25, "views": 3}}
    for combiner in ("sum", "uncertainty", "pcgrad", "gradnorm", weights):
        run = session.start(settings(combiner=combiner, max_steps=1), tmp_path / str(len(found)))
        for _ in run.run():
            pass
        found[str(combiner)] = metrics(run.folder)[0]["norms"]
    for name, norms in found.items():
        assert norms == pytest.approx(found["sum"], rel=1e-4), name


def test_none_is_none(tmp_path) -> None:
    run = session.start(settings(diagnose="none"), tmp_path / "run")
    for _ in run.run():
        pass
    assert not any("cosines" in line for line in metrics(run.folder))


@pytest.mark.parametrize("make", [Sum, Uncertainty, FAMO])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_diagnosed_run_is_the_same_run(make, accumulate) -> None:
    ends = []
    for diagnose in ("whole", "none"):
        chosen = settings(diagnose=diagnose, diagnose_every=1, accumulate=accumulate)
        parts = toy_parts(chosen, make(), dropout=0.2)
        torch.manual_seed(5)
        steps = steps_of(Training(parts))
        assert all((step.report.gram is not None) is (diagnose == "whole") for step in steps if len(step.losses) > 1)
        ends.append((torch.nn.utils.parameters_to_vector(parts.model.parameters()), [step.losses for step in steps]))
    torch.testing.assert_close(ends[0][0], ends[1][0], rtol=1e-3, atol=1e-5)
    for one, two in zip(ends[0][1], ends[1][1], strict=True):
        assert one == pytest.approx(two, rel=1e-3)


def test_the_layers_of_our_bert() -> None:
    chosen = settings(combiner="pcgrad", diagnose="layers", diagnose_every=1, max_steps=1)
    parts = assemble(chosen, Hardware("cpu", "fp32", 1), encoder=tiny_bert())
    (step,) = steps_of(Training(parts))
    assert list(step.report.layers) == ["embeddings", "encoder.layer.0", "encoder.layer.1"]
    torch.testing.assert_close(sum(step.report.layers.values()), step.report.gram)


# ---------------------------------------------------------------------------------------------- not finite


def spoil(training: Training, task: str, at: int, what: str) -> None:
    """In the `at`-th step a task's loss is infinite, or finite with a gradient that is not."""
    head = training.parts.model.head(task)
    plain = head.loss

    def loss(outputs, targets):
        value = plain(outputs, targets)
        if training.position.done != at - 1:
            return value
        return value * math.inf if what == "loss" else value + (value - value.detach()).abs().sqrt()

    head.loss = loss


COMBINERS = [Sum, PCGrad, Uncertainty, FAMO]


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("make", COMBINERS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_stop_names_the_task(make, what, accumulate) -> None:
    training = Training(toy_parts(settings(accumulate=accumulate), make()))
    spoil(training, "pairs", 1, what)
    with pytest.raises(MTKError, match=r"of task pairs is not finite at step 1 \(epoch 1\).*--nonfinite skip"):
        steps_of(training)
    assert training.position.done == 0


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("make", COMBINERS)
def test_skip_lets_the_task_sit_out(make, what, tmp_path) -> None:
    """The step equals one in which the task was absent; the run goes on, and its record says so."""
    parts = toy_parts(settings(nonfinite="skip", max_steps=4, diagnose="none"), make())
    training = Training(parts)
    spoil(training, "pairs", 2, what)
    steps = steps_of(training)
    assert [step.left_out for step in steps] == [(), ("pairs",), (), ()]
    assert set(steps[1].losses) == {name for name in FOUR if name != "pairs"} and "pairs" in steps[2].losses
    assert all(bool(p.isfinite().all()) for p in parts.model.parameters())
    assert all(math.isfinite(value) for step in steps for value in step.losses.values())


@pytest.mark.parametrize("make", [Sum, PCGrad, Uncertainty])
@pytest.mark.parametrize("task", list(FOUR))
def test_a_skipped_task_is_as_good_as_absent(make, task) -> None:
    """With our BERT, and dropout: bit for bit the step of a batch without the task's rows."""
    ends = []
    for absent in (False, True):
        chosen = settings(nonfinite="skip", max_steps=1, diagnose="none")
        training = Training(replace(assemble(chosen, Hardware("cpu", "fp32", 1), encoder=tiny_bert()), combiner=make()))
        if absent:
            whole = training.parts.plan.steps(training.parts.train, 0)[0]
            step = Step({name: rows for name, rows in whole.rows.items() if name != task})
            torch.manual_seed(3)
            training.parts.model.train()
            training._step(training.engine(), step, 1)
        else:
            spoil(training, task, 1, "gradient")
            torch.manual_seed(3)
            (done,) = steps_of(training)
            assert done.left_out == (task,)
        ends.append([p.detach().clone() for p in training.parts.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_layers_of_steps_of_one_task_are_refused() -> None:
    with pytest.raises(MTKError, match="--diagnose layers with --step one"):
        assemble(settings(diagnose="layers", step="one"), Hardware("cpu", "fp32", 1), encoder=tiny_bert())


def test_skip_is_in_the_metrics_and_a_step_of_nothing_moves_nothing(tmp_path) -> None:
    run = session.start(settings({"words": {}}, nonfinite="skip", max_steps=3), tmp_path / "run")
    spoil(run.training, "words", 2, "gradient")
    before, weights = [], []
    for event in run.run():
        if isinstance(event, StepDone):
            weights.append(torch.nn.utils.parameters_to_vector(run.parts.model.parameters()).clone())
            before.append(event)
    assert [event.rows > 0 for event in before] == [True, False, True]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    assert [line.get("left_out") for line in metrics(run.folder)] == [None, ["words"], None]
