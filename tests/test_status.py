"""`batchupload status`: what a second terminal tells of a run that is on, of one that died, and where there is none."""

import asyncio
import json
import os
import signal
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from conftest import Shop, batchupload, command, environment, under_way

from batchupload.ledger_file import hold
from batchupload.sandbox import Sandbox, SandboxOptions


@asynccontextmanager
async def running(shop: Shop, *options: str, orders: int = 300) -> AsyncIterator[asyncio.subprocess.Process]:
    """A run of half a minute, three rows of which are on record."""
    shop.orders(orders)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.2)) as server:
        words = command(
            "run",
            "orders.csv",
            "--concurrency",
            "2",
            "--canary",
            "0",
            "--endpoint",
            server.url,
            "--report",
            "r.csv",
            *options,
        )

        def reached() -> bool:
            report = shop.folder / "r.csv"
            return report.exists() and report.read_bytes().count(b"\n") > 3

        async with under_way(words, shop.folder, environment(), reached) as process:
            yield process


async def status(shop: Shop, *options: str) -> "tuple[int, str]":
    done = await asyncio.to_thread(batchupload, "status", *options, cwd=shop.folder)
    assert not done.stderr
    return done.returncode, done.stdout


async def until_rows(shop: Shop) -> dict[str, object]:
    """The status once it tells of rows: it is written once a second."""
    async with asyncio.timeout(60):
        while True:
            code, said = await status(shop, "--json")
            found = json.loads(said)
            if code == 0 and found["now"] and found["now"]["rows"]:
                assert isinstance(found, dict)
                return found


async def test_a_second_terminal_sees_how_far_the_run_is(shop: Shop) -> None:
    async with running(shop) as process:
        found = await until_rows(shop)
        code, text = await status(shop)
        status_file = shop.folder / "batchupload.db-status"
        assert stat.S_IMODE(status_file.stat().st_mode) == 0o600
        written = status_file.read_text()
        process.send_signal(signal.SIGINT)
        await process.wait()
    assert (found["on"], found["state"], found["run"], found["pid"]) == (True, "going", 1, process.pid)
    now = found["now"]
    assert isinstance(now, dict)
    assert (now["total"], now["at_once"], now["note"]) == (300, 2, "2 at once (as set)")
    assert now["rows"] == sum(now["outcomes"].values())
    assert code == 0
    assert text.startswith("Run 1 is on since ")
    for told in ("orders.csv", "r.csv", f"process {process.pid} on ", " of 300 (", " uploaded, 0 failed", "2 at once"):
        assert told in text
    assert "HT0" not in written
    assert ".jpg" not in written
    assert not status_file.exists()
    code, text = await status(shop)
    assert code == 1
    assert text.startswith("No run is on. The last, run 1, ended ")
    assert "with exit 130: " in text


async def test_a_run_that_was_killed_is_told_with_how_far_it_came(shop: Shop) -> None:
    async with running(shop) as process:
        await until_rows(shop)
        process.kill()
        await process.wait()
    code, text = await status(shop)
    assert code == 1
    assert "No run is on. Run 1, begun " in text
    assert " of 300 rows done. Run again: the same command finishes what is missing." in text
    assert json.loads((await status(shop, "--json"))[1])["state"] == "died"
    with hold(shop.folder / "batchupload.db") as (_, database):  # as a purge does
        code, text = await status(shop)
        database.close()
    assert code == 1
    assert f"The ledger is held by process {os.getpid()}, begun " in text


async def test_watching_goes_on_until_the_run_ends(shop: Shop) -> None:
    async with running(shop) as process:
        watching = await asyncio.create_subprocess_exec(
            *command("status", "--watch", "--json"), cwd=shop.folder, env=environment(), stdout=asyncio.subprocess.PIPE
        )
        assert watching.stdout
        first = json.loads(await asyncio.wait_for(watching.stdout.readline(), 60))
        process.send_signal(signal.SIGINT)
        await process.wait()
        rest = [json.loads(line) for line in (await asyncio.wait_for(watching.communicate(), 60))[0].splitlines()]
    assert watching.returncode == 0
    assert (first["on"], first["state"]) == (True, "going")
    assert [look["on"] for look in rest] == [*[True] * (len(rest) - 1), False]
    assert rest[-1]["summary"]["exit_code"] == 130


async def test_a_status_that_can_not_be_written_disturbs_no_run(shop: Shop) -> None:
    (shop.folder / "x").mkdir(parents=True)
    (shop.folder / "batchupload.db-status.new").mkdir()  # in the way
    async with running(shop) as process:
        code, text = await status(shop)
        process.send_signal(signal.SIGINT)
        _, said = await process.communicate()
    assert code == 0
    assert "It has not told how far it is" in text
    assert process.returncode == 130
    assert b"status" not in said


def test_where_nothing_ran_yet_there_is_nothing_to_tell(shop: Shop) -> None:
    shop.folder.mkdir()
    done = batchupload("status", cwd=shop.folder)
    told = "No run is on, and by this ledger none was yet: --config or --ledger names another one.\n"
    assert (done.returncode, done.stdout) == (1, told)
    assert json.loads(batchupload("status", "--json", cwd=shop.folder).stdout)["state"] is None


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"run": 1}', b"\xff", b'{"run": {"manifests": []}, "now": {}}'])
def test_a_damaged_status_is_none(shop: Shop, damage: bytes) -> None:
    shop.folder.mkdir()
    with hold(shop.folder / "batchupload.db") as (_, database):
        database.execute(
            "INSERT INTO runs VALUES (1, '2026-11-24T22:15:01+08:00', NULL, 1, '', '', '[]', 'r.csv', NULL)"
        )
        database.close()
    (shop.folder / "batchupload.db-status").write_bytes(damage)
    done = batchupload("status", cwd=shop.folder)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].endswith(" died. Run again: the same command finishes what is missing.")


@pytest.mark.parametrize(
    ("limit", "setting"), [(("--rate", "2"), "pace.rate"), (("--bandwidth", "4K"), "pace.bandwidth")]
)
async def test_a_limit_of_your_own_is_told_as_what_holds_the_run_back(
    shop: Shop, limit: tuple[str, str], setting: str
) -> None:
    async with running(shop, *limit) as process, asyncio.timeout(60):
        while f"2 at once (as {setting} allows), at most " not in (await status(shop, "--json"))[1]:
            await asyncio.sleep(0.1)
        process.send_signal(signal.SIGINT)
        await process.wait()
