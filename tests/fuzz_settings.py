"""Makes config files, environments, addresses and patterns: good, odd and broken ones."""

import functools
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import yaml
from fuzz_bytes import spoilt

EXAMPLE = Path(__file__).parent.parent / "config.example.yaml"
SCALARS = (
    "true", "off", "~", "", "0", "-1", "1", "7", "010000", "0x1F", "0o17", "1_000", "6:00", "190:20:30", "1e3",
    "1e309", ".inf", "-.inf", ".nan", "9" * 400, "9" * 5000, "1.5", "2026-11-28", "2026-99-99",
    "2026-11-28T06:00:00Z", "=", "<<", "*", "*a", "&a", "!!python/object/apply:os.system [x]", "!!binary aGFsbG8",
    "!!binary %", "!!set {a, b}", "!!timestamp x", "!!int x", "!!float x", "!!null x", "!!omap [a: 1]", "!x y", "[]",
    "{}", "[a, b]", "{a: 1}", "[[[[]]]]", "? a", "? [a]: b", "- x", "a: b: c", "'", '"', '"\\ud800"', '"\\0"',
    '"\\x1b[2J"', '"\\U00110000"', "\u202ex", "照片", "a\tb", "|\n  x", ">\n", "%x", "@x", "`x", "${HOME}",
    "/dev/full", "/", "..", "x" * 5000, "06:00", "2h30m", "25:99", "08:00,5 23:00,off", "1M", "5%", "101%", "auto",
    "tls://h:1", "local:4", "tcp://[::1]:99999", "(a+)+$", "[", "(?P<x>", "a{99999}", "(?i)x", "\\", "utf-8",
    "rot13", "idna", "undefined", "hex", "unicode_escape", "punycode", "utf-7", "mbcs", "{order_id}/{field}.*",
    "{order_id}", "{", "*/{field}",
)  # fmt: skip
BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghi"))
"""A few lines of YAML that stand for forty million values."""
LINES = (
    BOMB + "endpoint: *i\n", BOMB,
    "endpoint: &a\n  more_fields: *a\n", "&a [*a]\n", "manifest: &m {columns: *m}\n", "profiles: &p {x: *p}\n",
    "x: &x {y: *x}\n", "profiles: &p\n  a: &q {endpoint: *q}\n", "? &a [*a]\n: b\n", "? {a: b}\n: c\n",
    "<<: {endpoint: {}}\n", "<<: *x\n", "<<: [1]\n", "<<: x\n", "a: {<<: [[]]}\n", "endpoint: {}\nendpoint: {}\n",
    "1: 2\n", "null: x\n", "2026-11-28: x\n", "---\n---\n", "--- x\n...\n", "%YAML 9.9\n---\n", "%TAG ! x\n---\n",
    "- a\n", "x\n", "\t\n", "#\n", "\x00", "\x07", "\ufeff", "profiles: []\n", "profiles: {a b: {}}\n",
    "profiles: {x: {pace: {concurrency: 4}}}\n", "profiles: {x: 1}\n", "profiles: {1: {}}\n",
    "endpoint: {replies: [{code: 400, message: '(a|a)*$', then: retry}]}\n", "a: " + "[" * 500, "a: " + "[" * 20_000,
    "a: " + "{a: " * 900, "\n".join(" " * n + "a:" for n in range(900)), "a: !" + "x" * 3000, "k" * 2000 + ": 1\n",
    "x: |\n" + " y\n" * 50_000, "'" + "x" * 100_000, "- " * 3000, "? " * 3000, "&a " * 3000, "!!str " * 500,
    "a: 1\n" * 2000,
)  # fmt: skip


@functools.cache
def _defaults() -> dict[str, dict[str, Any]]:
    tree: dict[str, dict[str, Any]] = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    return {section: values for section, values in tree.items() if values}


def config(random: Random) -> bytes:
    """A config file."""
    parts = [_section(random) for _ in range(random.choice((0, 1, 1, 2, 3)))]
    if random.random() < 0.4:
        parts.insert(random.randrange(len(parts) + 1), random.choice(LINES))
    if random.random() < 0.7 and not any(part.startswith("endpoint:") for part in parts):
        parts.append("endpoint:\n  url: https://shop.example/upload\n")
    text = "".join(parts) if random.random() < 0.95 else EXAMPLE.read_text(encoding="utf-8")
    content = text.encode(random.choice(("utf-8",) * 18 + ("utf-16", "gb18030")), "replace")
    return spoilt(content, random) if random.random() < 0.2 else content


def _section(random: Random) -> str:
    section = random.choice(tuple(_defaults()))
    values = _defaults()[section]
    chosen = random.sample(tuple(values), min(len(values), random.choice((1, 2, 4))))
    lines = [f"{section}:" if random.random() < 0.97 else f"{section}s:"]
    for name in chosen:
        value = (
            random.choice(SCALARS) if random.random() < 0.6 else yaml.safe_dump(values[name], default_flow_style=True)
        )
        if name in {"url", "s3_endpoint"} and random.random() < 0.7:
            value = yaml.safe_dump(address(random).decode("utf-8", "replace"))
        lines.append(f"  {name}: {value.removesuffix('...').rstrip() if len(value) < 200 else value}")
    return "\n".join(lines).replace("...\n", "") + "\n"


def environment(random: Random) -> bytes:
    """Variables of the environment, one in each line: NAME=VALUE."""
    lines = []
    for _ in range(random.choice((1, 1, 2, 3))):
        section = random.choice(tuple(_defaults()))
        name = f"BATCHUPLOAD_{section}_{random.choice(tuple(_defaults()[section]))}".upper()
        if random.random() < 0.05:
            name += random.choice(("S", "_", "X" * 300))
        text = random.choice((random.choice(SCALARS), random.choice(LINES), address(random).decode("utf-8", "replace")))
        lines.append(f"{name}={text}".replace("\n", " ").replace("\0", ""))
    return "\n".join(lines).encode()


# Addresses

SCHEMES = (
    "https://",
    "https://",
    "https://",
    "s3://",
    "s3://",
    "s3://",
    "http://",
    "HTTPS://",
    "S3://",
    "s3:",
    "https:/",
    "ftp://",
    "file://",
    "://",
    "",
)
HOSTS = (
    "photos.example", "127.0.0.1", "127.1", "0x7f000001", "2130706433", "017700000001", "0", "0.0.0.0", "localhost",
    "LOCALHOST.", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "[::ffff:0:127.0.0.1]",
    "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::80ff:fffe]", "[fe80::1%25eth0]",
    "[fec0::1]", "[fc00::1]", "[ff02::1]", "[2001:db8::1]", "[2606:4700::1111]", "10.0.0.1", "172.16.0.1",
    "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "93.184.216.34", "8.8.8.8.", "[",
    "[]", "[::1", "::1", "", ".", "..", "-", "a..b", "a..b.example", "a" * 64 + ".example", "x." * 140, "例子.测试",
    "xn--", "xn--zz", "１２７.０.０.１", "127。0。0。1", "ⓛocalhost", "a_b", "a b", "a\tb", "a\0b", "%31%32%37.0.0.1",
    "%00",
    "%", "\ud800", "bucket", "BUCKET", "my.bucket", "b", "bu/cket", "127.0.0.1:8443#", "x@127.0.0.1", "x?",
    "bucket:80", "..%2f", "*", "photos.example#",
)  # fmt: skip
PORTS = ("", "", "", ":443", ":0", ":65536", ":-1", ":x", ":", ":99999999999999999999", ":８０", ":80:80")
PATHS = (
    "/a.jpg", "/", "", "/../x.jpg", "/./x", "/..", "//a", "/%2e%2e/x", "/%2F", "/%", "/%zz", "/\0", "/ ", "/照片.jpg",
    "/\ud800", "/a\nb", "/a?x=1#f", "#/k", "?", "/" + "a" * 3000, "/" + "a/" * 2000, "/a;b", "/a\\..\\b", "/&amp;",
    "/\x7f", "/\u202e", "/+", "/a//b", "/~",
)  # fmt: skip


def address(random: Random) -> bytes:
    """An address of a photo, an object or an endpoint, with half characters as they come."""
    user = random.choice(("",) * 9 + ("u@", "u:p@", "@", "127.0.0.1@"))
    host = random.choice(HOSTS)
    if random.random() < 0.1:
        host = spoilt(host.encode("utf-8", "replace"), random).decode("utf-8", "replace")
    text = random.choice(SCHEMES) + user + host + random.choice(PORTS) + random.choice(PATHS)
    return text.encode("utf-8", "surrogatepass")


def pattern(random: Random) -> bytes:
    """Where photos lie, and in the second line a path to be read by it."""
    parts = (
        "{order_id}",
        "{field}",
        "*",
        "/",
        "_",
        "-",
        ".*",
        ".jpg",
        "",
        "{",
        "}",
        "{x}",
        "{{",
        "照",
        "..",
        "\0",
        " ",
        "İ",
        "ß",
        "e\u0301",
    )
    made = "".join(random.choice(parts) for _ in range(random.choice((1, 3, 4, 5, 9))))
    good = random.choice(
        ("{order_id}/{field}.*", "{order_id}_{field}.*", "{field}{order_id}.*", "*/{order_id}-{field}.jpg")
    )
    names = (
        "HT0001",
        "face",
        "人像面",
        "_",
        "-",
        "/",
        ".jpg",
        ".",
        "",
        "x",
        "İ",
        "ß",
        "e\u0301",
        "\ud800",
        "facefaceface",
        "a" * 255,
    )
    path = "".join(random.choice(names) for _ in range(random.choice((2, 4, 6, 40))))
    text = (made if random.random() < 0.5 else good).replace("\n", "") + "\n" + path
    return text.encode("utf-8", "surrogatepass")
