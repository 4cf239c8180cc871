"""Threads for blocking work that may never end: nothing waits for one that hangs, not even the end of the program."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")
Work = tuple["Future[Any]", Callable[[], Any]]


class Threads(Executor):
    """Begins each piece of work at once, in a thread that is idle or else in a new one; who submits keeps it bounded.

    Those of `ThreadPoolExecutor` are waited for when the interpreter ends; these are not.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = self._count = 0
        self._over = False

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """See `Executor`. Raises `RuntimeError` once it is shut down, or if this machine has no more threads."""
        done: Future[T] = Future()
        with self._lock:
            if self._over:
                raise RuntimeError("these threads are shut down")
            if self._idle:
                self._idle -= 1
            else:
                threading.Thread(target=self._run, name=f"{self._name}-{self._count}", daemon=True).start()
                self._count += 1
        self._work.put((done, lambda: call(*args, **kwargs)))
        return done

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Begin nothing more, and wait for nothing; a thread that hangs ends with the process."""
        del wait, cancel_futures
        with self._lock:
            self._over = True
            for _thread in range(self._count):
                self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            _do(*work)
            del work  # nothing here keeps photos while it waits
            with self._lock:
                self._idle += 1


def _do(done: "Future[Any]", call: Callable[[], Any]) -> None:
    if not done.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - a boundary: whoever waits for the work gets it
        done.set_exception(error)
    else:
        done.set_result(result)
