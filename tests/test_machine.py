"""What this machine does to a run: files run out, it sleeps, a disk fails or fills, a clock jumps, a name is dead."""

import asyncio
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    Shop,
    as_plain_user,
    batchupload,
    command,
    environment,
    outcomes,
    read_report,
    send,
    send_to_sandbox,
    settings_for,
)

from batchupload import ledger_file
from batchupload.sandbox import Sandbox, SandboxOptions, parse_fault

UPLOADED = ("uploaded", "accepted")


async def test_out_of_open_files_no_order_is_lost(shop: Shop) -> None:
    orders = shop.orders(80)
    shop.manifest()

    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))

    words = ["run", "orders.csv", "--concurrency", "32", "--report", "report.csv"]
    async with Sandbox(SandboxOptions(latency=0.1)) as server:
        env = environment({"BATCHUPLOAD_ENDPOINT_URL": server.url, "BATCHUPLOAD_RETRY_BASE": "0.2"})
        done = await asyncio.to_thread(
            subprocess.run, command(*words), cwd=shop.folder, env=env, capture_output=True, text=True, timeout=60,
            preexec_fn=few_files, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        found = outcomes(read_report(shop.folder / "report.csv"))
        assert sorted(found) == orders
        assert {outcome for outcome, _ in found.values()} <= {"uploaded", "deferred", "failed"}
        assert {order for order, ending in found.items() if ending == UPLOADED} == set(server.accepted)
        again = await asyncio.to_thread(
            batchupload, "run", "orders.csv", cwd=shop.folder, env={"BATCHUPLOAD_ENDPOINT_URL": server.url}
        )
    assert again.returncode == 0, again.stdout
    assert {len(taken) for taken in server.accepted.values()} == {1}


async def test_a_machine_that_slept_goes_on_without_false_verdicts_or_a_burst(shop: Shop) -> None:
    orders = shop.orders(60)
    shop.manifest()
    env = {f"BATCHUPLOAD_TIMEOUTS_{name}": "1" for name in ("CONNECT", "PROGRESS", "REPLY")}
    async with Sandbox(SandboxOptions(latency=0.1)) as server:
        process = await asyncio.create_subprocess_exec(
            *command("run", "orders.csv", "--report", "report.csv", "--endpoint", server.url, "--concurrency", "4"),
            cwd=shop.folder, env=environment(env), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(60):
            while len(server.accepted) < 10:
                await asyncio.sleep(0.01)
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(3)  # longer than every wait of the run
        process.send_signal(signal.SIGCONT)
        await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert outcomes(read_report(shop.folder / "report.csv")) == dict.fromkeys(orders, UPLOADED)
    # Four under way; the four whose wait ended in the sleep may still be at work there.
    assert int(str(server.stats()["max_open"])) <= 8
    assert int(str(server.stats()["requests"])) <= len(orders) + 4


class FailingDatabase:
    """A connection whose commits fail from some moment on; counts what is tried after that, but for reading."""

    def __init__(self, database: sqlite3.Connection, good_commits: int) -> None:
        self._database = database
        self._good_commits = good_commits
        self.tried_after = 0

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        if self._good_commits < 0 and statement != "ROLLBACK" and not statement.startswith("SELECT"):
            self.tried_after += 1
        if statement == "COMMIT":
            self._good_commits -= 1
            if self._good_commits < 0:
                raise sqlite3.OperationalError("disk I/O error")
        return self._database.execute(statement, *parameters)

    def executemany(self, statement: str, parameters: Any) -> sqlite3.Cursor:
        return self._database.executemany(statement, parameters)

    def close(self) -> None:
        self._database.close()


async def test_a_failed_sync_of_the_ledger_ends_the_sending_and_is_not_tried_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = shop.orders(40)
    manifest = shop.manifest()
    connect, made = ledger_file.connect, list[FailingDatabase]()

    def failing(path: Path, *, readonly: bool) -> Any:
        made.append(FailingDatabase(connect(path, readonly=readonly), 12))
        return made[0]

    monkeypatch.setattr(ledger_file, "connect", failing)
    async with Sandbox(SandboxOptions(latency=0.02)) as server:
        settings = settings_for(server.url, pace={"concurrency": 4})
        summary, report = await send(manifest, settings)
        monkeypatch.undo()
        assert summary.exit_code == 5
        assert sorted(row["order_id"] for row in report) == orders
        uploaded = {order for order, ending in outcomes(report).items() if ending == UPLOADED}
        assert uploaded == set(server.accepted)
        assert 0 < len(uploaded) < 40
        assert made[0].tried_after == 0
        summary, _ = await send(manifest, settings)
    assert summary.exit_code == 0
    assert set(server.accepted) == set(orders)
    assert sum(map(len, server.accepted.values())) <= len(orders) + 8


async def test_a_dead_address_does_not_keep_from_the_live_one(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.orders(1)
    manifest = shop.manifest()
    async with Sandbox() as server:
        with socket.socket(socket.AF_INET6) as deaf:
            deaf.bind(("::1", server.port))
            deaf.listen(0)
            fillers = [socket.socket(socket.AF_INET6) for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(deaf.getsockname())

            def both(host: str, port: int, *_: Any, **__: Any) -> Any:
                return [
                    (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", server.port, 0, 0)),
                    (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port)),
                ]

            monkeypatch.setattr(socket, "getaddrinfo", both)
            url = server.url.replace("127.0.0.1", "localhost")
            _, (row,) = await send(manifest, settings_for(url, timeouts={"connect": 10.0}))
            for filler in fillers:
                filler.close()
    assert row["outcome"] == "uploaded"
    assert int(row["duration_ms"]) < 1000


async def test_a_name_server_that_does_not_answer_is_not_waited_for(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.orders(1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
    settings = settings_for("http://localhost:9/", timeouts={"connect": 0.2}, retry={"attempts": 2})
    _, (row,) = await send(shop.manifest(), settings)
    assert (row["outcome"], row["reason"]) == ("failed", "connect_timeout")
    assert int(row["duration_ms"]) < 2500


class JumpingClock(datetime):
    """A wall clock that is set a day forward and back again, time after time."""

    looks = 0

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "JumpingClock":
        cls.looks += 1
        true = datetime.now(UTC) + timedelta(days=1 if cls.looks % 2 else -1)
        return cls.fromtimestamp(true.timestamp(), tz)


async def test_a_clock_that_is_set_changes_no_wait_and_no_outcome(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = shop.orders(40)
    monkeypatch.setattr("batchupload.attempt.datetime", JumpingClock)
    retry = {"attempts": 30, "retry_after_cap": 0.2}
    async with asyncio.timeout(40):
        _, report, _ = await send_to_sandbox(shop.manifest(), ["retry_after_date=30%"], retry=retry)
    assert outcomes(report) == dict.fromkeys(orders, UPLOADED)
    assert JumpingClock.looks > len(orders)


@pytest.mark.parametrize("fault", ["gzip_bomb", "endless_reply"])
async def test_replies_without_end_take_no_memory(shop: Shop, fault: str) -> None:
    shop.orders(12)
    shop.manifest()

    def peak(url: str, report: str) -> int:
        changes = {"RETRY_BASE": "0.01", "RETRY_ATTEMPTS": "2", "PACE_PROBE_AFTER_FAILURES": "1000"}
        env = environment({f"BATCHUPLOAD_{name}": value for name, value in changes.items()})
        options = ("--concurrency", "8", "--force", "-q", "--canary", "0", "--report", report)
        process = subprocess.Popen(command("run", "orders.csv", "--endpoint", url, *options), cwd=shop.folder, env=env)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return used.ru_maxrss  # in KiB

    async with Sandbox(SandboxOptions()) as server:
        usual = await asyncio.to_thread(peak, server.url, "usual.csv")
    async with Sandbox(SandboxOptions((parse_fault(f"{fault}=100%"),))) as server:
        found = await asyncio.to_thread(peak, server.url, "fault.csv")
    assert {row["outcome"] for row in read_report(shop.folder / "fault.csv")} == {"unknown"}
    assert found < usual + 30 * 1024


@pytest.mark.parametrize(
    ("call", "file", "at"),
    [
        ("fdatasync", "batchupload.db-wal", 1),
        ("fdatasync", "batchupload.db-wal", 8),
        ("pwrite64", "batchupload.db-wal", 30),
        ("write", "report.csv", 5),
    ],
)
def test_a_disk_that_fails_ends_the_sending_and_the_call_is_not_made_again(
    tmp_path: Path, call: str, file: str, at: int
) -> None:
    script = Path(__file__).with_name("failing.py")
    done = subprocess.run(
        [sys.executable, script, call, file, "--at", str(at)],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"0 more {call} after the one that failed")


Fill = Callable[[int], None]
"""Leaves no room any more to the process of this number."""


@contextmanager
def disk_that_fills(folder: Path) -> Generator[Fill, None, None]:
    """A small disk at `folder`; where it can't be mounted, files there can at least no longer grow."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "small", folder], capture_output=True).returncode

    def fill(process: int) -> None:
        if mounted != 0:
            no_more_bytes(process)
            return
        with suppress(OSError), (folder / "others").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    try:
        yield fill
    finally:
        if mounted == 0:
            subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def files_that_stop_growing(folder: Path) -> Generator[Fill, None, None]:
    folder.mkdir()
    yield no_more_bytes


def no_more_bytes(process: int) -> None:
    resource.prlimit(process, resource.RLIMIT_FSIZE, (1000, 1000))


@pytest.mark.parametrize("disk", [disk_that_fills, files_that_stop_growing])
async def test_where_ledger_and_report_find_no_room_all_that_was_sent_is_told(
    shop: Shop, tmp_path: Path, disk: Any
) -> None:
    orders = shop.orders(300)
    manifest = shop.manifest()
    place = tmp_path / "disk"
    words: list[str | Path] = ["run", manifest, "--report", place / "report.csv", "--concurrency", "4"]
    with disk(place) as fill:
        async with Sandbox(SandboxOptions(latency=0.05)) as server:
            env = {"BATCHUPLOAD_ENDPOINT_URL": server.url, "BATCHUPLOAD_LEDGER_PATH": str(place / "ledger.db")}
            process = await asyncio.create_subprocess_exec(
                *command(*words), cwd=tmp_path, env=environment(env),
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            async with asyncio.timeout(60):
                while len(server.accepted) < 20:
                    await asyncio.sleep(0.01)
                fill(process.pid)
                _, errors = await process.communicate()
            accepted = set(server.accepted)
        said = errors.decode()
        assert process.returncode == 5, said
        assert "the ledger can't be written any more" in said
        assert "the report can't be written any more" in said
        told = {line.split(", ")[1].split(":")[0] for line in said.splitlines() if line.startswith("not in the report")}
        report = read_report(place / "report.csv")
        assert accepted <= {row["order_id"] for row in report} | told
        assert {row["order_id"] for row in report if row["outcome"] == "uploaded"} <= accepted
        assert len(accepted) < len(orders)


async def test_a_report_folder_that_may_not_be_written_is_refused_before_the_first_send(
    shop: Shop, tmp_path: Path
) -> None:
    shop.orders(3)
    manifest = shop.manifest()
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    async with Sandbox() as server:
        words: list[str | Path] = ["run", manifest, "--report", locked, "--endpoint", server.url]
        done = await asyncio.to_thread(
            subprocess.run, command(*words), cwd=tmp_path, env=environment(), capture_output=True, text=True,
            timeout=60, preexec_fn=as_plain_user, check=False,
        )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "the report can't be written (Permission denied)" in done.stderr
    assert server.stats()["requests"] == 0
    assert list(locked.iterdir()) == []
