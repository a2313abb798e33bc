"""One file from a server or a folder: resumable, verified against its git blob id, and put in place in one move."""

from __future__ import annotations

import errno
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mtk import DataError

CHUNK = 1 << 16  # bytes
Advance = Callable[[int, int | None], None]
"""Told after every chunk: bytes had so far, and bytes in all where known."""


class FileFault(DataError):
    """This one file cannot be had from the mirror; others may."""


class _Dropped(Exception):
    """The connection broke off; what has come is kept and the next attempt goes on behind it."""


class _Refused(_Dropped):
    """The server is there but has no answer for now."""


def blob_id(file: Path) -> str:
    """The id that `git hash-object FILE` prints. SHA-1 is git's choice, and ours since these are git's ids."""
    digest = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(
    base: str,
    target: Path,
    blob: str,
    advance: Advance,
    *,
    timeout: float = 30.0,
    attempts: int = 3,
    pause: float = 1.0,
) -> bool:
    """Brings `base`/NAME to `target`; False where the right file is already there.

    Raises FileFault where the mirror lacks the file or has another, DataError where no file would come.
    base: a URL, a folder's path or a file:// URL. timeout, pause: seconds, per read and between attempts.
    A transfer that breaks off leaves NAME.part, and the next one goes on from there. A wrong file is deleted.
    """
    part = target.with_name(target.name + ".part")
    try:
        if target.is_file() and blob_id(target) == blob:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _receive(base, target.name, part, advance, timeout, attempts, pause)
        finally:
            if part.is_file() and not part.stat().st_size:
                part.unlink()
        found = blob_id(part) if part.is_file() else "an empty file"
        if found != blob:
            part.unlink(missing_ok=True)
            raise FileFault(
                f"{base}/{target.name}: expected the git blob {blob}, found {found}; deleted what had come:"
                " run the command again, or name another --mirror"
            )
        part.replace(target)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))  # Windows has no quota error
        advice = "the disk is full: make room and run the command again, it goes on from there" if full else ""
        where = error.filename or target
        raise DataError(f"{where}: cannot be written: {advice or error.strerror or error}") from None
    except KeyboardInterrupt:
        raise DataError(f"{target.name}: interrupted; run the command again, it goes on from {part}") from None
    return True


def _receive(base: str, name: str, part: Path, advance: Advance, timeout: float, attempts: int, pause: float) -> None:
    folder = _local_folder(base)
    if folder is not None:
        _write(part, "wb", _local_chunks(folder / name), 0, None, advance)
        return
    for attempt in range(1, attempts + 1):
        try:
            return _stream(f"{base}/{name}", part, advance, timeout)
        except _Dropped as error:
            if attempt == attempts:
                kind = FileFault if isinstance(error, _Refused) else DataError
                raise kind(
                    f"{base}/{name}: {error} ({attempts} attempts); run the command again, it goes on from {part}"
                ) from None
            time.sleep(pause * attempt)


def _local_folder(base: str) -> Path | None:
    """The folder that a path or file:// URL means; None for http(s). Raises DataError for other addresses."""
    try:
        parts = urlsplit(base)
    except ValueError as error:
        raise DataError(f"mirror '{base}': {error}") from None
    if parts.scheme in ("http", "https"):
        return None
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    if "://" in base:
        raise DataError(f"mirror '{base}': expected http://, https://, file:// or a folder, found {parts.scheme}://")
    return Path(base).expanduser()


def _local_chunks(file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
    except OSError as error:
        raise FileFault(f"{file}: cannot be read: {error.strerror or error}") from None


def _stream(url: str, part: Path, advance: Advance, timeout: float) -> None:
    """One request, from where `part` ends. Raises _Dropped where another attempt may help."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "mtk", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        # S310 is about other schemes; _local_folder let only http and https come here.
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing behind what we have: it is complete, or of another file; the blob id tells
            return
        if error.code in (408, 429, 500, 502, 503, 504):
            raise _Refused(f"the server answered {error.code} {error.reason}") from None
        raise FileFault(f"{url}: the server answered {error.code} {error.reason}; is --mirror right?") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise _Dropped(f"no answer within {timeout:g} seconds") from None
        broke = isinstance(reason, (ConnectionResetError, http.client.HTTPException))
        if broke and not isinstance(reason, http.client.InvalidURL):
            raise _Dropped(f"the connection broke off ({reason or type(reason).__name__})") from None
        raise DataError(f"{url}: cannot be reached: {reason}; check the network, or name another --mirror") from None
    with response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        end = _write(part, "ab" if resumed else "wb", _remote_chunks(response, timeout), start, total, advance)
    if total is not None and end < total:
        raise _Dropped(f"the connection broke off after {end:,} of {total:,} bytes")


def _remote_chunks(response: Any, timeout: float) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(CHUNK)
        except TimeoutError:
            raise _Dropped(f"nothing came for {timeout:g} seconds") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Dropped(f"the connection broke off ({type(error).__name__})") from None
        if not chunk:
            return
        yield chunk


def _write(part: Path, mode: str, chunks: Iterator[bytes], start: int, total: int | None, advance: Advance) -> int:
    """Appends or rewrites; returns the bytes that `part` then holds."""
    end = start
    with part.open(mode) as stream:
        for chunk in chunks:
            stream.write(chunk)
            end += len(chunk)
            advance(end, total)
    return end
