"""What this machine does to a run: out of files, asleep, a disk that fails, an address of two that is dead."""

import asyncio
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Shop, batchupload, command, environment, outcomes, read_report, send, settings_for

from batchupload import ledger
from batchupload.sandbox import Sandbox, SandboxOptions

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
    connect, made = ledger.connect, list[FailingDatabase]()

    def failing(path: Path, *, readonly: bool) -> Any:
        made.append(FailingDatabase(connect(path, readonly=readonly), 12))
        return made[0]

    monkeypatch.setattr(ledger, "connect", failing)
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
