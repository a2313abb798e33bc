"""The plugin manager: each entry point of the group `mtk` loaded by itself, what they registered, and `build`.

A plugin that cannot be loaded is set aside whole (`broken()`), with one line that says why; the others go on.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import inspect
import os
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from mtk import blame
from mtk.building import accepted, check_keywords, construct, options_for, target_of
from mtk.docstrings import described
from mtk.errors import MTKError, PluginError, did_you_mean
from mtk.faults import one_line, told, who
from mtk.options import Option, check_options, parse_spec
from mtk.registration import KINDS, Broken, Collector, Command, Registration

__all__ = [
    "KINDS",
    "Broken",
    "Command",
    "Description",
    "Option",
    "Plugins",
    "Registration",
    "blamed",
    "broken",
    "build",
    "commands",
    "default",
    "describe",
    "disabled",
    "find",
    "meanings",
    "named",
    "options",
    "parse_spec",
    "registered",
    "set_aside",
    "unknown",
    "wrong",
]

_BUILT_IN = "multitask-toolkit"
_DISABLES = "MTK_DISABLE_PLUGINS (or --no-plugins)"


@dataclass(frozen=True, slots=True)
class Description:
    """A registration, the options of its constructor in order, and its docstring's first paragraph as one line."""

    registration: Registration
    options: list[Option]
    doc: str


class EntryPoint(Protocol):
    """What is needed of an `importlib.metadata.EntryPoint`; `dist` with name and version is read where there is one."""

    @property
    def name(self) -> str: ...
    def load(self) -> Any: ...


class Plugins:
    """A set of plugins, loaded at the first question. `entry_points` takes the place of the installed packages'.

    The environment's MTK_DISABLE_PLUGINS=name,name leaves out entry points, and distributions with all of theirs; a
    name that is neither is among `broken()`.
    """

    def __init__(self, entry_points: Iterable[EntryPoint] | None = None) -> None:
        self._entry_points = entry_points
        self._registered: dict[str, dict[str, Registration]] = {kind: {} for kind in KINDS}
        self._names: dict[str, dict[str, Registration]] = {kind: {} for kind in KINDS}  # aliases too
        self._commands: list[Command] = []
        self._broken: list[Broken] = []
        self._disabled: dict[str, str] = {}
        self._loaded = False
        self._lock = threading.RLock()  # a plugin that asks while it is imported sees what is there so far

    def registered(self, kind: str) -> dict[str, Registration]:
        """The plugins of a kind by name. Raises PluginError for an unknown kind."""
        self._load()
        if kind not in self._registered:
            raise PluginError(f"unknown plugin kind '{kind}'{did_you_mean(kind, KINDS)}")
        return dict(self._registered[kind])

    def broken(self) -> list[Broken]:
        """The plugins that were set aside."""
        self._load()
        return list(self._broken)

    def disabled(self) -> dict[str, str]:
        """The installed plugins that MTK_DISABLE_PLUGINS leaves out, each with its distribution, or several: `a, b`."""
        self._load()
        return dict(self._disabled)

    def named(self, thing: Any) -> str:
        """What a message calls an object that a plugin built: `mixer 'mine' of plugin 'mine' (mtk-mine 0.1)`."""
        return blame.named(thing, self._all())

    def wrong(self, thing: Any, call: str, expected: str, found: Any) -> PluginError:
        """An error that names an object of a plugin's, and what a call of it gave."""
        return PluginError(f"{self.named(thing)}: {call}: expected {expected}, found {one_line(found)}")

    def blamed(self, error: BaseException) -> PluginError | None:
        """An exception as one line that names the plugin at fault; None where it is none, or a built-in one."""
        return blame.blamed(error, self._all(), _BUILT_IN)

    def _all(self) -> list[Registration]:
        self._load()
        commands = [Registration("command", c[0], c[2], c[1], "", (), None, *c[3:]) for c in self._commands]
        return [registration for known in self._registered.values() for registration in known.values()] + commands

    def commands(self) -> list[Command]:
        """The commands that plugins add: (path, function, summary, plugin, distribution, version)."""
        self._load()
        return list(self._commands)

    def set_aside(self, command: Command, reason: str) -> None:
        """Takes away a command that mtk's command line has no place for; `broken()` says why."""
        self._commands = [c for c in self.commands() if c is not command]
        text = f"{who(*command.origin)}: its command '{command.path}' is left out: {reason}"
        self._broken.append(Broken(*command.origin, text))

    def find(self, kind: str, name: str) -> tuple[Registration, dict[str, Any]]:
        """The registration of a name, an alias, or a text that a plugin accepts, with the options that go with it.

        Raises PluginError that offers the nearest name.
        """
        known = self.registered(kind)
        if name in self._names[kind]:
            return self._names[kind][name], {}
        for registration in known.values():
            found = accepted(registration, name)
            if found is not None:
                return registration, found
        raise self.unknown(kind, name, self._names[kind])

    def unknown(self, what: str, name: str, known: Iterable[str]) -> PluginError:
        """The error for a name that is not known: the plugin of that name that was left out, else the nearest name."""
        self._load()
        start = f"unknown {what} '{name}'"
        own = [b.reason for b in self._broken if _canonical(name) in (_canonical(b.plugin), _canonical(b.distribution))]
        if own:
            return PluginError("; ".join([start, *own]))
        if name in self._disabled:
            return PluginError(f"{start}; plugin '{name}' ({self._disabled[name]}) is disabled by {_DISABLES}")
        away = "".join(f"; {b.reason}" for b in self._broken)
        away += f"; disabled: {', '.join(self._disabled)}" if self._disabled else ""
        return PluginError(f"{start}{did_you_mean(name.lower(), known)}{away}")

    def build(self, kind: str, name: str, /, *context: Any, **options: Any) -> Any:
        """Builds a plugin from what the core gives it (`context`, positional) and its options, validated.

        The option "" stands for the first one. Raises PluginError (an unknown or wrong plugin, an unknown option),
        ConfigError (an option is missing or wrong), and other MTKErrors as the plugin raised them.
        """
        registration, preset = self.find(kind, name)
        target = target_of(registration)
        known = options_for(registration, target)
        check_keywords(registration, target, context, options)
        values = check_options(known, {**preset, **options}, f"{kind} '{registration.name}'")
        return construct(registration, target, context, values)

    def describe(self, kind: str, name: str) -> Description:
        """A plugin's registration, options and documentation. Raises PluginError where it cannot be imported."""
        registration, _ = self.find(kind, name)
        target = target_of(registration)
        doc = inspect.cleandoc(_documented(target).__doc__ or "").split("\n\n")[0]
        return Description(registration, list(options_for(registration, target).values()), " ".join(doc.split()))

    def options(self, kind: str, name: str) -> list[Option]:
        """The options of a plugin's constructor, in order. Raises PluginError as `describe` does."""
        return self.describe(kind, name).options

    def meanings(self, kind: str, name: str) -> dict[str, str]:
        """What is said of each option: by the plugin's docstring, else by the first of its kind that has and tells one
        of that name; "" where none does. Raises PluginError as `describe` does."""
        names = [option.name for option in self.options(kind, name)]
        found = dict.fromkeys(names, "")
        for each in (self.find(kind, name)[0], *self._registered[kind].values()):
            missing = [option for option in names if not found[option]]
            if not missing:
                break
            with contextlib.suppress(MTKError):  # another that cannot be imported says nothing
                target = target_of(each)
                said, _ = described(_documented(target), list(options_for(each, target)))
                found.update({option: said[option] for option in missing if option in said})
        return found

    def add(self, name: str, plugin: Any, distribution: str = "", version: str = "") -> None:
        """Takes a plugin module that has no entry point (tests, notebooks). Look into `broken()` afterwards."""
        self._load()
        self._take(name, lambda: plugin, distribution, version)

    def _load(self) -> None:
        with self._lock:
            if self._loaded:
                return
            self._loaded = True
            points = self._entry_points
            if points is None:
                points = importlib.metadata.entry_points(group="mtk")
            origins = self._enabled([(point, *_origin(point)) for point in points])
            for point, distribution, version in sorted(origins, key=lambda o: (o[1] != _BUILT_IN, o[1])):
                self._take(point.name, point.load, distribution, version)

    def _enabled(self, origins: list[tuple[EntryPoint, str, str]]) -> list[tuple[EntryPoint, str, str]]:
        """What MTK_DISABLE_PLUGINS leaves. A name in it that matches nothing is noted as a broken plugin."""
        given = [name.strip() for name in os.environ.get("MTK_DISABLE_PLUGINS", "").split(",")]
        disabled = {name for name in given if name}
        names = {point.name for point, _, _ in origins}
        distributions = {_canonical(distribution): distribution for _, distribution, _ in origins if distribution}
        for name in sorted(disabled):
            if name not in names and _canonical(name) not in distributions:
                near = did_you_mean(name, {*names, *distributions.values()})
                reason = f"{_DISABLES} names '{name}', but no installed plugin or distribution is called so{near}"
                self._broken.append(Broken(name, "", "", reason))
        away = {_canonical(name) for name in disabled}
        left = []
        for origin in origins:
            point, distribution, _ = origin
            if point.name in disabled or (distribution and _canonical(distribution) in away):
                shared = self._disabled.get(point.name, "")  # two packages may use one name
                self._disabled[point.name] = ", ".join(filter(None, (shared, distribution)))
            else:
                left.append(origin)
        return left

    def _take(self, name: str, load: Callable[[], Any], distribution: str, version: str) -> None:
        """Loads one plugin. What it registers counts only once all of it is sound."""
        collector = Collector(name, distribution, version)
        try:
            module = load()
        except (Exception, SystemExit) as error:
            reason = f"{who(*collector.origin)} is left out: {told(error)}"
            self._broken.append(Broken(*collector.origin, reason, error))
            return
        try:
            collector.run(module)
            collector.check_duplicates(self._names, self._commands)
        except (Exception, SystemExit) as error:
            own = isinstance(error, PluginError)
            reason = one_line(error) if own else f"{who(*collector.origin)}: {told(error)}"
            self._broken.append(Broken(*collector.origin, f"{reason}; it is left out", error))
            return
        for registration in collector.registrations:
            self._registered[registration.kind][registration.name] = registration
            self._names[registration.kind].update(dict.fromkeys(registration.names, registration))
        self._commands += collector.commands


def _documented(target: Callable[..., Any]) -> Callable[..., Any]:
    """Where a target's docstring is: a partial shows its class's."""
    return target.func if isinstance(target, functools.partial) else target


def _origin(point: EntryPoint) -> tuple[str, str]:
    distribution = getattr(point, "dist", None)
    return (distribution.name, distribution.version) if distribution else ("", "")


def _canonical(distribution: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


_default: Plugins | None = None


def default() -> Plugins:
    """The plugins of the installed packages, which the functions below ask: the one global state of mtk."""
    global _default
    if _default is None:
        _default = Plugins()
    return _default


def registered(kind: str) -> dict[str, Registration]:
    """`Plugins.registered` of the installed plugins."""
    return default().registered(kind)


def find(kind: str, name: str) -> tuple[Registration, dict[str, Any]]:
    """`Plugins.find` of the installed plugins."""
    return default().find(kind, name)


def build(kind: str, name: str, /, *context: Any, **options: Any) -> Any:
    """`Plugins.build` of the installed plugins."""
    return default().build(kind, name, *context, **options)


def describe(kind: str, name: str) -> Description:
    """`Plugins.describe` of the installed plugins."""
    return default().describe(kind, name)


def options(kind: str, name: str) -> list[Option]:
    """`Plugins.options` of the installed plugins."""
    return default().options(kind, name)


def meanings(kind: str, name: str) -> dict[str, str]:
    """`Plugins.meanings` of the installed plugins."""
    return default().meanings(kind, name)


def broken() -> list[Broken]:
    """`Plugins.broken` of the installed plugins."""
    return default().broken()


def disabled() -> dict[str, str]:
    """`Plugins.disabled` of the installed plugins."""
    return default().disabled()


def named(thing: Any) -> str:
    """`Plugins.named` of the installed plugins."""
    return default().named(thing)


def wrong(thing: Any, call: str, expected: str, found: Any) -> PluginError:
    """`Plugins.wrong` of the installed plugins."""
    return default().wrong(thing, call, expected, found)


def blamed(error: BaseException) -> PluginError | None:
    """`Plugins.blamed` of the installed plugins."""
    return default().blamed(error)


def commands() -> list[Command]:
    """`Plugins.commands` of the installed plugins."""
    return default().commands()


def set_aside(command: Command, reason: str) -> None:
    """`Plugins.set_aside` of the installed plugins."""
    default().set_aside(command, reason)


def unknown(what: str, name: str, known: Iterable[str]) -> PluginError:
    """`Plugins.unknown` of the installed plugins."""
    return default().unknown(what, name, known)
