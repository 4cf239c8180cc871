"""A run beside the one before: what newly fails, is mended, still fails; and what failed, by reason and message."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from conftest import Shop, batchupload, send, settings_for
from hypothesis import given
from hypothesis import strategies as st
from reports import GOOD, night, write_report

from batchupload.changes import Change, Comparison
from batchupload.failures import EXAMPLES, GROUPS, Failures, common
from batchupload.sandbox import Sandbox, SandboxOptions, parse_fault
from batchupload.summary import Summary

ROOT = Path(__file__).parent.parent


def shown(shop: Shop, *words: str) -> str:
    done = batchupload(*words, cwd=shop.folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def run_with(shop: Shop, port: int, *refused: str, manifest: str = "orders.csv") -> tuple[Summary, int]:
    """A run in which the endpoint refuses these orders."""
    rules = tuple(parse_fault(f"refused@{order_id}") for order_id in refused)
    async with Sandbox(SandboxOptions(rules), port=port) as server:
        summary, _ = await send(shop.manifest(manifest), settings_for(server.url))
        return summary, server.port


async def two_nights(shop: Shop) -> Summary:
    """One mended (000000), one still failing (000001), one newly (000003), one gone (000002)."""
    shop.orders(3)
    _, port = await run_with(shop, 0, "HT000000", "HT000001", "HT000002")
    shop.rows.pop()
    shop.order("HT000003")
    shop.order("HT000004")
    summary, _ = await run_with(shop, port, "HT000001", "HT000003")
    return summary


async def test_history_and_show_say_what_changed_since_the_run_before(shop: Shop) -> None:
    await two_nights(shop)
    first, second = shown(shop, "history").splitlines()
    assert "since" not in first
    assert "since run 1: 1 newly failing, 1 mended, 1 still failing" in second
    text = shown(shop, "show", "2")
    assert "compared with run 1 over the same manifests" in text
    for count in ("1  newly failing", "1  mended", "1  still failing", "1  failed then, not in this run"):
        assert f"      {count}\n" in text
    (run,) = json.loads(shown(shop, "history", "--json", "--limit", "1"))
    change = {"newly_failing": 1, "mended": 1, "still_failing": 1, "gone": 1}
    assert run["since"] == {"run": 1, "same_manifests": True, "change": change}
    assert run["groups"] is None


async def test_show_groups_what_failed_by_reason_and_message_with_examples(shop: Shop) -> None:
    orders = shop.orders(5)
    shop.order("HT900001", hand="absent.jpg")
    await run_with(shop, 0, *orders)
    text = shown(shop, "show", "1")
    assert "5  endpoint_refused: 订单不存在\n" in text
    assert "line 2 HT000000, line 3 HT000001, line 4 HT000002\n" in text
    assert text.index("endpoint_refused: ") < text.index("1  photo_missing\n             line 7 HT900001")
    groups = json.loads(shown(shop, "show", "1", "--json"))["groups"]
    assert [(group["reason"], group["message"], group["count"]) for group in groups] == [
        ("endpoint_refused", "订单不存在", 5),
        ("photo_missing", "", 1),
    ]
    assert groups[1]["examples"] == [{"line": "7", "order_id": "HT900001"}]


async def test_a_run_is_compared_with_the_last_over_the_same_manifests(shop: Shop) -> None:
    shop.orders(2)
    _, port = await run_with(shop, 0, "HT000000", "HT000001")
    await run_with(shop, port, "HT000001", manifest="other.csv")
    await run_with(shop, port, "HT000001", manifest="orders.csv")
    await run_with(shop, port, manifest="third.csv")
    lines = shown(shop, "history").splitlines()
    assert "since run 1: 0 newly failing, 1 mended, 1 still failing" in lines[1]  # there was no other
    assert "since run 1: 0 newly failing, 1 mended, 1 still failing" in lines[2]
    assert "since run 3: 0 newly failing, 1 mended, 0 still failing" in lines[3]
    assert "compared with run 3 over other manifests" in shown(shop, "show", "4")


def change_on(page: Path) -> dict[str, int]:
    legend = re.search(r'id="changes">(.*?)</ul>', page.read_text(encoding="utf-8"))
    found = re.findall(r"</span>([a-z ]+) <b>([\d,]+)</b>", legend[1]) if legend else []
    return {what: int(count.replace(",", "")) for what, count in found}


async def test_the_page_of_a_run_says_it_too_and_groups_what_failed(shop: Shop) -> None:
    summary = await two_nights(shop)
    assert summary.page
    assert change_on(summary.page) == {"newly failing": 1, "mended": 1, "still failing": 1}
    text = summary.page.read_text(encoding="utf-8")
    assert "1 order that failed then: not in this run." in text
    assert '<code>endpoint_refused</code><div><bdi>订单不存在</bdi></div></th><td class="number">2</td>' in text
    assert 'line 3: <bdi class="id">HT000001</bdi>' in text
    done = await asyncio.to_thread(batchupload, "page", summary.report, cwd=shop.folder)
    assert done.returncode == 0
    assert change_on(summary.page) == {}  # from the report alone


def test_the_page_of_any_two_reports(tmp_path: Path) -> None:
    def row(order_id: str, outcome: str, reason: str = "") -> Mapping[str, str]:
        return {**GOOD, "order_id": order_id, "outcome": outcome, "reason": reason}

    old = write_report(tmp_path / "old.csv", [row("A", "rejected"), row("=B", "failed"), row("C", "invalid")])
    new = write_report(
        tmp_path / "new.csv",
        [row("A", "uploaded"), row("=B", "unknown"), row("D", "invalid"), row("D", "invalid"), row("E", "skipped")],
    )
    done = batchupload("page", new, "--before", old, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert change_on(tmp_path / "new.html") == {"newly failing": 1, "mended": 1, "still failing": 1}


@pytest.mark.parametrize("content", [None, "a,b\n1,2\n", "check"])
def test_an_earlier_report_that_is_none_is_refused_and_named(tmp_path: Path, content: str | None) -> None:
    new = write_report(tmp_path / "new.csv", [GOOD])
    if content == "check":
        write_report(tmp_path / "old.csv", [{**GOOD, "outcome": "deferred", "reason": "not_sent"}])
    elif content:
        (tmp_path / "old.csv").write_text(content)
    done = batchupload("page", new, "--before", "old.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert "old.csv" in done.stderr
    assert not (tmp_path / "new.html").exists()


@pytest.mark.parametrize("fate", ["gone", "spoilt"])
async def test_a_run_makes_its_page_also_where_the_report_before_is_gone_or_spoilt(
    shop: Shop, fate: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop.orders(2)
    summary, port = await run_with(shop, 0, "HT000000")
    summary.report.unlink() if fate == "gone" else summary.report.write_text("no report")
    summary, _ = await run_with(shop, port, "HT000000")
    assert summary.page
    assert change_on(summary.page) == {}
    assert ("does not say what changed" in caplog.text) == (fate == "spoilt")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("订单HT000001不存在", "HT000001"), ("订单HT000002不存在", "HT000002")),
        (("order ab-17/x is locked", "ab-17/x"), ("order cd-9/y is locked", "cd-9/y")),
        (("at 2026-11-24 22:15:44 busy", ""), ("at 2026-11-25T01:02:03.123Z busy", "")),
        (
            ("id 3fa85f64-5717-4562-b3fc-2c963f66afa6 gone", ""),
            ("id ffffffff-ffff-4fff-bfff-fffffffffff0 gone", ""),
        ),
        (("trace a3f9c2e1", ""), ("trace 0bd7a991", "")),
        (("waited 3.5 s", ""), ("waited 17 s", "")),
        (("订单１２不存在", ""), ("订单３４５不存在", "")),
    ],
)
def test_messages_are_one_but_for_numbers_and_times(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert common(*one) == common(*other)


def test_other_words_are_other_messages() -> None:
    assert common("订单不存在", "HT1") != common("订单已关闭", "HT1")
    assert common("order is locked", "") == "order is locked"


def test_what_is_kept_of_failures_is_bounded() -> None:
    failures = Failures()
    for number in range(3 * GROUPS):
        failures.add("endpoint_refused", "".join(chr(0x4E00 + int(digit)) for digit in str(number)), "2", f"HT{number}")
    groups = failures.groups()
    assert len(groups) == GROUPS + 1
    assert groups[0].count == 2 * GROUPS  # all that came later
    assert sum(group.count for group in groups) == 3 * GROUPS
    assert len(groups[0].examples) == EXAMPLES


ENDINGS = st.lists(st.tuples(st.sampled_from("ABCDEFG"), st.booleans()), max_size=12)


@given(ENDINGS, ENDINGS)
def test_every_order_that_fails_in_either_run_is_counted_once(
    before: Iterable[tuple[str, bool]], now: Iterable[tuple[str, bool]]
) -> None:
    failed = {order for order, fails in before if fails}
    fails_now = {order for order, fails in now if fails}
    there = {order for order, _ in now}
    comparison = Comparison(order for order, fails in before if fails)
    for order, fails in now:
        comparison.add(order, fails=fails)
    assert comparison.change() == Change(
        len(fails_now - failed), len((failed & there) - fails_now), len(failed & fails_now), len(failed - there)
    )


def test_a_night_of_failures_is_compared_in_little_memory(tmp_path: Path) -> None:
    old = write_report(tmp_path / "old.csv", night(100_000, all_left=True))
    new = write_report(tmp_path / "new.csv", night(100_000, all_left=True))
    make = (
        "import sys; from pathlib import Path; from batchupload.page.make import make_page; "
        "make_page(Path(sys.argv[1]), before=Path(sys.argv[2])); "
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", make, new, old], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) / 1024 < 90
    assert change_on(tmp_path / "new.html") == {"newly failing": 0, "mended": 0, "still failing": 100_000}
