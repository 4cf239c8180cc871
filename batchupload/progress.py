"""What a person sees while a run goes on: a steady block on a terminal, a plain line now and then elsewhere."""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from batchupload.cells import cut, width
from batchupload.language import _
from batchupload.model import DONE, Outcome
from batchupload.reasons import Reason
from batchupload.summary import AGAIN, WORDS, Tally, duration, size

if TYPE_CHECKING:
    from rich.console import Console

LINE_SECONDS, LIVE_SECONDS = 10.0, 0.25
"""Between two plain lines, and between two looks of the live display."""
WINDOW_SECONDS = 30.0
"""The present rate is that of the last half minute."""
GAP = "  "
BAR_COLUMNS = 5, 30
"""The shortest bar that tells anything, and the longest."""
RATE_COLUMNS, BYTES_COLUMNS, LEFT_COLUMNS = len("1,234/s"), len("12.3 MB/s"), len("12 min 05 s left")
"""What the block keeps free for each, so that it stands still while the figures change."""
MOST_LEFT = 99 * 3600
"""Seconds; a longer time left is said to be longer, and no more."""


@dataclass(frozen=True, slots=True)
class View:
    """The state of a run at one moment."""

    rows: int
    total: int
    rows_per_second: float
    bytes_per_second: float | None
    """None where nothing is to be sent."""
    outcomes: tuple[str, ...]
    """Such as `1,200 uploaded, 3 failed`; the same again, shorter, for where there is less room."""
    note: str
    """What the endpoint has to do with it, if anything."""

    @property
    def seconds_left(self) -> float | None:
        """At the present rate, or None where there is none."""
        return (self.total - self.rows) / self.rows_per_second if self.rows_per_second > 0 else None

    def line(self) -> str:
        """On one line, as long as it takes."""
        share = f" ({self.rows / self.total:.0%})" if self.total else ""
        done = _(
            "{rows:,} of {total:,} rows{checked}{share}",
            rows=self.rows,
            total=self.total,
            checked=self._checked,
            share=share,
        )
        parts = [done, self._rate, self._bytes]
        parts += [self.outcomes[0], _("about {left}", left=self._left) if self._left else "", self.note]
        return ", ".join(part for part in parts if part)

    def block(self, columns: int) -> "Block":
        """On two lines of at most so many columns. What does not fit is left out, what matters least first."""
        total = f"{self.total:,}"
        counts = [f"{self.rows:>{len(total)},}/{total}{self._checked}", f"{self._rate:>{RATE_COLUMNS}}"]
        if self._bytes:
            counts.append(f"{self._bytes:>{BYTES_COLUMNS}}")
        # The room of the time left is kept while there is none to tell, so that the bar does not jump.
        if width(GAP.join(counts)) + len(GAP) + LEFT_COLUMNS > columns:
            del counts[2:]
        used = width(GAP.join(counts)) + len(GAP) + LEFT_COLUMNS
        bar = min(columns - used - len(GAP), BAR_COLUMNS[1])
        first = cut(GAP.join([*counts, self._left]).rstrip(), columns)
        second = next((text for text in self.outcomes if width(text) <= columns), self.outcomes[-1])
        if self.note:
            second += GAP + self.note
        return Block(bar if bar >= BAR_COLUMNS[0] else 0, first, cut(second, columns))

    @property
    def _checked(self) -> str:
        return _(" checked") if self.bytes_per_second is None else ""

    @property
    def _rate(self) -> str:
        return f"{self.rows_per_second:,.{1 if self.rows_per_second < 100 else 0}f}/s"

    @property
    def _bytes(self) -> str:
        return "" if self.bytes_per_second is None else f"{size(self.bytes_per_second)}/s"

    @property
    def _left(self) -> str:
        if self.seconds_left is None or self.rows >= self.total:
            return ""
        seconds = round(self.seconds_left)
        if seconds > MOST_LEFT:
            return _("over {hours} h left", hours=MOST_LEFT // 3600)
        return (
            _("{seconds} s left", seconds=seconds) if seconds < 60 else _("{duration} left", duration=duration(seconds))
        )


@dataclass(frozen=True, slots=True)
class Block:
    """What a terminal shows of a view."""

    bar: int
    """Columns of the bar, which comes before `counts`; 0 where there is no room for one."""
    counts: str
    outcomes: str


class Display(Protocol):
    """Shows views, one after the other."""

    interval: float

    def show(self, view: View) -> None:
        """Show the newest."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class LineDisplay:
    """Plain lines, for logs and pipes."""

    interval = LINE_SECONDS

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, view: View) -> None:
        """Print one line with the time of day."""
        self._out.write(f"{time.strftime('%H:%M:%S')} {view.line()}\n")
        self._out.flush()

    def close(self) -> None:
        """There is nothing to leave."""


class LiveDisplay:
    """A bar and the counts, redrawn in place."""

    interval = LIVE_SECONDS

    def __init__(self, console: "Console") -> None:
        from rich.live import Live

        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def show(self, view: View) -> None:
        """Redraw."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        # The last column stays free: some terminals go on to the next line as soon as it is written.
        block = view.block(self._console.width - 1)
        first = Table.grid(padding=(0, len(GAP), 0, 0))
        bar = [ProgressBar(max(view.total, 1), view.rows, block.bar)] if block.bar else []
        first.add_row(*bar, Text(block.counts, no_wrap=True))
        self._live.update(Group(first, Text(block.outcomes, no_wrap=True, overflow="crop")), refresh=True)

    def close(self) -> None:
        """Wipe the block."""
        self._live.stop()


def display_for(*, quiet: bool, verbose: bool, out: TextIO = sys.stderr) -> Display | None:
    """The display that suits where the output goes, if one is wanted and can be shown."""
    if quiet:
        return None
    try:
        if verbose or not out.isatty():
            return LineDisplay(out)
        from rich.console import Console

        console = Console(file=out, highlight=False)
        # Not interactive is a terminal without a cursor that can be moved (TERM=dumb): a block could not be redrawn.
        return LiveDisplay(console) if console.is_interactive else LineDisplay(out)
    except OSError:
        return None


def tell(text: str) -> None:
    """Say it on standard error, as far as that can be written: a full disk or a closed pipe there ends no run."""
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


async def watch(display: Display, tally: Tally, total: int, note: Callable[[], str], *, sends: bool = True) -> None:
    """Show the tally from time to time, until cancelled or until it can't be shown: the run goes on unseen.

    `sends` is whether anything is to be sent.
    """
    now = asyncio.get_running_loop().time
    past = deque([(now(), tally.rows, tally.bytes_sent)])
    try:
        while True:
            await asyncio.sleep(display.interval)
            # To the nearest look: each comes a little late, and plain lines would else look back over forty seconds.
            while len(past) > 1 and past[1][0] <= now() - WINDOW_SECONDS + display.interval / 2:
                past.popleft()
            past.append((now(), tally.rows, tally.bytes_sent))
            display.show(_view(tally, total, past[0], past[-1], note(), sends=sends))
    except OSError:
        return
    finally:
        with suppress(OSError):
            display.close()


def _view(
    tally: Tally, total: int, old: tuple[float, int, int], new: tuple[float, int, int], note: str, *, sends: bool
) -> View:
    seconds = max(new[0] - old[0], 1e-9)
    rows, sent = (new[1] - old[1]) / seconds, (new[2] - old[2]) / seconds
    return View(tally.rows, total, rows, sent if sends else None, _outcomes(tally, sends=sends), note)


def _outcomes(tally: Tally, *, sends: bool) -> tuple[str, ...]:
    """The counts in words, from long to short. How many went wrong is said also where none did."""
    in_order = tally.reasons[Outcome.DEFERRED, Reason.NOT_SENT]
    counts = {str(outcome): tally.outcomes[outcome] for outcome in Outcome}
    counts[Outcome.DEFERRED] -= in_order
    counts["in order"] = in_order
    fine, again = (*DONE, "in order"), sum(counts[outcome] for outcome in AGAIN)
    always = Outcome.FAILED if sends else Outcome.INVALID
    words = {str(outcome): _(word) for outcome, word in WORDS.items()} | {"in order": _("in order")}
    told = {
        name: _("{count:,} {outcome}", count=count, outcome=words[name])
        for name, count in counts.items()
        if count or name == always
    }
    good = [text for name, text in told.items() if name in fine]
    bad = [text for name, text in told.items() if name not in fine]
    sum_of_good = _("{count:,} fine", count=sum(counts[name] for name in fine))
    person = counts[Outcome.INVALID] + counts[Outcome.REJECTED]
    sums = (sum_of_good, _("{count:,} need a person", count=person), _("{count:,} another run", count=again))
    return ", ".join([*good, *bad]), ", ".join([sum_of_good, *bad]), ", ".join(sums)
