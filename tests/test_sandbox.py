"""The stand-in endpoint keeps the contract of the real one, and goes wrong exactly as it was asked to."""

import asyncio
import gzip
import hashlib
import io
import json
import logging
import re
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import aiohttp
import pytest
from conftest import idle_faults

from batchupload.sandbox import FAULTS, FaultRule, Sandbox, SandboxOptions, parse_fault
from batchupload.sandbox_faults import choose_fault

JPEG = b"\xff\xd8\xff\xe0" + b"j" * 2000
PNG = b"\x89PNG\r\n\x1a\n" + b"p" * 3000
PHOTOS = MappingProxyType({"face": JPEG, "back": PNG, "hand": JPEG + b"hand"})
ORDER = "HT2023111015044046891"
ACCEPTED = {"code": 200, "msg": "提交成功"}
MISSING = {"code": 400, "msg": "三张照片必须全部上传!"}


class Got(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


async def send(
    sandbox: Sandbox,
    order_id: str | None = ORDER,
    photos: Mapping[str, bytes] = PHOTOS,
    headers: Mapping[str, str] | None = None,
) -> Got:
    form = aiohttp.FormData()
    if order_id is not None:
        form.add_field("order_id", order_id)
    for name, content in photos.items():
        form.add_field(name, io.BytesIO(content), filename=f"{name}.jpg", content_type="image/jpeg")
    async with (
        aiohttp.ClientSession(auto_decompress=False, headers=headers) as session,
        session.post(sandbox.url, data=form, allow_redirects=False) as reply,
    ):
        return Got(reply.status, reply.headers, await reply.read())


def upload_bytes(sandbox: Sandbox, photos: Mapping[str, bytes] = PHOTOS) -> bytes:
    parts = [b'--cut\r\nContent-Disposition: form-data; name="order_id"\r\n\r\n' + ORDER.encode()]
    parts += [
        f'--cut\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.jpg"\r\n\r\n'.encode() + content
        for name, content in photos.items()
    ]
    body = b"\r\n".join([*parts, b"--cut--\r\n"])
    head = (
        f"POST {sandbox.options.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: multipart/form-data; boundary=cut\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@asynccontextmanager
async def connection(sandbox: Sandbox) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.port, limit=4 * 1024 * 1024)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def exchange(sandbox: Sandbox) -> bytes:
    """Everything that comes back on a bare connection until it is closed; ConnectionResetError if by RST."""
    async with asyncio.timeout(20), connection(sandbox) as (reader, writer):
        writer.write(upload_bytes(sandbox))
        return await reader.read()


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not happened():
            await asyncio.sleep(0.005)


def with_fault(name: str) -> SandboxOptions:
    return SandboxOptions(faults=(FaultRule(name, rate=1.0),))


# The contract


async def test_three_photos_and_an_order_number_are_accepted() -> None:
    async with Sandbox() as sandbox:
        got = await send(sandbox)
    assert (got.status, json.loads(got.body)) == (200, ACCEPTED)
    assert got.headers["Content-Type"] == "text/html; charset=utf-8"


async def test_hashes_and_sizes_of_accepted_photos_are_kept() -> None:
    async with Sandbox() as sandbox:
        await send(sandbox)
    (taken,) = sandbox.accepted[ORDER]
    assert taken == {
        name: {
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "type": "image/png" if content is PNG else "image/jpeg",
            "filename": f"{name}.jpg",
        }
        for name, content in PHOTOS.items()
    }


@pytest.mark.parametrize("name", PHOTOS)
async def test_a_missing_photo_is_refused(name: str) -> None:
    async with Sandbox() as sandbox:
        got = await send(sandbox, photos={other: PHOTOS[other] for other in PHOTOS if other != name})
    assert (got.status, json.loads(got.body)) == (200, MISSING)
    assert not sandbox.accepted


@pytest.mark.parametrize(("size", "answer"), [(2 * 1024 * 1024, ACCEPTED), (2 * 1024 * 1024 + 1, MISSING)])
async def test_a_photo_above_the_limit_counts_as_missing(size: int, answer: dict[str, object]) -> None:
    async with Sandbox() as sandbox:
        got = await send(sandbox, photos={**PHOTOS, "back": JPEG.ljust(size, b"x")})
    assert json.loads(got.body) == answer


async def test_a_body_above_the_limit_loses_all_its_fields() -> None:
    async with Sandbox(SandboxOptions(max_body_bytes=5000)) as sandbox:
        assert json.loads((await send(sandbox)).body) == MISSING


async def test_a_fourth_photo_that_is_too_large_is_dropped_alone() -> None:
    async with Sandbox(SandboxOptions(max_photo_bytes=5000)) as sandbox:
        await send(sandbox, photos={**PHOTOS, "custom": JPEG.ljust(5001)})
    assert sandbox.accepted[ORDER][0].keys() == PHOTOS.keys()


async def test_a_photo_that_is_neither_jpeg_nor_png_is_refused() -> None:
    async with Sandbox() as sandbox:
        answer = json.loads((await send(sandbox, photos={**PHOTOS, "hand": b"GIF89a" * 100})).body)
    assert answer["code"] == 400
    assert "PNG、JPG" in answer["msg"]


@pytest.mark.parametrize("order_id", [None, "", "abc", "HT 2023", "HT2023\n", "-HT2023", "订单号一二三", "H" * 65])
async def test_a_malformed_order_number_is_refused(order_id: str | None) -> None:
    async with Sandbox() as sandbox:
        answer = json.loads((await send(sandbox, order_id)).body)
    assert answer == {"code": 400, "msg": "订单号格式不正确"}


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data", "multipart/form-data; boundary=x"])
async def test_what_is_no_form_is_refused(content_type: str) -> None:
    async with Sandbox() as sandbox, aiohttp.ClientSession() as session:
        kind = {"Content-Type": content_type}
        async with session.post(sandbox.url, data=b"{}" * 100_000, headers=kind) as reply:
            assert json.loads(await reply.read()) == MISSING


async def test_the_order_number_may_come_last() -> None:
    form = aiohttp.FormData()
    for name, content in PHOTOS.items():
        form.add_field(name, io.BytesIO(content), filename=name)
    form.add_field("order_id", ORDER)
    rules = (parse_fault(f"bom@{ORDER}"),)
    async with (
        Sandbox(SandboxOptions(faults=rules)) as sandbox,
        aiohttp.ClientSession() as session,
        session.post(sandbox.url, data=form) as reply,
    ):
        assert (await reply.read()).startswith(b"\xef\xbb\xbf")
    assert ORDER in sandbox.accepted


# What it counts


async def test_stats_tell_what_came_and_what_became_of_it() -> None:
    async with Sandbox(SandboxOptions(faults=(parse_fault("http_500@HT0001:1"),))) as sandbox:
        await send(sandbox, "HT0001")
        await send(sandbox, "HT0001")
        await send(sandbox, "HT0002", photos={"face": JPEG})
        await send(sandbox, "HT0003", headers={"Cookie": "PHPSESSID=1"})
        address = f"http://127.0.0.1:{sandbox.port}/stats"
        async with aiohttp.ClientSession() as session:
            async with session.get(address) as reply:
                stats = await reply.json()
            async with session.get(address, params={"orders": "0"}) as reply:
                short = await reply.json()
    assert stats == sandbox.stats()
    assert short == sandbox.stats(orders=False) == {key: stats[key] for key in stats if key != "orders"}
    counted = ("requests", "accepted", "refused", "cut", "faults", "max_concurrent", "cookies_received")
    assert [short[key] for key in counted] == [4, 2, 1, 0, {"http_500": 1}, 1, 1]
    assert short["bytes"] > 3 * sum(map(len, PHOTOS.values()))
    orders: dict[str, Any] = stats["orders"]
    assert {order: (seen["sends"], seen["accepted"]) for order, seen in orders.items()} == {
        "HT0001": (2, 1),
        "HT0002": (1, 0),
        "HT0003": (1, 1),
    }
    assert orders["HT0001"]["photos"] == sandbox.accepted["HT0001"][-1]
    assert orders["HT0002"]["photos"] == {}


async def test_no_more_requests_are_worked_on_than_there_are_workers() -> None:
    async with Sandbox(SandboxOptions(workers=2, latency=0.03)) as sandbox:
        await asyncio.gather(*(send(sandbox, f"HT{number:04}") for number in range(10)))
    stats = sandbox.stats()
    assert (stats["accepted"], stats["max_concurrent"]) == (10, 2)


async def test_latency_comes_before_each_reply() -> None:
    async with Sandbox(SandboxOptions(latency=0.1)) as sandbox:
        began = asyncio.get_running_loop().time()
        await send(sandbox)
        assert asyncio.get_running_loop().time() - began >= 0.1


async def test_a_client_that_leaves_in_mid_body_is_counted_and_not_accepted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Sandbox() as sandbox:
        async with connection(sandbox) as (_, writer):
            writer.write(upload_bytes(sandbox)[:3000])
            await until(lambda: sandbox.stats(orders=False)["max_open"] == 1)
        await until(lambda: sandbox.stats(orders=False)["cut"] == 1)
    assert not sandbox.accepted
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# Which sends are struck


RATES = (FaultRule("http_500", 0.3), FaultRule("busy", 0.2), FaultRule("bom", 0.1))


async def outcomes(seed: int, orders: list[str]) -> dict[str, list[tuple[int, bytes]]]:
    """Two sends of every order, all at once."""
    async with Sandbox(SandboxOptions(faults=RATES, seed=seed)) as sandbox:

        async def twice(order_id: str) -> list[tuple[int, bytes]]:
            sent = [await send(sandbox, order_id) for _ in range(2)]
            return [(got.status, got.body) for got in sent]

        return dict(zip(orders, await asyncio.gather(*map(twice, orders)), strict=True))


async def test_the_seed_alone_decides_which_sends_are_struck() -> None:
    orders = [f"HT{number:04}" for number in range(30)]
    first = await outcomes(7, orders)
    assert await outcomes(7, orders[::-1]) == first
    assert await outcomes(8, orders) != first
    assert any(one != two for one, two in first.values())


def test_rates_are_kept_and_disjoint() -> None:
    struck = Counter(choose_fault(RATES, 1, f"HT{number}", 1) for number in range(20_000))
    for name, share in (("http_500", 0.3), ("busy", 0.2), ("bom", 0.1), (None, 0.4)):
        assert struck[name] / 20_000 == pytest.approx(share, abs=0.015)


def test_a_rate_of_all_strikes_all() -> None:
    rules = (FaultRule("bom", 0.9), FaultRule("nan", 0.1))
    assert None not in {choose_fault(rules, 1, f"HT{number}", 1) for number in range(5000)}


async def test_an_order_rule_strikes_the_first_sends_of_that_order_only() -> None:
    async with Sandbox(SandboxOptions(faults=(parse_fault(f"http_502@{ORDER}:2"),))) as sandbox:
        statuses = [(await send(sandbox, order)).status for order in (ORDER, "HT9999", ORDER, ORDER, ORDER)]
    assert statuses == [502, 200, 502, 200, 200]


async def test_an_order_rule_comes_before_rates() -> None:
    rules = (parse_fault("http_500=100%"), parse_fault(f"http_404@{ORDER}"))
    async with Sandbox(SandboxOptions(faults=rules)) as sandbox:
        assert [(await send(sandbox, order)).status for order in (ORDER, "HT9999", ORDER)] == [404, 500, 404]


def test_rates_above_all_sends_are_refused() -> None:
    with pytest.raises(ValueError, match="110%"):
        Sandbox(SandboxOptions(faults=(FaultRule("bom", 0.6), FaultRule("nan", 0.5))))


# What each fault does

STATUSES = (400, 401, 403, 404, 405, 408, 413, 425, 429, 500, 502, 503, 504)
PAGES = {
    **{f"http_{status}": status for status in STATUSES},
    "accepted_then_504": 504,
    "retry_after_seconds": 429,
    "retry_after_date": 503,
    "retry_after_garbage": 429,
    "early_413_drained": 413,
    "redirect": 302,
    "redirect_307": 307,
}


@pytest.mark.parametrize(("name", "status"), PAGES.items())
async def test_error_statuses_come_with_the_page_of_nginx(name: str, status: int) -> None:
    async with Sandbox(with_fault(name)) as sandbox:
        got = await send(sandbox)
    assert got.status == status
    assert b"<center>nginx</center>" in got.body
    assert bool(sandbox.accepted) is (name == "accepted_then_504")


def said(message: str) -> bytes:
    return f'{{"code":400,"msg":"{message}"}}'.encode()


PLAIN = '{"code":200,"msg":"提交成功"}'.encode()
BODIES: dict[str, tuple[Callable[[bytes], bool], bool]] = {
    "html_page": (lambda body: b"</html>" in body and b"{" not in body, False),
    "busy": (said("系统繁忙，请稍后再试").__eq__, False),
    "refused": (said("订单不存在").__eq__, False),
    "formula": (said("=cmd|'/c calc'!A1").__eq__, False),
    "php_warning": (
        lambda body: body.startswith(b"<br />\n<b>Warning") and body.endswith(b"<br />\n" + PLAIN),
        True,
    ),
    "bom": ((b"\xef\xbb\xbf" + PLAIN).__eq__, True),
    "gbk": ('{"code":200,"msg":"提交成功"}'.encode("gbk").__eq__, True),
    "unicode_escapes": (lambda body: body.isascii() and json.loads(body) == ACCEPTED, True),
    "string_code": ('{"code":"200","msg":"提交成功"}'.encode().__eq__, True),
    "code_missing": ('{"msg":"提交成功"}'.encode().__eq__, True),
    "code_null": ('{"code":null,"msg":"提交成功"}'.encode().__eq__, True),
    "code_true": ('{"code":true,"msg":"提交成功"}'.encode().__eq__, True),
    "code_float": ('{"code":200.0,"msg":"提交成功"}'.encode().__eq__, True),
    "duplicate_keys": (b'{"code":400,"code":200}'.__eq__, True),
    "nan": ('{"code":NaN,"msg":"提交成功"}'.encode().__eq__, True),
    "deep_json": (lambda body: body.count(b"[") == 10_000 and body.endswith(b"]]}"), True),
    "set_cookie": (PLAIN.__eq__, True),
    "gzip_reply": (lambda body: gzip.decompress(body) == PLAIN, True),
    "gzip_truncated": (
        lambda body: body == gzip.compress(PLAIN, mtime=0)[: len(body)] or len(body) == 30,
        True,
    ),
    "gzip_bomb": (
        lambda body: len(body) < 100_000 and len(zlib.decompress(body, 31)) == 64 * 1024 * 1024,
        False,
    ),
    "latency_spike": (PLAIN.__eq__, True),
}


@pytest.mark.parametrize(("name", "fits", "accepted"), [(name, *row) for name, row in BODIES.items()])
async def test_odd_replies_come_with_status_200(name: str, fits: Callable[[bytes], bool], accepted: bool) -> None:
    async with Sandbox(with_fault(name)) as sandbox:
        got = await send(sandbox)
    assert got.status == 200
    assert fits(got.body), got.body[:200]
    assert bool(sandbox.accepted) is accepted
    assert sandbox.stats()["faults"] == {name: 1}
    assert got.headers["Content-Type"] == ("text/html" if name == "gbk" else "text/html; charset=utf-8")
    assert got.headers.get("Content-Encoding") == ("gzip" if name.startswith("gzip") else None)
    assert ("Set-Cookie" in got.headers) is (name == "set_cookie")


RESETS = {
    "reset_before_body": False,
    "reset_in_body": False,
    "reset_after_body": False,
    "accepted_then_reset": True,
}


@pytest.mark.parametrize(("name", "accepted"), RESETS.items())
async def test_resets_come_without_a_reply(name: str, accepted: bool) -> None:
    async with Sandbox(with_fault(name)) as sandbox:
        with pytest.raises(ConnectionResetError):
            await exchange(sandbox)
    assert bool(sandbox.accepted) is accepted


RAW: dict[str, tuple[Callable[[bytes], bool], bool]] = {
    "closed_after_body": (b"".__eq__, True),
    "malformed_reply": (lambda reply: bool(reply) and not reply.startswith(b"HTTP"), True),
    "huge_headers": (
        lambda reply: reply.startswith(b"HTTP/1.1 200 OK\r\n") and len(reply) > 1024 * 1024,
        True,
    ),
    "close_keepalive": (lambda reply: reply.endswith(PLAIN) and b"Connection: close" not in reply, True),
}


@pytest.mark.parametrize(("name", "fits", "accepted"), [(name, *row) for name, row in RAW.items()])
async def test_the_connection_is_closed_in_order(name: str, fits: Callable[[bytes], bool], accepted: bool) -> None:
    async with Sandbox(with_fault(name)) as sandbox:
        reply = await exchange(sandbox)
    assert fits(reply), reply[:200]
    assert bool(sandbox.accepted) is accepted


def test_retry_after_is_a_date_when_asked_for() -> None:
    async def ask() -> str:
        async with Sandbox(with_fault("retry_after_date")) as sandbox:
            got = await send(sandbox)
        ahead = parsedate_to_datetime(got.headers["Retry-After"]) - parsedate_to_datetime(got.headers["Date"])
        assert 0 <= ahead.total_seconds() <= 2
        return got.headers["Retry-After"]

    assert asyncio.run(ask()).endswith("GMT")


@pytest.mark.parametrize(
    ("name", "header", "value"),
    [
        ("retry_after_seconds", "Retry-After", "1"),
        ("retry_after_garbage", "Retry-After", "soon"),
        ("redirect", "Location", "http://127.0.0.1:9/elsewhere"),
        ("redirect_307", "Location", "http://127.0.0.1:9/elsewhere"),
        ("set_cookie", "Set-Cookie", "PHPSESSID=sandbox; path=/"),
    ],
)
async def test_headers_that_a_client_must_mind(name: str, header: str, value: str) -> None:
    async with Sandbox(with_fault(name)) as sandbox:
        assert (await send(sandbox)).headers[header] == value


@pytest.mark.parametrize("name", ["early_413_drained", "early_413_closed"])
async def test_an_early_413_does_not_wait_for_the_body(name: str) -> None:
    async with (
        asyncio.timeout(20),
        Sandbox(with_fault(name)) as sandbox,
        connection(sandbox) as (reader, writer),
    ):
        upload = upload_bytes(sandbox, {**PHOTOS, "hand": JPEG.ljust(300_000)})
        writer.write(upload[:100_000])
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 ")
        assert (b"Connection: close" in head) is (name == "early_413_closed")
        if name == "early_413_closed":
            assert (await reader.read()).endswith(b"</html>\r\n")
        else:
            await reader.readuntil(b"</html>\r\n")
            writer.write(upload[100_000:] + b"GET /stats HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
    assert not sandbox.accepted


async def test_a_slow_reply_drips() -> None:
    async with Sandbox(with_fault("slow_reply")) as sandbox, connection(sandbox) as (reader, writer):
        writer.write(upload_bytes(sandbox))
        head = await reader.readuntil(b"\r\n\r\n")
        assert f"Content-Length: {len(PLAIN)}".encode() in head
        assert await reader.read(100) == PLAIN[:1]
        assert await reader.read(100) == PLAIN[1:2]
    assert ORDER in sandbox.accepted


async def test_an_endless_reply_lasts_until_the_client_has_enough() -> None:
    async with Sandbox(with_fault("endless_reply")) as sandbox:
        async with connection(sandbox) as (reader, writer):
            writer.write(upload_bytes(sandbox))
            await reader.readexactly(1024 * 1024)
        await until(lambda: bool(sandbox.stats()["bytes"]))
    assert not sandbox.accepted


async def test_a_request_without_an_answer_is_held_until_the_sandbox_stops() -> None:
    async with Sandbox(with_fault("no_answer")) as sandbox, connection(sandbox) as (reader, writer):
        writer.write(upload_bytes(sandbox))
        await until(lambda: bool(sandbox.stats()["faults"]))
        await stop_quickly(sandbox)
        with pytest.raises(ConnectionResetError):
            await reader.read()
    assert not sandbox.accepted


async def test_a_stalled_body_stays_unread() -> None:
    photos = {"face": JPEG.ljust(64 * 1024 * 1024)}
    async with Sandbox(with_fault("stall_reading")) as sandbox, connection(sandbox) as (_, writer):
        writer.write(upload_bytes(sandbox, photos))
        await until(lambda: bool(sandbox.stats()["faults"]))
        await stop_quickly(sandbox)
        with pytest.raises(ConnectionError):
            await writer.drain()
    assert sandbox.stats()["bytes"] < 1024 * 1024  # type: ignore[operator]


async def stop_quickly(sandbox: Sandbox) -> None:
    began = asyncio.get_running_loop().time()
    await sandbox.__aexit__(None, None, None)
    assert asyncio.get_running_loop().time() - began < 1


async def test_the_sandbox_stops_at_once_beside_clients_that_stall() -> None:
    names = ("no_answer", "slow_reply", "endless_reply", "stall_reading")
    rules = tuple(FaultRule(name, order_id=name.ljust(len(ORDER), "x")) for name in names)
    async with Sandbox(SandboxOptions(faults=rules)) as sandbox, asyncio.TaskGroup() as tasks:

        async def hang(request: bytes) -> None:
            async with connection(sandbox) as (reader, writer):
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                writer.write(request)
                await stopped.wait()
                del reader

        stopped = asyncio.Event()
        upload = upload_bytes(sandbox)
        for rule in rules:
            tasks.create_task(hang(upload.replace(ORDER.encode(), (rule.order_id or "").encode())))
        tasks.create_task(hang(upload[:700]))
        tasks.create_task(hang(b"POST /order"))
        tasks.create_task(hang(b""))
        await until(lambda: sandbox.stats()["faults"] == dict.fromkeys(names, 1))
        await until(lambda: sandbox.stats()["requests"] == len(rules) + 1)
        server = sandbox._runner.server
        assert server
        sockets = [each.transport.get_extra_info("socket") for each in server.connections if each.transport]
        assert len(sockets) == len(rules) + 3
        await stop_quickly(sandbox)
        await until(lambda: {each.fileno() for each in sockets} == {-1})
        stopped.set()


@pytest.mark.idle_faults
async def test_a_fault_that_struck_no_send_is_found() -> None:
    rules = tuple(map(parse_fault, (f"busy@{ORDER}:1", f"busy@{ORDER}x", f"refused@{ORDER}", "bom=1%", "gbk=99%")))
    async with Sandbox(SandboxOptions(faults=rules)) as sandbox:
        assert idle_faults(sandbox) == list(rules)
        await send(sandbox)
        assert idle_faults(sandbox) == list(rules[1:])
        await send(sandbox, "HT2023111015044046892")
    assert idle_faults(sandbox) == list(rules[1:4])


async def test_a_connection_is_reset_at_the_first_byte_of_its_next_request_and_not_before() -> None:
    rules = (parse_fault(f"closed_in_reuse@{ORDER}:1"),)
    async with asyncio.timeout(20), Sandbox(SandboxOptions(rules)) as sandbox:
        async with connection(sandbox) as (reader, writer):
            writer.write(upload_bytes(sandbox))
            reply = await reader.readuntil(PLAIN)
            assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"Connection: close" not in reply
            with pytest.raises(TimeoutError):  # left alone it stays open
                await asyncio.wait_for(reader.read(), 0.2)
            writer.write(b"P")
            with pytest.raises(ConnectionResetError):
                await reader.read()
        async with connection(sandbox) as (reader, writer):
            for _ in range(2):
                writer.write(upload_bytes(sandbox))
                await reader.readuntil(PLAIN)
    assert (len(sandbox.accepted[ORDER]), sandbox.stats()["requests"]) == (3, 3)


async def test_the_sandbox_stops_at_once_beside_a_connection_that_was_to_be_used_again() -> None:
    async with Sandbox(with_fault("closed_in_reuse")) as sandbox, connection(sandbox) as (reader, writer):
        writer.write(upload_bytes(sandbox))
        await reader.readuntil(PLAIN)
        await stop_quickly(sandbox)


def test_every_fault_is_tested_here_and_described() -> None:
    alone = {"closed_in_reuse", "early_413_closed", "slow_reply", "endless_reply", "no_answer", "stall_reading"}
    assert {*PAGES, *BODIES, *RESETS, *RAW, *alone} == set(FAULTS)
    assert all(FAULTS[name].endswith("accepted") and "\n" not in FAULTS[name] for name in FAULTS)


# The command line's words


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("http_500=5%", FaultRule("http_500", rate=0.05)),
        ("http_500=0.05", FaultRule("http_500", rate=0.05)),
        (" bom=2.5% ", FaultRule("bom", rate=0.025)),
        ("bom=.5", FaultRule("bom", rate=0.5)),
        ("bom=1", FaultRule("bom", rate=1.0)),
        ("busy@HT2023", FaultRule("busy", order_id="HT2023")),
        ("busy@HT2023:2", FaultRule("busy", order_id="HT2023", sends=2)),
    ],
)
def test_fault_rules_are_read(text: str, rule: FaultRule) -> None:
    assert parse_fault(text) == rule


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "write NAME=5% or NAME=0.05"),
        ("bom", "write NAME=5% or NAME=0.05"),
        ("bom=", "write NAME=5%"),
        ("bom=nan", "write NAME=5%"),
        ("bom=-1%", "write NAME=5%"),
        ("bom=5%@HT2023", "write NAME=5%"),
        ("bom@", "NAME@ORDER_ID"),
        ("bom@HT2023:x", "NAME@ORDER_ID:2"),
        ("bom@HT2023:0", "1 or more"),
        ("bom=101%", "0% to 100%"),
        ("bom=5", "0% to 100%"),
        ("bomb=5%", "no fault is called 'bomb'; there are: http_400, "),
    ],
)
def test_a_fault_rule_that_cannot_be_says_what_is_allowed(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(hint)):
        parse_fault(text)


# Where it listens


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_it_listens_on_loopback_only(host: str) -> None:
    with pytest.raises(ValueError, match=r"loopback|address"):
        Sandbox(host=host)


async def test_a_port_that_was_asked_for_is_used() -> None:
    async with Sandbox() as first:
        port = first.port
    async with Sandbox(host="localhost", port=port) as second:
        assert second.url == f"http://127.0.0.1:{port}/order/api/haoteam/getimg"
        assert (await send(second)).status == 200
