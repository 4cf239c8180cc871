"""What a person sees while a run goes on: on terminals of every width, on those that can do little, and in logs."""

import asyncio
import fcntl
import io
import os
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyte
import pytest
from conftest import Shop, command, environment
from hypothesis import example, given
from hypothesis import strategies as st
from simulation import VirtualLoop

from batchupload.cells import cut, width
from batchupload.colour import Tone, plain, wanted
from batchupload.model import Ending, Outcome, Row
from batchupload.progress import block, line
from batchupload.reasons import Reason
from batchupload.sandbox import Sandbox, SandboxOptions
from batchupload.screen import LINE_SECONDS, LIVE_SECONDS, LiveDisplay, watch
from batchupload.snapshot import Lookout, PaceNow, Snapshot, State
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
    seen: list[Snapshot] = field(default_factory=list)

    def show(self, now: Snapshot) -> None:
        self.seen.append(now)

    def close(self) -> None:
        pass


def watched(
    tally: Tally, seconds: float, per_second: float = 0.0, total: int = MILLION, *, sends: bool = True, every: float = 1
) -> list[Snapshot]:
    """What is shown in so many seconds, in which so many rows a second are uploaded (or checked)."""

    async def look_on() -> None:
        now = asyncio.get_running_loop().time
        lookout = Lookout(tally, total, lambda: PaceNow(note=NOTE if sends else ""), now, sends=sends)
        task = asyncio.create_task(watch(book, lookout.look))
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
    return book.seen


def tally_of(counts: Mapping[Outcome, int], reason: Reason = Reason.ACCEPTED) -> Tally:
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
    shown = block(watched(tally_of(counts), 5, 400)[-1], columns)
    outcomes = plain(shown.outcomes)
    assert re.fullmatch(r" *[\d,]+/1,000,000 +400/s +40\.0 MB/s  \d+ min \d\d s left", shown.counts)
    assert shown.bar + 2 * bool(shown.bar) + len(shown.counts) <= columns
    assert len(outcomes) <= columns
    if counts is COUNTS:
        assert re.match(r"713,579 (fine|uploaded)|700,000 uploaded, 12,345 skipped", outcomes)
        assert re.search(r"11,111 failed|33,333 another run", outcomes)
    else:
        assert re.match(r"([\d,]+ uploaded, )?0 failed  \d+ at once", outcomes)


@given(
    st.lists(st.integers(0, 9 * MILLION), min_size=8, max_size=8),
    st.integers(0, 10**9),
    st.floats(0, 1e6),
    st.none() | st.floats(0, 1e13),
    st.text(st.sampled_from("一个，at once é"), max_size=60),
    st.integers(20, 200),
)
@example([MILLION] * 8, MILLION, 1 / 30, 1e9, NOTE, 79)
def test_no_figures_are_wider_than_the_screen(
    counts: list[int], more: int, rate: float, sent: float | None, note: str, columns: int
) -> None:
    tally = tally_of(dict(zip(Outcome, counts, strict=True)))
    now = replace(
        watched(tally, 1, sends=sent is not None)[0],
        total=sum(counts) + more, rows_per_second=rate, bytes_per_second=sent or 0.0, pace=PaceNow(note=note),
    )  # fmt: skip
    shown = block(now, columns)
    assert shown.bar + 2 * bool(shown.bar) + width(shown.counts) <= columns
    assert width(plain(shown.outcomes)) <= columns
    if columns >= 59 and now.total < 10 * MILLION and rate < 1e5:
        assert f"{now.rows:,}/{now.total:,}" in shown.counts
        assert (" left" in shown.counts) == (rate > 0 and more > 0)


def test_a_chinese_character_takes_two_cells() -> None:
    assert width("已上传 3") == 8
    assert width("e\u0301") == 1
    assert [cut("已上传三", columns) for columns in (8, 7, 6, 1)] == ["已上传三", "已上传…", "已上…", "…"]


def test_colour_tells_what_is_done_what_waits_and_what_went_wrong() -> None:
    tones = {span.text: span.tone for span in block(watched(tally_of(COUNTS), 1)[-1], 300).outcomes}
    assert tones["700,000 uploaded"] == Tone.GOOD
    assert tones["12,345 skipped"] == Tone.PLAIN
    assert tones["11,111 deferred"] == tones["11,111 unknown"] == Tone.WAIT
    assert tones["11,111 failed"] == tones["11,111 rejected"] == tones["11,111 invalid"] == Tone.BAD
    assert tones[NOTE] == Tone.PLAIN
    fresh = watched(Tally(), 1)[-1]
    assert {span.tone for span in block(fresh, 300).outcomes} == {Tone.PLAIN}
    down = replace(fresh, pace=PaceNow(State.DOWN, 1, 1, "down"))
    assert block(down, 79).outcomes[-1].tone == Tone.WAIT


@pytest.mark.parametrize(
    ("variables", "terminal", "coloured"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm"}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ({"CLICOLOR": "0"}, True, False),
        ({"CLICOLOR_FORCE": "1"}, False, True),
        ({"FORCE_COLOR": "3", "TERM": "dumb"}, False, True),
        ({"FORCE_COLOR": "0"}, True, False),
    ],
)
def test_the_usual_variables_say_whether_there_is_colour(
    variables: dict[str, str], terminal: bool, coloured: bool
) -> None:
    outside, inside = os.openpty()
    with closing(os.fdopen(outside, "rb", 0)), open(inside if terminal else os.devnull, "w") as out:
        assert wanted(out, variables) is coloured
        if not terminal:
            os.close(inside)


def test_the_block_stands_still_while_the_figures_grow() -> None:
    seen = watched(Tally(), 60, 444)
    assert len({block(now, 79).bar for now in seen}) == 1
    assert len({block(now, 79).counts.index("/s") for now in seen}) == 1


def test_a_check_tells_of_rows_in_order_and_neither_of_bytes_nor_of_pace() -> None:
    tally = tally_of({Outcome.DEFERRED: 601}, Reason.NOT_SENT)
    tally.add(Ending(Row(Path("orders.csv"), 2, "HT1", {}, {}), Outcome.INVALID, Reason.PHOTO_MISSING))
    now = watched(tally, 2, 40, 1000, sends=False)[-1]
    assert re.fullmatch(
        r"\d+ of 1,000 rows checked \(\d+%\), 40\.0/s, 601 in order, 1 invalid, about 8 s left", line(now)
    )
    shown = block(now, 79)
    assert re.fullmatch(r"  \d\d\d/1,000 checked +40\.0/s  8 s left", shown.counts)
    assert plain(shown.outcomes) == "601 in order, 1 invalid"


@pytest.mark.parametrize("every", [LIVE_SECONDS, LINE_SECONDS])
def test_where_nothing_ended_of_late_there_is_no_rate_and_no_time_left(every: float) -> None:
    tally = Tally()
    assert line(watched(tally, 60, 40, every=every)[-1]).count(" left") == 1
    last = watched(tally, 41, every=every)[-1]
    assert ", 0.0/s, 0 B/s, " in line(last)
    assert " left" not in line(last) + block(last, 79).counts


@dataclass
class Terminal:
    """A terminal of so many columns, and what is on it."""

    outside: int
    columns: int
    raw: bytearray = field(default_factory=bytearray)
    drawn: list[list[str]] = field(default_factory=list)
    """The screen after each frame."""
    code: int | None = None

    def __post_init__(self) -> None:
        self.screen = pyte.Screen(self.columns, 30)
        self._stream = pyte.ByteStream(self.screen)
        self._rest = b""

    def read(self) -> None:
        with suppress(OSError):  # the other end is closed
            self.take(os.read(self.outside, 65536))

    def take(self, some: bytes) -> None:
        self.raw += some
        *frames, self._rest = (self._rest + some).split(b"\x1b[?2026l")
        for frame in frames:
            self._stream.feed(frame)
            self.drawn.append(self.lines)

    def finish(self) -> None:
        self._stream.feed(self._rest)
        self._rest = b""

    @property
    def lines(self) -> list[str]:
        return [text.rstrip() for text in self.screen.display if text.strip()]

    def resize(self, columns: int) -> None:
        self.screen.resize(30, columns)
        self.columns = columns
        fcntl.ioctl(self.outside, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))

    async def shows(self, pattern: str) -> None:
        """Wait until it does."""
        async with asyncio.timeout(60):
            while not any(re.search(pattern, text) for text in self.lines):
                await asyncio.sleep(0.02)


@asynccontextmanager
async def terminal(
    shop: Shop, *words: str, columns: int = 80, before: Sequence[str] = (), **env: str
) -> AsyncIterator[tuple[Terminal, asyncio.subprocess.Process]]:
    """The program on a terminal of its own, which it is in the foreground of; read to its end."""
    outside, inside = os.openpty()
    shown = Terminal(outside, columns)
    shown.resize(columns)
    loop = asyncio.get_running_loop()
    loop.add_reader(outside, shown.read)
    variables = {name: value for name, value in environment({"TERM": "xterm", **env}).items() if name != "COLUMNS"}
    process = await asyncio.create_subprocess_exec(
        *before, *command(*words), cwd=shop.folder, env=variables, stdin=inside, stdout=inside, stderr=inside,
        start_new_session=True,
    )  # fmt: skip
    os.close(inside)
    try:
        yield shown, process
        shown.code = await asyncio.wait_for(process.wait(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        loop.remove_reader(outside)
        with suppress(OSError):
            os.set_blocking(outside, False)
            while some := os.read(outside, 65536):
                shown.take(some)
        shown.finish()
        os.close(outside)


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
async def test_a_terminal_shows_two_lines_that_never_wrap_and_leave_nothing_behind(shop: Shop, columns: int) -> None:
    shop.orders(24)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.1)) as server:
        words = ("run", "orders.csv", "--concurrency", "2", "--endpoint", server.url)
        async with terminal(shop, *words, columns=columns, NO_COLOR="1") as (shown, _):
            pass
    assert shown.code == 0
    frames = [lines[-2:] for lines in shown.drawn if len(lines) > 2]
    assert len(frames) > 2
    for first, second in frames:
        assert max(len(first), len(second)) < columns
        assert re.search(r"\d+/24 +[\d.]+/s" + r" +[\d.]+ k?B/s" * (columns > 40), first)
        assert re.match(r"(\d+ uploaded, )?0 failed  2 at", second)
    assert len({len(lines) for lines in shown.drawn[1:-1]}) == 1  # the manifest's line, and the block in place
    assert any(re.search(r"s left *$", first) for first, _ in frames)
    if columns >= 60:
        assert any(re.match(r"━+─+  +\d", first) for first, _ in frames)
    left = "\n".join(shown.lines)
    assert re.search(r"^Finished: 24 rows, all done\.$", left, re.MULTILINE)
    assert not re.search(r"0 failed|━", left)
    assert not shown.screen.cursor.hidden
    assert not re.search(rb"\x1b\[[\d;]*m", shown.raw)


class Counting(io.StringIO):
    """A terminal that counts."""

    writes = 0

    def write(self, text: str, /) -> int:
        self.writes += 1
        return super().write(text)


async def test_a_frame_is_one_write_and_so_is_a_message_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Counting()
    monkeypatch.setattr(sys, "stderr", out)
    display = LiveDisplay(out, colour=True)
    for writes, now in enumerate([Lookout(Tally(), 5, PaceNow, lambda: 0.0, sends=True).look()] * 3, 1):
        display.show(now)
        assert out.writes == writes
    print("in two", "pieces", file=sys.stderr)
    assert out.writes == 4
    display.close()
    assert out.writes == 5
    shown = pyte.Screen(80, 5)
    pyte.Stream(shown).feed(out.getvalue())
    assert [text.rstrip() for text in shown.display] == ["in two pieces", "", "", "", ""]
    assert sys.stderr is out


async def test_what_is_uploaded_is_green_and_no_failure_is_not_red(shop: Shop) -> None:
    shop.orders(12)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.2)) as server:
        words = ("run", "orders.csv", "--concurrency", "2", "--endpoint", server.url)
        async with terminal(shop, *words) as (shown, _):
            await shown.shows(r"\d+ uploaded, 0 failed")
            row = next(number for number, text in enumerate(shown.screen.display) if "uploaded" in text)
            cells = shown.screen.buffer[row]
            assert {cells[0].fg, cells[2].fg} == {"green"}
            assert cells[shown.screen.display[row].index("0 failed")].fg == "default"


async def test_a_terminal_that_gets_narrower_in_mid_run_keeps_one_block(shop: Shop) -> None:
    shop.orders(200)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.2)) as server:
        words = ("run", "orders.csv", "--concurrency", "2", "--endpoint", server.url)
        async with terminal(shop, *words, columns=120) as (shown, process):
            await shown.shows("2 at once")
            for columns in (70, 50, 100):
                shown.resize(columns)
                before = len(shown.drawn)
                async with asyncio.timeout(60):
                    while len(shown.drawn) < before + 2:
                        await asyncio.sleep(0.02)
                assert max(map(len, shown.lines[-2:])) < columns
                assert sum("uploaded" in text for text in shown.lines) == 1
            process.send_signal(signal.SIGINT)
    assert shown.code == 130
    assert not shown.screen.cursor.hidden
    assert not any("0 failed" in text for text in shown.lines)


async def test_ctrl_z_gives_the_terminal_back_and_fg_goes_on(shop: Shop) -> None:
    shop.orders(100)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.2)) as server:
        words = ("run", "orders.csv", "--concurrency", "2", "--endpoint", server.url)
        async with terminal(shop, *words) as (shown, process):
            await shown.shows("2 at once")
            assert shown.screen.cursor.hidden
            process.send_signal(signal.SIGTSTP)
            async with asyncio.timeout(60):
                while shown.screen.cursor.hidden:
                    await asyncio.sleep(0.02)
                    shown.finish()
            assert not any("at once" in text for text in shown.lines)
            process.send_signal(signal.SIGCONT)
            await shown.shows("2 at once")
            process.send_signal(signal.SIGINT)
    assert shown.code == 130


async def test_a_terminal_that_can_not_be_redrawn_gets_the_plain_lines(shop: Shop) -> None:
    shop.orders(40)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.6)) as server:
        words = ("run", "orders.csv", "--concurrency", "2", "--endpoint", server.url)
        async with terminal(shop, *words, columns=200, TERM="dumb") as (shown, _):
            pass
    text = shown.raw.decode()
    assert re.search(r"^\d\d:\d\d:\d\d \d+ of 40 rows .* 2 at once \(as set\)\r$", text, re.MULTILINE)
    assert "\x1b" not in text


async def test_a_message_on_a_terminal_is_not_wiped_with_the_block(shop: Shop) -> None:
    shop.orders(100)
    shop.manifest()
    script = 'ulimit -f 200; exec "$@"'  # kB that the ledger may have
    async with Sandbox(SandboxOptions(latency=0.05)) as server:
        words = ("run", "orders.csv", "--concurrency", "2", "--endpoint", server.url)
        async with terminal(shop, *words, columns=300, before=("bash", "-c", script, "-")) as (shown, _):
            pass
    assert shown.code == 5
    (message,) = [text for text in shown.lines if "the ledger can't be written any more" in text]
    assert re.match(r"\d\d:\d\d:\d\d \S*batchupload\.db: ", message)
