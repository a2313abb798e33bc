"""The values that a hyper-parameter may take: ranges, whole numbers and choices; from text and back."""

from __future__ import annotations

import contextlib
import math
import re
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from numbers import Real
from typing import TYPE_CHECKING, Any

import tomli_w

from mtk.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from numpy.random import Generator


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
        return f"{type(self).__name__.lower()}({', '.join(map(value_text, self._arguments()))})"

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
                raise ConfigError(f"{self.text()}: {value_text(value)} is given twice")

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
        return f"{type(self).__name__.lower()}({', '.join(map(value_text, self.values))})"

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
        return value_text(self.values[0])


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


def value_text(value: Any, bare: bool = True) -> str:
    """A value so that `_value` reads it again; bare: a word may stand without quotes."""
    if isinstance(value, list):
        return f"[{', '.join(value_text(one, bare=False) for one in value)}]"
    if bare and isinstance(value, str) and _WORD.fullmatch(value) and _value(value, value) == value:
        return value
    return tomli_w.dumps({"v": value})[4:].strip() if _is_value(value) else str(value)
