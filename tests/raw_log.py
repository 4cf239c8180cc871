"""The log of the raw endpoint: what it saw and said, as events in order."""

import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NO_ORDER = "nobody"
"""Stands for an order number that the endpoint does not know."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, by the monotonic clock."""

    at: float
    connection: int
    attempt: str
    what: str
    order_id: str
    facts: dict[str, Any]


@dataclass
class Log:
    """What this endpoint saw and said, in order."""

    events: list[Event] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, connection: int, attempt: str, what: str, order_id: str = NO_ORDER, **facts: Any) -> None:
        """Add an event. Facts are plain JSON."""
        with self._lock:
            self.events.append(Event(time.monotonic(), connection, attempt, what, order_id, facts))

    def save(self, path: Path) -> None:
        """Write it as JSON lines."""
        names = ("at", "connection", "attempt", "what", "order_id", "facts")
        lines = (json.dumps({name: getattr(event, name) for name in names}) for event in self.events)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
