"""The rows of all manifests, read by threads of their own: one that stalls holds up no other, and loses no row."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from batchupload.language import _
from batchupload.logs import event
from batchupload.model import Problem, Row
from batchupload.reasons import Reason
from batchupload.row_faults import text_of
from batchupload.source import ManifestError
from batchupload.survey import KnownRows
from batchupload.threads import Threads

ROWS_AT_ONCE = 256
"""Rows read at a time, off the loop."""
LOOK_SECONDS = 0.25
"""How often it is looked whether a manifest that stalls is still worth waiting for."""
PASS_OVER_SECONDS = 1.0
"""How long a manifest may take for its next rows before those of the others are taken instead."""


log = logging.getLogger(__name__)


@dataclass(slots=True)
class Manifest:
    """One manifest that is being read."""

    rows: Iterator[Row]
    known: KnownRows | None = None
    """Its rows as the first pass saw them; None if there was none."""
    most: int | None = None
    """Rows to take of it; None for all."""
    taken: int = 0
    """Rows that were read."""
    pending: "asyncio.Future[tuple[list[Row], Exception | None]] | None" = None
    """The next rows, on their way."""
    since: float = 0.0
    """When these were asked for."""
    lost: Iterator[Row] | None = None
    """Rows that could not be read, as far as they are known, once no more can be read."""
    over: bool = False


class Feed:
    """Reads manifests, one after the other unless one stalls, in a thread for each that does."""

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self._left = list(manifests)
        self._threads = Threads("manifest")
        self.broken: ManifestError | None = None
        """Why a manifest could not be read to its end, if so."""

    async def read(self, waits: Callable[[float], bool]) -> list[Row]:
        """The next rows; none once all were read. Those of a manifest that was given up have a `problem`.

        `waits` tells whether a manifest that has stalled for so many seconds is still waited for.
        """
        while left := [manifest for manifest in self._left if not manifest.over]:
            for manifest in left:
                if manifest.lost is None and manifest.pending is None:
                    self._begin(manifest)
                if rows := self._next(manifest):
                    return rows
                if not manifest.over and not self._stalls(manifest):
                    break
            else:
                stalled = [manifest for manifest in left if not manifest.over]
                if stalled and not waits(min(self._seconds(manifest) for manifest in stalled)):
                    for manifest in stalled:
                        self._lose(manifest, None)
                    continue
            pending = [manifest.pending for manifest in left if manifest.pending]
            if pending:
                await asyncio.wait(pending, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        self.close()
        return []

    def close(self) -> None:
        """Read no more."""
        self._threads.shutdown()

    def _begin(self, manifest: Manifest) -> None:
        loop = asyncio.get_running_loop()
        count = ROWS_AT_ONCE if manifest.most is None else min(ROWS_AT_ONCE, manifest.most - manifest.taken)
        manifest.since = loop.time()
        manifest.pending = loop.run_in_executor(self._threads, _read, manifest.rows, count)

    def _next(self, manifest: Manifest) -> list[Row]:
        """Its next rows, if they are there."""
        if manifest.lost is None and manifest.pending and manifest.pending.done():
            (rows, error), manifest.pending = manifest.pending.result(), None
            manifest.taken += len(rows)
            if error or (not rows and manifest.taken < self._known(manifest)):
                self._lose(manifest, error)
            if rows:
                return rows
            manifest.over = manifest.lost is None
        if manifest.lost is not None:
            rows = list(itertools.islice(manifest.lost, ROWS_AT_ONCE))
            manifest.over = not rows
            return rows
        return []

    def _known(self, manifest: Manifest) -> int:
        """Rows that it is known to have."""
        count = manifest.known.count if manifest.known else 0
        return count if manifest.most is None else min(count, manifest.most)

    def _seconds(self, manifest: Manifest) -> float:
        """How long its next rows are on their way."""
        return asyncio.get_running_loop().time() - manifest.since

    def _stalls(self, manifest: Manifest) -> bool:
        return manifest.pending is not None and self._seconds(manifest) >= PASS_OVER_SECONDS

    def _lose(self, manifest: Manifest, error: Exception | None) -> None:
        """Read no more of it: the rows that are left are known by their lines and order numbers."""
        if isinstance(error, ManifestError):
            why = str(error)
        elif error:
            log.error(_("An internal fault while a manifest was read"), exc_info=error, extra=event("internal_fault"))
            why = text_of(error)
        else:
            why = _("The manifest could not be read on in time. Check the disk, run again.")
        self.broken = self.broken or (error if isinstance(error, ManifestError) else ManifestError(why))
        manifest.pending = None
        rows = manifest.known.rows(Problem(Reason.MANIFEST_LOST, why)) if manifest.known else iter(())
        manifest.lost = itertools.islice(rows, manifest.taken, manifest.most)


def _read(rows: Iterator[Row], count: int) -> tuple[list[Row], Exception | None]:
    """The next rows, and what ended the reading, if anything did."""
    read: list[Row] = []
    try:
        for row in itertools.islice(rows, count):
            read.append(row)  # noqa: PERF402 (what is read before an error counts)
    except Exception as error:  # noqa: BLE001 - a boundary: what was read before it counts
        return read, error
    return read, None
