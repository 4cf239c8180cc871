"""Night after night: what fails again and again is set aside, until somebody releases it or brings other photos."""

import asyncio
import json
import re
import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from conftest import Report, Shop, batchupload, command, environment, outcomes, picture, send, settings_for, under_way

import batchupload as package
from batchupload.ledger_file import MIGRATIONS
from batchupload.model import Verdict
from batchupload.nights import WENT_WRONG_WITH_ALL, LastSend, night, streak
from batchupload.sandbox import Sandbox, SandboxOptions, parse_fault
from batchupload.summary import STOPPED_EARLY, Summary

UPLOADED = ("uploaded", "accepted")
REFUSED = ("rejected", "endpoint_refused")
ASIDE = ("deferred", "quarantined")
BAD = "HT900001"
"""The order that goes wrong."""


def database(shop: Shop) -> "closing[sqlite3.Connection]":
    return closing(sqlite3.connect(shop.folder / "batchupload.db"))


def a_night_passes(shop: Shop, days: int = 1) -> None:
    """Have all runs been so many days earlier."""
    with database(shop) as ledger, ledger:
        for run, at in ledger.execute("SELECT id, started_at FROM runs").fetchall():
            earlier = datetime.fromisoformat(at) - timedelta(days=days)
            ledger.execute("UPDATE runs SET started_at = ? WHERE id = ?", (earlier.isoformat(), run))


def going_wrong(*faults: str) -> Sandbox:
    return Sandbox(SandboxOptions(tuple(map(parse_fault, faults))))


async def nights(shop: Shop, url: str, count: int, *, force: bool = False, **changes: Any) -> tuple[Summary, Report]:
    """Runs on so many nights, each over the bad order and a new good one; three are enough to be set aside."""
    for _ in range(count):
        shop.order(f"HT{len(shop.rows):06}")
        settings = settings_for(url, **{"retry": {"base": 0.01, "cap": 0.05, "quarantine_after": 3}, **changes})
        summary, report = await send(shop.manifest(), settings, force=force)
        a_night_passes(shop)
    return summary, report


def requests(server: Sandbox) -> int:
    return int(str(server.stats()["requests"]))


def of(report: Report, order_id: str = BAD) -> tuple[str, str]:
    return outcomes(report)[order_id]


def release(shop: Shop, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return batchupload("release", "--quarantine-after", "3", *arguments, cwd=shop.folder)


async def test_what_failed_three_nights_running_is_set_aside(shop: Shop) -> None:
    shop.order(BAD)
    async with going_wrong(f"refused@{BAD}") as server:
        _, report = await nights(shop, server.url, 3)
        assert of(report) == REFUSED
        before = requests(server)
        summary, report = await nights(shop, server.url, 1)
        assert requests(server) == before + 1  # the night's good order
    assert of(report) == ASIDE
    assert summary.exit_code == 1
    today = datetime.now().astimezone().date()
    (detail,) = [row["detail"] for row in report if row["order_id"] == BAD]
    assert "failed on 3 nights running" in detail
    assert f"{today - timedelta(days=3)} to {today - timedelta(days=1)}" in detail
    assert "endpoint_refused: 订单不存在" in detail
    assert detail.endswith(f"batchupload release {BAD}")
    assert summary.next_command == "batchupload release"
    text = summary.as_text(100)
    assert "1 needs a person." in text
    assert "run again" not in text


@pytest.mark.parametrize("most", [0, 4])
async def test_as_many_nights_as_the_config_says(shop: Shop, most: int) -> None:
    shop.order(BAD)
    async with going_wrong(f"refused@{BAD}") as server:
        _, report = await nights(shop, server.url, 4, retry={"base": 0.01, "quarantine_after": most})
        assert of(report) == REFUSED
        _, report = await nights(shop, server.url, 1, retry={"base": 0.01, "quarantine_after": most})
    assert of(report) == (ASIDE if most else REFUSED)


async def test_several_runs_of_one_date_are_one_night(shop: Shop) -> None:
    shop.order(BAD)
    async with going_wrong(f"refused@{BAD}") as server:
        settings = settings_for(server.url, retry={"quarantine_after": 3})
        for _ in range(5):
            _, report = await send(shop.manifest(), settings)
            assert of(report) == REFUSED


async def test_another_photo_releases_it_by_itself(shop: Shop) -> None:
    shop.order(BAD)
    async with going_wrong(f"refused@{BAD}:3") as server:
        _, report = await nights(shop, server.url, 4)
        assert of(report) == ASIDE
        shop.write(f"{BAD}/hand.jpg", picture("new"))
        _, report = await nights(shop, server.url, 1)
    assert of(report) == UPLOADED


async def test_records_of_a_version_that_used_connections_again_stay_readable(shop: Shop) -> None:
    shop.order(BAD)
    async with going_wrong(f"refused@{BAD}") as server:
        for _ in range(3):
            summary, _ = await nights(shop, server.url, 1)
        with database(shop) as ledger, ledger:
            ledger.execute(
                "UPDATE attempts SET verdict = 'retry', reason = 'connection_stale' WHERE order_id = ?", (BAD,)
            )
            ledger.execute(
                "UPDATE outcomes SET outcome = 'failed', reason = 'connection_stale' WHERE order_id = ?", (BAD,)
            )
        report = summary.report.read_text(encoding="utf-8-sig").replace(
            "rejected,endpoint_refused", "failed,connection_stale"
        )
        summary.report.write_text(report, encoding="utf-8-sig")
        for words in (["history"], ["show", "3"], ["show", BAD], ["page", summary.report]):
            told = batchupload(*words, cwd=shop.folder)
            assert told.returncode == 0, told.stderr
            assert words[0] != "show" or "connection_stale" in told.stdout
        assert "connection_stale" in summary.report.with_suffix(".html").read_text()
        only = ("--only", "failed", "--endpoint", server.url)
        again = await asyncio.to_thread(batchupload, "run", summary.report, *only, cwd=shop.folder)
        assert again.returncode == 1, again.stderr
        assert "1 rejected" in again.stdout or "rejected          1" in again.stdout
        _, rows = await nights(shop, server.url, 1)
    assert of(rows) == REFUSED, "such nights say nothing of an order"


async def test_what_is_released_is_sent_and_counted_anew(shop: Shop) -> None:
    shop.order(BAD)
    async with going_wrong(f"refused@{BAD}") as server:
        await nights(shop, server.url, 4)
        listed = await asyncio.to_thread(release, shop)
        assert f"{BAD}  3 nights" in listed.stdout
        assert "last endpoint_refused: 订单不存在" in listed.stdout
        (found,) = json.loads((await asyncio.to_thread(release, shop, "--json")).stdout)
        assert (found["order_id"], found["streak"]["nights"]) == (BAD, 3)
        done = await asyncio.to_thread(release, shop, BAD)
        assert (done.returncode, done.stdout.split(":")[0]) == (0, "Released 1 order")
        assert "Nothing is set aside" in (await asyncio.to_thread(release, shop)).stdout
        _, report = await nights(shop, server.url, 3)
        assert of(report) == REFUSED
        _, report = await nights(shop, server.url, 1)
        assert of(report) == ASIDE
        done = await asyncio.to_thread(release, shop, "--all")
        assert done.returncode == 0, done.stderr
        _, report = await nights(shop, server.url, 1)
    assert of(report) == REFUSED


async def test_force_sends_it_all_the_same(shop: Shop) -> None:
    shop.order(BAD)
    async with going_wrong(f"refused@{BAD}:3") as server:
        await nights(shop, server.url, 4)
        _, report = await nights(shop, server.url, 1, force=True)
    assert of(report) == UPLOADED


@pytest.mark.parametrize(
    "fault",
    ["http_404=100%", "http_503=100%", "http_500=100%", "no_answer=100%", "reset_in_body=100%", "html_page=100%"],
)
async def test_nights_on_which_the_endpoint_was_down_do_not_count(shop: Shop, fault: str) -> None:
    shop.order(BAD)
    async with going_wrong(fault) as server:
        url, port = server.url, server.port
        waits: dict[str, Any] = {
            "retry": {"base": 0.01, "attempts": 1, "quarantine_after": 3},
            "timeouts": {"reply": 0.2},
        }
        _, report = await nights(shop, url, 4, **waits)
        assert ASIDE not in outcomes(report).values()
    _, report = await nights(shop, url, 1, **waits)  # nobody is there
    assert of(report)[0] in {"failed", "unknown"}
    async with Sandbox(port=port):
        _, report = await nights(shop, url, 1, **waits)
    assert set(outcomes(report).values()) == {UPLOADED}


async def test_an_order_that_the_endpoint_chokes_on_beside_good_ones_is_set_aside_and_stays_unknown(shop: Shop) -> None:
    shop.order(BAD)
    async with going_wrong(f"http_500@{BAD}") as server:
        _, report = await nights(shop, server.url, 4)
    assert of(report) == ("unknown", "quarantined")


STANDING = [f"HT9100{number:02}" for number in range(25)]
"""Orders in front that are refused night after night, alike."""


def in_front(shop: Shop) -> list[str]:
    for order in STANDING:
        shop.order(order)
    return [f"refused@{order}" for order in STANDING]


async def test_orders_that_are_refused_each_night_keep_no_good_one_back(shop: Shop) -> None:
    async with going_wrong(*in_front(shop)) as server:
        new: list[str] = []
        for night_of_them in range(6):
            new = [shop.order(f"HT8{night_of_them:02}{number:03}") for number in range(8)]
            summary, report = await nights(shop, server.url, 1)
            ends = outcomes(report)
            assert summary.exit_code == 1
            assert {ends[order] for order in new} == {UPLOADED}
            assert {ends[order] for order in STANDING} == {REFUSED if night_of_them < 3 else ASIDE}


async def test_a_night_that_ended_at_its_first_orders_lets_the_next_one_go_on(shop: Shop) -> None:
    async with going_wrong(*in_front(shop)) as server:
        summary, report = await nights(shop, server.url, 1)
        assert (summary.exit_code, summary.stopped) == (3, "canary")
        new = shop.orders(8, "HT8")
        summary, report = await nights(shop, server.url, 1)
        assert summary.exit_code == 1
        assert {outcomes(report)[order] for order in new} == {UPLOADED}


async def test_a_night_that_refuses_all_ends_early_whatever_was_refused_before(shop: Shop) -> None:
    async with going_wrong(*in_front(shop)) as server:
        shop.orders(8, "HT8")
        await nights(shop, server.url, 2)
        url, port = server.url, server.port
    shop.orders(200, "HT7")
    async with Sandbox(SandboxOptions((parse_fault("busy=100%"),)), port=port) as server:
        summary, _ = await nights(shop, url, 1)
        assert (summary.exit_code, summary.stopped) == (3, "canary")
        assert requests(server) <= 20 + 4


async def test_a_list_of_nothing_but_known_refusals_comes_to_its_end(shop: Shop) -> None:
    async with going_wrong(*in_front(shop)) as server:
        shop.orders(8, "HT8")
        await nights(shop, server.url, 1)
        shop.rows = [row for row in shop.rows if not row[0].startswith(("HT8", "HT0"))]
        settings = settings_for(server.url, pace={"max_failures": 3}, retry={"base": 0.01})
        summary, report = await send(shop.manifest(), settings)
    assert summary.exit_code == 1
    assert set(outcomes(report).values()) == {REFUSED}


async def test_photos_that_changed_make_an_order_new_for_the_budget_of_failures(shop: Shop) -> None:
    async with going_wrong(*in_front(shop)) as server:
        shop.orders(8, "HT8")
        await nights(shop, server.url, 1)
        for order in STANDING[:10]:
            shop.write(f"{order}/hand.jpg", picture("new", order))
        settings = settings_for(server.url, pace={"max_failures": 3}, retry={"base": 0.01})
        summary, _ = await send(shop.manifest(), settings)
    assert (summary.exit_code, summary.stopped) == (3, "max_failures")


async def test_an_invalid_order_keeps_its_more_useful_reason(shop: Shop) -> None:
    shop.order(BAD)
    async with going_wrong(f"refused@{BAD}") as server:
        await nights(shop, server.url, 4)
        (shop.folder / f"{BAD}/hand.jpg").unlink()
        _, report = await nights(shop, server.url, 4)
    assert of(report) == ("invalid", "photo_missing")


async def test_an_order_that_never_failed_can_not_be_released(shop: Shop) -> None:
    shop.order(BAD)
    async with going_wrong(f"refused@{BAD}") as server:
        await nights(shop, server.url, 1)
    done = release(shop, BAD, "HT000002", "HT777777")
    assert done.returncode == 1
    assert "Released 1 order" in done.stdout
    assert "HT000002: no failed night" in done.stdout
    assert "HT777777: no failed night" in done.stdout
    assert release(shop, BAD, "--all").returncode == 2


async def test_nothing_is_released_while_a_run_is_on_but_what_is_set_aside_is_listed(shop: Shop) -> None:
    shop.order(BAD)
    async with going_wrong(f"refused@{BAD}") as server:
        await nights(shop, server.url, 4)
    shop.orders(40, "HT8")
    async with Sandbox(SandboxOptions(latency=1.0)) as server:
        words = command("run", shop.manifest(), "--endpoint", server.url, "--concurrency", "1")
        async with under_way(words, shop.folder, environment(), lambda: bool(server.accepted)):
            held = await asyncio.to_thread(release, shop, BAD)
            listed = await asyncio.to_thread(release, shop)
    assert (held.returncode, listed.returncode) == (4, 0)
    assert "another run holds this ledger" in held.stderr
    assert BAD in listed.stdout


async def test_the_command_line_sets_it_and_says_how_to_release(shop: Shop) -> None:
    shop.order(BAD)
    async with going_wrong(f"refused@{BAD}") as server:
        await nights(shop, server.url, 2)
        done = await asyncio.to_thread(
            batchupload, "run", shop.manifest(), "--quarantine-after", "2", "--endpoint", server.url, cwd=shop.folder
        )  # fmt: skip
    assert done.returncode == 1
    assert "1  quarantined" in done.stdout
    assert "Next:   batchupload release --quarantine-after 2\n" in done.stdout


async def test_a_ledger_of_an_earlier_version_goes_on(shop: Shop) -> None:
    shop.order(BAD)
    async with going_wrong(f"refused@{BAD}") as server:
        await nights(shop, server.url, 3)
        with database(shop) as ledger:
            ledger.execute("DROP TABLE released")
            ledger.execute("PRAGMA user_version = 1")
        listed = await asyncio.to_thread(release, shop)
        assert f"{BAD}  3 nights" in listed.stdout
        assert batchupload("history", cwd=shop.folder).returncode == 0
        with database(shop) as ledger:
            assert ledger.execute("PRAGMA user_version").fetchone() == (1,)  # who only reads leaves it
        _, report = await nights(shop, server.url, 1)
    assert of(report) == ASIDE
    with database(shop) as ledger:
        assert ledger.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


async def test_what_is_purged_counts_no_more_and_leaves_no_number_of_a_released_order(shop: Shop) -> None:
    shop.order(BAD)
    async with going_wrong(f"refused@{BAD}") as server:
        await nights(shop, server.url, 4)
        await asyncio.to_thread(release, shop, BAD)
        await nights(shop, server.url, 3)
        a_night_passes(shop, 100)
        with database(shop) as ledger, ledger:
            ledger.execute("UPDATE runs SET ended_at = started_at")
        done = await asyncio.to_thread(batchupload, "purge", "--older-than", "90d", "--yes", cwd=shop.folder)
        assert done.returncode == 0, done.stderr
        assert BAD.encode() not in (shop.folder / "batchupload.db").read_bytes()
        _, report = await nights(shop, server.url, 1)
    assert of(report) == REFUSED


@pytest.mark.parametrize(
    ("reason", "repeated"),
    [
        *((reason, True) for reason in ("endpoint_down", "address_refused", "canary", "max_failures")),
        *((reason, False) for reason in ("deadline", "workers_lost", "readers_lost", "stopped", "internal_error")),
        *((reason, False) for reason in ("ledger_lost", "report_lost")),
    ],
)
def test_a_refusal_is_doubtful_only_if_the_run_ended_for_what_the_endpoint_said(reason: str, repeated: bool) -> None:
    at = night(began(1), ended=True, stopped=reason, answered=True)
    assert at.counts == {Verdict.REJECTED}
    assert at.repeated == repeated


def test_no_other_reason_ends_a_run_early() -> None:
    here = {"stopped", "internal_error", "ledger_lost", "report_lost"}
    assert {"deadline", "workers_lost", "readers_lost"} == STOPPED_EARLY - WENT_WRONG_WITH_ALL
    named = {
        word.lower()
        for path in Path(package.__file__).parent.rglob("*.py")
        for word in re.findall(r"stop\.ask\(Reason\.(\w+)", path.read_text())
    }
    assert named <= STOPPED_EARLY | here


def began(run: int) -> datetime:
    return datetime(2026, 11, 20 + run, 22, tzinfo=UTC)


def send_of(run: int, verdict: Verdict, reason: str = "server_error", photos: bytes = b"a") -> LastSend:
    return LastSend(run, photos, verdict, reason, "")


@pytest.mark.parametrize(
    ("ended", "stopped", "answered", "verdict", "reason", "counts"),
    [
        (True, None, True, Verdict.REJECTED, "endpoint_refused", True),
        (True, None, True, Verdict.RETRY, "upload_reset", True),
        (True, None, True, Verdict.AMBIGUOUS, "reply_timeout", True),
        (True, None, True, Verdict.RETRY, "connection_refused", False),
        (True, None, True, Verdict.RETRY, "dns_failed", False),
        (True, None, True, Verdict.RETRY, "unavailable", False),
        (True, None, True, Verdict.MISADDRESSED, "wrong_address", False),
        (True, None, False, Verdict.RETRY, "upload_reset", False),
        (True, "deadline", True, Verdict.REJECTED, "endpoint_refused", True),
        (True, "deadline", True, Verdict.RETRY, "upload_reset", False),
        (True, "endpoint_down", True, Verdict.REJECTED, "endpoint_refused", False),
        (True, "canary", True, Verdict.REJECTED, "endpoint_refused", False),
        (False, None, True, Verdict.REJECTED, "endpoint_refused", False),
    ],
)
def test_what_counts_against_an_order(
    ended: bool, stopped: str | None, answered: bool, verdict: Verdict, reason: str, counts: bool
) -> None:
    at = night(began(1), ended=ended, stopped=stopped, answered=answered)
    found = streak([send_of(1, verdict, reason)], {1: at}, began(9))
    assert (found is not None) == counts


@pytest.mark.parametrize(
    ("sends", "released", "count"),
    [
        ([(1, "rejected", b"a"), (2, "rejected", b"a"), (3, "rejected", b"a")], 0, 3),
        ([(1, "rejected", b"a"), (2, "rejected", b"b"), (3, "rejected", b"b")], 0, 2),
        ([(1, "rejected", b"a"), (2, "accepted", b"a"), (3, "rejected", b"a")], 0, 1),
        ([(1, "rejected", b"a"), (2, "misaddressed", b"a"), (3, "rejected", b"a")], 0, 2),
        ([(1, "rejected", b"a"), (2, "misaddressed", b"b")], 0, 0),
        ([(1, "rejected", b"a"), (2, "rejected", b"a"), (3, "rejected", b"a")], 2, 1),
        ([(1, "rejected", b"a"), (9, "rejected", b"a")], 0, 1),
    ],
)
def test_what_ends_the_count(sends: Sequence[tuple[int, str, bytes]], released: int, count: int) -> None:
    nights = {run: night(began(run), ended=True, stopped=None, answered=True) for run in range(1, 4)}
    made = [send_of(run, Verdict(word), photos=photos) for run, word, photos in sends]
    found = streak(made, nights, began(9), released)
    assert (found.nights if found else 0) == count


def counted(moments: Sequence[datetime], now: datetime, stopped: Sequence[str | None] = ()) -> int:
    """Nights of an order that was refused in runs that began then."""
    why = dict(enumerate(stopped, 1))
    nights = {run: night(at, ended=True, stopped=why.get(run), answered=True) for run, at in enumerate(moments, 1)}
    sends = [send_of(run, Verdict.REJECTED, "endpoint_refused") for run in nights]
    found = streak(sends, nights, now)
    return found.nights if found else 0


HERE = ZoneInfo("America/New_York")
EVENINGS = [datetime(2026, 10, 29, 22, tzinfo=HERE) + timedelta(days=day) for day in range(7)]
"""Of a week in which the clocks are set back."""


@pytest.mark.parametrize(
    ("moments", "nights"),
    [
        (EVENINGS, 7),
        ([at.replace(fold=1) for at in EVENINGS], 7),
        ([datetime(2026, 3, 6, 1, 30, tzinfo=HERE) + timedelta(days=day) for day in range(4)], 4),
        ([datetime(2026, 11, 24, 23, 50, tzinfo=UTC), datetime(2026, 11, 25, 0, 10, tzinfo=UTC)], 1),
        ([datetime(2026, 11, 24, 22, tzinfo=UTC), datetime(2026, 11, 25, 9, tzinfo=UTC)], 1),
        ([datetime(2026, 11, 24, 22, tzinfo=UTC), datetime(2026, 11, 26, 3, tzinfo=UTC)], 2),
        ([datetime(2026, 11, 24, 0, 5, tzinfo=UTC), datetime(2026, 11, 24, 23, 55, tzinfo=UTC)], 1),
    ],
)
def test_a_night_is_one_date_of_one_zone_and_half_a_day_from_the_next(moments: Sequence[datetime], nights: int) -> None:
    assert counted(moments, moments[-1] + timedelta(days=1)) == nights


def test_a_machine_that_alternates_between_two_zones_has_no_more_nights_than_others() -> None:
    zones = [timezone(timedelta(hours=8)), timezone(timedelta(hours=-8))]
    start = datetime(2026, 11, 24, 22, tzinfo=zones[0])
    runs = [(start + timedelta(minutes=5 * run)).astimezone(zones[run % 2]) for run in range(12)]
    assert counted(runs, start + timedelta(hours=2)) == 1
    nightly = [(start + timedelta(days=day)).astimezone(zones[day % 2]) for day in range(7)]
    assert counted(nightly, start + timedelta(days=7)) == 7


@pytest.mark.parametrize("off", [-3650, -30, -1, 1, 30, 3650])
@pytest.mark.parametrize("at", range(1, 7))
def test_a_run_with_a_wrong_clock_neither_blocks_the_nights_after_it_nor_counts_twice(off: int, at: int) -> None:
    start = datetime(2026, 11, 1, 22, tzinfo=UTC)
    nightly = [start + timedelta(days=day) for day in range(7)]
    again = nightly[at] + timedelta(minutes=10, days=off)  # run again at once, the clock wrong by so many days
    runs = [*nightly[: at + 1], again, *nightly[at + 1 :]]
    assert counted(runs, start + timedelta(days=7)) in {6, 7}
    wrong = [*nightly[:at], nightly[at] + timedelta(days=off), *nightly[at + 1 :]]
    assert counted(wrong, start + timedelta(days=7)) in {6, 7}


@pytest.mark.parametrize("off", [-3650, -1, 365])
def test_a_clock_that_is_wrong_tonight_changes_no_count(off: int) -> None:
    assert counted(EVENINGS, EVENINGS[-1] + timedelta(days=off)) in {6, 7}


def test_a_refusal_counts_in_a_night_that_ended_early_if_it_is_that_of_a_night_before() -> None:
    nightly = [datetime(2026, 11, day, 22, tzinfo=UTC) for day in range(1, 5)]
    now = datetime(2026, 11, 9, tzinfo=UTC)
    assert counted(nightly, now, [None, "canary", "endpoint_down", "max_failures"]) == 4
    assert counted(nightly[:1], now, ["canary"]) == 0
    again = [nightly[0], nightly[0] + timedelta(minutes=30)]
    assert counted(again, now, ["canary", "canary"]) == 0
