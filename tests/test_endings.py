"""What is said of orders that a run left before their end, also after it has lost its ledger."""

import signal
import sqlite3
import threading
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from conftest import Shop, command, environment, outcomes, read_report, send, settings_for, under_way

from batchupload.ending import after_last_attempt, not_tried_again, unusable
from batchupload.model import Attempt, Finding, Order, Outcome, Problem, Row, Standing, Verdict
from batchupload.reasons import Reason
from batchupload.sandbox import Sandbox, SandboxOptions, parse_fault

OUTSIDE = [
    Reason.STOPPED, Reason.DEADLINE, Reason.ENDPOINT_DOWN, Reason.CANARY, Reason.ADDRESS_REFUSED, Reason.MAX_FAILURES,
    Reason.INTERNAL_ERROR, Reason.LEDGER_LOST, Reason.REPORT_LOST, Reason.FILES_EXHAUSTED, Reason.PHOTO_NOT_FETCHED,
]  # fmt: skip


def attempt(verdict: Verdict, reason: Reason, status: int | None = None) -> Attempt:
    return Attempt(datetime.now().astimezone(), 0.0, 1.0, 0.5, 10, Finding(verdict, reason, status))


LOST = attempt(Verdict.AMBIGUOUS, Reason.REPLY_LOST)
REFUSED = attempt(Verdict.RETRY, Reason.CONNECTION_REFUSED)
BUSY = attempt(Verdict.RETRY, Reason.UNAVAILABLE, 503)


def order(*attempts: Attempt, standing: Standing | None = None) -> Order:
    row = Row(Path("orders.csv"), 2, "HT000001", {}, {})
    return Order(row, standing or Standing(), attempts, b"x" * 48)


@pytest.mark.parametrize("reason", OUTSIDE)
def test_a_row_that_the_run_left_names_every_attempt_also_a_single_one(reason: Reason) -> None:
    for attempts, outcome, trail in (
        ((), Outcome.DEFERRED, ""),
        ((REFUSED,), Outcome.DEFERRED, "attempts: 1 connection_refused"),
        ((LOST,), Outcome.UNKNOWN, "attempts: 1 reply_lost"),
        ((BUSY, LOST, REFUSED), Outcome.UNKNOWN, "attempts: 1 unavailable (503), 2 reply_lost, 3 connection_refused"),
    ):
        ending = not_tried_again(order(*attempts), 1.0, reason)
        assert (ending.outcome, ending.reason, ending.detail) == (outcome, reason, trail)
        assert ending.finding == (attempts[-1].finding if attempts else None), "the columns are the last attempt's"


def test_photos_that_changed_and_an_order_out_of_time_name_their_attempts_too() -> None:
    changed = unusable(order(LOST), 1.0, Problem(Reason.PHOTO_MISSING, "face"))
    assert changed.detail == "photo_missing face; attempts: 1 reply_lost"
    late = after_last_attempt(order(BUSY), 1.0, exhausted=False)
    assert (late.outcome, late.reason) == (Outcome.DEFERRED, Reason.ORDER_TIME_LIMIT)
    assert late.detail == "attempts: 1 unavailable (503)"


def test_a_single_attempt_that_is_the_reason_is_not_said_twice() -> None:
    assert after_last_attempt(order(REFUSED), 1.0, exhausted=True).detail == ""
    accepted = attempt(Verdict.ACCEPTED, Reason.ACCEPTED, 200)
    assert after_last_attempt(order(accepted, standing=Standing(b"y" * 48, 1)), 1.0, exhausted=True).detail == ""


async def test_a_run_that_was_stopped_says_of_each_order_what_its_one_attempt_met(shop: Shop) -> None:
    shop.orders(6)
    shop.manifest()
    (shop.folder / "config.yaml").write_text("{retry: {base: 30, cap: 30}, photos: {small_side: 1}}")
    async with Sandbox(SandboxOptions((parse_fault("closed_after_body=100%"),))) as server:
        words = command("run", "orders.csv", "--endpoint", server.url, "--report", "r.csv")
        enough = under_way(words, shop.folder, environment(), lambda: int(str(server.stats()["requests"])) >= 3)
        async with enough as process:
            process.send_signal(signal.SIGTERM)
            await process.communicate()
    rows = read_report(shop.folder / "r.csv")
    assert process.returncode == 143
    sent = [row for row in rows if row["attempts"] == "1"]
    assert sent
    for row in sent:
        assert (row["outcome"], row["detail"]) == ("unknown", f"attempts: 1 {row['message'] or 'reply_lost'}")


async def left_unknown(shop: Shop, url: str, orders: list[str]) -> None:
    """Have an earlier run leave these orders without knowing what became of them: it died in mid-send."""
    with closing(sqlite3.connect(shop.folder / "batchupload.db")) as ledger, ledger:
        run = ledger.execute("SELECT max(id) FROM runs").fetchone()[0]
        assert ledger.execute("SELECT endpoint FROM runs").fetchall() == [(url,)]
        for order_id in orders:
            ledger.execute(
                "INSERT INTO attempts (order_id, run, number, photos, started_at) VALUES (?, ?, 1, ?, 0)",
                (order_id, run, bytes(48)),
            )


async def test_a_ledger_that_can_not_be_written_any_more_is_still_read(shop: Shop) -> None:
    first = shop.order("HT900000")
    manifest = shop.manifest()
    shop.orders(420)
    doubtful = [f"HT000{number}" for number in range(300, 420)]
    async with Sandbox(SandboxOptions(latency=0.02)) as server:
        await send(manifest, settings_for(server.url))
        await left_unknown(shop, server.url, doubtful)
        shop.manifest()
        words = command("run", "orders.csv", "--endpoint", server.url, "--report", "r.csv", "--concurrency", "1")
        async with under_way(words, shop.folder, environment(), lambda: len(server.accepted) >= 5) as process:
            (shop.folder / "batchupload.db").rename(shop.folder / "elsewhere.db")
            _, err = await process.communicate()
        assert process.returncode == 5, err
        seen = {order_id for order_id, kept in server.accepted.items() if order_id != first}
    rows = {row["order_id"]: row for row in read_report(shop.folder / "r.csv")}
    assert not seen & set(doubtful), "the ledger was lost long before"
    for order_id in doubtful:
        row = rows[order_id]
        assert (row["outcome"], row["reason"], row["attempts"]) == ("unknown", "ledger_lost", "0")
        assert row["detail"] == "run 1 sent it, and what became of that is not known"
    others = {row["outcome"] for order_id, row in rows.items() if order_id not in {*doubtful, *seen, first}}
    assert others == {"deferred"}


@pytest.mark.parametrize("how", ["broken", "hanging"])
async def test_what_a_ledger_that_can_not_be_read_may_hold_is_unknown_and_not_deferred(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    known = shop.order("HT900000")
    async with Sandbox() as server:
        settings = settings_for(server.url)
        await send(shop.manifest(), settings)
        orders = shop.orders(5)
        released = threading.Event()

        def standings(*_: object) -> Mapping[str, Standing]:
            if how == "broken":
                raise sqlite3.OperationalError("disk I/O error")
            released.wait(60)
            return {}

        monkeypatch.setattr("batchupload.ledger.COMMIT_SECONDS", 0.5)
        monkeypatch.setattr("batchupload.ledger.Ledger._standings", standings)
        try:
            summary, report = await send(shop.manifest(), settings)
        finally:
            released.set()
        assert {order_id: len(kept) for order_id, kept in server.accepted.items()} == {known: 1}, "nothing more is sent"
    assert summary.exit_code == 5
    assert outcomes(report) == dict.fromkeys([known, *orders], ("unknown", "ledger_lost"))
    assert {row["detail"] for row in report} == {"the ledger can't be read: an earlier run may have sent it"}


async def test_in_a_first_run_nothing_can_be_unknown_for_a_ledger_that_can_not_be_read(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = shop.orders(2)
    manifest = shop.manifest()

    def standings(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr("batchupload.ledger.Ledger._standings", standings)
    async with Sandbox() as server:
        _, report = await send(manifest, settings_for(server.url))
    assert outcomes(report) == dict.fromkeys(orders, ("deferred", "ledger_lost"))
