"""What docstrings say of options: for `mtk plugins show` and the generated pages."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any


def described(target: Any, options: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """What docstrings say of each option, and the paragraphs of the target's own that are left without it.

    What a class does not say, the classes that it comes from may.
    """
    if not (inspect.isclass(target) or inspect.isfunction(target)):
        return {}, []
    own, *others = inspect.getmro(target) if inspect.isclass(target) else (target,)
    meanings, left = _entries(inspect.cleandoc(own.__doc__ or ""), options)
    for other in others:
        meanings = {**_entries(inspect.cleandoc(other.__doc__ or ""), options)[0], **meanings}
    return meanings, left


def _entries(doc: str, options: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """An option is spoken of as `name: text` or `name, other: text`: an item with its further lines indented, or the
    first sentence of such a text within a paragraph."""
    name = "|".join(map(re.escape, options)) or "(?!)"
    entry = rf"((?:{name})(?:, (?:{name}))*): "
    meanings: dict[str, str] = {}
    left = []

    def take(found: re.Match[str]) -> str:
        meanings.update(dict.fromkeys(found[1].split(", "), sentence(found[2].strip())))
        return ""

    for paragraph in doc.split("\n\n"):
        blocks = [" ".join(block.split()) for block in re.split(r"\n(?! )", paragraph) if "\n " not in block]
        for block in re.split(r"\n(?! )", paragraph):
            if "\n " in block:
                item = re.sub(rf"^{entry}(.*)$", take, " ".join(block.split()))
                blocks += [item] if item else []
        text = " ".join(blocks)
        text = re.sub(rf"(?:^|(?<=[.:;)] )){entry}(.*?)(?:[.;] (?=[A-Z`]|{entry})|$)", take, text).strip()
        left += [text] if text else []
    return meanings, left


def sentence(text: str) -> str:
    """With a full stop, and a capital unless it begins with a symbol."""
    first = text.split(" ")[0].rstrip(",;:")
    start = text[:1].upper() if len(first) > 1 and first.isalpha() else text[:1]
    return start + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
