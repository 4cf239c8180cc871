"""Faults of the program itself: each is the matter of the row that met it, unless they keep coming back."""

import logging
import sys

from batchupload.language import _
from batchupload.logs import event
from batchupload.model import Row
from batchupload.reasons import Reason
from batchupload.stop import Stop

MOST_IN_A_ROW = 10
"""Orders in succession that meet a fault; then it is hardly a matter of the rows, and the run stops."""
MOST_TEXT = 200
"""Characters of a fault's own text that the report shows."""

log = logging.getLogger(__name__)


class Faults:
    """Counts the faults of one run, and asks it to stop if none of the last orders was without."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._in_a_row = 0

    def met(self, row: Row, text: str) -> None:
        """Log that this row met a fault; one that was caught here has its traceback with it."""
        self._in_a_row += 1
        told = _("An internal fault at line %d of %s")
        log.error(told, row.line, row.manifest.name, exc_info=sys.exception(), extra=event("internal_fault"))
        if self._in_a_row >= MOST_IN_A_ROW:
            self._stop.ask(Reason.INTERNAL_ERROR, text)

    def none(self) -> None:
        """Know that an order met no fault."""
        self._in_a_row = 0


def text_of(error: BaseException) -> str:
    """A fault in a few words, for `detail`."""
    return f"{type(error).__name__}: {error}"[:MOST_TEXT].rstrip(": ")
