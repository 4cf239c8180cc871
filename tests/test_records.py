"""Ledger and report that are pulled away or slow in mid-run: it is noticed, sending stops, and nothing is destroyed."""

import asyncio
import fcntl
import json
import logging
import os
import re
import shutil
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path

import pytest
from conftest import Shop, batchupload, command, environment, outcomes, read_report, settings_for, under_way

from batchupload.job import Wish, execute, plan
from batchupload.logs import remarks
from batchupload.model import Outcome
from batchupload.reasons import Reason
from batchupload.recorder import Recorder
from batchupload.sandbox import Sandbox, SandboxOptions
from batchupload.sheet import REPORT_COLUMNS
from batchupload.summary import Summary

UPLOADED = ("uploaded", "accepted")


def running(
    shop: Shop, server: Sandbox, *options: str, accepted: int = 5
) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """The program in mid-run, with at least so many orders accepted."""
    words = ["run", "orders.csv", "--endpoint", server.url, "--report", "out/report.csv", "--concurrency", "2"]
    (shop.folder / "out").mkdir(exist_ok=True)
    return under_way(command(*words, *options), shop.folder, environment(), lambda: len(server.accepted) >= accepted)


def replace(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)


REMOVALS: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "replaced": replace,
    "moved": lambda path: path.rename(path.with_name("elsewhere")),
}


@pytest.mark.parametrize("how", REMOVALS)
async def test_a_report_pulled_away_in_mid_run_stops_it(shop: Shop, how: str) -> None:
    shop.orders(200)
    shop.manifest()
    async with (
        Sandbox(SandboxOptions(latency=0.05)) as server,
        running(shop, server, "--json", "-q") as process,
    ):
        REMOVALS[how](shop.folder / "out/report.csv")
        out, err = await process.communicate()
    assert process.returncode == 5
    assert b"out/report.csv: the report can't be written any more (it was re" in err
    assert b"batchupload show 1" in err
    assert json.loads(out)["stopped"] == "report_lost"
    assert len(server.accepted) < 200


async def test_a_report_folder_pulled_away_in_mid_run_stops_it(shop: Shop) -> None:
    shop.orders(200)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.05)) as server, running(shop, server) as process:
        shutil.rmtree(shop.folder / "out")
        _, err = await process.communicate()
    assert process.returncode == 5
    assert b"out/report.csv: the report can't be written any more (it was re" in err
    assert len(server.accepted) < 200


async def test_a_report_pulled_away_after_its_last_row_is_noticed_too(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.orders(2)
    manifest = shop.manifest()
    finish = Recorder.finish

    async def just_before(recorder: Recorder) -> None:
        (shop.folder / "report.csv").unlink()
        await finish(recorder)

    monkeypatch.setattr(Recorder, "finish", just_before)
    async with Sandbox() as server:
        summary = await execute_only(manifest, server)
    assert (summary.exit_code, summary.stopped) == (5, Reason.REPORT_LOST)
    assert summary.tally.outcomes[Outcome.UPLOADED] == 2


async def execute_only(manifest: Path, server: Sandbox) -> Summary:
    """One run in this process, whose report may be gone afterwards."""
    settings = settings_for(server.url, ledger={"path": manifest.parent / "batchupload.db"})
    wish = Wish((manifest,), quiet=True, report=manifest.parent / "report.csv")
    async with asyncio.timeout(60):
        return await execute(wish, settings, plan(wish, settings))


async def test_a_report_on_a_disk_that_does_not_answer_is_given_up(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full pipe stands for it: a write to it blocks, and nothing ends it but its reader."""
    orders = shop.orders(100)
    manifest = shop.manifest()
    caplog.set_level(logging.INFO, remarks.name)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writing, bytes(4096 - len("\ufeff,\r\n".encode() + ",".join(REPORT_COLUMNS).encode())))
    monkeypatch.setattr("batchupload.report._private", lambda path, flags: writing)
    monkeypatch.setattr("batchupload.report.WRITE_SECONDS", 0.5)
    try:
        async with Sandbox(SandboxOptions(latency=0.2)) as server:
            began = time.monotonic()
            summary = await execute_only(manifest, server)
            assert time.monotonic() - began < 20
            assert (summary.exit_code, summary.stopped) == (5, Reason.REPORT_LOST)
            told = re.findall(r"not in the report: line \d+, (\w+): uploaded", caplog.text)
            assert set(told) == set(server.accepted)
            assert 0 < len(server.accepted) < len(orders)
    finally:
        os.close(reading)
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)  # the closing
    assert "report.csv: the report can't be written any more (the disk does not answer)" in caplog.text


async def test_the_report_of_a_run_that_lost_its_ledger_is_moved_aside_by_the_next(shop: Shop) -> None:
    orders = shop.orders(100)
    shop.manifest()
    words = ("run", "orders.csv", "--report", "out/report.csv", "--endpoint")
    async with Sandbox(SandboxOptions(latency=0.05)) as server:
        async with running(shop, server) as process:
            replace(shop.folder / "batchupload.db")
            await process.communicate()
        first = (shop.folder / "out/report.csv").read_bytes()
        (shop.folder / "out/report.incomplete-1.csv").write_text("mine")
        done = await asyncio.to_thread(batchupload, *words, server.url, cwd=shop.folder)
    assert done.returncode == 0, done.stderr
    assert "its report is incomplete, and is now out/report.incomplete-2.csv" in " ".join(done.stdout.split())
    assert (shop.folder / "out/report.incomplete-1.csv").read_text() == "mine"
    assert (shop.folder / "out/report.incomplete-2.csv").read_bytes() == first
    assert sorted(outcomes(read_report(shop.folder / "out/report.csv"))) == orders


@pytest.mark.parametrize("how", REMOVALS)
@pytest.mark.parametrize("name", ["batchupload.db", "batchupload.db-wal", "batchupload.db.lock"])
async def test_a_ledger_pulled_away_in_mid_run_stops_it(shop: Shop, how: str, name: str) -> None:
    orders = shop.orders(200)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.05)) as server, running(shop, server) as process:
        REMOVALS[how](shop.folder / name)
        _, err = await process.communicate()
    assert process.returncode == 5
    assert name.encode() in err
    assert b"Sending stops" in err
    found = outcomes(read_report(shop.folder / "out/report.csv"))
    assert sorted(found) == orders
    assert {order for order, ending in found.items() if ending == UPLOADED} == set(server.accepted)
    assert len(server.accepted) < 200


async def test_a_ledger_whose_disk_does_not_answer_a_question_is_given_up(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = shop.orders(5)
    manifest = shop.manifest()
    answer = threading.Event()
    monkeypatch.setattr("batchupload.ledger.COMMIT_SECONDS", 0.5)
    monkeypatch.setattr("batchupload.ledger.Ledger._standings", lambda *_: answer.wait(60))
    try:
        async with Sandbox() as server:
            summary = await execute_only(manifest, server)
            assert server.stats()["requests"] == 0
    finally:
        answer.set()
    assert (summary.exit_code, summary.stopped) == (5, Reason.LEDGER_LOST)
    found = outcomes(read_report(summary.report))
    assert found == dict.fromkeys(orders, ("deferred", "ledger_lost"))


WITHOUT_FLOCK = """
import errno, fcntl
def flock(*_):
    raise OSError(errno.ENOSYS, "no such call")
fcntl.flock = flock
from batchupload.cli import main
main()
"""
"""The program on a file system that has no such locks."""


async def test_without_flock_one_run_holds_the_ledger_too_and_a_dead_one_does_not(shop: Shop) -> None:
    shop.orders(200)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.5)) as server:
        words = [sys.executable, "-W", "ignore", "-c", WITHOUT_FLOCK, "run", "orders.csv", "--endpoint", server.url]
        words += ["--concurrency", "1"]  # more than a minute of work: the first goes on for as long as it takes
        first = await asyncio.create_subprocess_exec(*words, cwd=shop.folder, env=environment())
        async with asyncio.timeout(60):
            while not server.accepted:
                await asyncio.sleep(0.01)
        second = await asyncio.create_subprocess_exec(
            *words, cwd=shop.folder, env=environment(), stderr=asyncio.subprocess.PIPE
        )
        _, err = await second.communicate()
        assert second.returncode == 4, err
        assert b"another run holds this ledger" in err
        first.kill()
        await first.wait()
        third = await asyncio.create_subprocess_exec(*words, "--limit", "3", cwd=shop.folder, env=environment())
        assert await asyncio.wait_for(third.wait(), 60) == 0


async def test_two_runs_on_one_ledger_meet_by_whatever_link(shop: Shop) -> None:
    shop.orders(200)
    shop.manifest()
    (shop.folder / "link.db").symlink_to("batchupload.db")
    async with Sandbox(SandboxOptions(latency=0.5)) as server:
        words = ("run", "orders.csv", "--endpoint", server.url)
        async with running(shop, server) as process:
            env = {"BATCHUPLOAD_LEDGER_PATH": "link.db"}
            second = await asyncio.to_thread(batchupload, *words, cwd=shop.folder, env=env)
            shown = await asyncio.to_thread(batchupload, "history", "--json", cwd=shop.folder, env=env)
            process.send_signal(signal.SIGTERM)
            await process.communicate()
        assert second.returncode == 4, second.stderr
        assert f"process {process.pid}, begun 20" in second.stderr
        assert json.loads(shown.stdout)[0]["state"] == "under way"
    assert not (shop.folder / "link.db.lock").exists()


async def test_a_dead_run_is_not_under_way_where_its_number_is_anothers(shop: Shop) -> None:
    shop.orders(200)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.1)) as server, running(shop, server) as process:
        process.kill()
        await process.wait()
    with closing(sqlite3.connect(shop.folder / "batchupload.db")) as ledger, ledger:
        ledger.execute("UPDATE runs SET pid = ?", (os.getpid(),))
    [run] = json.loads(batchupload("history", "--json", cwd=shop.folder).stdout)
    assert run["state"] == "died"


async def test_who_holds_the_ledger_is_not_taken_from_a_dead_run(shop: Shop) -> None:
    """A run that holds it but is not on record yet, as one that checks a large ledger."""
    shop.orders(200)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.1)) as server:
        async with running(shop, server) as process:
            process.kill()
            await process.wait()
        with open(shop.folder / "batchupload.db.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write("process 4711, begun 2026-11-24 01:30:00")
            lock.flush()
            done = await asyncio.to_thread(batchupload, "run", "orders.csv", "--endpoint", server.url, cwd=shop.folder)
    assert done.returncode == 4
    assert "process 4711, begun 2026-11-24 01:30:00" in done.stderr
    assert f"{process.pid}" not in done.stderr
