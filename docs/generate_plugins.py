"""Writes docs/plugins/KIND.md, a page a kind, and types.md from the code: `python docs/generate_plugins.py`."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import mtk
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
TYPES = {
    "What plugins give and get": ("mtk.interfaces", "mtk.exports"),
    "Targets": ("mtk.targets",),
    "Tables": ("mtk.tables",),
    "Errors": ("mtk.errors",),
    "Registering and building": ("mtk.hookspecs", "mtk.plugins"),
    "Training, and trained models": ("mtk.settings", "mtk.api", "mtk.training", "mtk.run", "mtk.inference"),
    "Gradients in a loop of your own": ("mtk.gradients",),
    "Sweeps, searches and reports": (
        *("mtk.recipes", "mtk.sweep", "mtk.scoretable", "mtk.searchrecord", "mtk.worker"),
    ),
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
    return found | {"command.md": _page("command", _commands(plugins)), "types.md": "\n".join(_types())}


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


def _types() -> Iterator[str]:
    """Every public class and function that no page of a kind has, by subject."""
    elsewhere = {name: kind for kind, names in INTERFACES.items() for name in names}
    yield "# Types and functions\n"
    yield "What `mtk` offers besides the classes that plugins are made of. Shapes: T tasks, B rows, L tokens, D"
    yield "features, C outputs, P shared parameters. This page is generated: `python docs/generate_plugins.py`.\n"
    links = [f"[`{name}`]({kind}.md#interface)" for name, kind in sorted(elsewhere.items())]
    yield f"On the pages of their kinds: {', '.join(links)}.\n"
    for title, modules in TYPES.items():
        yield f"## {title}\n"
        for name in (name for module in modules for name in mtk._HOME[module] if name not in elsewhere):
            thing = getattr(mtk, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                yield "\n".join([f"### {name}\n", "```python", *_outline(thing, doc=True), "```\n"])


def _outline(thing: Any, *, doc: bool = False) -> Iterator[str]:
    """The source of a class or function without what its functions do; of a class, nothing underscored. doc: a
    function's docstring too."""
    source = textwrap.dedent(inspect.getsource(thing))
    (node,) = ast.parse(source).body
    lines = source.splitlines()
    if not isinstance(node, ast.ClassDef):
        yield from _signature(node, lines, doc=doc)
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
