"""One attempt by itself: the bytes that leave, what is made of what comes back, and which wait ends it."""

import asyncio
import errno
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
from conftest import picture

from batchupload import __version__
from batchupload.endpoint import SLICE, SLICE_HELD, Endpoint, Form, MultipartBody, Watchdog, slices
from batchupload.model import Cause, NoReply, Phase, Photo, PhotoSet, Reply
from batchupload.reasons import Reason
from batchupload.settings import TimeoutSettings
from batchupload.shop_settings import EndpointSettings, FieldNames
from batchupload.throttle import Throttle
from batchupload.timetable import Timetable

ACCEPTS = b'{"code":200}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close\r\n\r\n" + ACCEPTS
PHOTOS = PhotoSet((Photo("face", picture("face"), "image/jpeg"), Photo("back", b"\x89PNG", "image/png")), b"digest")
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]]


async def request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    return head, await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))


def says(answer: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(answer)

    return talk


@asynccontextmanager
async def server(talk: Talk, buffer: int | None = None) -> AsyncIterator[str]:
    listening = socket.socket()
    if buffer:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    listening.bind(("127.0.0.1", 0))

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError, asyncio.CancelledError):
            await talk(reader, writer)
        writer.close()

    async with await asyncio.start_server(served, sock=listening, limit=buffer or 1 << 16):
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/upload"


async def attempt(
    url: str,
    *,
    waits: dict[str, float] | None = None,
    photos: PhotoSet = PHOTOS,
    bandwidth: Throttle | None = None,
    **more: Any,
) -> tuple[Reply | NoReply, MultipartBody]:
    """One attempt; a wait that is not in `waits` is long."""
    timeouts = TimeoutSettings(**{"connect": 300.0, "progress": 300.0, "reply": 300.0, **(waits or {})})
    async with (
        asyncio.timeout(60),
        Endpoint(EndpointSettings(url=url, **more), timeouts, bandwidth) as endpoint,
    ):
        body = endpoint.prepare("HT1", photos)
        try:
            return await endpoint.send(body), body
        finally:
            await body.release()


# What leaves


async def test_the_request_is_the_one_that_the_contract_names() -> None:
    asked: list[tuple[bytes, bytes]] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await request(reader))
        writer.write(ANSWER)

    fields = FieldNames(order_id="number", face="front")
    async with server(talk) as url:
        reply, made = await attempt(url, fields=fields, more_fields={"shop": "7", "kind": "3"})
        again, _ = await attempt(url)
    assert reply == again == Reply(200, ACCEPTS)
    (head, body), (other, _) = asked
    first, *lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    boundary = headers.pop("Content-Type").removeprefix("multipart/form-data; boundary=")
    assert first == "POST /upload HTTP/1.1"
    assert headers == {
        "Host": url.split("/")[2],
        "User-Agent": f"batchupload/{__version__}",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
        "Content-Length": str(len(body)),
    }
    part = f"--{boundary}\r\nContent-Disposition: form-data; name="
    face, back = (photo.content for photo in PHOTOS.photos)
    fields_sent = "".join(f'{part}"{name}"\r\n\r\n{value}\r\n' for name, value in
                          (("number", "HT1"), ("shop", "7"), ("kind", "3")))  # fmt: skip
    assert body == b"".join(
        (
            f'{fields_sent}{part}"front"; filename="face.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'.encode(),
            face,
            f'\r\n{part}"back"; filename="back.png"\r\nContent-Type: image/png\r\n\r\n'.encode(),
            back,
            f"\r\n--{boundary}--\r\n".encode(),
        )
    )
    assert made.transfer.bytes_sent == made.transfer.size == len(body)
    assert made.transfer.uploaded_at is not None
    assert len(boundary) == 32
    assert boundary.encode() not in other


def test_no_photo_is_shown_by_what_a_body_says_of_itself() -> None:
    body = MultipartBody("HT1", PHOTOS, Form(FieldNames(), "boundary"))
    said = body.decode()
    assert "HT1" in said
    assert "PNG" not in said.replace("png", "")
    assert said.endswith("\r\n--boundary--\r\n")
    with pytest.raises(UnicodeError):
        MultipartBody("订单", PHOTOS, Form(FieldNames(), "boundary")).decode("ascii")
    assert "??" in MultipartBody("订单", PHOTOS, Form(FieldNames(), "boundary")).decode("ascii", "replace").replace(
        "\ufffd", "?"
    )


@pytest.mark.parametrize(
    "sizes", [[], [3, 4], [3, 4, 3, 1], [5, 25, 2], [10, 10], [10, 1], [1, 10], [11], [4, 30, 4], [4, 6]]
)
def test_slices_are_all_of_the_bytes_in_few_pieces_of_the_size(sizes: list[int]) -> None:
    buffers = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    pieces = [bytes(piece) for piece in slices(buffers, 10)]
    assert b"".join(pieces) == b"".join(buffers)
    assert all(0 < len(piece) <= 10 for piece in pieces)
    small = all(size <= 10 for size in sizes)
    assert not small or all(len(one + two) > 10 for one, two in pairwise(pieces))


async def test_a_limited_link_is_given_its_bytes_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = PhotoSet((Photo("face", bytes(600_000), "image/jpeg"),), b"digest")
    asked: list[int] = []

    class Counted(Throttle):
        async def passed(self, amount: float) -> None:
            asked.append(int(amount))

    async with server(says(ANSWER)) as url:
        for rate, size in ((1e6, SLICE_HELD), (None, SLICE)):
            asked.clear()
            bandwidth = Counted(Timetable(((0, rate),)), time.monotonic, datetime.now)
            reply, body = await attempt(url, photos=photos, bandwidth=bandwidth)
            assert isinstance(reply, Reply)
            assert sum(asked) == body.transfer.bytes_sent == body.transfer.size
            assert max(asked) == size


# What comes back


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("Content-Encoding: gzip", {"content_encoding": "gzip"}),
        ("Retry-After: 7", {"retry_after": "7"}),
        ("Date: Tue, 24 Nov 2026 01:30:00 GMT", {"date": "Tue, 24 Nov 2026 01:30:00 GMT"}),
    ],
)
async def test_a_reply_has_the_headers_that_decide_as_they_were_sent(head: str, expected: dict[str, Any]) -> None:
    answer = f"HTTP/1.1 503 Busy\r\nContent-Length: 3\r\n{head}\r\n\r\n".encode() + b"\x1f\x8bx"
    async with server(says(answer)) as url:
        reply, _ = await attempt(url)
    assert reply == Reply(503, b"\x1f\x8bx", **expected)


@pytest.mark.parametrize("length", ["chunked", "said", "to the end"])
@pytest.mark.parametrize(("size", "kept"), [(1023, 1023), (1024, 1024), (1025, 1025), (100_000, 1025)])
async def test_a_reply_is_read_up_to_its_limit_and_one_byte_to_see_more(length: str, size: int, kept: int) -> None:
    content = bytes(range(256)) * 400
    heads = {"chunked": b"Transfer-Encoding: chunked\r\n", "said": b"Content-Length: %d\r\n" % size, "to the end": b""}
    body = content[:size]
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body) if length == "chunked" else body
    async with server(says(b"HTTP/1.1 200 OK\r\n" + heads[length] + b"\r\n" + sent)) as url:
        reply, made = await attempt(url, max_reply_bytes=1024)
    cut = None if size <= 1024 else Reason.REPLY_TOO_LARGE
    assert reply == Reply(200, content[:kept], cut)
    assert made.answered == (cut is None)


async def test_a_reply_that_breaks_off_is_told_from_one_that_ends() -> None:
    async with server(says(ANSWER[:-1])) as url:
        reply, body = await attempt(url)
    assert reply == Reply(200, ACCEPTS[:-1], Reason.REPLY_LOST)
    assert not body.answered


@pytest.mark.parametrize(
    ("answer", "cause"),
    [(b"", Cause.BROKEN), (b"HTTP/1.1 two hundred\r\n\r\n", Cause.MALFORMED), (b"HTTP/1.1 200 O", Cause.BROKEN)],
)
async def test_what_is_no_reply_is_told_with_its_cause(answer: bytes, cause: Cause) -> None:
    async with server(says(answer)) as url:
        reply, body = await attempt(url)
    assert reply == NoReply(Phase.REPLY, cause)
    assert body.transfer.whole


async def test_no_cookie_is_sent_back_and_each_attempt_has_its_connection() -> None:
    heads: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await request(reader))[0])
        writer.write(ANSWER.replace(b"Connection: close", b"Set-Cookie: a=b"))

    async with server(talk) as url:
        named = EndpointSettings(url=url.replace("127.0.0.1", "localhost"))  # an address alone has no cookies
        async with Endpoint(named, TimeoutSettings()) as endpoint:
            for _ in range(2):
                body = endpoint.prepare("HT1", PHOTOS)
                assert await endpoint.send(body) == Reply(200, ACCEPTS)
                await body.release()
            limits = endpoint._session.timeout
    assert (limits.total, limits.connect, limits.sock_connect, limits.sock_read) == (None,) * 4  # ours alone count
    assert len(heads) == 2
    assert not any(b"cookie" in head.lower() for head in heads)


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    requests = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        requests += 1
        await request(reader)
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /else\r\nContent-Length: 0\r\n\r\n")

    async with server(talk) as url:
        reply, _ = await attempt(url)
    assert reply == Reply(302)
    assert requests == 1


async def test_a_reply_that_began_before_the_upload_is_told_from_one_to_it() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWER)
        await request(reader)

    async with server(talk) as url:
        reply, _ = await attempt(url)
    assert reply == Reply(200, ACCEPTS, early=True)


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.ECONNREFUSED, Cause.REFUSED), (errno.EMFILE, Cause.FILES_EXHAUSTED),
        (errno.ENFILE, Cause.FILES_EXHAUSTED), (errno.ENETUNREACH, Cause.BROKEN),
    ],
)  # fmt: skip
async def test_why_there_is_no_connection_is_told(monkeypatch: pytest.MonkeyPatch, number: int, cause: Cause) -> None:
    def failing(address: object) -> socket.socket:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("batchupload.connection._socket", failing)
    reply, body = await attempt("http://127.0.0.1:9/")
    assert reply == NoReply(Phase.CONNECT, cause)
    assert body.transfer.bytes_sent == 0


async def test_a_name_that_is_not_found_is_told_from_an_address_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def unknown(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    reply, _ = await attempt("https://name.invalid/")
    assert reply == NoReply(Phase.CONNECT, Cause.DNS)


async def test_a_server_without_tls_is_told_by_its_cause() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with server(talk) as url:
        reply, _ = await attempt(url.replace("http://", "https://"))
    assert reply == NoReply(Phase.CONNECT, Cause.TLS)


async def test_plain_http_goes_to_no_other_machine_unless_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    def failing(address: object) -> socket.socket:
        made.append(address)
        raise OSError(errno.ECONNREFUSED, "refused")

    async def elsewhere(*_: object, **__: object) -> object:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("192.0.2.1", 80))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", elsewhere)
    monkeypatch.setattr("batchupload.connection._socket", failing)
    assert (await attempt("http://name.invalid/", allow_plaintext=True))[0] == NoReply(Phase.CONNECT, Cause.REFUSED)
    assert (await attempt("https://name.invalid/"))[0] == NoReply(Phase.CONNECT, Cause.REFUSED)
    assert len(made) == 2
    with pytest.raises(ValueError, match="plain"):
        await attempt("http://name.invalid/")
    endpoint = EndpointSettings(url="http://127.0.0.1:9/")
    async with Endpoint(endpoint.model_copy(update={"url": "http://name.invalid/"}), TimeoutSettings()) as here:
        body = here.prepare("HT1", PHOTOS)
        assert isinstance(await here.send(body), NoReply)
    assert len(made) == 2


# Which wait ends it: one is short, and the others long.


async def takes_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)
    await asyncio.sleep(60)


async def says_half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)
    writer.write(ANSWER[:-2])
    await asyncio.sleep(60)


async def takes_little(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(4096):
        await asyncio.sleep(0.05)


LARGE = PhotoSet((Photo("face", bytes(20_000_000), "image/jpeg"),), b"digest")
STALLED = NoReply(Phase.BODY, Cause.TIMEOUT)
SILENT = NoReply(Phase.REPLY, Cause.TIMEOUT)
HALF = Reply(200, ACCEPTS[:-2], Reason.REPLY_TIMEOUT)
ENDINGS: dict[str, tuple[Talk, dict[str, Any], Reply | NoReply]] = {
    "no progress in the body": (takes_nothing, {"waits": {"progress": 0.3}}, STALLED),
    "no reply": (says_nothing, {"waits": {"reply": 0.3}}, SILENT),
    "no end of the reply": (says_half, {"waits": {"reply": 0.3}}, HALF),
    "a limit by its size": (
        takes_little,
        {"waits": {"connect": 0.3, "reply": 0.3, "slowest_link": 20_000_000.0}},
        STALLED,
    ),
}


@pytest.mark.parametrize("why", ENDINGS)
async def test_each_wait_of_an_attempt_ends_it(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchupload.connection.CLOSE_SECONDS", 300.0)  # only after a whole answer
    talk, how, expected = ENDINGS[why]
    photos = LARGE if expected == STALLED else PHOTOS
    loop = asyncio.get_running_loop()
    async with server(talk, 4096 if expected == STALLED else None) as url:
        began = loop.time()
        reply, body = await attempt(url, photos=photos, **how)
        assert loop.time() - began < 30
    assert reply == expected
    assert body.transfer.whole == (expected != STALLED)
    assert not body.answered


async def test_the_rest_of_a_reply_has_what_is_left_of_the_whole_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watchdog, "left", property(lambda _: 0.3))
    async with server(says_half) as url:
        reply, _ = await attempt(url)
    assert reply == HALF


async def test_a_connection_that_is_not_taken_ends_an_attempt() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listening.getsockname())
        try:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
            reply, body = await attempt(url, waits={"connect": 0.3})
        finally:
            for one in waiting:
                one.close()
    assert reply == NoReply(Phase.CONNECT, Cause.TIMEOUT)
    assert body.transfer.bytes_sent == 0
