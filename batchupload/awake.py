"""A clock that stands still while this process does: by it no wait ends only because this machine slept."""

import time
from collections.abc import Callable

SLICE_SECONDS = 0.25
"""The clock must be read at least this often: only so can it tell a pause from a long wait."""
LATE_SECONDS = 0.5
"""A reading that is later than a slice and this was not waited for: the process was stopped, or the machine slept."""
GRACE_SECONDS = 1.0
"""After a pause the clock stands still this long: what came meanwhile, such as an answer in a socket, is seen first."""

# Linux leaves the time of a suspend out of its monotonic clock; macOS counts it in that of this number.
_REAL = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def real_seconds() -> float:
    """Read a clock that nobody sets, and that goes on while this machine sleeps."""
    return time.clock_gettime(_REAL)


class AwakeClock:
    """Give seconds that never go back. Call it at least every `SLICE_SECONDS`; `now` is the clock behind it.

    `time.monotonic` goes on while Ctrl-Z or SIGSTOP holds the process, or a virtual machine is suspended.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._read = now()
        self._paused = 0.0
        self._grace_ends = self._read

    def __call__(self) -> float:
        """Read the clock."""
        now = self._now()
        passed = now - self._read
        if passed > SLICE_SECONDS + LATE_SECONDS:
            # A pause just after a pause counts as a slice: a process that is late each time must come to its end too.
            self._paused += passed - (SLICE_SECONDS if self.stands else 0.0)
            self._grace_ends = now + GRACE_SECONDS
        elif self.stands:
            self._paused += min(now, self._grace_ends) - self._read
        self._read = now
        return now - self._paused

    @property
    def stands(self) -> bool:
        """Whether it stands still at present."""
        return self._read < self._grace_ends


def wait_until(done: Callable[[], bool], wait: Callable[[float], object], seconds: float) -> bool:
    """Call `wait` with short times until `done`, for `seconds` in which this process runs; return whether it is done.

    For threads: on the event loop of this program every limit goes by an `AwakeClock` already.
    """
    clock = AwakeClock()
    end = clock() + seconds
    while not done():
        left = end - clock()
        if left <= 0:
            return False
        wait(min(left, SLICE_SECONDS))
    return True
