"""Standard output and error: what others wrote is made visible there, and a slow reader of errors holds up nobody."""

import io
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from batchupload.awake import wait_until
from batchupload.foreign import visible_lines
from batchupload.language import _

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MOST_WAITING = 4 << 20
"""Bytes that may wait for a slow reader: some 50,000 lines of `-v`."""
AT_ONCE = 32 << 10
"""Bytes of one write, so that it shows whether the reader takes any."""
SETTLE_SECONDS = 1.0
"""How long a reader that takes nothing is waited for, at the end."""


class Visible(io.TextIOWrapper):
    """A stream to a person: no text of others that got into a message moves the cursor or turns what stands there."""

    colours = False
    """Whether ours are let through."""

    def write(self, text: str, /) -> int:
        """Write what can be seen of it, with its line breaks."""
        return super().write(visible_lines(text, colours=self.colours))

    def draw(self, text: str) -> None:
        """Write it as it is: the live display, which moves the cursor itself."""
        super().write(text)


class Unhurried(io.RawIOBase):
    """What is written to `descriptor` by a thread of its own.

    A pager that is paused, a terminal after Ctrl-S, a log disk that hangs: each would hold up the writer, and with it
    every upload and the answer to every signal.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._waiting = deque[bytes]()
        self._size = 0
        """Bytes not yet written, those under way included."""
        self._lost = 0
        self.missing: Callable[[int], str] = _missing
        """What is said where so many lines were lost."""
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._pump, name="stderr", daemon=True)

    def fileno(self) -> int:
        """The descriptor; what asks for it wants to know about the terminal."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether a person may be reading."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: "ReadableBuffer", /) -> int:
        """Take it, or lose it where too much waits already. Never waits, never fails."""
        taken = bytes(text)
        with self._changed:
            if self._size + len(taken) > MOST_WAITING:
                self._lost += 1
                return len(taken)
            if self._lost:
                self._add(f"{self.missing(self._lost)}\n".encode())
                self._lost = 0
            self._add(taken)
            if self._thread.ident is None:
                self._thread.start()
            self._changed.notify_all()
        return len(taken)

    @property
    def waiting(self) -> bool:
        """Whether something is not yet written."""
        return self._size > 0

    def settle(self) -> None:
        """Wait until all is written, or for as long as the reader still takes some."""
        with self._changed:
            while self._size and self._takes_some(self._size):
                pass

    def _takes_some(self, size: int) -> bool:
        return wait_until(lambda: self._size != size, self._changed.wait, SETTLE_SECONDS)

    def _add(self, text: bytes) -> None:
        self._waiting.append(text)
        self._size += len(text)

    def _pump(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                # All at once: between two writes the interpreter must be got back from a busy event loop.
                rest = memoryview(b"".join(self._waiting))
                self._waiting.clear()
            while rest:
                written = len(rest)  # what can't be written is lost, and nothing else is
                with suppress(OSError):
                    written = os.write(self._descriptor, rest[:AT_ONCE])
                rest = rest[written:]
                with self._changed:
                    self._size -= written
                    self._changed.notify_all()


def _missing(lines: int) -> str:
    return _("… {lost:,} lines are missing here: nobody read them in time\n", lost=lines).rstrip()


def unhurried() -> Visible:
    """A standard error of both kinds in place of the present one."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    # A character the screen can't show is no reason to end.
    return Visible(
        Unhurried(2),  # type: ignore[arg-type]
        encoding,
        "backslashreplace",
        line_buffering=True,
        write_through=True,
    )


def seen(stream: TextIO) -> Visible | TextIO:
    """A standard output of the first kind in place of `stream`."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    encoding, by_line = stream.encoding, stream.line_buffering
    # A name that the screen can't show is no reason to end.
    return Visible(stream.detach(), encoding, "backslashreplace", line_buffering=by_line)


def is_waiting(stream: io.TextIOBase | TextIO) -> bool:
    """Whether the reader of `stream` is behind."""
    inner = getattr(stream, "buffer", None)
    return isinstance(inner, Unhurried) and inner.waiting


def settle() -> None:
    """See that what was said before is read before; without waiting for one who does not read."""
    stream = getattr(sys.stderr, "buffer", None)
    if isinstance(stream, Unhurried):
        stream.settle()
