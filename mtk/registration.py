"""What plugins register, and the collector that checks one plugin's hooks before any of it counts."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import pluggy

from mtk import hookspecs
from mtk.errors import PluginError, did_you_mean
from mtk.faults import told, who

KINDS = (
    *("task", "head", "encoder", "combiner", "scheduler", "mixer", "augmentation", "tuner"),
    *("executor", "exporter", "recipe", "report"),
)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_RECIPE = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)?")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_PATH = re.compile(r"[a-z][a-z0-9-]*( [a-z][a-z0-9-]*)*")


Origin = tuple[str, str, str]  # a plugin, its distribution and that one's version


@dataclass(frozen=True, slots=True)
class Registration:
    """One registered plugin of a kind. `plugin` is the name of the entry point that it came from."""

    kind: str
    name: str
    summary: str
    build: str | Callable[..., Any]
    paper: str = ""
    aliases: tuple[str, ...] = ()
    accepts: Callable[[str], Mapping[str, Any] | None] | None = None
    plugin: str = ""
    distribution: str = ""
    version: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    @property
    def origin(self) -> Origin:
        return (self.plugin, self.distribution, self.version)

    def fault(self, argument: str, text: str) -> PluginError:
        """An error that names plugin, hook, registered name and argument."""
        return fault(self.origin, f"register_{self.kind}s", self.name, argument, text)


@dataclass(frozen=True, slots=True)
class Broken:
    """A plugin, or a command of one, that was set aside: the line that names it and says why, and what was raised."""

    plugin: str
    distribution: str
    version: str
    reason: str
    error: BaseException | None = field(default=None, repr=False, compare=False)


class Command(NamedTuple):
    """A command that a plugin adds as `mtk PATH`."""

    path: str
    function: Callable[..., Any]
    summary: str
    plugin: str = ""
    distribution: str = ""
    version: str = ""

    @property
    def origin(self) -> Origin:
        return (self.plugin, self.distribution, self.version)


def fault(origin: Origin, hook: str, name: Any, argument: str, text: str) -> PluginError:
    """An error that names plugin, hook, registered name and argument."""
    return PluginError(f"{who(*origin)}, hook '{hook}', name {name!r}, argument '{argument}': {text}")


class Collector:
    """Runs the hooks of one plugin and keeps what they register."""

    def __init__(self, plugin: str, distribution: str, version: str) -> None:
        self.origin: Origin = (plugin, distribution, version)
        self.registrations: list[Registration] = []
        self.commands: list[Command] = []

    def run(self, module: Any) -> None:
        """Checks the marked functions against the hooks, then calls them. Raises PluginError."""
        plugin = self.origin[0]
        self._check_version(module)
        manager = pluggy.PluginManager("mtk")  # one for each plugin: a wrong one leaves nothing behind
        manager.add_hookspecs(hookspecs)
        hooks = [name for name in dir(hookspecs) if name.startswith("register_")]
        try:
            manager.register(module, plugin)
        except pluggy.PluginValidationError as error:
            text = str(error).removeprefix(f"Plugin {plugin!r}")
            raise PluginError(f"{who(*self.origin)}{text}; a hook's one argument is 'register'") from error
        callers = manager.get_hookcallers(module) or []
        for caller in callers:
            if not caller.has_spec() and not all(impl.optionalhook for impl in caller.get_hookimpls()):
                near = did_you_mean(caller.name, hooks)
                raise PluginError(f"{who(*self.origin)}: there is no hook '{caller.name}'{near}")
        if not callers:
            raise PluginError(f"{who(*self.origin)}: no function is marked with mtk.hookimpl")
        for caller in callers:
            if caller.has_spec():
                self._call(caller)

    def _check_version(self, module: Any) -> None:
        """A module without MTK_API is taken for one of this version."""
        distribution = self.origin[1]
        built_for = getattr(module, "MTK_API", hookspecs.API_VERSION)
        if not isinstance(built_for, int) or isinstance(built_for, bool):
            raise PluginError(f"{who(*self.origin)}: MTK_API: expected a whole number, found {built_for!r}")
        if built_for != hookspecs.API_VERSION:
            older = built_for < hookspecs.API_VERSION
            release = f"a newer {distribution or 'release of it'}" if older else "a newer multitask-toolkit"
            raise PluginError(
                f"{who(*self.origin)} is built for version {built_for} of the plugin interface, but this mtk has "
                f"version {hookspecs.API_VERSION}; install {release}"
            )

    def _call(self, caller: pluggy.HookCaller) -> None:
        kind = caller.name.removeprefix("register_").removesuffix("s")
        try:
            function = self.command if kind == "command" else partial(self.register, kind)
            caller(register=self._checked(caller.name, function))
        except PluginError:
            raise
        except Exception as error:
            raise PluginError(f"{who(*self.origin)}, hook '{caller.name}': {told(error)}") from error

    def _checked(self, hook: str, function: Callable[..., None]) -> Callable[..., None]:
        """The function, with a call that does not fit it said in the plugin's own terms."""
        signature = inspect.signature(function)

        def register(*values: Any, **named: Any) -> None:
            unknown = [name for name in named if name not in signature.parameters]
            try:
                signature.bind(*values, **named)
            except TypeError as error:
                name = values[0] if values else named.get("name", named.get("path", ""))
                if not unknown:
                    place = f"{who(*self.origin)}, hook '{hook}', name {name!r}"
                    raise PluginError(f"{place}: register: {error}") from error
                near = did_you_mean(unknown[0], signature.parameters)
                raise fault(self.origin, hook, name, unknown[0], f"register takes no such argument{near}") from error
            function(*values, **named)

        return register

    def register(
        self,
        kind: str,
        name: str,
        build: str | Callable[..., Any],
        summary: str,
        *,
        paper: str = "",
        aliases: Sequence[str] = (),
        accepts: Callable[[str], Mapping[str, Any] | None] | None = None,
    ) -> None:
        """What a hook calls as `register`, with the kind filled in. Raises PluginError."""
        is_list = isinstance(aliases, Sequence) and not isinstance(aliases, str)
        is_target = isinstance(build, str) and _TARGET.fullmatch(build) is not None
        named = _is_recipe(name) if kind == "recipe" else _is_name(name)
        sound = {
            "name": (named, name, "a lower-case name of letters, digits, '-', '_' and '.'"),
            "build": (callable(build) or is_target, build, "'module:attribute' or a callable"),
            "summary": (_is_line(summary), summary, "one line of text"),
            "paper": (paper == "" or _is_line(paper), paper, "one line of text"),
            "aliases": (is_list and all(map(_is_name, aliases)), aliases, "a list of lower-case names"),
            "accepts": (accepts is None or callable(accepts), accepts, "a function or None"),
        }
        self._check(f"register_{kind}s", name, sound)
        self.registrations.append(
            Registration(kind, name, summary, build, paper, tuple(aliases), accepts, *self.origin)
        )

    def command(self, path: str, command: Callable[..., Any], summary: str) -> None:
        """What `register_commands` gets as `register`. Raises PluginError."""
        is_path = isinstance(path, str) and _PATH.fullmatch(path) is not None
        sound = {
            "path": (is_path, path, "lower-case words with one space between them"),
            "command": (callable(command), command, "a function"),
            "summary": (_is_line(summary), summary, "one line of text"),
        }
        self._check("register_commands", path, sound)
        self.commands.append(Command(path, command, summary, *self.origin))

    def _check(self, hook: str, name: Any, sound: Mapping[str, tuple[bool, Any, str]]) -> None:
        for argument, (good, found, wanted) in sound.items():
            if not good:
                raise fault(self.origin, hook, name, argument, f"expected {wanted}, found {found!r}")

    def check_duplicates(self, names: Mapping[str, Mapping[str, Registration]], commands: Sequence[Command]) -> None:
        """Names, aliases and command paths against those of earlier plugins and this one's own. Raises PluginError."""
        taken = {(kind, name): r.origin for kind, known in names.items() for name, r in known.items()}
        for r in self.registrations:
            for name in r.names:
                if (r.kind, name) in taken:
                    argument = "name" if name == r.name else "aliases"
                    first = who(*taken[r.kind, name])
                    raise r.fault(argument, f"{r.kind} '{name}' is already there, from {first}")
                taken[r.kind, name] = r.origin
        paths = {c.path: c.origin for c in commands}
        for c in self.commands:
            for path, owner in paths.items():
                if f"{path} ".startswith(f"{c.path} ") or f"{c.path} ".startswith(f"{path} "):
                    text = f"command '{path}' is already there, from {who(*owner)}"
                    raise fault(c.origin, "register_commands", c.path, "path", text)
            paths[c.path] = c.origin


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_recipe(value: Any) -> bool:
    return isinstance(value, str) and _RECIPE.fullmatch(value) is not None


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != "" and len(value.splitlines()) == 1
