"""The check of a command."""

from __future__ import annotations

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import typer
from typer.main import get_command

from mtk import plugins
from mtk.cli.app import make_app, run


def check_command(path: str) -> None:
    """A registered command: its place in mtk's command line, help for all that it takes, a misspelt option refused.

    path: as it was registered, `data fetch`. Raises AssertionError, and PluginError where there is no such command.
    """
    known = {c.path: c for c in plugins.commands()}
    if path not in known:
        raise plugins.unknown("command", path, known)
    make_app()
    away = [b.reason for b in plugins.broken() if f"command '{path}'" in b.reason]
    assert path in {c.path for c in plugins.commands()}, "; ".join(away)
    alone = typer.Typer(add_completion=False)
    alone.command("it")(known[path].function)
    for parameter in get_command(alone).params:
        assert getattr(parameter, "help", None), f"command '{path}': {parameter.name} has no help"
    code, shown = _run(path, "--help")
    assert code == 0, f"mtk {path} --help: expected exit code 0, found {code}: {shown}"
    assert known[path].summary in shown, f"mtk {path} --help: its summary is missing: {shown}"
    code, shown = _run(path, "--no-such-option")
    assert code == 2 and "--no-such-option" in shown, f"mtk {path} --no-such-option: not refused: {shown}"


def _run(path: str, option: str) -> tuple[int, str]:
    """The exit code of a command, and what it printed, as one line."""
    printed = StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = run([*path.split(), option])
    return code, " ".join(printed.getvalue().split())
