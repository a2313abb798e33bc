"""Files that are there whole or not at all."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mtk import DataError


def write(file: Path, content: str | bytes) -> Path:
    """Writes beside the file, makes its folder if need be, then moves in place. Raises DataError."""
    part = file.with_name(f".{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(file)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise DataError(f"{file}: cannot be written: {error.strerror or error}") from None
    return file
