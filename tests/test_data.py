"""Rows, batches, steps and epochs: every row once, seeded, nearly unpadded, and fused without a difference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtk.data import (
    WINDOW,
    EpochPlan,
    Step,
    draw_rows,
    evaluation_batches,
    fuse,
    generator,
    tokenise,
)
from mtk.errors import PluginError
from mtk.interfaces import Example, Mixer, TaskContext
from mtk.targets import Classes, Range
from mtk_mixers.all import All
from mtk_mixers.capped import Capped
from tests import toy_plugin
from tests.toys import ToyCosine, ToyEncoder, ToyLinear, ToyRDrop, ToyTagger, ToyTags, collate

ENCODER = ToyEncoder()


def task_rows(count: int, seed: object = 0, longest: int = 12):
    rows = [Example(str(i), text, None, i % 2) for i, text in enumerate(toy_plugin.texts(count, seed, longest))]
    return tokenise(ENCODER, ToyLinear(8, Classes(["no", "yes"])), False, rows, 64)


def plan(mixer: Mixer | None = None, sizes=None, composition="all", seed=0, epochs=3) -> EpochPlan:
    return EpochPlan(mixer or All(), sizes or {"a": 4, "b": 6, "c": 3}, composition, epochs, seed)


@pytest.fixture(scope="module")
def data():
    return {"a": task_rows(50, "a"), "b": task_rows(13, "b"), "c": task_rows(301, "c", 40)}


def chosen(steps: list[Step], name: str) -> list[int]:
    return [int(row) for step in steps for row in step.rows.get(name, [])]


# ---------------------------------------------------------------------------------------------- an epoch


@pytest.mark.parametrize("composition", ["all", "one"])
def test_every_row_comes_exactly_once_an_epoch(data, composition):
    steps = plan(composition=composition).steps(data, 0)
    for name, rows in data.items():
        assert sorted(chosen(steps, name)) == list(range(len(rows)))


@pytest.mark.parametrize("composition", ["all", "one"])
def test_steps_are_counted_without_being_made(data, composition):
    for mixer in (All(), Capped(rows=29)):
        for epoch in (0, 1):
            made = plan(mixer, composition=composition)
            assert len(made.steps(data, epoch)) == made.step_count(data, epoch)


def test_capped_draws_a_fresh_subset_every_epoch_and_the_same_for_a_seed(data):
    draws = [set(chosen(plan(Capped(rows=40)).steps(data, epoch), "c")) for epoch in range(3)]
    assert all(len(rows) == 40 for rows in draws)
    assert len(set.union(*draws)) > 80
    for epoch in range(3):
        one, two, other = (plan(Capped(rows=40), seed=seed).steps(data, epoch) for seed in (0, 0, 1))
        assert [chosen([s], "c") for s in one] == [chosen([s], "c") for s in two]
        assert set(chosen(one, "c")) != set(chosen(other, "c"))


def test_another_task_changes_no_other_task_s_rows(data):
    alone = {"a": data["a"], "b": data["b"]}
    for composition in ("all", "one"):
        for name in alone:
            few = [
                sorted(s.rows[name].tolist()) for s in plan(composition=composition).steps(alone, 1) if name in s.rows
            ]
            many = [
                sorted(s.rows[name].tolist()) for s in plan(composition=composition).steps(data, 1) if name in s.rows
            ]
            assert sorted(few) == sorted(many)


def test_the_order_of_a_mixer_s_answer_does_not_matter(data):
    steps = plan(toy_plugin.Backwards()).steps(data, 0)
    assert {name: len(chosen(steps, name)) for name in data} == {name: len(rows) for name, rows in data.items()}
    some = {"a": data["a"], "x": data["b"]}
    steps = plan(toy_plugin.Backwards(), {"a": 4, "x": 6}).steps(some, 0)
    assert chosen(steps, "x") == [] and len(chosen(steps, "a")) == 50


def test_batches_have_the_asked_size_but_for_the_last(data):
    for name, size in {"a": 4, "b": 6, "c": 3}.items():
        sizes = sorted(len(step.rows[name]) for step in plan().steps(data, 0) if name in step.rows)
        assert sizes[1:] == [size] * (len(sizes) - 1) and 0 < sizes[0] <= size


def test_an_exhausted_task_is_absent_from_later_windows():
    data = {"long": task_rows(2 * WINDOW * 4 + 8), "short": task_rows(WINDOW * 4 + 4, "s")}
    steps = plan(sizes={"long": 4, "short": 4}).steps(data, 0)
    assert len(steps) == 2 * WINDOW + 2
    assert all(set(step.rows) == {"long", "short"} for step in steps[:WINDOW])
    assert sum("short" in step.rows for step in steps[WINDOW : 2 * WINDOW]) == 1
    assert all(set(step.rows) == {"long"} for step in steps[2 * WINDOW :])
    assert all(step.rows for step in steps)


def test_a_task_of_few_batches_is_spread_over_the_window():
    data = {"long": task_rows(WINDOW * 4, "l"), "short": task_rows(16, "s")}
    made = plan(sizes={"long": 4, "short": 4})
    present = [["short" in step.rows for step in made.steps(data, epoch)] for epoch in range(4)]
    assert all(sum(steps) == 4 for steps in present)
    assert len({tuple(steps) for steps in present}) > 1  # and not at the same places every epoch


def test_one_is_a_round_robin(data):
    steps = plan(composition="one").steps(data, 0)
    assert all(len(step.rows) == 1 for step in steps)
    names = [next(iter(step.rows)) for step in steps]
    assert names[:9] == ["a", "b", "c"] * 3  # b has three batches
    assert names[9:29] == ["a", "c"] * 10  # a has thirteen
    assert set(names[29:]) == {"c"}


def test_bucketed_steps_pad_far_less_than_shuffled_ones(data):
    def padding(steps: list[Step]) -> float:
        real = cells = 0
        for step in steps:
            for batch in step.micro_batches(data, 0):
                real, cells = real + int(batch.tokens.mask.sum()), cells + batch.tokens.mask.numel()
        return 1 - real / cells

    big = {"a": task_rows(400, 1, 40), "b": task_rows(300, 2, 40), "c": task_rows(400, 3, 40)}
    data = big
    made = plan(sizes={"a": 8, "b": 8, "c": 8})
    shuffled = [
        Step({name: order[i : i + 8] for name, order in orders.items() if len(order[i : i + 8])})
        for orders in [{name: draw_rows(len(rows), len(rows), generator(name)) for name, rows in big.items()}]
        for i in range(0, 400, 8)
    ]
    assert padding(made.steps(big, 0)) < 0.4 * padding(shuffled)


def test_tasks_of_a_step_have_rows_of_like_rank():
    data = {"a": task_rows(WINDOW * 8, 1, 40), "b": task_rows(WINDOW * 8, 2, 40)}
    steps = plan(sizes={"a": 8, "b": 8}).steps(data, 0)
    lengths = [[data[name].lengths[step.rows[name]].mean() for name in data] for step in steps]
    a, b = np.array(lengths).T
    assert np.corrcoef(a, b)[0, 1] > 0.98
    assert not np.all(np.diff(a) >= 0)  # yet the steps do not grow longer and longer


def test_the_few_batches_of_a_small_task_stand_beside_rows_of_their_length():
    data = {"a": task_rows(WINDOW * 8, 1, 40), "b": task_rows(8 * 8, 2, 40)}
    steps = [step for step in plan(sizes={"a": 8, "b": 8}).steps(data, 0) if "b" in step.rows]
    lengths = np.array([[data[name].lengths[step.rows[name]].mean() for name in data] for step in steps])
    assert len(steps) == 8
    assert np.abs(lengths[:, 0] - lengths[:, 1]).mean() < 6  # of up to 42 tokens


def test_two_tasks_of_one_size_draw_different_rows():
    data = {"a": task_rows(40), "b": task_rows(40)}
    steps = plan(Capped(rows=12), {"a": 4, "b": 4}).steps(data, 0)
    assert set(chosen(steps, "a")) != set(chosen(steps, "b"))


def test_a_bi_row_is_as_long_as_its_longer_text():
    rows = [Example("0", "one", "a b c d", 1.0), Example("1", "a b", "one", 1.0)]
    assert tokenise(ENCODER, ToyCosine(8, Range(0, 5)), True, rows, 64).lengths.tolist() == [6, 4]


# ---------------------------------------------------------------------------------------------- batches

SETUPS = {
    "cross": (ToyLinear, Classes(["no", "yes"]), True),
    "bi": (ToyCosine, Range(0, 5), True),
    "tags": (ToyTagger, ToyTags(), False),
    "views": (ToyRDrop, Classes(["no", "yes"]), False),
}


@pytest.fixture(scope="module")
def mixed():
    labels = {
        "cross": lambda a, b: len(a) % 2,
        "bi": lambda a, b: float(len(a) % 5),
        "tags": lambda a, b: [len(w) % 3 for w in a.split()],
        "views": lambda a, b: len(a) % 2,
    }
    return {
        name: tokenise(ENCODER, head(8, target), paired, toy_plugin.examples(20, name, labels[name], paired=paired), 16)
        for name, (head, target, paired) in SETUPS.items()
    }


def test_a_fused_batch_equals_separate_batches(mixed):
    wanted = {"cross": np.array([3, 1, 8]), "bi": np.array([7]), "tags": np.array([5, 6]), "views": np.array([0, 19])}
    batch = fuse(mixed, wanted, pad_id=0)
    ids, types, mask = batch.tokens.ids, batch.tokens.types, batch.tokens.mask
    assert ids.dtype == types.dtype == torch.int64 and mask.dtype == torch.bool
    assert list(batch.slices) == list(wanted)
    at = 0
    for name, (head, target, paired) in SETUPS.items():
        rows = [mixed[name].examples[i] for i in wanted[name]]
        # the encoder's limit is 64, the rows were cut to 16
        own = collate(ENCODER, target, head(8, target), rows, paired)
        part = batch.slices[name]
        assert (part.start, part.copies) == (at, len(own.tokens))
        for copy in own.tokens:
            width = min(copy.ids.shape[1], 16)
            block = slice(at, at + len(rows))
            torch.testing.assert_close(mask[block].sum(1), copy.mask.sum(1).clamp(max=16))
            assert torch.equal(ids[block, :width], copy.ids[:, :width])
            assert torch.equal(types[block, :width], copy.types[:, :width])
            assert not ids[block, width:].any() and not types[block, width:].any() and not mask[block, width:].any()
            at += len(rows)
        assert part.stop == at
        assert part.targets.count == own.targets.count
        if name != "tags":
            assert torch.equal(part.targets.labels, own.targets.labels)
            assert torch.equal(part.targets.mask, own.targets.mask)
        else:
            assert part.targets.places.shape == (2, ids.shape[1])
    assert at == len(ids) == 3 + 2 + 2 + 4


def test_padding_uses_the_tokenizer_s_id_and_no_more_room_than_needed(mixed):
    batch = fuse(mixed, {"cross": np.arange(20)}, pad_id=77)
    assert (batch.tokens.ids[~batch.tokens.mask] == 77).all()
    assert (batch.tokens.ids[batch.tokens.mask] != 77).all()
    assert batch.tokens.ids.shape == (20, mixed["cross"].lengths.max())


def test_evaluation_takes_one_view(mixed):
    batch = fuse(mixed, {"views": np.arange(3)}, 0, views=False)
    assert batch.slices["views"].copies == 1 and len(batch.tokens.ids) == 3


def test_micro_batches_partition_the_step(mixed):
    step = Step({"cross": np.arange(7), "bi": np.arange(10, 12), "tags": np.arange(1)})
    whole = step.micro_batches(mixed, 0)
    assert len(whole) == 1
    for accumulate in (2, 3, 5, 9):
        parts = step.micro_batches(mixed, 0, accumulate)
        assert len(parts) == min(accumulate, 7)
        assert all(part.slices for part in parts)
        assert list(parts[0].slices) == ["cross", "bi", "tags"]  # so that a step's tasks have one order
        for name, rows in step.rows.items():
            sizes = [(s.stop - s.start) // s.copies for p in parts if (s := p.slices.get(name))]
            assert sum(sizes) == len(rows) and max(sizes) - min(sizes) <= 1
            labels = [p.slices[name].targets for p in parts if name in p.slices]
            assert sum(t.count for t in labels) == whole[0].slices[name].targets.count
        cross = torch.cat([p.slices["cross"].targets.labels for p in parts])
        assert torch.equal(cross, whole[0].slices["cross"].targets.labels)


def test_a_step_without_rows_has_no_batches(mixed):
    assert Step({}).micro_batches(mixed, 0, 2) == []


# ---------------------------------------------------------------------------------------------- evaluation batches


@pytest.mark.parametrize("limit", [1, 30, 200, 100_000])
def test_evaluation_batches_cover_all_rows_once(data, limit):
    rows = data["c"]
    batches = list(evaluation_batches(rows, limit))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(rows)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * rows.lengths[batch].max() <= limit


@pytest.mark.parametrize("rows", [[3], [4, 0, 2], [1, 1], list(range(6))])
def test_rows_that_are_taken_out_are_whole(rows):
    for whole in mixed_rows(6):
        some = whole.take(np.array(rows))
        assert len(some) == len(rows) and len(some.parts) == len(whole.parts)
        assert some.labels == [whole.labels[row] for row in rows]
        assert [example.id for example in some.examples] == [whole.examples[row].id for row in rows]
        assert some.lengths.tolist() == whole.lengths[rows].tolist()
        one, other = fuse({"a": some}, {"a": np.arange(len(rows))}, 0), fuse({"a": whole}, {"a": np.array(rows)}, 0)
        assert torch.equal(one.tokens.ids, other.tokens.ids) and torch.equal(one.tokens.types, other.tokens.types)
        assert torch.equal(one.slices["a"].targets.labels, other.slices["a"].targets.labels)


def mixed_rows(count: int):
    """The same rows as one head reads them, as two texts apart, and with tags."""
    pairs = toy_plugin.examples(count, 0, lambda a, b: float(len(a) % 5), paired=True)
    tags = toy_plugin.examples(count, 1, lambda a, b: [len(word) % 3 for word in a.split()])
    yield tokenise(ENCODER, ToyLinear(8, Range(0, 5)), True, pairs, 64)
    yield tokenise(ENCODER, ToyCosine(8, Range(0, 5)), True, pairs, 64)
    yield tokenise(ENCODER, ToyTagger(8, ToyTags()), False, tags, 64)


def test_no_rows_no_batches():
    empty = tokenise(ENCODER, ToyLinear(8, Classes(["no", "yes"])), False, [], 64)
    assert len(empty) == 0 and len(empty.lengths) == 0
    assert list(evaluation_batches(empty)) == []
    pairs = tokenise(ENCODER, ToyCosine(8, Range(0, 5)), True, [], 64)
    assert len(pairs.lengths) == 0 and pairs.truncated == 0


# ---------------------------------------------------------------------------------------------- drawing and tokenising


def test_draw_rows_goes_over_all_rows_before_any_comes_again():
    rows = draw_rows(7, 17, generator("x")).tolist()
    assert len(rows) == 17
    assert sorted(rows[:7]) == sorted(rows[7:14]) == list(range(7))
    assert rows[:7] != rows[7:14]
    assert len(set(rows[14:])) == 3
    assert draw_rows(7, 17, generator("x")).tolist() == rows
    assert draw_rows(7, 17, generator("y")).tolist() != rows


@pytest.mark.parametrize(("size", "count"), [(5, 0), (0, 0), (0, 3)])
def test_nothing_to_draw(size, count):
    assert len(draw_rows(size, count, generator(0))) == 0


def test_a_generator_is_a_function_of_its_whole_key():
    def first(*key: object) -> int:
        return int(torch.randint(2**62, (), generator=generator(*key)))

    keys = [(0,), (1,), (0, "a"), (0, "b"), (0, "a", 1), (0, "a", 2), ("0", "a")]
    assert len({first(*key) for key in keys}) == len(keys)
    assert first(0, "a") == first(0, "a")


def test_tokenising_counts_rows_that_were_cut():
    rows = [Example("0", "one", "a b c d", 1.0), Example("1", "a b", "one", 1.0), Example("2", "a", "b", None)]
    for head, cut in ((ToyCosine, 1), (ToyLinear, 2)):
        assert tokenise(ENCODER, head(8, Range(0, 5)), True, rows, 5).truncated == cut
    kept = tokenise(ENCODER, ToyLinear(8, Range(0, 5)), True, rows, 5)
    assert kept.labels == [1.0, 1.0, None] and kept.lengths.max() == 5


def test_max_length_is_bounded_by_the_encoder():
    rows = [Example("0", " ".join("abc" for _ in range(300)), None, 0)]
    assert tokenise(ENCODER, ToyLinear(8, Classes(["no", "yes"])), False, rows, 512).lengths.tolist() == [64]


def test_toy_tasks_are_what_the_tests_think():
    task = toy_plugin.words(TaskContext("words"))
    assert [len(task.examples(split)) for split in ("train", "dev")] == [24, 8]
    assert any(row.label is None for row in task.examples("train"))


@pytest.mark.parametrize("composition", ["all", "one"])
def test_coverage_counts_rows_that_were_drawn_at_least_once(data, composition):
    drawn = plan(Capped(rows=20), composition=composition)
    seen = {name: set() for name in data}
    for epoch in range(3):
        steps = drawn.steps(data, epoch)
        half = {name: set(rows) for name, rows in seen.items()}
        for place, step in enumerate(steps):
            for name, rows in step.rows.items():
                seen[name].update(rows.tolist())
                if place < len(steps) // 2:
                    half[name].update(rows.tolist())
        for found, steps_done in ((half, len(steps) // 2), (seen, None)):
            share = {name: len(rows) / len(data[name]) for name, rows in found.items()}
            assert drawn.coverage(data, epoch, steps_done) == pytest.approx(share)
    assert drawn.coverage(data, 2)["b"] == 1.0 and 0.05 < drawn.coverage(data, 2)["c"] <= 0.2


@pytest.mark.parametrize(("last", "fine"), [(2, True), (3, False)])
def test_a_mixer_may_leave_a_task_out_of_some_epochs_and_not_of_all(data, last, fine):
    class Late(Mixer):
        def rows(self, sizes, epoch, epochs, generator):
            return {name: size for name, size in sizes.items() if name != "b" or epoch == last}

    made = plan(Late(), epochs=3)
    if fine:
        made.check(data)
        assert made.rows(data, 0)["b"] == 0
    else:
        with pytest.raises(PluginError, match=r"rows of every task in some epoch of 3, found none of b$"):
            made.check(data)
