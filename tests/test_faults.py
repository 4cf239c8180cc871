"""Whatever the endpoint or the network does: the outcome says what is known, and no more."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from conftest import Shop, outcomes, send, send_to_sandbox, settings_for

from batchupload.sandbox import FAULTS, Sandbox

ORDER = "HT000001"

# Fault → the ending of an order that meets it at every send.
ENDINGS = {
    "http_400": ("rejected", "http_refused"),
    "http_401": ("failed", "wrong_address"),
    "http_403": ("failed", "wrong_address"),
    "http_404": ("failed", "wrong_address"),
    "http_405": ("failed", "wrong_address"),
    "http_408": ("failed", "request_timeout"),
    "http_413": ("rejected", "body_too_large"),
    "http_425": ("failed", "too_early"),
    "http_429": ("failed", "rate_limited"),
    "http_500": ("unknown", "server_error"),
    "http_502": ("unknown", "server_error"),
    "http_503": ("failed", "unavailable"),
    "http_504": ("unknown", "server_error"),
    "accepted_then_504": ("unknown", "server_error"),
    "retry_after_seconds": ("failed", "rate_limited"),
    "retry_after_date": ("failed", "unavailable"),
    "retry_after_garbage": ("failed", "rate_limited"),
    "reset_before_body": ("failed", "upload_reset"),
    "reset_in_body": ("failed", "upload_reset"),
    "reset_after_body": ("unknown", "reply_lost"),
    "accepted_then_reset": ("unknown", "reply_lost"),
    "closed_after_body": ("unknown", "reply_lost"),
    "stall_reading": ("failed", "upload_stalled"),
    "no_answer": ("unknown", "reply_timeout"),
    "slow_reply": ("unknown", "reply_timeout"),
    "html_page": ("unknown", "reply_unreadable"),
    "php_warning": ("uploaded", "accepted"),
    "bom": ("uploaded", "accepted"),
    "gbk": ("uploaded", "accepted"),
    "unicode_escapes": ("uploaded", "accepted"),
    "string_code": ("uploaded", "accepted"),
    "code_missing": ("unknown", "reply_without_code"),
    "code_null": ("unknown", "reply_without_code"),
    "code_true": ("unknown", "reply_without_code"),
    "code_float": ("unknown", "reply_without_code"),
    "duplicate_keys": ("unknown", "reply_unreadable"),
    "nan": ("unknown", "reply_unreadable"),
    "deep_json": ("unknown", "reply_unreadable"),
    "busy": ("rejected", "endpoint_refused"),
    "refused": ("rejected", "endpoint_refused"),
    "formula": ("rejected", "endpoint_refused"),
    "early_413_drained": ("rejected", "body_too_large"),
    "early_413_closed": ("rejected", "body_too_large"),
    "redirect": ("failed", "redirected"),
    "redirect_307": ("failed", "redirected"),
    "set_cookie": ("uploaded", "accepted"),
    "gzip_reply": ("uploaded", "accepted"),
    "gzip_truncated": ("unknown", "reply_unreadable"),
    "gzip_bomb": ("unknown", "reply_too_large"),
    "endless_reply": ("unknown", "reply_too_large"),
    "huge_headers": ("unknown", "reply_malformed"),
    "malformed_reply": ("unknown", "reply_malformed"),
    "close_keepalive": ("uploaded", "accepted"),
    "closed_in_reuse": ("uploaded", "accepted"),
    "latency_spike": ("unknown", "reply_timeout"),
}

BIG = b"\xff\xd8\xff" + bytes(1_500_000)
"""Larger than what the system takes in on its own account, so that an unread upload is one."""


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_fault_ends_as_it_must(shop: Shop, fault: str) -> None:
    shop.order(ORDER, {"face": BIG, "back": BIG + b"2", "hand": BIG + b"3"})
    _, report, server = await send_to_sandbox(
        shop.manifest(), [f"{fault}@{ORDER}"], retry={"attempts": 2}, photos={"validate": "off"}
    )
    assert outcomes(report) == {ORDER: ENDINGS[fault]}
    if report[0]["outcome"] == "uploaded":
        assert ORDER in server.accepted
    if report[0]["outcome"] in {"failed", "rejected"}:
        assert ORDER not in server.accepted


TRANSIENT = [fault for fault, (outcome, reason) in ENDINGS.items() if outcome in {"failed", "unknown"}]
TRANSIENT = [fault for fault in TRANSIENT if ENDINGS[fault][1] not in {"wrong_address", "redirected"}]


@pytest.mark.parametrize("fault", TRANSIENT)
async def test_a_passing_fault_is_retried_and_the_attempts_are_told(shop: Shop, fault: str) -> None:
    shop.order(ORDER, {"face": BIG, "back": BIG + b"2", "hand": BIG + b"3"})
    _, report, server = await send_to_sandbox(shop.manifest(), [f"{fault}@{ORDER}:1"], photos={"validate": "off"})
    assert outcomes(report) == {ORDER: ("uploaded", "accepted")}
    assert report[0]["attempts"] == "2"
    assert f"1 {ENDINGS[fault][1]}" in report[0]["detail"]
    assert ORDER in server.accepted


RARE = ["http_503", "http_502", "reset_in_body", "accepted_then_reset", "html_page", "gbk", "php_warning", "http_413"]


@pytest.mark.parametrize("fault", RARE)
async def test_a_fault_that_strikes_some_sends_leaves_the_others_alone(shop: Shop, fault: str) -> None:
    orders = shop.orders(100)
    _, report, server = await send_to_sandbox(shop.manifest(), [f"{fault}=20%"])
    assert sorted(row["order_id"] for row in report) == orders
    uploaded = {row["order_id"] for row in report if row["outcome"] == "uploaded"}
    assert uploaded <= set(server.accepted)
    # Photos as small as these are with the network at once: then a reset is one after the upload.
    reasons = {ENDINGS[fault][1], "reply_lost" if "reset" in fault else ""}
    explained = {order for order, (_, reason) in outcomes(report).items() if reason in reasons}
    assert uploaded | explained == set(orders)


async def test_an_ambiguous_attempt_is_not_forgotten_when_the_last_one_certainly_failed(shop: Shop) -> None:
    shop.order(ORDER)
    faults = [f"accepted_then_reset@{ORDER}:1", f"http_503@{ORDER}"]
    _, report, _ = await send_to_sandbox(shop.manifest(), faults, retry={"attempts": 2})
    assert outcomes(report) == {ORDER: ("unknown", "reply_lost")}
    assert report[0]["detail"] == "attempts: 1 reply_lost, 2 unavailable (503)"


async def test_a_refusal_keeps_the_endpoints_words(shop: Shop) -> None:
    shop.order(ORDER)
    _, report, _ = await send_to_sandbox(shop.manifest(), [f"formula@{ORDER}"])
    assert (report[0]["http_status"], report[0]["code"]) == ("200", "400")
    assert report[0]["message"] == "'=cmd|'/c calc'!A1"


@pytest.mark.parametrize(("then", "ending"), [("retry", "failed"), ("accept", "uploaded"), ("reject", "rejected")])
async def test_the_table_of_replies_decides_first(shop: Shop, then: str, ending: str) -> None:
    shop.order(ORDER)
    rules = [{"code": 400, "message": "系统繁忙", "then": then}]
    _, report, _ = await send_to_sandbox(shop.manifest(), [f"busy@{ORDER}"], endpoint={"replies": rules})
    assert report[0]["outcome"] == ending


async def test_cookies_are_never_sent_back(shop: Shop) -> None:
    shop.orders(10)
    _, _, server = await send_to_sandbox(shop.manifest(), ["set_cookie=100%"], pace={"concurrency": 1})
    assert server.stats()["cookies_received"] == 0


async def test_connections_closed_by_the_peer_are_never_an_orders_failure(shop: Shop) -> None:
    shop.orders(50)
    _, report, _ = await send_to_sandbox(shop.manifest(), ["close_keepalive=100%"], pace={"concurrency": 2})
    assert {row["outcome"] for row in report} == {"uploaded"}


@asynccontextmanager
async def closed_port() -> AsyncIterator[int]:
    """A port that refuses, and stays ours meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@asynccontextmanager
async def deaf_port() -> AsyncIterator[int]:
    """A port whose backlog is full: connections are not taken."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        yield listener.getsockname()[1]
        for filler in fillers:
            filler.close()


async def test_a_closed_port_ends_failed_and_not_unknown(shop: Shop) -> None:
    shop.orders(1)
    async with closed_port() as port:
        summary, report = await send(shop.manifest(), settings_for(f"http://127.0.0.1:{port}/"))
    assert outcomes(report) == {"HT000000": ("failed", "connection_refused")}
    assert report[0]["bytes_sent"] == "0"
    assert summary.exit_code == 1


async def test_a_connection_that_is_not_taken_times_out(shop: Shop) -> None:
    shop.orders(1)
    async with deaf_port() as port:
        settings = settings_for(f"http://127.0.0.1:{port}/", timeouts={"connect": 0.2}, retry={"attempts": 2})
        _, report = await send(shop.manifest(), settings)
    assert outcomes(report) == {"HT000000": ("failed", "connect_timeout")}


async def test_a_host_that_does_not_exist_ends_failed(shop: Shop) -> None:
    shop.orders(1)
    # `.invalid` never resolves (RFC 6761); no packet with an order leaves this machine.
    settings = settings_for("http://nowhere.invalid/", endpoint={"allow_plaintext": True}, retry={"attempts": 1})
    _, report = await send(shop.manifest(), settings)
    assert report[0]["outcome"] == "failed"
    assert report[0]["reason"] in {"dns_failed", "connect_timeout"}


async def test_a_plain_http_port_behind_https_is_a_wrong_address(shop: Shop) -> None:
    shop.orders(1)
    async with Sandbox() as server:
        _, report = await send(shop.manifest(), settings_for(server.url.replace("http:", "https:")))
    assert outcomes(report) == {"HT000000": ("failed", "tls_failed")}


@asynccontextmanager
async def server_that_says(*pieces: bytes, pause: float = 0.0, reset: bool = False) -> AsyncIterator[int]:
    """A bare server: reads the whole request, or what comes within a moment, and answers with `pieces`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError):
            pass
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause)
        if reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


ACCEPTED = b'{"code":200,"msg":"ok"}'


@pytest.mark.parametrize(
    ("reply", "ending"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\n" + ACCEPTED, ("uploaded", "accepted")),
        (b"HTTP/1.0 200 OK\r\n\r\n" + ACCEPTED, ("uploaded", "accepted")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + ACCEPTED, ("unknown", "reply_lost")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n17\r\n" + ACCEPTED, ("unknown", "reply_lost")),
        (b"HTTP/1.1 413 Too Large\r\nContent-Length: 99\r\n\r\n", ("rejected", "body_too_large")),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n", ("failed", "redirected")),
        (b"HTTP/1.1 200 OK\r\n", ("unknown", "reply_lost")),
        (b"HTTP/1.1 twohundred OK\r\n\r\n", ("unknown", "reply_malformed")),
    ],
)
async def test_replies_byte_by_byte(shop: Shop, reply: bytes, ending: tuple[str, str]) -> None:
    shop.order(ORDER)
    async with server_that_says(reply) as port:
        settings = settings_for(f"http://127.0.0.1:{port}/", retry={"attempts": 1})
        _, report = await send(shop.manifest(), settings)
    assert outcomes(report) == {ORDER: ending}


CODES = [
    "200.0",
    '"200.0"',
    "2e2",
    '"0200"',
    '"２００"',
    '"+200"',
    "true",
    '"true"',
    "null",
    "[200]",
    '{"code":200}',
    '""',
]


@pytest.mark.parametrize("code", CODES)
async def test_a_code_that_only_looks_like_200_is_no_acceptance(shop: Shop, code: str) -> None:
    shop.order(ORDER)
    said = f'{{"code":{code},"msg":"ok"}}'.encode()
    async with server_that_says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said)) as port:
        _, (row,) = await send(shop.manifest(), settings_for(f"http://127.0.0.1:{port}/", retry={"attempts": 2}))
    assert (row["outcome"], row["reason"]) == ("unknown", "reply_without_code")
    assert (row["attempts"], row["code"]) == ("2", "")


async def test_no_proxy_of_the_environment_is_used(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.order(ORDER)
    async with server_that_says(b"HTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\n" + ACCEPTED) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy}")
        monkeypatch.setenv("no_proxy", "")
        _, report, server = await send_to_sandbox(shop.manifest())
    assert outcomes(report) == {ORDER: ("uploaded", "accepted")}
    assert ORDER in server.accepted


async def test_the_connection_of_an_endless_reply_is_closed_soon(shop: Shop) -> None:
    shop.order(ORDER)
    written = 0
    closed = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while written < 1 << 30:
                writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
                written += 0x10000
                await writer.drain()
        except ConnectionError:
            closed.set()
        writer.close()

    async with await asyncio.start_server(flood, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        _, report = await send(shop.manifest(), settings_for(url, retry={"attempts": 1}))
        await asyncio.wait_for(closed.wait(), 10)
    assert outcomes(report) == {ORDER: ("unknown", "reply_too_large")}
    assert written < 32 << 20  # what the system takes in on its own account is less
