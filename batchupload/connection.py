"""The connection of one attempt, used for no other: when its answer began, where that ends, who closes it first."""

import asyncio
import errno
import re
import select
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.http import HttpProcessingError

from batchupload.hosts import is_loopback, parse_address
from batchupload.language import _
from batchupload.model import Cause

if sys.platform == "linux":
    import fcntl
    import termios

if TYPE_CHECKING:
    from aiohttp import ClientRequest, ClientTimeout
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

UNSENT = 128 * 1024
"""Bytes that the system may hold back unsent. Its usual megabytes would let the progress clock stop too early, and
the reply clock start before a slow link has carried the upload."""
HEAD_BYTES = 1 << 20
"""A longer head of an answer is not looked through; aiohttp refuses it anyway."""
CLOSE_SECONDS = 0.25
"""How long the server has to close the connection, if its answer said that it will. Its end usually comes right
behind the answer. Who closes first keeps the port for a minute (TIME_WAIT), so this machine had better not."""
DISCARD, DISCARDS = 64 * 1024, 16
"""Bytes that are read at a time of what comes behind the answer, and how often."""
INTERIM_LIMIT = 100
"""Interim responses before an answer; whoever sends more has none."""
OUT_OF_DATE = {9: Cause.CERTIFICATE_NOT_YET_VALID, 10: Cause.CERTIFICATE_EXPIRED}
"""Why a certificate is not valid by this machine's clock, by X509_V_ERR_CERT_NOT_YET_VALID and …_HAS_EXPIRED."""
_BLANK_LINE = b"\r\n\r\n"
_BLANKS = re.compile(rb"[\r\n]+")
_INTERIM = re.compile(rb"HTTP/1\.[0-9] 1(?!01)[0-9][0-9]\b")
"""Not an answer yet, such as 100 or 103; 101 is an answer, if a wrong one."""
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*\r\n|\AHTTP/1\.0 ", re.IGNORECASE)


class OwnConnections(aiohttp.TCPConnector):
    """Opens a connection for each request, with a `Listener` on it."""

    def __init__(self, *, here_only: bool = False) -> None:
        """With `here_only` connect to this machine only, whatever a name stands for."""
        super().__init__(limit=0, force_close=True, socket_factory=_socket_to_here if here_only else _socket)

    async def connect(
        self,
        req: "ClientRequest",
        traces: "list[Trace]",
        timeout: "ClientTimeout",  # noqa: ASYNC109  # as aiohttp calls it
    ) -> "Connection":
        """Open one. Nothing can have been read from it before its listener is there."""
        connection = await super().connect(req, traces, timeout)
        if (transport := connection.transport) is not None:
            transport.set_protocol(Listener(transport))
        return connection


class MalformedBodyError(aiohttp.ClientPayloadError):
    """The body of an answer broke the rules of HTTP, such as a chunk whose size is no number."""


class Response(aiohttp.ClientResponse):
    """Ends the reading of its body when the connection is lost before the body's end.

    aiohttp closes the connection at a chunk that breaks the rules, and leaves the reader of the body waiting.
    """

    async def start(self, connection: "Connection") -> "Response":
        """See `aiohttp.ClientResponse`."""
        protocol = connection.protocol
        await super().start(connection)
        lost = protocol.closed if protocol is not None else None  # asked before, nobody would hear of a loss in there
        content = self.content

        def end(closed: asyncio.Future[None] | None) -> None:
            if closed is not None and not closed.cancelled():
                closed.exception()  # or asyncio complains that nobody asked
            if content.is_eof() or content.exception():
                return
            broken = protocol is not None and isinstance(protocol.exception(), HttpProcessingError)
            content.set_exception(MalformedBodyError() if broken else aiohttp.ClientPayloadError())

        if lost is None or lost.done():
            end(lost)
        else:
            lost.add_done_callback(end)
        return self


class Listener(asyncio.Protocol):
    """Stands between a connection and aiohttp: hands on its first answer, and nothing that comes behind that.

    aiohttp reads whatever has arrived at once, and takes back a good answer if the bytes behind it are none.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        before = transport.get_protocol()
        if not isinstance(before, asyncio.Protocol):
            raise TypeError(before)
        self._behind = before
        self._transport = transport
        self.handed_over: Callable[[], bool] = lambda: False
        """Whether the whole request was handed to this connection."""
        self.early = False
        """Whether the answer began before the whole request had gone out."""
        self._head: bytearray | None = bytearray()
        """The beginning of an answer; None once it is there."""
        self._left: int | None = None
        """Bytes of the answer that are still to come, if it says how long it is."""
        self._tail = b""
        """The last bytes of what came, with which a blank line may have begun."""
        self._interim = 0
        self._kept: socket.socket | None = None

    def data_received(self, data: bytes) -> None:
        """Hand on what belongs to the first answer, in pieces of which one ends where it ends."""
        at = 0
        while not self._transport.is_closing():
            if self._head is not None and not self._head and (blank := _BLANKS.match(data, at)):
                at = blank.end()  # line breaks before an answer are none of it
            if at >= len(data):
                return
            end = self._end(data, at)
            if end == at:
                return
            self._behind.data_received(data[at:end])
            at = end

    def eof_received(self) -> bool | None:
        """See `asyncio.Protocol`."""
        return self._behind.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._behind.connection_lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._behind.resume_writing()

    async def catch_up(self) -> None:
        """Read what has already come: it came before what is sent next, and is no answer to that."""
        if self._transport.is_closing():
            return
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        if poll.poll(0):
            # The loop looks at its sockets in one turn, and hands on what it read there before the next.
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def let_server_close(self) -> None:
        """After an answer that was read whole, wait for the server to close the connection if it said that it will."""
        if self._kept is None:
            return
        loop = asyncio.get_running_loop()
        try:
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    for _ in range(DISCARDS):
                        if not await loop.sock_recv(self._kept, DISCARD):
                            break
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Close the connection for good."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    @property
    def _socket(self) -> socket.socket:
        made: socket.socket = self._transport.get_extra_info("socket")
        return made

    def _end(self, data: bytes, at: int) -> int:
        """Where the piece ends that begins at `at` in `data` and is to be handed on at once; `at` if there is none."""
        if self._left is not None:
            end = min(at + self._left, len(data))
            self._left -= end - at
            return end
        if self._head is not None and not self._head:
            self.early = not (self.handed_over() and self._all_gone())
        # Without a length the answer ends with its last chunk, which ends like a head, or as the connection is closed.
        end, found = self._next_blank_line(data, at)
        if self._head is not None:
            self._head += data[at:end]
            if found:
                self._begin_body(bytes(self._head))
            elif len(self._head) > HEAD_BYTES:
                self._head = None
        return end

    def _next_blank_line(self, data: bytes, at: int) -> tuple[int, bool]:
        """The end of the next blank line, which may have begun in what came before; else the end of `data`."""
        rest = len(_BLANK_LINE) - 1
        place = (self._tail + data[at : at + rest]).find(_BLANK_LINE)
        if found := place >= 0:
            end = at + place + len(_BLANK_LINE) - len(self._tail)
        else:
            place = data.find(_BLANK_LINE, at)
            found = place >= 0
            end = place + len(_BLANK_LINE) if found else len(data)
        self._tail = (self._tail + data[max(at, end - rest) : end])[-rest:]
        return end, found

    def _begin_body(self, head: bytes) -> None:
        if _INTERIM.match(head):
            self._head = bytearray()
            self._interim += 1
            if self._interim > INTERIM_LIMIT:
                self._transport.abort()
            return
        self._head = None
        length = _LENGTH.search(head)
        if length and not _CHUNKED.search(head):
            self._left = int(length[1])
        if _CLOSES.search(head):
            # aiohttp closes its own at the last byte of the answer; the connection stays while there is another.
            with suppress(OSError):
                self._kept = self._socket.dup()

    def _all_gone(self) -> bool:
        """Whether the other side has taken all that was handed over, as far as this system tells."""
        if self._transport.get_write_buffer_size():
            return False
        if sys.platform == "linux":
            with suppress(OSError):
                # Whoever answers a whole request has acknowledged it, at the latest with the answer itself.
                unsent = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4))
                return not any(unsent)
        return True


def _socket_to_here(address: tuple[object, ...]) -> socket.socket:
    place = address[4]
    host = parse_address(str(place[0])) if isinstance(place, tuple) else None
    if host is None or not is_loopback(host):
        raise PermissionError(errno.EACCES, _("plain http off this machine, without endpoint.allow_plaintext"))
    return _socket(address)


def _socket(address: tuple[object, ...]) -> socket.socket:
    family, kind, protocol = address[:3]
    made = socket.socket(int(str(family)), int(str(kind)), int(str(protocol)))
    made.setblocking(False)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
    return made
