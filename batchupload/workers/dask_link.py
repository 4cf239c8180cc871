"""The connection to one worker of a Dask cluster, and the certificates for it."""

import asyncio
import logging
import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING

from batchupload.language import N_, _
from batchupload.model import BatchuploadError
from batchupload.settings import ClusterSettings
from batchupload.workers.door import BETWEEN_SECONDS
from batchupload.workers.words import LEASE_SECONDS, Answer, Ask, LinkLostError

if TYPE_CHECKING:
    from distributed.comm.core import Comm
    from distributed.security import Security

SILENCE_SECONDS = 5.0
"""A worker that says nothing for so long is given up; it says something each second."""
ASKS_AT_ONCE = 64
"""In one message: about 400 KB where each is to look at 16 orders."""
NO_DASK = N_("--cluster needs: pip install 'batchupload[cluster]'")


class DaskLink:
    """The connection to one worker."""

    lease = LEASE_SECONDS

    def __init__(self, name: str, comm: "Comm") -> None:
        self.name = name
        self.lost = asyncio.Event()
        self._comm = comm

    async def give(self, asks: Sequence[Ask]) -> None:
        """See `Link`."""
        try:
            for start in range(0, max(len(asks), 1), ASKS_AT_ONCE):
                async with asyncio.timeout(SILENCE_SECONDS):
                    await self._comm.write(pickle.dumps(asks[start : start + ASKS_AT_ONCE]))
        except OSError as error:
            raise self._lost(error) from None
        await asyncio.sleep(BETWEEN_SECONDS)

    async def take(self) -> Sequence[Answer]:
        """See `Link`."""
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                answers: Sequence[Answer] = pickle.loads(await self._comm.read())  # noqa: S301 (as in `serve`)
        except OSError as error:
            raise self._lost(error) from None
        return answers

    def _lost(self, error: OSError) -> LinkLostError:
        self._comm.abort()
        self.lost.set()
        if isinstance(error, TimeoutError):
            return LinkLostError(_("it said nothing for {seconds:g} s", seconds=SILENCE_SECONDS))
        return LinkLostError(_("its connection broke"))


def security(settings: ClusterSettings) -> "Security | None":
    """The certificates for tls://. Raises `BatchuploadError` where Dask is missing or a file can't be used."""
    try:
        import distributed
    except ImportError:
        raise BatchuploadError(_(NO_DASK)) from None
    for name in ("distributed", "distributed.client", "tornado", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what there is to say of a loss is said here
    if not (settings.address or "").startswith("tls://"):
        return None
    ca, cert, key = map(str, settings.files)
    try:
        made = distributed.Security(tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key, require_encryption=True)
        made.get_connection_args("client")
    except OSError as error:  # among them ssl.SSLError
        raise BatchuploadError(
            _(
                "cluster.ca, cluster.cert or cluster.key can't be used ({error}): give PEM files that belong together.",
                error=first_line(error),
            )
        ) from None
    return made


def first_line(error: BaseException) -> str:
    """What an error of a library says, short enough for a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
