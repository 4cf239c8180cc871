"""Worker processes of this machine: what one is killed over is sent again by another, and none outlives its run."""

import asyncio
import os
import signal
from pathlib import Path

from conftest import Shop, batchupload, command, environment, outcomes, read_report, under_way

from batchupload.sandbox import Sandbox, SandboxOptions

TWO = {"BATCHUPLOAD_PACE_PROCESSES": "2"}


def children(pid: int) -> list[int]:
    """The worker processes of a run."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def requests(server: Sandbox) -> int:
    return int(str(server.stats(orders=False)["requests"]))


async def test_two_processes_do_what_one_does(shop: Shop) -> None:
    good = shop.orders(30)
    shop.order("HT900009", {"face": b"no photo"})
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.01)) as server:
        words = ("run", "orders.csv", "--endpoint", server.url, "--report")
        first = await asyncio.to_thread(batchupload, *words, "one.csv", cwd=shop.folder, env=TWO)
        again = await asyncio.to_thread(batchupload, *words, "two.csv", cwd=shop.folder, env=TWO)
    assert (first.returncode, again.returncode) == (1, 1), first.stderr
    assert set(server.accepted) == set(good)
    ended = outcomes(read_report(shop.folder / "one.csv"))
    assert ended == {**dict.fromkeys(good, ("uploaded", "accepted")), "HT900009": ("invalid", "photo_wrong_type")}
    assert outcomes(read_report(shop.folder / "two.csv"))[good[0]] == ("skipped", "already_uploaded")


async def test_what_a_killed_process_had_is_done_by_the_other(shop: Shop) -> None:
    orders = shop.orders(200)
    manifest = shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.05)) as server:
        words = command("run", manifest, "--endpoint", server.url, "--report", "report.csv", "--concurrency", "8")
        async with under_way(words, shop.folder, environment(TWO), lambda: requests(server) >= 40) as process:
            os.kill(children(process.pid)[0], signal.SIGKILL)
            _, err = await process.communicate()
        assert process.returncode == 0, err
    report = read_report(shop.folder / "report.csv")
    assert sorted(row["order_id"] for row in report) == orders
    assert {row["outcome"] for row in report} == {"uploaded"}
    assert requests(server) - len(orders) <= 8


async def test_a_process_that_says_nothing_is_given_up(shop: Shop) -> None:
    orders = shop.orders(100)
    manifest = shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.05)) as server:
        words = command("run", manifest, "--endpoint", server.url, "--report", "report.csv", "--concurrency", "4")
        async with under_way(words, shop.folder, environment(TWO), lambda: requests(server) >= 20) as process:
            os.kill(children(process.pid)[0], signal.SIGSTOP)
            _, err = await process.communicate()
        assert process.returncode == 0, err
    assert sorted(row["order_id"] for row in read_report(shop.folder / "report.csv")) == orders
    assert requests(server) - len(orders) <= 4


async def test_without_any_process_the_rest_is_left(shop: Shop) -> None:
    orders = shop.orders(200)
    manifest = shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.05)) as server:
        words = command("run", manifest, "--endpoint", server.url, "--report", "report.csv", "--concurrency", "4")
        async with under_way(words, shop.folder, environment(TWO), lambda: requests(server) >= 20) as process:
            for child in children(process.pid):
                os.kill(child, signal.SIGKILL)
            _, err = await process.communicate()
        assert process.returncode == 3, err
    report = read_report(shop.folder / "report.csv")
    assert sorted(row["order_id"] for row in report) == orders
    assert {row["order_id"] for row in report if row["outcome"] == "uploaded"} <= set(server.accepted)
    left = {(row["outcome"], row["reason"]) for row in report if row["outcome"] != "uploaded"}
    assert ("deferred", "workers_lost") in left
    assert {outcome for outcome, _ in left} <= {"deferred", "unknown"}


async def test_no_process_outlives_its_run(shop: Shop) -> None:
    shop.orders(300)
    manifest = shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.2)) as server:
        words = command("run", manifest, "--endpoint", server.url, "--concurrency", "4")
        for number, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)):
            before = requests(server)
            reached = lambda before=before: requests(server) >= before + 8  # noqa: E731
            async with under_way(words, shop.folder, environment(TWO), reached) as process:
                workers = children(process.pid)
                assert len(workers) == 2
                process.send_signal(number)
                await process.communicate()
                assert process.returncode == code
            async with asyncio.timeout(30):
                while any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers):
                    await asyncio.sleep(0.05)
