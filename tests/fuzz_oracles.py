"""What must hold of each kind of input: by the function that judges it, and in a run beside good rows."""

import asyncio
import ipaddress
import json
import logging
import os
import re
import tempfile
import warnings
import zlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import fuzz_manifests
import fuzz_pictures
import fuzz_replies
import fuzz_runs
import fuzz_settings
from fuzz_runs import Broken
from yarl import URL

from batchupload.columns import KNOWN_NAMES
from batchupload.config import ConfigError, load
from batchupload.endpoint import Endpoint
from batchupload.manifest import open_manifest, read_rows
from batchupload.model import Problem, Reply, Verdict
from batchupload.patterns import Reader, field_names, parse_pattern
from batchupload.photos import PhotoError, media_type_of, validate
from batchupload.reasons import Reason
from batchupload.repair import repair
from batchupload.settings import RetrySettings, TimeoutSettings
from batchupload.shop_settings import EndpointSettings, ManifestSettings, PhotoSettings, ReplyRule
from batchupload.source import ManifestError
from batchupload.sources.sources import Sources
from batchupload.verdict import judge

NOW = datetime(2026, 11, 1, tzinfo=UTC)
REASONS = frozenset(Reason)
FOLDER = Path(tempfile.gettempdir())


@dataclass(frozen=True, slots=True)
class Subject:
    """One kind of input."""

    make: Callable[[Random, int], bytes]
    """The input of a number; `Random` is seeded with that."""
    hold: Callable[[bytes], str]
    """Its outcome, in a word. Raises if a promise is broken."""
    together: Callable[[Path, Sequence[bytes]], None] | None = None
    """The same of so many inputs in one run of the program."""
    rows: int = 30
    """Inputs of one such run."""


def _writable(*texts: object) -> None:
    for text in texts:
        try:
            str(text).encode()
        except UnicodeEncodeError:
            raise Broken("text that can't be written as UTF-8") from None


def file_of(process: int) -> Path:
    """The file that a process of the fuzzing keeps its input in."""
    return FOLDER / f"fuzz-{process}"


def _file(content: bytes) -> Path:
    """A file with this content, the same of this process again and again."""
    path = file_of(os.getpid())
    path.write_bytes(content)
    return path


PHOTO_SETTINGS = tuple(
    PhotoSettings.model_validate(changes)
    for changes in (
        {},
        {"validate": "header"},
        {"repair": ["resize", "heic", "orientation", "metadata"], "max_bytes": 20_000},
        {"repair": ["metadata"]},
    )
)


def hold_picture(content: bytes) -> str:
    """As a photo, by one of several settings."""
    settings = PHOTO_SETTINGS[zlib.crc32(content) % len(PHOTO_SETTINGS)]
    done = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if settings.repair:
                content, done = repair(content, settings, lambda size: nullcontext())
            media_type_of(content)
            validate(content, settings)
    except PhotoError as error:
        _listed(error.problem)
        if not error.problem.reason.startswith("photo_"):
            raise Broken(f"reason {error.problem.reason}") from None
        return str(error.problem.reason)
    _writable(done)
    return "repaired" if done else "good"


def _listed(problem: Problem) -> None:
    if problem.reason not in REASONS or problem.reason is Reason.INTERNAL_ERROR:
        raise Broken(f"reason {problem.reason}")
    _writable(problem.detail)


def hold_manifest(content: bytes) -> str:
    """Read from its header to its last row."""
    settings, rows, bad = ManifestSettings(), 0, 0
    try:
        layout = open_manifest(_file(content), settings)
        _writable(layout)
        for row in read_rows(layout, settings):
            rows, bad = rows + 1, bad + (row.problem is not None)
            _writable(row.order_id, *row.photos.values(), *row.own.values(), *(name for name, _ in row.own))
            if row.problem:
                _listed(row.problem)
    except ManifestError as error:
        _writable(error)
        return "refused"
    return "bad rows" if bad else "good rows" if rows else "no rows"


def make_row(random: Random) -> bytes:
    """The cells of one row, as JSON."""
    good = [f"HT{random.randrange(10**6):06}", "a.jpg", "b.jpg", "c.jpg", "x"]
    cells = [cell if random.random() < 0.4 else fuzz_manifests.cell(random) for cell in good]
    if random.random() < 0.1:
        cells[random.randrange(5)] = random.choice(fuzz_manifests.HALVES)
    if random.random() < 0.3:
        cells[random.randrange(1, 4)] = fuzz_settings.address(random).decode("utf-8", "surrogatepass")
    return json.dumps(cells).encode()


def hold_row(content: bytes) -> str:
    """As a line of JSON between two good ones."""
    good = '{"order_id": "HT0001", "face": "a", "back": "b", "hand": "c", "note": "d"}\n'
    cells = json.loads(content)
    line = json.dumps(dict(zip(fuzz_runs.HEADER, cells, strict=True))) + "\n"
    return hold_manifest((good + line + good).encode())


RULES = ((), (ReplyRule(message="繁忙|busy", then="retry"), ReplyRule(code=201, then="accept")))


def hold_reply(content: bytes) -> str:
    """As the answer to a whole body, and to half a body."""
    head, _, body = content.partition(b"\r\n\r\n")
    status, *lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    number = re.fullmatch(r"HTTP/1.1 (\d{3}) .*", status, re.DOTALL)
    headers = dict(line.split(": ", 1) for line in lines if ": " in line)
    cut = Reason.REPLY_TOO_LARGE if len(body) > fuzz_replies.LIMIT else None
    reply = Reply(
        int(number[1]) if number else 200,
        body[: fuzz_replies.LIMIT],
        cut,
        content_encoding=headers.get("Content-Encoding", ""),
        retry_after=headers.get("Retry-After", ""),
        date=headers.get("Date", ""),
    )
    rules = RULES[zlib.crc32(content) % 2]
    found = judge(reply, True, rules, NOW, 300)
    _writable(found.message, found.code)
    if found.verdict not in set(Verdict) or found.reason not in REASONS:
        raise Broken(f"{found.verdict} {found.reason}: not listed")
    if re.search(r"[\x00-\x1f\x7f-\x9f]", found.message) or len(found.message) > 500:
        raise Broken("a message that is not one line of text that can be shown")
    if found.retry_after is not None and not 0 <= found.retry_after <= 300:
        raise Broken(f"a wait of {found.retry_after} s")
    if judge(reply, False, rules, NOW, 300).verdict is Verdict.ACCEPTED:
        raise Broken("accepted, though it can't have the whole body")
    return str(found.verdict)


def hold_config(content: bytes) -> str:
    """As the config file of `run` or `check`, with a profile or without."""
    which = zlib.crc32(content) % 8
    return _loaded(lambda: load(_file(content), {}, {}, send=which % 2 == 0, profile="x" if which > 6 else None))


def hold_environment(content: bytes) -> str:
    """As the variables of a process, or as options of its command line."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    variables = dict(line.split("=", 1) for line in lines if "=" in line)
    if zlib.crc32(content) % 2:
        return _loaded(lambda: load(None, variables, {}, send=False))
    options = {}
    for name, value in variables.items():
        section, _, key = name.removeprefix("BATCHUPLOAD_").lower().partition("_")
        options[f"{section}.{key}"] = (f"--{key}", value)
    return _loaded(lambda: load(None, {}, options, send=False))


def _loaded(loading: Callable[[], object]) -> str:
    try:
        loading()
    except ConfigError as error:
        _writable(error)
        if len(str(error)) > 100_000:
            raise Broken(f"a message of {len(str(error)):,} characters") from None
        return "refused"
    return "taken"


# What no photo may be fetched from: RFC 6890, and IPv6 ranges that carry an IPv4 address on. By hand, on purpose.
NETWORKS = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3", "::/32",
    "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:db8::/32", "2002::/16",
    "fc00::/7", "fe80::/9", "ff00::/8",
)  # fmt: skip
PRIVATE = tuple(map(ipaddress.ip_network, NETWORKS))
STORE = "https://store.example:9000"


def hold_address(content: bytes) -> str:
    """As a photo's address, by default and with an object store; and as the endpoint's."""
    text = content.decode("utf-8", "surrogatepass")
    _as_endpoint(text)
    if "://" not in text:
        return "no address"
    store = {"s3_endpoint": STORE, "s3_region": "x", "s3_virtual_hosted": zlib.crc32(content) % 2 == 0}
    settings = PhotoSettings.model_validate(store)
    names: list[tuple[str, int]] = []
    reached: list[tuple[object, ...]] = []

    async def fetched() -> object:
        async with Sources(settings, RetrySettings(attempts=1, base=0.001), TimeoutSettings()) as sources:
            [found] = await sources.fetch([{"hand": text}])
            return found

    logging.disable()
    with fuzz_runs.nowhere(names, reached):
        found = asyncio.run(fetched())
    if not isinstance(found, Problem):
        raise Broken("fetched from nowhere")
    _listed(found)
    if text.lower().startswith("s3://"):
        if any(not f".{name}".endswith(".store.example") or port != 9000 for name, port in names):
            raise Broken("an object asked for at another host")
        reached = [address for address in reached if address[0] != fuzz_runs.SOMEWHERE]
        if reached:
            raise Broken("an object asked for at an address")
    for address in reached:
        ip = ipaddress.ip_address(str(address[0]).split("%")[0])
        if any(ip in network for network in PRIVATE if network.version == ip.version):
            raise Broken("a private host reached")
    return f"{found.reason}{', reached' * bool(reached)}"


def _as_endpoint(text: str) -> None:
    try:
        settings = EndpointSettings(url=text, allow_plaintext=True)
    except ValueError as error:
        _writable(str(error).replace(text, "")) if text.isprintable() else None
        return
    Endpoint(settings, TimeoutSettings())
    try:
        if URL(settings.url).host:
            str(URL(settings.url).raw_host).encode("idna")
    except UnicodeError:
        raise Broken("an endpoint whose name can't be looked up") from None


def hold_pattern(content: bytes) -> str:
    """As a pattern of `scan`, with a path that is read by it."""
    text, _, path = content.decode("utf-8", "surrogatepass").partition("\n")
    try:
        pattern = parse_pattern(text)
    except ValueError as error:
        _writable(error)
        return "refused"
    names = field_names({}, {field: names for field, names in KNOWN_NAMES.items() if field != "order_id"})
    reader = Reader((pattern,), names, lambda name: len(name) > 3, tuple({len(name) for name in names}))
    return "fits" if reader.read(path) else "does not fit"


SUBJECTS = {
    "bytes": Subject(lambda _, number: fuzz_pictures.changed(number), hold_picture),
    "pictures": Subject(lambda random, _: fuzz_pictures.picture(random), hold_picture, fuzz_runs.pictures),
    "manifests": Subject(lambda random, _: fuzz_manifests.manifest(random), hold_manifest, fuzz_runs.manifests, 1),
    "rows": Subject(lambda random, _: make_row(random), hold_row, fuzz_runs.rows),
    "replies": Subject(lambda random, _: fuzz_replies.reply(random), hold_reply, fuzz_runs.replies, 60),
    "config": Subject(lambda random, _: fuzz_settings.config(random), hold_config, fuzz_runs.configs, 1),
    "environment": Subject(lambda random, _: fuzz_settings.environment(random), hold_environment),
    "addresses": Subject(lambda random, _: fuzz_settings.address(random), hold_address),
    "patterns": Subject(lambda random, _: fuzz_settings.pattern(random), hold_pattern),
}
"""Kind of input → how it is made and held."""
