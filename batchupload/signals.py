"""The signals that ask this program to end, which each long job answers in its own way, and the rest in one."""

import asyncio
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

_ALWAYS = frozenset({signal.SIGINT, signal.SIGTERM})
"""Answered even if they were ignored, as a shell has it for what it starts in the background."""
_NOT_ASKING = frozenset(
    {
        "SIGKILL", "SIGSTOP",  # nobody answers these
        "SIGABRT", "SIGBUS", "SIGEMT", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP",  # a fault: no code is to run
        "SIGPIPE", "SIGXFSZ",  # errors of a write, which say more
        "SIGCHLD", "SIGCLD", "SIGCONT", "SIGINFO", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH",  # end nothing
    }
)  # fmt: skip


def asking() -> list[int]:
    """Return the signals that would end this process; not those that are ignored, or that something else answers."""
    ends = (signal.SIG_DFL, end)
    left_out = {getattr(signal, name) for name in _NOT_ASKING if hasattr(signal, name)}
    numbers = sorted(int(number) for number in signal.valid_signals() if number not in left_out)
    # `nohup` has SIGHUP ignored, so that the run outlives its terminal.
    return [number for number in numbers if number in _ALWAYS or signal.getsignal(number) in ends]


def name_of(number: int) -> str:
    """Return the name of a signal, also of one between those that Python knows."""
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def end(number: int, _frame: FrameType | None = None) -> NoReturn:
    """End the program by an exception, so that no half file stays behind."""
    sys.exit(128 + number)


def end_by_exception() -> None:
    """Have `end` answer each signal that asks this program to end, but Ctrl-C, which raises one anyway.

    Without it a SIGTERM leaves temporary files, a SIGQUIT all of the memory in a file, and as the first process of a
    container this one is not ended at all.
    """
    for number in asking():
        if number != signal.SIGINT:
            signal.signal(number, end)


@contextmanager
def answered_on(loop: asyncio.AbstractEventLoop, answer: Callable[[int], None]) -> Generator[None, None, None]:
    """Have `answer` called on the loop with each signal that asks this program to end."""
    before = {number: signal.getsignal(number) for number in asking()}
    for number in before:
        loop.add_signal_handler(number, answer, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            if handler is end:
                signal.signal(number, end)


@contextmanager
def answered(answer: Callable[[int], object]) -> Generator[None, None, None]:
    """The same without a loop, in the main thread."""
    before = {number: signal.signal(number, lambda number, _frame: answer(number)) for number in asking()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
