"""The way to the endpoint → what is wrong with it: name, connection, certificate, answer, clock. No order is sent."""

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.parser import BytesParser
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from yarl import URL

from batchupload import __version__
from batchupload.checkup import Checkup, mend, ok, warning
from batchupload.connection import OUT_OF_DATE
from batchupload.hosts import is_this_machine
from batchupload.language import _

HEAD_BYTES = 64 * 1024
"""A longer answer than that has no end to wait for."""
SHORT_LIVED = timedelta(days=21)
"""Certificates that renew themselves do so 30 days before their end; one that is nearer was not."""
SKEW_NOTED, SKEW_BAD = timedelta(seconds=10), timedelta(minutes=5)
"""`Date` has whole seconds, and the way takes time. From minutes on certificates, deadlines and ages are misread."""
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def reach(url: str, patience: float) -> list[Checkup]:
    """Look at each part of the way, up to the first that is broken; each waits `patience` seconds at most."""
    address = URL(url)
    host, port = address.raw_host or "", address.port or 0
    addresses, found = await _resolve(host, port, patience)
    if not addresses:
        return [found]
    streams, connected = await _connect(addresses, port, patience)
    checkups = [found, connected]
    async with _closed_at_the_end(streams):
        if not streams:
            return checkups
        # Only the first speaks: what is behind the others is the same, or their owner's to know.
        reader, writer = streams[0]
        secured = await _secure(address, writer, patience)
        checkups.append(secured)
        if secured.level != "mend":
            checkups += await _ask(address, reader, writer, patience)
    return checkups


async def _resolve(host: str, port: int, patience: float) -> tuple[Sequence[str], Checkup]:
    """The addresses of `host`."""
    remedy = _("check the network and the name server, or correct endpoint.url")
    try:
        async with asyncio.timeout(patience):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        return (), mend("dns", _("{host}: no answer in {patience:g} s", host=host, patience=patience), remedy)
    except (OSError, UnicodeError) as error:
        what = getattr(error, "strerror", None) or _("no name that can be looked up")
        return (), mend("dns", f"{host}: {what.lower()}", remedy)
    addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))
    return addresses, ok("dns", f"{host}: {', '.join(addresses)}")


async def _connect(addresses: Sequence[str], port: int, patience: float) -> tuple[list[Stream], Checkup]:
    """A connection to each address that takes one."""
    tried = await asyncio.gather(*(_open(address, port, patience) for address in addresses))
    streams = [one for one in tried if not isinstance(one, str)]
    failed = [f"{address}: {one}" for address, one in zip(addresses, tried, strict=True) if isinstance(one, str)]
    if not streams:
        what = _("port {port}: {failed}", port=port, failed="; ".join(failed))
        return streams, mend(
            "tcp",
            what,
            _("is the endpoint up, is a firewall in between? Or correct endpoint.url"),
        )
    if failed:
        what = _(
            "port {port}: {streams} of {tried} addresses take connections; {failed}",
            port=port,
            streams=len(streams),
            tried=len(tried),
            failed="; ".join(failed),
        )
        return streams, warning("tcp", what, _("runs go by the others; tell who keeps the endpoint"))
    return streams, ok("tcp", _("port {port} takes connections", port=port))


async def _open(address: str, port: int, patience: float) -> Stream | str:
    try:
        async with asyncio.timeout(patience):
            return await asyncio.open_connection(address, port, limit=HEAD_BYTES)
    except TimeoutError:
        return _("not taken in {patience:g} s", patience=patience)
    except OSError as error:
        if error.errno == errno.ECONNREFUSED:
            return _("refused")
        return (error.strerror or str(error)).lower()


async def _secure(address: URL, writer: asyncio.StreamWriter, patience: float) -> Checkup:
    """The TLS handshake, verified as a run verifies it."""
    host = address.host or ""
    if address.scheme == "http":
        if is_this_machine(address.raw_host or ""):
            return ok("tls", _("none, and none needed on this machine"))
        return warning(
            "tls", _("none: ID photos travel to {host} readable", host=host), _("use https:// in endpoint.url")
        )
    try:
        async with asyncio.timeout(patience):
            await writer.start_tls(ssl.create_default_context(), server_hostname=address.raw_host)
    except TimeoutError:
        return mend(
            "tls",
            _("no handshake in {patience:g} s", patience=patience),
            _("is TLS spoken at this port? Or correct endpoint.url"),
        )
    except ssl.SSLCertVerificationError as error:
        remedy = _("have the certificate mended; one of your own authority is trusted by SSL_CERT_FILE")
        if error.verify_code in OUT_OF_DATE:
            now = f"{datetime.now(UTC).astimezone():%Y-%m-%d %H:%M:%S %z}"
            remedy = _("this machine's clock says {now}: set it (NTP), or have the certificate renewed", now=now)
        return mend("tls", _("not to be trusted: {why}", why=error.verify_message), remedy)
    except (OSError, ssl.SSLError) as error:  # ConnectionError where the other side hangs up
        what = getattr(error, "reason", None) or error.strerror or type(error).__name__
        return mend(
            "tls",
            _("no handshake: {what}", what=what.lower()),
            _("is TLS spoken at this port? Or correct endpoint.url"),
        )
    return lifetime(writer.get_extra_info("peercert")["notAfter"], datetime.now(UTC))


def lifetime(not_after: str, now: datetime) -> Checkup:
    """What is to be said of a certificate that is trusted until `not_after`, as `ssl` writes it."""
    end = datetime.fromtimestamp(ssl.cert_time_to_seconds(not_after), UTC)
    left = end - now
    found = _("verified; the certificate is good until {end:%Y-%m-%d}, {days} days", end=end, days=left.days)
    if left < SHORT_LIVED:
        return warning("tls", found, _("have it renewed: after that day every order fails"))
    return ok("tls", found)


async def _ask(
    address: URL, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience: float
) -> list[Checkup]:
    """The answer to a request that asks for nothing and sends nothing, and the clock by it."""
    remedy = _("is the endpoint up? Or correct endpoint.url")
    try:
        async with asyncio.timeout(patience):
            began = datetime.now(UTC)
            writer.write(_request(address))
            await writer.drain()
            status, headers = _parsed(await reader.readuntil(b"\r\n\r\n"))
            ended = datetime.now(UTC)
    except TimeoutError:
        return [mend("http", _("no answer in {patience:g} s", patience=patience), remedy)]
    except (OSError, EOFError, asyncio.LimitOverrunError, ValueError):
        return [mend("http", _("what came back is no HTTP answer"), remedy)]
    return [answered(status), clock(headers.get("Date", ""), began + (ended - began) / 2)]


def _request(address: URL) -> bytes:
    """OPTIONS is safe by its definition; HEAD would have a script do the work of an order without one."""
    lines = (
        f"OPTIONS {address.raw_path_qs} HTTP/1.1",
        f"Host: {address.host_port_subcomponent}",
        f"User-Agent: batchupload/{__version__}",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode()


def _parsed(head: bytes) -> tuple[int, Message]:
    """Status and headers. Raises `ValueError` where it is no HTTP."""
    first, _, rest = head.partition(b"\r\n")
    version, status, *_ = [*first.split(b" ", 2), b"", b""]
    if not version.startswith(b"HTTP/1."):
        raise ValueError(version)
    return int(status), BytesParser().parsebytes(rest, headersonly=True)


def answered(status: int) -> Checkup:
    """What an answer tells: whatever it is, the endpoint is reached."""
    with suppress(ValueError):
        status = HTTPStatus(status)
    found = _(
        "reached: {status}", status=f"{int(status)} {status.phrase if isinstance(status, HTTPStatus) else ''}".strip()
    )
    if 300 <= status < 400:
        return warning("http", found, _("a redirect is never followed: correct endpoint.url"))
    if status in {401, 403, 404}:
        return warning(
            "http",
            found,
            _("to an order this answer would mean a wrong address: look at it, or correct endpoint.url"),
        )
    if status >= 500 and status != HTTPStatus.NOT_IMPLEMENTED:
        return warning("http", found, _("the endpoint is there, but not well; ask again later"))
    return ok("http", found)


def clock(date: str, now: datetime) -> Checkup:
    """This machine's clock beside the `Date` of an answer."""
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return ok(
            "clock",
            _("{now:%Y-%m-%d %H:%M:%S %z}; the endpoint does not tell its own", now=now.astimezone()),
        )
    # The second that is named had begun half a second before, on average.
    skew = now - theirs.replace(tzinfo=theirs.tzinfo or UTC) - timedelta(seconds=0.5)
    seconds = skew.total_seconds()
    found = (
        _("{seconds:,.0f} s ahead of the endpoint's", seconds=seconds)
        if seconds > 0
        else _("{seconds:,.0f} s behind the endpoint's", seconds=-seconds)
    )
    if abs(skew) > SKEW_BAD:
        return mend("clock", found, _("set it (NTP): certificates, deadlines and the age of runs go by it"))
    if abs(skew) > SKEW_NOTED:
        return warning("clock", found, _("set it (NTP), or have the endpoint's set"))
    return ok("clock", _("as the endpoint's, to {seconds:.0f} s", seconds=max(abs(seconds), 1)))


@asynccontextmanager
async def _closed_at_the_end(streams: Sequence[Stream]) -> AsyncGenerator[None, None]:
    """Without waiting for what the other side says to it."""
    try:
        yield
    finally:
        for _, writer in streams:
            writer.transport.abort()
