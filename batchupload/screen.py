"""What a person sees while a run goes on: a steady block on a terminal, a plain line now and then elsewhere."""

import asyncio
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TextIO

from batchupload.colour import DUMB, Line, Span, Tone, painted, plain, wanted
from batchupload.foreign import visible_lines
from batchupload.progress import GAP, block, line
from batchupload.snapshot import Snapshot
from batchupload.stderr import Visible, is_waiting, settle

LINE_SECONDS, LIVE_SECONDS = 10.0, 0.25
"""Between two plain lines, and between two looks of the live display."""
BEGIN, END = "\x1b[?2026h\x1b[?25l\x1b[?7l\r", "\x1b[?7h\x1b[?2026l"
"""Around a frame: shown all at once, without a cursor, and no line goes on to the next, whatever a terminal makes of a
character's width. Terminals that don't know one of these pass over it."""
WIPE, SHOW_CURSOR = "\r\x1b[J", "\x1b[?25h"
BAR, ASCII_BAR = "━─", "#-"


class Display(Protocol):
    """Shows snapshots, one after the other."""

    interval: float

    def show(self, now: Snapshot) -> None:
        """Show the newest."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class LineDisplay:
    """Plain lines, for logs and pipes."""

    interval = LINE_SECONDS

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, now: Snapshot) -> None:
        """Print one line with the time of day."""
        self._out.write(f"{time.strftime('%H:%M:%S')} {line(now)}\n")
        self._out.flush()

    def close(self) -> None:
        """There is nothing to leave."""


class LiveDisplay:
    """Two lines, drawn over each other in place; it stands in for standard error, so that messages go above them.

    The cursor rests where the block begins. So a terminal that is made narrower, and breaks its lines anew, takes the
    cursor along, and all that is below it can be wiped.
    """

    interval = LIVE_SECONDS

    def __init__(self, out: TextIO, *, colour: bool) -> None:
        self._out = out
        self._paint = painted if colour else plain
        self._bar = BAR if "utf" in (out.encoding or "").lower() else ASCII_BAR
        self._frame = ""
        self._drawing = threading.RLock()
        """Messages come from any thread."""
        self._signals = _aside(self._step_aside)
        self._stderr, sys.stderr = sys.stderr, _Above(out, self._above)

    def show(self, now: Snapshot) -> None:
        """Draw the newest over what was there, in one write; nothing where nobody would see it."""
        if is_waiting(self._out) or not _in_foreground(self._out):
            return
        # The last column stays free: a mark of a cut line may be two cells wide on some terminals.
        told = block(now, columns(self._out) - 1)
        bar: Line = ()
        if told.bar:
            done, rest = self._bar[0] * told.done, self._bar[1] * (told.bar - told.done)
            bar = (Span(done, Tone.GOOD), Span(rest, Tone.FAINT), Span(GAP))
        first, second = self._paint((*bar, Span(told.counts))), self._paint(told.outcomes)
        with self._drawing:
            self._frame = f"{first}\x1b[K\r\n{second}\x1b[K\x1b[J\x1b[1A\r"
            self._write(f"{BEGIN}{self._frame}{END}")

    def close(self) -> None:
        """Wipe the block, and give the cursor back."""
        for number in self._signals:
            asyncio.get_running_loop().remove_signal_handler(number)
        self._signals = ()
        with self._drawing:
            sys.stderr, above = self._stderr, sys.stderr
            if isinstance(above, _Above):
                above.end()
            if self._frame:
                self._frame = ""
                self._write(WIPE + SHOW_CURSOR)

    def _above(self, text: str) -> None:
        """Write whole lines where the block begins, and the block anew below them."""
        with self._drawing:
            text = visible_lines(text)
            self._write(f"{BEGIN}{WIPE}{END}{text}{BEGIN}{self._frame}{END}" if self._frame else text)

    def _write(self, text: str) -> None:
        draw = self._out.draw if isinstance(self._out, Visible) else self._out.write
        draw(text)
        self._out.flush()

    def _step_aside(self, number: signal.Signals) -> None:
        """Ctrl-Z: leave the terminal as it was, and then do as such a signal does."""
        with self._drawing, suppress(OSError):
            if self._frame:
                self._frame = ""
                self._write(WIPE + SHOW_CURSOR)
        settle()
        loop = asyncio.get_running_loop()
        loop.remove_signal_handler(number)
        os.kill(os.getpid(), number)
        loop.add_signal_handler(number, self._step_aside, number)  # brought back by `fg`


class _Above(io.TextIOBase):
    """Standard error while the block stands: whole lines go above it."""

    def __init__(self, out: TextIO, above: Callable[[str], None]) -> None:
        self._out = out
        self._above = above
        self._begun = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._out.encoding

    @property
    def buffer(self) -> object:
        return self._out.buffer

    def fileno(self) -> int:
        return self._out.fileno()

    def isatty(self) -> bool:
        return self._out.isatty()

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        whole, newline, self._begun = (self._begun + text).rpartition("\n")
        if newline:
            self._above(whole + newline)
        return len(text)

    def end(self) -> None:
        """Let out what no newline came for."""
        if self._begun:
            self._above(f"{self._begun}\n")


def display_for(*, quiet: bool, verbose: bool, out: TextIO | None = None) -> Display | None:
    """The display that suits where the output goes, if one is wanted and can be shown."""
    out = out or sys.stderr
    if quiet:
        return None
    with suppress(OSError, ValueError):
        if verbose or not out.isatty() or not _can_be_redrawn(out):
            return LineDisplay(out)
        return LiveDisplay(out, colour=wanted(out))
    return None


async def watch(display: Display, look: Callable[[], Snapshot]) -> None:
    """Show the run from time to time, until cancelled or until it can't be shown: the run goes on unseen."""
    try:
        while True:
            await asyncio.sleep(display.interval)
            display.show(look())
    except OSError:
        return
    finally:
        with suppress(OSError):
            display.close()


def columns(out: TextIO) -> int:
    """The terminal's present width: its own word, for what a shell once exported may be old."""
    with suppress(OSError, ValueError):
        if found := os.get_terminal_size(out.fileno()).columns:
            return found
    exported = os.environ.get("COLUMNS", "")
    return int(exported) if exported.isdecimal() and int(exported) else 80


def _can_be_redrawn(out: TextIO) -> bool:
    """Whether this terminal has a cursor that can be moved."""
    if os.environ.get("TERM") in DUMB:
        return False
    if sys.platform == "win32":
        from colorama import AnsiToWin32  # there it comes with click; asking it turns the console's own support on

        return not AnsiToWin32(out).convert
    return True


def _in_foreground(out: TextIO) -> bool:
    """Whether the terminal is ours to draw on, and not the shell's (after Ctrl-Z and `bg`, or with `&`)."""
    try:
        return os.tcgetpgrp(out.fileno()) == os.getpgrp()
    except (OSError, AttributeError):  # not the terminal that this process was started from
        return True


def _aside(step: Callable[[signal.Signals], None]) -> tuple[signal.Signals, ...]:
    """Have `step` called before Ctrl-Z stops this process with the block still on the terminal."""
    numbers = []
    with suppress(RuntimeError, NotImplementedError, AttributeError, ValueError):
        loop = asyncio.get_running_loop()
        if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
            loop.add_signal_handler(signal.SIGTSTP, step, signal.SIGTSTP)
            numbers.append(signal.SIGTSTP)
    return tuple(numbers)
