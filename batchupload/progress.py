"""What a person sees while a run goes on: a steady block on a terminal, a plain line now and then elsewhere."""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from batchupload.model import DONE, Outcome
from batchupload.summary import Tally, duration, size

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

LINE_SECONDS, LIVE_SECONDS = 10.0, 0.25
"""Between two plain lines, and between two looks of the live display."""
WINDOW_SECONDS = 30.0
"""The present rate is that of the last half minute."""


@dataclass(frozen=True, slots=True)
class View:
    """The state of a run at one moment."""

    rows: int
    total: int
    outcomes: str
    """Such as `1,200 uploaded, 3 failed`."""
    rows_per_second: float
    bytes_per_second: float
    note: str
    """What the endpoint has to do with it, if anything."""

    @property
    def seconds_left(self) -> float | None:
        """At the present rate, or None where there is none."""
        return (self.total - self.rows) / self.rows_per_second if self.rows_per_second > 0 else None

    def line(self) -> str:
        """On one line."""
        share = f" ({self.rows / self.total:.0%})" if self.total else ""
        parts = [f"{self.rows:,} of {self.total:,} rows{share}", f"{self.rows_per_second:,.1f}/s"]
        parts += [f"{size(self.bytes_per_second)}/s", self.outcomes]
        if self.seconds_left is not None and self.rows < self.total:
            parts.append(f"about {duration(self.seconds_left)} left")
        return ", ".join(part for part in [*parts, self.note] if part)


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

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._progress: RichProgress = Progress(
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.description}"),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._progress.add_task("", total=total, rate="")
        self._progress.start()

    def show(self, view: View) -> None:
        """Redraw."""
        rate = f"{view.rows_per_second:,.0f}/s {size(view.bytes_per_second)}/s"
        text = ", ".join(part for part in (view.outcomes, view.note) if part)
        self._progress.update(self._task, completed=view.rows, rate=rate, description=text)
        self._progress.refresh()

    def close(self) -> None:
        """Wipe the bar."""
        self._progress.stop()


def display_for(total: int, *, quiet: bool, verbose: bool, out: TextIO = sys.stderr) -> Display | None:
    """The display that suits where the output goes, if one is wanted and can be shown."""
    if quiet:
        return None
    try:
        return LineDisplay(out) if verbose or not out.isatty() else LiveDisplay(total)
    except OSError:
        return None


def tell(text: str) -> None:
    """Say it on standard error, as far as that can be written: a full disk or a closed pipe there ends no run."""
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


async def watch(display: Display, tally: Tally, total: int, note: Callable[[], str]) -> None:
    """Show the tally from time to time, until cancelled or until it can't be shown: the run goes on unseen."""
    now = asyncio.get_running_loop().time
    past = deque([(now(), 0, 0)])
    try:
        while True:
            await asyncio.sleep(display.interval)
            while len(past) > 1 and past[1][0] < now() - WINDOW_SECONDS:
                past.popleft()
            past.append((now(), tally.rows, tally.bytes_sent))
            display.show(_view(tally, total, past[0], past[-1], note()))
    except OSError:
        return
    finally:
        with suppress(OSError):
            display.close()


def _view(tally: Tally, total: int, old: tuple[float, int, int], new: tuple[float, int, int], note: str) -> View:
    seconds = max(new[0] - old[0], 1e-9)
    shown = [outcome for outcome in Outcome if tally.outcomes[outcome]]
    shown.sort(key=lambda outcome: outcome not in DONE)
    outcomes = ", ".join(f"{tally.outcomes[outcome]:,} {outcome}" for outcome in shown)
    return View(tally.rows, total, outcomes, (new[1] - old[1]) / seconds, (new[2] - old[2]) / seconds, note)
