"""The interfaces on toys: one reference step serves every kind of head, target and combiner without a special case."""

from __future__ import annotations

import pytest
import torch

from mtk.interfaces import Example, Progress, StepInfo
from mtk.targets import Classes, Range
from tests.toys import (
    ToyContrast,
    ToyCosine,
    ToyEncoder,
    ToyFAMO,
    ToyLinear,
    ToyPairs,
    ToyRDrop,
    ToyTagger,
    ToyTags,
    collate,
    reference_gradients,
    reference_losses,
)

TEXTS = ["a fine day", "rain", "two dogs run over there", "the end of it", "yes indeed", "why not now"]


def rows(labels, paired=False):
    pairs = TEXTS[1:] + TEXTS[:1]
    return [
        Example(str(i), text, pairs[i] if paired else None, label)
        for i, (text, label) in enumerate(zip(TEXTS, labels, strict=False))
    ]


def tags():
    target = ToyTags()
    return [Example(str(i), text, None, [i % 3] * len(text.split())) for i, text in enumerate(TEXTS)], target


@pytest.fixture
def world():
    torch.manual_seed(0)
    encoder = ToyEncoder()
    setups = {
        "cross": (ToyLinear, Classes(["no", "yes"]), rows([0, 1, None, 1, 0, 1], True), True),
        "bi": (ToyCosine, Range(0, 5), rows([0.5, 4.2, 3, None, 5, 0], True), True),
        "tags": (ToyTagger, tags()[1], tags()[0], False),
        "pairs": (ToyContrast, ToyPairs(), rows([None] * 6, True), True),
        "rdrop": (ToyRDrop, Classes(["no", "yes"]), rows([0, 1, 1, 1, 0, None]), False),
    }
    heads = {name: head(8, target) for name, (head, target, _, _) in setups.items()}

    def micro(names, start, stop):
        return {
            name: collate(encoder, setups[name][1], heads[name], setups[name][2][start:stop], setups[name][3])
            for name in names
        }

    return encoder, heads, micro


def test_every_kind_of_task_shares_one_step(world):
    encoder, heads, micro = world
    losses = reference_losses(encoder, heads, [micro(heads, 0, 6)])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_accumulation_missing_labels_and_tagging_add_up(world):
    encoder, heads, micro = world
    names = ["cross", "bi", "tags", "rdrop"]  # in-batch negatives depend on the micro-batch by definition
    whole = reference_losses(encoder, heads, [micro(names, 0, 6)])
    parts = reference_losses(encoder, heads, [micro(names, 0, 1), micro(names, 1, 4), micro(names, 4, 6)])
    for name in names:
        torch.testing.assert_close(parts[name], whole[name])


def test_an_absent_task_is_not_in_the_step(world):
    encoder, heads, micro = world
    losses = reference_losses(encoder, heads, [micro(["cross", "bi"], 0, 2), micro(["bi"], 2, 4)])
    assert set(losses) == {"cross", "bi"}


def test_a_row_without_labels_counts_for_nothing(world):
    encoder, heads, micro = world
    losses = reference_losses(encoder, heads, [micro(["cross"], 2, 3)])
    assert losses["cross"] == 0


def test_token_predictions_need_no_labels(world):
    encoder, heads, micro = world
    part = micro(["tags"], 0, 6)["tags"]
    predictions = heads["tags"].predict(heads["tags"](*[encoder(t) for t in part.tokens]), part.targets)
    assert [len(p.value) for p in predictions] == [len(text.split()) for text in TEXTS]


def test_rdrop_sees_two_different_views():
    torch.manual_seed(0)
    encoder, target = ToyEncoder(dropout=0.5), Classes(["no", "yes"])
    head = ToyRDrop(8, target)
    part = collate(encoder, target, head, rows([0, 1, 0, 1, 0, 1]), False)
    one, two = head(*[encoder(tokens) for tokens in part.tokens])
    assert not torch.equal(one, two)
    encoder.eval()
    one, two = head(*[encoder(tokens) for tokens in part.tokens])
    torch.testing.assert_close(one, two)


def test_famo_looks_a_second_time_with_the_same_dropout(world):
    _, heads, _ = world
    torch.manual_seed(1)
    encoder = ToyEncoder(dropout=0.3)
    target = heads["cross"].target
    part = {name: collate(encoder, target, heads[name], rows([0, 1, 1, 0, 1, 0]), False) for name in ("cross", "rdrop")}
    optimizer = torch.optim.SGD([*encoder.parameters(), *heads["cross"].parameters()], lr=0.0)
    combiner, info = ToyFAMO(), StepInfo(("cross", "rdrop"), 0, 0, torch.Generator())
    state = torch.get_rng_state()
    losses = reference_losses(encoder, heads, [part])
    weights = combiner.loss_weights(torch.stack([loss.detach() for loss in losses.values()]), info)
    sum(w * loss for w, loss in zip(weights, losses.values(), strict=True)).backward()
    optimizer.step()
    torch.set_rng_state(state)
    with torch.no_grad():
        again = reference_losses(encoder, heads, [part])
    combiner.after_step(torch.stack(list(again.values())), info)
    assert combiner.logits == {"cross": 0.0, "rdrop": 0.0}  # a learning rate of 0 and the same dropout change nothing
    other = ToyFAMO()
    other.load_state_dict(combiner.state_dict())
    assert other.logits == combiner.logits


def test_a_frozen_encoder_thaws(world):
    encoder, heads, micro = world
    encoder.requires_grad_(False)
    shared = [p for p in encoder.parameters() if p.requires_grad]
    losses = reference_losses(encoder, heads, [micro(["cross"], 0, 6)])
    assert shared == []
    losses["cross"].backward()
    assert heads["cross"].out.weight.grad is not None
    encoder.requires_grad_(True)
    shared = [p for p in encoder.parameters() if p.requires_grad]
    flat = reference_gradients(reference_losses(encoder, heads, [micro(["cross", "bi"], 0, 6)]), shared)
    assert all(grad.abs().sum() > 0 for grad in flat.values())


def test_targets_say_what_is_wrong_with_a_label():
    with pytest.raises(ValueError, match=r"expected one of 0 .no., 1 .yes., found '7'"):
        Classes(["no", "yes"]).parse("7")
    with pytest.raises(ValueError, match=r"expected a number from 0 to 5, found 'nan'"):
        Range(0, 5).parse("nan")
    assert Classes(["no", "yes"]).parse("1.0") == 1
    assert Classes(["no", "yes"]).parse("Yes") == 1


def test_a_range_predicts_inside_itself():
    target = Range(0, 5)
    predictions = target.predict(torch.tensor([[9.0], [-9.0], [0.0]]), target.collate([None] * 3, 1))
    assert [p.value for p in predictions] == [5.0, 0.0, 2.5]


def test_progress_ends_at_one():
    assert Progress(0, 0).fraction == 0.0
    assert Progress(7, 5).fraction == 1.0
