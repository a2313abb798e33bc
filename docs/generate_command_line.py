"""Writes docs/command-line.md from the commands themselves: `python docs/generate_command_line.py`."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator, Mapping
from enum import Enum
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import typer

import mtk.plugins
from mtk.cli.app import make_app
from mtk.plugins import Plugins

FILE = Path(__file__).with_name("command-line.md")
VALUES = {int: "N", float: "X", Path: "PATH", str: "TEXT"}

HEAD = """# Command line

Every command and option of `mtk` and its built-in plugins. This file is generated: after a change of a command, run
`python docs/generate_command_line.py`. `mtk COMMAND --help` says the same.

An option that is marked *Repeatable* may be given several times. `NAME:OPTION=VALUE,OPTION=VALUE` hands options to a
plugin, here and in a configuration file; `mtk plugins show NAME` lists them.
"""

TAIL = """## Environment

| variable | meaning |
|---|---|
| `MTK_DATA` | The folder of data files, where `--data` is not given. |
| `MTK_CACHE` | Where `mtk data fetch` keeps files, in place of `~/.cache/mtk` (or `$XDG_CACHE_HOME/mtk`). |
| `MTK_DISABLE_PLUGINS` | Plugins to leave out, by entry point or distribution: `name,name`. |
| `HF_HOME`, `HF_HUB_OFFLINE` | Hugging Face's own: where downloaded encoders are kept; 1 never asks the network. |
| `GOMP_SPINCOUNT` | OpenMP's own: `mtk` sets it to 3000 unless it is set, so that waiting threads spin only briefly. |

## Exit codes

| code | meaning |
|---|---|
| 0 | Done. |
| 2 | A mistake in the command, a file or the data: one line on standard error says what and where. |
| 130, 143 | Interrupted (Ctrl-C, SIGTERM). `mtk train` saves after the step that it is in, and says how to resume. |
"""


def reference() -> str:
    """The whole page, for the built-in plugins alone, whatever else is installed."""
    before = mtk.plugins._default
    mtk.plugins._default = Plugins(Distribution.from_name("multitask-toolkit").entry_points.select(group="mtk"))
    try:
        root = typer.main.get_command(make_app())
    finally:
        mtk.plugins._default = before
    sections = [_section(path, command) for path, command in _commands("mtk", root)]
    return "\n".join([HEAD, *sections, TAIL])


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from _commands(f"{path} {name}", child)


def _section(path: str, command: Any) -> str:
    group = hasattr(command, "commands")
    hints = get_type_hints(inspect.unwrap(command.callback)) if command.callback else {}
    arguments = [_value(p, hints) for p in command.params if p.param_type_name == "argument"]
    lines = [f"## {path}", "", f"    {' '.join([path, *arguments, 'COMMAND' if group else '[OPTIONS]'])}", ""]
    lines += [_help(command), ""]
    shown = [p for p in command.params if not getattr(p, "hidden", False) and "completion" not in (p.name or "")]
    if shown:
        lines += ["| option | value | meaning |", "|---|---|---|", *(_row(p, hints) for p in shown), ""]
    return "\n".join(lines)


def _help(command: Any) -> str:
    """Paragraphs as lines, examples as code."""
    paragraphs = [" ".join(part.split()) for part in (command.help or "").split("\n\n") if part.strip()]
    return "\n\n".join(f"    {text}" if text.startswith("mtk ") else text for text in paragraphs)


def _row(parameter: Any, hints: Mapping[str, Any]) -> str:
    text = " ".join((getattr(parameter, "help", None) or "").split())
    if parameter.param_type_name == "argument":
        cells = [f"`{_value(parameter, hints)}`", "", text]
    else:
        option = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
        value = "" if parameter.is_flag else f"`{_value(parameter, hints)}`"
        cells = [option, value, text.replace("Repeatable", "*Repeatable*") + _default(parameter)]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _value(parameter: Any, hints: Mapping[str, Any]) -> str:
    """How a value is written: the metavar that the command gives, a choice's values, or a word for its type."""
    if parameter.metavar:
        return str(parameter.metavar)
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper()
    hint = hints.get(parameter.name, str)
    while get_origin(hint) in (Union, types.UnionType, list):  # X | None, list[X]
        hint = next(part for part in get_args(hint) if part is not type(None))
    return "|".join(str(member.value) for member in hint) if issubclass(hint, Enum) else VALUES[hint]


def _default(parameter: Any) -> str:
    default = parameter.default
    if not getattr(parameter, "show_default", False) or default in (None, False, (), []) or callable(default):
        return ""
    return f" Default: `{default.value if isinstance(default, Enum) else default}`."


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
    print(f"wrote {FILE}")
