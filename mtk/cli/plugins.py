"""`mtk plugins list`, `mtk plugins show` and `mtk plugins new`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mtk import plugins
from mtk.cli.printing import print_table
from mtk.errors import MTKError

app = typer.Typer(no_args_is_help=True, help="What is installed, by name: every task, head, encoder ...; and new ones.")

KINDS = (*plugins.KINDS, "command")
COLUMNS = ("kind", "name", "summary", "distribution", "version")


@app.command("list")
def list_plugins(
    kind: Annotated[str | None, typer.Option(help=f"Only this kind: {', '.join(KINDS)}.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """List the installed plugins and the package that each comes from, the broken ones last."""
    rows = [row for each in KINDS if kind in (None, each) for row in _rows(each)]
    if kind not in (None, "command"):
        plugins.registered(kind)  # refuses an unknown kind
    broken = plugins.broken()
    if as_json:
        names = ("plugin", "distribution", "version", "reason")
        away = [{name: getattr(b, name) for name in names} for b in broken]
        typer.echo(json.dumps({"plugins": rows, "broken": away}, indent=2))
        return
    lines = [tuple(row[column] for column in COLUMNS) for row in rows]
    lines += [("disabled", n, "by MTK_DISABLE_PLUGINS or --no-plugins", d, "") for n, d in plugins.disabled().items()]
    lines += [("broken", b.plugin, b.reason, b.distribution, b.version) for b in broken]
    print_table(COLUMNS, lines, red="broken")


@app.command("show")
def show_plugin(
    words: Annotated[list[str], typer.Argument(metavar="NAME", help="A plugin's name or alias, or a command's words.")],
    kind: Annotated[str | None, typer.Option(help="Only this kind, where several have the name.")] = None,
) -> None:
    """Show a plugin's options, paper and origin."""
    name, kinds = " ".join(words), KINDS if kind is None else (kind,)
    known = {(k, n): r for k in kinds if k != "command" for r in plugins.registered(k).values() for n in r.names}
    commands = {c.path: c for c in plugins.commands() if "command" in kinds}
    found = [r for (_, n), r in known.items() if n == name]
    if not found and name not in commands:
        raise plugins.unknown(kind or "plugin", name, {*(n for _, n in known), *commands})
    for place, registration in enumerate(found):
        if place:
            typer.echo()
        _show(registration)
    if name in commands:
        if found:
            typer.echo()
        _show_command(commands[name])


@app.command("new")
def new_package(
    context: typer.Context,
    package: Annotated[str, typer.Argument(metavar="mtk-NAME", help="The package; its plugin will be called NAME.")],
    kind: Annotated[str, typer.Option(help=f"What it adds: {', '.join(KINDS)}.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to write it. Default: ./mtk-NAME.")] = None,
) -> None:
    """Write a plugin package to begin with: it installs, does something, and passes its test."""
    from mtk.scaffold import write_package

    folder = Path(package) if out is None else out
    root = context.find_root()
    commands = root.command.list_commands(root) if isinstance(root.command, typer.core.TyperGroup) else []
    for file in write_package(package, kind, folder, commands):
        typer.echo(f"{file}")
    typer.echo(f"\nnext: pip install -e {folder} pytest; python -m pytest {folder}/tests; {folder}/README.md")


def _rows(kind: str) -> list[dict[str, Any]]:
    common = ("summary", "plugin", "distribution", "version")
    if kind == "command":
        given = [command._asdict() for command in plugins.commands()]
        return [{"kind": kind, "name": c["path"], **{name: c[name] for name in common}} for c in given]
    names = ("kind", "name", "aliases", "paper", *common)
    return [{name: getattr(r, name) for name in names} for r in plugins.registered(kind).values()]


def _show_command(command: plugins.Command) -> None:
    typer.echo(f"command {command.path}: {command.summary}")
    typer.echo(f"  from: {_from(*command.origin)}")
    typer.echo(f"\n  its options: mtk {command.path} --help")


def _from(plugin: str, distribution: str, version: str) -> str:
    return f"{' '.join(filter(None, (distribution, version))) or 'no distribution'}, plugin '{plugin}'"


def _show(registration: plugins.Registration) -> None:
    r = registration
    typer.echo(f"{r.kind} {r.name}: {r.summary}")
    facts = {"aliases": ", ".join(r.aliases), "paper": r.paper, "from": _from(*r.origin)}
    if isinstance(r.build, str):
        facts["builds"] = r.build
    for label, text in facts.items():
        if text:
            typer.echo(f"  {label}: {text}")
    if r.kind == "recipe":
        typer.echo(f"\n  its configuration: mtk recipes {r.name}")
        return
    try:
        described = plugins.describe(r.kind, r.name)
    except MTKError as error:
        typer.secho(f"  options: cannot be read: {error}", fg="red")
        return
    if described.doc:
        typer.echo(f"\n  {described.doc}\n")
    if not described.options:
        typer.echo("  no options")
        return
    said = plugins.meanings(r.kind, r.name)
    lines = [(o.name, o.type, "required" if o.required else repr(o.default), said[o.name]) for o in described.options]
    print_table(("option", "type", "default", "meaning"), lines)
