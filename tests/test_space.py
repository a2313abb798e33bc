"""The search space: what each domain draws, that its text makes it again, trials as pure functions, what is refused."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import numpy as np
import pytest
from scipy import stats

from mtk import plugins
from mtk.config import make_config
from mtk.domains import (
    Choice,
    Constant,
    Grid,
    LogUniform,
    QUniform,
    RandInt,
    Uniform,
    parse_domain,
)
from mtk.errors import ConfigError
from mtk.space import Space, apply, load_space
from tests import toy_plugin

DRAWS = 3000
RANGES = [
    "uniform(0, 1)", "uniform(-3, -0.5)", "uniform(-1e308, 1e308)", "loguniform(1e-6, 5e-4)", "loguniform(2, 3)",
    "quniform(8, 64, 8)", "quniform(0.1, 0.5, 0.1)", "quniform(-1, 1, 0.3)", "quniform(0.25, 9.9, 2)",
    "randint(1, 4)", "randint(-2, 2)", "randint(0, 9007199254740993)",
]  # fmt: skip
LISTS = ["choice(8, 16, 32)", "grid(sum, pcgrad, cagrad:c=0.4)", 'choice([], ["sick"])', "choice(true, 1, a)", "cagrad"]
DOMAINS = RANGES + LISTS


def generator(seed=0):
    return np.random.default_rng(seed)


def draws(text, count=DRAWS):
    domain, source = parse_domain(text), generator()
    return [domain.sample(source) for _ in range(count)]


# ---------------------------------------------------------------------------------------------- domains


@pytest.mark.parametrize("text", DOMAINS)
def test_draws_lie_inside_and_stay_where_they_are(text):
    domain = parse_domain(text)
    for value in draws(text):
        assert domain.contains(value)
        assert domain.clamp(value) == value
        assert type(domain.clamp(value)) is type(value)


@pytest.mark.parametrize("text", DOMAINS)
def test_a_draw_is_of_a_plain_type_and_takes_one_number(text):
    domain, one, other = parse_domain(text), generator(), generator()
    assert type(domain.sample(one)) in (int, float, str, bool, list)
    other.random()
    assert one.random() == other.random()


@pytest.mark.parametrize("text", DOMAINS)
def test_probes_belong_to_the_domain(text):
    domain = parse_domain(text)
    assert all(domain.contains(value) for value in domain.probes)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("randint(1, 4)", [1, 2, 3, 4]),
        ("randint(-2, 0)", [-2, -1, 0]),
        ("quniform(8, 32, 8)", [8, 16, 24, 32]),
        ("quniform(0.1, 0.5, 0.1)", [0.1, 0.2, 0.3, 0.4, 0.5]),  # and no 0.30000000000000004
        ("quniform(0.25, 6.9, 2)", [2, 4, 6]),
        ("quniform(-1, 1, 0.3)", [-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9]),
        ("choice(8, 16, 32)", [8, 16, 32]),
        ("grid(1, 2)", [1, 2]),
    ],
)
def test_all_values_are_drawn_and_equally_often(text, values):
    found = draws(text)
    assert sorted(set(found)) == values
    assert {type(value) for value in found} == {type(values[0])}
    counts = [found.count(value) for value in values]
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize(("text", "low", "high"), [("uniform(-3, 5)", -3, 5), ("loguniform(1e-6, 5e-4)", 1e-6, 5e-4)])
def test_the_distribution(text, low, high):
    found = np.array(draws(text))
    scale = np.log if text.startswith("log") else np.asarray
    low, high = scale(low), scale(high)
    assert stats.kstest((scale(found) - low) / (high - low), "uniform").pvalue > 0.01
    assert parse_domain(text).contains(found.min()) and found.min() < parse_domain(text).high


class Fixed:
    """A generator that gives what it is told."""

    def __init__(self, share):
        self.share = share

    def random(self):
        return self.share


@pytest.mark.parametrize("text", DOMAINS)
@pytest.mark.parametrize("share", [0.0, np.nextafter(1, 0)])
def test_the_least_and_largest_draw(text, share):
    domain = parse_domain(text)
    value = domain.sample(Fixed(share))
    assert domain.contains(value)
    end = domain.probes[0] if share == 0 else domain.probes[1 if text in RANGES else -1]
    assert value == pytest.approx(end, rel=1e-9) if text in RANGES else value == end


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("uniform(0, 1)", [0, 1, 0.5, np.float32(0.5)], [-1e-9, 1.0001, float("nan"), float("inf"), True, "0.5", None]),
        ("loguniform(1e-6, 5e-4)", [1e-6, 5e-4], [0, 9e-7, -1e-5]),
        ("quniform(8, 32, 8)", [8, 16.0, 32], [0, 12, 40]),
        ("quniform(0.1, 0.5, 0.1)", [0.3], [0.35, 0.6]),
        ("randint(1, 4)", [1, 4, 2.0, np.int64(3)], [0, 5, 2.5, True]),
        ("choice(8, 16)", [8, 16.0], [12, "8"]),
        ("choice(1, a)", [1, "a"], [True]),
        ("choice(true)", [True], [1]),
    ],
)
def test_contains(text, inside, outside):
    domain = parse_domain(text)
    assert [value for value in inside if not domain.contains(value)] == []
    assert [value for value in outside if domain.contains(value)] == []


@pytest.mark.parametrize(
    ("text", "value", "clamped"),
    [
        ("uniform(0, 1)", 7, 1.0),
        ("uniform(0, 1)", float("-inf"), 0.0),
        ("loguniform(1e-6, 5e-4)", 1, 5e-4),
        ("quniform(8, 32, 8)", 13.1, 16),
        ("quniform(8, 32, 8)", 100, 32),
        ("quniform(0.25, 6.9, 2)", 6.9, 6),
        ("quniform(0.1, 0.5, 0.1)", 0.1 + 0.2, 0.3),
        ("randint(1, 4)", 2.6, 3),
        ("randint(1, 4)", -5, 1),
        ("choice(8, 16)", 16.0, 16),
    ],
)
def test_clamp(text, value, clamped):
    found = parse_domain(text).clamp(value)
    assert (found, type(found)) == (clamped, type(clamped))


@pytest.mark.parametrize(
    ("text", "value", "words"),
    [
        ("uniform(0, 1)", "fast", "uniform(0, 1): expected a number, found 'fast'"),
        ("uniform(0, 1)", float("nan"), "expected a number, found nan"),
        ("randint(0, 1)", True, "expected a number, found True"),
        ("choice(8, 16)", 12, "choice(8, 16): expected one of these, found 12"),
    ],
)
def test_what_cannot_be_clamped(text, value, words):
    domain = parse_domain(text)
    for method in (domain.clamp, lambda given: domain.perturb(given, 1.2, generator())):
        with pytest.raises(ConfigError) as caught:
            method(value)
        assert words in str(caught.value)


@pytest.mark.parametrize("text", DOMAINS)
def test_perturbed_values_stay_inside(text):
    domain, source = parse_domain(text), generator()
    for value in draws(text, 200):
        for factor in (0.8, 1.2, 50.0):
            assert domain.contains(domain.perturb(value, factor, source))


@pytest.mark.parametrize(
    ("text", "value", "factor", "moved"),
    [
        ("uniform(0, 1)", 0.5, 1.2, 0.6),
        ("loguniform(1e-6, 5e-4)", 1e-4, 0.8, 8e-5),
        ("loguniform(1e-6, 5e-4)", 5e-4, 1.2, 5e-4),
        ("quniform(10, 90, 10)", 50, 1.2, 60),
        ("quniform(8, 32, 8)", 8, 1.2, 16),  # 9.6 would round back to 8
        ("quniform(8, 32, 8)", 16, 0.8, 8),
        ("quniform(8, 32, 8)", 32, 1.2, 32),
        ("randint(1, 4)", 2, 1.2, 3),
        ("randint(-4, 4)", 0, 0.8, -1),
        ("randint(-4, 4)", -2, 1.2, -3),
        ("randint(-4, 4)", -2, 1, -2),
        ("choice(a, b)", "a", 0.8, "b"),
        ("choice(a)", "a", 0.8, "a"),
        ("3", 3, 1.2, 3),
    ],
)
def test_perturb(text, value, factor, moved):
    assert parse_domain(text).perturb(value, factor, generator()) == pytest.approx(moved)


def test_a_choice_moves_to_either_neighbour():
    domain, source = parse_domain("choice(a, b, c, d)"), generator()
    assert {domain.perturb("c", 1.2, source) for _ in range(50)} == {"b", "d"}


# ---------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("given", "domain"),
    [
        ("uniform(0,1)", Uniform(0, 1)),
        ("  uniform ( .5 , 1. )  ", Uniform(0.5, 1)),
        ("loguniform(1e-6,5e-4)", LogUniform(1e-6, 5e-4)),
        ("quniform(8, 64, 8)", QUniform(8, 64, 8)),
        ("randint(1, 1_000)", RandInt(1, 1000)),
        ("choice(sum,pcgrad,cagrad:c=0.4)", Choice(("sum", "pcgrad", "cagrad:c=0.4"))),
        ("choice(8,16,32)", Choice((8, 16, 32))),
        ("grid(8, 1.5)", Grid((8, 1.5))),
        ('choice(true, "true", \'a,b\', "c)", "d\\",e")', Choice((True, "true", "a,b", "c)", 'd",e'))),
        ("choice(weighted:by=[1,2], it's)", Choice(("weighted:by=[1,2]", "it's"))),
        ('choice(capped:name="a,b", all)', Choice(('capped:name="a,b"', "all"))),
        ('choice([], ["eda"])', Choice(([], ["eda"]))),
        ("[8, 16]", Choice((8, 16))),
        ([8, 16], Choice((8, 16))),
        ("3e-5", Constant((3e-5,))),
        ("none", Constant(("none",))),
        ("hf:owner/name", Constant(("hf:owner/name",))),
        ('"uniform(0, 1)"', Constant(("uniform(0, 1)",))),
        (3, Constant((3,))),
        (False, Constant((False,))),
        (RandInt(1, 2), RandInt(1, 2)),
    ],
)
def test_what_is_read(given, domain):
    found = parse_domain(given)
    assert found == domain and type(found) is type(domain)


WORDS = [
    "",
    " a ",
    "a b",
    "a,b",
    "a(b",
    "it's",
    'say "x"',
    "back\\slash",
    "two\nlines",
    "é",
    "true",
    "inf",
    "1979-05-27",
]


@pytest.mark.parametrize(
    "domain",
    [
        *map(parse_domain, DOMAINS),
        *(Constant((word,)) for word in [*WORDS, "uniform(0, 1)", "[1]", "3", 5e-324, 1e16, -0.0, 10**20]),
        Choice(tuple(WORDS)),
        Grid((1, 2.5, True, "x", ["a", 1, []], [])),
        Uniform(0.1 + 0.2, 1e22),
    ],
)
def test_a_text_makes_its_domain_again(domain):
    again = parse_domain(domain.text())
    assert again == domain and type(again) is type(domain)
    assert again.text() == domain.text()
    assert Space.parse(tomllib.loads(Space({"a.b": domain}).to_toml())["space"])["a.b"] == domain


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("uniform(2,1)", "uniform(2, 1): expected low below high"),
        ("uniform(1,1)", "uniform(1, 1): expected low below high"),
        ("randint(4,4)", "randint(4, 4): expected low below high"),
        ("loguniform(0,1)", "loguniform(0, 1): expected bounds above 0"),
        ("loguniform(-1,1)", "loguniform(-1, 1): expected bounds above 0"),
        ("quniform(0,1,0)", "quniform(0, 1, 0): expected q above 0 with at least two multiples"),
        ("quniform(0,1,-0.1)", "expected q above 0"),
        ("quniform(0.1,1,0.7)", "quniform(0.1, 1, 0.7): expected q above 0 with at least two multiples"),
        ("randint(1.5,3)", "randint(1.5, 3): expected whole numbers"),
        ("uniform(nan,1)", "uniform(nan, 1): expected finite numbers, found nan"),
        ("uniform(0,inf)", "uniform(0, inf): expected finite numbers, found inf"),
        (f"randint(0,1{'0' * 310})", "expected finite numbers"),
        ("uniform(a,b)", "uniform(a, b): expected finite numbers, found 'a'"),
        ("uniform(true,2)", "expected finite numbers, found True"),
        ("uniform(0)", "uniform(0): expected the form uniform(low, high)"),
        ("quniform(0,1)", "expected the form quniform(low, high, q)"),
        ("randint(0,1,2)", "expected the form randint(low, high)"),
        ("choice()", "choice(): expected at least one value"),
        ("grid( )", "grid(): expected at least one value"),
        ("[]", "choice(): expected at least one value"),
        ("choice(a,b,a)", "choice(a, b, a): a is given twice"),
        ("choice(1,1.0)", "1.0 is given twice"),
        ("choice(nan,1)", "choice(nan, 1): expected finite numbers, texts, true, false or lists of them"),
        ("choice([inf])", "expected finite numbers, texts"),
        ("inf", "inf: expected finite numbers, texts"),
        ("choice({a = 1}, b)", "expected finite numbers, texts"),
        ("unifrm(0,1)", "unifrm(0,1): unknown function 'unifrm'; did you mean 'uniform'?"),
        ("uniform(0,1", "uniform(0,1: a bracket is not closed"),
        ("choice([1, 2)", "choice([1, 2): a bracket is not closed"),
        ("uniform(0,1))", "uniform(0,1)): expected nothing behind the closing bracket"),
        ("uniform(0,1) x", "expected nothing behind the closing bracket"),
        ('choice("a)', 'choice("a): a quote is not closed'),
        ("choice([sick])", "choice([sick]): expected a value of TOML, found [sick]"),
        ("choice(a,,b)", "choice(a,,b): expected a value, found none"),
        ("choice(a,)", "expected a value, found none"),
        ("", "'': expected a value, found none"),
    ],
)
def test_what_is_refused_names_key_and_text(text, words):
    with pytest.raises(ConfigError) as caught:
        Space.parse([f"optim.lr={text}"])
    assert str(caught.value).startswith("space: optim.lr: ") and "\n" not in str(caught.value)
    assert words in str(caught.value)


# ---------------------------------------------------------------------------------------------- the space

PAPER = {
    "optim.lr": "loguniform(1e-6, 5e-4)",
    "optim.weight_decay": "uniform(0.01, 0.2)",
    "model.encoder_dropout": "uniform(0.01, 0.5)",
    "train.batch_size": [8, 16, 32],
}


def test_a_table_and_a_command_line_are_the_same_space():
    lines = [f"{key}={value if isinstance(value, str) else 'choice(8,16,32)'}" for key, value in PAPER.items()]
    nested = {"optim": {"lr": PAPER["optim.lr"], "weight_decay": PAPER["optim.weight_decay"]}}
    nested |= {"model": {"encoder_dropout": PAPER["model.encoder_dropout"]}, "train.batch_size": [8, 16, 32]}
    assert Space.parse(lines) == Space.parse(PAPER) == Space.parse(nested) == Space.parse(Space.parse(PAPER))
    assert list(Space.parse(lines)) == list(PAPER)
    assert "loguniform" in repr(Space.parse(PAPER))


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (["optim.lr=1", "optim.lr=uniform(0,1)"], "space: optim.lr is given twice: 1 and uniform(0,1)"),
        ({"optim.lr": 1, "optim": {"lr": 2}}, "space: optim.lr is given twice: 1 and 2"),
        (["optim.lr"], "space: expected section.key=DOMAIN, found 'optim.lr'"),
        (["=3"], "expected section.key=DOMAIN"),
        (["optim..lr=3"], "expected section.key as a key, found 'optim..lr'"),
        ({"": 3}, "expected section.key as a key, found ''"),
        ({"optim.lr": None}, "space: optim.lr: None: expected finite numbers, texts"),
    ],
)
def test_keys_that_are_refused(items, words):
    with pytest.raises(ConfigError) as caught:
        Space.parse(items)
    assert words in str(caught.value)


def test_a_trial_is_a_function_of_seed_and_number():
    space = Space.parse(PAPER)
    assert space.sample(11711, 3) == space.sample(11711, 3)
    different = {repr(space.sample(seed, number)) for seed in range(5) for number in range(20)}
    assert len(different) == 100
    assert space.sample(1, 12) != space.sample(11, 2)


def test_a_trial_is_the_same_everywhere():
    found = Space.parse({"a": "uniform(0, 1)", "b": "choice(1, 2, 3)"}).sample(11711, 0)
    assert found == {"a": 0.20171600031310588, "b": 2}


def test_a_draw_knows_no_other_key():
    space = Space.parse(PAPER)
    for number in range(20):
        whole = space.sample(7, number)
        for key, domain in space.items():
            assert Space({key: domain}).sample(7, number) == {key: whole[key]}


def test_keys_and_trials_are_drawn_independently():
    space = Space.parse({"a": "uniform(0, 1)", "b": "uniform(0, 1)"})
    found = np.array([list(space.sample(0, number).values()) for number in range(1000)])
    for column in found.T:
        assert stats.kstest(column, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(found.T)[0, 1]) < 0.1
    assert abs(np.corrcoef(found[1:, 0], found[:-1, 0])[0, 1]) < 0.1


def test_a_grid_crosses_what_is_listed():
    space = Space.parse(["combiner=grid(sum,pcgrad)", "train.epochs=5", "train.batch_size=choice(8,16)"])
    assert space.size == 4
    assert space.grid() == [
        {"combiner": combiner, "train.epochs": 5, "train.batch_size": size}
        for combiner in ("sum", "pcgrad")
        for size in (8, 16)
    ]
    assert Space({}).grid() == [{}] and Space({}).size == 1


@pytest.mark.parametrize("text", RANGES)
def test_a_grid_has_no_ranges(text):
    space = Space.parse({"train.batch_size": [8, 16], "optim.lr": text})
    assert space.size is None
    with pytest.raises(ConfigError, match=r"space: optim\.lr: .*: a grid has listed values; write grid\(\.\.\.\)"):
        space.grid()


def test_files(tmp_path):
    file = tmp_path / "space.toml"
    file.write_text(Space.parse(PAPER).to_toml())
    assert load_space(str(file)) == Space.parse(PAPER)
    file.write_text('title = "more"\n[space]\n"train.batch_size" = [8]\n[space.optim]\nlr = "uniform(1, 2)"\n')
    assert load_space(str(file)) == Space.parse(["train.batch_size=choice(8)", "optim.lr=uniform(1,2)"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a table [space], found nothing"),
        ("[spcae]\n", "expected a table [space], found spcae"),
        ("space = 3", "expected a table [space], found space"),
        ("[space]\noptim.lr = 'uniform(2, 1)'", "space: optim.lr: uniform(2, 1): expected low below high"),
        ("[space", "not a TOML file"),
    ],
)
def test_files_that_are_refused(tmp_path, text, words):
    file = tmp_path / "space.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_space(str(file))
    assert str(caught.value).startswith(f"{file}: ") and words in str(caught.value)


def test_a_name_that_is_no_file():
    with pytest.raises(ConfigError, match="space 'paper': expected a TOML file"):
        load_space("paper")


def test_nothing_heavy_is_imported():
    code = "import mtk.space, sys; mtk.space.Space.parse(['a=uniform(0,1)']); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


# ---------------------------------------------------------------------------------------------- on a configuration

TREE = {"tasks": {"sst": {}, "sts": {"head": "cosine"}}, "encoder": "minilm", "combiner": "pcgrad"}


@pytest.mark.parametrize(
    ("parameters", "section", "found"),
    [
        ({"optim.lr": 1e-4}, "optim", {"lr": 1e-4}),
        ({"combiner": "cagrad:c=0.4"}, "combiner", {"name": "cagrad", "c": "0.4"}),
        ({"combiner.c": 0.4, "combiner": "cagrad"}, "combiner", {"name": "cagrad", "c": 0.4}),  # in whatever order
        ({"encoder.pooling": "cls"}, "encoder", {"name": "minilm", "pooling": "cls"}),
        ({"mixer.rows": 500}, "mixer", {"rows": 500}),
        ({"tasks.sts.head.dropout": 0.2}, "tasks", {"sst": {}, "sts": {"head": {"name": "cosine", "dropout": 0.2}}}),
    ],
)
def test_parameters_on_a_tree(parameters, section, found):
    before = repr(TREE)
    assert apply(TREE, parameters)[section] == found
    assert repr(TREE) == before


SOUND = [
    [f"{key}={value if isinstance(value, str) else 'choice(8,16,32)'}" for key, value in PAPER.items()],
    ["combiner=choice(sum,pcgrad,cagrad:c=0.4)", "scheduler=choice(linear,cosine:floor=0.1)"],
    ["combiner.c=uniform(0,0.9)", "combiner=cagrad"],
    ["combiner=choice(cagrad,mean)", "optim.layer_decay=uniform(0.5,1)"],
    ["encoder.pooling=choice(mean,cls)", "encoder.token_types=choice(true,false)"],
    ["encoder=choice(minilm,bert-base)", "encoder.pooling=choice(mean,cls)"],
    ["encoder.dropout=uniform(0,0.4)"],
    ["mixer=temperature", "mixer.temperature=uniform(1,5)"],
    ["mixer.rows=quniform(1000,8000,500)"],
    ["tasks.sst.weight=uniform(0,2)", "tasks.sts.head=choice(cosine,concat)", "tasks.sst.head=choice(linear,mlp)"],
    ['augment=choice([],["eda:alpha_sr=0.2"])', "data.max_length=choice(64,128)"],
    ["model.freeze=choice(none,embeddings,2)", "model.head_warmup=randint(0,2)"],
    ["train.batch_size=choice(16,32)", "train.accumulate=choice(1,16)"],
    [],
]


@pytest.mark.parametrize("items", SOUND)
def test_sound_spaces_and_their_trials(items):
    space = Space.parse(items)
    space.check(TREE)
    for number in range(20):
        make_config(apply(TREE, space.sample(1, number)))


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (["lr=uniform(0,1)"], ["space: unknown key 'lr'; did you mean 'optim.lr'?"]),
        (["batch_size=choice(8,16)"], ["unknown key 'batch_size'; did you mean 'train.batch_size'?"]),
        (["optim.lrr=uniform(1,2)"], ["space: optim.lrr = uniform(1, 2) at 1.0: unknown key 'optim.lrr'", "'lr'"]),
        (["optm.lr=uniform(1,2)"], ["unknown key 'optm'; did you mean 'optim'?"]),
        (["optim=choice(1,2)"], ["optim = choice(1, 2) at 1: ", "expected a table"]),
        # both ends, what lies between, and every choice
        (["optim.lr=uniform(0,1)"], ["optim.lr = uniform(0, 1) at 0.0: ", "greater than 0"]),
        (["model.dropout=uniform(0.5,1)"], ["model.dropout = uniform(0.5, 1) at 1.0: ", "less than 1"]),
        (["train.batch_size=uniform(8,32)"], ["train.batch_size = uniform(8, 32) at 15.6", "valid integer"]),
        (["train.batch_size=quniform(8,9,0.5)"], ["at 8.5: ", "valid integer"]),
        (["train.step=choice(all,on)"], ["train.step = choice(all, on) at on: ", "'all' or 'one'"]),
        (["train.accumulate=choice(1,16)"], ["at 16: ", "8 rows a step cannot be split over 16 parts"]),
        (
            ["train.batch_size=choice(16,4)", "optim.lr=uniform(1,2)", "train.accumulate=choice(1,6)"],
            ["space: train.batch_size = choice(16, 4) at 4 with train.accumulate = choice(1, 6) at 6: "],
        ),
        # the first wrong key is named, not its neighbours
        (["optim.weight_decay=uniform(0,1)", "optim.lr=uniform(-1,1)"], ["space: optim.lr = uniform(-1, 1) at -1.0: "]),
        # plugins
        (["combiner=choice(sum,pcgard)"], ["at pcgard: unknown combiner 'pcgard'; did you mean 'pcgrad'?"]),
        (["combiner.c=uniform(0,0.5)"], ["combiner.c = uniform(0, 0.5) at 0.0: combiner 'pcgrad'", "'c'"]),
        (["combiner=cagrad", "combiner.c=uniform(0.5,1)"], ["combiner.c = uniform(0.5, 1) at 1.0: ", "below 1"]),
        (["combiner=cagrad", "combiner.cc=uniform(0,0.5)"], ["combiner 'cagrad' has no option 'cc'"]),
        (["combiner=choice(cagrad,sum)", "combiner.c=uniform(0,0.5)"], ["choice(cagrad, sum) at sum", "'c'"]),
        (["combiner=choice(cagrad:c=0.2)", "combiner.c=uniform(0,0.5)"], ["option 'c' is given twice"]),
        (["combiner=cagrad:c=x"], ["space: combiner = cagrad:c=x: ", "option 'c' must be float, found 'x'"]),
        (["encoder.pooling=choice(mean,max)"], ["at max: encoder 'minilm': option 'pooling' must be"]),
        (["encoder=choice(minilm,tiny)", "encoder.pair=standard", "encoder.token_type=true"], ["'token_types'"]),
        (["encoder.dropout=uniform(0,0.5)", "model.encoder_dropout=uniform(0,0.5)"], ["own dropout overrides it"]),
        (["mixer.rows=uniform(10,20)"], ["mixer 'capped': option 'rows' must be int"]),
        (['augment=choice([],["eda:copie=2"])'], ["augmentation 'eda' has no option 'copie'"]),
        (["tasks.sts.head=choice(cosine,cosin)"], ["unknown head 'cosin'"]),
        (["tasks.sts.head.dropout=choice(0.1,x)"], ["head 'cosine': option 'dropout' must be float"]),
        (["tasks.sst.head.dropout=uniform(0,0.5)"], ["'tasks.sst.head.name' is missing"]),
        (["tasks.sst.wieght=uniform(0,2)"], ["task 'sst' has no option 'wieght'"]),
        # what is no trial's own
        (["tasks.sts2.weight=uniform(0,2)"], ["tasks.sts2.weight: no such task in this run; did you mean 'sts'?"]),
        (["tasks.sst.kind=choice(sst,sts)"], ["tasks.sst.kind cannot be searched: the tasks are the same"]),
        (["tasks.sst=choice(sst,sts)"], ["tasks.sst cannot be searched"]),
        (["train.seed=randint(1,9)"], ["train.seed cannot be searched: seeds are replicates"]),
        (["train.epochs=randint(1,9)"], ["train.epochs cannot be searched: the tuner says how long"]),
        (
            ["train.select_on=choice(sst,sts)"],
            ["train.select_on cannot be searched: it is what trials are compared by"],
        ),
        (["train.device=choice(cpu,cuda)"], ["train.device cannot be searched: the machine"]),
        (["data.max_train_rows=randint(1,9)"], ["data.max_train_rows cannot be searched: trials on other rows"]),
        (["init=choice(a,b)"], ["init cannot be searched: a warm start"]),
    ],
)
def test_spaces_that_would_fail_are_refused_before_anything_starts(items, words):
    with pytest.raises(ConfigError) as caught:
        Space.parse(items).check(TREE)
    assert str(caught.value).startswith("space: ") and "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_a_configuration_that_is_wrong_by_itself():
    with pytest.raises(ConfigError) as caught:
        Space.parse(["optim.weight_decay=uniform(0,1)"]).check({**TREE, "train": {"epochs": 0}})
    assert str(caught.value).startswith("train.epochs: ")


def test_the_encoder_s_own_dropout_hides_the_model_s(toys):
    space = Space.parse(["model.encoder_dropout=uniform(0,0.4)"])
    with pytest.raises(ConfigError, match=r"encoder's own dropout overrides it"):
        space.check(toy_plugin.TREE)
    Space.parse(["encoder.dropout=uniform(0,0.4)", "tasks.words.rows=choice(8,16)"]).check(toy_plugin.TREE)


def test_plugins_are_asked_once_for_what_they_have_seen(monkeypatch):
    asked = []
    build = plugins.build
    monkeypatch.setattr(plugins, "build", lambda kind, *a, **k: (asked.append(kind), build(kind, *a, **k))[1])
    Space.parse([*SOUND[0], "combiner=choice(sum,mean)"]).check(TREE)
    assert sorted(asked) == ["combiner", "combiner", "mixer", "scheduler"]
