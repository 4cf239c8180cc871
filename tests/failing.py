"""Runs the real program while one of its system calls fails, as on a bad disk, and holds it to its promises after that.

`python tests/failing.py fdatasync batchupload.db-wal --at 5` lets the fifth such call on that file come back with EIO.
Linux only.
"""

import argparse
import ctypes
import errno
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from killing import (
    ALL_THREADS,
    ENTRY,
    EXITKILL,
    GET_SYSCALL_INFO,
    SETOPTIONS,
    SYSCALL,
    SYSGOOD,
    TRACECLONE,
    WORKERS,
    SyscallInfo,
    TracingRefusedError,
    arguments_for,
    ptrace,
    report,
    run_to_its_end,
    sandbox,
    seen,
    start,
    write_shop,
)

GETREGSET, SETREGSET, NT_PRSTATUS = 0x4204, 0x4205, 1
NUMBERS, RESULT = {
    "x86_64": ({"write": 1, "pwrite64": 18, "fsync": 74, "fdatasync": 75}, 10),
    "aarch64": ({"write": 64, "pwrite64": 68, "fsync": 82, "fdatasync": 83}, 0),
}[platform.machine()]
"""Each call's number, and which of the registers has its result."""


class Registers(ctypes.Structure):
    """The kernel's `struct iovec` around a thread's registers."""

    _fields_ = (("at", ctypes.c_void_p), ("size", ctypes.c_size_t))


def let_it_fail(thread: int, error: int) -> None:
    """The thread stands at the end of a system call: give that call this result."""
    values = (ctypes.c_int64 * 64)()
    vector = Registers(ctypes.addressof(values), ctypes.sizeof(values))
    ptrace(GETREGSET, thread, NT_PRSTATUS, ctypes.byref(vector))
    values[RESULT] = -error
    ptrace(SETREGSET, thread, NT_PRSTATUS, ctypes.byref(vector))


def run_with_failure(arguments: Sequence[str], folder: Path, call: str, file: str, at: int) -> tuple[int, int]:
    """Run the program; its exit code, and how many such calls on that file began in all."""
    child = start(arguments, folder, traced=True)
    _, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status):
        raise TracingRefusedError
    ptrace(SETOPTIONS, child, 0, SYSGOOD | TRACECLONE | EXITKILL)
    ptrace(SYSCALL, child)
    info, size = SyscallInfo(), ctypes.sizeof(SyscallInfo)
    calls = 0
    failing: set[int] = set()
    while True:
        thread, status = os.waitpid(-1, ALL_THREADS)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if thread == child:
                return os.waitstatus_to_exitcode(status), calls
            continue
        stopped_by = os.WSTOPSIG(status)
        if stopped_by == signal.SIGTRAP | 0x80:
            ptrace(GET_SYSCALL_INFO, thread, size, ctypes.byref(info))
            if info.op == ENTRY:
                if info.number == NUMBERS[call] and _is(file, child, info.arguments[0]):
                    calls += 1
                    if calls == at:
                        failing.add(thread)
            elif thread in failing:
                failing.discard(thread)
                let_it_fail(thread, errno.EIO)
            stopped_by = 0
        elif stopped_by in {signal.SIGTRAP, signal.SIGSTOP}:
            stopped_by = 0
        ptrace(SYSCALL, thread, 0, stopped_by)


def _is(file: str, process: int, descriptor: int) -> bool:
    try:
        return Path(os.readlink(f"/proc/{process}/fd/{descriptor}")).name == file
    except OSError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("call", choices=NUMBERS)
    parser.add_argument("file")
    parser.add_argument("--at", type=int, default=1, help="the call that fails, from 1")
    chosen = parser.parse_args()
    with sandbox("--latency", "0.01") as url, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        orders = write_shop(folder, "1", 20)
        arguments = arguments_for(url, WORKERS)
        code, calls = run_with_failure(arguments, folder, chosen.call, chosen.file, chosen.at)
        screen = (folder / "screen.log").read_text()
        assert calls >= chosen.at, f"there were {calls} calls only\n{screen}"
        assert code == 5, f"exit {code}\n{screen}"
        accepted = seen(url)
        said = report(folder)
        told = {line.split(",")[1].strip().split(":")[0] for line in screen.splitlines() if "not in the report" in line}
        uploaded = {order_id for order_id, outcome in said.items() if outcome == "uploaded"}
        unknown = {order_id for order_id, outcome in said.items() if outcome == "unknown"}
        assert len(accepted) < len(orders), "sending went on"
        assert uploaded <= set(accepted) <= uploaded | told | unknown, f"{said}\n{told}\n{screen}"
        (folder / "report.csv").unlink(missing_ok=True)
        code = run_to_its_end(arguments, folder)
        assert code == 0, f"exit {code} of the next run\n{(folder / 'screen.log').read_text()}"
        sends = {order_id: found["accepted"] for order_id, found in seen(url).items()}
        assert sorted(sends) == sorted(report(folder)) == orders, "not every row"
        assert sum(sends.values()) <= len(orders) + WORKERS, "more sent again than was under way"
    print(f"{calls - chosen.at} more {chosen.call} after the one that failed; {len(accepted)} of 20 were sent")
    return 0


if __name__ == "__main__":
    sys.exit(main())
