"""Every wait of the program under a pause, a clock that is set, and a thing waited for that never comes.

The waits are found in the code, so a new one is swept too, or named as not covered. `python tests/waits.py` sweeps all
in a run, a run with photos from addresses, and `doctor`, each wait by itself; `--short` all waits of a kind at once.
"""

import argparse
import ast
import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from batchupload import __file__ as package

PACKAGE = Path(package).parent
WAITS = frozenset({"asyncio.timeout", "asyncio.wait", "asyncio.wait_for", "asyncio.sleep", "Patience", "wait_until"})
"""Calls that wait with a limit; those before the last go by the loop's clock."""
NOT_SWEPT = {
    "batchupload.workers.": "a cluster's links: tests/cluster_losses.py stops and loses them",
    "batchupload.readers:Readers.do:": "only at the beginning of a cluster, whose links are",
    "batchupload.sandbox": "the stand-in endpoint waits as it is told to",
    "batchupload.stop:Stop.at_deadline": "goes by the wall clock: test_pauses.py -k deadline",
    "batchupload.stop:Stop.drained": "only after a signal: test_pauses.py -k drain",
    "batchupload.stop:Stop.interruptible": "only after the drain time: test_signals.py",
    "batchupload.throttle:Throttle.passed": "our own bandwidth: no fault can come of it",
    "batchupload.stderr:": "the reader of the screen: test_output.py",
    "batchupload.page.beside:page_beside:asyncio.wait": "a page that is given up: test_page.py",
    "batchupload.awake:": "the clock itself: test_clocks.py",
    "batchupload.reach:_secure": "TLS: test_doctor.py",
    "batchupload.run_log:": "log lines, between which it sleeps",
    "batchupload.screen:watch": "the display, between two frames of which it sleeps",
    "batchupload.patience:": "is itself what waits: its callers are swept",
    "batchupload.kept_file:KeptFile.write": "only if the write before hangs: test_metrics.py and test_status.py",
}
"""Where a wait stands → why it is not swept here."""
OTHER_CLOCKS = {
    "batchupload/awake.py": "makes the clock of all waits",
    "batchupload/cli_watch.py": "time.sleep between two looks, without a limit",
    "batchupload/loop.py": "makes the loop of all commands",
    "batchupload/cli.py": "asyncio.run for the sandbox, which waits for nothing with a limit",
    "batchupload/demo.py": "a Runner of that loop",
}
"""Files that may name a raw clock or loop → why."""


@dataclass(frozen=True, slots=True)
class Result:
    """How the program ended."""

    code: int | None
    said: str
    uploaded: int
    rows: int
    reached: frozenset[str]


def found() -> frozenset[str]:
    """All waits in the code, as `module:function:call`."""
    return frozenset(
        f"{module}:{name}:{call}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for module in [".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts))]
        for name, call in _calls(ast.parse(path.read_text()), "")
    )


def raw_clocks() -> dict[str, list[str]]:
    """File → what it names by which a pause counts as a wait."""
    words = (
        "time.monotonic",
        "time.perf_counter",
        "asyncio.run(",
        "asyncio.Runner(",
        "asyncio.new_event_loop",
        "time.sleep(",
    )
    named = {str(path.relative_to(PACKAGE.parent)): path.read_text() for path in PACKAGE.rglob("*.py")}
    return {name: seen for name, text in named.items() if (seen := [word for word in words if word in text])}


def swept() -> frozenset[str]:
    """Those that the sweep must reach."""
    return frozenset(wait for wait in found() if not wait.startswith(tuple(NOT_SWEPT)))


def command_of(wait: str) -> str:
    """The command of the sweep that comes to this wait."""
    if wait.startswith("batchupload.sources."):
        return "fetch"
    return "doctor" if wait.startswith(("batchupload.reach:", "batchupload.doctor:")) else "run"


def _calls(node: ast.AST, within: str) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        name = within
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{within}.{child.name}".lstrip(".")
        call = ast.unparse(child.func) if isinstance(child, ast.Call) else ""
        if call in WAITS and ast.unparse(child) != "asyncio.sleep(0)":  # which only lets others go first
            yield within, call
        yield from _calls(child, name)


# In the program itself: `python waits.py --child KIND WAIT FILE -- words`.


def child(kind: str, at: str, reached: str, words: list[str]) -> None:
    """Run the program; each wait that is `at` (or all) meets what `kind` says, at its first time."""
    import waits_meddling

    waits_meddling.meddle(kind, at, Path(reached))
    sys.argv[1:] = words
    from batchupload import pipeline
    from batchupload.cli import main

    pipeline.QUEUED = 2  # so that six orders are too many for one photo folder

    main()


async def tried(kind: str, at: str, command: str) -> Result:
    """Run `command` (run, fetch or doctor) on six orders."""
    from conftest import Shop, environment, read_report
    from listening_photos import serving

    from batchupload.sandbox import Sandbox, SandboxOptions, parse_fault

    with tempfile.TemporaryDirectory() as place:
        shop = Shop(Path(place))
        orders = shop.orders(6)
        async with (
            serving(Path(place)) as photos,
            Sandbox(SandboxOptions((parse_fault(f"http_503@{orders[0]}:1"),), latency=0.1)) as server,
        ):
            if command == "fetch":
                shop.rows[1:] = [[row[0], *(f"{photos}/{path}" for path in row[1:])] for row in shop.rows[1:]]
            shop.manifest()
            words = ["doctor"] if command == "doctor" else ["run", "orders.csv", "--report", "report.csv"]
            env = {
                "BATCHUPLOAD_ENDPOINT_URL": server.url, "BATCHUPLOAD_RETRY_BASE": "0.2",
                "BATCHUPLOAD_PHOTOS_ALLOW_PRIVATE_HOSTS": "true", "BATCHUPLOAD_PACE_CANARY": "2",
                "BATCHUPLOAD_PACE_CONCURRENCY": "2", "PYTHONUNBUFFERED": "1",
                "BATCHUPLOAD_METRICS_TEXTFILE": "metrics.prom" if command == "run" else "",
                "BATCHUPLOAD_PACE_RATE": "30" if command == "run" else "",
            }  # fmt: skip
            process = await asyncio.create_subprocess_exec(
                sys.executable, __file__, "--child", kind, at, str(shop.folder / "reached"), *words,
                cwd=place, env=environment({key: value for key, value in env.items() if value}),
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            try:
                out, err = await asyncio.wait_for(process.communicate(), 60)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            report = read_report(shop.folder / "report.csv") if (shop.folder / "report.csv").exists() else []
            said = {row["order_id"] for row in report if row["outcome"] == "uploaded"}
            assert said <= set(server.accepted), "uploaded is said of orders that were not accepted"
            seen = (shop.folder / "reached").read_text().split() if (shop.folder / "reached").exists() else ()
            return Result(process.returncode, (out + err).decode(), len(said), len(report), frozenset(seen))


def wrong(kind: str, command: str, result: Result) -> str:
    """What is not as it should be; empty if nothing is."""
    if "Traceback" in result.said or result.code == 70:
        return f"a fault:\n{result.said}"
    if kind == "hang":
        allowed = {0, 1, 2, 3, 5}
        lost = command != "doctor" and result.code in {0, 1, 3} and result.rows != 6
        return "" if result.code in allowed and not lost else f"exit {result.code}, {result.rows} rows:\n{result.said}"
    if command == "doctor":
        return (
            f"it calls something slow:\n{result.said}"
            if " in 10 s" in result.said or "does not answer" in result.said
            else ""
        )
    good = result.code == 0 and result.uploaded == 6
    return "" if good else f"exit {result.code}, {result.uploaded} of 6 uploaded:\n{result.said}"


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="All waits of a command at once, and none that hang.")
    short = parser.parse_args().short
    faults, reached = 0, set[str]()
    for command in ("run", "fetch", "doctor"):
        first = await tried("pause", "all", command)
        reached |= first.reached
        for kind in ("pause", "ahead", "behind", "hang"):
            waits = sorted(wait for wait in first.reached & swept() if command_of(wait) == command)
            for wait in ["all"] if short else waits:
                if short and kind == "hang":
                    continue
                if seen := wrong(kind, command, await tried(kind, wait, command)):
                    faults += 1
                    print(f"{command}, {kind} at {wait}: {seen}", flush=True)
    left = swept() - reached
    print(f"{len(reached)} waits swept, {faults} wrong; not covered: {', '.join(sorted(left)) or 'none'}")
    return 1 if faults or left else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.path.insert(0, os.path.dirname(__file__))
        kind, at, reached, *words = sys.argv[2:]
        child(kind, at, reached, words)
    sys.exit(asyncio.run(main()))
