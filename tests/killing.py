"""Kills the real program, runs it again, and holds ledger, report and endpoint against each other.

`python tests/killing.py anywhere` kills it at each successive system call, from the first write that must last to its
exit; with `--power-loss` what was not synced is lost too. `python tests/killing.py random --kills 1000` does it at
random moments of larger runs. Linux only.
"""

import argparse
import csv
import ctypes
import json
import os
import platform
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn

from batchupload import cli, job  # noqa: F401
from batchupload.model import PHOTO_FIELDS
from batchupload.samples import draw_photo

WORKERS = 2
TRACEME, SYSCALL, SETOPTIONS, GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
SYSGOOD, TRACECLONE, EXITKILL = 1, 1 << 3, 1 << 20
ENTRY = 1
ALL_THREADS = 0x40000000
LASTING_WRITES = {"x86_64": {74, 75}, "aarch64": {82, 83}}[platform.machine()]
"""fsync, fdatasync"""

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


class SyscallInfo(ctypes.Structure):
    """The beginning of the kernel's `struct ptrace_syscall_info`."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("pointers", ctypes.c_uint64 * 2),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 7),
    )


class TracingRefusedError(Exception):
    """This machine lets no process be traced."""


def ptrace(request: int, process: int, at: int = 0, value: Any = 0) -> int:
    return int(libc.ptrace(request, process, at, value))


def start(arguments: Sequence[str], folder: Path, *, traced: bool) -> int:
    """The program in a fork of this process, which saves its start-up; its process number."""
    child = os.fork()
    if child == 0:
        if traced:
            if ptrace(TRACEME, 0):
                os._exit(99)
            os.kill(os.getpid(), signal.SIGSTOP)
        _become(arguments, folder)
    return child


def _become(arguments: Sequence[str], folder: Path) -> NoReturn:
    code = 1
    try:
        os.chdir(folder)
        output = os.open("screen.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = ["batchupload", *arguments]
        cli.main()
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    finally:
        os._exit(code)


class Disk:
    """What a disk holds after a power cut: of each file what was there when it was last synced, and no more; and no
    file whose folder was not synced since it got its name."""

    def __init__(self) -> None:
        self._synced: dict[str, bytes] = {}
        self._named: set[str] = set()

    def sync(self, process: int, descriptor: int) -> None:
        """A sync has come back."""
        path = Path(os.readlink(f"/proc/{process}/fd/{descriptor}"))
        if path.is_file():
            # A new ledger is synced before it is moved to its place.
            self._synced[path.name.removesuffix(".new")] = path.read_bytes()
        elif path.is_dir():
            self._named = {found.name for found in path.iterdir()}

    def lose_power(self, folder: Path) -> None:
        """Take from the files of the run what was never synced."""
        for path in [*folder.glob("batchupload.db*"), *folder.glob("report.csv")]:
            content = self._synced.get(path.name)
            if content is None or path.name not in self._named:
                path.unlink()
            else:
                path.write_bytes(content)


def kill_at_call(arguments: Sequence[str], folder: Path, call: int, disk: Disk) -> bool:
    """Run the program and kill it as it begins its `call`-th system call; False where it ended before."""
    child = start(arguments, folder, traced=True)
    _, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status):
        raise TracingRefusedError
    ptrace(SETOPTIONS, child, 0, SYSGOOD | TRACECLONE | EXITKILL)
    ptrace(SYSCALL, child)
    info, size = SyscallInfo(), ctypes.sizeof(SyscallInfo)
    calls, counting = 0, False
    syncing: dict[int, int] = {}
    while True:
        thread, status = os.waitpid(-1, ALL_THREADS)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if thread == child:
                return False
            continue
        stopped_by = os.WSTOPSIG(status)
        if stopped_by == signal.SIGTRAP | 0x80:
            ptrace(GET_SYSCALL_INFO, thread, size, ctypes.byref(info))
            if info.op == ENTRY:
                if info.number in LASTING_WRITES:
                    counting = True
                    syncing[thread] = info.arguments[0]
                calls += counting
                if calls == call:
                    os.kill(child, signal.SIGKILL)
                    _reap(child)
                    return True
            elif thread in syncing:
                disk.sync(child, syncing.pop(thread))
            stopped_by = 0
        elif stopped_by in {signal.SIGTRAP, signal.SIGSTOP}:
            stopped_by = 0
        ptrace(SYSCALL, thread, 0, stopped_by)


def _reap(child: int) -> None:
    while True:
        thread, status = os.waitpid(-1, ALL_THREADS)
        if thread == child and not os.WIFSTOPPED(status):
            return


def run_to_its_end(arguments: Sequence[str], folder: Path) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(start(arguments, folder, traced=False), 0)[1])


@contextmanager
def sandbox(*options: str) -> Generator[str, None, None]:
    """A sandbox in a process of its own; its address."""
    command = [sys.executable, "-u", "-m", "batchupload", "sandbox", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.kill()


def seen(url: str) -> dict[str, Any]:
    """What the sandbox saw of each order."""
    with urllib.request.urlopen(f"{url.split('/order')[0]}/stats", timeout=30) as answer:
        orders: dict[str, Any] = json.load(answer).get("orders", {})
    return orders


def write_shop(folder: Path, name: str, orders: int) -> list[str]:
    """Photos that all orders share, and a manifest."""
    for field in PHOTO_FIELDS:
        (folder / f"{field}.jpg").write_bytes(draw_photo(field, "any", size=(64, 40)))
    order_ids = [f"HT{name}{number:06}" for number in range(orders)]
    with (folder / "orders.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ["order_id", *PHOTO_FIELDS],
                *([order_id, *(f"{field}.jpg" for field in PHOTO_FIELDS)] for order_id in order_ids),
            ]
        )
    return order_ids


def report(folder: Path) -> dict[str, str]:
    """Order → outcome, as far as there is a report."""
    path = folder / "report.csv"
    if not path.exists():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {row["order_id"]: row["outcome"] for row in rows}
    assert len(found) == len(rows), "a row twice"
    return found


def run_ended(folder: Path) -> bool:
    """Whether the ledger says that its run came to its end; looked up in a copy, which leaves the ledger as it is."""
    with tempfile.TemporaryDirectory() as name:
        for path in folder.glob("batchupload.db*"):
            shutil.copy(path, name)
        if not (copy := Path(name, "batchupload.db")).exists():
            return False
        with closing(sqlite3.connect(copy)) as ledger:
            return bool(ledger.execute("SELECT 1 FROM runs WHERE ended_at IS NOT NULL").fetchone())


def check_claims(folder: Path, accepted: dict[str, int]) -> None:
    """After a kill: what the report says is so."""
    for order_id, outcome in report(folder).items():
        assert outcome in {"uploaded", "skipped"}, f"{order_id} is {outcome}"
        assert accepted.get(order_id), f"{order_id} is {outcome}, but the endpoint has not got it"


def arguments_for(url: str, workers: int) -> list[str]:
    return [
        "run", "orders.csv", "--report", "report.csv", "--endpoint", url, "--concurrency", str(workers), "--validate",
        "header",
    ]  # fmt: skip


def kill_anywhere(every: int, first: int, *, power_loss: bool) -> tuple[int, int]:
    """Kill at each `every`-th system call; how many points there were, and how many extra sends they cost at most.

    With `power_loss` the files are what a disk has that lost all that was not synced.
    """
    worst = points = 0
    with sandbox() as url:
        call = first
        while True:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                orders = write_shop(folder, f"{call:06}", 5)
                arguments = arguments_for(url, WORKERS)
                disk = Disk()
                killed = kill_at_call(arguments, folder, call, disk)
                if killed and power_loss:
                    disk.lose_power(folder)
                where = f"killed at call {call}"
                before = {order_id: found["accepted"] for order_id, found in seen(url).items() if order_id in orders}
                check_claims(folder, before)
                if run_ended(folder):
                    assert sorted(report(folder)) == orders, f"{where}: ended, but its report is not whole"
                code = run_to_its_end(arguments, folder) if killed else 0
                screen = (folder / "screen.log").read_text()
                assert code == 0 or "this file exists" in screen, f"{where}: exit {code}\n{screen}"
                assert sorted(report(folder)) == orders, f"{where}: not every row\n{screen}"
                accepted = {order_id: found["accepted"] for order_id, found in seen(url).items() if order_id in orders}
                assert sorted(accepted) == orders, f"{where}: not all accepted\n{screen}"
                check_claims(folder, accepted)
                extra = sum(accepted.values()) - len(orders)
                assert extra <= WORKERS, f"{where}: {extra} sent again"
                worst = max(worst, extra)
                if not killed:
                    return points, worst
            points += 1
            call += every


def kill_at_random(kills: int, seed: int) -> tuple[int, int, int]:
    """Kill larger runs at random moments; kills, orders and extra sends."""
    chance = random.Random(seed)
    done = total = extra = shops = 0
    workers = 8
    options = ("--latency", "0.01", "--fault", "accepted_then_reset=3%", "--fault", "http_503=5%")
    while done < kills:
        shops += 1
        with sandbox(*options, "--seed", str(seed + shops)) as url, tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            orders = write_shop(folder, f"{seed:06}{shops:06}", 400)
            arguments = arguments_for(url, workers)
            deaths = 0
            while True:
                child = start(arguments, folder, traced=False)
                if done < kills:
                    if chance.random() < 0.8:  # the others also as it starts
                        _wait_for_a_send(url)
                    time.sleep(chance.uniform(0, 0.5))
                    os.kill(child, signal.SIGKILL)
                status = os.waitpid(child, 0)[1]
                found = seen(url)
                accepted = {order_id: order["accepted"] for order_id, order in found.items()}
                if os.WIFSIGNALED(status):
                    done += 1
                    deaths += 1
                    check_claims(folder, accepted)
                    continue
                break
            assert sorted(report(folder)) == orders, "not every row"
            assert sorted(accepted) == orders, "not all accepted"
            check_claims(folder, accepted)
            sends = sum(order["sends"] for order in found.values())
            repeated = sum(accepted.values()) - len(orders)
            lost_answers = _stats(url)["faults"].get("accepted_then_reset", 0)
            assert repeated <= workers * deaths + lost_answers, f"{repeated} sent again after {deaths} kills"
            extra += max(0, repeated - lost_answers)
            total += sends
    return done, total, extra


def _wait_for_a_send(url: str) -> None:
    """Until one more comes than there were, or for some seconds: a run may have nothing to send any more."""
    before, end = _requests(url), time.monotonic() + 5
    while _requests(url) == before and time.monotonic() < end:
        time.sleep(0.005)


def _requests(url: str) -> int:
    return int(_stats(url)["requests"])


def _stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url.split('/order')[0]}/stats?orders=0", timeout=30) as answer:
        stats: dict[str, Any] = json.load(answer)
    return stats


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    ways = parser.add_subparsers(dest="way", required=True)
    anywhere = ways.add_parser("anywhere")
    anywhere.add_argument("--every", type=int, default=1, help="only each N-th system call")
    anywhere.add_argument("--first", type=int, default=1, help="begin with this one")
    anywhere.add_argument("--power-loss", action="store_true", help="and lose what was not synced")
    at_random = ways.add_parser("random")
    at_random.add_argument("--kills", type=int, default=1000)
    at_random.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    began = time.monotonic()
    if chosen.way == "anywhere":
        points, worst = kill_anywhere(chosen.every, chosen.first, power_loss=chosen.power_loss)
        print(f"{points} kills, at most {worst} orders sent again after one", end="")
    else:
        done, sends, extra = kill_at_random(chosen.kills, chosen.seed)
        print(f"{done} kills, {sends} sends, {extra} of them after an answer that a kill took away", end="")
    print(f", {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
