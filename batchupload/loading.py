"""The photo stage: orders → photo sets, several orders at a time, each on record before it may be sent."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from batchupload.ending import already_uploaded, good, not_tried_again, set_aside, unusable
from batchupload.language import _
from batchupload.logs import event
from batchupload.model import AwayPhotos, Ending, Loaded, Note, NoteKind, Order, PhotoSet, Problem
from batchupload.reasons import Reason
from batchupload.recorder import Recorder
from batchupload.settings import Settings
from batchupload.sightings import Sightings
from batchupload.site import Found, Site
from batchupload.stop import InterruptedAttemptError, Stop

ORDERS_AT_ONCE = 8
"""Orders whose photos are read at a time, at most. Each time costs some hops between threads and a commit; some five
times as many are held ahead (measured at 30 KB a photo: twice as many gave 1.16 × the rate, for 5 MB more)."""
BYTES_AT_ONCE = 4 << 20
"""Bytes of the photos that are read at a time, about: fewer orders where they are large."""
SHARE_AT_ONCE = 8
"""Where so many sends are allowed, one order more at a time is little beside what they hold."""

log = logging.getLogger(__name__)


class Loading:
    """Has photos read and checked at `site`.

    Without `send` that is all; with `force` also those go on that were uploaded before or are set aside.
    """

    def __init__(
        self,
        settings: Settings,
        site: Site,
        recorder: Recorder,
        stop: Stop,
        elapsed: Callable[[Order], float],
        rows: int,
        *,
        send: bool,
        force: bool,
    ) -> None:
        self._site = site
        self._settings = settings.photos
        self._recorder = recorder
        self._stop = stop
        self._elapsed = elapsed
        self._send = send
        self._force = force
        self._set_size = BYTES_AT_ONCE
        self._sightings = Sightings(rows) if settings.photos.warn else None
        self._quarantine_after = settings.retry.quarantine_after

    def at_once(self, concurrency: int) -> int:
        """Orders to take at a time: more where they are small, or where what is under way takes more memory anyhow."""
        if self._settings.repair:  # which takes so long that every thread should have its share
            return 1
        return max(1, min(ORDERS_AT_ONCE, max(BYTES_AT_ONCE // self._set_size, concurrency // SHARE_AT_ONCE)))

    async def load(self, orders: Sequence[Order]) -> tuple[list[Loaded], list[Ending]]:
        """Those to be sent, and the endings of the others."""
        try:
            steps = await self._read(orders)
            loaded = [step for step in steps if isinstance(step, Loaded)]
            endings = [step for step in steps if isinstance(step, Ending)]
            if loaded and not await self._recorder.begin(loaded):
                endings += [self.left(one.order) for one in loaded]
                for one in loaded:
                    self._site.drop(one.photo_set)
                loaded = []
        except Exception:  # a boundary: whatever is wrong in here, each row gets its ending, and the run stops
            log.exception(_("An internal fault near line %d of %s"), orders[0].row.line, orders[0].row.manifest.name)
            self._stop.ask(Reason.INTERNAL_ERROR)
            return [], [not_tried_again(order, self._elapsed(order), Reason.INTERNAL_ERROR) for order in orders]
        return loaded, endings

    def left(self, order: Order) -> Ending:
        """The ending of an order that the end of the run finds before its send."""
        return not_tried_again(order, self._elapsed(order), self._stop.cause or Reason.STOPPED, self._stop.detail)

    async def _read(self, orders: Sequence[Order]) -> Sequence[Ending | Loaded]:
        if self._stop.cause:
            return [self.left(order) for order in orders]
        try:
            found = await self._site.look([order.wanted for order in orders])
        except InterruptedAttemptError:
            return [self.left(order) for order in orders]
        sizes = [one.size for one in found if isinstance(one, PhotoSet | AwayPhotos)]
        self._set_size = max(sizes, default=self._set_size)
        return [self._looked_at(order, one) for order, one in zip(orders, found, strict=True)]

    def _looked_at(self, order: Order, found: Found) -> Ending | Loaded:
        if isinstance(found, Reason):
            return not_tried_again(order, self._elapsed(order), found)
        if isinstance(found, Problem) and found.reason is Reason.PHOTO_NOT_FETCHED:
            return not_tried_again(order, self._elapsed(order), found.reason, found.detail)
        if isinstance(found, Problem):
            return unusable(order, self._elapsed(order), found)
        if not order.attempts and (notes := (*found.notes, *self._seen_elsewhere(order, found))):
            order = replace(order, notes=notes)
        ending = self._unsent(order, found.digest)
        if ending:
            self._site.drop(found)
        return ending or Loaded(order, found)

    def _unsent(self, order: Order, digest: bytes) -> Ending | None:
        """The ending of an order whose photos are good, but not to be sent."""
        if not self._send:
            return good(order)
        if order.attempts or self._force:
            return None
        if digest == order.standing.uploaded:
            return already_uploaded(order)
        streak, most = order.standing.streak, self._quarantine_after
        # Other photos than those of the nights that it failed on are a new beginning.
        if streak and 0 < most <= streak.nights and streak.photos == digest:
            return set_aside(order, streak)
        return None

    def _seen_elsewhere(self, order: Order, found: PhotoSet | AwayPhotos) -> Sequence[Note]:
        """Warnings of photos that an order before this one had."""
        if self._sightings is None:
            return ()
        order_id, was_full = order.row.order_id, self._sightings.full
        notes = [
            Note(
                NoteKind.OTHER_ORDER,
                _("{field} is also in order {order_id}", field=found.fields[place], order_id=other),
            )
            for place, other in self._sightings.meet(order_id, found.digest)
        ]
        if self._sightings.full and not was_full:
            text = _("So many photos that those to come are compared only with those up to here.")
            log.warning(text, extra=event("comparison_full"))
        return notes
