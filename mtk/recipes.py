"""Recipes: named configurations that plugins ship as TOML files, each laid on the one before it.

title = "Gradient surgery"               # in a table of scores
base = "paper/baseline-multitask"        # optional: a registered recipe that this one changes
changes = ["combiner", "train.step"]     # what differs from `base`, by key: checked by a test of whoever ships it
readings = ["..."]                       # how an open point of the source was read
published = { sst = 0.499, mean = 0.5 }  # the source's figures: task -> its primary score, and their mean
source = "..."                           # whose figures these are

[config]                                 # the configuration, in the keys of config.toml
[encoders.minilm]                        # laid on it where that encoder is chosen
[space]                                  # what mtk tune searches, unless told otherwise (see mtk.space)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtk import plugins
from mtk.config import make_config, merge, read_toml, spell_out
from mtk.errors import ConfigError, did_you_mean
from mtk.options import parse_spec

_KEYS = ("title", "base", "changes", "readings", "published", "source", "config", "encoders", "space")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe file as it is; `tree` joins it with those below it."""

    name: str
    title: str
    base: Recipe | None = None
    changes: tuple[str, ...] = ()
    readings: tuple[str, ...] = ()
    published: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    encoders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    own_space: Mapping[str, Any] = field(default_factory=dict)

    @property
    def space(self) -> Mapping[str, Any]:
        """The table of the space that a search of it draws from: its own, or that of a recipe below it."""
        return self.own_space or (self.base.space if self.base else {})

    @property
    def encoder(self) -> str | None:
        """The encoder that the recipe is written for."""
        own = encoder_name(self.config.get("encoder"))
        return own or (self.base.encoder if self.base else None)

    @property
    def overlays(self) -> list[str]:
        """The encoders that the recipe, or one below it, has settings of their own for."""
        below = self.base.overlays if self.base else []
        return [*below, *(name for name in self.encoders if name not in below)]

    def tree(self, encoder: str | None = None) -> dict[str, Any]:
        """The configuration tree for an encoder's name; None for the recipe's own."""
        below = self.base.tree(encoder) if self.base else {}
        return merge(merge(below, self.config), self.encoders.get(encoder or "", {}))


def resolved(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration tree with all defaults spelled out, those of its plugins too: what two recipes compare by."""
    config = make_config(tree)
    tasks = {
        name: spell_out("task", task.model_copy(update={"head": task.head and spell_out("head", task.head)}))
        for name, task in config.tasks.items()
    }
    update: dict[str, Any] = {"tasks": tasks, "augment": [spell_out("augmentation", one) for one in config.augment]}
    for kind in ("encoder", "combiner", "scheduler", "mixer"):
        update[kind] = spell_out(kind, getattr(config, kind))
    return config.model_copy(update=update).to_dict()


def load_recipe(name: str) -> Recipe:
    """A registered recipe, or a TOML file of the same form. Raises ConfigError and PluginError."""
    return _load(name, ())


def recipe_tree(name: str, encoder: Any = None) -> dict[str, Any]:
    """The configuration of a recipe. encoder: what the user chose, if anything: NAME, NAME:OPTIONS or a table."""
    recipe = load_recipe(name)
    return recipe.tree(encoder_name(encoder) or recipe.encoder)


def _load(name: str, above: tuple[str, ...]) -> Recipe:
    if name in above:
        raise ConfigError(f"recipe '{name}' is laid on itself: {' on '.join([*above, name])}")
    file = Path(name) if name.endswith(".toml") else plugins.build("recipe", name)
    tree = read_toml(file)
    _check(tree, file)
    base = tree.get("base")
    if base is not None and base.endswith(".toml"):
        base = str(file.parent / base)  # beside the file that names it
    recipe = Recipe(
        name=name,
        title=tree.get("title", name),
        base=None if base is None else _load(base, (*above, name)),
        changes=tuple(tree.get("changes", ())),
        readings=tuple(tree.get("readings", ())),
        published=tree.get("published", {}),
        source=tree.get("source", ""),
        config=tree.get("config", {}),
        encoders=tree.get("encoders", {}),
        own_space=tree.get("space", {}),
    )
    for encoder in (None, *recipe.overlays):  # every form of it is a configuration
        make_config(recipe.tree(encoder), f"{file}{'' if encoder is None else f' for {encoder}'}")
    return recipe


def _check(tree: Mapping[str, Any], file: Path) -> None:
    """Raises ConfigError for a key that no recipe has, or one of another type."""
    if unknown := [key for key in tree if key not in _KEYS]:
        raise ConfigError(f"{file}: unknown key '{unknown[0]}'{did_you_mean(unknown[0], _KEYS)}")
    texts, tables = ("title", "base", "source"), ("published", "config", "encoders", "space")
    for key, value in tree.items():
        if key in texts:
            wanted, good = "a text", isinstance(value, str)
        elif key in tables:
            wanted, good = "a table", isinstance(value, Mapping)
        else:
            wanted, good = "a list of texts", isinstance(value, list) and all(isinstance(one, str) for one in value)
        if not good:
            raise ConfigError(f"{file}: {key}: expected {wanted}, found {value!r}")
    for name, figure in tree.get("published", {}).items():
        if not isinstance(figure, int | float) or isinstance(figure, bool):
            raise ConfigError(f"{file}: published.{name}: expected a number, found {figure!r}")
    for name, overlay in tree.get("encoders", {}).items():
        if not isinstance(overlay, Mapping):
            raise ConfigError(f"{file}: encoders.{name}: expected a table, found {overlay!r}")


def encoder_name(encoder: Any) -> str | None:
    """The name in `NAME:OPTIONS` or `{name = ...}`."""
    if isinstance(encoder, Mapping):
        found = encoder.get("name")
        return found if isinstance(found, str) else None
    return parse_spec(encoder)[0] if isinstance(encoder, str) else None
