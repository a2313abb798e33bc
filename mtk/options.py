"""What a plugin's constructor takes, and values checked against its type hints. pydantic is imported at first use."""

from __future__ import annotations

import functools
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union

from mtk.errors import ConfigError, PluginError, did_you_mean

_SPEC = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*):(.*)", re.DOTALL)
_PAIR = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_-]*)\s*=(.*)", re.DOTALL)
_OPEN, _CLOSE = "[({", "])}"


@dataclass(frozen=True, slots=True)
class Option:
    """One keyword-only constructor argument: `type` is its hint as text, `default` means nothing when `required`."""

    name: str
    type: str
    default: Any
    required: bool
    hint: Any = field(default=Any, repr=False, compare=False)


# ---------------------------------------------------------------------------------------------- NAME:OPTIONS


def parse_spec(text: str) -> tuple[str, dict[str, str]]:
    """`"cagrad:c=0.4,mode=x"` -> `("cagrad", {"c": "0.4", "mode": "x"})`.

    A bare first word (`hf:owner/name`) is given under the key "": the plugin's first option. Values with commas are
    quoted or bracketed. Text before the first colon that is no name (`./a:b`, `C:\\x`, an address) makes all of it
    the name. Raises ConfigError where the options cannot be read.
    """
    found = _SPEC.fullmatch(text.strip())
    if found is None or found[2].startswith("//") or (len(found[1]) == 1 and found[2][:1] in ("\\", "/")):
        return text.strip(), {}
    name, options = found[1], {}
    for place, item in enumerate(_split(found[2], text)):
        pair = _PAIR.fullmatch(item)
        key, value = (pair[1].replace("-", "_"), pair[2]) if pair else ("", item)
        if not value.strip() or (key == "" and place > 0):
            raise ConfigError(
                f"'{text}': expected OPTION=VALUE, found '{item.strip()}'; quote a value that holds commas: x=\"1,2\""
            )
        if key in options:
            raise ConfigError(f"'{text}': option '{key}' is given twice")
        options[key] = _unquote(value.strip())
    return name, options


def _split(text: str, whole: str) -> list[str]:
    """`text` at its commas, save those inside quotes or brackets."""
    items, quote, depth = [""], "", 0
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and (not items[-1].strip() or items[-1].rstrip().endswith("=") or depth):
            quote = letter  # an apostrophe inside a word is no quote
        elif letter in _OPEN:
            depth += 1
        elif letter in _CLOSE:
            depth -= 1
        elif letter == "," and depth <= 0:
            items.append("")
            continue
        items[-1] += letter
    if quote or depth > 0:
        raise ConfigError(f"'{whole}': a quote or bracket is not closed")
    return items


def _unquote(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] in "\"'" and value[-1] == value[0] else value


# ---------------------------------------------------------------------------------------------- what it takes


def options_of(target: Callable[..., Any]) -> dict[str, Option]:
    """The keyword-only arguments of a class's `__init__` or of a function, in order.

    A constructor with `**kwargs` hands them on to the next class, whose options count as well. Raises PluginError
    where a type hint cannot be resolved.
    """
    options: dict[str, Option] = {}
    for function in _functions(target):
        keywords = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        hints = _hints(function, keywords)
        for p in keywords:
            hint, required = hints.get(p.name, Any), p.default is p.empty
            option = Option(p.name, type_text(hint), None if required else p.default, required, hint)
            options.setdefault(p.name, option)
    return options


def _functions(target: Any) -> Iterator[Any]:
    if not isinstance(target, type):
        yield target if inspect.isroutine(target) or isinstance(target, functools.partial) else target.__call__
        return
    for base in target.__mro__[:-1]:
        if init := vars(base).get("__init__"):
            yield init
            if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(init).parameters.values()):
                return


def _hints(function: Any, keywords: list[inspect.Parameter]) -> dict[str, Any]:
    """Resolves the hints of the options alone: the others may name what only a type checker imports."""
    if not any(isinstance(p.annotation, str) for p in keywords):
        return {p.name: p.annotation for p in keywords if p.annotation is not p.empty}
    inner = function.func if isinstance(function, functools.partial) else function
    names = getattr(inspect.unwrap(inner), "__globals__", {})
    hints = {}
    for p in keywords:
        if p.annotation is p.empty:
            continue
        holder = types.SimpleNamespace(__annotations__={"hint": p.annotation})
        try:
            hints[p.name] = typing.get_type_hints(holder, globalns=names, include_extras=True)["hint"]
        except Exception as error:
            raise PluginError(f"the type hint '{p.annotation}' of option '{p.name}' is not usable: {error}") from error
    return hints


def type_text(hint: Any) -> str:
    """A type hint for people: `float | None`, `'cls' | 'mean'`."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return type_text(typing.get_args(hint)[0])
    if origin is Literal:
        return " | ".join(repr(choice) for choice in typing.get_args(hint))
    if origin in (Union, types.UnionType):
        return " | ".join(type_text(part) for part in typing.get_args(hint))
    if hint in (None, type(None)):
        return "None"
    if isinstance(hint, type) and origin is None:
        return hint.__name__
    return re.sub(r"\b(?:[a-z_]\w*\.)+", "", str(hint))


def in_words(hint: Any) -> str:
    """A type hint in the words of a configuration file: `"balanced", or a table of numbers`."""
    one = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    many = {str: "texts", int: "whole numbers", float: "numbers"}
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return ", or ".join(in_words(part) for part in args if part is not type(None))
    if origin is Literal:
        return ", or ".join(json.dumps(choice) for choice in args)
    if origin in (list, dict) and args:
        held = many.get(args[-1])
        return f"a {'list' if origin is list else 'table'}{f' of {held}' if held else ''}"
    return one.get(hint) or type_text(hint)


# ---------------------------------------------------------------------------------------------- checking values


def check_options(options: Mapping[str, Option], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`given` as the types that `options` declare: strings of a command line become numbers, bools and lists.

    The key "" means the first option. Raises PluginError for an option that is unknown, ConfigError for one that is
    missing or has a wrong value; every message begins with `where`.
    """
    values: dict[str, Any] = {}
    for raw, value in given.items():
        key = raw.replace("-", "_") if raw else next(iter(options), "")
        if not options:
            raise PluginError(f"{where} takes no options, found '{raw or value}'")
        if key not in options:
            raise PluginError(f"{where} has no option '{raw}'{did_you_mean(key, options)}")
        if key in values:
            raise ConfigError(f"{where}: option '{key}' is given twice")
        values[key] = coerce(options[key].hint, value, f"{where}: option '{key}'")
    missing = [f"'{o.name}' ({o.type})" for o in options.values() if o.required and o.name not in values]
    if missing:
        raise ConfigError(f"{where} needs option{'s' * (len(missing) > 1)} {', '.join(missing)}")
    return values


def coerce(hint: Any, value: Any, where: str) -> Any:
    """`value` as `hint`, by pydantic's lax rules. Raises ConfigError that begins with `where`."""
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    adapter: TypeAdapter[Any]
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True))
    except PydanticUserError:  # a type with a configuration of its own
        adapter = TypeAdapter(hint)
    try:
        result = adapter.validate_python(_from_text(hint, value) if isinstance(value, str) else value)
    except ValidationError as error:
        errors = error.errors()
        choices = [str(c) for c in _choices(hint)]
        more = "" if len(errors) > 1 or choices else f": {errors[0]['msg'].lower()}"
        near = did_you_mean(value, choices) if choices and isinstance(value, str) else ""
        near = near if near.startswith("; did") else ""
        raise ConfigError(f"{where} must be {type_text(hint)}, found {value!r}{more}{near}") from error
    if result != result and isinstance(result, float):
        raise ConfigError(f"{where} must be {type_text(hint)}, found {value!r}: not a number")
    return result


def _parts(hint: Any) -> list[Any]:
    """The members of a union, without Annotated."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _parts(args[0])
    return [p for arg in args for p in _parts(arg)] if origin in (Union, types.UnionType) else [hint]


def _choices(hint: Any) -> list[Any]:
    return [c for part in _parts(hint) if typing.get_origin(part) is Literal for c in typing.get_args(part)]


def _from_text(hint: Any, text: str) -> Any:
    """The text of a command line where the hint wants None, a list or a mapping; otherwise the text itself."""
    parts = _parts(hint)
    if text in _choices(hint):
        return text
    if type(None) in parts and text.lower() in ("none", "null"):
        return None
    origins = [typing.get_origin(part) or part for part in parts]
    if str in origins or not any(isinstance(o, type) and _is_container(o) for o in origins):
        return text
    try:
        return json.loads(text)
    except ValueError:
        pass
    inner = text.strip()
    inner = inner[1:-1] if inner[:1] in ("[", "(") and inner[-1:] in ("]", ")") else inner
    return [_unquote(item.strip()) for item in _split(inner, text)] if inner.strip() else []


def _is_container(origin: type) -> bool:
    return issubclass(origin, Iterable) and not issubclass(origin, (str, bytes))
