"""What the ledger knows survives: runs go on from it, and one that can't be trusted is never taken for an empty one."""

import asyncio
import json
import shutil
import signal
import sqlite3
import stat
import time
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

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
from hypothesis import given
from hypothesis import strategies as st

from batchupload.deadline import seconds_until
from batchupload.ledger import open_ledger
from batchupload.ledger_file import LedgerError, LedgerHeldError
from batchupload.model import Standing, Verdict
from batchupload.photos import load_photos
from batchupload.sandbox import Sandbox, SandboxOptions, parse_fault
from batchupload.shop_settings import PhotoSettings

UPLOADED = ("uploaded", "accepted")
SKIPPED = ("skipped", "already_uploaded")


def database(shop: Shop) -> "closing[sqlite3.Connection]":
    return closing(sqlite3.connect(shop.folder / "batchupload.db"))


async def test_what_is_uploaded_is_not_sent_again(shop: Shop) -> None:
    orders = shop.orders(5)
    manifest = shop.manifest()
    async with Sandbox() as server:
        settings = settings_for(server.url)
        await send(manifest, settings)
        more = [*orders, shop.order("HT900001")]
        summary, report = await send(shop.manifest(), settings)
    assert outcomes(report) == {**dict.fromkeys(orders, SKIPPED), "HT900001": UPLOADED}
    assert {order: len(server.accepted[order]) for order in more} == dict.fromkeys(more, 1)
    assert summary.exit_code == 0
    assert next(row["detail"] for row in report if row["outcome"] == "skipped") == "run 1"


async def test_force_sends_it_again(shop: Shop) -> None:
    shop.orders(2)
    manifest = shop.manifest()
    async with Sandbox() as server:
        await send(manifest, settings_for(server.url))
        _, report = await send(manifest, settings_for(server.url), force=True)
    assert set(outcomes(report).values()) == {UPLOADED}
    assert {len(taken) for taken in server.accepted.values()} == {2}


async def test_changed_photos_are_uploaded_again_and_said_so(shop: Shop) -> None:
    shop.orders(2)
    manifest = shop.manifest()
    async with Sandbox() as server:
        await send(manifest, settings_for(server.url))
        shop.write("HT000001/hand.jpg", picture("new"))
        summary, report = await send(manifest, settings_for(server.url))
    assert outcomes(report) == {"HT000000": SKIPPED, "HT000001": ("uploaded", "accepted_changed")}
    assert "differ from those an earlier run had uploaded" in summary.as_text(1000)


async def test_another_endpoint_has_not_what_this_one_has(shop: Shop) -> None:
    shop.orders(2)
    manifest = shop.manifest()
    await send_to_sandbox(manifest)
    _, report, server = await send_to_sandbox(manifest)
    assert set(outcomes(report).values()) == {UPLOADED}
    assert len(server.accepted) == 2


@pytest.mark.parametrize(
    ("fault", "ending"),
    [
        ("http_503=100%", ("unknown", "unavailable")),
        ("refused=100%", ("rejected", "endpoint_refused")),
        ("closed_after_body=100%", ("unknown", "reply_lost")),
        ("gbk=100%", UPLOADED),
    ],
)
async def test_a_doubt_lasts_until_an_answer_settles_it(shop: Shop, fault: str, ending: tuple[str, str]) -> None:
    shop.orders(1)
    manifest = shop.manifest()
    options = SandboxOptions((parse_fault("accepted_then_reset=100%"),))
    async with Sandbox(options) as server:
        url, port = server.url, server.port
        _, report = await send(manifest, settings_for(url))
        assert outcomes(report) == {"HT000000": ("unknown", "reply_lost")}
    async with Sandbox(SandboxOptions((parse_fault(fault),)), port=port):
        _, (row,) = await send(manifest, settings_for(url))
    assert (row["outcome"], row["reason"]) == ending
    assert ("run 1 sent it" in row["detail"]) == (ending[0] != "uploaded")


async def test_a_doubtful_order_whose_photo_is_gone_stays_unknown(shop: Shop) -> None:
    shop.orders(1)
    manifest = shop.manifest()
    async with Sandbox(SandboxOptions((parse_fault("accepted_then_reset=100%"),))) as server:
        await send(manifest, settings_for(server.url))
        (shop.folder / "HT000000/face.jpg").unlink()
        _, (row,) = await send(manifest, settings_for(server.url))
    assert (row["outcome"], row["reason"]) == ("unknown", "photo_missing")
    assert "run 1 sent it" in row["detail"]


VERDICTS = st.lists(st.tuples(st.sampled_from(list(Verdict)), st.sampled_from([b"A", b"B"])), max_size=8)


@given(VERDICTS)
def test_an_order_is_known_as_uploaded_only_while_nothing_speaks_against_it(
    attempts: list[tuple[Verdict, bytes]],
) -> None:
    standing = Standing()
    for run, (verdict, digest) in enumerate(attempts, 1):
        standing = standing.after(verdict, digest, run)
    accepted = [at for at, (verdict, _) in enumerate(attempts) if verdict is Verdict.ACCEPTED]
    since = attempts[accepted[-1] + 1 :] if accepted else attempts
    last = attempts[accepted[-1]][1] if accepted else None
    others = [digest for verdict, digest in since if verdict is Verdict.AMBIGUOUS and digest != last]
    assert standing.uploaded == (None if others else last)
    if not others:
        assert standing.doubtful_run is None


async def test_the_hash_on_record_is_that_of_the_photos_sent(shop: Shop) -> None:
    shop.orders(1)
    _, (row,), _ = await send_to_sandbox(shop.manifest())
    photo_set = load_photos({name: row[name] for name in ("face", "back", "hand")}, shop.folder, PhotoSettings())
    with database(shop) as ledger:
        [(photos, verdict)] = ledger.execute("SELECT photos, verdict FROM attempts")
    assert photos == getattr(photo_set, "digest", None)
    assert verdict == "accepted"


async def test_the_ledger_is_for_its_owner_only(shop: Shop) -> None:
    shop.orders(1)
    await send_to_sandbox(shop.manifest())
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in shop.folder.glob("batchupload.db*")}
    assert modes == {"batchupload.db": 0o600, "batchupload.db.lock": 0o600}


async def test_the_same_command_after_a_kill_finishes_the_job(shop: Shop) -> None:
    orders = shop.orders(60)
    manifest = shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.02)) as server:
        words = command("run", manifest, "--report", "report.csv", "--endpoint", server.url, "--concurrency", "4")
        process = await asyncio.create_subprocess_exec(
            *words, cwd=shop.folder, env=environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(60):
            while len(server.accepted) < 20:
                await asyncio.sleep(0.01)
        process.kill()
        await process.communicate()
        done = await asyncio.to_thread(batchupload, *words[3:], cwd=shop.folder)
    assert done.returncode == 0, done.stderr
    assert "did not come to its end; its report is incomplete, and is now report.incomplete-1.csv" in " ".join(
        done.stdout.split()
    )
    found = outcomes(read_report(shop.folder / "report.csv"))
    assert sorted(found) == orders
    assert set(found.values()) == {UPLOADED, SKIPPED}
    sent = [len(server.accepted[order]) for order in orders]
    assert sum(sent) <= len(orders) + 4
    again = [order for order in orders if len(server.accepted[order]) > 1]
    assert all(found[order] == UPLOADED for order in again)


async def test_a_report_of_another_manifest_is_not_replaced_after_a_kill(shop: Shop) -> None:
    shop.orders(40)
    shop.manifest()
    shop.manifest("other.csv")
    async with Sandbox(SandboxOptions(latency=0.05)) as server:
        words = command("run", "orders.csv", "--report", "report.csv", "--endpoint", server.url)
        process = await asyncio.create_subprocess_exec(
            *words, cwd=shop.folder, env=environment(), stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(60):
            while not server.accepted:
                await asyncio.sleep(0.01)
        process.kill()
        await process.communicate()
        words[4] = "other.csv"
        done = await asyncio.to_thread(batchupload, *words[3:], cwd=shop.folder)
    assert done.returncode == 2
    assert "report.csv: this file exists" in done.stderr


async def test_a_second_run_on_one_ledger_is_refused_and_told_who_holds_it(shop: Shop) -> None:
    shop.orders(300)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.4)) as server:
        words = command("run", "orders.csv", "--endpoint", server.url, "--concurrency", "2")
        process = await asyncio.create_subprocess_exec(
            *words, cwd=shop.folder, env=environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(60):
            while not server.accepted:
                await asyncio.sleep(0.01)
        second = await asyncio.to_thread(batchupload, *words[3:], cwd=shop.folder)
        assert second.returncode == 4
        assert f"process {process.pid}, begun 20" in second.stderr
        shown = await asyncio.to_thread(batchupload, "history", "--json", cwd=shop.folder)
        [run] = json.loads(shown.stdout)
        assert run["state"] == "under way"
        process.send_signal(signal.SIGTERM)
        await process.communicate()
        assert len(list(shop.folder.glob("*.report-*.csv"))) == 1
        third = await asyncio.to_thread(batchupload, *words[3:], "--concurrency", "32", cwd=shop.folder)
    assert third.returncode == 0, third.stderr
    assert {len(taken) for taken in server.accepted.values()} == {1}


def damaged(path: Path, how: str) -> None:
    match how:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("order_id,face\n" * 1000)
        case "cut":
            path.write_bytes(path.read_bytes()[:-4096])
        case "flipped":
            content = bytearray(path.read_bytes())
            for at in range(4096, len(content), 512):
                content[at] ^= 0xFF
            path.write_bytes(bytes(content))
        case "foreign":
            path.unlink()
            with closing(sqlite3.connect(path)) as other:
                other.execute("CREATE TABLE notes (text)")
        case "newer":
            with closing(sqlite3.connect(path)) as ledger:
                ledger.execute("PRAGMA user_version = 99")
        case "gone":
            path.with_name(f"{path.name}-wal").write_bytes(path.read_bytes())
            path.unlink()


@pytest.mark.parametrize("how", ["empty", "text", "cut", "flipped", "foreign", "newer", "gone"])
async def test_a_ledger_that_can_not_be_trusted_is_refused_before_anything_is_sent(shop: Shop, how: str) -> None:
    shop.orders(30)
    manifest = shop.manifest()
    async with Sandbox() as server:
        await send(manifest, settings_for(server.url))
        path = shop.folder / "batchupload.db"
        damaged(path, how)
        before = path.read_bytes() if path.exists() else None
        with pytest.raises(LedgerError, match=r"batchupload\.db: .*(newer|can't be trusted)") as refusal:
            await send(manifest, settings_for(server.url), report=shop.folder / "second.csv")
        assert server.stats()["requests"] == 30
    assert refusal.value.exit_code == 5
    assert not (shop.folder / "second.csv").exists()
    assert (path.read_bytes() if path.exists() else None) == before


async def test_a_ledger_locked_by_another_program_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchupload.ledger_file.BUSY_SECONDS", 0.1)
    shop.orders(1)
    manifest = shop.manifest()
    async with Sandbox() as server:
        await send(manifest, settings_for(server.url))
        with database(shop) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(LedgerHeldError, match="another program") as refusal:
                await send(manifest, settings_for(server.url))
    assert refusal.value.exit_code == 4


def test_a_crash_while_the_ledger_is_made_leaves_none_or_a_good_one(tmp_path: Path) -> None:
    path = tmp_path / "batchupload.db"
    (tmp_path / "batchupload.db.new").write_bytes(b"half")
    with open_ledger(path):
        pass
    with open_ledger(path) as ledger:
        assert ledger.last_run() is None
    assert not (tmp_path / "batchupload.db.new").exists()


async def test_history_and_show_tell_of_runs_and_orders(shop: Shop) -> None:
    shop.orders(3)
    shop.order("HT900001", hand="absent.jpg")
    manifest = shop.manifest()
    rules = (parse_fault("http_503@HT000001:1"), parse_fault("refused@HT000002"))
    async with Sandbox(SandboxOptions(rules)) as server:
        await send(manifest, settings_for(server.url))
        await send(manifest, settings_for(server.url))
    lines = batchupload("history", cwd=shop.folder).stdout.splitlines()
    assert len(lines) == 2
    assert "exit 1" in lines[0]
    assert "2 uploaded, 1 invalid, 1 rejected" in lines[0]
    assert "2 skipped, 1 invalid, 1 rejected" in lines[1]
    [run] = json.loads(batchupload("history", "--json", "--limit", "1", cwd=shop.folder).stdout)
    assert run["run"] == 2
    assert run["counts"]["skipped"] == {"already_uploaded": 2}
    shown = batchupload("show", "2", cwd=shop.folder).stdout
    assert "orders.csv" in shown
    assert "photo_missing" in shown
    shown = batchupload("show", "HT000001", cwd=shop.folder).stdout
    assert "run 1, attempt 1: retry, unavailable (503" in shown
    assert "run 1, attempt 2: accepted" in shown
    assert "run 2, line 3: skipped" in shown
    order = json.loads(batchupload("show", "HT000002", "--json", cwd=shop.folder).stdout)
    assert [attempt["message"] for attempt in order["attempts"]] == ["订单不存在"] * 2
    assert [said["outcome"] for said in order["outcomes"]] == ["rejected"] * 2
    assert batchupload("show", "HT000009", cwd=shop.folder).returncode == 2


def test_history_without_a_ledger_says_so(tmp_path: Path) -> None:
    done = batchupload("history", cwd=tmp_path)
    assert done.returncode == 5
    assert "no ledger yet" in done.stderr
    assert not list(tmp_path.iterdir())


async def test_a_run_ends_by_its_deadline_and_the_rest_is_deferred(shop: Shop) -> None:
    orders = shop.orders(100)
    manifest = shop.manifest()
    before = time.monotonic()
    summary, report, server = await send_to_sandbox(
        manifest, sandbox={"latency": 0.2}, pace={"deadline": "2s", "concurrency": 4}
    )
    assert 0.9 < time.monotonic() - before < 4
    assert summary.exit_code == 3
    found = outcomes(report)
    assert sorted(found) == orders
    assert set(found.values()) == {UPLOADED, ("deferred", "deadline")}
    assert {order for order, ending in found.items() if ending == UPLOADED} == set(server.accepted)


async def test_what_hangs_at_the_deadline_is_broken_off(shop: Shop) -> None:
    shop.orders(4)
    summary, report, _ = await send_to_sandbox(
        shop.manifest(), ["no_answer=100%"], pace={"deadline": "1s", "concurrency": 4}, timeouts={"reply": 30.0}
    )
    assert summary.seconds < 3
    assert summary.exit_code == 3
    assert set(outcomes(report).values()) == {("unknown", "deadline")}


@pytest.mark.parametrize(
    ("text", "now", "hours"),
    [
        ("06:00", "2026-11-24T01:30", 4.5),
        ("6:00", "2026-11-24T06:00", 24),
        ("23:59", "2026-11-24T00:00", 23 + 59 / 60),
        ("06:00", "2026-03-29T01:30", 3.5),  # the clock goes from 02:00 to 03:00 in between
        ("06:00", "2026-10-25T01:30", 5.5),  # and back again
        ("2h30m", "2026-11-24T01:30", 2.5),
        ("90m", "2026-11-24T01:30", 1.5),
        ("45s", "2026-11-24T01:30", 0.0125),
    ],
)
def test_a_deadline_is_a_time_of_day_or_a_duration(
    text: str, now: str, hours: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        at = datetime.fromisoformat(now).replace(tzinfo=ZoneInfo("Europe/Berlin"))
        assert timedelta(seconds=seconds_until(text, at)) == timedelta(hours=hours)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["", "24:00", "6", "h", "0s", "1d", "-5m", "06:60", "٣m"])
def test_anything_else_is_no_deadline(text: str, tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text("order_id,face,back,hand\n")
    done = batchupload("run", "orders.csv", f"--deadline={text}", cwd=tmp_path)
    assert done.returncode == 2
    assert "--deadline" in done.stderr
    assert "2h30m" in done.stderr


async def test_order_numbers_are_masked_in_logs_where_asked(shop: Shop) -> None:
    shop.orders(2)
    shop.manifest()
    async with Sandbox() as server:
        done = await asyncio.to_thread(
            batchupload, "run", "orders.csv", "-v", "--endpoint", server.url, cwd=shop.folder,
            env={"BATCHUPLOAD_LOG_MASK_ORDERS": "true"},
        )  # fmt: skip
    assert "line 2, …0000: uploaded" in done.stderr
    assert "HT0000" not in done.stderr


async def test_a_copied_ledger_goes_on_elsewhere(shop: Shop, tmp_path: Path) -> None:
    shop.orders(2)
    manifest = shop.manifest()
    async with Sandbox() as server:
        await send(manifest, settings_for(server.url))
        shutil.copy(shop.folder / "batchupload.db", tmp_path / "copy.db")
        settings = settings_for(server.url, ledger={"path": tmp_path / "copy.db"})
        _, report = await send(manifest, settings)
    assert set(outcomes(report).values()) == {SKIPPED}
