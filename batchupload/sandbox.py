"""The stand-in endpoint: a real HTTP server on loopback that keeps the contract, or breaks it on request."""

import asyncio
import hashlib
import ipaddress
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypedDict

from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError
from aiohttp.multipart import parse_content_disposition

from batchupload.expressions import expression
from batchupload.language import _
from batchupload.model import PHOTO_FIELDS
from batchupload.sandbox_faults import (
    CATALOGUE,
    FAULTS,
    Answer,
    Exchange,
    Fault,
    FaultRule,
    When,
    answer_plainly,
    check_rates,
    choose_fault,
    parse_fault,
)

__all__ = ["FAULTS", "FaultRule", "PhotoRecord", "Sandbox", "SandboxOptions", "parse_fault"]

ACCEPTED: Answer = {"code": 200, "msg": "提交成功"}
PHOTOS_MISSING: Answer = {"code": 400, "msg": "三张照片必须全部上传!"}
BAD_ORDER_ID: Answer = {"code": 400, "msg": "订单号格式不正确"}
BAD_FORMAT: Answer = {"code": 400, "msg": "照片格式不正确，只支持PNG、JPG"}

_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}
_READ_BYTES = 64 * 1024
_VALUE_BYTES = 4096
"""How much of a plain field is kept."""


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """How the sandbox behaves; the limits are PHP's defaults."""

    faults: tuple[FaultRule, ...] = ()
    seed: int = 1
    """The same seed strikes the same sends of the same orders."""
    latency: float = 0.0
    """Seconds a worker takes for each reply."""
    workers: int = 0
    """How many requests are worked on at once, the rest waiting in line; 0 for no limit."""
    max_photo_bytes: int = 2 * 1024 * 1024
    """A larger photo is dropped (`upload_max_filesize`)."""
    max_body_bytes: int = 8 * 1024 * 1024
    """All fields of a larger body are dropped (`post_max_size`)."""
    order_id_pattern: str = r"[A-Za-z0-9][A-Za-z0-9_-]{3,63}"
    path: str = "/order/api/haoteam/getimg"
    order_id_field: str = "order_id"
    photo_fields: frozenset[str] = frozenset(PHOTO_FIELDS)
    """The files that an upload must have; any others are taken too."""


class PhotoRecord(TypedDict):
    """What is kept of an accepted photo: never its bytes."""

    sha256: str
    bytes: int
    type: str
    filename: str


@dataclass(slots=True)
class _Body:
    """What has been read of one request body so far."""

    order_id_field: str
    order_id: str | None = None
    photos: dict[str, PhotoRecord] = field(default_factory=dict)
    read: int = 0
    """Bytes of the fields, without the multipart frame."""

    async def fill(self, request: web.Request) -> AsyncGenerator[None, None]:
        """Read the fields, with a stop after each piece; what is no form leaves no fields."""
        try:
            if request.content_type == "multipart/form-data":
                reader = await request.multipart()
                while part := await reader.next():
                    if isinstance(part, BodyPartReader):
                        async with aclosing(self._fill_part(part)) as pieces:
                            async for _ in pieces:
                                yield
        except (ValueError, RuntimeError, HttpProcessingError):
            self.photos.clear()
        async for _ in request.content.iter_any():
            pass

    async def _fill_part(self, part: BodyPartReader) -> AsyncGenerator[None, None]:
        _, names = parse_content_disposition(part.headers.get("Content-Disposition"))
        name, filename = names.get("name", ""), names.get("filename")
        start, size, digest = b"", 0, hashlib.sha256()
        while not part.at_eof():
            chunk = await part.read_chunk(_READ_BYTES)
            size += len(chunk)
            self.read += len(chunk)
            if len(start) < _VALUE_BYTES:
                start = (start + chunk)[:_VALUE_BYTES]
            if filename:
                digest.update(chunk)
            yield
        if filename:  # PHP takes a part without a file name for a plain value
            media_type = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "")
            self.photos[name] = {
                "sha256": digest.hexdigest(),
                "bytes": size,
                "type": media_type,
                "filename": filename,
            }
        elif name == self.order_id_field:
            self.order_id = start.decode(errors="replace")
        yield


@dataclass(slots=True)
class _Tally:
    """Counts since the start; `open` and `at_work` go up and down."""

    requests: int = 0
    refused: int = 0
    cut: int = 0
    open: int = 0
    max_open: int = 0
    at_work: int = 0
    max_at_work: int = 0
    cookies: int = 0
    bytes: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    sends: Counter[str] = field(default_factory=Counter)


class Sandbox:
    """The server, as an async context manager; it listens on loopback only (ValueError for another host)."""

    def __init__(self, options: SandboxOptions | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self.options = options or SandboxOptions()
        check_rates(self.options.faults)
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        if not address.is_loopback:
            raise ValueError(_("the sandbox listens on loopback only (127.0.0.1, ::1), not on {host}", host=host))
        self._address = address
        self._port = port
        self._order_id = expression(self.options.order_id_pattern)
        self._workers = asyncio.Semaphore(self.options.workers or sys.maxsize)
        self._stopping = asyncio.Event()
        self._tally = _Tally()
        self._accepted: defaultdict[str, list[Mapping[str, PhotoRecord]]] = defaultdict(list)
        app = web.Application()
        app.router.add_post(self.options.path, self._receive)
        app.router.add_get("/stats", self._show_stats)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, str(self._address), self._port, backlog=1024).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        server = self._runner.server
        transports = [connection.transport for connection in server.connections] if server else []
        await self._runner.cleanup()
        for transport in transports:
            if transport is not None:
                transport.abort()  # else a client that does not read would keep it open

    @property
    def port(self) -> int:
        """The port it listens on; the one the system chose where 0 was asked for."""
        return self._port

    @property
    def url(self) -> str:
        """The upload address."""
        host = f"[{self._address}]" if self._address.version == 6 else str(self._address)
        return f"http://{host}:{self._port}{self.options.path}"

    @property
    def accepted(self) -> Mapping[str, list[Mapping[str, PhotoRecord]]]:
        """Order number → its acceptances, oldest first, each photo field → what is kept of it."""
        return dict(self._accepted)

    def stats(self, *, orders: bool = True) -> dict[str, object]:
        """What `GET /stats` says; without the part per order where `orders` is False.

        `refused` counts refusals by the contract, `faults` what was injected, `cut` the bodies that never
        came whole; `max_concurrent` is the most requests worked on at once, `max_open` the most on their
        way, with those being read or in line.
        """
        tally = self._tally
        counts: dict[str, object] = {
            "requests": tally.requests,
            "accepted": sum(map(len, self._accepted.values())),
            "refused": tally.refused,
            "cut": tally.cut,
            "faults": dict(tally.faults),
            "max_concurrent": tally.max_at_work,
            "max_open": tally.max_open,
            "cookies_received": tally.cookies,
            "bytes": tally.bytes,
        }
        if orders:
            counts["orders"] = {
                order_id: {"sends": sends, "accepted": len(taken), "photos": taken[-1] if taken else {}}
                for order_id, sends in tally.sends.items()
                for taken in [self._accepted.get(order_id, [])]
            }
        return counts

    async def _show_stats(self, request: web.Request) -> web.Response:
        return web.json_response(self.stats(orders=request.query.get("orders") != "0"))

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        tally = self._tally
        tally.requests += 1
        tally.cookies += "Cookie" in request.headers
        tally.open += 1
        tally.max_open = max(tally.max_open, tally.open)
        try:
            return await self._respond(request)
        except (ConnectionError, web.RequestPayloadError):
            return web.Response()  # the client is gone: nothing of this is sent
        finally:
            tally.open -= 1
            tally.bytes += request.content.total_bytes

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        body, fault, decided = _Body(self.options.order_id_field), None, False
        halfway = (request.content_length or 0) // 2
        try:
            async with aclosing(body.fill(request)) as pieces:
                async for _ in pieces:
                    if body.order_id is not None and not decided:
                        fault, decided = self._begin(body.order_id), True
                    if fault and (
                        fault.when is When.ORDER_KNOWN or (fault.when is When.IN_BODY and body.read >= halfway)
                    ):
                        return await fault.act(Exchange(request, self._stopping, PHOTOS_MISSING))
        except (ConnectionError, web.RequestPayloadError):
            self._tally.cut += 1
            raise
        if not decided:
            fault = self._begin(body.order_id or "")
        if fault and fault.when is not When.AFTER_BODY:
            return await fault.act(Exchange(request, self._stopping, PHOTOS_MISSING))
        answer = await self._work(request, body, fault)
        return await (fault.act if fault else answer_plainly)(Exchange(request, self._stopping, answer))

    def _begin(self, order_id: str) -> Fault | None:
        self._tally.sends[order_id] += 1
        name = choose_fault(self.options.faults, self.options.seed, order_id, self._tally.sends[order_id])
        if name is None:
            return None
        self._tally.faults[name] += 1
        return CATALOGUE[name]

    async def _work(self, request: web.Request, body: _Body, fault: Fault | None) -> Answer:
        """A worker's part: take its time, judge, keep. As in PHP, a client that leaves does not stop it."""
        tally = self._tally
        async with self._workers:
            tally.at_work += 1
            tally.max_at_work = max(tally.max_at_work, tally.at_work)
            try:
                await asyncio.sleep(self.options.latency)
            finally:
                tally.at_work -= 1
        if request.content.total_bytes > self.options.max_body_bytes:
            body.photos.clear()
        largest = self.options.max_photo_bytes
        body.photos = {name: photo for name, photo in body.photos.items() if photo["bytes"] <= largest}
        answer = self._judge(body)
        if fault is None or fault.accepts:
            if answer is ACCEPTED:
                self._accepted[body.order_id or ""].append(body.photos)
            else:
                tally.refused += 1
        return answer

    def _judge(self, body: _Body) -> Answer:
        if not body.photos.keys() >= self.options.photo_fields:
            return PHOTOS_MISSING
        if not self._order_id.fits(body.order_id or ""):
            return BAD_ORDER_ID
        if not all(photo["type"] for photo in body.photos.values()):
            return BAD_FORMAT
        return ACCEPTED
