"""What this machine does to a run: out of files, asleep, a disk that fails, an address of two that is dead."""

import asyncio
import hashlib
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import time
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    Shop,
    batchupload,
    command,
    environment,
    outcomes,
    picture,
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
    assert int(str(server.stats()["max_open"])) <= 4


class FailingDatabase:
    """A connection whose commits fail from some moment on; counts what is tried after that."""

    def __init__(self, database: sqlite3.Connection, good_commits: int) -> None:
        self._database = database
        self._good_commits = good_commits
        self.tried_after = 0

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        if self._good_commits < 0 and statement != "ROLLBACK":
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


async def test_photos_replaced_cut_and_removed_in_mid_run(shop: Shop) -> None:
    orders = shop.orders(60)
    manifest = shop.manifest()
    replaced, cut, gone = (shop.folder / shop.rows[-number][1] for number in (1, 2, 3))
    async with Sandbox(SandboxOptions(latency=0.02)) as server:
        running = asyncio.ensure_future(send(manifest, settings_for(server.url, pace={"concurrency": 1})))
        async with asyncio.timeout(20):
            while len(server.accepted) < 5:
                await asyncio.sleep(0.005)
        fresh = picture("another")
        (shop.folder / "new.jpg").write_bytes(fresh)
        (shop.folder / "new.jpg").rename(replaced)
        cut.write_bytes(cut.read_bytes()[:-40])
        gone.unlink()
        _, report = await running
    found = outcomes(report)
    assert found.pop(orders[-2]) == ("invalid", "photo_truncated")
    assert found.pop(orders[-3]) == ("invalid", "photo_missing")
    assert found == dict.fromkeys(found, UPLOADED)
    assert server.accepted[orders[-1]][-1]["face"]["sha256"] == hashlib.sha256(fresh).hexdigest()
