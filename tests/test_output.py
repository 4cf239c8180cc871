"""Trouble with the screen, the log or the pipe behind it never ends a run, nor hides what it came to."""

import asyncio
import fcntl
import os
import signal
import subprocess
from collections.abc import Sequence

import pytest
from conftest import Shop, batchupload, command, environment, outcomes, read_report

from batchupload.sandbox import Sandbox, SandboxOptions, parse_fault
from batchupload.screen import LineDisplay, watch
from batchupload.snapshot import Lookout, PaceNow
from batchupload.stderr import Unhurried
from batchupload.summary import Tally

UPLOADED = ("uploaded", "accepted")


async def in_shell(shop: Shop, words: Sequence[str], tail: str) -> "subprocess.CompletedProcess[str]":
    """The program with its output led elsewhere; `$?` of it is printed last."""
    return await asyncio.to_thread(
        subprocess.run,
        ["bash", "-c", f'"$@" {tail}', "bash", *words],
        cwd=shop.folder, env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "tail",
    [
        ">/dev/full 2>/dev/full; echo $?",
        "2>&1 | head -1 >/dev/null; echo ${PIPESTATUS[0]}",
        ">&- 2>&- <&-; echo $?",
        "2>/dev/full --json | true; echo ${PIPESTATUS[0]}",
    ],
)
async def test_a_run_whose_output_can_not_be_written_goes_on_to_its_end(shop: Shop, tail: str) -> None:
    orders = shop.orders(40)
    manifest = shop.manifest()
    async with Sandbox(SandboxOptions((parse_fault("refused@HT000003"),))) as server:
        words = command("run", manifest, "--endpoint", server.url, "--report", "report.csv", "-v")
        done = await in_shell(shop, words, tail)
    assert done.stdout.split()[-1] == "1"
    found = outcomes(read_report(shop.folder / "report.csv"))
    assert sorted(found) == orders
    assert list(found.values()).count(UPLOADED) == 39
    assert (shop.folder / "batchupload.db").read_bytes().startswith(b"SQLite format 3")


async def test_a_summary_that_can_not_be_printed_is_said_so_without_a_traceback(shop: Shop) -> None:
    shop.orders(2)
    async with Sandbox() as server:
        words = command("run", shop.manifest(), "--endpoint", server.url, "--report", "report.csv")
        done = await in_shell(shop, words, ">/dev/full; echo $?")
    assert done.stdout.split() == ["0"]
    assert done.stderr.splitlines()[1:] == [
        "batchupload: the summary can't be printed (No space left on device). Report: report.csv"
    ]


def test_what_a_screen_can_not_show_is_shown_otherwise(shop: Shop) -> None:
    shop.orders(1)
    shop.manifest("订单.csv")
    done = batchupload("check", "订单.csv", cwd=shop.folder, env={"PYTHONIOENCODING": "latin-1"})
    assert done.returncode == 0, done.stderr
    assert "Report: \\u8ba2" in done.stdout


@pytest.mark.parametrize("words", [("history",), ("show", "1")])
async def test_what_was_asked_for_and_can_not_be_printed_is_an_error(shop: Shop, words: tuple[str, ...]) -> None:
    shop.orders(1)
    async with Sandbox() as server:
        await in_shell(shop, command("run", shop.manifest(), "--endpoint", server.url), "")
    done = await in_shell(shop, command(*words), ">/dev/full; echo $? >&2")
    assert done.stderr == "batchupload: standard output can't be written (No space left on device).\n1\n"


async def test_a_display_that_can_not_be_written_is_dropped() -> None:
    with open("/dev/full", "w") as full:
        display = LineDisplay(full)
        display.interval = 0.01
        look = Lookout(Tally(), 5, PaceNow, asyncio.get_running_loop().time, sends=True).look
        await asyncio.wait_for(watch(display, look), 20)
        with pytest.raises(OSError, match="No space"):
            full.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


@pytest.mark.parametrize("hangup", [False, True])
async def test_a_signal_is_answered_also_where_that_can_not_be_said(shop: Shop, hangup: bool) -> None:
    orders = shop.orders(200)
    manifest = shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.2)) as server:
        with open("/dev/full", "w") as full:
            process = await asyncio.create_subprocess_exec(
                *command("run", manifest, "--endpoint", server.url, "--report", "report.csv", "--concurrency", "2"),
                cwd=shop.folder, env=environment(), stdout=full, stderr=full,
            )  # fmt: skip
        await requests(server, 4)
        process.send_signal(signal.SIGHUP if hangup else signal.SIGTERM)
        process.send_signal(signal.SIGHUP)  # as systemd does, in either order, and a terminal that is closed
        assert await asyncio.wait_for(process.wait(), 60) == (129 if hangup else 143)
    found = outcomes(read_report(shop.folder / "report.csv"))
    assert sorted(found) == orders
    assert {order for order, ending in found.items() if ending == UPLOADED} == set(server.accepted)


async def test_a_run_under_nohup_outlives_its_terminal(shop: Shop) -> None:
    orders = shop.orders(12)
    manifest = shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.2)) as server:
        process = await asyncio.create_subprocess_exec(
            "nohup", *command("run", manifest, "--endpoint", server.url, "--report", "report.csv"),
            cwd=shop.folder, env=environment(), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await requests(server, 2)
        process.send_signal(signal.SIGHUP)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    assert outcomes(read_report(shop.folder / "report.csv")) == dict.fromkeys(orders, UPLOADED)


async def test_a_terminal_that_is_gone_ends_no_run_by_itself(shop: Shop) -> None:
    """As where the connection to a machine breaks and the session lives on: writes fail, no signal comes."""
    orders = shop.orders(20)
    manifest = shop.manifest()
    master, slave = os.openpty()
    async with Sandbox(SandboxOptions(latency=0.2)) as server:
        words = command("run", manifest, "--endpoint", server.url, "--report", "report.csv", "--concurrency", "2")
        process = await asyncio.create_subprocess_exec(
            *words, cwd=shop.folder, env=environment({"TERM": "xterm"}), stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        await requests(server, 4)
        os.close(master)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    assert outcomes(read_report(shop.folder / "report.csv")) == dict.fromkeys(orders, UPLOADED)


@pytest.mark.parametrize("number", [None, signal.SIGTERM])
async def test_a_reader_that_stalls_holds_up_neither_the_run_nor_its_answer_to_a_signal(
    shop: Shop, number: signal.Signals | None
) -> None:
    orders = shop.orders(60)
    manifest = shop.manifest()
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writing, b"\n" * 4096)  # as a pager that is paused has it
    async with Sandbox(SandboxOptions(latency=0.2 if number else 0.0)) as server:
        words = command("run", manifest, "--endpoint", server.url, "--report", "report.csv", "--concurrency", "2", "-v")
        process = await asyncio.create_subprocess_exec(
            *words, cwd=shop.folder, env=environment(), stdout=asyncio.subprocess.PIPE, stderr=writing
        )
        os.close(writing)
        try:
            await requests(server, 4)
            if number:
                process.send_signal(number)
            out, _ = await asyncio.wait_for(process.communicate(), 60)
        finally:
            os.close(reading)
    assert process.returncode == (143 if number else 0)
    assert b"Report: report.csv" in out
    assert sorted(outcomes(read_report(shop.folder / "report.csv"))) == orders


async def test_all_is_said_to_a_slow_reader_and_in_its_order(shop: Shop) -> None:
    orders = shop.orders(200)
    manifest = shop.manifest()
    async with Sandbox() as server:
        words = command("run", manifest, "--endpoint", server.url, "--report", "report.csv", "-v")
        done = await in_shell(shop, words, "2>&1 | (sleep 0.5; while read -r line; do echo $line; done)")
    lines = [line for line in done.stdout.splitlines() if line]
    assert sorted(line.split(", ")[1][:8] for line in lines if ": uploaded" in line) == orders
    assert next(at for at, line in enumerate(lines) if line.startswith("Finished")) > len(orders)
    assert lines[-2:] == ["Report: report.csv", "Page: report.html"]


def test_what_a_stalled_reader_missed_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchupload.stderr.MOST_WAITING", 100)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writing, b"\n" * 4096)
    stream = Unhurried(writing)
    for number in range(30):
        stream.write(b"line %d\n" % number)
    os.read(reading, 4096)
    stream.settle()
    stream.write(b"the last\n")
    stream.settle()
    assert os.read(reading, 4096).decode().split("\n")[-4:] == [
        "line 12",
        "… 17 lines are missing here: nobody read them in time",
        "the last",
        "",
    ]
    for descriptor in (reading, writing):
        os.close(descriptor)


async def requests(server: Sandbox, count: int) -> None:
    """Wait until so many have come."""
    async with asyncio.timeout(60):
        while int(str(server.stats(orders=False)["requests"])) < count:
            await asyncio.sleep(0.01)
