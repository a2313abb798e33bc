"""A matrix file: recipes x variants x settings, each combination a cell of a sweep.

title = "Combiners"
seeds = 3                                  # or [11711, 11712]
recipes = ["paper/surgery-sick", "paper/final"]  # optional; without it the cells start from [base] alone

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
from itertools import combinations, product
from pathlib import Path
from typing import Any

from mtk.changes import leaves
from mtk.config import CHOICES, merge, parse_settings, read_toml
from mtk.errors import ConfigError, MTKError, did_you_mean
from mtk.recipes import load_recipe
from mtk.settings import KEYS, configure
from mtk.sweep import Cell, without_seed

_KEYS = ("title", "seeds", "recipes", "base", "settings", "variants")
_TYPES = {
    **{"title": (str, "text"), "recipes": (list, "list")},
    **{"base": (dict, "table"), "settings": (dict, "table"), "variants": (dict, "table")},
}


def read_matrix(file: Path, **flat: Any) -> tuple[str, list[Cell], list[int] | int]:
    """Title, cells, and seeds or how many. flat: settings of the command line, which override the file's.

    Raises ConfigError that names file and key.
    """
    tree = read_toml(file)
    _check(tree, file)
    axes: dict[str, Sequence[Any]] = tree.get("settings", {})
    _check_axes(axes, flat, file)
    labels = _labels(list(axes))
    made: dict[str, list[Cell]] = {}  # by variant
    cells = []
    for recipe in tree.get("recipes") or [None]:
        for variant, laid in (tree.get("variants") or {"": {}}).items():
            for values in product(*axes.values()):
                chosen = dict(zip(axes, values, strict=True))
                own = merge(merge(tree.get("base", {}), laid), _nested(chosen))
                words = [recipe, variant, *(f"{labels[key]}={value}" for key, value in chosen.items())]
                name = " ".join(str(word) for word in words if word) or file.stem
                try:
                    _refuse_seed(merge(own, parse_settings(flat.get("settings", []))))
                    config = configure(recipe=recipe, config=own, **flat)
                except MTKError as error:
                    raise ConfigError(f"{file}: cell '{name}': {error}") from error
                published = {} if recipe is None or variant or chosen else load_recipe(recipe).published
                cells.append(Cell(name, config, published))
                made.setdefault(variant, []).append(cells[-1])
    _check_variants(made, file)
    return tree.get("title", file.stem), cells, _seeds(tree.get("seeds", 1), file)


def _check(tree: Mapping[str, Any], file: Path) -> None:
    if unknown := [key for key in tree if key not in _KEYS]:
        raise ConfigError(f"{file}: unknown key '{unknown[0]}'{did_you_mean(unknown[0], _KEYS)}")
    for key, (kind, wanted) in _TYPES.items():
        if key in tree and not isinstance(tree[key], kind):
            raise ConfigError(f"{file}: {key}: expected a {wanted}, found {tree[key]!r}")
    for recipe in tree.get("recipes", []):
        if not isinstance(recipe, str):
            raise ConfigError(f"{file}: recipes: expected names of recipes, found {recipe!r}")
    for name, variant in tree.get("variants", {}).items():
        if not isinstance(variant, dict):
            raise ConfigError(f"{file}: variants.{name}: expected a table of settings, found {variant!r}")


def _check_axes(axes: Mapping[str, Any], flat: Mapping[str, Any], file: Path) -> None:
    """Refuses what would make a cell's name say something else than its configuration."""
    for key, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{file}: settings.{key}: expected a list of values to cross, found {values!r}")
        for other in axes:
            named = other.rpartition(".")[2] in CHOICES and all(isinstance(name, str) for name in axes[other])
            if key.startswith(f"{other}.") and not named:  # `encoder` and `encoder.pair` cross
                raise ConfigError(f"{file}: settings.{key}: '{other}' has values of its own in settings")
    given = {KEYS[name]: name.replace("_", "-") for name, value in flat.items() if name in KEYS and value is not None}
    given |= {key: f"set {key}" for key, _ in leaves(parse_settings(flat.get("settings", [])))}
    for key in axes:
        for other, option in given.items():
            if f"{key}.".startswith(f"{other}."):
                raise ConfigError(f"--{option}: the cells of {file} differ in {key}; leave out the option")


def _labels(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, where that tells them apart, else all of it."""
    last = {key: key.rpartition(".")[2] for key in keys}
    return {key: word if list(last.values()).count(word) == 1 else key for key, word in last.items()}


def _check_variants(made: Mapping[str, Sequence[Cell]], file: Path) -> None:
    """Refuses two variants that never differ, such as one whose keys [settings] have too."""
    trees = {name: [without_seed(cell.config) for cell in cells] for name, cells in made.items()}
    for one, other in combinations(trees, 2):
        if trees[one] == trees[other]:
            raise ConfigError(f"{file}: variants '{one}' and '{other}' have the same configurations")


def _refuse_seed(tree: Mapping[str, Any]) -> None:
    if isinstance(train := tree.get("train"), Mapping) and "seed" in train:
        raise ConfigError("train.seed: seeds are replicates, not a setting; give seeds = [...] in place of it")


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`{"optim.lr": 1}` -> `{"optim": {"lr": 1}}`."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        tree = merge(tree, value)
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
