"""The program, stopped by a real SIGSTOP at a chosen moment, with limits of a second: `pausing.py MOMENT run …`.

Whoever starts it sends SIGCONT. What it was waiting for at that moment comes a little after it woke.
"""

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

LIMITS = {
    "batchupload.ledger": "COMMIT_SECONDS",
    "batchupload.report": "WRITE_SECONDS",
    "batchupload.kept_file": "DISK_SECONDS",
    "batchupload.page.beside": "PAGE_SECONDS",
}
MOMENTS = {
    "commit": ("batchupload.ledger:Ledger._write", 3),
    "ledger_read": ("batchupload.ledger:Ledger._read", 2),
    "report_begin": ("batchupload.report:_sync_folder", 1),
    "report": ("batchupload.report:_look_for", 1),
    "read": ("batchupload.photos:read_photo", 2),
    "status": ("batchupload.kept_file:replace_file", 1),
    "page": ("batchupload.page.make:make_page", 1),
}
"""Moment → what is called then, and at which call of it the process stops."""
LATE = 0.15
"""Seconds after waking until the disk answers."""


def main() -> None:
    moment, *words = sys.argv[1:]
    for module, name in LIMITS.items():
        setattr(importlib.import_module(module), name, 1.0)
    place, call = MOMENTS[moment]
    module, _, path = place.partition(":")
    holder: Any = importlib.import_module(module)
    *within, name = path.split(".")
    for part in within:
        holder = getattr(holder, part)
    setattr(holder, name, stopping(getattr(holder, name), call))
    sys.argv[1:] = words
    importlib.import_module("batchupload.cli").main()


def stopping(call: Callable[..., Any], number: int) -> Callable[..., Any]:
    calls = 0

    def stopped(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(LATE)
        return call(*arguments, **options)

    return stopped


if __name__ == "__main__":
    main()
