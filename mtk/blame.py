"""Whose fault it is: the plugin that an object, or an exception, comes from."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mtk.errors import PluginError
from mtk.faults import one_line, who
from mtk.registration import Registration

_CALL = re.compile(r"(\w+)\.\w+\(\) (?:takes|missing|got) ")  # how Python says that a method does not take a call


def origin(thing: Any, known: Iterable[Registration]) -> Registration | None:
    """The registration of `thing`'s class, else the first one of that class's package; None for mtk's own."""
    cls, near = type(thing), None
    for registration in known:
        target = target_name(registration)
        if target == f"{cls.__module__}:{cls.__qualname__}":
            return registration
        if near is None and package(target) == package(cls.__module__):
            near = registration
    return near


def named(thing: Any, known: Iterable[Registration]) -> str:
    """`mixer 'mine' of plugin 'mine' (mtk-mine 0.1)`; the name of its class where no plugin built it."""
    found = origin(thing, known)
    if found is None:
        return type(thing).__name__
    exact = target_name(found).endswith(f":{type(thing).__qualname__}")
    what = f"{found.kind} '{found.name}'" if exact else type(thing).__name__
    return f"{what} of {plugin_of(found)}"


def blamed(error: BaseException, known: Iterable[Registration], ours: str) -> PluginError | None:
    """The exception as one line that names the plugin whose code or object was at work last.

    None where that is nobody's, or the distribution `ours`: then it is a bug of mtk, and wants its traceback.
    """
    if isinstance(error, PluginError):
        return error
    registrations = list(known)
    by_package = {package(target_name(r)): r for r in reversed(registrations)}
    if (called := _uncallable(error, registrations)) is not None:
        return None if called.distribution == ours else PluginError(f"{plugin_of(called)}: {one_line(error)}")
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        thing = frame.f_locals.get("self")
        own = by_package.get(package(frame.f_globals.get("__name__", "")))
        found = own if thing is None else origin(thing, registrations) or own
        if found is None:
            continue
        if found.distribution == ours:
            return None
        whose = plugin_of(found) if thing is None else named(thing, registrations)
        file = Path(frame.f_code.co_filename)
        return PluginError(
            f"{whose} failed: {type(error).__name__}: {one_line(error)} ({file.parent.name}/{file.name}:{line})"
        )
    return None


def _uncallable(error: BaseException, known: Iterable[Registration]) -> Registration | None:
    """The plugin whose method does not take the arguments of its kind, so that the call never reached its code."""
    match = _CALL.match(str(error)) if isinstance(error, TypeError) else None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if match is None or not frames or package(frames[-1].f_globals.get("__name__", "")) != "mtk":
        return None
    return next((r for r in known if target_name(r).endswith(f":{match[1]}")), None)


def plugin_of(registration: Registration) -> str:
    """`plugin 'mine' (mtk-mine 0.1)`."""
    return who(*registration.origin)


def target_name(registration: Registration) -> str:
    """What it builds as "module:attribute"."""
    build = registration.build
    return build if isinstance(build, str) else f"{build.__module__}:{getattr(build, '__qualname__', '')}"


def package(module: str) -> str:
    return module.partition(":")[0].partition(".")[0]
