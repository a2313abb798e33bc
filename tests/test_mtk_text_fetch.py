"""`mtk data fetch` against a server on this machine that truncates, lies, stalls and refuses."""

from __future__ import annotations

import errno
import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mtk import DataError
from mtk_text import download as module, fetch as command
from mtk_text.download import blob_id, download
from mtk_text.published import PUBLISHED, Published, PublishedFile

CONTENT = bytes(range(256)) * 1000
BLOB = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()


@dataclass
class Server:
    """What the server does: `cut` bodies end after so many bytes; `status` in place of 200; `ranges` honours Range."""

    url: str = ""
    cut: list[int] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    ranges: bool = True
    stall: bool = False
    content: bytes = CONTENT
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state, done = Server(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            state.asked.append(wanted)
            if state.status:
                return self.send_error(state.status.pop(0))
            start = int(wanted[6:-1]) if wanted and state.ranges else 0
            if start >= len(state.content):
                return self.send_error(416)
            body = state.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            self.end_headers()
            self.wfile.write(body[: state.cut.pop(0)] if state.cut else body)
            if state.stall:
                done.wait(5)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = True
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
        yield state
        done.set()
        httpd.shutdown()


def get(base: str, target: Path, blob: str = BLOB, **options: float) -> bool:
    return download(base, target, blob, lambda done, total: None, **{"pause": 0, **options})  # type: ignore[arg-type]


def test_a_file_comes_and_is_then_left_alone(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "new" / "x.csv"
    seen: list[tuple[int, int | None]] = []
    assert download(server.url, target, BLOB, lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT and blob_id(target) == BLOB
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert not get(server.url, target)
    assert server.asked == [""]
    assert [path.name for path in target.parent.iterdir()] == ["x.csv"]


def test_a_damaged_file_is_fetched_again(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    target.write_text("damaged")
    assert get(server.url, target)
    assert target.read_bytes() == CONTENT


def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.cut = [100_000, 50_000]
    assert get(server.url, tmp_path / "x.csv")
    assert server.asked == ["", "bytes=100000-", "bytes=150000-"]
    assert (tmp_path / "x.csv").read_bytes() == CONTENT


def test_the_next_run_resumes_what_the_last_one_kept(server: Server, tmp_path: Path) -> None:
    server.cut = [10, 10, 10]
    with pytest.raises(DataError, match=r"broke off after 30 of 256,000 bytes \(3 attempts\); .*goes on from .*\.part"):
        get(server.url, tmp_path / "x.csv")
    assert (tmp_path / "x.csv.part").stat().st_size == 30
    assert not (tmp_path / "x.csv").exists()
    assert get(server.url, tmp_path / "x.csv")
    assert server.asked[-1] == "bytes=30-"


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cut = False, [100_000]
    assert get(server.url, tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_bytes() == CONTENT


def test_a_complete_part_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.csv.part").write_bytes(CONTENT)
    assert get(server.url, tmp_path / "x.csv")


def test_wrong_content_is_deleted(server: Server, tmp_path: Path) -> None:
    server.content = b"<html>please log in</html>"
    (tmp_path / "x.csv").write_text("old")
    with pytest.raises(DataError, match=f"x.csv: expected the git blob {BLOB}, found [0-9a-f]{{40}}; deleted"):
        get(server.url, tmp_path / "x.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]
    assert (tmp_path / "x.csv").read_text() == "old"


def test_answers_that_are_no_file(server: Server, tmp_path: Path) -> None:
    server.status = [404]
    with pytest.raises(DataError, match=r"x.csv: the server answered 404 Not Found; is --mirror right\?"):
        get(server.url, tmp_path / "x.csv")
    assert len(server.asked) == 1
    server.content = b""
    with pytest.raises(DataError, match=r"expected the git blob .*, found an empty file"):
        get(server.url, tmp_path / "x.csv")
    assert list(tmp_path.iterdir()) == []
    server.content, server.status = CONTENT, [503, 500]
    assert get(server.url, tmp_path / "x.csv")


def test_no_server_and_no_answer(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be reached: .*; check the network"):
        get("http://127.0.0.1:9", tmp_path / "x.csv")
    with pytest.raises(DataError, match=r"cannot be reached"):
        get("http://127.0.0.1:port", tmp_path / "x.csv")
    server.stall, server.cut = True, [5]
    with pytest.raises(DataError, match=r"nothing came for 0.1 seconds \(1 attempts\)"):
        get(server.url, tmp_path / "x.csv", timeout=0.1, attempts=1)


def test_a_folder_as_mirror(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "x.csv").write_bytes(CONTENT)
    (tmp_path / "a.csv").mkdir()
    assert get(str(tmp_path / "mirror"), tmp_path / "one" / "x.csv")
    assert get((tmp_path / "mirror").as_uri(), tmp_path / "two" / "x.csv")
    with pytest.raises(DataError, match=r"y.csv: cannot be read: No such file"):
        get(str(tmp_path / "mirror"), tmp_path / "y.csv")
    assert not (tmp_path / "y.csv.part").exists()
    with pytest.raises(DataError, match=r"expected http://, https://, file:// or a folder, found ftp://"):
        get("ftp://example.org", tmp_path / "y.csv")


@pytest.mark.parametrize(
    "error, message",
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full: make room and run the command again"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be written: Permission denied"),
        (KeyboardInterrupt(), "x.csv: interrupted; run the command again, it goes on from"),
    ],
)
def test_trouble_on_this_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, message: str
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(module, "_receive", fail)
    with pytest.raises(DataError, match=message) as caught:
        get("http://127.0.0.1:9", tmp_path / "x.csv")
    assert "\n" not in str(caught.value)


def test_the_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        get("http://127.0.0.1:9", tmp_path / "file" / "x.csv")


# ---------------------------------------------------------------------------------------------- the command

app = typer.Typer()
app.command()(command.fetch_command)


def test_the_command(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Published("Toy", {"train": PublishedFile("x.csv", BLOB), "dev": PublishedFile("y.csv", BLOB)}, "Me.", "Free.")
    monkeypatch.setattr(command, "PUBLISHED", {"sst": one})
    monkeypatch.setenv("MTK_CACHE", str(tmp_path))
    result = CliRunner().invoke(app, ["sst", "--mirror", server.url + "/"])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "cs224n").iterdir()) == ["x.csv", "y.csv"]
    assert "cite:  Me." in result.output and "terms: Free." in result.output and "fetched: " in result.output
    result = CliRunner().invoke(app, ["--mirror", server.url, "--to", str(tmp_path / "cs224n")])
    assert result.output.count("already there") == 2 and "--data" in result.output
    result = CliRunner().invoke(app, ["stt", "--mirror", server.url])
    assert isinstance(result.exception, DataError)
    assert "nothing to fetch for 'stt'; did you mean 'sst'?" in str(result.exception)


@pytest.mark.parametrize("lacking", [["x-test.csv"], ["x-dev.csv", "x-test.csv"], ["x-train.csv", "y-train.csv"]])
def test_a_mirror_that_lacks_files(lacking: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def toy(stem: str) -> Published:
        files = {split: PublishedFile(f"{stem}-{split}.csv", BLOB) for split in ("train", "dev", "test")}
        return Published("Toy", files, "Me.", "Free.")

    monkeypatch.setattr(command, "PUBLISHED", {"sst": toy("x"), "quora": toy("y")})
    mirror, to = tmp_path / "mirror", tmp_path / "to"
    mirror.mkdir()
    names = [f"{stem}-{split}.csv" for stem in "xy" for split in ("train", "dev", "test")]
    for name in set(names) - set(lacking):
        (mirror / name).write_bytes(CONTENT)
    result = CliRunner().invoke(app, ["sst", "para", "--mirror", str(mirror), "--to", str(to)])
    assert sorted(path.name for path in to.iterdir()) == sorted(set(names) - set(lacking))
    assert result.output.count("fetched: ") == 6 - len(lacking)
    assert ("note: no test rows of sst, train and dev are enough: " in result.output) == ("x-test.csv" in lacking)
    failed = [name for name in lacking if "test" not in name]
    assert result.output.count("failed: ") == len(failed)
    if not failed:
        assert result.exit_code == 0, result.output
        return
    assert isinstance(result.exception, DataError)
    said = str(result.exception)
    assert said.startswith(f"4 of 6 files are there; {mirror / failed[0]}: cannot be read: No such file")
    assert said.endswith(" (and 1 more: y-train.csv)") == (len(failed) == 2)


def test_what_had_come_is_said_where_the_mirror_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(base: str, target: Path, *more: object) -> bool:
        if target.name.startswith("ids-sst-dev"):
            raise DataError("the disk is full")
        return True

    monkeypatch.setattr(command, "download", stop)
    result = CliRunner().invoke(app, ["sst", "--to", str(tmp_path)])
    assert result.output.splitlines() == [f"fetched: {tmp_path / 'ids-sst-train.csv'}"]
    assert str(result.exception) == "the disk is full"


def test_what_is_published() -> None:
    assert list(PUBLISHED) == ["sst", "cfimdb", "quora", "sts", "sick"]
    for name, published in PUBLISHED.items():
        assert list(published.files) == (["train", "trial"] if name == "sick" else ["train", "dev", "test"])
        assert all(len(file.blob) == 40 for file in published.files.values())
        assert published.citation and published.terms
