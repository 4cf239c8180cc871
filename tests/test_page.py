"""The report page: what it tells is what the report has, and it harms neither the run nor anybody's file."""

import asyncio
import base64
import csv
import hashlib
import itertools
import json
import logging
import os
import re
import resource
import stat
import subprocess
import sys
import threading
import time
from datetime import UTC, timedelta, timezone
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import Shop, batchupload, command, environment, send, send_to_sandbox, settings_for
from hypothesis import given
from hypothesis import strategies as st
from reports import BEGAN, GOOD, night, write_report

from batchupload.page import beside
from batchupload.page.charts import charts, draw
from batchupload.page.embed import CHUNK, REMEMBERED, chunks, safe_json
from batchupload.page.facts import Facts, facts
from batchupload.page.make import PageError, make_page, page_path
from batchupload.page.page import MARKS, MOST_ROWS, Heading, page
from batchupload.page.rows import ReportRow, open_report, read_report
from batchupload.page.scale import linear, logarithmic, times
from batchupload.page.timeline import BINS, Timeline, quantile, time_class
from batchupload.sandbox import Sandbox
from batchupload.sheet import REPORT_COLUMNS, neutral

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "]]>",
    "a\u2028b\u2029c",
    "\0\x01\x1b[31m",
    "\u202eevil\u2066",
    "'\"`&lt;",
    '=cmd|"/c calc"!A1',
    "${x} $words <!-- rows -->",
    "长" * 10_000,
    "{{constructor}}",
)


def row(**cells: str) -> ReportRow:
    return ReportRow([{**GOOD, **cells}.get(name, "") for name in REPORT_COLUMNS])


def left(outcome: str, reason: str, **cells: str) -> ReportRow:
    return row(outcome=outcome, reason=reason, **cells)


def whole_page(rows: list[ReportRow], name: str = "r.csv") -> str:
    return "".join(page(Heading(name, REPORT_COLUMNS, 0), facts(rows), rows))


def embedded(text: str) -> list[list[str]]:
    """The rows of a page, as its script reads them."""
    known: list[list[str]] = []
    rows = []
    for part in re.findall(r'<script type="application/json" class="rows">(.*?)</script>', text, re.DOTALL):
        for cells in json.loads(part):
            known = known or [[] for _ in cells]
            for cell, column in zip(cells, known, strict=True):
                if isinstance(cell, list):
                    column.extend(cell)
            places = zip(cells, known, strict=True)
            rows.append([c[0] if isinstance(c, list) else k[c] if isinstance(c, int) else c for c, k in places])
    return rows


# What a report tells


NOT_SENT = left("deferred", "not_sent", attempts="0", started_at="", duration_ms="")


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([], "There was nothing to do: the report has no rows."),
        ([row()], "Finished: 1 row, all done."),
        ([row(), row(outcome="skipped"), row(outcome="duplicate")], "Finished: 3 rows, all done."),
        ([row(), left("invalid", "photo_missing")], "Finished: 2 rows, 1 needs a person."),
        (
            [left("rejected", "endpoint_refused"), left("invalid", "photo_empty"), left("unknown", "reply_lost")],
            "Finished: 3 rows, 2 need a person and 1 another run.",
        ),
        ([left("failed", "unavailable")], "Finished: 1 row, 1 needs another run."),
        ([left("a newer outcome", "a newer reason")], "Finished: 1 row, 1 needs a person."),
        ([row(), left("deferred", "deadline")], "Stopped early (deadline): 2 rows, 1 needs another run."),
        ([row(), left("deferred", "stopped")], "Stopped, as asked: 2 rows, 1 needs another run."),
        ([NOT_SENT, NOT_SENT], "Checked 2 rows; nothing was sent. All good."),
        (
            [NOT_SENT, left("invalid", "photo_missing", attempts="0")],
            "Checked 2 rows; nothing was sent. 1 can't be sent as it is.",
        ),
    ],
)
def test_the_verdict_is_one_sentence(rows: list[ReportRow], verdict: str) -> None:
    assert facts(rows).verdict == verdict


def test_rows_orders_sends_and_bytes_are_counted() -> None:
    told = facts([row(attempts="3", bytes_sent="3000"), row(), left("invalid", "photo_empty", attempts="0")])
    assert (told.rows, told.left, told.sent, told.attempts, told.bytes_sent) == (3, 1, 2, 4, 4000)
    assert told.counts == {("uploaded", "accepted"): 2, ("invalid", "photo_empty"): 1}
    assert told.zone.utcoffset(None) == timedelta(hours=8)


def test_the_slowest_and_the_most_retried_orders_are_named_the_worst_first() -> None:
    rows = [row(order_id=f"HT{n}", duration_ms=str(n * 7 % 50), attempts=str(n % 5 + 1)) for n in range(50)]
    told = facts(rows)
    assert [order.seconds for order in told.slowest] == [n / 1000 for n in range(49, 39, -1)]
    assert [order.attempts for order in told.most_retried] == [5] * 10
    assert [o.seconds for o in told.most_retried] == sorted((o.seconds for o in told.most_retried), reverse=True)
    assert facts([row()]).most_retried == ()


@pytest.mark.parametrize("cell", ["", "x", "-1", "1e999", "9" * 400, "١٢", "2026-11-24", "0001-01-01T00:00:00+08:00"])
def test_cells_that_somebody_has_spoilt_count_for_nothing(cell: str) -> None:
    told = facts([row(attempts=cell), row(bytes_sent=cell, duration_ms=cell, started_at=cell), row()])
    assert (told.rows, told.sent, told.bytes_sent, len(told.bins)) == (3, 2, 1000, 1)


orders = st.lists(
    st.tuples(st.floats(0, 1e5), st.floats(0, 1e4), st.integers(0, 10**9), st.booleans()), min_size=1, max_size=200
)


@given(orders)
def test_nothing_is_lost_between_the_stretches_of_a_run(sent: list[tuple[float, float, int, bool]]) -> None:
    timeline = Timeline()
    for start, seconds, size, uploaded in sent:
        timeline.add(1e9 + start, seconds, size, uploaded=uploaded)
    bins = timeline.bins()
    assert len(bins) <= BINS
    assert sum(bin_.uploaded for bin_ in bins) == sum(uploaded for *_, uploaded in sent)
    assert sum(bin_.uploaded + bin_.others for bin_ in bins) == len(sent)
    assert sum(bin_.bytes_sent for bin_ in bins) == pytest.approx(sum(size for _, _, size, _ in sent), rel=1e-3)
    busy = sum(seconds for _, seconds, *_ in sent)
    assert sum(bin_.under_way * bin_.seconds for bin_ in bins) == pytest.approx(busy, rel=1e-3, abs=1e-3)
    assert all(now.start < then.start for now, then in itertools.pairwise(bins))


def test_concurrency_is_how_far_orders_overlap() -> None:
    timeline = Timeline()
    for _ in range(5):
        timeline.add(1000.0, 60.0, 0, uploaded=True)
    assert [round(bin_.under_way, 6) for bin_ in timeline.bins()] == [5.0] * len(timeline.bins())


@given(st.lists(st.floats(0.001, 1e5), min_size=1), st.sampled_from([0.5, 0.95]))
def test_a_median_is_exact_to_a_few_percent(values: list[float], share: float) -> None:
    timeline = Timeline()
    for value in values:
        timeline.add(0.0, value, 0, uploaded=True)
    rank = next(n for n in range(1, len(values) + 1) if n >= len(values) * share)
    assert quantile(timeline.times, share) == pytest.approx(sorted(values)[rank - 1], rel=0.03)
    assert quantile(type(timeline.times)(), share) is None
    assert time_class(0.0) == time_class(0.001)


# Its charts


@given(st.floats(1e-6, 1e12))
def test_an_axis_ends_on_a_round_number_and_holds_the_greatest_value(highest: float) -> None:
    scale = linear(highest)
    assert scale.high >= highest * (1 - 1e-9)
    assert 2 <= len(scale.ticks) <= 6
    assert scale.place(highest) <= 1
    assert f"{scale.ticks[1]:e}"[0] in "125"


@given(st.floats(1e-3, 1e5), st.floats(1, 1e6))
def test_a_logarithmic_axis_holds_both_ends(lowest: float, factor: float) -> None:
    scale = logarithmic(lowest, lowest * factor)
    assert scale.low <= lowest * (1 + 1e-6)
    assert scale.high >= lowest * factor * (1 - 1e-6)
    assert (scale.place(scale.low), scale.place(scale.high)) == (0.0, 1.0)


@given(st.floats(0, 4e9), st.floats(0.001, 1e7))
def test_times_stand_within_the_run_and_are_few(began: float, seconds: float) -> None:
    ticks = times(began, began + seconds, UTC)
    assert len(ticks) <= 6
    assert all(began <= at <= began + seconds for at, _ in ticks)
    assert len({label for _, label in ticks}) == len(ticks)


def test_times_are_those_of_the_clock_where_it_ran() -> None:
    began = BEGAN.timestamp()
    labels = [label for _, label in times(began, began + 3600, timezone(timedelta(hours=8)))]
    assert labels == ["01:30", "01:45", "02:00", "02:15", "02:30"]


def made_night(rows: int) -> list[ReportRow]:
    return [ReportRow([cells.get(name, "") for name in REPORT_COLUMNS]) for cells in night(rows)]


def test_each_chart_is_whole_has_axes_and_says_in_words_what_it_shows() -> None:
    told = facts(made_night(3000))
    shown = charts(told)
    assert [chart.key for chart in shown] == ["throughput", "bytes", "latency", "concurrency"]
    for chart in shown:
        svg = ElementTree.fromstring(draw(chart, told))
        assert svg.attrib["role"] == "img"
        title, note = (svg.find(name) for name in ("title", "desc"))
        assert title is not None
        assert note is not None
        assert svg.attrib["aria-labelledby"].split() == [title.attrib["id"], note.attrib["id"]]
        assert title.text == f"{chart.title}, {chart.unit}"
        assert "on average" in (note.text or "") or "Half took" in (note.text or "")
        labels = [label.text for label in svg.findall("text")]
        assert labels[0] == "0"
        assert "01:32" in labels
        assert labels[-1] == "time of day (UTC+0800)"
        assert len(svg.findall("rect")) == len(told.bins)
        numbers = re.findall(r"-?\d+\.?\d*", " ".join(path.attrib["d"] for path in svg.findall("path")))
        assert all(0 <= float(number) <= 480 for number in numbers)
    assert shown[0].note.startswith("10.7 orders/s on average")  # eleven a second, without those that are not sent


@pytest.mark.parametrize("rows", [[], [row()], [row()] * 5, [row(started_at="")], [NOT_SENT]])
def test_a_run_too_short_for_charts_has_a_page_without(rows: list[ReportRow]) -> None:
    assert "<figure>" not in whole_page(rows)


# The page


class Elements(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"style": [], "script": [], "h1": [], "title": []}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag in self.inside:
            self._open = tag
            self.inside[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open:
            self.inside[self._open][-1] += data


def test_the_page_needs_nothing_and_lets_nothing_in() -> None:
    elements = Elements(whole_page(made_night(500)))
    meta = next(attributes for tag, attributes in elements.found if attributes.get("http-equiv"))
    policy = dict(part.split(" ", 1) for part in str(meta["content"]).split("; "))

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert policy == {
        "default-src": "'none'",
        "style-src": digest(elements.inside["style"][0]),
        "script-src": digest(elements.inside["script"][-1]),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert [attributes for tag, attributes in elements.found if {"src", "srcset", "style"} & set(attributes)] == []
    assert {attributes["href"] for _, attributes in elements.found if "href" in attributes} == {"#left"}
    assert [name for _, attributes in elements.found for name in attributes if name.startswith("on")] == []
    assert not {tag for tag, _ in elements.found} & {"img", "link", "iframe", "object", "embed", "base"}
    script = elements.inside["script"][-1]
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(|XMLHttp|\$\{?raw", script)
        == []
    )


def test_values_of_the_report_can_not_become_markup() -> None:
    plain = Elements(whole_page([left("rejected", "endpoint_refused", order_id="x", attempts="2")] * 2))
    for text in HOSTILE:
        hostile = left(
            "rejected", "endpoint_refused", order_id=text, message=text, detail=text, face=text, code=text, attempts="2"
        )
        content = whole_page([hostile] * 2, f"{text[:100]}.csv")
        elements = Elements(content)
        assert [tag for tag, _ in elements.found] == [tag for tag, _ in plain.found]
        assert elements.inside["h1"] == plain.inside["h1"]
        assert [c for c in content if ord(c) < 32 and c != "\n"] == []
        assert embedded(content) == [[neutral(cell) for cell in hostile.cells]] * 2
    odd = [left(text, text) for text in HOSTILE]  # also as an outcome and a reason
    assert "<img" not in whole_page(odd)
    assert len(embedded(whole_page(odd))) == len(odd)


@given(st.lists(st.lists(st.text(), min_size=3, max_size=3), max_size=20))
def test_any_cells_come_back_from_the_page_as_they_stand_in_a_report(rows: list[list[str]]) -> None:
    parts = list(chunks(rows, 3))
    assert not re.search("[<>&\u2028\u2029]", "".join(parts))
    content = "".join(f'<script type="application/json" class="rows">{part}</script>' for part in parts)
    assert embedded(content) == [[neutral(cell) for cell in cells] for cells in rows]


def test_a_column_remembers_so_many_values_and_no_more() -> None:
    rows = [(str(n % (REMEMBERED + 10)), "the same") for n in range(CHUNK * 3)]
    parts = list(chunks(rows, 2))
    assert len(parts) == 3
    content = "".join(f'<script type="application/json" class="rows">{part}</script>' for part in parts)
    assert [tuple(cells) for cells in embedded(content)] == rows
    assert content.count("the same") == 1


def test_more_rows_than_a_browser_bears_are_left_to_the_report() -> None:
    told = Facts(rows=MOST_ROWS + 5, left=MOST_ROWS + 5)
    bad = left("failed", "unavailable")
    pieces = page(Heading("r.csv", REPORT_COLUMNS, 0), told, itertools.repeat(bad, MOST_ROWS + 5))
    assert "The first 200,000 of them are here; the report has all." in next(pieces)
    assert (
        sum(len(json.loads(re.sub("<.*?>", "", part))) for part in pieces if 'class="rows"' in part[:60]) == MOST_ROWS
    )


def test_json_is_compact_and_safe() -> None:
    assert safe_json({"a": ["</x>", 1]}) == '{"a":["\\u003c/x\\u003e",1]}'


def contrast(one: str, other: str) -> float:
    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted((light(one), light(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
def test_colours_have_the_contrast_of_wcag_aa(scheme: int) -> None:
    style = (files("batchupload.page") / "page.css").read_text()
    block = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--(\w+): (#\w{6})", block))
    for ground in ("ground", "raised"):
        for text in ("text", "soft", "link", "done", "again", "person", "plain", "faint"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["edge"], colours["ground"]) >= 3


# The file


def test_the_page_stands_beside_its_report_and_is_private(tmp_path: Path) -> None:
    report = write_report(tmp_path / "r.csv", night(30))
    umask = os.umask(0)
    try:
        path = make_page(report)
    finally:
        os.umask(umask)
    assert path == tmp_path / "r.html"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text(encoding="utf-8").startswith(MARKS["en"])
    assert sorted(os.listdir(tmp_path)) == ["r.csv", "r.html"]
    assert [page_path(Path(name)).name for name in ("a.b.csv", "A.CSV", "a.html", "a")] == [
        "a.b.html", "A.html", "a.html.html", "a.html",
    ]  # fmt: skip


def test_a_page_is_made_anew_over_its_own_and_over_no_other_file(tmp_path: Path) -> None:
    report, path = tmp_path / "r.csv", tmp_path / "r.html"
    write_report(report, [GOOD])
    make_page(report)
    write_report(report, [GOOD, GOOD])
    assert "2 rows" in make_page(report).read_text(encoding="utf-8")
    mine, elsewhere = "<!DOCTYPE html>\n<html>mine", tmp_path / "elsewhere"
    elsewhere.write_text(MARKS["en"])
    path.unlink()
    for put in (
        lambda: path.write_text(mine),
        lambda: path.symlink_to(elsewhere),  # even where a page stands at its end
        lambda: path.symlink_to(tmp_path / "nowhere"),
        lambda: os.mkfifo(path),
        lambda: path.mkdir(),
    ):
        put()
        before = path.lstat()
        with pytest.raises(PageError, match="it was left as it is"):
            make_page(report)
        after = path.lstat()
        assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)
        assert elsewhere.read_text() == MARKS["en"]
        assert {*os.listdir(tmp_path)} == {"r.csv", "r.html", "elsewhere"}
        if not path.is_dir():
            path.unlink()


def test_a_file_that_comes_while_the_page_is_made_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = write_report(tmp_path / "r.csv", [GOOD])
    real = page

    def slow(*arguments: Any) -> Any:
        yield from real(*arguments)
        (tmp_path / "r.html").write_text("mine")

    monkeypatch.setattr("batchupload.page.make.page", slow)
    with pytest.raises(PageError, match="left as it is"):
        make_page(report)
    assert (tmp_path / "r.html").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["r.csv", "r.html"]


def test_a_page_that_fails_midway_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = write_report(tmp_path / "r.csv", [GOOD])
    before = make_page(report).read_bytes()

    def broken(*_: Any) -> Any:
        yield MARKS["en"]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("batchupload.page.make.page", broken)
    with pytest.raises(PageError, match="No space left on device"):
        make_page(report)
    assert (tmp_path / "r.html").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["r.csv", "r.html"]


@pytest.mark.parametrize(("encoding", "delimiter"), [("gb18030", ";"), ("utf-16", "\t"), ("utf-8", ",")])
def test_a_report_that_a_spreadsheet_saved_again_has_the_same_page(
    tmp_path: Path, encoding: str, delimiter: str
) -> None:
    cells = list(night(200))
    report = write_report(tmp_path / "r.csv", cells, ("客户",))
    expected = make_page(report).read_text(encoding="utf-8")
    again = write_report(report, cells, ("客户",), delimiter)
    again.write_bytes(again.read_text(encoding="utf-8-sig").encode(encoding))
    assert make_page(again).read_text(encoding="utf-8") == expected


def test_a_report_of_several_manifests_is_read_by_its_own_columns(tmp_path: Path) -> None:
    report = tmp_path / "r.csv"
    with report.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["manifest", *REPORT_COLUMNS, "line"])
        writer.writerow(["a.csv", *left("failed", "unavailable", order_id="HT7").cells, "own"])
    told = list(read_report(open_report(report)))
    assert [(one.order_id, one.outcome, one.cells[0], one.cells[-1]) for one in told] == [
        ("HT7", "failed", "a.csv", "own")
    ]
    assert make_page(report).exists()


def test_a_hundred_thousand_rows_take_bounded_memory_and_a_few_seconds(tmp_path: Path) -> None:
    report = write_report(tmp_path / "r.csv", night(100_000, all_left=True))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    program = """
import re, sys
from pathlib import Path
from batchupload.page.make import make_page
make_page(Path(sys.argv[1]))
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
    done = subprocess.run([sys.executable, "-c", program, report], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 120_000  # kB
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 30  # 4 s where nothing else goes on
    assert (tmp_path / "r.html").stat().st_size < 1.2 * report.stat().st_size


# Its place in a run


async def test_a_run_and_a_check_make_the_page_and_name_it(shop: Shop) -> None:
    shop.orders(3)
    summary, _, _ = await send_to_sandbox(shop.manifest())
    assert summary.page == summary.report.with_suffix(".html")
    assert "Finished: 3 rows, all done." in summary.page.read_text(encoding="utf-8")
    assert f"\nPage:   {summary.page}\n" in f"{summary.as_text(100)}\n"
    assert json.loads(summary.as_json())["page"] == str(summary.page)
    done = await asyncio.to_thread(batchupload, "check", "orders.csv", "--report", "c.csv", cwd=shop.folder)
    assert "\nPage:   c.html\n" in done.stdout
    assert "Checked 3 rows; nothing was sent. All good." in (shop.folder / "c.html").read_text(encoding="utf-8")


async def test_a_run_that_is_to_make_no_page_makes_none(shop: Shop) -> None:
    shop.orders(1)
    async with Sandbox() as server:
        summary, _ = await send(shop.manifest(), settings_for(server.url, report={"page": False}))
    assert summary.page is None
    assert "Page:" not in summary.as_text(100)
    assert not list(shop.folder.glob("*.html"))


async def test_a_page_that_can_not_be_made_changes_neither_exit_code_nor_report(shop: Shop) -> None:
    shop.orders(1)
    shop.manifest()
    (shop.folder / "r.html").write_text("mine")
    async with Sandbox() as server:
        words = ("run", "orders.csv", "--report", "r.csv", "--endpoint", server.url)
        done = await asyncio.to_thread(batchupload, *words, cwd=shop.folder)
    assert done.returncode == 0
    _, warning = done.stderr.splitlines()
    assert re.search(r"The report page was not made: r\.html: this is there, and no page of batchupload", warning)
    assert "Page:" not in done.stdout
    assert (shop.folder / "r.html").read_text() == "mine"
    assert len((shop.folder / "r.csv").read_text(encoding="utf-8-sig").splitlines()) == 2


@pytest.mark.parametrize("hurried", [False, True])
async def test_a_page_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, hurried: bool
) -> None:
    free = threading.Event()
    monkeypatch.setattr(beside, "_make", lambda *_: free.wait(60))
    monkeypatch.setattr(beside, "HURRIED_SECONDS" if hurried else "PAGE_SECONDS", 0.05)
    monkeypatch.setattr(beside, "GRACE", 0.05)
    try:
        assert await beside.page_beside(tmp_path / "r.csv", hurried=hurried) is None
    finally:
        free.set()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "took too long" in caplog.text


async def test_a_fault_in_the_page_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(beside, "_make", lambda *_: 1 / 0)
    assert await beside.page_beside(tmp_path / "r.csv") is None
    assert len(caplog.records) == 1
    assert "ZeroDivisionError" in caplog.text


async def test_a_signal_gives_the_page_up_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    report = write_report(tmp_path / "r.csv", [GOOD] * 2000)
    began = threading.Event()
    real = facts

    def slow(rows: Any) -> Facts:
        began.set()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:  # until it is told to end
            real(itertools.islice(rows, 500))
        raise AssertionError

    monkeypatch.setattr("batchupload.page.make.facts", slow)
    monkeypatch.setattr("batchupload.page.make.read_report", lambda _: itertools.repeat(row()))
    making = asyncio.create_task(beside.page_beside(report))
    await asyncio.to_thread(began.wait, 60)
    os.kill(os.getpid(), 15)
    assert await asyncio.wait_for(making, 60) is None
    assert "given up" in caplog.text
    assert os.listdir(tmp_path) == ["r.csv"]


def test_the_command_makes_a_page_of_any_report(tmp_path: Path) -> None:
    write_report(tmp_path / "r.csv", night(50))
    done = batchupload("page", "r.csv", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Page: r.html\n", "")
    (tmp_path / "m.csv").write_text("order_id,face,back,hand\nHT000001,a,b,c\n")
    for words, said in (("m.csv", "this is no report"), ("gone.csv", "no such file"), (".", "not a file")):
        done = batchupload("page", words, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
    (tmp_path / "r.html").write_text("mine")
    done = batchupload("page", "r.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert "left as it is" in done.stderr


def test_the_page_holds_no_path_of_the_machine_it_was_made_on(tmp_path: Path) -> None:
    report = write_report(tmp_path / "r.csv", night(20))
    assert str(tmp_path) not in make_page(report).read_text(encoding="utf-8")


def test_the_help_of_the_command_names_what_it_takes(tmp_path: Path) -> None:
    done = subprocess.run(command("page", "--help"), env=environment(), capture_output=True, text=True, check=True)
    assert "REPORT" in done.stdout
