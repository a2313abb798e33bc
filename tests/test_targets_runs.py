"""Runs on every kind of target: they learn, save, load, predict at the command line, and share the engine."""

from __future__ import annotations

import csv
import io
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

import mtk
import mtk.plugins
from mtk import (
    Example,
    MultiLabel,
    Number,
    Ordinal,
    Ranking,
    Register,
    Source,
    Tags,
    Target,
    Task,
    hookimpl,
    session,
)
from mtk.checkpoint import load_training
from mtk.cli.app import run as command
from mtk.config import RunConfig, make_config, merge
from mtk.errors import ConfigError, DataError
from mtk.testing import check_registered, check_task
from mtk.training import EpochDone, StepDone
from mtk_encoders.tokenizer import FastTokenizer
from tests import toy_plugin

pytestmark = pytest.mark.usefixtures("kinds")

PLAIN = ["the", "a", "film", "story", "and", "with", "is", "it", "of", "for", "day", "people"]
MARKED = ["good", "funny", "sad"]
FIRST = ["cat", "dog", "bird", "horse", "car", "bus", "train", "street", "city", "country", "book", "movie"]
SECOND = [
    "red",
    "blue",
    "green",
    "white",
    "black",
    "home",
    "water",
    "room",
    "mother",
    "father",
    "money",
    "music",
]  # each for one of FIRST
ROWS = {"train": 160, "dev": 48, "test": 6}


class Made(Task):
    """Rows from a draw by split; every eighth training row has no label."""

    draw: Callable[[random.Random], tuple[str, str | None, Any]]

    @property
    def source(self) -> Source:
        return Source("made up")

    def examples(self, split: str) -> Sequence[Example]:
        if split not in ROWS:
            raise DataError(f"no split '{split}'")
        draw = random.Random(f"{type(self).__name__} {split}")
        rows = [type(self).draw(draw) for _ in range(ROWS[split])]
        return [
            Example(f"{split}-{i}", a, b, None if split == "train" and i % 8 == 7 else label)
            for i, (a, b, label) in enumerate(rows)
        ]


def sentence(draw: random.Random, words: Sequence[str], least: int = 3) -> list[str]:
    return draw.choices([*PLAIN, *words, *words], k=draw.randint(least, 7))


class Moods(Made):
    """Which of three words stand in a text."""

    target: Target = MultiLabel(MARKED)

    @staticmethod
    def draw(draw: random.Random) -> tuple[str, str | None, Any]:
        words = sentence(draw, MARKED)
        return " ".join(words), None, tuple(i for i, word in enumerate(MARKED) if word in words)


class Degree(Made):
    """How often a word stands in a text: never, once, more often."""

    target: Target = Ordinal(["none", "some", "much"])
    default_head = "ordinal"

    @staticmethod
    def draw(draw: random.Random) -> tuple[str, str | None, Any]:
        words = ["good"] * draw.randrange(3) + draw.choices(PLAIN, k=4)
        return " ".join(draw.sample(words, len(words))), None, words.count("good")


class Price(Made):
    """Far from 0, and of a large unit: 5000 and 1000 for each time a word stands in a text."""

    target: Target = Number()  # of the class: two tasks of this kind share it

    @staticmethod
    def draw(draw: random.Random) -> tuple[str, str | None, Any]:
        words = ["money"] * draw.randrange(5) + draw.choices(PLAIN, k=4)
        return " ".join(draw.sample(words, len(words))), None, 5000.0 + 1000 * words.count("money")


class Cheap(Price):
    """The same, in another unit."""

    @staticmethod
    def draw(draw: random.Random) -> tuple[str, str | None, Any]:
        a, b, label = Price.draw(draw)
        return a, b, (label - 5000) / 1e6


class Places(Made):
    """Entities of one or two words: "in", a place, and "city" behind it or not."""

    target: Target = Tags(["O", "B-LOC", "I-LOC"])
    default_head = "tagger"

    @staticmethod
    def draw(draw: random.Random) -> tuple[str, str | None, Any]:
        words, tags = draw.choices(PLAIN, k=draw.randint(1, 4)), []
        tags = [0] * len(words)
        for _ in range(draw.randrange(1, 3)):
            more = draw.random() < 0.5
            words += ["in", draw.choice(["india", "home"]), *(["city"] if more else []), "and"]
            tags += [0, 1, *([2] if more else []), 0]
        return " ".join(words), None, tuple(tags)


class Nouns(Made):
    """Plain tags."""

    target: Target = Tags(["other", "first", "second"])
    default_head = "tagger"

    @staticmethod
    def draw(draw: random.Random) -> tuple[str, str | None, Any]:
        words = sentence(draw, [*FIRST[:3], *SECOND[:3]])
        return " ".join(words), None, tuple(1 if w in FIRST else 2 if w in SECOND else 0 for w in words)


class Partners(Made):
    """Texts whose words belong together, one by one; no word stands on both sides."""

    target: Target = Ranking()
    default_head = "contrastive"
    paired = True
    columns = ("question", "answer")

    @staticmethod
    def draw(draw: random.Random) -> tuple[str, str | None, Any]:
        words = draw.sample(range(len(FIRST)), 3)
        return " ".join(FIRST[i] for i in words), " ".join(SECOND[i] for i in draw.sample(words, 3)), 1


TASKS = [Moods, Degree, Price, Cheap, Places, Nouns, Partners]
NAMES = [task.__name__.lower() for task in TASKS]


@hookimpl
def register_tasks(register: Register) -> None:
    for name, task in zip(NAMES, TASKS, strict=True):
        register(name, task, "a toy")


@pytest.fixture
def kinds(toys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = toy_plugin.manager()
    manager.add("kinds", sys.modules[__name__], "kinds", "1.0")
    assert not manager.broken(), manager.broken()
    monkeypatch.setattr(mtk.plugins, "_default", manager)


def settings(*tasks: str, **over: Any) -> RunConfig:
    tree: dict[str, Any] = {
        "tasks": {name: {} for name in tasks},
        "encoder": {"name": "tiny", "hidden_size": 32, "layers": 1, "dropout": 0.0},
        "model": {"dropout": 0.0},
        "combiner": "sum",
        "mixer": "all",
        "optim": {"lr": 0.01},
        "train": {
            "epochs": 1, "batch_size": 16, "patience": 0, "precision": "fp32", "device": "cpu", "threads": 1, "seed": 3
        },
    }  # fmt: skip
    return make_config(merge(tree, over))


def trained(config: RunConfig, out: Path) -> tuple[session.Session, list[Any]]:
    run = session.start(config, out)
    return run, list(run.run())


# ---------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("name", NAMES)
def test_the_toys_are_sound_tasks(name: str) -> None:
    check_registered("task", name)


LEARNED = {  # task, head: what its main metric reaches; by chance it is about 0, or a third for `nouns`
    ("moods", "linear"): 0.9,
    ("moods", "mlp"): 0.9,
    ("degree", "ordinal"): 0.7,
    ("degree", "linear"): 0.7,
    ("price", "linear"): 0.9,
    ("price", "mlp"): 0.9,
    ("places", "tagger"): 0.9,
    ("nouns", "tagger"): 0.95,
    ("partners", "contrastive"): 0.6,
    ("partners", "contrastive:learned=true,symmetric=false"): 0.5,
    ("moods", "linear:rdrop=1,dropout=0.1"): 0.9,
    ("degree", "ordinal:rdrop=1,dropout=0.1"): 0.7,
    ("degree", "linear:rdrop=1,dropout=0.1"): 0.7,
    ("places", "tagger:rdrop=1,dropout=0.1"): 0.9,
}


@pytest.mark.parametrize(("name", "head"), LEARNED)
def test_it_learns(name: str, head: str, tmp_path: Path) -> None:
    config = settings(name, tasks={name: {"head": head}}, train={"epochs": 12 if name == "partners" else 6})
    run, events = trained(config, tmp_path / "run")
    losses = [event.losses[name] for event in events if isinstance(event, StepDone)]
    best = max(event.selected for event in events if isinstance(event, EpochDone))
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert best > LEARNED[name, head]
    model = mtk.load(tmp_path / "run", device="cpu", threads=1)
    assert model.evaluate().aggregate == pytest.approx(best, abs=1e-6)
    rows = [(row.text, row.pair) if row.pair else row.text for row in run.parts.tasks[name].examples("dev")]
    among, (alone,) = model.predict(name, rows[:5]), model.predict(name, rows[:1])
    assert alone.value == pytest.approx(among[0].value, rel=1e-4)


@pytest.fixture(scope="module")
def _all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All kinds together, by PCGrad, in two micro-batches a step and with two tasks of one number each."""
    with pytest.MonkeyPatch.context() as patch:
        manager = toy_plugin.manager()
        manager.add("kinds", sys.modules[__name__], "kinds", "1.0")
        patch.setattr(mtk.plugins, "_default", manager)
        patch.setattr(mtk.device, "onednn_or_torch", lambda: "torch")
        out = tmp_path_factory.mktemp("runs") / "all"
        config = settings(*NAMES, combiner="pcgrad", train={"accumulate": 2, "epochs": 2})
        run, events = trained(config, out)
    assert run.training.slow_parameters == []  # one backward gives all tasks' gradients, also where rows are compared
    losses = [event.losses for event in events if isinstance(event, StepDone)]
    assert all(torch.isfinite(torch.tensor(list(step.values()))).all() for step in losses)
    return out


@pytest.fixture
def everything(_all: Path, kinds: None) -> Path:
    return _all


@pytest.mark.parametrize("train", [{"batch_size": 1, "max_steps": 9}, {"precision": "bf16", "max_steps": 2}], ids=str)
def test_steps_of_one_row_or_without_a_label_and_in_bf16(train: dict[str, Any], tmp_path: Path) -> None:
    """Of nine single rows of each task one has no label, and counts for nothing."""
    config = settings(*NAMES, combiner="pcgrad", train=train)
    run, events = trained(config, tmp_path / "run")
    steps = [event.losses for event in events if isinstance(event, StepDone)]
    values = torch.tensor([[step[name] for name in NAMES] for step in steps])
    assert values.isfinite().all() and run.parts.hardware.precision == config.train.precision
    learning = {name for name, total in zip(NAMES, values.sum(0).tolist(), strict=True) if total > 0}
    assert learning == set(NAMES) - ({"partners"} if "batch_size" in train else set())  # a pair needs others


EDA = "eda:alpha_sr=0,alpha_ri=0,p_rd=0"  # words change places, which no label of these hangs on but that of tags


def test_rows_augmented_by_eda_are_trained_on(tmp_path: Path) -> None:
    """Twice the rows for every kind of label but tags, and what the copies teach is right."""
    names = ["degree", "moods", "price", "partners", "nouns"]
    config = settings(*names, augment=[EDA], train={"epochs": 4})
    run, events = trained(config, tmp_path / "run")
    rows = {name: len(part.labels) for name, part in run.parts.train.items()}
    assert rows == {name: 320 if name != "nouns" else 160 for name in names}
    copies = [row for row in run.parts.train["degree"].examples if row.id.endswith("-eda-1")]
    assert len(copies) == 160 and all(row.label in (None, row.text.split().count("good")) for row in copies)
    scores = [event.scores for event in events if isinstance(event, EpochDone)][-1]
    reached = {"degree": 0.7, "moods": 0.9, "price": 0.9, "nouns": 0.95}
    assert all(scores.pick(name) > least for name, least in reached.items()), scores


def test_eda_on_tags_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^augmentation 'eda' changed no training row of nouns; leave it out"):
        session.start(settings("nouns", augment=[EDA]), None)
    with pytest.raises(ConfigError, match=r"^augmentation 'eda': expected a task whose labels are of whole texts"):
        session.start(settings("nouns", "moods", augment=[f"{EDA},task=nouns"]), None)


def test_r_drop_beside_pcgrad(tmp_path: Path) -> None:
    """Two views of a row and of its tokens: one backward gives all tasks' gradients, as the check at the start says."""
    heads = {"moods": "mlp", "degree": "ordinal", "places": "tagger", "price": "linear"}
    tasks = {name: {"head": f"{head}:rdrop=2,dropout=0.2"} for name, head in heads.items()}
    config = settings(*heads, tasks=tasks, combiner="pcgrad", train={"max_steps": 3, "accumulate": 2})
    run, events = trained(config, tmp_path / "run")
    assert run.training.slow_parameters == []
    assert all(run.parts.model.head(name).views == 2 for name in heads)
    losses = torch.tensor([[*event.losses.values()] for event in events if isinstance(event, StepDone)])
    assert losses.shape == (3, 4) and losses.isfinite().all()
    model = mtk.load(tmp_path / "run", device="cpu", threads=1)
    (best,) = (event.selected for event in events if isinstance(event, EpochDone))
    assert model.evaluate().aggregate == pytest.approx(best, abs=1e-6)
    one, two = (model.predict("places", ["the day in india"]) for _ in range(2))
    assert one == two and len(one[0].value) == 4  # one view, no dropout


def test_two_tasks_of_one_class_keep_their_own_unit(everything: Path) -> None:
    model = mtk.load(everything, device="cpu", threads=1)
    price, cheap = (model.model.head(name).target for name in ("price", "cheap"))
    assert isinstance(price, Number) and isinstance(cheap, Number)
    labels = [row.label for row in model.tasks["price"].examples("train") if row.label is not None]
    assert price.mean == pytest.approx(sum(labels) / len(labels))
    assert 5000 < price.mean < 9000 and 0 < cheap.mean < 0.005 and price.deviation > 1e5 * cheap.deviation
    assert Price.target.mean == 0  # what the class holds is nobody's
    (found,) = model.predict("price", ["the money and the money"])
    assert 4000 < found.value < 10000
    (found,) = model.predict("cheap", ["the money and the money"])
    assert abs(found.value) < 0.01


def test_a_warm_start_goes_on_in_the_unit_that_its_weights_learned_in(everything: Path) -> None:
    config = settings("price", "cheap", tasks={"cheap": {"trained": False}}, init=str(everything))
    run = session.start(config, None)
    old = mtk.load(everything, device="cpu", threads=1)
    for name in ("price", "cheap"):
        before, now = old.model.head(name).target, run.parts.model.head(name).target
        assert isinstance(before, Number) and isinstance(now, Number)
        assert (now.mean, now.deviation) == (before.mean, before.deviation)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    config = settings("price", "partners", "places", combiner="pcgrad", train={"epochs": 2})
    trained(config, tmp_path / "whole")
    cut = session.start(config, tmp_path / "cut")
    for count, _ in enumerate(cut.run()):
        if count == 12:
            cut.stop()
    list(session.resume(tmp_path / "cut").run())
    whole, again = (load_training(tmp_path / name / "last")["moments"] for name in ("whole", "cut"))
    assert whole.keys() == again.keys() and len(whole) > 10
    assert all(torch.equal(whole[name]["exp_avg"], again[name]["exp_avg"]) for name in whole)


# ---------------------------------------------------------------------------------------------- the command line


def ask(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    code = command([str(argument) for argument in arguments])
    out, problems = capsys.readouterr()
    assert code == 0, problems
    return out


def test_predictions_as_json_lines(everything: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = ask(capsys, "predict", everything, "--text", "a good day in india", "--device", "cpu")
    rows = {row["task"]: row for row in map(json.loads, text.splitlines())}
    assert set(rows) == {"moods", "degree", "price", "cheap", "places", "nouns"}
    assert isinstance(rows["moods"]["label"], list) and list(rows["moods"]["probabilities"]) == MARKED
    assert rows["degree"]["label"] in ("none", "some", "much")
    assert sum(rows["degree"]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert isinstance(rows["price"]["label"], float) and "probabilities" not in rows["price"]
    assert rows["places"]["label"]["words"] == ["a", "good", "day", "in", "india"]
    assert len(rows["places"]["label"]["tags"]) == 5 and isinstance(rows["places"]["label"]["entities"], list)
    assert set(rows["nouns"]["label"]) == {"words", "tags"}
    pair = json.loads(ask(capsys, "predict", everything, "--text", "cat dog", "--text", "red blue", "--device", "cpu"))
    assert pair["task"] == "partners" and -1 <= pair["label"] <= 1 and set(pair) == {"id", "task", "label", "score"}


def test_predictions_as_a_table(everything: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "texts.csv"
    file.write_text("id,text\nx,caf\u00e9 of the day\n", encoding="utf-8")
    text = ask(capsys, "predict", everything, "--file", file, "--task", "places", "--task", "moods", "--device", "cpu")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["task"] for row in rows] == ["places", "moods"]
    assert json.loads(rows[0]["label"])["words"][0] == "caf\u00e9" and "caf\u00e9" in text
    assert isinstance(json.loads(rows[1]["label"]), list) and float(rows[1]["p_good"]) >= 0


def test_tasks_of_one_text_that_is_read_in_two_ways(everything: Path) -> None:
    """To a byte-level tokenizer a run of spaces is a token, but where words have tags: two encoder passes, not one."""
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=letters, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model = mtk.load(everything, device="cpu", threads=1)
    model.model.encoder.tokenizer = FastTokenizer(backend, 0, {})
    text, names = "the  day in\tindia ", ["moods", "places", "nouns"]
    (together,) = model.predict_all([text], tasks=names)
    assert together == {name: model.predict(name, [text])[0] for name in names}
    assert together["places"].label["words"] == ["the", "day", "in", "india"] and len(together["nouns"].value) == 4


def test_words_behind_the_limit_are_tagged_too(everything: Path) -> None:
    model = mtk.load(everything, device="cpu", threads=1)
    text = "the day " * 80 + "in india"
    (found,) = model.predict("places", [text])
    assert len(found.value) == 162 and set(found.value[127:]) == {0}
    (found,) = model.predict("nouns", [text])
    assert found.label["tags"][-1] is None and found.label["words"][-1] == "india"


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "head", "message"),
    [
        ("places", "linear", r"'linear': expected a target of rows, found Tags, .* of tokens; use the head 'tagger'"),
        ("partners", "cosine", r"'cosine': .* found Ranking, .* of texts; use the head 'contrastive'"),
        (
            "moods",
            "tagger",
            r"'tagger': expected a target of tokens, found MultiLabel, .* of rows; use the head 'linear'",
        ),
        ("price", "contrastive", r"'contrastive': expected a target of texts, found Number, .* use the head 'linear'"),
        ("price", "ordinal", r"'ordinal': expected ordered classes as the target, found Number; use the head 'linear'"),
        ("partners", "contrastive:temperature=0", r"'contrastive': temperature: expected a positive.* found 0.0"),
        ("partners", "contrastive:temperature=0.001,learned=true", r"temperature: expected at least 0.01 where it is"),
    ],
)
def test_a_head_that_makes_no_sense(name: str, head: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        session.start(settings(name, tasks={name: {"head": head}}), None)
    assert "\n" not in str(caught.value)


def test_a_label_that_does_not_fit_its_text_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nouns, "draw", staticmethod(lambda draw: ("two words", None, (0, 1, 1))))
    with pytest.raises(DataError, match=r"row 'train-0': expected 2 tags, one a word of 'two words', found 3"):
        session.start(settings("nouns"), None)
    with pytest.raises(AssertionError, match=r"row 'train-0': expected 2 tags"):
        check_task(Nouns)
