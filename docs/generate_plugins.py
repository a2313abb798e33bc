"""Writes docs/plugins/KIND.md, a page a kind, from the code itself: `python docs/generate_plugins.py`."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from mtk import hookspecs, interfaces
from mtk.building import target_of
from mtk.docstrings import described, sentence
from mtk.plugins import KINDS, Plugins
from mtk.registration import Registration

FOLDER = Path(__file__).with_name("plugins")
INTERFACES = {
    **{kind: (kind.capitalize(),) for kind in ("head", "encoder", "scheduler", "mixer", "augmentation", "tuner")},
    "task": ("Task", "Target"),
    "combiner": ("GradientCombiner", "StepInfo"),
    "executor": ("Executor", "Worker"),
}
NOTICE = (
    "This page is generated: after a change of a plugin, run `python docs/generate_plugins.py`. "
    "`mtk plugins show NAME` says the same of what is installed with you."
)
TABLE = ["| option | type | default | meaning |", "|---|---|---|---|"]


def pages() -> dict[str, str]:
    """Every page by file name, for the built-in plugins alone, whatever else is installed."""
    plugins = Plugins(Distribution.from_name("multitask-toolkit").entry_points.select(group="mtk"))
    found = {f"{kind}.md": _page(kind, _built_in(plugins, kind)) for kind in KINDS}
    return found | {"command.md": _page("command", _commands(plugins))}


def _page(kind: str, built_in: Iterable[str]) -> str:
    """What to read first, the hook, the interface, and what is built in."""
    lines = [f"# {kind.capitalize()}s", "", NOTICE, ""]
    lines += [f"How the pieces work together: [plugins](../plugins.md#{kind}s).", "", "## Hook", ""]
    hook = getattr(hookspecs, f"register_{kind}s")
    lines += ["```python", *_outline(hook), "```", "", _text(inspect.getdoc(hook) or ""), ""]
    if kind in INTERFACES:
        lines += ["## Interface", ""]
        for name in INTERFACES[kind]:
            lines += ["```python", *_outline(getattr(interfaces, name)), "```", ""]
    return "\n".join([*lines, "## Built in", "", *built_in])


def _outline(thing: Any) -> Iterator[str]:
    """The source of a class or function without what its functions do; of a class, no underscored method."""
    source = textwrap.dedent(inspect.getsource(thing))
    (node,) = ast.parse(source).body
    lines = source.splitlines()
    if not isinstance(node, ast.ClassDef):
        yield from _signature(node, lines, doc=False)
        return
    yield from lines[: node.body[0].lineno - 1]
    for place, part in enumerate(node.body):
        if not isinstance(part, ast.FunctionDef):
            yield from ([""] if place == 1 else []) + lines[part.lineno - 1 : part.end_lineno]
        elif part.name.startswith("__") or not part.name.startswith("_"):
            yield from ["", *_signature(part, lines, doc=True)]


def _signature(node: Any, lines: list[str], *, doc: bool) -> Iterator[str]:
    """Decorators and signature, with the docstring where there is one and it is wanted."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    body = node.body[0]
    own_line = not lines[body.lineno - 1][: body.col_offset].strip()
    header = "\n".join(lines[first - 1 : body.lineno - own_line])
    header = header.replace("@hookspec", "@hookimpl").removesuffix(" ...")
    if doc and ast.get_docstring(node):
        yield from [header, *lines[body.lineno - 1 : body.end_lineno]]
    else:
        yield f"{header} ..."


def _built_in(plugins: Plugins, kind: str) -> Iterator[str]:
    """A section a plugin."""
    for registration in plugins.registered(kind).values():
        options, meanings = plugins.options(kind, registration.name), plugins.meanings(kind, registration.name)
        _, text = described(target_of(registration), list(meanings))
        yield f"### {registration.name}\n"
        yield f"{_text(sentence(registration.summary))}{_facts(registration)}\n"
        yield from (f"{_text(paragraph)}\n" for paragraph in text)
        if options:
            yield from TABLE
            for option in options:
                default = "*required*" if option.required else f"`{option.default!r}`"
                cells = (f"`{option.name}`", f"`{option.type}`", default, _text(meanings[option.name]))
                yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
            yield ""


def _commands(plugins: Plugins) -> Iterator[str]:
    for command in plugins.commands():
        anchor = f"mtk-{command.path.replace(' ', '-')}"
        yield f"- [`mtk {command.path}`](../command-line.md#{anchor}): {_text(command.summary)}"
    yield ""


def _facts(registration: Registration) -> str:
    """Aliases and paper, as sentences."""
    also = ", ".join(f"`{alias}`" for alias in registration.aliases)
    paper = re.sub(
        r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", registration.paper.removesuffix(".")
    )
    return f"{f' Also called {also}.' if also else ''}{f' Source: {paper}.' if paper else ''}"


def _text(text: str) -> str:
    """One line of prose; what Markdown would take for markup is escaped outside of code."""
    parts = " ".join(text.split()).split("`")
    parts[::2] = [re.sub(r"([*<\[\]])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"wrote {FOLDER}/*.md")
