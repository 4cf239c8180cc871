"""The doctor says what is well and what to mend, waits for nobody for long, and sends no order."""

import asyncio
import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from conftest import Shop, as_plain_user, batchupload, command, environment, send_to_sandbox, under_way

from batchupload.checkup import Level
from batchupload.doctor import LITTLE, SCARCE, open_files
from batchupload.reach import answered, clock, lifetime, reach
from batchupload.sandbox import Sandbox, SandboxOptions

NOW = datetime(2026, 11, 24, 12, 0, 0, 500_000, tzinfo=UTC)
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on loopback; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (OSError, EOFError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(20)


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"H")
        await writer.drain()
        await asyncio.sleep(0.02)


def saying(text: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text)
        await writer.drain()
        writer.close()

    return talk


async def levels(url: str, patience: float = 5.0) -> dict[str, str]:
    return {checkup.name: checkup.level.value for checkup in await reach(url, patience)}


async def found(url: str, name: str, patience: float = 5.0) -> str:
    return next(checkup.line() for checkup in await reach(url, patience) if checkup.name == name)


def doctor(folder: Path, **env: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Its exit code, and name → level and all that it said."""
    done = batchupload("doctor", "--json", cwd=folder, env=env)
    told = json.loads(done.stdout)
    assert told["exit_code"] == done.returncode, done.stderr
    return done.returncode, {
        one["name"]: (one["level"], f"{one['found']} {one['remedy']}".strip()) for one in told["checks"]
    }


async def test_a_good_place_is_called_one_and_nothing_is_sent_or_left_behind(shop: Shop) -> None:
    shop.folder.mkdir()
    (shop.folder / "photos").mkdir()
    (shop.folder / "photos/a.jpg").touch()
    (shop.folder / "orders.csv").write_text("order_id,face,back,hand\n")
    async with Sandbox() as server:
        (shop.folder / "config.yaml").write_text(
            f"endpoint: {{url: '{server.url}'}}\nmanifest: {{paths: [orders.csv]}}\nphotos: {{root: photos}}\n"
        )
        (shop.folder / "config.yaml").chmod(0o600)
        before = sorted(shop.folder.iterdir())
        code, told = await asyncio.to_thread(doctor, shop.folder)
        done = await asyncio.to_thread(batchupload, "doctor", cwd=shop.folder)
        assert server.accepted == {}
    assert (code, {level for level, _ in told.values()}) == (0, {"ok"})
    names = ["config", "ledger", "reports", "photos", "manifest", "files", "dns", "tcp", "tls", "http", "clock"]
    assert list(told) == names
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["ok", name] for name in names]
    assert sorted(shop.folder.iterdir()) == before


async def test_a_ledger_is_read_and_said_to_be_held_where_it_is(shop: Shop) -> None:
    shop.orders(3)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=1.0)) as server:
        words = command("run", "orders.csv", "--endpoint", server.url, "--concurrency", "1")
        async with under_way(words, shop.folder, environment(), lambda: bool(server.stats()["requests"])):
            _, told = await asyncio.to_thread(doctor, shop.folder, BATCHUPLOAD_ENDPOINT_URL=server.url)
    assert told["ledger"][0] == "ok"
    assert "1 run, and one holds it now" in told["ledger"][1]


async def test_a_ledger_that_is_damaged_inside_is_said(shop: Shop) -> None:
    shop.orders(1)
    await send_to_sandbox(shop.manifest())
    path = shop.folder / "batchupload.db"
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    _, told = await asyncio.to_thread(doctor, shop.folder, BATCHUPLOAD_ENDPOINT_URL="http://127.0.0.1:9/")
    assert told["ledger"][0] == "mend"
    assert "can't be trusted" in told["ledger"][1]


async def test_what_is_wrong_here_is_named_with_its_remedy(shop: Shop) -> None:
    shop.folder.mkdir()
    (shop.folder / "batchupload.db").write_text("no ledger")
    (shop.folder / "empty").mkdir()
    (shop.folder / "config.yaml").write_text("photos: {root: empty}\nmanifest: {paths: [absent.csv]}\n")
    (shop.folder / "config.yaml").chmod(0o666)
    env = {"BATCHUPLOAD_REPORT_FOLDER": "absent", "BATCHUPLOAD_ENDPOINT_URL": "http://127.0.0.1:9/"}
    code, told = doctor(shop.folder, **env)
    assert code == 2
    assert {name: level for name, (level, _) in told.items() if level != "ok"} == {
        "config": "warning", "ledger": "mend", "reports": "mend", "photos": "warning", "manifest": "warning",
        "tcp": "mend",
    }  # fmt: skip
    assert "chmod go-w" in told["config"][1]
    assert "can't be trusted" in told["ledger"][1]
    assert "make it, or set report.folder" in told["reports"][1]
    assert "refused" in told["tcp"][1]
    code, told = doctor(
        shop.folder, **{**env, "BATCHUPLOAD_LEDGER_PATH": "absent/l.db", "BATCHUPLOAD_PHOTOS_ROOT": "gone"}
    )
    assert (told["ledger"][0], told["photos"][0]) == ("mend", "mend")
    assert not (shop.folder / "absent").exists()


def test_what_this_user_may_not_write_is_found(shop: Shop) -> None:
    shop.folder.mkdir(parents=True)
    shop.folder.chmod(0o500)
    env = environment({"BATCHUPLOAD_ENDPOINT_URL": "http://127.0.0.1:9/", "BATCHUPLOAD_REPORT_FOLDER": "."})
    done = subprocess.run(
        command("doctor"),
        cwd=shop.folder,
        env=env,
        preexec_fn=as_plain_user,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    said = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert said["ledger"].startswith("mend")
    assert "permission denied → let this user write it" in said["reports"]


@pytest.mark.parametrize(("free", "level"), [(SCARCE - 1, "mend"), (LITTLE - 1, "warning"), (LITTLE, "ok")])
def test_little_room_is_said_before_it_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str
) -> None:
    from batchupload import doctor as inner

    monkeypatch.setattr(inner.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 40, 0, free))  # type: ignore[attr-defined]
    assert inner._ledger(tmp_path / "l.db").level == level
    assert inner._folder("reports", tmp_path, "report.folder").level == level


def test_a_config_with_a_mistake_is_said_and_as_much_as_can_be_is_looked_at(tmp_path: Path) -> None:
    code, told = doctor(tmp_path, BATCHUPLOAD_ENDPOINT_URL="http://shop.example/")
    assert code == 2
    assert "allow_plaintext" in told["endpoint"][1]
    assert told["files"][0] == "ok"
    assert "dns" not in told
    code, told = doctor(tmp_path, BATCHUPLOAD_PACE_HIGHEST="many")
    assert (code, list(told)) == (2, ["config"])
    assert "BATCHUPLOAD_PACE_HIGHEST" in told["config"][1]


async def test_the_request_is_one_that_asks_for_nothing() -> None:
    heard = b""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        heard = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        heard += await reader.read()

    async with serving(listen) as port:
        assert (await levels(f"http://127.0.0.1:{port}/path/单?a=b"))["http"] == "ok"
    lines = heard.decode().splitlines()
    assert lines[0] == "OPTIONS /path/%E5%8D%95?a=b HTTP/1.1"
    assert f"Host: 127.0.0.1:{port}" in lines
    assert lines[-1] == ""
    assert not any(line.lower().startswith(("content", "transfer")) for line in lines)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "ok       http      reached: 200"),
        (b"HTTP/1.0 418 \r\n\r\n", "ok       http      reached: 418"),
        (b"HTTP/1.1 799 Odd\r\n\r\n", "warning  http      reached: 799"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n", "warning  http      reached: 302"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "warning  http      reached: 404"),
        (b"HTTP/1.1 502 \r\n\r\n", "warning  http      reached: 502"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "mend     http      what came back is no HTTP answer"),
        (b"HTTP/1.1 abc\r\n\r\n", "mend     http      what came back is no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"a" * 200_000, "mend     http      what came back is no HTTP answer"),
        (b"", "mend     http      what came back is no HTTP answer"),
    ],
)
async def test_any_answer_counts_as_reached(answer: bytes, said: str) -> None:
    async with serving(saying(answer)) as port:
        assert (await found(f"http://127.0.0.1:{port}/", "http")).startswith(said)


async def test_a_closed_port_and_a_name_that_is_none_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(hang) as port:
        pass
    assert await levels(f"http://127.0.0.1:{port}/") == {"dns": "ok", "tcp": "mend"}
    assert await levels(f"http://{'a' * 70}.invalid/") == {"dns": "mend"}

    async def look_up(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    assert (await found("https://shop.example/", "dns")).startswith("mend     dns       shop.example: name or service")


@pytest.mark.parametrize(
    ("talk", "scheme", "stage"), [(hang, "http", "http"), (drip, "http", "http"), (hang, "https", "tls")]
)
async def test_a_server_that_hangs_is_waited_for_only_so_long(talk: Talk, scheme: str, stage: str) -> None:
    async with serving(talk) as port:
        began = time.monotonic()
        told = await levels(f"{scheme}://127.0.0.1:{port}/", 0.3)
        assert 0.2 < time.monotonic() - began < 3
    assert list(told.items())[-1] == (stage, "mend")


async def test_a_name_server_that_hangs_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look_up(*_: object, **__: object) -> None:
        await asyncio.sleep(20)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    assert await levels("https://shop.example/", 0.2) == {"dns": "mend"}


async def test_of_two_addresses_one_that_is_dead_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(saying(b"HTTP/1.1 200 OK\r\n\r\n")) as port:

        async def look_up(*_: object, **__: object) -> list[object]:
            return [(2, 1, 6, "", (address, port)) for address in ("127.0.0.1", "127.0.0.77")]

        loop = asyncio.get_running_loop()
        with monkeypatch.context() as patched:
            whole = loop.getaddrinfo

            async def once(host: str, *rest: object, **more: object) -> object:
                return await look_up() if host == "shop.example" else await whole(host, *rest, **more)  # type: ignore[arg-type]

            patched.setattr(loop, "getaddrinfo", once)
            checkups = await reach(f"http://shop.example:{port}/", 2.0)
    said = {checkup.name: checkup.line() for checkup in checkups}
    assert said["tcp"].startswith("warning")
    assert "1 of 2" in said["tcp"]
    assert "127.0.0.77: refused" in said["tcp"]
    assert said["http"].startswith("ok")
    assert said["tls"].startswith("warning")  # photos would cross the network in the clear


@pytest.fixture
def certificate(tmp_path: Path) -> Callable[[int], Path]:
    """Makes a self-signed certificate for 127.0.0.1, good for so many days, in one file with its key."""
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("no openssl here")

    def make(days: int) -> Path:
        made = tmp_path / "tls.pem"
        words = [
            openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", str(days),
            "-keyout", str(tmp_path / "key.pem"), "-out", str(made),
        ]  # fmt: skip
        subprocess.run(words, check=True, capture_output=True, timeout=60)
        made.write_text(made.read_text() + (tmp_path / "key.pem").read_text())
        return made

    return make


def server_side(file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


async def test_a_certificate_that_nobody_vouches_for_is_not_trusted_and_nothing_is_asked(
    certificate: Callable[[int], Path],
) -> None:
    asked = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1):
            asked.set()

    async with serving(talk, server_side(certificate(90))) as port:
        checkups = await reach(f"https://127.0.0.1:{port}/", 5.0)
        assert checkups[-1].line().startswith("mend     tls       not to be trusted: self-signed certificate")
    assert not asked.is_set()


@pytest.mark.parametrize(("days", "level"), [(90, "ok"), (10, "warning")])
async def test_a_certificate_that_is_trusted_is_told_with_the_days_it_has_left(
    certificate: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, days: int, level: str
) -> None:
    file = certificate(days)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    async with serving(saying(b"HTTP/1.1 405 Not Allowed\r\n\r\n"), server_side(file)) as port:
        checkups = await reach(f"https://127.0.0.1:{port}/", 5.0)
        wrong_name = await levels(f"https://localhost:{port}/")
    told = {checkup.name: checkup for checkup in checkups}
    assert told["tls"].level == level
    assert f", {days - 1} days" in told["tls"].found
    assert told["http"].level == Level.OK
    assert wrong_name["tls"] == "mend"


async def test_a_port_that_speaks_no_tls_is_said() -> None:
    async with Sandbox() as server:
        assert (await found(server.url.replace("http:", "https:"), "tls")).startswith("mend     tls       no handshake")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "ok       clock     as the endpoint's"),
        (9, "ok       clock     as the endpoint's, to 9 s"),
        (60, "warning  clock     60 s ahead of the endpoint's"),
        (-60, "warning  clock     60 s behind the endpoint's"),
        (7200, "mend     clock     7,200 s ahead of the endpoint's"),
    ],
)
def test_a_clock_is_held_against_the_endpoints(seconds: int, said: str) -> None:
    theirs = format_datetime(NOW - timedelta(seconds=seconds), usegmt=True)
    assert clock(theirs, NOW).line().startswith(said)


def test_an_endpoint_that_tells_no_time_is_no_fault_of_the_clock() -> None:
    for date in ("", "yesterday", "Tue, 99 Nov 2026 12:00:00 GMT"):
        assert clock(date, NOW).level == "ok"


def test_a_certificates_end_is_counted_in_days() -> None:
    assert lifetime("Dec 25 12:00:00 2026 GMT", NOW).line().startswith("ok       tls       verified; the certificate")
    assert "good until 2026-11-30, 5 days → have it renewed" in lifetime("Nov 30 11:00:00 2026 GMT", NOW).line()


@pytest.mark.parametrize(("limit", "level"), [(1024, "ok"), (192, "ok"), (191, "warning"), (127, "mend"), (-1, "ok")])
def test_open_files_are_held_against_the_sends_at_once(limit: int, level: str) -> None:
    assert open_files(64, limit).level == level


def test_every_status_has_its_word() -> None:
    assert {answered(status).level for status in range(100, 1000)} == {Level.OK, Level.WARNING}
