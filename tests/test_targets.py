"""Every kind of target: labels read, loss against a slow reference, predictions, figures by hand, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from mtk import (
    Classes,
    ConfigError,
    Example,
    Head,
    MultiLabel,
    Number,
    Ordinal,
    PluginError,
    Prediction,
    Range,
    Ranking,
    Tags,
)
from mtk.data import tokenise, whole_words
from mtk.errors import DataError
from mtk.interfaces import Target
from mtk.targets import ranking, tags
from mtk.targets.divergences import of_yes_or_no
from mtk.targets.labels import is_label
from mtk.targets.ranking import ranks_of_own
from mtk_encoders.tiny import tiny_bert
from mtk_encoders.tokenizer import FastTokenizer
from mtk_heads.linear import Linear
from mtk_heads.tagger import Tagger
from tests.toys import ToyEncoder

LETTERS = MultiLabel(["a", "b", "c"])
SIZES = Ordinal(["small", "medium", "large"])
NOUNS = Tags(["noun", "verb", "other"])
PEOPLE = Tags(["O", "B-PER", "I-PER", "B-LOC"])
B_PER, I_PER, B_LOC = 1, 2, 3


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def nll(p: float, yes: bool) -> float:
    return -math.log(p if yes else 1 - p)


def answers(*values: Any) -> list[Prediction]:
    return [Prediction(value, value, 1.0) for value in values]


KINDS: list[tuple[Target, list[Any], Callable[[Sequence[Any]], Any]]] = [
    (Classes(["no", "yes"]), [1, 0, 1], lambda y: random(len(y), 2)),
    (Range(0, 5), [1.0, 0.0, 5.0], lambda y: random(len(y), 1)),
    (Number(), [1.0, -7.5, 3.0], lambda y: random(len(y), 1)),
    (LETTERS, [(0, 2), (), (1,)], lambda y: random(len(y), 3)),
    (SIZES, [2, 0, 1], lambda y: random(len(y), 2)),
    (NOUNS, [(0, 1), (2, 2), (1, 0)], lambda y: random(len(y), 2, 3)),
    (PEOPLE, [(1, 2), (0, 0), (0, 3)], lambda y: random(len(y), 2, 4)),
    (Ranking(), [1, 0, 1], lambda y: (random(len(y), 4), random(len(y), 4, seed=1))),
]
kinds = pytest.mark.parametrize(("target", "labels", "outputs"), KINDS, ids=lambda x: getattr(x, "primary", ""))


def half(outputs: Any) -> Any:
    return tuple(part.bfloat16() for part in outputs) if isinstance(outputs, tuple) else outputs.bfloat16()


@kinds
def test_what_every_kind_has_in_common(target: Target, labels: list[Any], outputs: Callable[..., Any]) -> None:
    """Perfect figures for perfect answers, a float32 loss of bf16 outputs, no loss of no labels, one row like many."""
    assert all(is_label(target, label) for label in labels)
    perfect = target.metrics(answers(*labels), labels)
    assert perfect[target.primary] == pytest.approx(1) and all(map(math.isfinite, perfect.values()))
    aligned = [target.align(label, range(2)) for label in labels]
    targets = target.collate(aligned, 2)
    exact, rough = target.loss(outputs(labels), targets), target.loss(half(outputs(labels)), targets)
    assert rough.dtype == torch.float32 and rough.item() == pytest.approx(exact.item(), rel=0.05)
    none = target.collate([target.align(None, range(2))] * 3, 2)
    leaves = outputs(labels)
    for part in leaves if isinstance(leaves, tuple) else [leaves]:
        part.requires_grad_()
    loss = target.loss(leaves, none)
    loss.backward()
    assert none.count == 0 and loss.item() == 0
    assert all(not p.grad.any() for p in (leaves if isinstance(leaves, tuple) else [leaves]))
    one = target.collate(aligned[:1], 2)
    assert target.loss(outputs(labels[:1]), one).isfinite()
    assert all(math.isfinite(x) for x in target.metrics(answers(labels[0]), labels[:1]).values())
    assert len(target.predict(half(outputs(labels)), none)) == 3


# ---------------------------------------------------------------------------------------------- several labels


@pytest.mark.parametrize(
    ("raw", "label"),
    [("a|c", (0, 2)), (" C | a|", (0, 2)), ("|", ()), ("1", (1,)), (["b", "b"], (1,)), ([], ()), (2, (2,))],
)
def test_several_labels_are_read(raw: Any, label: tuple[int, ...]) -> None:
    assert LETTERS.parse(raw) == label
    assert MultiLabel(["a", "b", "c"], separator="; ").parse("a; b") == (0, 1)


def test_the_loss_of_several_labels_is_the_mean_of_theirs() -> None:
    outputs, labels = random(3, 3), [(0, 2), None, ()]
    wanted = sum(
        nll(sigmoid(x), i in label) / 3
        for label, row in zip(labels, outputs.tolist(), strict=True)
        if label is not None
        for i, x in enumerate(row)
    )
    targets = LETTERS.collate(labels, 1)
    assert LETTERS.loss(outputs, targets).item() == pytest.approx(wanted) and targets.count == 2


def test_labels_are_predicted_from_the_threshold_on() -> None:
    outputs = torch.tensor([[2.0, 0.0, -1.0], [-2.0, -3.0, -4.0]])
    first, second = LETTERS.predict(outputs, LETTERS.collate([None] * 2, 1))
    assert (first.value, first.label, second.value, second.label) == ((0, 1), ["a", "b"], (), [])
    assert first.probabilities == pytest.approx({"a": sigmoid(2), "b": 0.5, "c": sigmoid(-1)})
    assert (first.score, second.score) == pytest.approx((sigmoid(2), sigmoid(-2)))
    strict = MultiLabel(["a", "b", "c"], threshold=0.6)
    assert strict.predict(outputs, strict.collate([None] * 2, 1))[0].label == ["a"]


def test_figures_of_several_labels_by_hand() -> None:
    """a: one hit of two guesses; b: one missed; c occurs nowhere, and counts in no mean."""
    found = LETTERS.metrics(answers((0,), (0,), ()), [(0,), (1,), ()])
    assert found == pytest.approx({"micro_f1": 2 / 4, "macro_f1": (2 / 3 + 0) / 2, "subset_accuracy": 2 / 3})
    assert LETTERS.metrics(answers((), ()), [(), ()]) == {"micro_f1": 0, "macro_f1": 0, "subset_accuracy": 1}


# ---------------------------------------------------------------------------------------------- ordered classes


def test_the_loss_of_ordered_classes_asks_once_for_each_threshold() -> None:
    outputs, labels = random(4, 2), [0, 1, None, 2]
    wanted = sum(
        nll(sigmoid(x), label > k)
        for label, row in zip(labels, outputs.tolist(), strict=True)
        if label is not None
        for k, x in enumerate(row)
    )
    targets = SIZES.collate(labels, 1)
    assert SIZES.loss(outputs, targets).item() == pytest.approx(wanted) and targets.count == 3


def test_outputs_of_ordered_classes_are_beside_the_training_shares() -> None:
    """Outputs of 0 give each class its share, counted once more than it occurs: of 4, 0 and 2 rows 5/9, 1/9 and 3/9."""
    target = Ordinal(["small", "medium", "large"])
    target.fit([0, 2, 0, 0, 2, 0])
    (found,) = target.predict(torch.zeros(1, 2), target.collate([None], 1))
    assert found.probabilities == pytest.approx({"small": 5 / 9, "medium": 1 / 9, "large": 3 / 9})
    loss = target.loss(torch.zeros(2, 2), target.collate([1, None], 1)).item()
    assert loss == pytest.approx(nll(4 / 9, True) + nll(3 / 9, False))
    apart = of_yes_or_no(target.prior + torch.tensor([[1.0, 0.0]]), target.prior[None]).sum(-1)
    assert target.divergence(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)).tolist() == apart.tolist()
    other = Ordinal(["small", "medium", "large"])
    other.load_state_dict(target.state_dict())
    assert other.predict(torch.zeros(1, 2), other.collate([None], 1)) == [found]
    target.fit([])
    assert target.prior.tolist() == other.prior.tolist() != [0, 0]


def test_ordered_classes_are_predicted_by_counting_thresholds() -> None:
    """Of the last row the thresholds disagree: it is more than medium, but not more than small."""
    outputs = torch.tensor([[-1.0, -2.0], [1.0, -1.0], [2.0, 1.0], [-1.0, 2.0]])
    found = SIZES.predict(outputs, SIZES.collate([None] * 4, 1))
    assert [p.label for p in found] == ["small", "medium", "large", "medium"]
    p, q = sigmoid(1), sigmoid(-1)
    assert found[1].probabilities == pytest.approx({"small": 1 - p, "medium": p - q, "large": q})
    assert all(sum(f.probabilities.values()) == pytest.approx(1) for f in found)
    assert all(min(f.probabilities.values()) >= 0 for f in found)
    assert found[1].score == found[1].probabilities["medium"]


def test_figures_of_ordered_classes_by_hand() -> None:
    """Weights grow with the square of the distance: 1 - (4 + 1) / (sum over all pairs of the margins)."""
    labels, guesses = [0, 1, 2, 2], [2, 1, 2, 1]
    expected = sum((a - b) ** 2 for a in labels for b in guesses) / 4
    found = SIZES.metrics(answers(*guesses), labels)
    assert found == pytest.approx({"kappa": 1 - 5 / expected, "accuracy": 0.5, "neg_mae": -0.75})
    assert SIZES.metrics(answers(1, 1), [1, 1]) == {"kappa": 0, "accuracy": 1, "neg_mae": 0}
    far, near = (SIZES.metrics(answers(0, 2, guess), [0, 2, 2])["kappa"] for guess in (0, 1))
    assert far < near


# ---------------------------------------------------------------------------------------------- numbers


def test_a_number_is_standardised_by_the_training_labels_and_predicted_in_their_unit() -> None:
    target = Number()
    target.fit([10.0, 30.0])
    assert (target.mean, target.deviation) == (20, 10)
    assert target.collate([10, None, 35], 1).labels.tolist() == [-1, 0, 1.5]
    found = target.predict(torch.tensor([[-1.0], [0.25]]), target.collate([None] * 2, 1))
    assert [p.value for p in found] == [10, 22.5]
    assert target.loss(torch.tensor([[1.0], [5.0]]), target.collate([30, None], 1)).item() == 0


def test_a_large_mean_swallows_no_difference() -> None:
    target = Number()
    target.fit([1e9 - 1, 1e9 + 1])
    assert target.collate([1e9 - 1, 1e9 + 0.5], 1).labels.tolist() == [-1, 0.5]
    assert [p.value for p in target.predict(torch.tensor([[0.5]]), target.collate([None], 1))] == [1e9 + 0.5]


@pytest.mark.parametrize(("labels", "facts"), [([7.0, 7.0], (7, 1)), ([3.0], (3, 1)), ([], (0, 1))])
def test_labels_without_a_spread(labels: list[float], facts: tuple[float, float]) -> None:
    target = Number()
    target.fit(labels)
    assert (target.mean, target.deviation) == facts


def test_a_number_s_unit_is_state_of_the_head_that_holds_it() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.target = Number()

    one, other = Holder(), Holder()
    one.target.fit([1.1, 3.7])
    (key,) = one.state_dict()
    assert key == "target._extra_state"
    other.load_state_dict(one.state_dict())
    assert (other.target.mean, other.target.deviation) == (one.target.mean, one.target.deviation)


def test_small_numbers_are_shown_with_their_digits() -> None:
    target = Number()
    target.fit([1.0e-6, 3.0e-6])
    assert target.predict(torch.tensor([[1 / 3]]), target.collate([None], 1))[0].label == 2.33333e-06


def test_figures_of_numbers_by_hand() -> None:
    found = Number().metrics(answers(1.0, 2.0, 6.0), [1.0, 2.0, 3.0])
    assert found["r2"] == pytest.approx(1 - 9 / 2) and found["neg_rmse"] == pytest.approx(-math.sqrt(3))
    assert found["spearman"] == pytest.approx(1) and found["pearson"] == pytest.approx(5 / math.sqrt(2 * 14))
    assert Number().metrics(answers(2.0), [3.0]) == {"pearson": 0, "spearman": 0, "r2": 0, "neg_rmse": -1}


# ---------------------------------------------------------------------------------------------- tags


def test_tags_are_read() -> None:
    assert (
        PEOPLE.parse("B-PER i-per O") == PEOPLE.parse(["B-PER", "I-PER", "O"]) == PEOPLE.parse((1, 2, 0)) == (1, 2, 0)
    )
    assert (PEOPLE.primary, NOUNS.primary) == ("entity_f1", "accuracy")


def test_a_word_s_tag_stands_at_its_first_token() -> None:
    """CLS, two pieces of word 0, word 1, SEP; word 2 is cut off."""
    words = [None, 0, 0, 1, None]
    assert PEOPLE.align((1, 0, 3), words) == [None, (1, 0), None, (0, 1), None]
    assert PEOPLE.align(None, words) == [None, (-1, 0), None, (-1, 1), None]
    targets = PEOPLE.collate([PEOPLE.align((1, 0, 3), words), PEOPLE.align(None, words[:3])], 6)
    assert targets.labels.shape == (2, 6, 2) and targets.count == 2
    assert targets.places is not None and targets.places.nonzero().tolist() == [[0, 1], [0, 3], [1, 1]]
    assert targets.mask.nonzero().tolist() == [[0, 1], [0, 3]]


def test_the_loss_of_tags_is_at_first_tokens_with_labels() -> None:
    outputs = random(2, 4, 3)
    labels = [[None, (2, 0), None, (0, 1)], [(-1, 0), None]]
    logs = outputs.log_softmax(-1)
    wanted = -(logs[0, 1, 2] + logs[0, 3, 0])
    assert NOUNS.loss(outputs, NOUNS.collate(labels, 4)).item() == pytest.approx(wanted.item())


def tagged(target: Tags, read: Sequence[int], text: str) -> Prediction:
    """The prediction for a text of which the words `read` got these tags, as their logits say."""
    outputs = torch.zeros(1, len(read), target.size)
    outputs[0, range(len(read)), list(read)] = 9.0
    words = list(range(len(read)))
    (found,) = target.predict(outputs, target.collate([target.align(None, words)], len(read)))
    return target.complete(found, Example("x", text))


def test_entities_come_with_their_text_and_place() -> None:
    text = "Dr.  Ada Lovelace left (London)"
    found = tagged(PEOPLE, [0, B_PER, I_PER, 0, B_LOC], text)
    assert found.label == {
        "words": ["Dr.", "Ada", "Lovelace", "left", "(London)"],
        "tags": ["O", "B-PER", "I-PER", "O", "B-LOC"],
        "entities": [
            {"type": "PER", "text": "Ada Lovelace", "start": 5, "end": 17},
            {"type": "LOC", "text": "(London)", "start": 23, "end": 31},
        ],
    }
    assert all(text[e["start"] : e["end"]] == e["text"] for e in found.label["entities"])
    assert 0.9 < found.score <= 1


def test_words_that_were_cut_off_are_no_entities_and_count_as_mistakes() -> None:
    found = tagged(PEOPLE, [0, B_PER], "by Ada Lovelace , London")
    assert found.value == (0, B_PER, 0, 0, 0) and found.label["tags"][2:] == ["O"] * 3
    scores = PEOPLE.metrics([found], [(0, B_PER, 0, 0, B_LOC)])
    assert scores == pytest.approx(
        {"entity_f1": 2 / 3, "entity_precision": 1, "entity_recall": 1 / 2, "accuracy": 4 / 5}
    )
    plain = tagged(NOUNS, [1], "go home")
    assert plain.value == (1, -1) and plain.label == {"words": ["go", "home"], "tags": ["verb", None]}
    assert NOUNS.metrics([plain], [(1, 0)]) == {"accuracy": 0.5, "macro_f1": 0.5}


def test_an_entity_counts_as_a_whole() -> None:
    """One right, one with a wrong end, one of a wrong type; the words alone look better."""
    wanted = [(B_PER, I_PER, 0), (B_PER, I_PER, 0), (0, 0, B_LOC)]
    guesses = [(B_PER, I_PER, 0), (B_PER, 0, 0), (0, 0, B_PER)]
    found = PEOPLE.metrics(answers(*guesses), wanted)
    assert found == pytest.approx(
        {"entity_f1": 1 / 3, "entity_precision": 1 / 3, "entity_recall": 1 / 3, "accuracy": 7 / 9}
    )
    assert PEOPLE.metrics(answers((0, 0)), [(0, 0)])["entity_f1"] == 0


@pytest.mark.parametrize("words", [2, 4])
def test_tags_for_more_or_fewer_words_than_there_are(words: int) -> None:
    row = Example("r7", "three words here", None, (0,) * words)
    head = Tagger(8, NOUNS)
    with pytest.raises(
        DataError, match=rf"^row 'r7': expected 3 tags, one a word of 'three words here', found {words}$"
    ):
        tokenise(ToyEncoder(), head, False, [row], 32)


def test_words_are_those_between_white_space_whatever_the_tokenizer_makes_of_them() -> None:
    """Punctuation, a word that the tokenizer drops whole (a control character), Chinese, and a text that is cut."""
    tokenizer = tiny_bert(hidden_size=8, layers=1).tokenizer
    texts = ["Don't (go) , now!", "one \x00 two", "\u4f60\u597d all", "a-b " * 40]
    encodings = tokenizer.encode([(text, None) for text in texts], 24)
    found = whole_words(tokenizer, texts, encodings)
    starts = [[w for i, w in enumerate(row) if w is not None and row[i - 1] != w] for row in found]
    assert starts[:3] == [[0, 1, 2, 3], [0, 2], [0, 1]]
    assert starts[3] == list(range(len(starts[3]))) and 4 < len(starts[3]) < 40
    plain = tokenizer.encode([("no marks at all", None)], 24)
    assert whole_words(tokenizer, ["no marks at all"], plain) == [list(plain[0].words)]


def test_the_rows_of_a_run_have_a_tag_for_each_of_these_words() -> None:
    """Punctuation is a token of its own to the encoder, and no word of its own to the target."""
    rows = [Example("x", "Don't (go) , now!", None, (0, 1, 2, 0)), Example("y", "so, no", None, (2, 1))]
    tokens = tokenise(tiny_bert(hidden_size=8, layers=1), Tagger(8, NOUNS), False, rows, 32)
    assert [[mark for mark in label if mark] for label in tokens.labels] == [
        [(0, 0), (1, 1), (2, 2), (0, 3)],
        [(2, 0), (1, 1)],
    ]


def byte_level() -> FastTokenizer:
    """Split as by GPT-2: a space belongs to what is behind it, and a run of spaces is a word of its own."""
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=letters, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return FastTokenizer(backend, 0, {})


def test_words_of_a_byte_level_tokenizer() -> None:
    tokenizer, texts = byte_level(), ["I'm (in)", "I 'm 's", "'s I"]
    found = whole_words(tokenizer, texts, tokenizer.encode([(text, None) for text in texts], 24))
    assert found[0] == [0, 0, 0, 1, 1, 1, 1, 1]  # the space with the word behind it
    assert found[1] == [0, 1, 1, 1, 2, 2, 2]  # behind a space, the mark is split from its letter
    assert found[2] == [0, 0, 1, 1]


def test_white_space_is_no_token_where_words_have_tags() -> None:
    """Runs of it, at either end too: the same tokens and places as with single spaces. Other texts stay."""
    encoder = ToyEncoder()
    encoder.tokenizer = byte_level()  # type: ignore[assignment]
    texts = ["so  they\t \u00a0go \n", "  so they go", "so they go"]

    def lengths(head: Head, pair: Sequence[str | None]) -> list[int]:
        rows = [Example(text, text, other, None) for text, other in zip(texts, pair, strict=True)]
        tokens = tokenise(encoder, head, pair[0] is not None, rows, 64)
        assert [row.text for row in tokens.examples] == texts
        if head.level == "token":
            assert tokens.labels[0][:10] == [(-1, 0), None, (-1, 1), *[None] * 4, (-1, 2), None, None]
            assert all(label[:10] == tokens.labels[0][:10] for label in tokens.labels)
        return tokens.lengths.tolist()

    assert lengths(Tagger(8, NOUNS), [None] * 3) == [10, 10, 10]
    assert lengths(Tagger(8, NOUNS), ["", " ", "  "]) == [10, 11, 12]
    assert lengths(Linear(8, LETTERS), [None] * 3) == [len(text.encode()) for text in texts]


def test_a_tokenizer_whose_words_hold_white_space_is_refused() -> None:
    class Whole:
        pad_id = 0

        def encode(self, rows: Sequence[Any], max_length: int) -> list[Any]:
            return [type("E", (), {"words": [0, 0], "truncated": False})() for _ in rows]

    with pytest.raises(
        ConfigError, match=r"needs a tokenizer that splits texts at white space.*1 words in 'two words'"
    ):
        whole_words(Whole(), ["two words"], Whole().encode(["two words"], 9))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- pairs


def slow_ranking_loss(a: Tensor, b: Tensor, labels: Sequence[int | None]) -> float:
    """Over rows labelled 1: -log of the own b's share among those of all labelled rows."""
    total = 0.0
    for i, label in enumerate(labels):
        if label == 1:
            weights = {j: math.exp(float(a[i] @ b[j])) for j, other in enumerate(labels) if other is not None}
            total -= math.log(weights[i] / sum(weights.values()))
    return total


@pytest.mark.parametrize("labels", [[1, 1, 1, 1], [1, None, 1, 0], [0, 1, None, None], [0, 0, None, 0]])
def test_the_loss_of_in_batch_negatives(labels: list[int | None]) -> None:
    a, b = random(4, 3), random(4, 3, seed=1)
    targets = Ranking().collate(labels, 1)
    loss = Ranking().loss((a, b), targets).item()
    assert loss == pytest.approx(slow_ranking_loss(a, b, labels)) and targets.count == labels.count(1)


def test_a_row_by_itself_has_nothing_to_learn_from() -> None:
    assert Ranking().loss((random(1, 3), random(1, 3)), Ranking().collate([1], 1)).item() == 0


def pairs(a: Tensor, b: Tensor) -> list[Prediction]:
    return Ranking().predict((a, b), Ranking().collate([None] * len(a), 1))


def test_a_pair_is_predicted_its_cosine() -> None:
    found = pairs(torch.tensor([[9.0, 0.0], [3.0, 0.0]]), torch.tensor([[2.0, 0.0], [3.0, 4.0]]))
    assert [p.value for p in found] == pytest.approx([1, 0.6]) and found[1].label == 0.6
    assert np.allclose(found[1].vectors[1], [0.6, 0.8])


def test_ranks_by_hand() -> None:
    """Row 0 finds its own first, row 1 third, row 2 second; row 3, labelled 0, asks nothing but is a candidate."""
    b = torch.eye(4)
    a = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.5, 0.3, 0.6, 0.0], [0.0, 0.0, 0.5, 0.6], [1.0, 0.0, 0.0, 0.0]])
    found = Ranking().metrics(pairs(a, b), [1, 1, 1, 0])
    assert found == pytest.approx({"mrr": (1 + 1 / 3 + 1 / 2) / 3, "recall@1": 1 / 3, "recall@10": 1})


@pytest.mark.parametrize("chunk", [1, 2, 3, 50])
def test_ranks_do_not_depend_on_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "CHUNK", chunk)
    a, b = random(7, 3), random(7, 3, seed=1)
    wanted = [1 + sum(float(a[i] @ b[j]) > float(a[i] @ b[i]) for j in range(7)) for i in (0, 2, 5, 6)]
    assert ranks_of_own(a, b, [0, 2, 5, 6]) == wanted and max(wanted) > 1


def test_ties_count_half_so_that_one_vector_for_all_gains_nothing() -> None:
    same = torch.ones(11, 3)
    found = Ranking().metrics(pairs(same, same), [1] * 11)
    assert found == pytest.approx({"mrr": 1 / 6, "recall@1": 0, "recall@10": 1})


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MultiLabel([]), r"^labels: expected at least one name, and none twice, found \[\]$"),
        (lambda: MultiLabel(["a"], threshold=1.0), r"^threshold: expected a probability between 0 and 1, found 1.0$"),
        (lambda: MultiLabel(["a|b"]), r"^separator: expected one that no label holds, found '\|' and 'a\|b'$"),
        (lambda: MultiLabel(["a"], separator=""), r"^separator: expected one that no label holds, found ''"),
        (lambda: Ordinal(["one"]), r"^ordered classes: expected at least two different names, found \['one'\]$"),
        (lambda: Ordinal("ab"), r"^ordered classes: expected at least two different names, found 'ab'$"),
        (lambda: Tags(["a", "a"]), r"^tags: expected at least two different names"),
        (lambda: Tags(["B-X", "I-X"]), r"^tags: expected O, B-TYPE and I-TYPE for entities, found B-X, I-X$"),
        (lambda: Tags(["O", "B-X", "noun"]), r"^tags: expected O, B-TYPE and I-TYPE for entities, found 'noun'$"),
    ],
)
def test_refuses_wrong_targets_in_one_line(build: Callable[[], Target], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


def test_entities_without_seqeval_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "find_spec", lambda name: None)
    with pytest.raises(PluginError, match=r"need seqeval: pip install 'multitask-toolkit\[tagging\]'$"):
        Tags(["O", "B-PER"])
    assert Tags(["noun", "verb"]).primary == "accuracy"


@pytest.mark.parametrize(
    ("target", "raw", "message"),
    [
        (LETTERS, "a|d", "expected one of 0 .a., 1 .b., 2 .c., found 'd'"),
        (SIZES, "huge", "expected one of 0 .small., .*, found 'huge'"),
        (Number(), "nan", "expected a finite number, found 'nan'"),
        (Number(), "tall", "expected a finite number, found 'tall'"),
        (PEOPLE, "O B-ORG", "expected one of 0 .O., .*, found 'B-ORG'"),
        (Ranking(), "2", r"expected 1 .the texts belong together. or 0, found '2'"),
    ],
)
def test_targets_say_what_is_wrong_with_a_label(target: Target, raw: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        target.parse(raw)
