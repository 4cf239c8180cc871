"""Which site a run has: this process alone, or workers."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

from batchupload.endpoint import Endpoint
from batchupload.model import Row
from batchupload.readers import Readers
from batchupload.settings import Settings
from batchupload.site import Site, ThisProcess
from batchupload.stop import Stop
from batchupload.throttle import Throttle


@asynccontextmanager
async def open_site(
    settings: Settings, readers: Readers, stop: Stop, bandwidth: Throttle | None, rows: Iterator[Row], *, send: bool
) -> AsyncGenerator[Site, None]:
    """The site of one run over `rows`, which is to `send` or only to look.

    Raises `BatchuploadError` where it can't be had.
    """
    async with AsyncExitStack() as stack:
        if settings.cluster.address or (send and settings.pace.processes > 1):
            # Imported here, since most runs need none of it and every run waits for what it imports.
            from batchupload.workers.staff import open_crew

            yield await stack.enter_async_context(open_crew(settings, readers, stop, bandwidth, rows, send=send))
            return
        endpoint = None
        if send:
            endpoint = await stack.enter_async_context(Endpoint(settings.endpoint, settings.timeouts, bandwidth))
        yield await stack.enter_async_context(ThisProcess(settings, readers, endpoint, stop))
