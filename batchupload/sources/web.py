"""A photo's https:// address → its bytes: public hosts only, no redirect to another, no more than a photo may have."""

import re
import socket
from datetime import UTC, datetime
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from batchupload import __version__
from batchupload.connection import OUT_OF_DATE, Response
from batchupload.hosts import is_this_machine, parse_address, reaches_private
from batchupload.language import _
from batchupload.photos import PhotoError, too_large
from batchupload.reasons import Reason
from batchupload.settings import TimeoutSettings
from batchupload.shop_settings import PhotoSettings

REDIRECTS = 3
"""Redirects that are followed, on the same host."""
CHUNK = 64 * 1024
_MOVED = frozenset({301, 302, 303, 307, 308})
_TRANSIENT = frozenset({408, 425, 429})
_NEVER = re.compile(r"[\\\x00-\x1f\x7f]")
"""What programs read in different ways, so that one may take for the host what is none for another."""
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_NUMBER = re.compile(r"(0[xX][0-9A-Fa-f]*|[0-9]+)\.?$")
"""How an IPv4 address ends that nobody writes so, such as 127.1 or 0x7f000001; no name on the internet does."""


class NotFetchedError(Exception):
    """It could not be had this time; says why."""


class PrivateAddressError(OSError):
    """The host has an address that is not on the public internet."""


class Web:
    """Fetches over HTTP; opens nothing before it is needed."""

    def __init__(self, photos: PhotoSettings, timeouts: TimeoutSettings, *, private: bool) -> None:
        self._limit = photos.read_limit
        self._private = private
        """Whether hosts in private networks are allowed, and plain http from this machine."""
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect, sock_read=timeouts.progress)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close what connections there are."""
        if self._session:
            await self._session.close()

    async def get(self, address: str) -> bytes:
        """The photo's bytes. Raises `PhotoError` where another try is of no use, else `NotFetchedError`."""
        url = self._url(address)
        try:
            for _hop in range(REDIRECTS + 1):
                async with self._open().get(url, allow_redirects=False) as response:
                    if response.status not in _MOVED:
                        return await self._read(response)
                    target = self._url(str(url.join(URL(response.headers.get("Location", "")))))
                    if (target.scheme, target.host, target.port) != (url.scheme, url.host, url.port):
                        raise _refused(_("it redirects to another host"))
                    url = target
        except aiohttp.ClientConnectorCertificateError as error:
            if getattr(error.certificate_error, "verify_code", 0) in OUT_OF_DATE:
                now = f"{datetime.now(UTC).astimezone():%Y-%m-%d %H:%M:%S %z}"
                told = _("the certificate of its host is not valid by this machine's clock, which says {now}", now=now)
                raise NotFetchedError(told) from None
            raise PhotoError(Reason.PHOTO_UNREADABLE, _("the certificate of its host is not to be trusted")) from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, PrivateAddressError):
                raise _refused(_("a host in a private network; see photos.allow_private_hosts")) from None
            raise NotFetchedError(_("no connection ({why})", why=error.os_error.strerror or error.os_error)) from None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise NotFetchedError(_("the connection broke ({name})", name=type(error).__name__)) from None
        raise _refused(_("it redirects again and again"))

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        status, limit = response.status, self._limit
        if status in {404, 410}:
            raise PhotoError(Reason.PHOTO_MISSING, f"HTTP {status}")
        if status in _TRANSIENT or status >= 500:
            raise NotFetchedError(f"HTTP {status}")
        if status != 200:
            expired = _(": the link may have expired") if status in {401, 403} else ""
            raise PhotoError(Reason.PHOTO_UNREADABLE, f"HTTP {status}{expired}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise PhotoError(Reason.PHOTO_UNREADABLE, _("its host sends it compressed"))
        if (response.content_length or 0) > limit:
            raise too_large(response.content_length or 0, limit)
        content = bytearray()
        async for chunk in response.content.iter_chunked(CHUNK):
            content += chunk
            if len(content) > limit:
                raise too_large(len(content), limit)
        if not content:
            raise PhotoError(Reason.PHOTO_EMPTY, "")
        return bytes(content)

    def _url(self, address: str) -> URL:
        """Raises `PhotoError` where the address may not be fetched."""
        try:
            # A signed address must go out as it is; one that people typed is put into form.
            url = URL(address, encoded=address.isascii() and " " not in address)
            host = url.raw_host or ""
            _port = url.port
            host.encode("idna")  # or the look-up fails at each try: an empty label, or one over 63 characters
        except ValueError:
            raise _refused(_("not a URL")) from None
        plain = url.scheme == "http" and self._private and is_this_machine(host)
        if not host or not (url.scheme == "https" or plain):
            raise _refused(_("photos come by https:// or s3://"))
        if url.user or url.password:
            raise _refused(_("a user name in an address"))
        if _NEVER.search(address) or not (_NAME.fullmatch(host) or parse_address(host)):
            raise _refused(_("a character in it that may be read in two ways"))
        if not self._private and _is_private(host):
            raise _refused(_("a host in a private network; see photos.allow_private_hosts"))
        return url

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            resolver: AbstractResolver = aiohttp.ThreadedResolver()
            kept: dict[str, Any] = {} if self._private else {"socket_factory": public_socket}
            if not self._private:
                resolver = PublicOnly(resolver)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True, resolver=resolver, **kept),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
                headers={"User-Agent": f"batchupload/{__version__}", "Accept-Encoding": "identity"},
                auto_decompress=False,
                trust_env=False,
                response_class=Response,
            )
        return self._session


class PublicOnly(AbstractResolver):
    """Finds hosts on the public internet. What it finds is what is connected to: nothing can come in between."""

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises `PrivateAddressError` where one of the host's addresses is private."""
        found = await self._resolver.resolve(host, port, family)
        if any(_is_private(one["host"]) for one in found):
            raise PrivateAddressError(host)
        return found

    async def close(self) -> None:
        """Close the one behind."""
        await self._resolver.close()


def public_socket(place: tuple[Any, ...]) -> socket.socket:
    """Make the socket for one address that is about to be connected to; raise `PrivateAddressError` if it is private.

    Whatever the way by which an address came, this is the one that is connected to.
    """
    family, kind, protocol, _name, (host, *_port) = place
    if _is_private(host):
        raise PrivateAddressError(host)
    return socket.socket(family, kind, protocol)


def _is_private(host: str) -> bool:
    """Tell whether it is an address that is not on the public internet, or a name for this machine."""
    if address := parse_address(host):
        return reaches_private(address)
    return host.rstrip(".").lower().rpartition(".")[2] == "localhost" or bool(_NUMBER.search(host))


def _refused(why: str) -> PhotoError:
    return PhotoError(Reason.PHOTO_ADDRESS_REFUSED, why)
