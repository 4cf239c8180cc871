"""One attempt: a photo set → the endpoint's reply; knows HTTP, the multipart body and the timeouts."""

import asyncio
import errno
import math
import secrets
import ssl
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from yarl import URL

from batchupload import __version__
from batchupload.connection import OUT_OF_DATE, Listener, MalformedBodyError, OwnConnections, Response
from batchupload.model import Cause, NoReply, Phase, PhotoSet, Reply
from batchupload.patience import Patience
from batchupload.reasons import Reason
from batchupload.settings import TimeoutSettings
from batchupload.shop_settings import EndpointSettings, FieldNames
from batchupload.throttle import Throttle

SLICE = 256 * 1024
"""Bytes handed to the network at once; what the progress clock can see."""
SLICE_HELD = 16 * 1024
"""The same where the bandwidth is limited."""
EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png"}


@dataclass(slots=True)
class Transfer:
    """How far one attempt has got; kept up to date during the attempt, so that it is known after a cancellation."""

    size: int
    """Bytes of the whole body."""
    phase: Phase = Phase.CONNECT
    bytes_sent: int = 0
    """Body bytes handed to the network, counted before they are: fewer than `size` means that the endpoint
    cannot have the whole body."""
    uploaded_at: float | None = None
    """When the whole body had been handed over."""

    @property
    def whole(self) -> bool:
        """Whether the endpoint may have the whole body."""
        return self.bytes_sent >= self.size


class Endpoint:
    """The upload call, over a connection of its own for each attempt. An async context manager."""

    def __init__(
        self, settings: EndpointSettings, timeouts: TimeoutSettings, bandwidth: Throttle | None = None
    ) -> None:
        self._settings = settings
        self._timeouts = timeouts
        self._bandwidth = bandwidth
        self._url = URL(settings.url)
        self._form = Form(settings.fields, secrets.token_hex(16), settings.more_fields)

    async def __aenter__(self) -> Self:
        # On a connection that is used again, an answer that comes late or twice is taken for the next order's.
        self._session = aiohttp.ClientSession(
            connector=OwnConnections(here_only=self._url.scheme == "http" and not self._settings.allow_plaintext),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            headers={"User-Agent": f"batchupload/{__version__}", "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
            response_class=Response,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    def prepare(self, order_id: str, photo_set: PhotoSet) -> "MultipartBody":
        """The body of one attempt; it can't be used for another."""
        return MultipartBody(order_id, photo_set, self._form, self._bandwidth)

    async def send(self, body: "MultipartBody") -> Reply | NoReply:
        """Make one attempt. Its size bounds its time, less the waits for our own bandwidth.

        Raises nothing for what network and endpoint do. `body.transfer` tells how far it got, also when cancelled.
        Call `body.release` after it, whatever came of it.
        """
        transfer, timeouts = body.transfer, self._timeouts
        try:
            async with Patience() as patience:
                watchdog = Watchdog(patience, transfer, timeouts)
                body.watchdog = lambda: watchdog
                async with self._session.post(self._url, data=body, allow_redirects=False) as response:
                    watchdog.end()
                    content, cut = await self._read(response, min(timeouts.reply, watchdog.left))
        except TimeoutError:
            return NoReply(transfer.phase, Cause.TIMEOUT)
        except aiohttp.ClientError as error:
            return NoReply(transfer.phase, _cause(error))
        body.answered = cut is None
        return Reply(
            response.status,
            content,
            cut,
            response.headers.get("Content-Encoding", ""),
            response.headers.get("Retry-After", ""),
            response.headers.get("Date", ""),
            body.listener is not None and body.listener.early,
        )

    async def _read(self, response: aiohttp.ClientResponse, seconds: float) -> tuple[bytes, Reason | None]:
        """The body up to the limit. What breaks here spares the status, which may say enough by itself."""
        content = b""
        try:
            async with Patience(seconds):
                while len(content) <= self._settings.max_reply_bytes:
                    piece = await response.content.read(self._settings.max_reply_bytes + 1 - len(content))
                    if not piece:
                        return content, None
                    content += piece
        except TimeoutError:
            return content, Reason.REPLY_TIMEOUT
        except MalformedBodyError:
            return content, Reason.REPLY_MALFORMED
        except aiohttp.ClientError:
            return content, Reason.REPLY_LOST
        response.close()
        return content, Reason.REPLY_TOO_LARGE


class Watchdog:
    """Gives each phase of an attempt its own patience, begun anew at every sign of progress."""

    def __init__(self, patience: Patience, transfer: Transfer, timeouts: TimeoutSettings) -> None:
        self._patience = patience
        self._transfer = transfer
        self._waits = {Phase.CONNECT: timeouts.connect, Phase.BODY: timeouts.progress, Phase.REPLY: timeouts.reply}
        self._now = asyncio.get_running_loop().time
        self._end = self._now() + transfer.size / timeouts.slowest_link + timeouts.connect + timeouts.reply
        self._ended = False
        self.progress()

    @property
    def left(self) -> float:
        """Seconds left of the whole attempt."""
        return self._end - self._now()

    def progress(self) -> None:
        """Begin the wait of the present phase."""
        if not self._ended:
            self._patience.until(min(self._now() + self._waits[self._transfer.phase], self._end))

    def end(self) -> None:
        """Watch no more: whatever becomes of the rest of the body, the reply has its own time."""
        self._ended = True
        self._patience.until(math.inf)

    @contextmanager
    def held(self) -> Generator[None, None, None]:
        """A wait of our own, which is no fault of the endpoint: it does not count."""
        began = self._now()
        with self._patience.held():
            yield
        self._end += self._now() - began


class Form:
    """What the bodies of one run have in common. The boundary is random: no photo can have been made to hold it."""

    def __init__(self, names: FieldNames, boundary: str, more: Mapping[str, str] | None = None) -> None:
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._names = names
        self._part = f"--{boundary}\r\nContent-Disposition: form-data; name="
        self._more = "".join(f'{self._part}"{name}"\r\n\r\n{value}\r\n' for name, value in (more or {}).items())
        self._end = f"\r\n--{boundary}--\r\n".encode()

    def buffers(self, order_id: str, photo_set: PhotoSet) -> list[bytes]:
        """One body, in parts: what frames the photos, and their contents themselves."""
        # The order number comes first: a server that cuts the body short knows at least whose it was.
        frame = f'{self._part}"{self._names.order_id}"\r\n\r\n{order_id}\r\n{self._more}'
        buffers = []
        for photo in photo_set.photos:
            name, extension = getattr(self._names, photo.field), EXTENSIONS[photo.media_type]
            frame += f'{self._part}"{name}"; filename="{photo.field}.{extension}"\r\nContent-Type: '
            buffers += [f"{frame}{photo.media_type}\r\n\r\n".encode(), photo.content]
            frame = "\r\n"
        return [*buffers, self._end]


class MultipartBody(Payload):
    """One request body of known length, written as slices of the photos themselves, small ones joined."""

    watchdog: Callable[[], Watchdog]
    """Gives the attempt's; set before the body is written. No attribute itself, since test doubles copy bodies."""

    def __init__(
        self,
        order_id: str,
        photo_set: PhotoSet,
        form: Form,
        bandwidth: Throttle | None = None,
    ) -> None:
        super().__init__(None, content_type=form.content_type)
        self._buffers = form.buffers(order_id, photo_set)
        self._size = sum(map(len, self._buffers))
        self._bandwidth = bandwidth
        self.transfer = Transfer(self._size)
        self.listener: Listener | None = None
        """That of the connection it goes out on."""
        self.answered = False
        """Whether its answer was read whole."""

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Hand the body to the network, slice by slice."""
        transfer, watchdog, bandwidth = self.transfer, self.watchdog(), self._bandwidth
        now = asyncio.get_running_loop().time
        transport = getattr(writer, "transport", None)
        listener = transport.get_protocol() if isinstance(transport, asyncio.Transport) else None
        if isinstance(listener, Listener):
            listener.handed_over = lambda: transfer.whole
            self.listener = listener
        transfer.phase = Phase.BODY
        for piece in slices(self._buffers, SLICE_HELD if bandwidth and bandwidth.rate else SLICE):
            if bandwidth:
                with watchdog.held():
                    await bandwidth.passed(len(piece))
            watchdog.progress()
            if self.listener:
                await self.listener.catch_up()
            transfer.bytes_sent += len(piece)
            await writer.write(piece)
            await writer.drain()
        transfer.phase = Phase.REPLY
        transfer.uploaded_at = now()
        watchdog.progress()

    async def release(self) -> None:
        """Let the connection go, if there was one."""
        if self.listener and self.answered:
            await self.listener.let_server_close()
        elif self.listener:
            self.listener.let_go()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """For aiohttp's debugging only; photos are not shown."""
        return b"".join(self._buffers[0::2]).decode(encoding, errors)


def slices(buffers: Iterable[bytes], size: int) -> Iterator[bytes | memoryview]:
    """All of `buffers` in pieces of at most `size` bytes; small ones are joined, large ones not copied."""
    small: list[bytes] = []
    room = size
    for buffer in buffers:
        if len(buffer) > room and small:
            yield b"".join(small)
            small, room = [], size
        if len(buffer) <= size:
            small.append(buffer)
            room -= len(buffer)
        else:
            view = memoryview(buffer)
            yield from (view[at : at + size] for at in range(0, len(buffer), size))
    if small:
        yield b"".join(small)


def _cause(error: aiohttp.ClientError) -> Cause:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return Cause.DNS
        case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLCertVerificationError() as refused):
            return OUT_OF_DATE.get(refused.verify_code, Cause.TLS)
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return Cause.TLS
        case aiohttp.ClientOSError(errno=errno.ECONNREFUSED):
            return Cause.REFUSED
        case aiohttp.ClientOSError(errno=errno.EMFILE | errno.ENFILE):
            return Cause.FILES_EXHAUSTED
        case aiohttp.ClientResponseError():
            return Cause.MALFORMED
        case _:
            return Cause.BROKEN
