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

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from mtk import plugins
from mtk.changes import leaves
from mtk.config import Choice as PluginChoice, RunConfig, make_config, merge, read_toml
from mtk.domains import Choice, Constant, Domain, parse_domain, value_text
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
        for key, given in leaves(items) if isinstance(items, Mapping) else map(_pair, items):
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
        return f"{key} = {domain.text()}{'' if isinstance(domain, Constant) else f' at {value_text(value)}'}"

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
