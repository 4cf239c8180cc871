"""Which site a run has: this process alone, or workers."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from batchupload import __version__
from batchupload.endpoint import Endpoint
from batchupload.readers import Readers
from batchupload.settings import Settings
from batchupload.site import Site, ThisProcess
from batchupload.stop import Stop
from batchupload.throttle import Throttle

NOBODY_COMES = 0.0
"""Seconds for which a run waits for a worker once all its processes have died: none comes by itself."""


@asynccontextmanager
async def open_site(
    settings: Settings, readers: Readers, stop: Stop, bandwidth: Throttle | None, folders: Sequence[Path], *, send: bool
) -> AsyncGenerator[Site, None]:
    """The site of one run, which is to `send` or only to look. Raises `BatchuploadError` where it can't be had."""
    async with AsyncExitStack() as stack:
        if send and settings.pace.processes > 1:
            # Imported here, since most runs need none of it and every run waits for what it imports.
            from batchupload.workers.crew import Crew
            from batchupload.workers.processes import worker_process
            from batchupload.workers.words import Begin

            begin = Begin(settings, send, __version__, tuple(folders))
            links = [await stack.enter_async_context(worker_process(begin)) for _ in range(settings.pace.processes)]
            crew = await stack.enter_async_context(Crew(stop, len(links), NOBODY_COMES, bandwidth))
            for link in links:
                crew.join(link)
            yield crew
            return
        endpoint = None
        if send:
            endpoint = await stack.enter_async_context(Endpoint(settings.endpoint, settings.timeouts, bandwidth))
        yield await stack.enter_async_context(ThisProcess(settings, readers, endpoint, stop))
