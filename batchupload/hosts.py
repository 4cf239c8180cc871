"""Hosts and IP addresses → what a connection to them reaches: this machine, a private network, the internet. Pure."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

IPAddress = IPv4Address | IPv6Address

NOT_PUBLIC_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/3", "168.63.129.16/32",
    )
)  # fmt: skip
"""IANA's special-purpose registry, multicast and reserved; the last is the host below a virtual machine of Azure."""
PUBLIC_V6 = IPv6Network("2000::/3")
"""All of IPv6 that is handed out to the internet."""
NOT_PUBLIC_V6 = tuple(IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "3ffe::/16", "3fff::/20"))
"""What of it is not public: Teredo, benchmarks and ORCHID; two ranges for examples; the old 6bone."""
MAPPED = IPv6Network("::ffff:0:0/96")
NAT64 = IPv6Network("64:ff9b::/96")
SIX_TO_FOUR = IPv6Network("2002::/16")
ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})
"""What stands before the IPv4 address in the last 32 bits (RFC 5214)."""
LOOPBACK_V4, LOOPBACK_V6 = IPv4Network("127.0.0.0/8"), IPv6Address("::1")


def reaches_private(address: IPAddress) -> bool:
    """Tell whether `address` leads anywhere but to one host on the public internet.

    An IPv6 address that carries an IPv4 address leads to that one too.
    """
    if isinstance(address, IPv4Address):
        return any(address in network for network in NOT_PUBLIC_V4)
    if address in MAPPED or address in NAT64:
        return reaches_private(_last_32_bits(address))
    if address not in PUBLIC_V6 or any(address in network for network in NOT_PUBLIC_V6):
        return True
    return any(reaches_private(carried) for carried in _carried(address))


def is_loopback(address: IPAddress) -> bool:
    """Tell whether `address` leads to this machine and never onto a network."""
    if isinstance(address, IPv4Address):
        return address in LOOPBACK_V4
    return address == LOOPBACK_V6 or (address in MAPPED and _last_32_bits(address) in LOOPBACK_V4)


def is_this_machine(host: str) -> bool:
    """Tell whether the `host` of a URL is this machine: `localhost`, or a loopback address in its usual form."""
    address = parse_address(host)
    return is_loopback(address) if address else host.lower() == "localhost"


def parse_address(host: str) -> IPAddress | None:
    """Read `host` as an IP address in its usual form; None if it is a name, or a form such as 127.1."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def _carried(address: IPv6Address) -> Iterator[IPv4Address]:
    if address in SIX_TO_FOUR:
        yield IPv4Address(int(address) >> 80 & 0xFFFF_FFFF)
    if int(address) >> 32 & 0xFFFF_FFFF in ISATAP:
        yield _last_32_bits(address)


def _last_32_bits(address: IPv6Address) -> IPv4Address:
    return IPv4Address(int(address) & 0xFFFF_FFFF)
