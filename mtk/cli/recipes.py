"""`mtk recipes`: the named configurations that plugins ship, and one of them in full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mtk import plugins
from mtk.cli.printing import print_table
from mtk.plugins import parse_spec

if TYPE_CHECKING:
    from mtk.recipes import Recipe


def recipes(
    name: Annotated[str | None, typer.Argument(help="A recipe, or a TOML file of the same form, to show.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Show the settings for this encoder. Default: the recipe's own.")
    ] = None,
    as_toml: Annotated[
        bool, typer.Option("--toml", help="Print the configuration alone, as mtk train --config reads it.")
    ] = False,
) -> None:
    """List the recipes, or show one: its source, what it changes, how it was read, its configuration.

    mtk train --recipe NAME trains one.
    """
    from mtk.errors import ConfigError

    if name is None:
        if encoder is not None or as_toml:
            raise ConfigError("--encoder and --toml belong to one recipe: name it; mtk recipes lists them")
        found = plugins.registered("recipe").values()
        if not found:
            typer.echo("no recipes are installed")
            return
        print_table(("recipe", "summary", "from"), [(r.name, r.summary, r.distribution) for r in found])
        typer.echo("\nmtk recipes NAME shows one; mtk train --recipe NAME trains it")
        return
    from mtk.recipes import load_recipe
    from mtk.settings import configure

    recipe = load_recipe(name)
    if encoder is not None:
        plugins.find("encoder", parse_spec(encoder)[0])
    text = configure(recipe=name, encoder=encoder).to_toml()
    if not as_toml:
        _show(recipe, encoder)
    typer.echo(text, nl=False)


def _show(recipe: Recipe, encoder: str | None) -> None:
    from mtk.config import differences
    from mtk.recipes import resolved
    from mtk.settings import tree_of

    typer.echo(f"{recipe.name}: {recipe.title}")
    if recipe.published:
        figures = ", ".join(f"{name} {value:g}" for name, value in recipe.published.items())
        typer.echo(f"published: {figures} ({recipe.source})")
    if recipe.overlays:
        typer.echo(
            f"settings of their own for --encoder: {', '.join(recipe.overlays)}; shown: {encoder or recipe.encoder}"
        )
    if recipe.base is not None:
        typer.echo(f"\nagainst {recipe.base.name} it changes:")
        below, own = (resolved(tree_of(recipe=one.name, encoder=encoder)) for one in (recipe.base, recipe))
        for key, before, after in differences(below, own):
            typer.echo(f"  {key}: {_text(before)} -> {_text(after)}")
    if recipe.readings:
        typer.echo("\nhow it was read:")
        for reading in recipe.readings:
            typer.echo(f"  - {reading}")
    typer.echo()


def _text(value: Any) -> str:
    return "not set" if value is None else str(value)
