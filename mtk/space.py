"""The space of a search: the values that each hyper-parameter may take, and the parameters of a trial drawn from it.

[space]                                  # in a file; on a command line the same as optim.lr=loguniform(1e-6,5e-4)
"optim.lr" = "loguniform(1e-6, 5e-4)"    # between both, evenly in the logarithm
"optim.weight_decay" = "uniform(0, 0.2)" # both ends included
mixer.rows = "quniform(2000, 8000, 500)" # multiples of 500; randint(1, 4): whole numbers
"train.batch_size" = [8, 16, 32]         # the same as "choice(8, 16, 32)"
combiner = "grid(sum, cagrad:c=0.4)"     # a choice that is meant to be tried whole; drawn from like any
"train.patience" = 3                     # the same in all trials
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from itertools import combinations, product
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from mtk import plugins
from mtk.config import Choice as PluginChoice, RunConfig, make_config, merge, read_toml
from mtk.errors import ConfigError, MTKError, did_you_mean
from mtk.options import check_options, parse_spec
from mtk.settings import KEYS

if TYPE_CHECKING:
    from numpy.random import Generator

_ROWS, _MACHINE = "trials on other rows cannot be compared", "the machine is the same for all trials"
_NOT_SEARCHED = {
    "train.seed": "seeds are replicates and never compete",
    "train.select_on": "it is what trials are compared by",
    "init": "a warm start is the same for all trials",
    **dict.fromkeys(("train.epochs", "train.max_steps"), "the tuner says how long a trial trains"),
    **dict.fromkeys(("data.folder", "data.sample", "data.max_train_rows"), _ROWS),
    **dict.fromkeys(("train.device", "train.precision", "train.threads"), _MACHINE),
}
_BUILT = ("combiner", "scheduler", "mixer")  # which costs nothing

# ---------------------------------------------------------------------------------------------- domains


@dataclass(frozen=True)
class Uniform:
    """`uniform(low, high)`: numbers from low to high, both included, evenly.

    All domains have the methods of this one, and raise ConfigError where their arguments leave no values to draw.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if wrong := [one for one in self._arguments() if not _is_number(one) or abs(one) > sys.float_info.max]:
            raise ConfigError(f"{self.text()}: expected finite numbers, found {wrong[0]!r}")
        if not self.low < self.high:
            raise ConfigError(f"{self.text()}: expected low below high")

    @property
    def probes(self) -> Sequence[Any]:
        """Values that vouch for the rest: both ends of a range and one between, which is not whole; every choice."""
        return self.clamp(self.low), self.clamp(self.high), self.clamp(self.low + (self.high - self.low) / math.pi)

    def sample(self, generator: Generator) -> Any:
        """One value; takes one number from the generator."""
        share = generator.random()
        return self.clamp((1 - share) * self.low + share * self.high)

    def contains(self, value: Any) -> bool:
        return _is_number(value) and bool(self.clamp(value) == value)

    def clamp(self, value: Any) -> Any:
        """The nearest value of the domain. Raises ConfigError for what is no number, or none of the choices."""
        return float(self._bounded(value))

    def perturb(self, value: Any, factor: float, generator: Generator) -> Any:
        """`value` times `factor`, clamped; of choices, the one before or after `value`, at random."""
        return self.clamp(self.clamp(value) * factor)

    def text(self) -> str:
        """What `parse_domain` makes this domain of again."""
        return f"{type(self).__name__.lower()}({', '.join(map(_text, self._arguments()))})"

    def _arguments(self) -> list[Any]:
        return [getattr(self, name) for name in _arguments_of(type(self))]

    def _bounded(self, value: Any) -> Any:
        if not _is_number(value):
            raise ConfigError(f"{self.text()}: expected a number, found {value!r}")
        return min(max(value, self.low), self.high)


@dataclass(frozen=True)
class LogUniform(Uniform):
    """`loguniform(low, high)`: numbers above 0 from low to high, evenly in the logarithm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low <= 0:
            raise ConfigError(f"{self.text()}: expected bounds above 0")

    def sample(self, generator: Generator) -> Any:
        return self.clamp(math.exp(Uniform(math.log(self.low), math.log(self.high)).sample(generator)))


@dataclass(frozen=True)
class QUniform(Uniform):
    """`quniform(low, high, q)`: the multiples of q from low to high, each as likely; whole where q is written whole."""

    q: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.q <= 0 or len(self._multiples()) < 2:
            raise ConfigError(f"{self.text()}: expected q above 0 with at least two multiples from low to high")

    def _multiples(self) -> range:
        """The k whose k q lie inside the bounds; as fractions, since 0.3 / 0.1 is no 3 in floats."""
        low, high, q = map(_exact, (self.low, self.high, self.q))
        return range(math.ceil(low / q), math.floor(high / q) + 1)

    @property
    def probes(self) -> Sequence[Any]:
        inside = self._multiples()
        return [self._multiple(k) for k in dict.fromkeys((inside[0], inside[-1], inside[1]))]

    def sample(self, generator: Generator) -> Any:
        inside = self._multiples()
        return self._multiple(inside[min(int(generator.random() * len(inside)), len(inside) - 1)])

    def clamp(self, value: Any) -> Any:
        inside, nearest = self._multiples(), round(_exact(self._bounded(value)) / _exact(self.q))
        return self._multiple(min(max(nearest, inside[0]), inside[-1]))

    def perturb(self, value: Any, factor: float, generator: Generator) -> Any:
        """`value` times `factor`, and at least one multiple further: small numbers would round back for ever."""
        here, moved = self.clamp(value), super().perturb(value, factor, generator)
        if moved != here or factor == 1:
            return moved
        return self.clamp(here + (self.q if (factor > 1) == (here >= 0) else -self.q))

    def _multiple(self, k: int) -> Any:
        return k * self.q if isinstance(self.q, int) else float(k * _exact(self.q))


@dataclass(frozen=True)
class RandInt(QUniform):
    """`randint(low, high)`: whole numbers from low to high, both included, each as likely."""

    q: float = field(default=1, init=False)

    def __post_init__(self) -> None:
        if not all(isinstance(end, int) for end in (self.low, self.high)):
            raise ConfigError(f"{self.text()}: expected whole numbers")
        super().__post_init__()


@dataclass(frozen=True)
class Choice:
    """`choice(a, b, ...)`: each as likely. Numbers, texts, true and false, and lists of those."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ConfigError(f"{self.text()}: expected at least one value")
        for place, value in enumerate(self.values):
            if not _is_value(value):
                raise ConfigError(f"{self.text()}: expected finite numbers, texts, true, false or lists of them")
            if any(_same(value, other) for other in self.values[:place]):
                raise ConfigError(f"{self.text()}: {_text(value)} is given twice")

    @property
    def probes(self) -> Sequence[Any]:
        return self.values

    def sample(self, generator: Generator) -> Any:
        return self.values[int(generator.random() * len(self.values))]

    def contains(self, value: Any) -> bool:
        return any(_same(value, own) for own in self.values)

    def clamp(self, value: Any) -> Any:
        return self.values[self._place(value)]

    def perturb(self, value: Any, factor: float, generator: Generator) -> Any:
        place = self._place(value)
        near = [*self.values[max(place - 1, 0) : place], *self.values[place + 1 : place + 2]]
        return near[int(generator.random() * len(near))] if near else self.values[place]

    def text(self) -> str:
        return f"{type(self).__name__.lower()}({', '.join(map(_text, self.values))})"

    def _place(self, value: Any) -> int:
        for place, own in enumerate(self.values):
            if _same(value, own):
                return place
        raise ConfigError(f"{self.text()}: expected one of these, found {value!r}")


class Grid(Choice):
    """`grid(a, b, ...)`: a choice whose values are all meant to be tried; a tuner that draws takes it for a choice."""


class Constant(Choice):
    """A bare value, the same in all trials."""

    def text(self) -> str:
        return _text(self.values[0])


Domain = Uniform | Choice
FUNCTIONS: dict[str, Any] = {
    one.__name__.lower(): one for one in (Uniform, LogUniform, QUniform, RandInt, Choice, Grid)
}


def _arguments_of(domain: type[Uniform]) -> list[str]:
    return [one.name for one in fields(domain) if one.init]


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and bool(value == value)


def _is_value(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_value, value))
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)  # True is no 1


def _exact(number: Any) -> Fraction:
    return Fraction(str(number))


# ---------------------------------------------------------------------------------------------- text

_CALL, _WORD = re.compile(r"\s*([A-Za-z_]\w*)\s*\("), re.compile(r"[A-Za-z_][\w.:=/+-]*")
_TOKEN = re.compile(  # a quoted text, where a value may begin, or a letter
    r"""(?<![^\s=,(\[{])(?:"(?:\\.|[^"\\])*"|'[^']*'|(?P<open>["']))|.""", re.DOTALL
)


def parse_domain(given: Any) -> Domain:
    """`"uniform(0, 1)"`, `"8"`, `"[8, 16]"` or a value of TOML as a domain; a list is a choice.

    Values are TOML where they can be; other words are texts, and need quotes only for commas and brackets of their own.
    Raises ConfigError that names the text.
    """
    if isinstance(given, Domain):
        return given
    call = _CALL.match(given) if isinstance(given, str) else None
    if call is None:
        value = _value(given.strip(), given) if isinstance(given, str) else given
        return Choice(tuple(value)) if isinstance(value, list) else Constant((value,))
    name = call[1]
    if name not in FUNCTIONS:
        raise ConfigError(f"{given}: unknown function '{name}'{did_you_mean(name, FUNCTIONS)}")
    function, arguments = FUNCTIONS[name], [_value(item, given) for item in _items(given, call.end())]
    if issubclass(function, Choice):
        return function(tuple(arguments))
    if len(arguments) != len(names := _arguments_of(function)):
        raise ConfigError(f"{given}: expected the form {name}({', '.join(names)})")
    return function(*arguments)


def _items(text: str, start: int) -> list[str]:
    """What stands between the commas from `start` to the bracket that closes it, which ends the text."""
    items, depth = [""], 1
    for token in _TOKEN.finditer(text, start):
        depth += (token[0] in "([{") - (token[0] in ")]}")
        if token["open"]:
            raise ConfigError(f"{text}: a quote is not closed")
        if depth == 0:
            if text[token.end() :].strip():
                raise ConfigError(f"{text}: expected nothing behind the closing bracket")
            return [item.strip() for item in items] if items != [""] else []
        if token[0] == "," and depth == 1:
            items.append("")
        else:
            items[-1] += token[0].lstrip() if not items[-1] else token[0]
    raise ConfigError(f"{text}: a bracket is not closed")


def _value(item: str, whole: str) -> Any:
    if not item:
        raise ConfigError(f"{whole or repr(whole)}: expected a value, found none")
    with contextlib.suppress(tomllib.TOMLDecodeError):
        table = tomllib.loads(f"value = {item}")
        if len(table) == 1:
            return table["value"]
    if item[0] in "\"'[{":
        raise ConfigError(f"{whole}: expected a value of TOML, found {item}")
    with contextlib.suppress(ValueError):
        return float(item)  # .5
    return item


def _text(value: Any, bare: bool = True) -> str:
    """A value so that `_value` reads it again; bare: a word may stand without quotes."""
    if isinstance(value, list):
        return f"[{', '.join(_text(one, bare=False) for one in value)}]"
    if bare and isinstance(value, str) and _WORD.fullmatch(value) and _value(value, value) == value:
        return value
    return tomli_w.dumps({"v": value})[4:].strip() if _is_value(value) else str(value)


# ---------------------------------------------------------------------------------------------- the space


class Space(Mapping[str, Domain]):
    """A Domain for each dotted configuration key."""

    def __init__(self, domains: Mapping[str, Domain]) -> None:
        self._domains = dict(domains)

    def __getitem__(self, key: str) -> Domain:
        return self._domains[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._domains)

    def __len__(self) -> int:
        return len(self._domains)

    def __repr__(self) -> str:
        return f"Space({self.to_dict()})"

    @classmethod
    def parse(cls, items: Sequence[str] | Mapping[str, Any]) -> Space:
        """`["optim.lr=uniform(0, 1)"]`, or a TOML table with dotted keys, nested tables or both.

        Raises ConfigError that names key and text.
        """
        domains: dict[str, Domain] = {}
        for key, given in _leaves(items) if isinstance(items, Mapping) else map(_pair, items):
            if not all(key.split(".")):
                raise ConfigError(f"space: expected section.key as a key, found '{key}'")
            if key in domains:
                raise ConfigError(f"space: {key} is given twice: {domains[key].text()} and {given}")
            try:
                domains[key] = parse_domain(given)
            except ConfigError as error:
                raise ConfigError(f"space: {key}: {error}") from error
        return cls(domains)

    def sample(self, seed: int, number: int) -> dict[str, Any]:
        """The parameters of trial `number`: a pure function of both, each key's whatever other keys there are."""
        return {key: domain.sample(_generator(seed, number, key)) for key, domain in self.items()}

    @property
    def size(self) -> int | None:
        """How many parameters `grid` gives; None for a space that it refuses."""
        if not all(isinstance(domain, Choice) for domain in self.values()):
            return None
        return math.prod(len(domain.probes) for domain in self.values())

    def grid(self) -> list[dict[str, Any]]:
        """Every combination of `grid`, `choice` and constants, the last key fastest. Raises ConfigError for a range."""
        for key, domain in self.items():
            if not isinstance(domain, Choice):
                raise ConfigError(f"space: {key}: {domain.text()}: a grid has listed values; write grid(...)")
        return [dict(zip(self, values, strict=True)) for values in product(*(one.probes for one in self.values()))]

    def to_dict(self) -> dict[str, str]:
        """Key -> text, of which `parse` makes an equal space."""
        return {key: domain.text() for key, domain in self.items()}

    def to_toml(self) -> str:
        """A file that `load_space` makes an equal space of."""
        return tomli_w.dumps({"space": self.to_dict()})

    def check(self, tree: Mapping[str, Any]) -> None:
        """Raises ConfigError where trials on this configuration tree would fail or could not be compared.

        Both ends of every range, a value between and all choices are tried, and all pairs of those of two keys, against
        the configuration's own bounds and the plugins' options. Nothing is trained, no encoder and no row is loaded.
        """
        for key in self:
            _check_key(key, tree)
        sound: set[str] = set()
        for parameters in self._cases():
            problem = _problem(tree, parameters, sound)
            if problem is None:
                continue
            without = {key: {k: v for k, v in parameters.items() if k != key} for key in self}
            causes = [key for key in self if _problem(tree, without[key], sound) != problem]  # it goes with them
            where = " with ".join(self._at(key, parameters[key]) for key in causes)
            raise ConfigError(f"space: {where}: {problem}" if causes else problem)

    def _at(self, key: str, value: Any) -> str:
        domain = self[key]
        return f"{key} = {domain.text()}{'' if isinstance(domain, Constant) else f' at {_text(value)}'}"

    def _cases(self) -> Iterator[dict[str, Any]]:
        first = {key: domain.probes[0] for key, domain in self.items()}
        for keys in [*combinations(self, 1), *combinations(self, 2)]:
            for values in product(*(self[key].probes for key in keys)):
                yield {**first, **dict(zip(keys, values, strict=True))}


def apply(tree: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration tree with parameters (dotted key -> value) laid on it, a plugin's name before its options."""
    out = dict(tree)
    for key in sorted(parameters, key=lambda key: key.count(".")):
        value = parameters[key]
        for part in reversed(key.split(".")):
            value = {part: value}
        out = merge(out, value)
    return out


def load_space(name: str) -> Space:
    """The `[space]` of a TOML file, which may hold more, as a recipe does. Raises ConfigError that names the file."""
    if not name.endswith(".toml"):
        raise ConfigError(f"space '{name}': expected a TOML file with a table [space]: FILE.toml")
    tree = read_toml(Path(name))
    if not isinstance(tree.get("space"), Mapping):
        raise ConfigError(f"{name}: expected a table [space], found {', '.join(tree) or 'nothing'}")
    try:
        return Space.parse(tree["space"])
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _pair(item: str) -> tuple[str, str]:
    key, equals, text = item.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"space: expected section.key=DOMAIN, found '{item}'")
    return key.strip(), text


def _generator(*key: object) -> Generator:
    import numpy as np

    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:16], "big"))


# ---------------------------------------------------------------------------------------------- checking


def _check_key(key: str, tree: Mapping[str, Any]) -> None:
    """Raises ConfigError for a key that is none, or that must be the same for all trials."""
    section, *path = key.split(".")
    names = {**KEYS, "batch_size": "train.batch_size"}
    if names.get(key, key) != key:
        raise ConfigError(f"space: unknown key '{key}'; did you mean '{names[key]}'?")
    if key in _NOT_SEARCHED:
        raise ConfigError(f"space: {key} cannot be searched: {_NOT_SEARCHED[key]}")
    if section != "tasks":
        return
    if len(path) < 2 or path[1] in ("kind", "name"):
        raise ConfigError(f"space: {key} cannot be searched: the tasks are the same for all trials")
    if path[0] not in tree.get("tasks", {}):
        raise ConfigError(f"space: {key}: no such task in this run{did_you_mean(path[0], tree.get('tasks', {}))}")


def _problem(tree: Mapping[str, Any], parameters: Mapping[str, Any], sound: set[str]) -> str | None:
    """What is wrong with the configuration that these parameters make."""
    try:
        for key, value in parameters.items():
            options = parse_spec(value)[1] if isinstance(value, str) else {}
            if twice := [option for option in options if f"{key}.{option}" in parameters]:
                raise ConfigError(f"option '{twice[0]}' is given twice")
        config = make_config(apply(tree, parameters))
        if "model.encoder_dropout" in parameters and "dropout" in config.encoder.options:
            raise ConfigError("the encoder's own dropout overrides it; search encoder.dropout, or take that out")
        _check_plugins(config, sound)
    except MTKError as error:
        return str(error).removeprefix("configuration: ")
    return None


def _check_plugins(config: RunConfig, sound: set[str]) -> None:
    """Raises MTKError for options that plugins refuse; some are built. sound: those that passed before."""
    dropout = {} if config.model.encoder_dropout is None else {"dropout": config.model.encoder_dropout}
    used: list[tuple[str, PluginChoice, Mapping[str, Any]]] = [
        *((kind, getattr(config, kind), {}) for kind in _BUILT),
        ("encoder", config.encoder, dropout),
        *(("augmentation", choice, {}) for choice in config.augment),
        *(("task", task, {}) for task in config.tasks.values()),
        *(("head", task.head, {}) for task in config.tasks.values() if task.head is not None),
    ]
    for kind, choice, more in used:
        options = {**more, **choice.options}
        if (seen := repr((kind, choice.name, options))) in sound:
            continue
        if kind in _BUILT:
            plugins.build(kind, choice.name, **options)
        else:
            registration, preset = plugins.find(kind, choice.name)
            known = {option.name: option for option in plugins.options(kind, choice.name)}
            check_options(known, {**preset, **options}, f"{kind} '{registration.name}'")
        sound.add(seen)
