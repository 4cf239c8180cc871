"""What a person sees while a run goes on: on terminals of every width, on those that can do little, and in logs."""

import asyncio
import os
import re
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import Shop, command, environment
from hypothesis import example, given
from hypothesis import strategies as st
from simulation import VirtualLoop

from batchupload.model import Ending, Outcome, Row
from batchupload.progress import LINE_SECONDS, LIVE_SECONDS, View, watch
from batchupload.reasons import Reason
from batchupload.sandbox import Sandbox, SandboxOptions
from batchupload.summary import Tally

MILLION = 1_000_000
NOTE = "16 at once (more would only queue at the endpoint)"
COUNTS = {Outcome.UPLOADED: 700_000, Outcome.SKIPPED: 12_345, Outcome.DUPLICATE: 1234} | dict.fromkeys(
    (Outcome.INVALID, Outcome.REJECTED, Outcome.FAILED, Outcome.UNKNOWN, Outcome.DEFERRED), 11_111
)


@dataclass
class Notebook:
    """A display that remembers."""

    interval: float
    views: list[View] = field(default_factory=list)

    def show(self, view: View) -> None:
        self.views.append(view)

    def close(self) -> None:
        pass


def watched(
    tally: Tally, seconds: float, per_second: float = 0.0, total: int = MILLION, *, sends: bool = True, every: float = 1
) -> list[View]:
    """What is shown in so many seconds, in which so many rows a second are uploaded (or checked)."""

    async def look_on() -> None:
        task = asyncio.create_task(watch(book, tally, total, lambda: NOTE if sends else "", sends=sends))
        await asyncio.sleep(0.125)  # between two looks
        for _ in range(int(seconds * 4)):
            tally.rows += int(per_second / 4)
            tally.bytes_sent += int(per_second / 4) * 100_000 * sends
            await asyncio.sleep(0.25)
        task.cancel()
        await asyncio.wait([task])

    book = Notebook(every)
    with closing(VirtualLoop()) as loop:
        loop.run_until_complete(look_on())
    return book.views


def tally_of(counts: dict[Outcome, int], reason: Reason = Reason.ACCEPTED) -> Tally:
    tally = Tally()
    for outcome, count in counts.items():
        tally.outcomes[outcome] = tally.reasons[outcome, reason] = count
        tally.rows += count
    return tally


@pytest.mark.parametrize("columns", [59, 79, 119])
@pytest.mark.parametrize("counts", [{}, {Outcome.UPLOADED: 5}, {Outcome.UPLOADED: 700_000}, COUNTS])
def test_what_matters_is_shown_on_every_width_and_the_note_is_cut_first(
    columns: int, counts: dict[Outcome, int]
) -> None:
    view = watched(tally_of(counts), 5, 400)[-1]
    block = view.block(columns)
    assert re.fullmatch(r" *[\d,]+/1,000,000 +400/s +40\.0 MB/s  \d+ min \d\d s left", block.counts)
    assert block.bar + 2 * bool(block.bar) + len(block.counts) <= columns
    assert len(block.outcomes) <= columns
    if counts is COUNTS:
        assert re.match(r"713,579 (fine|uploaded)|700,000 uploaded, 12,345 skipped", block.outcomes)
        assert re.search(r"11,111 failed|33,333 another run", block.outcomes)
    else:
        assert re.match(r"([\d,]+ uploaded, )?0 failed  \d+ at once", block.outcomes)


@given(
    st.lists(st.integers(0, 9 * MILLION), min_size=8, max_size=8),
    st.integers(0, 10**9),
    st.floats(0, 1e6),
    st.none() | st.floats(0, 1e13),
    st.integers(20, 200),
)
@example([MILLION] * 8, MILLION, 1 / 30, 1e9, 79)
def test_no_figures_are_wider_than_the_screen(
    counts: list[int], more: int, rate: float, sent: float | None, columns: int
) -> None:
    seen = watched(tally_of(dict(zip(Outcome, counts, strict=True))), 1, sends=sent is not None)[0]
    view = View(sum(counts), sum(counts) + more, rate, sent, seen.outcomes, seen.note)
    block = view.block(columns)
    assert block.bar + 2 * bool(block.bar) + len(block.counts) <= columns
    assert len(block.outcomes) <= columns
    if columns >= 59 and view.total < 10 * MILLION and rate < 1e5:
        assert f"{view.rows:,}/{view.total:,}" in block.counts
        assert (" left" in block.counts) == (rate > 0 and more > 0)


def test_the_block_stands_still_while_the_figures_grow() -> None:
    views = watched(Tally(), 60, 444)
    assert len({view.block(79).bar for view in views}) == 1
    assert len({view.block(79).counts.index("/s") for view in views}) == 1


def test_a_check_tells_of_rows_in_order_and_neither_of_bytes_nor_of_pace() -> None:
    tally = tally_of({Outcome.DEFERRED: 601}, Reason.NOT_SENT)
    tally.add(Ending(Row(Path("orders.csv"), 2, "HT1", {}, {}), Outcome.INVALID, Reason.PHOTO_MISSING))
    view = watched(tally, 2, 40, 1000, sends=False)[-1]
    assert re.fullmatch(
        r"\d+ of 1,000 rows checked \(\d+%\), 40\.0/s, 601 in order, 1 invalid, about 8 s left", view.line()
    )
    block = view.block(79)
    assert re.fullmatch(r"  \d\d\d/1,000 checked +40\.0/s  8 s left", block.counts)
    assert block.outcomes == "601 in order, 1 invalid"


@pytest.mark.parametrize("every", [LIVE_SECONDS, LINE_SECONDS])
def test_where_nothing_ended_for_half_a_minute_there_is_no_rate_and_no_time_left(every: float) -> None:
    tally = Tally()
    assert watched(tally, 60, 40, every=every)[-1].line().count(" left") == 1
    last = watched(tally, 41, every=every)[-1]
    assert ", 0.0/s, 0 B/s, " in last.line()
    assert " left" not in last.line() + last.block(79).counts


async def on_a_terminal(shop: Shop, *words: str, code: int = 0, before: Sequence[str] = (), **env: str) -> str:
    """What the program writes to a terminal of its own, if it exits with this code."""
    outside, inside = os.openpty()
    seen = bytearray()

    def read() -> None:
        with suppress(OSError):  # the other end is closed
            seen.extend(os.read(outside, 65536))

    loop = asyncio.get_running_loop()
    loop.add_reader(outside, read)
    process = await asyncio.create_subprocess_exec(
        *before, *command(*words), cwd=shop.folder, env=environment({"TERM": "xterm", **env}),
        stdout=inside, stderr=inside,
    )  # fmt: skip
    os.close(inside)
    ended = await asyncio.wait_for(process.wait(), 60)
    loop.remove_reader(outside)
    read()
    os.close(outside)
    assert ended == code, seen
    return seen.decode()


def frames(screen: str) -> list[list[str]]:
    """What was drawn in place, each time, line by line and without colours."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", screen)
    # Each block is drawn over the last: to the start of the line, up by the lines there are, each of them erased.
    return [drawn.split("\r\n") for drawn in re.split(r"\r\x1b\[2K(?:\x1b\[1A\x1b\[2K)*", plain)[1:-1]]


@pytest.mark.parametrize("columns", [60, 80, 120])
async def test_a_terminal_shows_two_lines_that_never_wrap(shop: Shop, columns: int) -> None:
    shop.orders(24)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.1)) as server:
        words = ("run", "orders.csv", "--concurrency", "2", "--endpoint", server.url)
        screen = await on_a_terminal(shop, *words, COLUMNS=str(columns), NO_COLOR="1")
    assert len(frames(screen)) > 2
    for first, second in frames(screen):
        assert max(len(first), len(second)) < columns
        assert re.search(r"\d+/24 +[\d.]+/s +[\d.]+ k?B/s", first)
        assert re.match(r"(\d+ uploaded, )?0 failed  2 at once", second)
    assert any(re.search(r"s left *$", first) for first, _ in frames(screen))
    assert not re.search(r"\x1b\[[\d;]*3\dm", screen)  # a colour


async def test_a_terminal_that_can_not_be_redrawn_gets_the_plain_lines(shop: Shop) -> None:
    shop.orders(40)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.6)) as server:
        words = ("run", "orders.csv", "--concurrency", "2", "--endpoint", server.url)
        screen = await on_a_terminal(shop, *words, TERM="dumb")
    assert re.search(r"^\d\d:\d\d:\d\d \d+ of 40 rows .* 2 at once \(as set\)\r$", screen, re.MULTILINE)
    assert "\x1b" not in screen


async def test_a_message_on_a_terminal_is_not_wiped_with_the_block(shop: Shop) -> None:
    shop.orders(100)
    shop.manifest()
    script = 'ulimit -f 200; exec "$@"'  # kB that the ledger may have
    async with Sandbox(SandboxOptions(latency=0.05)) as server:
        words = ("run", "orders.csv", "--concurrency", "2", "--endpoint", server.url)
        screen = await on_a_terminal(shop, *words, code=5, before=("bash", "-c", script, "-"), COLUMNS="300")
    (message,) = [drawn for drawn in re.split(r"\r\n", screen) if "the ledger can't be written any more" in drawn]
    # Where it begins, the block before it has been erased.
    assert re.match(r".*\r\x1b\[2K\x1b\[1A\x1b\[2K\d\d:\d\d:\d\d \S*batchupload\.db: ", message)
