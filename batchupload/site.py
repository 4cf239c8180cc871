"""Where photos are read and sent: the seam between a run, which decides, and the hands that do."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from batchupload.attempt import make_attempt
from batchupload.endpoint import Endpoint
from batchupload.model import Attempt, AwayPhotos, Fetched, PhotoSet, Problem, Wanted, is_address
from batchupload.readers import Readers
from batchupload.reasons import Reason
from batchupload.settings import Settings
from batchupload.stop import Stop

if TYPE_CHECKING:
    from batchupload.sources.sources import Sources

Found = PhotoSet | AwayPhotos | Problem | Reason
"""A photo set, here or away; what is wrong with it; or why it could not be looked at."""


class Site(Protocol):
    """What a run has done for it: photo sets looked at, and sent."""

    @property
    def loaders(self) -> int:
        """Looks that are worth having under way at a time."""

    @property
    def told(self) -> str:
        """Who works there, for a person; empty where that is this process alone."""

    async def look(self, several: Sequence[Wanted]) -> list[Found]:
        """Fetch, read and check the photos of several orders.

        Raises `InterruptedAttemptError` once the drain time is over.
        """

    async def send(self, order_id: str, photos: PhotoSet | AwayPhotos) -> Attempt:
        """Make one attempt. Raises nothing for what network and endpoint do."""

    def drop(self, photos: PhotoSet | AwayPhotos) -> None:
        """These photos will not be sent after all."""


class ThisProcess:
    """The site of a run on one machine. `endpoint` is None where nothing is to be sent. An async context manager."""

    def __init__(self, settings: Settings, readers: Readers, endpoint: Endpoint | None, stop: Stop) -> None:
        self._settings = settings
        self._readers = readers
        self._sources: Sources | None = None
        self._endpoint = endpoint
        self._stop = stop
        self.loaders = readers.count
        self.told = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sources:
            await self._sources.__aexit__(kind, error, trace)

    async def look(self, several: Sequence[Wanted]) -> list[Found]:
        """See `Site`."""
        async with self._stop.interruptible():
            fetched = await self._fetch([wanted.photos for wanted in several])
            return [*await self._readers.load(several, self._settings.photos, fetched)]

    async def _fetch(self, several: Sequence[Mapping[str, str]]) -> Sequence[Fetched]:
        """Of each order's photos those that have an address."""
        if not any(is_address(path) for photos in several for path in photos.values()):
            return [{}] * len(several)
        if self._sources is None:
            from batchupload.sources.sources import Sources  # here, since most runs need it not

            settings = self._settings
            self._sources = await Sources(settings.photos, settings.retry, settings.timeouts).__aenter__()
        return await self._sources.fetch(several)

    async def send(self, order_id: str, photos: PhotoSet | AwayPhotos) -> Attempt:
        """See `Site`."""
        if self._endpoint is None or isinstance(photos, AwayPhotos):
            raise TypeError("Nothing can be sent from here.")
        return await make_attempt(self._endpoint, order_id, photos, self._settings, self._stop)

    def drop(self, photos: PhotoSet | AwayPhotos) -> None:
        """See `Site`; memory is given back by itself."""
