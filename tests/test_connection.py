"""An order's answer is the one that came on its own connection, after its upload: never another's, early or late."""

import asyncio
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from conftest import Shop, batchupload, outcomes, read_report, send, settings_for

from batchupload.samples import draw_photo
from batchupload.settings import Settings

ACCEPTS = b'{"code":200,"msg":"ok"}'
REFUSES = b'{"code":400,"msg":"no"}'
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes = ACCEPTS, status: str = "200 OK", more: str = "Connection: close\r\n") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def in_chunks(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


async def request(reader: asyncio.StreamReader) -> bytes:
    """Read one request whole."""
    head = await reader.readuntil(b"\r\n\r\n")
    return head + await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))


@asynccontextmanager
async def endpoint(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[Settings]:
    """A bare server that has `talk` on each connection, and settings for it."""

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError, asyncio.CancelledError):
            await talk(reader, writer)
        writer.close()

    async with await asyncio.start_server(served, "127.0.0.1", 0, ssl=tls) as server:
        port = server.sockets[0].getsockname()[1]
        scheme = "https" if tls else "http"
        yield settings_for(f"{scheme}://127.0.0.1:{port}/", pace={"concurrency": 4, "canary": 0}, retry={"attempts": 1})


async def test_no_order_gets_the_answer_of_another(shop: Shop) -> None:
    orders = shop.orders(80)
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:  # however often it is asked
            await request(reader)
            writer.write(answer(REFUSES, more=""))
            await asyncio.sleep(0.005)
            writer.write(answer(ACCEPTS, more=""))

    async with endpoint(talk) as settings:
        _, report = await send(shop.manifest(), settings)
    assert outcomes(report) == dict.fromkeys(orders, ("rejected", "endpoint_refused"))
    assert connections == len(orders)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_no_order_gets_the_answer_of_another_at_a_worker_of_a_cluster(shop: Shop) -> None:
    orders = shop.orders(24)
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await request(reader)
            writer.write(answer(REFUSES, more=""))
            await asyncio.sleep(0.005)
            writer.write(answer(ACCEPTS, more=""))

    manifest = shop.manifest()
    async with endpoint(talk) as settings:
        words = ("--endpoint", settings.endpoint.url, "--cluster", "local:1", "--canary", "0", "--report", "report.csv")
        run = await asyncio.to_thread(batchupload, "run", manifest, *words, cwd=shop.folder)
    assert run.returncode == 1, run.stderr
    report = read_report(shop.folder / "report.csv")
    assert outcomes(report) == dict.fromkeys(orders, ("rejected", "endpoint_refused"))
    assert connections == len(orders)


async def test_an_answer_to_nothing_reaches_no_later_order(shop: Shop) -> None:
    orders = shop.orders(40)
    answers = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answers
        while True:
            asked = await request(reader)
            number = asked.split(b'name="order_id"\r\n\r\n')[1].split(b"\r\n")[0]
            for _ in range(2 if answers == 7 else 1):
                answers += 1
                writer.write(answer(b'{"code":400,"msg":"%b"}' % number, more=""))

    async with endpoint(talk) as settings:
        settings = settings.model_copy(update={"pace": settings.pace.model_copy(update={"concurrency": 1})})
        _, report = await send(shop.manifest(), settings)
    assert len(report) == len(orders)
    assert [row for row in report if row["message"] != row["order_id"]] == []


SECOND = {
    "another answer": answer(ACCEPTS),
    "another in chunks": in_chunks(ACCEPTS),
    "bytes that are none": b"\x00\xffnothing\r\n\r\n",
    "a line break": b"\r\n",
    "half an answer": answer(ACCEPTS)[:30],
}
FIRST = {
    "its length said": answer(REFUSES),
    "in chunks": in_chunks(REFUSES),
    "kept open": answer(REFUSES, more=""),
    "kept open, in chunks": in_chunks(REFUSES).replace(b"Connection: close\r\n", b""),
    "without a body": b"HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("pieces", ["at once", "byte by byte"])
@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("first", FIRST)
async def test_the_first_answer_counts_whatever_comes_behind_it(
    shop: Shop, first: str, second: str, pieces: str
) -> None:
    shop.order("HT0001")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        said = FIRST[first] + SECOND[second]
        for piece in [said] if pieces == "at once" else [said[at : at + 1] for at in range(len(said))]:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    async with endpoint(talk) as settings:
        _, report = await send(shop.manifest(), settings)
    expected = ("failed", "wrong_address") if first == "without a body" else ("rejected", "endpoint_refused")
    assert outcomes(report) == {"HT0001": expected}


INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


@pytest.mark.parametrize("when", ["at the start", "before the answer"])
async def test_an_interim_response_is_no_answer(shop: Shop, when: str) -> None:
    shop.order("HT0001")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if when == "at the start":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" + INTERIM)
        await request(reader)
        writer.write(INTERIM + answer())

    async with endpoint(talk) as settings:
        _, report = await send(shop.manifest(), settings)
    assert outcomes(report) == {"HT0001": ("uploaded", "accepted")}


def at_accept(said: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await request(reader)

    return talk


def once_begun(said: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await reader.read()

    return talk


def begun_at_accept(said: bytes) -> Talk:
    """Its first byte before the upload, all else after it."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said[:1])
        await writer.drain()
        await request(reader)
        writer.write(said[1:])

    return talk


EARLY = {"at accept": at_accept, "begun at accept": begun_at_accept, "in mid-body": once_begun}
SAYS = {
    "200": (answer(ACCEPTS), ("unknown", "reply_too_early")),
    "400": (answer(REFUSES), ("rejected", "endpoint_refused")),
    "413": (answer(b"", "413 Too Large"), ("rejected", "body_too_large")),
}


@pytest.mark.parametrize("said", SAYS)
@pytest.mark.parametrize("when", EARLY)
async def test_an_acceptance_that_began_before_the_upload_was_whole_is_not_believed(
    shop: Shop, when: str, said: str
) -> None:
    # There is more to send than what a server takes that does not read.
    size = 600_000 if when == "in mid-body" else 100_000
    orders = [shop.order(f"HT000{number}", {"face": padded(number, size)}) for number in range(6)]
    content, expected = SAYS[said]
    async with slow_endpoint(EARLY[when](content)) as settings:
        _, report = await send(shop.manifest(), settings)
    assert outcomes(report) == dict.fromkeys(orders, expected)


def padded(number: int, size: int) -> bytes:
    """A photo of at least `size` bytes."""
    photo = draw_photo("face", str(number), size=(64, 40))
    comments = b"".join(b"\xff\xfe\xff\xff" + bytes(65533) for _ in range(-(-size // 65537)))
    return photo[:2] + comments + photo[2:]


@asynccontextmanager
async def slow_endpoint(talk: Talk) -> AsyncIterator[Settings]:
    """As `endpoint`; what it does not read stays on the way, as on a slow link."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listening.bind(("127.0.0.1", 0))

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError, asyncio.CancelledError):
            await talk(reader, writer)
        writer.close()

    async with await asyncio.start_server(served, sock=listening, limit=4096):
        yield settings_for(
            f"http://127.0.0.1:{listening.getsockname()[1]}/",
            pace={"concurrency": 3, "canary": 0},
            retry={"attempts": 1},
            timeouts={"progress": 5.0, "reply": 5.0},
        )


async def test_an_acceptance_while_the_last_bytes_are_on_their_way_is_not_believed(shop: Shop) -> None:
    orders = [shop.order(f"HT000{number}", {"face": padded(number, 100_000)}) for number in range(4)]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.1)  # all that fits has come: the client handed over the whole body, in one slice
        writer.write(answer())
        await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))

    async with slow_endpoint(talk) as settings:
        _, report = await send(shop.manifest(), settings)
    assert outcomes(report) == dict.fromkeys(orders, ("unknown", "reply_too_early"))


NO_CHUNK = (b"zz\r\n", b"-5\r\n", b"16\r\n%b\r\n0\r\n\r\n" % ACCEPTS, b"17;\x1b[31m\r\n", b"f" * 18 + b"\r\n")


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("chunk", NO_CHUNK)
async def test_a_chunk_that_is_none_ends_the_attempt_at_once(shop: Shop, chunk: bytes, at_once: bool) -> None:
    shop.order("HT000001")
    head = in_chunks(ACCEPTS).split(b"\r\n\r\n")[0] + b"\r\n\r\n"

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(head)
        if not at_once:
            await writer.drain()
            await asyncio.sleep(0.05)
        writer.write(chunk)
        await reader.read()  # until the other side closes

    async with endpoint(talk) as settings:
        _, report = await send(shop.manifest(), settings)
    assert outcomes(report) == {"HT000001": ("unknown", "reply_malformed")}


async def test_the_server_closes_first_so_that_no_port_of_ours_waits(shop: Shop) -> None:
    shop.orders(100)
    ports: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await request(reader)
        assert b"\r\nConnection: close\r\n" in asked
        ports.append(writer.get_extra_info("peername")[1])
        writer.write(answer())

    async with endpoint(talk) as settings:
        summary, _ = await send(shop.manifest(), settings)
    assert summary.exit_code == 0
    here = int(settings.endpoint.url.split(":")[2].strip("/"))
    waiting = [
        port
        for _, local, remote, state, *_ in map(str.split, lines_of("/proc/net/tcp"))
        if (port := int(local.split(":")[1], 16)) in ports and int(remote.split(":")[1], 16) == here and state == "06"
    ]
    assert len(ports) == 100
    assert len(waiting) < 10


def lines_of(path: str) -> Iterator[str]:
    if not Path(path).exists():
        pytest.skip("no /proc/net/tcp here")
    yield from Path(path).read_text().splitlines()[1:]


@pytest.mark.parametrize("more", ["", "Connection: close\r\n"])
async def test_a_server_that_leaves_the_connection_open_costs_next_to_nothing(shop: Shop, more: str) -> None:
    shop.orders(20)
    over = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(answer(more=more))
        await over.wait()

    async with endpoint(talk) as settings:
        summary, report = await send(shop.manifest(), settings)
        over.set()
    assert summary.exit_code == 0  # and no answer came too late
    assert len(report) == 20
    assert summary.seconds < 30


FLOODS = {
    "interim responses": b"HTTP/1.1 100 Continue\r\n\r\n",
    "a blank line": b"\r\n\r\n",
    "chunks": b"4\r\n\r\n\r\n\r\n",
}


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("first", ["", "a head", "an answer"])
async def test_a_flood_keeps_nobody_busy(shop: Shop, first: str, flood: str) -> None:
    shop.order("HT0001")
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" if flood == "chunks" else b"HTTP/1.1 200 OK\r\n\r\n"
    begins = {"": b"", "a head": head, "an answer": answer()}[first]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(begins)
        for _ in range(200):
            writer.write(FLOODS[flood] * (65536 // len(FLOODS[flood])))
            await writer.drain()

    began = time.process_time()
    async with endpoint(talk) as settings:
        _, report = await send(shop.manifest(), settings)
    assert outcomes(report)["HT0001"][0] == ("uploaded" if first == "an answer" else "unknown")
    assert time.process_time() - began < 10


# A certificate and a wrong clock


def certificate(folder: Path, *, starts: str, ends: str) -> ssl.SSLContext:
    """A server's side of TLS with a certificate for 127.0.0.1, its times as OpenSSL writes them; see `trusted`."""
    if not (openssl := shutil.which("openssl")):
        pytest.skip("no openssl here")
    folder.mkdir()
    config = folder / "ca.cnf"
    config.write_text(
        "[ca]\ndefault_ca=own\n[own]\ndatabase=index.txt\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\n"
        "policy=any\nx509_extensions=ends\n[any]\ncommonName=supplied\n[ends]\nsubjectAltName=IP:127.0.0.1\n"
        "basicConstraints=CA:TRUE\n"
    )
    (folder / "index.txt").touch()
    (folder / "serial").write_text("01\n")
    key = "req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=127.0.0.1 -keyout key.pem"
    signed = "ca -batch -config ca.cnf -selfsign -keyfile key.pem -in request.pem -notext -out cert.pem"
    for words in (f"{key} -out request.pem", f"{signed} -startdate {starts} -enddate {ends}"):
        subprocess.run([openssl, *words.split()], cwd=folder, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return tls


@pytest.mark.parametrize(
    ("starts", "ends", "told"),
    [
        ("20010101000000Z", "20020101000000Z", "has expired"),
        ("20950101000000Z", "20960101000000Z", "is not valid yet"),
    ],
)
async def test_a_certificate_out_of_its_time_is_not_blamed_on_the_address(
    shop: Shop, starts: str, ends: str, told: str
) -> None:
    orders = shop.orders(30)
    manifest = shop.manifest()
    tls = certificate(shop.folder / "tls", starts=starts, ends=ends)
    trusted = {"SSL_CERT_FILE": str(shop.folder / "tls" / "cert.pem")}
    async with endpoint(at_accept(answer()), tls) as settings:
        words = ("--endpoint", settings.endpoint.url)
        run = await asyncio.to_thread(batchupload, "run", manifest, *words, cwd=shop.folder, env=trusted)
        doctor = await asyncio.to_thread(
            batchupload, "doctor", cwd=shop.folder, env={**trusted, "BATCHUPLOAD_ENDPOINT_URL": settings.endpoint.url}
        )
    assert run.returncode == 3
    report = read_report(next(shop.folder.glob("orders.report-*.csv")))
    assert sorted(row["order_id"] for row in report) == orders
    failed = [row for row in report if row["outcome"] == "failed"]
    assert failed
    assert {row["reason"] for row in failed} == {"certificate_date"}
    assert all(told in row["message"] and "clock" in row["message"] for row in failed)
    assert {row["reason"] for row in report if row["outcome"] != "failed"} == {"address_refused"}
    assert "set the clock" in run.stdout
    assert told in run.stdout
    assert "orrect endpoint.url" not in run.stdout
    assert "address is wrong" not in run.stdout
    assert "this machine's clock says" in doctor.stdout
