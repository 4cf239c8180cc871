"""The shared stage of the tests: a shop's folder of orders, the sandbox, and one run through both."""

import asyncio
import compileall
import csv
import ctypes
import functools
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from batchupload import __file__ as package
from batchupload.job import Wish, execute, plan
from batchupload.model import PHOTO_FIELDS
from batchupload.samples import draw_photo
from batchupload.sandbox import FaultRule, Sandbox, SandboxOptions, parse_fault
from batchupload.sandbox_faults import choose_fault
from batchupload.settings import LedgerSettings, Settings
from batchupload.summary import Summary

# Load on the machine is no failure, and CI tries the same examples each time; `explore` looks for new ones.
hypothesis.settings.register_profile(
    "same", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("same")

Report = list[dict[str, str]]


@functools.cache
def picture(name: str, order_id: str = "", media_type: str = "image/jpeg") -> bytes:
    """A small drawing, the same for the same arguments."""
    return draw_photo(name, order_id, media_type, size=(64, 40))


@dataclass
class Shop:
    """A folder with photos and a manifest that grows row by row."""

    folder: Path
    rows: list[list[str]] = field(default_factory=lambda: [["order_id", *PHOTO_FIELDS]])

    def write(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return name

    def order(self, order_id: str, photos: Mapping[str, bytes] | None = None, **cells: str) -> str:
        """Add an order with its photos in its own folder; `cells` name other paths."""
        made = {name: picture(name, order_id, "image/png" if name == "back" else "image/jpeg") for name in PHOTO_FIELDS}
        made |= photos or {}
        paths = {name: self.write(f"{order_id}/{name}.jpg", content) for name, content in made.items()}
        self.rows.append([order_id, *(cells.get(name, paths[name]) for name in PHOTO_FIELDS)])
        return order_id

    def orders(self, count: int, prefix: str = "HT") -> list[str]:
        return [self.order(f"{prefix}{number:06}") for number in range(count)]

    def manifest(self, name: str = "orders.csv") -> Path:
        path = self.folder / name
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(self.rows)
        return path


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "shop")


@pytest.fixture(autouse=True)
def every_fault_strikes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test if one of its sandbox's faults struck no send: it would pass without that fault.

    A test that wants a fault to stay idle is marked `idle_faults`.
    """
    begun: list[Sandbox] = []
    enter = Sandbox.__aenter__

    async def noted(sandbox: Sandbox) -> Sandbox:
        begun.append(sandbox)
        return await enter(sandbox)

    monkeypatch.setattr(Sandbox, "__aenter__", noted)
    yield
    if not request.node.get_closest_marker("idle_faults"):
        idle = [rule for sandbox in begun for rule in idle_faults(sandbox)]
        assert not idle, f"these faults struck no send: {idle}"


class FailedAssertions(logging.Handler):
    """Keep the failed assertions that a logger is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it if it is one."""
        if record.exc_info and isinstance(record.exc_info[1], AssertionError):
            self.kept.append(record.exc_info[1])


@pytest.fixture(autouse=True)
def no_assertion_fails_unseen() -> Iterator[None]:
    """Fail a test if an assertion failed in its server's handler or a callback: asyncio and aiohttp only log that."""
    failed = FailedAssertions()
    loggers = [logging.getLogger(name) for name in ("asyncio", "aiohttp.server")]
    for logger in loggers:
        logger.addHandler(failed)
    yield
    for logger in loggers:
        logger.removeHandler(failed)
    assert not failed.kept


def idle_faults(sandbox: Sandbox) -> list[FaultRule]:
    """Return the rules that struck none of the sends a sandbox got; its choice can be repeated."""
    orders: Any = sandbox.stats()["orders"]
    struck = {
        (order_id, choose_fault(sandbox.options.faults, sandbox.options.seed, order_id, send))
        for order_id, order in orders.items()
        for send in range(1, order["sends"] + 1)
    }
    hits = {*struck, *((None, name) for _, name in struck)}
    return [rule for rule in sandbox.options.faults if (rule.order_id, rule.name) not in hits]


def settings_for(url: str, **changes: Mapping[str, Any]) -> Settings:
    """Settings with short waits; `changes` are by section."""
    tree: dict[str, dict[str, Any]] = {
        "endpoint": {"url": url},
        "photos": {"small_side": 1},  # those of the tests are
        "retry": {"base": 0.01, "cap": 0.05},
        "timeouts": {"connect": 2.0, "progress": 1.0, "reply": 1.0},
    }
    for section, values in changes.items():
        tree.setdefault(section, {}).update(values)
    return Settings.model_validate(tree)


async def send(manifest: Path, settings: Settings, **wishes: Any) -> tuple[Summary, Report]:
    """One run in this process, and its report."""
    if "path" not in settings.ledger.model_fields_set:
        ledger = LedgerSettings(path=manifest.parent / "batchupload.db")
        settings = settings.model_copy(update={"ledger": ledger})
    wish = Wish((manifest,), **{"quiet": True, **wishes})
    async with asyncio.timeout(60):
        summary = await execute(wish, settings, plan(wish, settings))
    return summary, read_report(summary.report)


async def send_to_sandbox(
    manifest: Path,
    faults: Iterable[str] = (),
    *,
    sandbox: Mapping[str, Any] | None = None,
    **changes: Mapping[str, Any],
) -> tuple[Summary, Report, Sandbox]:
    """One run against a sandbox of its own."""
    options = SandboxOptions(tuple(map(parse_fault, faults)), **(sandbox or {}))
    async with Sandbox(options) as server:
        summary, report = await send(manifest, settings_for(server.url, **changes))
    return summary, report, server


def read_report(path: Path) -> Report:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def outcomes(report: Report) -> dict[str, tuple[str, str]]:
    return {row["order_id"]: (row["outcome"], row["reason"]) for row in report}


def batchupload(
    *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None, stdin: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """The program as a user starts it."""
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment(env), input=stdin, capture_output=True, text=True, timeout=60
    )


@asynccontextmanager
async def under_way(
    words: Sequence[str], folder: Path, env: Mapping[str, str], reached: Callable[[], bool]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The program in mid-run, from the moment at which it has `reached` something; killed where it is left running."""
    process = await asyncio.create_subprocess_exec(
        *words, cwd=folder, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            while not reached():
                assert process.returncode is None
                await asyncio.sleep(0.01)
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "batchupload", *map(str, arguments)]


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BATCHUPLOAD_")}
    return {**kept, "COLUMNS": "100", "LANGUAGE": "en", **(env or {})}


def pytest_configure(config: pytest.Config) -> None:
    """Have the program compiled, as an installation has it, whatever the environment says: most tests start it."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(package).parent, quiet=1)


def pytest_xdist_auto_num_workers() -> int:
    """Twice as many as there are cores: most of these tests wait more than they work."""
    return 2 * (os.cpu_count() or 1)


def as_plain_user() -> None:
    """For a child about to begin: what lets root pass over permissions is not inherited by it."""
    drop, override, search = 24, 1, 2  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    for capability in (override, search):
        ctypes.CDLL(None).prctl(drop, capability, 0, 0, 0)  # refused to plain users, who need it not
