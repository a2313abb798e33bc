"""How the commands print tables."""

from __future__ import annotations

from collections.abc import Sequence

import typer


def print_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], red: str = "") -> None:
    """A table on a terminal; elsewhere plain aligned columns that nothing crops. Rows that begin with `red` are red."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        for row in (head, *rows):
            typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    table = Table(*head)
    for row in rows:
        table.add_row(*map(Text, row), style="red" if red and row[0] == red else None)
    console.print(table)
