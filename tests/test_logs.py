"""Log lines: JSON on request, one object each, by which a row is followed from the log to ledger and report."""

import asyncio
import json
import logging
import re
import signal
import subprocess
from datetime import datetime
from typing import Any

import pytest
from conftest import Shop, batchupload, command, environment, read_report, under_way

from batchupload.logs import JsonLines
from batchupload.row_log import read_row_id, row_id
from batchupload.sandbox import Sandbox, SandboxOptions, parse_fault

Events = list[dict[str, Any]]


def events(stderr: str) -> Events:
    """Each line, which must be one JSON object with what all have."""
    found = [json.loads(line) for line in stderr.splitlines()]
    for one in found:
        assert datetime.fromisoformat(one["time"]).utcoffset() is not None
        assert one["level"] in {"debug", "info", "warning", "error"}
        assert re.fullmatch(r"[a-z_]+", one["event"])
        assert "message" in one
    return found


def of(found: Events, event: str) -> Events:
    return [one for one in found if one["event"] == event]


async def run(shop: Shop, *words: str, faults: tuple[str, ...] = (), **env: str) -> "subprocess.CompletedProcess[str]":
    async with Sandbox(SandboxOptions(tuple(map(parse_fault, faults)))) as server:
        variables = {"BATCHUPLOAD_ENDPOINT_URL": server.url, "BATCHUPLOAD_RETRY_BASE": "0.01", **env}
        return await asyncio.to_thread(batchupload, "run", *words, cwd=shop.folder, env=variables)


async def test_each_line_of_a_run_is_one_json_object_and_leads_to_the_report_row(shop: Shop) -> None:
    shop.orders(5)
    shop.order("HT900000", hand="nowhere/secret.jpg")
    shop.manifest()
    faults = ("http_503@HT000001:1", "refused@HT000002")
    done = await run(shop, "orders.csv", "--log-format", "json", "-v", "--report", "r.csv", faults=faults)
    found = events(done.stderr)
    assert [one["event"] for one in found][:2] == ["manifest_found", "run_started"]
    assert found[-1]["event"] == "run_ended"
    assert all(one["run"] == 1 for one in found[1:])
    started, ended = found[1], found[-1]
    assert (started["rows"], started["sends"]) == (6, True)
    assert ended["exit_code"] == 1
    assert (ended["outcomes"]["uploaded"], ended["outcomes"]["rejected"], ended["outcomes"]["invalid"]) == (4, 1, 1)
    attempts = [one for one in of(found, "attempt_ended") if one["order"] == "HT000001"]
    assert [(one["attempt"], one["verdict"], one["reason"], one["http_status"]) for one in attempts] == [
        (1, "retry", "unavailable", 503),
        (2, "accepted", "accepted", 200),
    ]
    assert all(one["bytes_sent"] > 0 and one["duration_ms"] >= 0 for one in attempts)
    report = {row["line"]: row for row in read_report(shop.folder / "r.csv")}
    rows = of(found, "row_ended")
    assert len(rows) == len(report) == 6
    for one in rows:
        row = report[str(one["line"])]
        assert (one["order"], one["outcome"], one["reason"]) == (row["order_id"], row["outcome"], row["reason"])
        assert one["id"] == f"1-{one['line']}"
    assert ".jpg" not in done.stderr
    shown = batchupload("show", "1-3", cwd=shop.folder).stdout
    assert shown.startswith("Order HT000001\n")
    assert re.search(r"run 1, line 3: uploaded\. .*\(1-3\)$", shown, re.MULTILINE)
    assert batchupload("show", "1-99", cwd=shop.folder).returncode == 2


async def test_without_v_there_are_no_rows_and_a_mask_holds_in_json_too(shop: Shop) -> None:
    orders = shop.orders(3)
    shop.manifest()
    done = await run(shop, "orders.csv", BATCHUPLOAD_LOG_FORMAT="json")
    assert [one["event"] for one in events(done.stderr)] == ["manifest_found", "run_started", "run_ended"]
    done = await run(
        shop, "orders.csv", "--force", "-v", BATCHUPLOAD_LOG_FORMAT="json", BATCHUPLOAD_LOG_MASK_ORDERS="true"
    )
    assert {one["order"] for one in of(events(done.stderr), "row_ended")} == {"…0000", "…0001", "…0002"}
    assert not any(order in done.stderr for order in orders)
    done = await run(shop, "orders.csv", "-q", "--log-format", "json")
    assert done.stderr == ""


async def test_rows_of_several_manifests_have_ids_of_their_own(shop: Shop) -> None:
    shop.orders(1)
    shop.manifest("a.csv")
    shop.rows = shop.rows[:1]
    shop.orders(1, "HX")
    shop.manifest("b.csv")
    done = await run(shop, "a.csv", "b.csv", "-v", "--log-format", "json", "--report", "r.csv")
    ids = {one["id"]: (one["manifest"], one["order"]) for one in of(events(done.stderr), "row_ended")}
    assert ids == {"1-1-2": ("a.csv", "HT000000"), "1-2-2": ("b.csv", "HX000000")}
    assert batchupload("show", "1-2-2", cwd=shop.folder).stdout.startswith("Order HX000000\n")
    assert json.loads(batchupload("show", "1-2-2", "--json", cwd=shop.folder).stdout)["outcomes"][0]["id"] == "1-2-2"


async def test_backing_off_and_a_signal_are_events(shop: Shop) -> None:
    shop.orders(50)
    shop.manifest()
    async with Sandbox(SandboxOptions((parse_fault("http_503=100%"),))) as server:
        words = command(
            "run", "orders.csv", "--log-format", "json", "--canary", "0", "--endpoint", server.url, "--concurrency", "2"
        )
        seen = bytearray()
        async with under_way(
            words, shop.folder, environment({"BATCHUPLOAD_PACE_PROBE_AFTER_FAILURES": "3"}), lambda: True
        ) as process:
            assert process.stderr
            async with asyncio.timeout(60):
                while b'"endpoint_down"' not in seen:
                    seen += await process.stderr.readline()
            process.send_signal(signal.SIGTERM)
            rest = (await process.communicate())[1]
    found = events((bytes(seen) + rest).decode())
    down = of(found, "endpoint_down")[0]
    assert (down["state"], down["run"]) == ("down", 1)
    assert of(found, "stop_asked")[0]["signal"] == "SIGTERM"
    assert found[-1]["exit_code"] == 143


@pytest.mark.parametrize(
    ("words", "code"), [(("nowhere.csv",), 2), (("orders.csv", "--endpoint", "http://shop.example/"), 2)]
)
def test_a_run_that_can_not_begin_says_so_in_json_too(shop: Shop, words: tuple[str, ...], code: int) -> None:
    shop.orders(1)
    shop.manifest()
    done = batchupload("run", *words, "--log-format", "json", cwd=shop.folder, env={"BATCHUPLOAD_ENDPOINT_URL": "x"})
    (said,) = events(done.stderr)
    assert (said["event"], said["level"], said["exit_code"], done.returncode) == ("not_begun", "error", code, code)


def test_a_fault_of_our_own_is_one_line_too_and_does_not_say_what_it_met() -> None:
    try:
        raise OSError("zhang/hand.jpg")
    except OSError:
        import sys

        record = logging.LogRecord("batchupload", logging.ERROR, "", 1, "An internal fault", (), sys.exc_info())
    text = JsonLines().format(record)
    told = json.loads(text)
    assert (told["event"], told["fault"]) == ("internal_fault", "OSError")
    assert "hand.jpg" not in text.replace('raise OSError(\\"zhang/hand.jpg\\")', "")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("text", "parts"),
    [("12-3", (12, None, 3)), ("12-2-3", (12, 2, 3)), ("12", None), ("HT1-2", None), ("1-2-3-4", None), ("-1-2", None)],
)
def test_an_id_is_read_as_it_was_made(text: str, parts: tuple[int, int | None, int] | None) -> None:
    assert read_row_id(text) == parts
    if parts:
        assert row_id(parts[0], parts[2], parts[1]) == text
