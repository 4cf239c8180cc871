"""Signals beside a run: while manifests are read, and to commands that send nothing. Nothing half done is left."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Shop, batchupload, command, environment, outcomes, read_report, send, send_to_sandbox, settings_for

from batchupload.sandbox import Sandbox

ENDPOINT = {"BATCHUPLOAD_ENDPOINT_URL": "http://127.0.0.1:9/"}
LONG_AGO = "2026-01-02T03:04:05.678+00:00"
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1]
STRUCK = """
import importlib, os, sys
number, place, name, *words = sys.argv[1:]
holder = importlib.import_module(place)
call = getattr(holder, name)
def struck(*arguments, **options):
    os.kill(os.getpid(), int(number))
    return call(*arguments, **options)
setattr(holder, name, struck)
sys.argv[1:] = words
importlib.import_module("batchupload.cli").main()
"""


def struck(folder: Path, number: int, call: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """The program, which gets the signal just before this `call`, as MODULE:NAME."""
    return subprocess.run(
        [sys.executable, "-c", STRUCK, str(int(number)), *call.split(":"), *words],
        cwd=folder, env=environment(ENDPOINT), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def stopped(done: "subprocess.CompletedProcess[str]", number: signal.Signals) -> None:
    assert done.returncode == 128 + number, done.stderr
    assert "Traceback" not in done.stderr
    if number != signal.SIGINT:
        assert f"stopped by {number.name}" in done.stderr


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("verb", "number"), [*(("run", number) for number in SIGNALS), ("check", signal.SIGTERM)], ids=str
)
def test_while_manifests_are_read_any_signal_ends_it_and_leaves_nothing(
    shop: Shop, verb: str, number: signal.Signals
) -> None:
    shop.orders(3)
    shop.manifest()
    words = (verb, "orders.csv", "--report", "report.csv")
    done = struck(shop.folder, number, "batchupload.job:survey", *words)
    stopped(done, number)
    assert names(shop.folder) == {"orders.csv"}


async def test_a_signal_while_standard_input_is_waited_for_ends_it(shop: Shop) -> None:
    shop.orders(1)
    process = await asyncio.create_subprocess_exec(
        *command("check", "-"), cwd=shop.folder, env=environment(),
        stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin
    process.stdin.write(b"order_id,face,back,hand\n" + b"HT000001,a,b,c\n" * 100_000)
    await asyncio.wait_for(process.stdin.drain(), 60)  # it reads
    process.send_signal(signal.SIGTERM)
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 143, err
    assert b"Traceback" not in err


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("_remove_reports", signal.SIGINT),
        ("_purge_attempts", signal.SIGTERM),
        ("_purge_runs", signal.SIGINT),
        ("_compact", signal.SIGQUIT),
    ],
)
async def test_a_purge_that_is_stopped_loses_nothing_and_the_next_one_finishes_it(
    shop: Shop, step: str, number: signal.Signals
) -> None:
    orders = shop.orders(3)
    manifest = shop.manifest()
    async with Sandbox() as server:
        for name in ("old.csv", "new.csv"):
            await send(manifest, settings_for(server.url), report=shop.folder / name)
        with closing(sqlite3.connect(shop.folder / "batchupload.db")) as ledger, ledger:
            ledger.execute("UPDATE runs SET started_at = ?, ended_at = ? WHERE id = 1", [LONG_AGO] * 2)
        words = ("purge", "--older-than", "90d", "--yes")
        stopped(struck(shop.folder, number, f"batchupload.purge:{step}", *words), number)
        again = batchupload(*words, cwd=shop.folder)
        assert again.returncode == 0, again.stderr
        await send(manifest, settings_for(server.url), report=shop.folder / "later.csv")
        assert all(len(server.accepted[order]) == 1 for order in orders)
    assert names(shop.folder) & {"old.csv", "new.csv"} == {"new.csv"}
    assert set(outcomes(read_report(shop.folder / "later.csv")).values()) == {("skipped", "already_uploaded")}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_page_that_is_stopped_leaves_no_part_of_it(shop: Shop, number: signal.Signals) -> None:
    shop.orders(3)
    summary, _, _ = await send_to_sandbox(shop.manifest())
    folder = summary.report.parent
    before = names(folder)
    stopped(struck(folder, number, "batchupload.page.make:_put_in_place", "page", summary.report.name), number)
    assert names(folder) == before
