"""What is old is gone from ledger and disk, and nothing else is; no order is sent twice for it."""

import asyncio
import json
import os
import pty
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from conftest import Shop, batchupload, command, environment, outcomes, send, settings_for, under_way
from hypothesis import given
from hypothesis import strategies as st

from batchupload.model import Standing, Verdict
from batchupload.purge import Ran, Sent, bearers, last_old
from batchupload.sandbox import Sandbox, SandboxOptions, parse_fault

UPLOADED = ("uploaded", "accepted")
SKIPPED = ("skipped", "already_uploaded")
NOW = datetime.now().astimezone()
REFUSAL = "订单不存在"
GONE = ("HT000002", "HT000003", "absent-canary", REFUSAL)
"""What stands in the old run of `two_runs` and must stand nowhere after a purge."""


def database(shop: Shop) -> "closing[sqlite3.Connection]":
    return closing(sqlite3.connect(shop.folder / "batchupload.db"))


def count(shop: Shop, table: str) -> int:
    with database(shop) as ledger:
        number: int = ledger.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return number


def grow_old(shop: Shop, *runs: int, days: int = 100) -> None:
    """Have these runs been that long ago."""
    at = (NOW - timedelta(days=days)).isoformat(timespec="milliseconds")
    with database(shop) as ledger, ledger:
        for run in runs:
            ledger.execute("UPDATE runs SET started_at = ? WHERE id = ?", (at, run))
            ledger.execute("UPDATE runs SET ended_at = ? WHERE id = ? AND ended_at IS NOT NULL", (at, run))


def purge(shop: Shop, *options: str) -> "subprocess.CompletedProcess[str]":
    return batchupload("purge", "--older-than", "90d", "--yes", *options, cwd=shop.folder)


def holding(shop: Shop, text: str) -> set[str]:
    """The files in which it stands, but for the manifest and photos."""
    forms = [text.encode(form) for form in ("utf-8", "utf-16-le", "gb18030")]
    files = [path for path in shop.folder.iterdir() if path.is_file() and path.name != "orders.csv"]
    return {path.name for path in files if any(form in path.read_bytes() for form in forms)}


async def two_runs(shop: Shop, server: Sandbox, report: str = "old.csv") -> None:
    """An old run with an uploaded, a refused and an invalid order, and one of today without them."""
    shop.order("HT000001")
    shop.order("HT000002")
    shop.order("HT000003", hand="absent-canary.jpg")
    settings = settings_for(server.url)
    await send(shop.manifest(), settings, report=shop.folder / report)
    grow_old(shop, 1)
    (first, *_) = shop.rows
    shop.rows = [first]
    shop.order("HT000004")
    await send(shop.manifest("today.csv"), settings, report=shop.folder / "new.csv")


def refusing() -> Sandbox:
    return Sandbox(SandboxOptions((parse_fault("refused@HT000002"),)))


async def test_what_is_old_is_found_in_no_file_but_that_an_order_is_uploaded(shop: Shop) -> None:
    async with refusing() as server:
        await two_runs(shop, server)
        (shop.folder / "old.html").write_text("<!DOCTYPE html>\n<p>HT000002")
        (shop.folder / "old.incomplete-1.csv").write_bytes((shop.folder / "old.csv").read_bytes())
        for canary in GONE:
            assert holding(shop, canary) & {"batchupload.db", "old.csv"}, canary
        done = await asyncio.to_thread(purge, shop)
        assert done.returncode == 0, done.stderr
        assert "1 run, 1 attempt, 3 outcomes, 3 report files" in done.stdout
        assert "Kept of 1 older order:" in done.stdout
        for canary in (*GONE, "orders.csv"):
            assert holding(shop, canary) == set(), canary
        assert holding(shop, "HT000001") == {"batchupload.db"}
        assert holding(shop, "HT000004") == {"batchupload.db", "new.csv", "new.html", "today.csv"}
        assert not list(shop.folder.glob("old*"))
        shop.rows = shop.rows[:1]
        shop.order("HT000001")
        _, report = await send(shop.manifest("again.csv"), settings_for(server.url))
    assert outcomes(report) == {"HT000001": SKIPPED}
    assert len(server.accepted["HT000001"]) == 1


async def test_what_is_forgotten_is_found_in_no_file_and_sent_again(shop: Shop) -> None:
    async with refusing() as server:
        await two_runs(shop, server)
        done = await asyncio.to_thread(purge, shop, "--forget-uploaded")
        assert "Forgot of 1 order" in done.stdout
        assert "sent again" in done.stdout
        for canary in ("HT000001", *GONE):
            assert holding(shop, canary) == set(), canary
        shop.rows = shop.rows[:1]
        shop.order("HT000001")
        _, report = await send(shop.manifest("again.csv"), settings_for(server.url))
    assert outcomes(report) == {"HT000001": UPLOADED}


async def test_an_order_that_a_newer_run_speaks_of_is_not_forgotten(shop: Shop) -> None:
    shop.orders(2)
    manifest = shop.manifest()
    async with Sandbox() as server:
        settings = settings_for(server.url)
        for _ in range(2):
            await send(manifest, settings)
        grow_old(shop, 1)
        done = await asyncio.to_thread(purge, shop, "--forget-uploaded")
        assert "Newer runs speak of them" in done.stdout
        _, report = await send(manifest, settings)
    assert set(outcomes(report).values()) == {SKIPPED}


async def test_a_dry_run_says_the_same_and_removes_nothing(shop: Shop) -> None:
    async with refusing() as server:
        await two_runs(shop, server)
    before = {path.name for path in shop.folder.iterdir()}
    tried = purge(shop, "--dry-run")
    assert {path.name for path in shop.folder.iterdir()} == before
    assert [count(shop, table) for table in ("runs", "attempts", "outcomes")] == [2, 3, 4]
    assert purge(shop).stdout.split(":", 2)[2] == tried.stdout.split(":", 2)[2]
    assert [count(shop, table) for table in ("runs", "attempts", "outcomes")] == [2, 2, 1]
    again = purge(shop)
    assert "0 runs, 0 attempts, 0 outcomes, 0 report files" in again.stdout


async def test_history_goes_on_after_a_purge(shop: Shop) -> None:
    async with refusing() as server:
        await two_runs(shop, server)
    grow_old(shop, 2)
    assert purge(shop, "--forget-uploaded").returncode == 0
    [run] = json.loads(batchupload("history", "--json", cwd=shop.folder).stdout)
    assert (run["run"], run["manifests"], run["report"], run["exit_code"]) == (2, [], "", 0)
    assert "purged" in batchupload("history", cwd=shop.folder).stdout
    assert "purged" in batchupload("show", "2", cwd=shop.folder).stdout
    async with Sandbox() as server:
        summary, _ = await send(shop.manifest(), settings_for(server.url))
    assert summary.run == 3


def test_without_anybody_to_ask_it_needs_a_yes(shop: Shop) -> None:
    shop.folder.mkdir()
    done = batchupload("purge", "--older-than", "90d", cwd=shop.folder)
    assert done.returncode == 2
    assert "--yes" in done.stderr
    for age in ("0d", "90", "3m", "-1d", "99999999d"):
        done = batchupload("purge", f"--older-than={age}", "--yes", cwd=shop.folder)
        assert done.returncode == 2, age
        assert "--older-than" in done.stderr
    done = batchupload("purge", "--older-than", "90d", "--yes", cwd=shop.folder)
    assert done.returncode == 5
    assert "no ledger yet" in done.stderr
    assert not list(shop.folder.iterdir())


@pytest.mark.parametrize(("answer", "runs"), [(b"n\n", 2), (b"y\n", 1)])
async def test_a_person_is_shown_what_would_go_and_asked(shop: Shop, answer: bytes, runs: int) -> None:
    async with refusing() as server:
        await two_runs(shop, server)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command("purge", "--older-than", "90d", "--forget-uploaded"),
        cwd=shop.folder, env=environment(), stdin=theirs, stdout=subprocess.PIPE, text=True,
    ) as asked:  # fmt: skip
        os.write(ours, answer)
        screen, _ = asked.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert screen.index("Would remove") < screen.index("Remove it for good?")
    assert asked.returncode == 0
    assert ("Removed" in screen, count(shop, "runs")) == (runs == 1, runs)


async def test_while_a_run_is_on_nothing_is_purged(shop: Shop) -> None:
    shop.orders(40)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=1.0)) as server:
        words = command("run", "orders.csv", "--endpoint", server.url, "--concurrency", "1")
        async with under_way(words, shop.folder, environment(), lambda: bool(server.accepted)):
            for options in ((), ("--dry-run",)):
                done = await asyncio.to_thread(purge, shop, *options)
                assert done.returncode == 4
                assert "another run holds this ledger" in done.stderr


async def test_a_run_that_died_and_was_not_followed_by_another_stays(shop: Shop) -> None:
    async with refusing() as server:
        await two_runs(shop, server)
    grow_old(shop, 2)
    with database(shop) as ledger, ledger:
        ledger.execute("UPDATE runs SET ended_at = NULL, summary = NULL WHERE id = 2")
    assert "1 run, " in purge(shop).stdout
    assert (shop.folder / "new.csv").exists()
    assert count(shop, "outcomes") == 1


async def test_of_files_only_what_still_is_a_report_is_removed_and_the_rest_is_named_each_time(shop: Shop) -> None:
    async with refusing() as server:
        await two_runs(shop, server)
    report = (shop.folder / "old.csv").read_bytes()
    (shop.folder / "old.csv").write_text("my notes")
    (shop.folder / "elsewhere.csv").write_bytes(report)
    (shop.folder / "old.incomplete-1.csv").symlink_to("elsewhere.csv")
    (shop.folder / "old.incomplete-2.csv").mkdir()
    (shop.folder / "old.html").write_text("notes")
    for name in ("old.csv.bak", "older.csv", "old.incomplete-x.csv", "older.html", "xold.csv"):
        (shop.folder / name).write_bytes(report)
    before = {path.name for path in shop.folder.iterdir()}
    for _ in range(2):
        done = purge(shop)
        assert done.returncode == 1
        assert {path.name for path in shop.folder.iterdir()} == before
        for name, why in {
            "old.csv": "no report",
            "old.incomplete-1.csv": "a link",
            "old.incomplete-2.csv": "no file",
        }.items():
            assert f"{name}: {why}" in done.stdout
        assert "old.html: no report" in done.stdout
    assert count(shop, "outcomes") == 1
    for name in ("old.csv", "old.incomplete-1.csv", "old.html"):
        (shop.folder / name).unlink()
    (shop.folder / "old.incomplete-2.csv").rmdir()
    assert purge(shop).returncode == 0
    assert holding(shop, "old.csv") == {"new.html"}  # says what it is compared with


async def test_no_report_is_removed_through_a_linked_folder(shop: Shop, tmp_path: Path) -> None:
    async with refusing() as server:
        await two_runs(shop, server)
    kept = tmp_path / "kept"
    kept.mkdir()
    (shop.folder / "old.csv").rename(kept / "old.csv")
    (tmp_path / "link").symlink_to(kept)
    with database(shop) as ledger, ledger:
        ledger.execute("UPDATE runs SET report = ? WHERE id = 1", (str(tmp_path / "link/old.csv"),))
    done = purge(shop)
    assert done.returncode == 1
    assert "a link is on the way" in done.stdout
    assert (kept / "old.csv").exists()


async def test_a_report_name_that_a_newer_run_has_too_is_that_runs(shop: Shop) -> None:
    async with refusing() as server:
        await two_runs(shop, server)
    with database(shop) as ledger, ledger:
        ledger.execute("UPDATE runs SET report = (SELECT report FROM runs WHERE id = 1) WHERE id = 2")
    assert purge(shop).returncode == 0
    assert (shop.folder / "old.csv").exists()


@pytest.mark.parametrize("options", [[], ["--forget-uploaded"]], ids=["kept", "forgotten"])
def test_killed_at_any_moment_it_leaves_a_good_ledger_and_the_next_one_finishes(
    options: list[str], tmp_path: Path
) -> None:
    words = [sys.executable, str(Path(__file__).with_name("killing_purge.py")), "--every", "11", *options]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if done.returncode == 77:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) >= 8


ATTEMPTS = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from(list(Verdict)), st.sampled_from([b"A", b"B"]), st.sampled_from("xy")),
    max_size=10,
)


def standings(attempts: list[Sent]) -> dict[str, Standing]:
    found: dict[str, Standing] = {}
    for sent in attempts:
        assert sent.endpoint
        found[sent.endpoint] = found.get(sent.endpoint, Standing()).after(sent.verdict, sent.photos, sent.run)
    return {endpoint: standing for endpoint, standing in found.items() if standing != Standing()}


@given(ATTEMPTS, st.integers(0, 7))
def test_a_purge_changes_no_standing(attempts: list[tuple[int, Verdict, bytes, str]], last: int) -> None:
    ordered = sorted(attempts, key=lambda attempt: attempt[0])
    sent = [
        Sent(("HT", run, place), at, photos, verdict, False) for place, (run, verdict, photos, at) in enumerate(ordered)
    ]
    bearing = bearers(sent)
    left = [one for one in sent if one.run > last or one.key in bearing]
    assert standings(left) == standings(sent)
    assert len([one for one in left if one.run <= last]) <= 2


def day(number: int) -> datetime:
    return NOW + timedelta(days=number)


@pytest.mark.parametrize(
    ("ends", "last"),
    [
        ([], 0),
        ([-10, -9, -1, 0], 2),
        ([-10, -1, -9], 1),  # a clock that was wrong
        ([-10, 300, -9, -1], 3),
        ([-10, 300, 400, -9, 0], 4),
        ([-10, 300, -1], 1),
        ([-10, 300], 1),
        ([300, 300], 0),
        ([-10, -2000, -1], 1),
        ([-10, -2000, -9, -1], 3),
        ([-10, -2000], 1),
        ([-10, None, 300, -9, -1], 4),
        ([-10, None, -9, -1], 3),
        ([-10, None, None], 1),
        ([None], 0),
        ([-10, -9], 2),
    ],
)
def test_old_are_the_first_runs_up_to_one_that_is_not_or_has_no_end(ends: list[int | None], last: int) -> None:
    runs = [
        Ran(number, day(-20 if end is None else end), None if end is None else day(end), None, True)
        for number, end in enumerate(ends, 1)
    ]
    assert last_old(runs, day(-5), NOW) == last
