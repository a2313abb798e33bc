"""A matrix file: recipes x variants x settings, each combination a cell of a sweep.

title = "Combiners"
seeds = 3                                  # or [11711, 11712]
recipes = ["paper/surgery", "paper/final"] # optional; without it the cells start from [base] alone

[base]                                     # laid on every cell, in the keys of config.toml
encoder = "minilm"
train = { epochs = 2 }

[settings]                                 # crossed with each other
combiner = ["sum", "pcgrad"]
"optim.lr" = [3e-5, 1e-4]

[variants.plain]                           # crossed with the rest, but not with each other
[variants.no-sick]
augment = []
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from mtk.config import merge, read_toml
from mtk.errors import ConfigError, did_you_mean
from mtk.recipes import load_recipe
from mtk.settings import configure
from mtk.sweep import Cell

_KEYS = ("title", "seeds", "recipes", "base", "settings", "variants")


def read_matrix(file: Path, **flat: Any) -> tuple[str, list[Cell], list[int] | int]:
    """Title, cells, and seeds or how many. flat: settings of the command line, which override the file's.

    Raises ConfigError that names file and key.
    """
    tree = read_toml(file)
    if unknown := [key for key in tree if key not in _KEYS]:
        raise ConfigError(f"{file}: unknown key '{unknown[0]}'{did_you_mean(unknown[0], _KEYS)}")
    for key, kind in (("title", str), ("recipes", list), ("base", dict), ("settings", dict), ("variants", dict)):
        if key in tree and not isinstance(tree[key], kind):
            wanted = {str: "text", list: "list", dict: "table"}[kind]
            raise ConfigError(f"{file}: {key}: expected a {wanted}, found {tree[key]!r}")
    axes: dict[str, Sequence[Any]] = tree.get("settings", {})
    for key, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{file}: settings.{key}: expected a list of values to cross, found {values!r}")
    for name, variant in tree.get("variants", {}).items():
        if not isinstance(variant, dict):
            raise ConfigError(f"{file}: variants.{name}: expected a table of settings, found {variant!r}")
    cells = []
    for recipe in tree.get("recipes") or [None]:
        for variant, laid in (tree.get("variants") or {"": {}}).items():
            for values in product(*axes.values()):
                chosen = dict(zip(axes, values, strict=True))
                own = merge(merge(tree.get("base", {}), laid), _nested(chosen, file))
                words = [recipe, variant, *(f"{key.rpartition('.')[2]}={value}" for key, value in chosen.items())]
                name = " ".join(str(word) for word in words if word) or file.stem
                try:
                    config = configure(recipe=recipe, config=own, **flat)
                except ConfigError as error:
                    raise ConfigError(f"{file}: cell '{name}': {error}") from error
                published = {} if recipe is None or variant or chosen else load_recipe(recipe).published
                cells.append(Cell(name, config, published))
    return tree.get("title", file.stem), cells, _seeds(tree.get("seeds", 1), file)


def _nested(settings: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """`{"optim.lr": 1}` -> `{"optim": {"lr": 1}}`."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{file}: settings.{key}: '{part}' has a value of its own in settings")
        node[last] = value
    return tree


def _seeds(found: Any, file: Path) -> list[int] | int:
    items = found if isinstance(found, list) else [found]
    if not items or any(not isinstance(item, int) or isinstance(item, bool) or item < 0 for item in items):
        raise ConfigError(f"{file}: seeds: expected how many, or a list of whole numbers, found {found!r}")
    if isinstance(found, list) and len(set(found)) < len(found):
        raise ConfigError(f"{file}: seeds: expected different ones, found {found!r}")
    if found == 0:
        raise ConfigError(f"{file}: seeds: expected at least one, found 0")
    return found


def seeds_from(found: list[int] | int, first: int) -> list[int]:
    """A list of seeds as it is; a number as so many, counting up from `first`."""
    return list(found) if isinstance(found, list) else [first + number for number in range(found)]
