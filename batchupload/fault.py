"""A fault of the program itself → what is known of it, said loudly; with the code by which it exits."""

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from batchupload.console import tell
from batchupload.language import _
from batchupload.logs import event
from batchupload.model import BatchuploadError

EXIT_CODE = 70
"""As EX_SOFTWARE of sysexits.h."""
FAULTS = (Exception, BaseExceptionGroup)
"""What no part of the program expected; a signal and the end of the process are none."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class OnRecord:
    """What a run has on record, as far as it has come."""

    run: int | None = None
    """Its number in the ledger; None if it sends nothing, or has not begun."""
    ledger: Path | None = None
    report: Path | None = None

    def text(self) -> str:
        """What a person is told of it, and what to do next."""
        if self.run is not None:
            return _(
                "Run {run} had begun, and orders may have been sent. Each attempt is on record in {ledger} "
                "(`batchupload show {run}`); the report {report} holds the rows up to here. Run the same command "
                "again: it does what is missing, and sends nothing again that is known as accepted.",
                run=self.run,
                ledger=self.ledger,
                report=self.report,
            )
        if self.report is not None:
            return _("Nothing was sent; the report {report} holds the rows up to here.", report=self.report)
        return _("No run had begun, and nothing was sent.")


class RunFaultError(Exception):
    """A fault ended a run; its cause is what was raised."""

    def __init__(self, record: OnRecord) -> None:
        super().__init__(record.text())
        self.record = record


@contextmanager
def on_record(record: OnRecord) -> Generator[None, None, None]:
    """Have a fault in the block raised as `RunFaultError`, with what is on `record` by then."""
    try:
        yield
    except (BatchuploadError, RunFaultError):
        raise
    except FAULTS as fault:
        raise RunFaultError(record) from fault


def tell_fault(fault: BaseException) -> None:
    """Say on standard error what was raised and where, what is on record, and what to do. Raises nothing."""
    record = fault.record if isinstance(fault, RunFaultError) else None
    seen = _seen(fault)
    try:
        log.critical(_("A fault in batchupload itself:"), exc_info=seen, extra=event("internal_fault"))
        text = _("this is a fault in batchupload itself; please report it with the lines above.")
        fields = {"ledger": record.ledger, "report": record.report} if record else {}
        tell(f"{text} {record.text()}" if record else text, "fault", exit_code=EXIT_CODE, **fields)
    except FAULTS:  # such as want of memory: the exit code still tells
        with suppress(Exception):
            print(f"batchupload: {type(seen).__name__}, a fault in batchupload itself", file=sys.stderr)  # noqa: T201


def _seen(fault: BaseException) -> BaseException:
    """What was raised, out of what was wrapped around it; its traceback says where."""
    if isinstance(fault, RunFaultError) and fault.__cause__:
        return _seen(fault.__cause__)
    if isinstance(fault, BaseExceptionGroup) and len(fault.exceptions) == 1:
        return _seen(fault.exceptions[0])
    return fault
