"""The photo stage: orders → photo sets, several orders at a time, each on record before it may be sent."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from batchupload.ending import already_uploaded, faulty, good, not_tried_again, set_aside, unusable
from batchupload.language import _
from batchupload.logs import event
from batchupload.model import AwayPhotos, Ending, Loaded, Note, NoteKind, Order, PhotoSet, Problem, is_address
from batchupload.reasons import Reason
from batchupload.recorder import Recorder
from batchupload.row_faults import Faults, text_of
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
MACHINE_FAULTS = frozenset(
    {Reason.PHOTO_NOT_FETCHED, Reason.PHOTO_DECODE_TIMEOUT, Reason.PHOTO_FOLDER_GONE, Reason.PHOTO_DISK_ERROR}
)
"""Why photos could not be had, with nothing known against them: another run may."""

LOOK_AGAIN_SECONDS = 1.0
"""After which a photo that is missing is looked for once more: by then the next orders show whether it is alone."""
LOOK_AGAIN_AT_MOST = 100
"""Orders that wait for that at a time; of so many missing photos the others need not wait to be told."""

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
        self._faults = Faults(stop)
        self._set_size = BYTES_AT_ONCE
        self._sightings = Sightings(rows) if settings.photos.warn else None
        self._quarantine_after = settings.retry.quarantine_after
        self._found = False
        """Whether the photos of an order were there."""
        self._waiting = 0

    def at_once(self, concurrency: int) -> int:
        """Orders to take at a time: more where they are small, or where what is under way takes more memory anyhow."""
        if self._settings.repair:  # which takes so long that every thread should have its share
            return 1
        return max(1, min(ORDERS_AT_ONCE, max(BYTES_AT_ONCE // self._set_size, concurrency // SHARE_AT_ONCE)))

    async def load(self, orders: Sequence[Order]) -> tuple[list[Loaded], list[Ending], list[Order]]:
        """Those to be sent, the endings of others, and orders to `look_again` at. A fault at one is that order's."""
        steps = await self._read(orders)
        loaded = [step for step in steps if isinstance(step, Loaded)]
        endings = [step for step in steps if isinstance(step, Ending)]
        begun = await self._begun(loaded) if loaded else []
        return (
            [step for step in begun if isinstance(step, Loaded)],
            endings + [step for step in begun if isinstance(step, Ending)],
            [step for step in steps if isinstance(step, Order)],
        )

    async def look_again(self, order: Order) -> Order:
        """Wait for a moment; the order then is to be loaded once more."""
        self._waiting += 1
        try:
            await self._stop.sleep(LOOK_AGAIN_SECONDS)
        finally:
            self._waiting -= 1
        return replace(order, missed=True)

    async def _begun(self, loaded: Sequence[Loaded]) -> Sequence[Ending | Loaded]:
        """The same orders, once it is on record that they are sent; or the endings of those that may not be."""
        try:
            if await self._recorder.begin(loaded):
                return loaded
            endings = [self.left(one.order) for one in loaded]
        except Exception as error:  # noqa: BLE001 - a boundary: the other orders go on
            if len(loaded) > 1:
                return [step for one in loaded for step in await self._begun([one])]
            endings = [self.fault(loaded[0].order, text_of(error))]
        for one in loaded:
            self._site.drop(one.photo_set)
        return endings

    def fault(self, order: Order, text: str, *, sending: bool = False) -> Ending:
        """The ending of an order that met a fault of ours; `sending` if its send may have been under way."""
        self._faults.met(order.row, text)
        return faulty(order, self._elapsed(order), text, sending=sending)

    def left(self, order: Order) -> Ending:
        """The ending of an order that the end of the run finds before its send."""
        return not_tried_again(order, self._elapsed(order), self._stop.cause or Reason.STOPPED, self._stop.detail)

    async def _read(self, orders: Sequence[Order]) -> Sequence[Ending | Loaded | Order]:
        if self._stop.cause:
            return [self.left(order) for order in orders]
        try:
            found = await self._site.look([order.wanted for order in orders])
        except InterruptedAttemptError:
            return [self.left(order) for order in orders]
        except Exception as error:  # noqa: BLE001 - a boundary: whichever order is at fault, the others go on without it
            if len(orders) > 1:
                return [step for order in orders for step in await self._read([order])]
            return [self.fault(orders[0], text_of(error))]
        sizes = [one.size for one in found if isinstance(one, PhotoSet | AwayPhotos)]
        self._set_size = max(sizes, default=self._set_size)
        return [self._judged(order, one) for order, one in zip(orders, found, strict=True)]

    def _judged(self, order: Order, found: Found) -> Ending | Loaded | Order:
        try:
            return self._looked_at(order, found)
        except Exception as error:  # noqa: BLE001 - the same boundary
            if isinstance(found, PhotoSet | AwayPhotos):
                self._site.drop(found)
            return self.fault(order, text_of(error))

    def _looked_at(self, order: Order, found: Found) -> Ending | Loaded | Order:
        if isinstance(found, Problem) and found.reason is Reason.INTERNAL_ERROR:
            return self.fault(order, found.detail)
        self._faults.none()
        if isinstance(found, Reason):
            if found is Reason.READERS_LOST:
                self._stop.ask(found)
            return not_tried_again(order, self._elapsed(order), found)
        if isinstance(found, Problem) and found.reason in MACHINE_FAULTS:
            return not_tried_again(order, self._elapsed(order), found.reason, found.detail)
        if isinstance(found, Problem):
            return order if self._may_be_the_disk(order, found) else unusable(order, self._elapsed(order), found)
        self._found = True
        if not order.attempts and (notes := (*found.notes, *self._seen_elsewhere(order, found))):
            order = replace(order, notes=notes)
        ending = self._unsent(order, found.digest)
        if ending:
            self._site.drop(found)
        return ending or Loaded(order, found)

    def _may_be_the_disk(self, order: Order, problem: Problem) -> bool:
        """Whether a photo that is not there may be the first of many that just went."""
        path = order.row.photos.get(problem.field, "")
        return (
            problem.reason is Reason.PHOTO_MISSING
            and self._found
            and self._waiting < LOOK_AGAIN_AT_MOST
            and not (order.missed or is_address(path))
        )

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
