"""The model: one encoder pass for all tasks, and what is shared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mtk.data import fuse, tokenise
from mtk.model import MultitaskModel
from mtk.targets import Classes, Range
from tests import toy_plugin
from tests.toys import (
    ToyContrast,
    ToyCosine,
    ToyEncoder,
    ToyLinear,
    ToyPairs,
    ToyRDrop,
    ToyTagger,
    ToyTags,
    collate,
    reference_losses,
)

SETUPS = {
    "cross": (ToyLinear, Classes(["no", "yes"]), lambda a, b: len(a) % 2, True),
    "bi": (ToyCosine, Range(0, 5), lambda a, b: float(len(a) % 5), True),
    "tags": (ToyTagger, ToyTags(), lambda a, b: [len(w) % 3 for w in a.split()], False),
    "contrast": (ToyContrast, ToyPairs(), lambda a, b: None, True),
    "rdrop": (ToyRDrop, Classes(["no", "yes"]), lambda a, b: len(a) % 2, False),
}


@pytest.fixture
def world():
    torch.manual_seed(0)
    encoder = ToyEncoder()
    heads = {name: head(8, target) for name, (head, target, _, _) in SETUPS.items()}
    rows = {
        name: tokenise(encoder, heads[name], paired, toy_plugin.examples(9, name, label, paired), 64)
        for name, (_, _, label, paired) in SETUPS.items()
    }
    return MultitaskModel(encoder, heads), rows


def test_losses_of_a_fused_batch_equal_those_of_separate_ones(world):
    model, rows = world
    chosen = {name: np.array([4, 8, 1]) for name in rows}  # row 8 has no label
    batch = fuse(rows, chosen, 0)
    found = model.losses(batch, model(batch))
    step = {
        name: collate(model.encoder, target, model.head(name), [rows[name].examples[i] for i in chosen[name]], paired)
        for name, (_, target, _, paired) in SETUPS.items()
    }
    wanted = reference_losses(model.encoder, dict(model.heads.items()), [step])
    assert list(found) == list(SETUPS)
    for name, loss in found.items():
        torch.testing.assert_close(loss / batch.slices[name].targets.count, wanted[name])


def test_only_the_tasks_of_the_batch_have_outputs(world):
    model, rows = world
    assert list(model(fuse(rows, {"bi": np.array([0])}, 0))) == ["bi"]


def test_shared_parameters_follow_freezing(world):
    model, _ = world
    assert {id(p) for p in model.shared_parameters()} == {id(p) for p in model.encoder.parameters()}
    model.encoder.words.weight.requires_grad_(False)
    assert len(model.shared_parameters()) == 2
    model.heads["bi"].out.bias.requires_grad_(False)
    assert {name: len(p) for name, p in model.head_parameters().items()}["bi"] == 1


def test_a_projection_is_shared(world):
    model, rows = world
    projected = MultitaskModel(model.encoder, dict(model.heads.items()), nn.Linear(8, 8))
    assert len(projected.shared_parameters()) == len(model.shared_parameters()) + 2
    batch = fuse(rows, {"cross": np.array([0, 1]), "tags": np.array([2])}, 0)
    plain, other = model(batch), projected(batch)
    assert not torch.allclose(plain["cross"], other["cross"])
    assert not torch.allclose(plain["tags"], other["tags"])  # token features pass through it as well
    shared, _ = projected.parameter_counts()
    assert shared == model.parameter_counts()[0] + 72


def test_parameter_counts(world):
    model, _ = world
    shared, heads = model.parameter_counts()
    assert shared == 100 * 8 + 8 * 8 + 8
    assert heads == {"cross": 18, "bi": 9, "tags": 27, "contrast": 18, "rdrop": 18}
