"""Real signals to the real program: it drains, or it stops at once, and the report is complete either way."""

import asyncio
import signal
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from conftest import Report, Shop, batchupload, command, environment, outcomes, read_report, under_way

from batchupload.sandbox import Sandbox, SandboxOptions, parse_fault


def running(
    manifest: Path, server: Sandbox, requests: int, *options: str
) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """The program under way, with at least so many `requests` at the sandbox."""
    report = manifest.parent / "report.csv"
    return under_way(
        command("run", manifest, "--endpoint", server.url, "--report", report, *options),
        manifest.parent,
        environment({"BATCHUPLOAD_TIMEOUTS_DRAIN": "2"}),
        lambda: int(str(server.stats(orders=False)["requests"])) >= requests,
    )


def report_of(manifest: Path) -> Report:
    return read_report(manifest.parent / "report.csv")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_one_signal_lets_the_orders_under_way_end(shop: Shop, number: int, code: int) -> None:
    orders = shop.orders(300)
    manifest = shop.manifest()
    async with (
        Sandbox(SandboxOptions(latency=0.3)) as server,
        running(manifest, server, 12, "--concurrency", "4") as process,
    ):
        process.send_signal(number)
        out, err = await process.communicate()
        assert process.returncode == code
        report = report_of(manifest)
        assert sorted(row["order_id"] for row in report) == orders
        uploaded = {row["order_id"] for row in report if row["outcome"] == "uploaded"}
        assert uploaded == set(server.accepted)
        rest = {ending for order, ending in outcomes(report).items() if order not in uploaded}
        assert rest == {("deferred", "stopped")}
        assert b"Once more stops at once" in err
        assert b"--only failed,unknown,deferred" in out


async def test_the_drain_time_has_an_end(shop: Shop) -> None:
    orders = shop.orders(20)
    manifest = shop.manifest()
    faults = (parse_fault("no_answer=100%"),)
    async with Sandbox(SandboxOptions(faults)) as server, running(manifest, server, 4, "--concurrency", "4") as process:
        before = time.monotonic()
        process.send_signal(signal.SIGTERM)
        await process.communicate()
        assert 1.5 < time.monotonic() - before < 10
        assert process.returncode == 143
    report = report_of(manifest)
    assert sorted(row["order_id"] for row in report) == orders
    endings = list(outcomes(report).values())
    assert endings.count(("unknown", "stopped")) == 4
    assert endings.count(("deferred", "stopped")) == 16


async def stopped_twice(process: asyncio.subprocess.Process, number: signal.Signals) -> bytes:
    """Its output, once it has been asked twice; the second time it has two seconds."""
    process.send_signal(number)
    assert process.stderr
    async with asyncio.timeout(20):
        while b"Stopping" not in await process.stderr.readline():
            pass
    before = time.monotonic()
    process.send_signal(number)
    out, _ = await process.communicate()
    assert time.monotonic() - before < 2
    return out


async def test_a_second_signal_stops_at_once_and_says_what_is_not_known(shop: Shop) -> None:
    orders = shop.orders(20)
    manifest = shop.manifest()
    faults = (parse_fault("no_answer=100%"),)
    async with Sandbox(SandboxOptions(faults)) as server, running(manifest, server, 4, "--concurrency", "4") as process:
        await stopped_twice(process, signal.SIGINT)
        assert process.returncode == 130
    report = report_of(manifest)
    assert sorted(row["order_id"] for row in report) == orders
    endings = list(outcomes(report).values())
    assert endings.count(("unknown", "stopped")) == 4
    assert endings.count(("deferred", "stopped")) == 16


async def test_a_second_signal_does_not_wait_for_the_rest_of_a_long_report(shop: Shop) -> None:
    shop.order("HT000000")
    shop.rows += [[f"HT{number:06}", *shop.rows[1][1:]] for number in range(1, 60_000)]
    manifest = shop.manifest()
    faults = (parse_fault("no_answer=100%"),)
    async with Sandbox(SandboxOptions(faults)) as server, running(manifest, server, 4, "--concurrency", "4") as process:
        out = await stopped_twice(process, signal.SIGTERM)
        assert process.returncode == 143
    report = report_of(manifest)
    assert len({row["line"] for row in report}) == len(report)
    missing = 60_000 - len(report)
    assert not missing or f"{missing:,} rows are not in this report".encode() in out


async def test_an_upload_broken_off_half_way_is_not_called_unknown(shop: Shop) -> None:
    shop.order(
        "HT000001", {name: b"\xff\xd8\xff" + name.encode() + bytes(1_500_000) for name in ("face", "back", "hand")}
    )
    manifest = shop.manifest()
    faults = (parse_fault("stall_reading=100%"),)
    async with Sandbox(SandboxOptions(faults)) as server, running(manifest, server, 1, "--validate", "off") as process:
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    assert outcomes(report_of(manifest)) == {"HT000001": ("deferred", "stopped")}


async def test_after_a_kill_the_report_is_readable_and_claims_only_what_was_accepted(shop: Shop) -> None:
    shop.orders(300)
    manifest = shop.manifest()
    async with (
        Sandbox(SandboxOptions(latency=0.02)) as server,
        running(manifest, server, 100, "--concurrency", "4") as process,
    ):
        process.kill()
        await process.wait()
        report = report_of(manifest)
        assert {row["order_id"] for row in report if row["outcome"] == "uploaded"} <= set(server.accepted)
        assert len(report) >= len(server.accepted) - 4
    assert all(row["outcome"] == "uploaded" and row["hand"].endswith("hand.jpg") for row in report)


async def test_what_a_second_signal_breaks_off_is_on_record_and_stays_in_doubt(shop: Shop) -> None:
    orders = shop.orders(100)
    manifest = shop.manifest()
    faults = (parse_fault("no_answer=100%"),)
    async with Sandbox(SandboxOptions(faults)) as server, running(manifest, server, 4, "--concurrency", "4") as process:
        await stopped_twice(process, signal.SIGTERM)
        assert process.returncode == 143
        url = server.url
    endings = outcomes(report_of(manifest))
    assert sorted(endings) == orders
    broken_off = {order for order, ending in endings.items() if ending == ("unknown", "stopped")}
    assert len(broken_off) == 4
    shop.rows[1:] = sorted(shop.rows[1:], key=lambda row: row[0] not in broken_off)
    shop.manifest()
    port = int(url.split(":")[2].split("/")[0])
    # Nobody takes the next sends: then only the record can tell these orders from the others.
    async with Sandbox(SandboxOptions((parse_fault("http_503=100%"),)), port=port):
        again = await asyncio.to_thread(
            batchupload, "run", manifest, "--endpoint", url, "--report", "again.csv", "--limit", "8",
            cwd=shop.folder, env={"BATCHUPLOAD_RETRY_ATTEMPTS": "1"},
        )  # fmt: skip
    assert again.returncode == 1, again.stderr
    found = outcomes(read_report(shop.folder / "again.csv"))
    assert broken_off < set(found)
    assert found == {order: ("unknown" if order in broken_off else "failed", "unavailable") for order in found}


ENDING_SIGNALS = ["SIGQUIT", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGVTALRM", "SIGPROF", "SIGRTMIN", "SIGRTMAX"]


@pytest.mark.parametrize("name", [*ENDING_SIGNALS, "SIGIO", "SIGPWR", "SIGSTKFLT"])
async def test_each_signal_that_would_end_the_program_drains_it(shop: Shop, name: str) -> None:
    if not (number := getattr(signal, name, None)):
        pytest.skip(f"there is no {name} here")
    orders = shop.orders(60)
    manifest = shop.manifest()
    async with (
        Sandbox(SandboxOptions(latency=0.2)) as server,
        running(manifest, server, 6, "--concurrency", "4") as process,
    ):
        process.send_signal(number)
        _, err = await process.communicate()
        assert process.returncode == 128 + number, err
        report = report_of(manifest)
        assert sorted(row["order_id"] for row in report) == orders
        uploaded = {row["order_id"] for row in report if row["outcome"] == "uploaded"}
        assert uploaded == set(server.accepted)


@pytest.mark.parametrize("name", ["SIGWINCH", "SIGCHLD", "SIGURG", "SIGCONT", "SIGPIPE"])
async def test_other_signals_do_not_end_a_run(shop: Shop, name: str) -> None:
    orders = shop.orders(12)
    manifest = shop.manifest()
    async with (
        Sandbox(SandboxOptions(latency=0.1)) as server,
        running(manifest, server, 2, "--concurrency", "2") as process,
    ):
        process.send_signal(getattr(signal, name))
        _, err = await process.communicate()
        assert process.returncode == 0, err
    assert outcomes(report_of(manifest)) == dict.fromkeys(orders, ("uploaded", "accepted"))


async def test_another_second_signal_stops_at_once(shop: Shop) -> None:
    shop.orders(20)
    manifest = shop.manifest()
    faults = (parse_fault("no_answer=100%"),)
    async with Sandbox(SandboxOptions(faults)) as server, running(manifest, server, 4, "--concurrency", "4") as process:
        await stopped_twice(process, signal.SIGUSR1)
        assert process.returncode == 128 + signal.SIGUSR1
    assert list(outcomes(report_of(manifest)).values()).count(("unknown", "stopped")) == 4
