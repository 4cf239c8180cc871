"""Where an address leads: judged by what a connection would reach. Nothing here connects to anything but loopback."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from conftest import Shop, outcomes, picture, send, settings_for
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from yarl import URL

from batchupload.hosts import is_loopback, is_this_machine, parse_address, reaches_private
from batchupload.photos import PhotoError
from batchupload.sandbox import Sandbox
from batchupload.settings import RetrySettings, TimeoutSettings
from batchupload.shop_settings import EndpointSettings, PhotoSettings
from batchupload.sources.objects import Objects
from batchupload.sources.sources import Sources
from batchupload.sources.web import PrivateAddressError, Web, public_socket

PUBLIC = ("93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1")
PRIVATE = (
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254",
    "169.254.169.254", "168.63.129.16", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1",
    "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.2.3", "240.0.0.1",
    "255.255.255.255", "::", "::1", "::2", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "::ffff:0.0.0.0", "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::1",
    "64:ff9b:1:7f00:0:100::", "100::1", "2001::1", "2001:0:808:808::f5ff:fffe", "2001:2::1", "2001:10::1",
    "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:a00:1::1", "2002:c0a8:101::", "2002:a9fe:a9fe::",
    "2606:2800:220:1:0:5efe:10.0.0.1", "2606:2800:220:1:200:5efe:127.0.0.1", "fe80::5efe:8.8.8.8", "3ffe::1",
    "3fff::1", "4000::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
)  # fmt: skip


def test_an_address_is_judged_by_what_it_reaches() -> None:
    assert [text for text in PUBLIC if reaches_private(ip_address(text))] == []
    assert [text for text in PRIVATE if not reaches_private(ip_address(text))] == []


@given(st.ip_addresses(v=4))
def test_ipv4_is_private_if_the_standard_library_says_so_and_in_every_dress_the_same(address: IPv4Address) -> None:
    private = reaches_private(address)
    assert private or (address.is_global and not address.is_multicast)
    number = int(address)
    for dressed in (0xFFFF << 32, 0x64FF9B << 96):
        assert reaches_private(IPv6Address(dressed | number)) == private
    for dressed in (0x2002 << 112 | number << 80, 0x2606 << 112 | 0x5EFE << 32 | number):
        assert reaches_private(IPv6Address(dressed)) == private
    assert reaches_private(IPv6Address(number)), "IPv4-compatible addresses are no longer routed"


@given(st.ip_addresses(v=6) | st.ip_addresses(network="2000::/8") | st.ip_addresses(network="64:ff9b::/64"))
def test_ipv6_that_the_standard_library_calls_private_is_private(address: IPv6Address) -> None:
    if not reaches_private(address):
        assert address.is_global or address.ipv4_mapped
        assert not address.is_multicast


@given(st.ip_addresses())
def test_what_is_this_machine_is_never_public(address: IPv4Address | IPv6Address) -> None:
    assert not (is_loopback(address) and not reaches_private(address))


def test_only_what_surely_is_this_machine_may_have_plain_http() -> None:
    for host in ("localhost", "LOCALHOST", "127.0.0.1", "127.8.8.8", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"):
        assert EndpointSettings(url=f"http://{host}:8000/up").allow_plaintext is False, host
    for host in (
        "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "0.0.0.0", "[::]", "localhost.example", "localhost.",
        "127.0.0.1.example", "127.0.0.1.", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[::ffff:10.0.0.1]", "10.0.0.1",
        "shop.example", "ⓛocalhost", "１２７.0.0.1", "[::1%25eth0]",
    ):  # fmt: skip
        with pytest.raises(ValidationError, match="plain http"):
            EndpointSettings(url=f"http://{host}/up")


def test_a_url_that_programs_read_in_different_ways_is_refused() -> None:
    for url in (
        "http://[::1]shop.example/up", "http://shop.example[::1]/up", "http://localhost@shop.example/up",
        "http://:pw@localhost/up", "http://@localhost/up", "http://localhost\\@shop.example/up",
        "http://localhost\\.shop.example/up", "http://%6cocalhost/up", "http://localhost%2eshop.example/up",
        "http://shop.example#@localhost/up", "http:localhost/up", "http:///localhost/up", "http://local\thost/up",
        "http://localhost:80:90/up", "http://localhost\x00/up",
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            EndpointSettings(url=url)
        with pytest.raises(ValidationError):
            PhotoSettings(s3_endpoint=url)


@pytest.mark.parametrize(("allowed", "outcome"), [(False, "failed"), (True, "uploaded")])
async def test_a_name_of_this_machine_that_leads_elsewhere_gets_no_photos(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, allowed: bool, outcome: str
) -> None:
    monkeypatch.setattr("batchupload.connection.is_loopback", lambda _: False)  # as if the hosts file named another
    shop.order("HT000001")
    async with Sandbox() as server:
        endpoint = {"url": server.url.replace("127.0.0.1", "localhost"), "allow_plaintext": allowed}
        _, report = await send(shop.manifest(), settings_for("", endpoint=endpoint, retry={"attempts": 1}))
        assert len(server.accepted) == allowed
    assert [row["outcome"] for row in report] == [outcome]


@given(st.text(alphabet="localhst127.0:[]@\\%#/?ⓛ１ ", max_size=20))
def test_what_passes_as_this_machine_is_connected_to_on_this_machine(host: str) -> None:
    try:
        settings = EndpointSettings(url=f"http://{host}/up")
    except ValidationError:
        return
    assert is_this_machine(URL(settings.url).raw_host or "")


async def led_to(address: str, **photos: Any) -> str:
    """What would be fetched; empty if it is refused as an address."""
    settings = PhotoSettings(**photos)
    web = Web(settings, TimeoutSettings(), private=False)
    try:
        if address.startswith("s3://"):
            return await Objects(settings).signed(address)
        await web.get(address)
    except PhotoError as error:
        if error.problem.reason != "photo_address_refused":
            raise
        return ""
    finally:
        await web.close()
    return address


@pytest.mark.parametrize(
    "host",
    [
        *(f"[{text}]" if ":" in text else text for text in PRIVATE), "LOCALHOST", "localhost.", "x.localhost",
        "127.0.0.1.", "127.1", "2130706433", "0x7f000001", "0X7F.1", "0177.0.0.1", "017700000001", "10.1", "127.0.1",
        "１２７.0.0.1", "127。0。0。1", "①②⑦.⓪.⓪.①", "ⓛocalhost", "127%2e0.0.1", "%31%32%37.0.0.1", "[::1%25lo]",
        "[::1%lo]", "photos.example\\@127.0.0.1", "photos.example\\.x", "127.0.0.1\\.photos.example", "a b", "a\tb",
        "me@photos.example", "me:pw@photos.example", "[::1]photos.example", "photos.example:0x1bb", "photos.example:x",
    ],
)  # fmt: skip
async def test_a_photo_address_that_leads_elsewhere_is_refused_before_a_connection(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    def none(*_: Any, **__: Any) -> Any:
        raise AssertionError("a connection was begun")

    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", none)
    assert await led_to(f"https://{host}/a.jpg") == ""


class Changing(AbstractResolver):
    """A name server whose next answer is another one."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        address = self.answers.pop(0)
        return [ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None: ...


async def test_the_address_that_was_judged_is_the_one_that_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    places = []

    async def begin(addr_infos: Any, **_: Any) -> Any:
        places.extend(addr_infos)
        raise OSError("no further")

    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", begin)
    names = Changing("93.184.216.34", "127.0.0.1")
    monkeypatch.setattr("aiohttp.ThreadedResolver", lambda: names)
    web = Web(PhotoSettings(), TimeoutSettings(), private=False)
    try:
        with pytest.raises(Exception, match="no connection"):
            await web.get("https://photos.example/a.jpg")
    finally:
        await web.close()
    assert [place[4][0] for place in places] == ["93.184.216.34"]
    assert names.answers == ["127.0.0.1"], "it is asked for once"


def test_no_socket_is_made_for_a_private_address_however_it_came() -> None:
    for host in ("127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::a00:1", "127.1", "2130706433", "localhost"):
        with pytest.raises(PrivateAddressError):
            public_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, 443)))
    public_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("93.184.216.34", 443))).close()


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")


STORE = {"s3_endpoint": "https://oss.example:8443", "s3_region": "r1"}
WRONG = (
    "127.0.0.1:8443#/k", "127.0.0.1:8443/k", "127.0.0.1#/k", "me@127.0.0.1/k", "me:pw@host/k", "[::1]/k", "a?b/k",
    "a%2eb/k", "A/k", "bucket:443/k", "-bucket/k", ".bucket/k", "bucket-/k", "bucket./k", "a..b/k", "桶/k", "a b/k",
    "a\\b/k", "a_b/k", f"{'a' * 64}/k", "/k", "bucket/", "bucket", "bucket/../x.jpg", "bucket/a/../x.jpg",
    "bucket/./x.jpg", "bucket//x.jpg", "bucket/a//x.jpg", "bucket/a/..", "bucket/.", "bucket/a/", "bucket/a\nb",
    "bucket/a\x00b", "bucket/a\x7fb", "bucket/a\\b", "bucket/..\\x", "bucket/k#x", "bucket/k?versionId=1",
)  # fmt: skip


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("more", [STORE, STORE | {"s3_virtual_hosted": False}, {"s3_region": "r1"}])
async def test_a_bucket_that_is_a_host_or_a_key_that_climbs_is_refused(more: dict[str, Any]) -> None:
    assert [address for address in WRONG if await led_to(f"s3://{address}", **more)] == []


@pytest.mark.usefixtures("credentials")
@given(st.text(max_size=12), st.text(alphabet="ab/.@:%+~é照 ", min_size=1, max_size=12))
async def test_whatever_is_signed_leads_to_the_store(bucket: str, key: str) -> None:
    for name in (bucket, "my-bucket.1"):
        if found := await led_to(f"s3://{name}/{key}", **STORE):
            url = URL(found, encoded=True)
            assert (url.scheme, url.raw_host, url.port) == ("https", f"{name}.oss.example", 8443)
            assert url.path == f"/{key}"
        if found := await led_to(f"s3://{name}/{key}", **STORE, s3_virtual_hosted=False):
            url = URL(found, encoded=True)
            assert (url.scheme, url.raw_host, url.port) == ("https", "oss.example", 8443)
            assert url.path == f"/{name}/{key}"


@pytest.mark.usefixtures("credentials")
async def test_keys_of_every_day_are_signed_as_they_are() -> None:
    for key in ("orders/HT 1/face.jpg", "照片/正面.jpg", "a@2x.jpg", "a+b%41.jpg", ".hidden", "...", "a:b"):
        found = URL(await led_to(f"s3://my-bucket/{key}", **STORE), encoded=True)
        assert (found.raw_host, found.path) == ("my-bucket.oss.example", f"/{key}")


@pytest.mark.usefixtures("credentials")
async def test_an_address_that_can_not_be_is_its_rows_matter_and_the_others_go_on(shop: Shop) -> None:
    good = shop.order("HT000001")
    bad = [shop.order(f"HT1000{number:02}", face=f"s3://{address}") for number, address in enumerate(WRONG)
           if address.isprintable() and address.isascii()]  # fmt: skip
    last = shop.order("HT000002", {"hand": picture("other")})
    async with Sandbox() as server:
        _, report = await send(shop.manifest(), settings_for(server.url, photos=STORE))
    found = outcomes(report)
    assert found[good] == found[last] == ("uploaded", "accepted")
    assert {found[order] for order in bad} == {("invalid", "photo_address_refused")}
    assert all(row["detail"].startswith("face: ") for row in report if row["order_id"] in bad)


async def test_a_redirect_within_a_host_is_judged_as_an_address_is() -> None:
    sources = Sources(PhotoSettings(), RetrySettings(attempts=1), TimeoutSettings())
    async with sources:
        (found,) = await sources.fetch([{"face": "https://[64:ff9b::7f00:1]/a.jpg"}])
    assert getattr(found, "reason", "") == "photo_address_refused"
    assert parse_address("127.1") is None
