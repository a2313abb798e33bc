"""From a registration to the built plugin, with every way that this can go wrong said in one line."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mtk.errors import ConfigError, MTKError, PluginError
from mtk.faults import one_line, told, who
from mtk.options import Option, options_of
from mtk.registration import KINDS, Registration

_BASES = {kind: kind.title() for kind in KINDS} | {"combiner": "GradientCombiner"}


def accepted(registration: Registration, text: str) -> dict[str, Any] | None:
    """The options that a plugin's `accepts` gives for `text`, or None. Raises PluginError, or its own MTKError."""
    if registration.accepts is None:
        return None
    try:
        found = registration.accepts(text)
    except MTKError:
        raise
    except Exception as error:
        raise registration.fault("accepts", f"on '{text}': {told(error)}") from error
    if found is not None and not isinstance(found, Mapping):
        raise registration.fault("accepts", f"expected options or None, found {found!r}")
    return None if found is None else dict(found)


def target_of(registration: Registration) -> Callable[..., Any]:
    """What `build` names, imported. Raises PluginError."""
    target: Any = registration.build
    if isinstance(target, str):
        module, _, path = target.partition(":")
        try:
            target = importlib.import_module(module)
            for attribute in path.split("."):
                target = getattr(target, attribute)
        except (Exception, SystemExit) as error:
            text = f"'{registration.build}' cannot be imported: {told(error)}"
            raise registration.fault("build", text) from error
    if not callable(target):
        raise registration.fault("build", f"'{registration.build}' is not callable: {target!r}")
    base = _base(registration.kind)
    if isinstance(target, type) and base is not Callable and not issubclass(target, base):
        raise registration.fault("build", f"{_text(target)} is no {base.__name__}")
    return target


def options_for(registration: Registration, target: Callable[..., Any]) -> dict[str, Option]:
    """The options of the imported target. Raises PluginError, also where one has no type hint to be read by."""
    try:
        options = options_of(target)
        early = [p.name for p in _positional(target) if p.default is not p.empty]
    except (TypeError, ValueError, PluginError) as error:
        raise registration.fault("build", f"options of {_text(target)}: {one_line(error)}") from error
    if early:
        raise registration.fault("build", _misplaced(target, early[0]))
    for option in options.values():
        if option.hint is Any:
            text = f"option '{option.name}' of {_text(target)} has no type hint to read its value by; write one"
            raise registration.fault("build", f"{text}: {option.name}: float, say")
    return options


def check_keywords(
    registration: Registration, target: Callable[..., Any], context: tuple[Any, ...], given: Iterable[str]
) -> None:
    """Raises PluginError where an option that is given is a positional argument, which only the core fills in."""
    for argument in _positional(target)[len(context) :]:
        if argument.name in given:
            raise registration.fault("build", _misplaced(target, argument.name))


def _positional(target: Callable[..., Any]) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(target).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]


def _misplaced(target: Callable[..., Any], name: str) -> str:
    return f"argument '{name}' of {_text(target)}: an option is keyword-only; move it behind a '*'"


def construct(
    registration: Registration, target: Callable[..., Any], context: tuple[Any, ...], values: Mapping[str, Any]
) -> Any:
    """Calls the target and checks what it gave. Raises PluginError, ConfigError, or the plugin's own MTKError."""
    name = registration.name
    if registration.kind == "task" and context:
        name = getattr(context[0], "name", name)
    where = f"{registration.kind} '{name}'"
    try:
        inspect.signature(target).bind(*context, **values)
    except TypeError as error:
        given = ", ".join(type(value).__name__ for value in context)
        raise registration.fault("build", f"{_text(target)} cannot be built with ({given}): {error}") from error
    try:
        built = target(*context, **values)
    except ImportError as error:
        raise PluginError(f"{where} of {who(*registration.origin)} lacks a package: {told(error)}") from error
    except (ConfigError, ValueError, OSError) as error:
        own = registration.kind == "task" and isinstance(error, ConfigError)  # names the option, and they may be many
        given = "" if own else ", ".join(f"{name}={value!r}" for name, value in values.items())
        text = one_line(error)
        text = text if text.startswith(where) else f"{where}: {text}"
        raise ConfigError(f"{text} (options: {given})" if given else text) from error
    except MTKError:
        raise
    except Exception as error:
        abstract = getattr(target, "__abstractmethods__", None)
        if abstract:
            text = f"{_text(target)} does not define {', '.join(sorted(abstract))}"
            raise registration.fault("build", text) from error
        error.add_note(f"while building {where} of {who(*registration.origin)}")
        raise
    base = _base(registration.kind)
    if not isinstance(built, base):
        raise registration.fault("build", f"{_text(target)} gave {built!r}, which is no {base.__name__}")
    if registration.kind == "task":
        _check_task(registration, built)
    return built


def _check_task(registration: Registration, task: Any) -> None:
    """Raises PluginError for a task without a name, or without a Target."""
    from mtk.interfaces import Target

    if not hasattr(task, "name"):
        raise registration.fault("build", f"{type(task).__name__} has no name; call super().__init__(context)")
    if not isinstance(target := getattr(task, "target", None), Target):
        found = "none" if target is None else repr(target)
        raise registration.fault("build", f"{type(task).__name__}.target: expected a Target, found {found}")


def _base(kind: str) -> type:
    if kind == "recipe":  # a file
        return Path
    if kind in ("exporter", "report"):  # plain functions
        return Callable  # type: ignore[return-value]
    return getattr(importlib.import_module("mtk.interfaces"), _BASES[kind])


def _text(target: Any) -> str:
    return getattr(target, "__qualname__", None) or repr(target)
