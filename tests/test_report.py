"""The report file: private, complete, harmless to spreadsheets; and what happens where it can't be written."""

import asyncio
import csv
import json
import os
import re
import resource
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import Shop, command, environment, outcomes, read_report, send, send_to_sandbox, settings_for

from batchupload.model import Outcome
from batchupload.reasons import Reason
from batchupload.report import ReportError
from batchupload.sandbox import Sandbox, SandboxOptions, parse_fault
from batchupload.sheet import REPORT_COLUMNS
from batchupload.summary import Summary, Tally, duration, size


async def test_the_report_has_its_columns_a_bom_and_is_private(shop: Shop) -> None:
    shop.orders(1)
    umask = os.umask(0)
    try:
        summary, _, _ = await send_to_sandbox(shop.manifest())
    finally:
        os.umask(umask)
    assert stat.S_IMODE(summary.report.stat().st_mode) == 0o600
    content = summary.report.read_bytes()
    assert content.startswith(b"\xef\xbb\xbfline,order_id,outcome")
    assert content.endswith(b"\r\n")
    with summary.report.open(encoding="utf-8-sig", newline="") as file:
        assert tuple(next(csv.reader(file))) == REPORT_COLUMNS


async def test_a_row_tells_the_whole_attempt(shop: Shop) -> None:
    shop.orders(1)
    _, (row,), _ = await send_to_sandbox(shop.manifest())
    assert (row["http_status"], row["code"], row["message"], row["attempts"]) == ("200", "200", "提交成功", "1")
    assert int(row["bytes_sent"]) > sum((shop.folder / row[name]).stat().st_size for name in ("face", "back", "hand"))
    assert int(row["duration_ms"]) >= 0
    assert row["started_at"][-6] in "+-"


async def test_cells_that_would_run_are_neutralised(shop: Shop) -> None:
    shop.rows[0] += ["=HYPERLINK()", "note"]
    shop.orders(1)
    shop.rows[1] += ['=cmd|"/c calc"!A1', "\t=1+1"]
    summary, _, _ = await send_to_sandbox(shop.manifest(), ["formula=100%"])
    with summary.report.open(encoding="utf-8-sig", newline="") as file:
        for cells in csv.reader(file):
            assert not any(cell.lstrip().startswith(("=", "@")) for cell in cells)


async def test_an_existing_report_is_never_overwritten(shop: Shop, tmp_path: Path) -> None:
    shop.orders(1)
    asked = tmp_path / "report.csv"
    asked.write_text("mine")
    async with Sandbox() as server:
        with pytest.raises(ReportError, match="this file exists"):
            await send(shop.manifest(), settings_for(server.url), report=asked)
        assert server.stats()["requests"] == 0
    assert asked.read_text() == "mine"


async def test_a_folder_that_is_gone_is_refused_before_the_first_send(shop: Shop, tmp_path: Path) -> None:
    shop.orders(1)
    async with Sandbox() as server:
        with pytest.raises(ReportError, match="can't be written"):
            await send(shop.manifest(), settings_for(server.url), report=tmp_path / "gone" / "report.csv")
        assert server.stats()["requests"] == 0


async def test_reports_of_one_second_have_names_of_their_own(shop: Shop, tmp_path: Path) -> None:
    shop.orders(1)
    async with Sandbox() as server:
        names = {(await send(shop.manifest(), settings_for(server.url), report=tmp_path))[0].report for _ in range(3)}
    assert len(names) == 3


async def run_on_a_small_disk(shop: Shop, server: Sandbox, largest_file: int) -> "subprocess.CompletedProcess[str]":
    """A run whose files can't grow beyond so many bytes."""

    def few_bytes() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return await asyncio.to_thread(
        subprocess.run,
        command("run", "orders.csv", "--endpoint", server.url, "--report", "report.csv", "--json"),
        cwd=shop.folder, env=environment(), capture_output=True, text=True, timeout=60,
        preexec_fn=few_bytes, check=False,
    )  # fmt: skip


async def test_where_the_report_can_not_grow_sending_stops_and_all_that_was_sent_is_told(shop: Shop) -> None:
    orders = shop.orders(100)
    shop.rows = [[*row, "note" if row is shop.rows[0] else "x" * 100_000] for row in shop.rows]
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.005)) as server:
        done = await run_on_a_small_disk(shop, server, 2_000_000)
    accepted = set(server.accepted)
    assert done.returncode == 5
    assert "the report can't be written any more" in done.stderr
    written = read_report(shop.folder / "report.csv")
    assert all(None not in row.values() for row in written)
    told = {re.split("[ :]+", line)[6] for line in done.stderr.splitlines() if line.startswith("not in the report")}
    assert {row["order_id"] for row in written} | told == accepted
    assert 0 < len(accepted) < len(orders)
    assert json.loads(done.stdout)["exit_code"] == 5


async def test_where_the_ledger_can_not_grow_sending_stops_and_the_report_has_all(shop: Shop) -> None:
    orders = shop.orders(100)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.005)) as server:
        done = await run_on_a_small_disk(shop, server, 200_000)
    assert done.returncode == 5
    assert "the ledger can't be written any more" in done.stderr
    report = read_report(shop.folder / "report.csv")
    assert sorted(row["order_id"] for row in report) == orders
    endings = outcomes(report)
    assert {order for order, ending in endings.items() if ending == ("uploaded", "accepted")} == set(server.accepted)
    assert set(endings.values()) == {("uploaded", "accepted"), ("deferred", "ledger_lost")}


async def test_where_no_ledger_can_be_made_nothing_is_sent(shop: Shop) -> None:
    shop.orders(1)
    shop.manifest()
    async with Sandbox() as server:
        done = await run_on_a_small_disk(shop, server, 5_000)
    assert done.returncode == 5
    assert "the ledger can't be made" in done.stderr
    assert server.stats()["requests"] == 0
    assert not (shop.folder / "report.csv").exists()


def summary_of(outcomes: dict[Outcome, int], **more: Any) -> Summary:
    tally = Tally()
    for outcome, count in outcomes.items():
        tally.outcomes[outcome] += count
        tally.rows += count
    return Summary(tally, 10.0, Path("report.csv"), checked_only=False, **more)


@pytest.mark.parametrize(
    ("outcomes", "more", "code"),
    [
        ({Outcome.UPLOADED: 5, Outcome.SKIPPED: 1, Outcome.DUPLICATE: 1}, {}, 0),
        ({}, {}, 0),
        *(
            ({Outcome.UPLOADED: 5, bad: 1}, {}, 1)
            for bad in Outcome
            if bad.value in "invalid rejected failed unknown deferred"
        ),
        ({Outcome.UPLOADED: 5}, {"broken": "changed"}, 1),
        ({Outcome.DEFERRED: 5}, {"stopped": Reason.ENDPOINT_DOWN}, 3),
        ({Outcome.DEFERRED: 5}, {"stopped": Reason.ADDRESS_REFUSED}, 3),
        ({Outcome.DEFERRED: 5}, {"stopped": Reason.REPORT_LOST}, 5),
        ({Outcome.DEFERRED: 5}, {"stopped": Reason.STOPPED, "signal": 2}, 130),
        ({Outcome.DEFERRED: 5}, {"stopped": Reason.STOPPED, "signal": 15}, 143),
    ],
)
def test_exit_codes(outcomes: dict[Outcome, int], more: dict[str, Any], code: int) -> None:
    assert summary_of(outcomes, **more).exit_code == code


def test_numbers_are_shown_as_people_read_them() -> None:
    assert [size(n) for n in (0, 999, 1000, 123_456, 5_400_000_000)] == ["0 B", "999 B", "1.0 kB", "123 kB", "5.4 GB"]
    assert [duration(s) for s in (0.04, 59.9, 61, 3600, 7620)] == [
        "0.0 s",
        "59.9 s",
        "1 min 01 s",
        "1 h 00 min",
        "2 h 07 min",
    ]


@pytest.mark.parametrize("order_id", ["=cmd|'/c calc'!A1", "@SUM(1+1)", "+1+1", "-2+3", "\t=1", "＝1+1"])
@pytest.mark.parametrize("pattern", [None, "(?s).*"])
async def test_an_order_number_that_would_run_is_neutralised_in_the_report(
    shop: Shop, order_id: str, pattern: str | None
) -> None:
    shop.orders(1)
    shop.rows[1][0] = order_id
    faults = (parse_fault("formula=100%"),) if pattern else ()
    async with Sandbox(SandboxOptions(faults, order_id_pattern="(?s).*")) as server:
        settings = settings_for(server.url, manifest={"order_id_pattern": pattern} if pattern else {})
        summary, _ = await send(shop.manifest(), settings)
    with summary.report.open(encoding="utf-8-sig", newline="") as file:
        _, row = csv.reader(file)
    assert row[1].startswith("'")
    assert row[1].removeprefix("'").strip() == order_id.strip()
    assert row[2:4] == (["rejected", "endpoint_refused"] if pattern else ["invalid", "order_id_malformed"])
    assert row[7] == ("'=cmd|'/c calc'!A1" if pattern else "")
    assert server.stats()["requests"] == (1 if pattern else 0)
