"""Puts the commands together, the core's and the plugins', and turns errors into one line."""

from __future__ import annotations

import errno
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

import mtk
from mtk import __version__, plugins
from mtk.cli import data, evaluate, plugins as plugins_command, predict, recipes, runs, sweep, train, tune
from mtk.errors import MTKError
from mtk.notices import is_broken_pipe, silence

EXIT_USAGE = 2


def make_app() -> typer.Typer:
    """The Typer application with every command. A plugin's that would take the place of mtk's own is set aside."""
    app = typer.Typer(
        name="mtk",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        help="One shared text encoder, several tasks trained together; every choice that matters is a plugin.",
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"mtk {__version__}")
            raise typer.Exit

    @app.callback()
    def about(
        version: bool = typer.Option(
            False, "--version", callback=show_version, is_eager=True, help="Show the version and exit."
        ),
        no_plugins: Annotated[
            list[str] | None,
            typer.Option(metavar="NAME", help="Leave out a plugin, or a package with all of its. Repeatable."),
        ] = None,
        show_traceback: Annotated[
            bool, typer.Option("--traceback", help="Show all of where an error comes from: for a plugin's author.")
        ] = False,
    ) -> None:
        """Typer shows the help of the application; `_before_plugins` has obeyed these options, since commands are
        plugins too."""

    app.command("train")(train.train)
    app.command("evaluate")(evaluate.evaluate)
    app.command("predict")(predict.predict)
    app.command("runs")(runs.runs)
    app.command("recipes")(recipes.recipes)
    app.command("sweep")(sweep.sweep)
    groups = {"data": data.app, "plugins": plugins_command.app, "tune": tune.app}
    for name, group in groups.items():
        app.add_typer(group, name=name)
    for command in plugins.commands():
        if fault := _misplaced(command, app, groups) or _unreadable(command):
            plugins.set_aside(command, fault)
    commands = plugins.commands()
    for path, function, summary, *_ in commands:
        *parents, name = path.split()
        if len(parents) == 1 and parents[0] not in groups:  # a plugin's own group, named after what it holds
            within = f"{parents[0]} "
            held = " ".join(f"{p.removeprefix(within)}: {what}" for p, _, what, *_ in commands if p.startswith(within))
            groups[parents[0]] = typer.Typer(help=held, no_args_is_help=True)
            groups[parents[0]].callback()(lambda: None)
            app.add_typer(groups[parents[0]], name=parents[0])
        place = groups[parents[0]] if parents else app
        if name not in _names(place):
            place.command(name, help=summary)(function)
    return app


def _misplaced(command: plugins.Command, app: typer.Typer, groups: dict[str, typer.Typer]) -> str:
    """Why a plugin's command cannot have its path; empty where it can. `app` and `groups` hold mtk's own."""
    *parents, name = command.path.split()
    own = _names(app)
    if len(parents) > 1:
        return "expected a path of one word or two"
    if parents and parents[0] in own:
        return f"'mtk {parents[0]}' is a command of mtk itself and no group; choose another path"
    place = groups.get(parents[0]) if parents else app
    taken = {} if place is None else _names(place)
    if taken.get(name, command.function) is not command.function or (not parents and name in groups):
        return f"'mtk {command.path}' is a command of mtk itself; choose another path"
    return ""


def _unreadable(command: plugins.Command) -> str:
    """Why Typer cannot make a command of a plugin's function; empty where it can."""
    alone = typer.Typer(add_completion=False)
    try:
        alone.command("it")(command.function)
        get_command(alone)
    except Exception as error:
        return one_line(f"its function cannot be read: {type(error).__name__}: {error}")
    return ""


def _names(place: typer.Typer) -> dict[str, Any]:
    """The functions of an application's commands by their names."""
    commands = [(c.name, c.callback) for c in place.registered_commands]
    return {name or getattr(f, "__name__", "").replace("_", "-"): f for name, f in commands}


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits."""
    arguments = sys.argv[1:] if arguments is None else arguments
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    code = run(arguments)
    if (error := _unflushed()) is not None:
        code = _unwritten(error)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """The command line's exit code: 0, 2 for a user's mistake or a plugin's, 130 for an interruption."""
    # A waiting OpenMP thread that spins for long takes the core from whoever works beside; one that never spins is
    # slower alone (benchmarks/spin.py). Read when torch loads, so it must be set before.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    command, whole = _before_plugins(arguments)
    try:
        app = make_app()
        for away in plugins.broken():
            if whole and away.error is not None:
                traceback.print_exception(away.error)
            if command != "plugins":  # `mtk plugins list` shows them
                complain("warning", away.reason)
        result: Any = app(args=arguments, standalone_mode=False, prog_name="mtk")
        return result if isinstance(result, int) else 0
    except typer.TyperException as error:
        message, context = error.format_message(), getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError":  # the message is the help
            typer.echo(message)
        else:
            complain(context.command_path if context else "mtk", one_line(message))
        return EXIT_USAGE
    except MTKError as error:
        if whole:
            traceback.print_exc()
        complain("error", one_line(str(error)))
        return EXIT_USAGE
    except SystemExit as error:
        if not is_broken_pipe(error):
            raise
        silence()
        return 0
    except OSError as error:
        if _printing(error):
            return _unwritten(error)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        complain("error", f"{error.filename or 'a file'}: {error.strerror}; what was saved before still stands")
        return EXIT_USAGE
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted", "nothing further was saved")
        return 130
    except Exception as error:
        fault = None if whole else plugins.blamed(error)
        if fault is None:
            raise
        complain("error", f"{fault}; mtk --traceback shows the whole of it")
        return EXIT_USAGE


def _show_warning(
    message: Warning | str, category: type[Warning], file: str, line: int, stream: Any = None, text: str | None = None
) -> None:
    """Our own in one line; somebody else's as Python shows it."""
    if category is UserWarning and file.startswith(str(Path(mtk.__file__).parent)):
        complain("warning", one_line(str(message)))
    else:
        sys.stderr.write(warnings.formatwarning(message, category, file, line, text))


def _before_plugins(arguments: list[str]) -> tuple[str, bool]:
    """Obeys the options in front of the command, as far as plugins must not be loaded before. Returns the command's
    name, and whether an error is shown whole."""
    away, place = [], 0
    while place < len(arguments) and arguments[place].startswith("-"):
        option, equals, value = arguments[place].partition("=")
        if option == "--no-plugins":
            place += not equals
            away += [value] if equals else arguments[place : place + 1]
        place += 1
    if away:  # also for the processes that this one starts
        os.environ["MTK_DISABLE_PLUGINS"] = ",".join([*filter(None, [os.environ.get("MTK_DISABLE_PLUGINS")]), *away])
    return "".join(arguments[place : place + 1]), "--traceback" in arguments[:place]


def _unflushed() -> OSError | None:
    """Why standard output cannot write what it holds; None where it can."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        return error
    return None


def _printing(error: OSError) -> bool:
    """Whether the error comes from printing, not from a file."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return error.filename is None and frame.f_globals.get("__name__", "").partition(".")[0] in ("typer", "rich")


def _unwritten(error: OSError) -> int:
    """The exit code where standard output cannot be written; a reader who has enough (`| head`) is no mistake."""
    silence()
    if is_broken_pipe(error):
        return 0
    complain("error", f"standard output: {(error.strerror or 'cannot be written').lower()}")
    return EXIT_USAGE


def one_line(text: str) -> str:
    return " ".join(text.split())


def complain(what: str, text: str) -> None:
    typer.echo(f"{what}: {text}", err=True)
