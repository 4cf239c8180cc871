"""The sandbox as a program: serves until Ctrl-C, and says how to use it."""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

from batchupload.language import _
from batchupload.model import BatchuploadError
from batchupload.sandbox import Sandbox, SandboxOptions
from batchupload.settings import Settings


def like_shop(options: SandboxOptions, settings: Settings) -> SandboxOptions:
    """As the endpoint of these settings: its path, its form fields, its limits."""
    fields = settings.endpoint.fields
    return replace(
        options,
        max_photo_bytes=settings.photos.max_bytes,
        order_id_pattern=settings.manifest.order_id_pattern,
        path=urlsplit(settings.endpoint.url).path or "/",
        order_id_field=fields.order_id,
        photo_fields=frozenset(getattr(fields, field) for field in settings.manifest.required),
    )


async def serve(options: SandboxOptions, port: int, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. Raises `BatchuploadError` where the port is taken."""
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    try:
        async with Sandbox(options, port=port) as sandbox:
            say(_("The sandbox takes uploads at {url}", url=sandbox.url))
            say(_("What it saw:                    http://127.0.0.1:{port}/stats", port=sandbox.port))
            say(_("Try it:   batchupload run orders.csv --endpoint {url}", url=sandbox.url))
            say(_("Ctrl-C ends it."))
            await ended.wait()
            counts = sandbox.stats(orders=False)
            say(
                _(
                    "\n{requests} requests, {accepted} accepted, faults: {faults}",
                    requests=counts["requests"],
                    accepted=counts["accepted"],
                    faults=counts["faults"] or _("none"),
                )
            )
    except OSError as error:
        raise BatchuploadError(
            _("port {port}: {why}. Name another with --port, or 0 for any.", port=port, why=error.strerror)
        ) from None
