"""The plugin manager: each entry point of the group `mtk` loaded by itself, what they registered, and `build`.

A plugin that cannot be loaded is set aside whole (`broken()`), with one line that says why; the others go on.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mtk.errors import ConfigError, MTKError, PluginError, did_you_mean
from mtk.options import Option, check_options, options_of, parse_spec
from mtk.registration import KINDS, Broken, Collector, Command, Registration

__all__ = [
    "KINDS",
    "Broken",
    "Command",
    "Description",
    "Option",
    "Plugins",
    "Registration",
    "broken",
    "build",
    "commands",
    "default",
    "describe",
    "find",
    "options",
    "parse_spec",
    "registered",
]

_BUILT_IN = "multitask-toolkit"
_BASES = {kind: kind.title() for kind in KINDS} | {"combiner": "GradientCombiner"}


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

    The environment's MTK_DISABLE_PLUGINS=name,name leaves entry points out.
    """

    def __init__(self, entry_points: Iterable[EntryPoint] | None = None) -> None:
        self._entry_points = entry_points
        self._registered: dict[str, dict[str, Registration]] = {kind: {} for kind in KINDS}
        self._names: dict[str, dict[str, Registration]] = {kind: {} for kind in KINDS}  # aliases too
        self._commands: list[Command] = []
        self._broken: list[Broken] = []
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

    def commands(self) -> list[Command]:
        """The commands that plugins add: (path, function, summary, plugin, distribution, version)."""
        self._load()
        return list(self._commands)

    def find(self, kind: str, name: str) -> tuple[Registration, dict[str, Any]]:
        """The registration of a name, an alias, or a text that a plugin accepts, with the options that go with it.

        Raises PluginError that offers the nearest name.
        """
        known = self.registered(kind)
        if name in self._names[kind]:
            return self._names[kind][name], {}
        for registration in known.values():
            found = _accepted(registration, name)
            if found is not None:
                return registration, found
        away = "".join(f"; plugin '{b.plugin}' is broken ({b.reason})" for b in self._broken)
        raise PluginError(f"unknown {kind} '{name}'{did_you_mean(name.lower(), self._names[kind])}{away}")

    def build(self, kind: str, name: str, /, *context: Any, **options: Any) -> Any:
        """Builds a plugin from what the core gives it (`context`, positional) and its options, validated.

        The option "" stands for the first one. Raises PluginError (an unknown or wrong plugin, an unknown option),
        ConfigError (an option is missing or wrong), and other MTKErrors as the plugin raised them.
        """
        registration, accepted = self.find(kind, name)
        target = _target(registration)
        where = f"{kind} '{registration.name}'"
        values = check_options(_options(registration, target), {**accepted, **options}, where)
        try:
            inspect.signature(target).bind(*context, **values)
        except TypeError as error:
            given = ", ".join(type(value).__name__ for value in context)
            raise registration.fault("build", f"{_text(target)} cannot be built with ({given}): {error}") from error
        return _construct(registration, target, context, values)

    def describe(self, kind: str, name: str) -> Description:
        """A plugin's registration, options and documentation. Raises PluginError where it cannot be imported."""
        registration, _ = self.find(kind, name)
        target = _target(registration)
        doc = inspect.cleandoc(target.__doc__ or "").split("\n\n")[0]
        return Description(registration, list(_options(registration, target).values()), " ".join(doc.split()))

    def options(self, kind: str, name: str) -> list[Option]:
        """The options of a plugin's constructor, in order. Raises PluginError as `describe` does."""
        return self.describe(kind, name).options

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
            disabled = {name.strip() for name in os.environ.get("MTK_DISABLE_PLUGINS", "").split(",")}
            origins = [(point, *_origin(point)) for point in points if point.name not in disabled]
            for point, distribution, version in sorted(origins, key=lambda o: (o[1] != _BUILT_IN, o[1])):
                self._take(point.name, point.load, distribution, version)

    def _take(self, name: str, load: Callable[[], Any], distribution: str, version: str) -> None:
        """Loads one plugin. What it registers counts only once all of it is sound."""
        collector = Collector(name, distribution, version)
        try:
            collector.run(load())
            collector.check_duplicates(self._names, self._commands)
        except (Exception, SystemExit) as error:
            own = isinstance(error, PluginError)
            reason = str(error) if own else f"plugin '{name}' cannot be loaded: {type(error).__name__}: {error}"
            self._broken.append(Broken(name, distribution, version, _line(reason)))
            return
        for registration in collector.registrations:
            self._registered[registration.kind][registration.name] = registration
            self._names[registration.kind].update(dict.fromkeys(registration.names, registration))
        self._commands += collector.commands


def _origin(point: EntryPoint) -> tuple[str, str]:
    distribution = getattr(point, "dist", None)
    return (distribution.name, distribution.version) if distribution else ("", "")


def _accepted(registration: Registration, text: str) -> dict[str, Any] | None:
    if registration.accepts is None:
        return None
    try:
        found = registration.accepts(text)
    except MTKError:
        raise
    except Exception as error:
        raise registration.fault("accepts", f"on '{text}': {type(error).__name__}: {_line(error)}") from error
    if found is not None and not isinstance(found, Mapping):
        raise registration.fault("accepts", f"expected options or None, found {found!r}")
    return None if found is None else dict(found)


def _target(registration: Registration) -> Callable[..., Any]:
    """What `build` names, imported. Raises PluginError."""
    target: Any = registration.build
    if isinstance(target, str):
        module, _, path = target.partition(":")
        try:
            target = importlib.import_module(module)
            for attribute in path.split("."):
                target = getattr(target, attribute)
        except (Exception, SystemExit) as error:
            text = f"'{registration.build}' cannot be imported: {type(error).__name__}: {_line(error)}"
            raise registration.fault("build", text) from error
    if not callable(target):
        raise registration.fault("build", f"'{registration.build}' is not callable: {target!r}")
    base = _base(registration.kind)
    if isinstance(target, type) and not issubclass(target, base):
        raise registration.fault("build", f"{_text(target)} is no mtk.{base.__name__}")
    return target


def _options(registration: Registration, target: Callable[..., Any]) -> dict[str, Option]:
    try:
        return options_of(target)
    except (TypeError, ValueError, PluginError) as error:
        raise registration.fault("build", f"options of {_text(target)}: {_line(error)}") from error


def _construct(
    registration: Registration, target: Callable[..., Any], context: tuple[Any, ...], values: Mapping[str, Any]
) -> Any:
    where = f"{registration.kind} '{registration.name}'"
    try:
        built = target(*context, **values)
    except ImportError as error:
        raise PluginError(f"{where} of plugin '{registration.plugin}' lacks a package: {_line(error)}") from error
    except (ConfigError, ValueError, OSError) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise ConfigError(f"{where}: {_line(error)}{f' (options: {given})' if given else ''}") from error
    except MTKError:
        raise
    except Exception as error:
        abstract = getattr(target, "__abstractmethods__", None)
        if abstract:
            text = f"{_text(target)} does not define {', '.join(sorted(abstract))}"
            raise registration.fault("build", text) from error
        error.add_note(f"while building {where} of plugin '{registration.plugin}'")
        raise
    base = _base(registration.kind)
    if registration.kind == "exporter" and not callable(built):
        raise registration.fault("build", f"{_text(target)} gave {built!r}, which cannot be called")
    if not isinstance(built, base):
        raise registration.fault("build", f"{_text(target)} gave {built!r}, which is no mtk.{base.__name__}")
    return built


def _base(kind: str) -> type:
    if kind == "exporter":
        return object
    return getattr(importlib.import_module("mtk.interfaces"), _BASES[kind])


def _text(target: Any) -> str:
    return getattr(target, "__qualname__", None) or repr(target)


def _line(text: object) -> str:
    return " ".join(str(text).split())


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


def broken() -> list[Broken]:
    """`Plugins.broken` of the installed plugins."""
    return default().broken()


def commands() -> list[Command]:
    """`Plugins.commands` of the installed plugins."""
    return default().commands()
