"""Photos from elsewhere: addresses → bytes in memory, with the limits that files have."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from batchupload.language import _
from batchupload.logs import event
from batchupload.model import Fetched, Problem, is_address
from batchupload.photos import PhotoError
from batchupload.reasons import Reason
from batchupload.row_faults import text_of
from batchupload.settings import RetrySettings, TimeoutSettings
from batchupload.shop_settings import PhotoSettings
from batchupload.sources.objects import Objects
from batchupload.sources.web import NotFetchedError, Web

log = logging.getLogger(__name__)


class Sources:
    """Fetches photos, several at once. An async context manager."""

    def __init__(self, photos: PhotoSettings, retry: RetrySettings, timeouts: TimeoutSettings) -> None:
        self._web = Web(photos, timeouts, private=photos.allow_private_hosts)
        self._objects = Objects(photos)
        # The object store's address is the user's own choice: it may well be in their network.
        self._store = Web(photos, timeouts, private=True)
        self._seconds = timeouts.photos
        self._at_once = asyncio.Semaphore(photos.fetches)
        self._retry = retry

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._web.close()
        await self._store.close()

    async def fetch(self, several: Sequence[Mapping[str, str]]) -> list[Fetched]:
        """Of each order's photos those that have an address. Raises nothing for what hosts and networks do."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._photos(photos)) for photos in several]
        return [task.result() for task in tasks]

    async def _photos(self, photos: Mapping[str, str]) -> Fetched:
        fields = [field for field, path in photos.items() if is_address(path)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._one(field, photos[field])) for field in fields]
        found = [task.result() for task in tasks]
        problem = next((one for one in found if isinstance(one, Problem)), None)
        return problem or {field: one for field, one in zip(fields, found, strict=True) if isinstance(one, bytes)}

    async def _one(self, field: str, address: str) -> bytes | Problem:
        try:
            async with asyncio.timeout(self._seconds), self._at_once:
                return await self._tried_again(address)
        except PhotoError as error:
            detail = error.problem.detail
            return Problem(error.problem.reason, f"{field}: {detail}" if detail else field, field)
        except NotFetchedError as error:
            return Problem(Reason.PHOTO_NOT_FETCHED, f"{field}: {error}", field)
        except TimeoutError:
            return Problem(
                Reason.PHOTO_NOT_FETCHED,
                _("{field}: not there after {seconds:g} s", field=field, seconds=self._seconds),
                field,
            )
        except Exception as error:
            log.exception(_("An internal fault with the photos of an order"), extra=event("internal_fault"))
            return Problem(Reason.INTERNAL_ERROR, f"{field}: {text_of(error)}", field)

    async def _tried_again(self, address: str) -> bytes:
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._retry.attempts),
            wait=wait_random_exponential(multiplier=self._retry.base, max=self._retry.cap),
            retry=retry_if_exception_type(NotFetchedError),
        )
        try:
            return await retrying(self._get, address)
        except RetryError as error:
            raise error.last_attempt.exception() or error from None

    async def _get(self, address: str) -> bytes:
        if address.lower().startswith("s3://"):
            return await self._store.get(await self._objects.signed(address))
        return await self._web.get(address)
