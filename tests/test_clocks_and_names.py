"""A ledger whose runs a wrong clock has dated, and one that has two names."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from conftest import Shop, batchupload, outcomes, read_report, send, settings_for

from batchupload.ledger import open_ledger
from batchupload.ledger_file import LedgerError
from batchupload.run_dates import latest_ends, run_seconds
from batchupload.sandbox import Sandbox

NOW = datetime.now().astimezone()


def day(number: float) -> datetime:
    return NOW + timedelta(days=number)


def date(shop: Shop, run: int, began: datetime, ended: datetime | None = None) -> None:
    with closing(sqlite3.connect(shop.folder / "batchupload.db")) as ledger, ledger:
        cells = [at.isoformat(timespec="milliseconds") for at in (began, ended or began)]
        ledger.execute("UPDATE runs SET started_at = ?, ended_at = ? WHERE id = ?", (*cells, run))


async def runs(shop: Shop, url: str, *days: float) -> list[Path]:
    """One run for each, as many days ago; their reports."""
    reports = []
    for number, at in enumerate(days, 1):
        shop.order(f"HT{number:06}")
        summary, _ = await send(shop.manifest(), settings_for(url), report=shop.folder / f"r{number}.csv")
        reports.append(summary.report)
        date(shop, number, day(at))
    return reports


def purge(shop: Shop, *options: str) -> "subprocess.CompletedProcess[str]":
    return batchupload("purge", "--older-than", "90d", "--yes", *options, cwd=shop.folder)


async def test_a_run_of_the_future_neither_keeps_what_is_old_nor_goes_too_early(shop: Shop) -> None:
    async with Sandbox() as server:
        reports = await runs(shop, server.url, -100, -99, 365, -95, 400, -1)
    looked = purge(shop, "--dry-run")
    done = purge(shop)
    for told in (looked, done):
        assert told.returncode == 0, told.stderr
        words = " ".join(told.stdout.split())
        assert f"run 3, {day(365):%Y-%m-%d %H:%M}" in words
        assert f"run 5, {day(400):%Y-%m-%d %H:%M}" in words
        assert "4 runs" in words
    assert [path.name for path in reports if path.exists()] == ["r5.csv", "r6.csv"]
    again = purge(shop)
    assert "run 3" not in again.stdout, "it is said until it is purged"


async def test_a_clock_that_is_ahead_for_one_run_does_not_hide_that_none_succeeds_any_more(shop: Shop) -> None:
    async with Sandbox() as server:
        await runs(shop, server.url, -3, 365, -1)
    with closing(sqlite3.connect(shop.folder / "batchupload.db")) as database, database:
        database.execute("UPDATE runs SET summary = json_set(summary, '$.exit_code', 3) WHERE id = 3")
    with open_ledger(shop.folder / "batchupload.db") as ledger:
        finished, succeeded = ledger.last_ends()
    assert finished == succeeded == int(day(-1).timestamp())


async def test_how_long_a_run_took_is_what_it_measured_or_unknown_and_never_less_than_nothing(shop: Shop) -> None:
    async with Sandbox() as server:
        await runs(shop, server.url, -3, -2, -1)
    date(shop, 1, day(-3), day(-4))
    date(shop, 3, day(-1), day(-2))
    with closing(sqlite3.connect(shop.folder / "batchupload.db")) as database, database:
        database.execute("""UPDATE runs SET summary = '{"exit_code":0}', manifests = '[]' WHERE id = 1""")
    told = batchupload("history", cwd=shop.folder).stdout
    assert "-" not in "".join(line.split("  ")[3] for line in told.splitlines() if line.strip()[:1].isdigit()), told
    assert "an unknown time, exit 0" in told
    first, second, third = json.loads(batchupload("history", "--json", cwd=shop.folder).stdout)
    assert first["seconds"] is None
    assert second["seconds"] > 0
    assert 0 < third["seconds"] < 60, "by its own measure, whatever the clock said"
    last = batchupload("status", cwd=shop.folder).stdout
    assert "after -" not in last


def test_durations_are_measured_ones_else_by_the_clock_else_unknown() -> None:
    early, late = day(-2).isoformat(), day(-1).isoformat()
    assert run_seconds(early, late, {"seconds": 3.5}) == 3.5
    assert run_seconds(early, late, None) == 86400
    assert run_seconds(late, early, {"exit_code": 0, "seconds": None}) is None
    assert run_seconds(early, None, None) is None


@pytest.mark.parametrize(
    ("dates", "ends"),
    [
        ([], []),
        ([-3, -2, -1], [-3, -2, -1]),
        ([-3, 9, -1], [-3, -1, -1]),
        ([-3, 9], [-3, 0]),
        ([9, 8, -1], [-1, -1, -1]),
        ([-3, -9000, -1], [-3, -1, -1]),
        ([-3, -9000], [-3, 0]),
    ],
)
def test_a_date_that_can_not_be_right_is_that_of_the_next_run(dates: list[float], ends: list[float]) -> None:
    assert latest_ends([day(number) for number in dates], NOW) == [day(number) for number in ends]


async def test_a_ledger_with_two_names_is_refused_and_the_remedy_helps(shop: Shop) -> None:
    orders = shop.orders(2)
    manifest = shop.manifest()
    other = shop.folder / "other"
    other.mkdir()
    async with Sandbox() as server:
        words = ("run", "orders.csv", "--endpoint", server.url, "--report", "r.csv")
        await send(manifest, settings_for(server.url), report=shop.folder / "first.csv")
        os.link(shop.folder / "batchupload.db", other / "ledger.db")
        for name in ("batchupload.db", "other/ledger.db"):
            env = {"BATCHUPLOAD_LEDGER_PATH": name}
            for command in (words, ("purge", "--older-than", "90d", "--yes")):
                done = batchupload(*command, cwd=shop.folder, env=env)
                assert done.returncode == 5, done
                assert "2 names (hard links)" in " ".join(done.stderr.split())
            assert batchupload("history", cwd=shop.folder, env=env).returncode == 0, "to read it is let be"
        assert len(server.accepted[orders[0]]) == 1
        remedy = "cp -p batchupload.db batchupload.db.copy && mv batchupload.db.copy batchupload.db"
        subprocess.run(remedy, shell=True, cwd=shop.folder, check=True)
        done = batchupload(*words, cwd=shop.folder)
        assert done.returncode == 0, done.stderr
    assert set(outcomes(read_report(shop.folder / "r.csv")).values()) == {("skipped", "already_uploaded")}


async def test_a_ledger_by_a_symbolic_link_and_one_linked_in_mid_run_go_on(shop: Shop) -> None:
    shop.orders(2)
    manifest = shop.manifest()
    (shop.folder / "link.db").symlink_to("batchupload.db")
    async with Sandbox() as server:
        with open_ledger(shop.folder / "link.db") as ledger:
            await ledger.start_run(NOW, server.url, [manifest], shop.folder / "r.csv")
            os.link(shop.folder / "batchupload.db", shop.folder / "hard.db")
            with pytest.raises(LedgerError, match="2 names"), open_ledger(shop.folder / "hard.db"):
                pass
            await ledger.end_run(NOW, "{}")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root may mount")
def test_a_ledger_that_is_mounted_without_its_folder_is_refused(shop: Shop) -> None:
    shop.order("HT000001")
    shop.manifest()
    with open_ledger(shop.folder / "batchupload.db"):
        pass
    away = shop.folder / "a b"
    away.mkdir()
    (away / "ledger.db").touch()
    script = (
        'mount --bind batchupload.db "a b/ledger.db" || exit 77; exec "$0" -m batchupload purge --older-than 90d --yes'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable], cwd=shop.folder, capture_output=True, text=True,
        timeout=60, env={**os.environ, "BATCHUPLOAD_LEDGER_PATH": "a b/ledger.db", "LANGUAGE": "en"},
    )  # fmt: skip
    if done.returncode in {1, 77}:
        pytest.skip(done.stderr)
    assert done.returncode == 5, done
    assert "Mount its folder instead" in " ".join(done.stderr.split())
