"""A disk, a folder or a decoder that never comes back: the others go on, and each row has its row in the report."""

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Report, Shop, outcomes, picture, read_report, send, send_to_sandbox, settings_for

from batchupload import photos, source
from batchupload.job import Wish, execute, plan
from batchupload.readers import MOST_DECODING
from batchupload.sandbox import Sandbox, SandboxOptions
from batchupload.settings import LedgerSettings, Settings
from batchupload.summary import Summary

PHOTO_SECONDS = 1.5


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """What hangs comes back once this is set, at the latest when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def two_shops(folder: Path, count: int) -> tuple[Shop, Shop]:
    first, second = Shop(folder / "first"), Shop(folder / "second")
    first.orders(count, "HA")
    second.orders(count, "HB")
    return first, second


async def send_all(
    shops: tuple[Shop, ...], settings: Settings, after_plan: Callable[[], object] = lambda: None
) -> tuple[Summary, Report]:
    """One run over the manifests of several shops; `after_plan` is called before it begins."""
    manifests = tuple(shop.manifest() for shop in shops)
    ledger = LedgerSettings(path=manifests[0].parents[1] / "batchupload.db")
    settings = settings.model_copy(update={"ledger": ledger})
    wish = Wish(manifests, quiet=True)
    planned = plan(wish, settings)
    after_plan()
    async with asyncio.timeout(60):
        summary = await execute(wish, settings, planned)
    return summary, read_report(summary.report)


def hang_below(monkeypatch: pytest.MonkeyPatch, folder: Path, released: threading.Event) -> None:
    """Have every opening of this folder hang."""
    original = os.open

    def opened(path: Any, *arguments: Any, **named: Any) -> int:
        if str(path).startswith(str(folder)):
            released.wait()
        return original(path, *arguments, **named)

    monkeypatch.setattr(os, "open", opened)


async def test_a_photo_folder_that_hangs_costs_those_of_another_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    bad, good = two_shops(tmp_path, 60)
    async with Sandbox() as server:
        settings = settings_for(server.url, timeouts={"photos": PHOTO_SECONDS}, report={"folder": tmp_path})
        summary, report = await send_all(
            (bad, good), settings, lambda: hang_below(monkeypatch, bad.folder, released))  # fmt: skip
    endings = outcomes(report)
    assert len(report) == 120
    assert {ending for order, ending in endings.items() if order.startswith("HB")} == {("uploaded", "accepted")}
    assert {ending for order, ending in endings.items() if order.startswith("HA")} == {
        ("deferred", "photo_read_timeout")
    }
    assert summary.exit_code == 1


def hang_reading(monkeypatch: pytest.MonkeyPatch, path: Path, released: threading.Event) -> None:
    """Have the reading of this manifest hang from now on."""
    original = source._same

    def same(of: source.Source) -> Iterator[bytes]:
        if of.path == path:
            released.wait()
        yield from original(of)

    monkeypatch.setattr(source, "_same", same)


async def test_a_manifest_that_hangs_has_a_row_for_each_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    bad, good = two_shops(tmp_path, 100)
    async with Sandbox() as server:
        settings = settings_for(server.url, timeouts={"photos": PHOTO_SECONDS}, report={"folder": tmp_path})
        hang = lambda: hang_reading(monkeypatch, bad.folder / "orders.csv", released)  # noqa: E731
        summary, report = await send_all((bad, good), settings, hang)
    lines = {(row["manifest"], row["line"], row["order_id"]) for row in report}
    assert len(report) == len(lines) == 200
    assert (str(bad.folder / "orders.csv"), "2", "HA000000") in lines
    endings = outcomes(report)
    assert {ending for order, ending in endings.items() if order.startswith("HB")} == {("uploaded", "accepted")}
    assert {ending for order, ending in endings.items() if order.startswith("HA")} == {("deferred", "manifest_lost")}
    assert summary.exit_code == 1
    assert "could not be read on in time" in summary.as_text(200)
    assert str(bad.folder / "orders.csv") in summary.next_command
    assert server.accepted.keys() == {f"HB{number:06}" for number in range(100)}


async def test_a_manifest_that_stalls_is_waited_for_while_others_are_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    slow, good = two_shops(tmp_path, 30)
    async with Sandbox(SandboxOptions(latency=0.05)) as server:
        settings = settings_for(server.url, timeouts={"photos": 30.0}, report={"folder": tmp_path})
        hang = lambda: hang_reading(monkeypatch, slow.folder / "orders.csv", released)  # noqa: E731
        running = asyncio.ensure_future(send_all((slow, good), settings, hang))
        async with asyncio.timeout(30):
            while len(server.accepted) < 30:
                await asyncio.sleep(0.01)
        assert all(order.startswith("HB") for order in server.accepted)
        released.set()
        summary, report = await running
    assert summary.exit_code == 0
    assert len(report) == 60
    assert set(outcomes(report).values()) == {("uploaded", "accepted")}


def decoders_hang(monkeypatch: pytest.MonkeyPatch, contents: set[bytes], released: threading.Event) -> None:
    original = photos._decode

    def decode(content: bytes, *arguments: Any) -> Any:
        if content in contents:
            released.wait()
        return original(content, *arguments)

    monkeypatch.setattr(photos, "_decode", decode)


async def test_a_decoder_that_does_not_come_back_is_given_up_and_blames_no_other(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    orders = shop.orders(60)
    slow = {"HT000003", "HT000004"}
    decoders_hang(monkeypatch, {picture("hand", order) for order in slow}, released)
    summary, report, _ = await send_to_sandbox(shop.manifest(), timeouts={"photos": PHOTO_SECONDS})
    assert outcomes(report) == {
        order: ("deferred", "photo_decode_timeout") if order in slow else ("uploaded", "accepted") for order in orders
    }
    assert {row["detail"] for row in report if row["order_id"] in slow} == {"hand"}
    assert summary.stopped is None


async def test_decoders_that_hang_again_and_again_end_the_run(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    orders = shop.orders(40)
    decoders_hang(monkeypatch, {picture("face", order) for order in orders}, released)
    summary, report, _ = await send_to_sandbox(shop.manifest(), timeouts={"photos": 0.3})
    assert len(report) == 40
    assert {outcome for outcome, _ in outcomes(report).values()} == {"deferred"}
    reasons = [reason for _, reason in outcomes(report).values()]
    assert MOST_DECODING <= reasons.count("photo_decode_timeout") < 40
    assert (summary.stopped, summary.exit_code) == ("readers_lost", 3)


def test_the_program_ends_beside_a_thread_that_hangs() -> None:
    code = (
        "import asyncio, threading\n"
        "from batchupload.readers import Readers\n"
        "async def work():\n"
        "    with Readers(0.2) as readers:\n"
        "        try: await readers.do(threading.Event().wait)\n"
        "        except TimeoutError: print('given up')\n"
        "asyncio.run(work())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "given up\n"), done.stderr


async def has_accepted(server: Sandbox, orders: int) -> None:
    async with asyncio.timeout(30):
        while len(server.accepted) < orders:
            await asyncio.sleep(0.005)


def renamed(folder: Path) -> Callable[[], object]:
    folder.rename(folder.with_name("away"))
    return lambda: folder.with_name("away").rename(folder)


def unmounted(folder: Path) -> Callable[[], object]:
    """As where a share was mounted: the empty folder below it shows."""
    folder.rename(folder.with_name("away"))
    folder.mkdir()

    def bring_back() -> None:
        folder.rmdir()
        folder.with_name("away").rename(folder)

    return bring_back


@pytest.mark.parametrize("as_root", [True, False])
@pytest.mark.parametrize("go", [renamed, unmounted])
async def test_photos_that_vanish_in_mid_run_are_left_for_the_next_command(
    shop: Shop, go: Callable[[Path], Callable[[], object]], as_root: bool
) -> None:
    orders = shop.orders(150)
    folder = shop.folder / "photos"
    folder.mkdir()
    for order in orders:
        (shop.folder / order).rename(folder / order)
    if not as_root:
        shop.rows = [shop.rows[0], *([row[0], *(f"photos/{path}" for path in row[1:])] for row in shop.rows[1:])]
    changes: dict[str, Any] = {"pace": {"concurrency": 4}, "photos": {"root": folder} if as_root else {}}
    async with Sandbox(SandboxOptions(latency=0.02)) as server:
        settings = settings_for(server.url, **changes)
        running = asyncio.ensure_future(send(shop.manifest(), settings))
        await has_accepted(server, 5)
        bring_back = await asyncio.to_thread(go, folder)
        summary, report = await running
        bring_back()
        left = {order for order, ending in outcomes(report).items() if ending == ("deferred", "photo_folder_gone")}
        assert len(report) == 150
        assert len(left) > 50
        torn = [ending for order, ending in outcomes(report).items() if order not in left]
        assert set(torn) == {("uploaded", "accepted")}
        assert summary.exit_code == 1
        _, again = await send(summary.report, settings, only=frozenset({"deferred"}))
    assert outcomes(again) == dict.fromkeys(left, ("uploaded", "accepted"))


async def test_photos_that_were_never_there_are_the_rows_fault(shop: Shop) -> None:
    orders = shop.orders(30)
    for order in orders:
        shutil.rmtree(shop.folder / order)
    _, report, _ = await send_to_sandbox(shop.manifest())
    assert set(outcomes(report).values()) == {("invalid", "photo_missing")}


async def test_single_photos_that_are_missing_are_the_rows_fault(shop: Shop) -> None:
    orders = shop.orders(40)
    for order in orders[10:30]:
        (shop.folder / order / "back.jpg").unlink()
    _, report, _ = await send_to_sandbox(shop.manifest())
    endings = outcomes(report)
    assert {endings[order] for order in orders[10:30]} == {("invalid", "photo_missing")}
    assert {endings[order] for order in orders[:10] + orders[30:]} == {("uploaded", "accepted")}


@pytest.mark.parametrize("number", ["EIO", "ESTALE", "ENOTCONN", "ETIMEDOUT"])
async def test_a_disk_that_fails_is_not_the_photos_fault(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    orders = shop.orders(10)
    original = os.open

    def opened(path: Any, *arguments: Any, **named: Any) -> int:
        if path == "HT000004":
            raise OSError(getattr(errno, number), "the disk is dying")
        return original(path, *arguments, **named)

    monkeypatch.setattr(os, "open", opened)
    _, report, _ = await send_to_sandbox(shop.manifest())
    assert outcomes(report) == {
        order: ("deferred", "photo_disk_error") if order == "HT000004" else ("uploaded", "accepted") for order in orders
    }
