"""Photos that stand elsewhere: fetched with the limits that files have, from nowhere else, and never to the disk."""

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from conftest import Shop, outcomes, picture, send, settings_for

from batchupload.model import Problem
from batchupload.photos import PhotoError
from batchupload.sandbox import Sandbox, SandboxOptions
from batchupload.settings import RetrySettings, TimeoutSettings
from batchupload.shop_settings import PhotoSettings
from batchupload.sources.sources import Sources
from batchupload.sources.web import PrivateAddressError, PublicOnly, Web

LIMIT = PhotoSettings().max_bytes
HERE = {"allow_private_hosts": True}
UPLOADED = ("uploaded", "accepted")


@dataclass
class Store:
    """A host of photos on loopback: what it has, and what it was asked for."""

    port: int = 0
    photos: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    busy: int = 0
    """Requests that it turns away at first."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.raw_path, dict(request.headers)))
        name = request.path.lstrip("/")
        if self.busy:
            self.busy -= 1
            return web.Response(status=503)
        if name.startswith("status/"):
            return web.Response(status=int(name.split("/")[1]), text="x")
        if name == "elsewhere":
            return web.Response(status=307, headers={"Location": f"http://127.0.0.2:{self.port}/face"})
        if name == "to-file":
            return web.Response(status=302, headers={"Location": "file:///etc/passwd"})
        if name == "here":
            return web.Response(status=302, headers={"Location": "/face", "Set-Cookie": "a=b"})
        if name == "round":
            return web.Response(status=302, headers={"Location": "/round"})
        if name == "endless":
            response = web.StreamResponse()
            await response.prepare(request)
            with suppress(ConnectionError):  # whoever asked has enough
                while True:
                    await response.write(b"\xff\xd8\xff" + bytes(65536))
            return response
        if name == "cut":
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b"\xff\xd8\xff")
            assert request.transport
            request.transport.abort()
            return response
        if name == "slow":
            await asyncio.sleep(5)
        if name not in self.photos:
            return web.Response(status=404)
        return web.Response(body=self.photos[name])


@asynccontextmanager
async def store(**photos: bytes) -> AsyncIterator[Store]:
    kept = Store(photos={name: picture(name) for name in ("face", "back", "hand")} | photos)
    app = web.Application()
    app.router.add_get("/{path:.*}", kept.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    kept.port = runner.addresses[0][1]
    try:
        yield kept
    finally:
        await runner.cleanup()


async def fetched(address: str, **photos: Any) -> bytes | Problem:
    sources = Sources(
        PhotoSettings(**(HERE | photos)),
        RetrySettings(base=0.01, cap=0.02, attempts=3),
        TimeoutSettings(photos=1.0, connect=1.0, progress=1.0),
    )
    async with sources:
        (found,) = await sources.fetch([{"face": address}])
    return found if isinstance(found, Problem) else found["face"]


def row(shop: Shop, order_id: str, *addresses: str) -> str:
    shop.rows.append([order_id, *addresses])
    return order_id


async def test_photos_with_addresses_are_sent_as_they_are_there(shop: Shop) -> None:
    shop.folder.mkdir()
    async with store() as kept, Sandbox() as server:
        one = row(shop, "HT000001", *(f"{kept.url}/{name}" for name in ("face", "back", "hand")))
        two = row(
            shop, "HT000002", f"{kept.url}/here", shop.write("back.jpg", picture("b")), f"{kept.url}/hand?s=%2F%20"
        )
        _, report = await send(shop.manifest(), settings_for(server.url, photos=HERE))
        assert outcomes(report) == {one: UPLOADED, two: UPLOADED}
        assert server.accepted[one][0]["face"]["sha256"] == hashlib.sha256(picture("face")).hexdigest()
        asked = dict(kept.asked)
        assert "/hand?s=%2F%20" in asked, "a signed address goes out as it is"
        assert all("Cookie" not in headers for headers in asked.values())
        assert {found["face"] for found in report} == {f"{kept.url}/face", f"{kept.url}/here"}
        _, again = await send(shop.manifest(), settings_for(server.url, photos=HERE))
    assert set(outcomes(again).values()) == {("skipped", "already_uploaded")}
    assert not list(Path(shop.folder).rglob("*.tmp"))


async def test_each_photo_comes_on_a_connection_of_its_own() -> None:
    asked: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):  # however often it is asked
            asked.append(head)
            name = head.split()[1].decode().strip("/")
            for photo in (picture(name), picture("back" if name == "face" else "face")):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(photo) + photo)
                await writer.drain()
                await asyncio.sleep(0.01)

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(EOFError, OSError):
                await talk(reader, writer)
        finally:
            writer.transport.abort()  # also if the test is over before

    async with await asyncio.start_server(served, "127.0.0.1", 0) as server:
        web = Web(PhotoSettings(), TimeoutSettings(), private=True)
        try:
            for name in ("face", "back", "hand") * 3:
                assert await web.get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/{name}") == picture(name)
        finally:
            await web.close()
    assert all(b"\r\nConnection: close\r\n" in head for head in asked)


async def test_what_can_not_be_had_is_said_and_the_others_go_on(shop: Shop) -> None:
    shop.folder.mkdir()
    async with store(text=b"no photo") as kept, Sandbox() as server:
        others = [f"{kept.url}/back", f"{kept.url}/hand"]
        expected = {
            row(shop, "HT000001", f"{kept.url}/gone", *others): ("invalid", "photo_missing"),
            row(shop, "HT000002", f"{kept.url}/status/403", *others): ("invalid", "photo_unreadable"),
            row(shop, "HT000003", f"{kept.url}/status/500", *others): ("deferred", "photo_not_fetched"),
            row(shop, "HT000004", f"{kept.url}/text", *others): ("invalid", "photo_wrong_type"),
            row(shop, "HT000005", f"{kept.url}/endless", *others): ("invalid", "photo_too_large"),
            row(shop, "HT000006", f"{kept.url}/elsewhere", *others): ("invalid", "photo_address_refused"),
            row(shop, "HT000009", f"{kept.url}/to-file", *others): ("invalid", "photo_address_refused"),
            row(shop, "HT000007", f"{kept.url}/cut", *others): ("deferred", "photo_not_fetched"),
            row(shop, "HT000008", f"{kept.url}/face", *others): UPLOADED,
        }
        _, report = await send(shop.manifest(), settings_for(server.url, photos=HERE))
    assert outcomes(report) == expected
    detail = {found["order_id"]: found["detail"] for found in report}
    assert detail["HT000002"] == "face: HTTP 403: the link may have expired"
    assert detail["HT000003"] == "face: HTTP 500"


async def test_the_limit_is_the_files_to_the_byte() -> None:
    async with store(just=bytes(LIMIT), over=bytes(LIMIT + 1), empty=b"") as kept:
        assert await fetched(f"{kept.url}/just") == bytes(LIMIT)
        over = await fetched(f"{kept.url}/over")
        assert isinstance(over, Problem)
        assert (over.reason, over.detail) == ("photo_too_large", f"face: {LIMIT + 1} bytes, at most {LIMIT}")
        empty = await fetched(f"{kept.url}/empty")
        assert isinstance(empty, Problem)
        assert empty.reason == "photo_empty"


async def test_a_host_that_is_busy_is_asked_again_and_one_that_is_slow_is_given_up() -> None:
    async with store() as kept:
        kept.busy = 2
        assert await fetched(f"{kept.url}/face") == picture("face")
        kept.busy = 3
        assert isinstance(await fetched(f"{kept.url}/face"), Problem)
        assert len(kept.asked) == 6
        slow = await fetched(f"{kept.url}/slow")
    assert isinstance(slow, Problem)
    assert (slow.reason, slow.detail) == ("photo_not_fetched", "face: not there after 1 s")


@pytest.mark.parametrize(
    "address",
    [
        "http://example.com/a.jpg",
        "ftp://example.com/a.jpg",
        "file:///etc/passwd",
        "https://user:secret@example.com/a.jpg",
        "https:///a.jpg",
        "https://example.com:0x50/a.jpg",
        "https://127.0.0.1/a.jpg",
        "https://localhost/a.jpg",
        "https://10.1.2.3/a.jpg",
        "https://192.168.1.1/a.jpg",
        "https://169.254.169.254/latest/meta-data",
        "https://100.64.0.1/a.jpg",
        "https://0.0.0.0/a.jpg",
        "https://224.0.0.1/a.jpg",
        "https://[::1]/a.jpg",
        "https://[fe80::1]/a.jpg",
        "https://[fd00::1]/a.jpg",
        "https://[::ffff:127.0.0.1]/a.jpg",
        "https://2130706433/a.jpg",
        "https://127.1/a.jpg",
        "https://0x7f.1/a.jpg",
        "s3://bucket",
        "s3:///key",
        "https://a..b/a.jpg",
        "https://.../a.jpg",
        f"https://{'a' * 64}.example/a.jpg",
    ],
)
async def test_addresses_that_may_not_be_fetched_are_refused_before_a_connection(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    def none(*_: Any, **__: Any) -> Any:
        raise AssertionError("a connection was begun")

    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", none)
    found = await fetched(address, allow_private_hosts=False)
    assert isinstance(found, Problem)
    assert found.reason == "photo_address_refused"
    assert "secret" not in found.detail


class Names(AbstractResolver):
    """A name server that says what it is told to."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None: ...


async def test_a_public_name_with_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await PublicOnly(Names("93.184.216.34")).resolve("x")
    for addresses in (["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["::ffff:10.0.0.1"]):
        with pytest.raises(PrivateAddressError):
            await PublicOnly(Names(*addresses)).resolve("x")
    monkeypatch.setattr(aiohttp, "ThreadedResolver", lambda: Names("10.0.0.1"))
    source = Web(PhotoSettings(), TimeoutSettings(), private=False)
    try:
        with pytest.raises(PhotoError) as caught:
            await source.get("https://photos.example/a.jpg")
    finally:
        await source.close()
    assert caught.value.problem.reason == "photo_address_refused"


async def test_only_so_many_are_fetched_at_once(shop: Shop) -> None:
    shop.folder.mkdir()
    now = most = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1
        return web.Response(body=picture(request.path))

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    for number in range(30):
        row(shop, f"HT{number:06}", *(f"{url}/{number}/{name}" for name in ("face", "back", "hand")))
    try:
        async with Sandbox(SandboxOptions()) as server:
            _, report = await send(shop.manifest(), settings_for(server.url, photos={**HERE, "fetches": 4}))
    finally:
        await runner.cleanup()
    assert set(outcomes(report).values()) == {UPLOADED}
    assert most == 4


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")


async def test_without_a_key_nobody_is_asked_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    async with asyncio.timeout(60):
        with monkeypatch.context() as patched:
            patched.setattr("obstore.sign_async", None)  # it asks 169.254.169.254
            found = await fetched("s3://bucket/a.jpg")
    assert isinstance(found, Problem)
    assert found.reason == "photo_unreadable"
    assert "AWS_ACCESS_KEY_ID" in found.detail


@pytest.mark.usefixtures("credentials")
async def test_photos_come_from_an_object_store(shop: Shop) -> None:
    shop.folder.mkdir()
    names = {f"orders/HT 1/{name}.jpg": picture(name) for name in ("face", "back", "hand")}
    async with store() as kept, Sandbox() as server:
        kept.photos |= {f"photos/{name}": content for name, content in names.items()}
        kept.photos["photos/big.jpg"] = bytes(LIMIT + 1)
        one = row(shop, "HT000001", *(f"s3://photos/{name}" for name in names))
        others = [f"s3://photos/{name}" for name in list(names)[1:]]
        gone = row(shop, "HT000002", "s3://photos/gone.jpg", *others)
        large = row(shop, "HT000003", "s3://photos/big.jpg", *others)
        away = row(shop, "HT000004", "s3://elsewhere", *others)
        photos = {"s3_endpoint": kept.url, "s3_region": "cn-hangzhou", "s3_virtual_hosted": False}
        _, report = await send(shop.manifest(), settings_for(server.url, photos=photos))
    assert outcomes(report) == {
        one: UPLOADED,
        gone: ("invalid", "photo_missing"),
        large: ("invalid", "photo_too_large"),
        away: ("invalid", "photo_address_refused"),
    }
    path, _ = kept.asked[0]
    assert path.startswith("/photos/")
    assert "X-Amz-Credential=AKTEST%2F" in path
    assert "%2Fcn-hangzhou%2Fs3%2Faws4_request" in path
    assert "not-a-secret" not in str(kept.asked)


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize(("name", "reason"), [("status/403", "photo_unreadable"), ("status/500", "photo_not_fetched")])
async def test_an_object_store_that_refuses_or_fails_is_said(name: str, reason: str) -> None:
    async with store() as kept:
        found = await fetched(f"s3://{name}", s3_endpoint=kept.url, s3_virtual_hosted=False)
    assert isinstance(found, Problem)
    assert found.reason == reason


@pytest.mark.usefixtures("credentials")
async def test_an_object_store_that_redirects_elsewhere_is_not_followed() -> None:
    heard = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(100))
        writer.close()

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:%d/x\r\nContent-Length: 0\r\n\r\n" % port)
        await writer.drain()
        writer.close()

    async with (
        await asyncio.start_server(listen, "127.0.0.1", 0) as other,
        await asyncio.start_server(redirect, "127.0.0.1", 0) as endpoint,
    ):
        port = other.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{endpoint.sockets[0].getsockname()[1]}"
        found = await fetched("s3://bucket/key", s3_endpoint=url, s3_virtual_hosted=False)
    assert isinstance(found, Problem)
    assert heard == []
