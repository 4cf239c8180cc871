"""Log lines: as text for people, as one JSON object each for machines. Below all that log."""

import json
import logging
import sys
import textwrap
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from batchupload.foreign import visible, visible_lines
from batchupload.stderr import Unhurried

RUN: ContextVar[int | None] = ContextVar("run", default=None)
"""The number of the run that is on, for each line that comes of it."""

remarks = logging.getLogger("batchupload.remarks")
"""What a person is told in any case, in text without a time before it."""


def event(name: str, **fields: object) -> dict[str, object]:
    """The `extra` of a log line: what happened, as a stable word, and what is to be known of it."""
    return {"event": name, "fields": fields}


def remark(name: str, text: str, **fields: object) -> None:
    """Say it on standard error, as far as that can be written."""
    remarks.info("%s", text, extra={**event(name, **fields), "bare": True})


class LogLines(logging.Handler):
    """Log lines on standard error as it is at that moment: the live display stands in for it, so that they go above.

    Where it can't be written they are lost, and nothing else is.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        with suppress(OSError):
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()


class TextLines(logging.Formatter):
    """The time of day and the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """One line, but for tracebacks, which are indented, and for remarks."""
        return visible_lines(record.getMessage()) if getattr(record, "bare", False) else super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the usual name
        """One line."""
        return visible(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the usual name
        """The traceback; no line of it can be taken for one of the log's own."""
        return textwrap.indent(visible_lines(super().formatException(ei)), "  ")


class JsonLines(logging.Formatter):
    """One JSON object on one line: `time`, `level`, `event`, `message`, `run`, and the fields of the event."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        told = _line(
            record.created,
            record.levelname.lower(),
            getattr(record, "event", "internal_fault" if record.exc_info else "log"),
            record.getMessage(),
            getattr(record, "fields", {}),
        )
        if record.exc_info and record.exc_info[0]:
            # Without what the exception says, which may name a photo.
            told["fault"] = record.exc_info[0].__name__
            told["traceback"] = "".join(traceback.format_tb(record.exc_info[2]))
        return json.dumps({name: value for name, value in told.items() if value is not None}, default=str)


def start_logging(verbosity: int, *, as_json: bool = False, quiet: bool = False) -> None:
    """Have log lines on standard error: trouble always, and more as asked for.

    As JSON also what the run as a whole does. `verbosity` 1 adds rows (as JSON their attempts too), 2 all there is.
    """
    handler = LogLines()
    handler.setFormatter(JsonLines() if as_json else TextLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    of_run = logging.INFO if verbosity or (as_json and not quiet) else logging.WARNING
    levels = {
        "batchupload": of_run,
        "batchupload.remarks": logging.INFO,
        "batchupload.rows": logging.INFO if verbosity else logging.WARNING,
        "batchupload.attempts": logging.INFO if verbosity > 1 - as_json else logging.WARNING,
    }
    if verbosity > 1:  # not Pillow, which logs what photos say of people
        levels |= dict.fromkeys(("aiohttp", "asyncio", "batchupload"), logging.DEBUG)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    inner = getattr(sys.stderr, "buffer", None)
    if as_json and isinstance(inner, Unhurried):
        inner.missing = _lines_lost


def is_json() -> bool:
    """Whether log lines are JSON."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)


def _lines_lost(count: int) -> str:
    text = f"{count:,} lines are missing here: nobody read them in time"
    return json.dumps(_line(time.time(), "warning", "lines_lost", text, {"lines": count}))


def _line(at: float, level: str, name: str, message: str, fields: Mapping[str, object]) -> dict[str, Any]:
    return {
        "time": datetime.fromtimestamp(at).astimezone().isoformat(timespec="milliseconds"),
        "level": level,
        "event": name,
        "message": message.strip(),
        "run": RUN.get(),
        **fields,
    }
