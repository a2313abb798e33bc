"""Trials on Ray: what ends, what is lost, what is left over; with real Rays on this machine, where it is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import mtk_ray.executor
from mtk import plugins
from mtk.errors import ConfigError, MTKError, PluginError
from mtk_ray import preflight, temporary
from mtk_ray.executor import Ray

RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not RAY, reason="ray is not installed: pip install 'multitask-toolkit[tune]'")
TREE: dict[str, Any] = {
    "tasks": {"sts": {}},
    "encoder": {"name": "tiny", "hidden_size": 8, "layers": 1},
    "data": {"max_length": 16, "sample": "always", "max_train_rows": 8},
    "train": {"epochs": 2, "batch_size": 4, "patience": 0, "precision": "fp32", "device": "cpu", "threads": 1},
}


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command of what runs, by process id."""
    shown = subprocess.run(["ps", "-wwAo", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 3) for line in shown.splitlines()]
    return {int(pid): (int(parent), args) for pid, parent, state, args in rows if "Z" not in state}


def below(parent: int, named: str = "") -> set[int]:
    """The descendants of a process whose command holds `named`."""
    all_, found = processes(), {parent}
    while more := {pid for pid, (above, _) in all_.items() if above in found and pid not in found}:
        found |= more
    return {pid for pid in found - {parent} if named in all_[pid][1]}


def eventually(true: Callable[[], Any], seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def driver_of(executor: Ray) -> int:
    assert executor._connection is not None
    return executor._connection._process.pid


def folders() -> set[Path]:
    return set(temporary._root().glob(f"{temporary._PREFIX}*"))


def heard(worker: Any) -> dict[str, Any] | None:
    for _ in range(600):
        if (answer := worker.hear(0.2)) != {}:
            return answer
    raise AssertionError("no answer")


def trained(worker: Any, folder: Path) -> list[str]:
    worker.say({"job": str(folder), "config": TREE, "epochs": 2})
    events = []
    while (answer := heard(worker)) is not None:
        events.append(answer["event"])
        if answer["event"] not in ("began", "epoch"):
            break
        worker.say("go")
    return events


# ---------------------------------------------------------------------------------------------- without Ray


def test_it_is_registered_and_its_options_are_described():
    assert [option.name for option in plugins.options("executor", "ray")] == ["address", "cpus", "gpus"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cpus": 0}, "cpus: expected at least 1 CPU"),
        ({"gpus": 1.5}, "gpus: expected 0, a part of 1, or a whole number"),
        ({"gpus": -1.0}, "gpus: expected 0"),
        ({"address": "here"}, "expected local, auto or HOST:PORT"),
        ({"address": "ray://host:10001"}, "found 'ray://host:10001'"),
        ({"address": "host:65536"}, "found 'host:65536'"),
        ({"address": "host:0"}, "found 'host:0'"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        plugins.build("executor", "ray", **options)


def test_auto_goes_where_the_environment_says(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("RAY_ADDRESS", "[::1]:6379")
    assert Ray(address="auto")._server == "[::1]:6379" and Ray(address="local")._server is None
    monkeypatch.setenv("RAY_ADDRESS", "local")  # which would start a Ray that nobody asked for
    with pytest.raises(ConfigError, match="RAY_ADDRESS=local: expected local, auto or HOST:PORT"):
        Ray(address="auto")


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PluginError, match=r"pip install 'multitask-toolkit\[tune\]'"):
        Ray()


def test_a_dead_address_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConfigError, match=f"nothing listens at 127.0.0.1:{port} .*`ray start --head --port={port}`"):
        Ray(address=f"127.0.0.1:{port}").open(tmp_path, 1)


def test_a_worker_needs_an_open_executor(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    executor = Ray(cpus=3)
    assert executor.threads(2) == 3
    with pytest.raises(MTKError, match=r"expected open\(\)"):
        executor.start(tmp_path / "log")
    executor.close()


# ---------------------------------------------------------------------------------------------- the preflight


def node(name: str, cpus: float = 4, gpus: float = 0) -> dict[str, Any]:
    has = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    return {"NodeID": f"id-{name}", "NodeManagerHostname": name, "NodeManagerAddress": "10.0.0.1", "Resources": has}


def agreeing(folder: Path) -> Callable[..., list[dict[str, Any]]]:
    return lambda nodes, token: [preflight.facts_and_storage(str(folder), token, n["NodeID"]) for n in nodes]


def test_nodes_that_agree_pass_and_keep_nothing(tmp_path):
    nodes = [node("a"), node("head", cpus=0), node("b")]
    assert preflight.check(nodes, agreeing(tmp_path), tmp_path, 4, (2, 0)) == [nodes[0], nodes[2]]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("nodes", "slots", "size", "said"),
    [
        (
            [node("a"), node("b", 3)],
            4,
            (2, 0),
            r"--slots 4: .* 4 workers of 2 CPUs each, found room for 3 \(a .*: 4 CPUs",
        ),
        ([node("a"), node("b")], 1, (8, 0), "1 workers of 8 CPUs each, found room for 0"),  # 8 in all, and none has 8
        ([node("a", 8, 1)], 3, (1, 0.5), r"of 1 CPU and 0.5 GPUs each, found room for 2 \(a .*: 8 CPUs and 1 GPU\)"),
        ([], 1, (1, 0), r"found room for 0 \(no node\)"),
    ],
)
def test_too_many_workers_are_refused_with_numbers(tmp_path, nodes, slots, size, said):
    with pytest.raises(ConfigError, match=said):
        preflight.check(nodes, agreeing(tmp_path), tmp_path, slots, size)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("Python", "2.7", r"node b \(10.0.0.1\): expected Python 3.* found 2.7; install the same versions"),
        ("ray", "1.0", "node b .* expected ray .* found 1.0"),
        ("mtk", "0.0.1", "node b .* expected mtk .* found 0.0.1"),
        ("plugins", {}, "node b .* expected task '.* of multitask-toolkit .* found none"),
    ],
)
def test_a_node_that_differs_is_named(tmp_path, monkeypatch, key, value, said):
    monkeypatch.setattr(preflight, "version", lambda distribution: "9.9")

    def ask(nodes, token):
        first, second = agreeing(tmp_path)(nodes, token)
        return [first, {**second, key: value}]

    with pytest.raises(ConfigError, match=said):
        preflight.check([node("a"), node("b")], ask, tmp_path, 2, (1, 0))
    assert list(tmp_path.iterdir()) == []


def test_a_node_may_have_more_plugins(monkeypatch):
    monkeypatch.setattr(preflight, "version", lambda distribution: "9.9")
    here = preflight.facts()
    preflight.compare("b", here, {**here, "plugins": {**here["plugins"], "task 'more'": "of more 1.0"}})


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("none", "found no such folder there"),
        ("another", "found another folder there, without what was written here"),
        ("copy", "found that what it writes there is not seen here"),
    ],
)
def test_storage_that_is_not_shared_is_refused(tmp_path, monkeypatch, there, said):
    monkeypatch.setattr(preflight, "version", lambda distribution: "9.9")
    monkeypatch.setattr(preflight, "_SHARED", 0.1)
    here = tmp_path / "here"
    for name in ("here", "another", "copy"):
        (tmp_path / name).mkdir()

    def ask(nodes, token):
        (tmp_path / "copy" / token).write_text(token)
        return agreeing(tmp_path / there)(nodes, token)

    with pytest.raises(ConfigError, match=f"node a .*: expected to read and write {here}, .*{said}; choose --out"):
        preflight.check([node("a")], ask, here, 1, (1, 0))
    assert list(here.iterdir()) == []


# ---------------------------------------------------------------------------------------------- temporary folders


def test_folders_that_nobody_holds_are_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(temporary, "_root", lambda: tmp_path)
    left, held = tmp_path / "mtk-ray-left", tmp_path / "mtk-ray-held"
    for own in (left, held, tmp_path / "others"):
        (own / "session").mkdir(parents=True)
    with FileLock(tmp_path / "mtk-ray-held.lock"), temporary.folder() as own:
        assert own.is_dir() and held.is_dir() and not left.exists()
        temporary.sweep()
        assert own.is_dir() and held.is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {"others", "mtk-ray-held", "mtk-ray-held.lock"}


# ---------------------------------------------------------------------------------------------- a private Ray


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    executor = Ray()
    lines = executor.open(tmp_path_factory.mktemp("search"), 1)
    assert len(lines) == 1 and lines[0].endswith("local: 1 slot of 1 CPU")
    yield executor
    executor.close()


@pytest.mark.slow
@needs_ray
def test_a_worker_trains_is_saved_while_it_trains_and_goes_on(private, tmp_path):
    there = "ray" in sys.modules  # from another test
    worker = private.start(tmp_path / "log")
    try:
        assert worker.alive and worker.hear(0.01) == {}
        worker.say({"job": str(tmp_path / "t"), "config": TREE, "epochs": 2})
        assert (heard(worker) or {})["event"] == "began"
        worker.say("save")
        assert heard(worker) == {"event": "saved"}
        assert trained(worker, tmp_path / "t") == ["began", "epoch", "epoch", "finished"]
        facts = json.loads((tmp_path / "t/run.json").read_text())
        assert facts["status"] == "finished" and (tmp_path / "log").exists()
        assert ("ray" in sys.modules) == there  # nothing of it is in this process: no signal handler, no thread
    finally:
        assert worker.end() == 1  # as mtk.worker ends when its input does
    assert not worker.alive and worker.end() == 1
    assert eventually(lambda: not below(driver_of(private), "mtk.worker"))


@needs_ray
def test_a_worker_that_is_killed_is_heard_of(private, tmp_path):
    worker = private.start(tmp_path / "log")
    (process,) = below(driver_of(private), "mtk.worker")
    os.kill(process, signal.SIGKILL)
    assert heard(worker) is None and not worker.alive and worker.hear(0) is None
    worker.say("go")  # to nobody
    assert worker.end() == -9


@needs_ray
def test_an_actor_that_is_killed_takes_its_process_along(private, tmp_path):
    worker = private.start(tmp_path / "log")
    (process,) = below(driver_of(private), "mtk.worker")
    os.kill(processes()[process][0], signal.SIGKILL)
    assert eventually(lambda: not worker.alive) and heard(worker) is None
    assert eventually(lambda: process not in processes())
    assert worker.end() == -9


@needs_ray
def test_a_worker_that_finds_no_room_is_refused(private, tmp_path, monkeypatch):
    monkeypatch.setattr(mtk_ray.executor, "_PLACE", 0.1)
    with pytest.raises(
        MTKError, match=r"no worker can be started on Ray: expected 1 CPU to be free within 0\.1 s, found"
    ):
        private.start(tmp_path / "log")
    assert eventually(lambda: not below(driver_of(private), "ray::TrialWorker"))


@needs_ray
def test_close_leaves_nothing(private, tmp_path):
    worker = private.start(tmp_path / "log")
    driver = driver_of(private)
    all_ = {driver} | below(driver)
    assert len(all_) > 4 and folders()
    private.close()
    private.close()
    assert not worker.alive and heard(worker) is None and worker.end() == -9
    assert eventually(lambda: not all_ & set(processes()))
    assert not [folder for folder in folders() if not _held(folder)]


def _held(folder: Path) -> bool:
    """Whether a lock says that somebody else on this machine uses it."""
    lock = FileLock(folder if folder.suffix else folder.with_suffix(".lock"))
    with contextlib.suppress(Exception):
        lock.acquire(blocking=False)
        lock.release()
        return False
    return True


SEARCH = """
import signal, sys, time
from pathlib import Path
from mtk import build
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests behind its prompt has it ignored
executor = build("executor", "ray")
executor.open(Path(sys.argv[1]), 1)
worker = executor.start(Path(sys.argv[1]) / "log")
print(executor._connection._process.pid, flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    worker.say({"job": sys.argv[1] + "/t", "config": {"tasks": {"none": {}}}, "epochs": 1})
    while (answer := worker.hear(60)) == {}:
        pass
    print(answer and answer["event"], flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@needs_ray
def test_ctrl_c_leaves_the_workers_alone_and_a_killed_search_leaves_nothing(tmp_path):
    (tmp_path / "search.py").write_text(SEARCH)
    command = [sys.executable, str(tmp_path / "search.py"), str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    ) as search:
        try:
            assert search.stdout is not None
            driver = int(search.stdout.readline())  # the first thing that is printed at all
            all_ = {driver} | below(driver)
            assert below(driver, "mtk.worker")
            os.killpg(search.pid, signal.SIGINT)  # as the terminal does
            assert search.stdout.readline() == "failed\n"  # the worker is there, and answers
            assert all_ <= set(processes())
        finally:
            search.kill()
    assert eventually(lambda: not all_ & set(processes()))
    assert not [folder for folder in folders() if not _held(folder)]


# ---------------------------------------------------------------------------------------------- a cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A head and a second node on this machine, with one CPU each; their address and processes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    folder = Path(tempfile.mkdtemp(prefix="mtk-t-", dir="/tmp"))  # short: sockets
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--node-ip-address=127.0.0.1"]
    ray += ["--num-cpus=1", "--object-store-memory=100000000"]
    head = ["--head", f"--port={address.rpartition(':')[2]}", f"--temp-dir={folder}", "--include-dashboard=false"]
    nodes: list[subprocess.Popen[bytes]] = []
    with pytest.MonkeyPatch.context() as patch, (folder / "log").open("wb") as log:
        for key, value in own.items():
            patch.setenv(key, value)
        try:
            for more in (head, [f"--address={address}"]):
                command = [*ray, *more]
                nodes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
                assert eventually(lambda: (folder / "log").read_text().count("will now block") == len(nodes), 120)
            yield address, nodes
        finally:
            left = {pid for node in nodes for pid in below(node.pid)}
            for one in nodes:
                one.terminate()
            for one in nodes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    one.wait(timeout=20)
            for pid in left & set(processes()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@needs_ray
def test_a_cluster_refuses_what_it_cannot_hold_and_who_has_no_token(cluster, tmp_path, monkeypatch):
    address, _ = cluster
    with pytest.raises(ConfigError, match=r"--slots 3: expected room for 3 workers of 1 CPU each, found room for 2 \("):
        Ray(address=address).open(tmp_path, 3)
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with pytest.raises(
        ConfigError, match="does not take this machine's token; give RAY_AUTH_MODE=token and RAY_AUTH_T"
    ):
        Ray(address=address).open(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@needs_ray
def test_trials_on_two_nodes_and_a_node_that_dies(cluster, tmp_path, monkeypatch):
    address, nodes = cluster
    monkeypatch.setenv("RAY_ADDRESS", address)
    executor = Ray(address="auto")
    (line,) = executor.open(tmp_path, 2)
    assert f"at {address}: 2 nodes, 2 CPUs; 2 slots of 1 CPU; storage and versions agree on all" in line
    workers = [executor.start(tmp_path / f"log-{number}") for number in range(2)]
    try:
        held = [below(node.pid, "mtk.worker") for node in nodes]
        assert [len(processes_) for processes_ in held] == [1, 1]
        for number, worker in enumerate(workers):
            worker.say({"job": str(tmp_path / str(number)), "config": TREE, "epochs": 2})
        assert [(heard(worker) or {})["event"] for worker in workers] == ["began", "began"]
        (raylet,) = below(nodes[1].pid, "raylet/raylet")
        os.kill(raylet, signal.SIGKILL)
        assert eventually(lambda: [worker.alive for worker in workers].count(False) == 1)
        (dead,) = [worker for worker in workers if not worker.alive]
        (alive,) = [worker for worker in workers if worker.alive]
        assert heard(dead) is None and dead.end() == -9
        assert eventually(lambda: not held[1] & set(processes()))
        alive.say("go")
        assert (heard(alive) or {})["event"] == "epoch"
    finally:
        executor.close()
    assert eventually(lambda: not held[0] & set(processes()))
    assert eventually(lambda: not below(nodes[0].pid, "ray::TrialWorker"))
    assert below(nodes[0].pid, "gcs_server") and nodes[0].poll() is None  # the cluster stays


@needs_ray
def test_a_port_where_something_else_listens(tmp_path, monkeypatch):
    monkeypatch.setattr(mtk_ray.executor, "_CONNECT", 4.0)
    monkeypatch.setattr(mtk_ray.executor, "_GIVE_UP", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        executor = Ray(address=address)
        with pytest.raises(ConfigError, match=f"no Ray answers at {address}, .* \\(waited 4 s\\)"):
            executor.open(tmp_path, 1)
    assert executor._connection is None and not below(os.getpid(), "mtk_ray.driver")
