"""A run as its operator knows it: every row once in the report, and each said to be what it is."""

import asyncio
import csv
import hashlib
import os
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Report, Shop, batchupload, outcomes, picture, read_report, send, send_to_sandbox, settings_for
from xxhash import xxh3_128_digest

from batchupload.model import PHOTO_FIELDS
from batchupload.reasons import Reason
from batchupload.samples import write_corpus
from batchupload.sandbox import Sandbox, SandboxOptions, parse_fault
from batchupload.source import ManifestError


def check_photos(report: Report, server: Sandbox, folder: Path) -> None:
    """Every uploaded order's photos are at the sandbox, byte by byte."""
    for row in report:
        if row["outcome"] == "uploaded":
            kept = server.accepted[row["order_id"]][-1]
            for field in PHOTO_FIELDS:
                assert kept[field]["sha256"] == hashlib.sha256((folder / row[field]).read_bytes()).hexdigest()


async def test_good_orders_are_uploaded_byte_by_byte(shop: Shop) -> None:
    orders = shop.orders(20)
    summary, report, server = await send_to_sandbox(shop.manifest())
    assert outcomes(report) == dict.fromkeys(orders, ("uploaded", "accepted"))
    assert [int(row["line"]) for row in sorted(report, key=lambda row: int(row["line"]))] == list(range(2, 22))
    check_photos(report, server, shop.folder)
    assert summary.exit_code == 0


async def test_the_sample_corpus_ends_as_it_says(tmp_path: Path) -> None:
    manifest, samples = write_corpus(tmp_path, 60)
    summary, report, server = await send_to_sandbox(manifest)
    found = {int(row["line"]): (row["order_id"], row["outcome"], row["reason"]) for row in report}
    assert found == {sample.line: (sample.order_id, sample.outcome, sample.reason) for sample in samples}
    assert len(report) == len(samples)
    assert set(server.accepted) == {row["order_id"] for row in report if row["outcome"] == "uploaded"}
    check_photos(report, server, tmp_path)
    assert summary.exit_code == 1


async def test_own_columns_come_back_untouched(shop: Shop) -> None:
    shop.order("HT000001")
    shop.rows = [[*shop.rows[0], "客户", "note", "note"], [*shop.rows[1], "张三", " =1+1", "x"]]
    _, _, server = await send_to_sandbox(shop.manifest())
    with next(shop.folder.glob("*.report-*.csv")).open(encoding="utf-8-sig", newline="") as file:
        header, row = csv.reader(file)
    assert header[-3:] == ["客户", "note", "note"]
    assert row[-3:] == ["张三", "' =1+1", "x"]
    assert server.accepted


async def test_a_repeated_row_is_sent_once_and_a_conflicting_one_never(shop: Shop) -> None:
    shop.orders(2)
    shop.order("HT900001")
    shop.rows.append(shop.rows[1])
    shop.rows.append(["HT900001", *shop.rows[1][1:]])
    _, report, server = await send_to_sandbox(shop.manifest())
    assert {int(row["line"]): (row["outcome"], row["reason"]) for row in report} == {
        2: ("uploaded", "accepted"),
        3: ("uploaded", "accepted"),
        4: ("invalid", "conflicting_rows"),
        5: ("duplicate", "repeated_row"),
        6: ("invalid", "conflicting_rows"),
    }
    assert {order: len(taken) for order, taken in server.accepted.items()} == {"HT000000": 1, "HT000001": 1}


async def test_a_report_is_a_manifest_that_sends_just_what_did_not_get_through(shop: Shop) -> None:
    shop.orders(6)
    shop.rows[0].append("note")
    shop.rows = [shop.rows[0], *([*row, "'=1"] for row in shop.rows[1:])]
    faults = ("http_503@HT000001", "accepted_then_reset@HT000002", "refused@HT000003")
    first, report, _ = await send_to_sandbox(shop.manifest(), faults)
    assert Counter(row["outcome"] for row in report) == {"uploaded": 3, "failed": 1, "unknown": 1, "rejected": 1}
    async with Sandbox() as server:
        only = frozenset({"failed", "unknown", "deferred"})
        second, again = await send(first.report, settings_for(server.url), only=only)
    assert outcomes(again) == dict.fromkeys(["HT000001", "HT000002"], ("uploaded", "accepted"))
    assert {row["note"] for row in again} == {"''=1"}
    assert "outcome" not in list(again[0])[len(report[0]) :]
    assert second.exit_code == 0


async def test_only_without_a_report_is_refused(shop: Shop) -> None:
    shop.orders(1)
    with pytest.raises(ManifestError, match="--only needs an earlier report"):
        await send(shop.manifest(), settings_for("http://127.0.0.1:9/"), only=frozenset({"failed"}))


async def test_limit_takes_the_first_rows_and_says_what_is_left(shop: Shop) -> None:
    orders = shop.orders(5)
    async with Sandbox() as server:
        summary, report = await send(shop.manifest(), settings_for(server.url), limit=2)
    assert sorted(outcomes(report)) == orders[:2]
    assert summary.left_out == 3
    assert "3 rows beyond --limit" in summary.as_text(1000)


async def test_a_check_sends_nothing(shop: Shop) -> None:
    shop.orders(2)
    shop.order("HT900001", face="gone.jpg")
    async with Sandbox() as server:
        summary, report = await send(shop.manifest(), settings_for(server.url), send=False)
        assert server.stats()["requests"] == 0
    assert Counter((row["outcome"], row["reason"]) for row in report) == {
        ("deferred", "not_sent"): 2,
        ("invalid", "photo_missing"): 1,
    }
    assert summary.exit_code == 1
    assert "nothing was sent" in summary.as_text(1000)


async def test_two_manifests_make_one_report_that_can_be_sent_again(tmp_path: Path) -> None:
    from batchupload.job import Wish, execute, plan

    one, two = Shop(tmp_path / "one"), Shop(tmp_path / "two")
    one.order("HT000001")
    two.order("HT000002")
    two.order("HT000001")
    manifests = (one.manifest(), two.manifest())
    async with Sandbox(SandboxOptions((parse_fault("http_503@HT000002"),))) as server:
        settings = settings_for(server.url)
        wish = Wish(manifests, quiet=True)
        first = await execute(wish, settings, plan(wish, settings))
    assert first.tally.outcomes == {"invalid": 2, "failed": 1}
    root = first.again[first.again.index("--photos-root") + 1]
    async with Sandbox() as server:
        settings = settings_for(server.url, photos={"root": root})
        second, report = await send(first.report, settings, only=frozenset({"failed"}))
    assert outcomes(report) == {"HT000002": ("uploaded", "accepted")}
    assert second.exit_code == 0


async def test_a_photo_changed_between_attempts_is_not_sent(shop: Shop) -> None:
    shop.order("HT000001")
    options = SandboxOptions((parse_fault("retry_after_seconds@HT000001:1"),))
    manifest = shop.manifest()
    async with Sandbox(options) as server:
        running = asyncio.ensure_future(send(manifest, settings_for(server.url)))
        async with asyncio.timeout(20):
            while not server.stats()["faults"]:
                await asyncio.sleep(0.005)
        shop.order("HT000001", {"face": b"\xff\xd8\xff other"})
        _, report = await running
        assert not server.accepted
    assert outcomes(report) == {"HT000001": ("deferred", Reason.PHOTO_CHANGED)}


@pytest.mark.parametrize("row", ["HT777777,a,b,c\r\n", None])
async def test_a_manifest_that_grew_during_the_run_is_noticed(shop: Shop, row: str | None) -> None:
    orders = shop.orders(3)
    manifest = shop.manifest()
    again = manifest.read_text().splitlines()[-1] + "\r\n"
    async with Sandbox(SandboxOptions(latency=0.3)) as server:
        running = asyncio.ensure_future(send(manifest, settings_for(server.url)))
        async with asyncio.timeout(20):
            while not server.stats()["requests"]:
                await asyncio.sleep(0.005)
        with manifest.open("a") as file:
            file.write(row or again)
        summary, report = await running
    assert summary.exit_code == 1
    assert "was changed during the run" in summary.as_text(1000)
    assert sorted(row["order_id"] for row in report) == orders
    assert {row["outcome"] for row in report} == {"uploaded"}


async def test_the_same_manifest_named_twice_is_taken_once(shop: Shop) -> None:
    orders = shop.orders(12)
    manifest = shop.manifest()
    (shop.folder / "other.csv").symlink_to(manifest)
    words = ("run", "orders.csv", "./../shop/orders.csv", "other.csv")
    async with Sandbox() as server:
        done = await asyncio.to_thread(
            batchupload, *words, "--endpoint", server.url, "--report", "r.csv", cwd=shop.folder
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert server.stats()["requests"] == len(orders)
    assert "is the same file as orders.csv" in done.stderr
    assert sorted(row["order_id"] for row in read_report(shop.folder / "r.csv")) == orders


async def test_rows_appended_in_mid_run_are_for_another_run(shop: Shop) -> None:
    orders = shop.orders(600)
    manifest = shop.manifest()
    lines = manifest.read_text().splitlines(keepends=True)
    async with Sandbox(SandboxOptions(latency=0.02)) as server:
        running = asyncio.ensure_future(send(manifest, settings_for(server.url)))
        async with asyncio.timeout(20):
            while len(server.accepted) < 5:
                await asyncio.sleep(0.005)
        with manifest.open("a") as file:
            file.writelines([lines[1], lines[-1], lines[1].replace("HT000000", "HT999999")])
        summary, report = await running
    assert sorted(row["order_id"] for row in report) == orders
    assert set(outcomes(report).values()) == {("uploaded", "accepted")}
    assert summary.exit_code == 1
    assert "was changed during the run" in summary.as_text(1000)


def test_a_photo_folder_that_is_not_there_is_no_fault_of_the_rows(shop: Shop) -> None:
    shop.orders(3)
    shop.manifest()
    done = batchupload("check", "orders.csv", "--photos-root", "gone", cwd=shop.folder)
    assert done.returncode == 2
    assert "photos.root: gone is no folder" in done.stderr
    assert not list(shop.folder.glob("*report*"))


def test_a_manifest_whose_name_is_no_text_is_refused_before_anything(shop: Shop) -> None:
    shop.orders(2)
    name = os.fsdecode("订单.csv".encode("gbk"))
    shop.manifest().rename(shop.folder / name)
    done = batchupload("run", name, "--endpoint", "http://127.0.0.1:9/", cwd=shop.folder)
    assert done.returncode == 2, done.stderr
    assert "Rename the file" in done.stderr
    assert "Traceback" not in done.stderr


async def has_accepted(server: Sandbox, orders: int) -> None:
    """Wait until the sandbox has accepted so many."""
    async with asyncio.timeout(20):
        while len(server.accepted) < orders:
            await asyncio.sleep(0.005)


UNLINKED = {("invalid", "photo_missing"), ("deferred", "photo_folder_gone")}
"""If a photo that was sent is gone too, the disk may be losing them."""


def replaced(path: Path) -> None:
    """Another photo is moved to its place."""
    path.with_suffix(".new").write_bytes(picture("another", path.parent.name + path.stem))
    path.with_suffix(".new").rename(path)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


async def test_photos_that_change_in_mid_run_are_sent_as_they_were_validated_or_not_at_all(shop: Shop) -> None:
    orders = shop.orders(150)
    manifest = shop.manifest()
    contents = {(order, field): (shop.folder / order / f"{field}.jpg").read_bytes() for order in orders
                for field in PHOTO_FIELDS}  # fmt: skip
    ways: list[Callable[[Path], None]] = [replaced, cut, Path.unlink]
    changed: dict[str, Callable[[Path], None]] = {}
    async with Sandbox(SandboxOptions(latency=0.02)) as server:
        pace = {"concurrency": 4, "canary": 0}  # in the order of the list
        running = asyncio.ensure_future(send(manifest, settings_for(server.url, pace=pace)))
        await has_accepted(server, 5)
        for number, order in enumerate(reversed(orders)):  # from those not read yet to those that are being sent
            if not running.done():
                changed[order] = ways[number % 3]
                await asyncio.to_thread(changed[order], shop.folder / order / f"{PHOTO_FIELDS[number // 3 % 3]}.jpg")
                await asyncio.sleep(0)
        _, report = await running
    with closing(sqlite3.connect(shop.folder / "batchupload.db")) as ledger:
        digests = dict(ledger.execute("SELECT order_id, photos FROM attempts WHERE verdict = 'accepted'"))
    endings = outcomes(report)
    assert sorted(endings) == orders
    for order, (outcome, reason) in endings.items():
        if outcome != "uploaded":
            assert (outcome, reason) in {("invalid", "photo_truncated"), *UNLINKED}
            assert order not in server.accepted
            continue
        (kept,) = server.accepted[order]
        sent = b""
        for field in PHOTO_FIELDS:
            known = [contents[order, field], picture("another", order + field)]
            (content,) = [one for one in known if hashlib.sha256(one).hexdigest() == kept[field]["sha256"]]
            sent += xxh3_128_digest(content)
        assert digests[order] == sent
    last = dict(list(changed.items())[:30])  # far from their turn when they were changed
    for order, change in last.items():
        broken = {("invalid", "photo_truncated")} if change is cut else UNLINKED
        assert endings[order] in ({("uploaded", "accepted")} if change is replaced else broken)
        if change is replaced:
            assert any(kept["sha256"] == hashlib.sha256(picture("another", order + field)).hexdigest()
                       for field, kept in server.accepted[order][0].items())  # fmt: skip


@pytest.mark.parametrize("change", [replaced, cut, Path.unlink])
async def test_a_photo_that_is_no_longer_the_same_at_the_second_attempt_is_not_sent(
    shop: Shop, change: Callable[[Path], None]
) -> None:
    shop.order("HT000001")
    manifest = shop.manifest()
    async with Sandbox(SandboxOptions((parse_fault("retry_after_seconds@HT000001:1"),))) as server:
        running = asyncio.ensure_future(send(manifest, settings_for(server.url)))
        async with asyncio.timeout(20):
            while not server.stats()["faults"]:
                await asyncio.sleep(0.005)
        change(shop.folder / "HT000001" / "hand.jpg")
        _, report = await running
        assert not server.accepted
        assert server.stats()["requests"] == 1
    assert outcomes(report) == {"HT000001": ("deferred", Reason.PHOTO_CHANGED)}


def rewritten(manifest: Path) -> None:
    """Another manifest of the same size is moved to its place."""
    other = manifest.with_suffix(".new")
    other.write_bytes(manifest.read_bytes().replace(b"HT0", b"HU0"))
    other.rename(manifest)


def overwritten(manifest: Path) -> None:
    """As an editor does that writes into the same file: fewer rows."""
    manifest.write_bytes(manifest.read_bytes()[: manifest.stat().st_size // 2])


@pytest.mark.parametrize("change", [rewritten, overwritten, Path.unlink])
async def test_a_manifest_that_is_no_longer_the_same_is_noticed_and_said(
    shop: Shop, change: Callable[[Path], None]
) -> None:
    orders = shop.orders(40)
    manifest = shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.05)) as server:
        running = asyncio.ensure_future(send(manifest, settings_for(server.url, pace={"concurrency": 4})))
        await has_accepted(server, 5)
        change(manifest)
        summary, report = await running
    assert summary.exit_code == 1
    assert f"{manifest} was changed during the run" in " ".join(summary.as_text(1000).split())
    assert outcomes(report) == dict.fromkeys(orders, ("uploaded", "accepted"))
