"""Hostile inputs as rows of one run of the real program, with good rows between them, and what it makes of them."""

import csv
import errno
import io
import json
import os
import re
import signal
import socket
import sys
import time
import traceback
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import fuzz_pictures
import openpyxl

from batchupload.cli import main
from batchupload.model import Outcome
from batchupload.reasons import Reason

CPU_SECONDS = 60
"""CPU time of one run; of thirty inputs each may take a second or two."""
WALL_SECONDS = 240
EXIT_CODES = {0, 1, 2, 3, 4, 5}
HEADER = ["order_id", "face", "back", "hand", "note"]
FIELDS = ("face", "back", "hand")
# No text of others may reach a terminal as it is: control characters, marks of direction.
RAW = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "endpoint": {"allow_plaintext": True},
    "retry": {"attempts": 1, "base": 0.01, "cap": 0.02, "retry_after_cap": 0.05},
    "pace": {"canary": 0, "concurrency": 4, "probe_after_failures": 100_000, "stop_after_misaddressed": 100_000},
    "timeouts": {"connect": 5, "reply": 20, "photos": 3600},
    "photos": {"small_side": 0},
}
SOMEWHERE = "8.8.4.4"
"""Where names seem to lead; nothing is sent there."""
Cells = Sequence[str]


class Broken(Exception):  # noqa: N818 - what it says is broken, not that it is an error
    """A promise is broken; says which."""


def pictures(folder: Path, contents: Sequence[bytes]) -> None:
    """Check a manifest in which each hostile photo is one of three of its own order."""
    rows = []
    for number, content in enumerate(contents):
        row = _good(folder, f"HOSTILE{number:04}", number)
        (folder / row[1 + number % 3]).write_bytes(content)
        rows.append(row)
    _run(folder, "check", rows)


def rows(folder: Path, contents: Sequence[bytes]) -> None:
    """Check a manifest with hostile rows, each a JSON list of cells, in one of its forms."""
    _run(folder, "check", [json.loads(content) for content in contents], zlib.crc32(contents[0]))


def replies(folder: Path, contents: Sequence[bytes]) -> None:
    """Send orders each of which gets a hostile answer, from raw sockets."""
    answers = {f"HOSTILE{number:04}": content for number, content in enumerate(contents)}
    _run(folder, "run", [_good(folder, order, number) for number, order in enumerate(answers)], answers=answers)


def manifests(folder: Path, contents: Sequence[bytes]) -> None:
    """Check one hostile manifest: it is refused with a message, or each of its rows is in the report."""
    (folder / "orders.csv").write_bytes(contents[0])
    (folder / "config.yaml").write_text(json.dumps(SETTINGS), encoding="utf-8")
    status, said = _program(folder, ["check", "orders.csv", "-v", "--config", "config.yaml"])
    _judge_screen(status, said, {0, 1, 2})
    if status == 2 and "batchupload: " not in said:
        raise Broken("exit 2 without a message")
    if status < 2:
        _judge_report(folder, "check", None)


def configs(folder: Path, contents: Sequence[bytes]) -> None:
    """Check a good manifest by a hostile config: it is taken, or refused with a message."""
    (folder / "config.yaml").write_bytes(contents[0])
    _write(folder / "orders.csv", [_good(folder, "GOODONE0001", 1)])
    status, said = _program(folder, ["check", "orders.csv", "--config", "config.yaml"])
    _judge_screen(status, said, {0, 1, 2})
    if status == 2 and "batchupload: " not in said:
        raise Broken("exit 2 without a message")


def _good(folder: Path, order: str, number: int) -> list[str]:
    """A row whose photos are there, and its own."""
    (folder / "photos").mkdir(exist_ok=True)
    for field in FIELDS:
        (folder / f"photos/{order}-{field}").write_bytes(fuzz_pictures.good(f"{order} {field}"))
    return [order, *(f"photos/{order}-{field}" for field in FIELDS), f"note {number}"]


def _run(
    folder: Path, command: str, hostile: Sequence[Cells], form: int = 0, answers: Mapping[str, bytes] | None = None
) -> None:
    """Run the program over the rows, a good one behind every third; raise `Broken` if it breaks a promise."""
    rows: list[Cells] = [_good(folder, "GOODONE9999", 9999)]
    for number, cells in enumerate(hostile):
        rows.append(cells)
        if number % 3 == 0:
            rows.append(_good(folder, f"GOODONE{number:04}", number))
    manifest = folder / "orders.csv"
    (_write, _write_lines, _write_book)[form % 3](manifest, rows)
    settings: dict[str, dict[str, Any]] = {section: {**values} for section, values in SETTINGS.items()}
    listener = socket.create_server(("127.0.0.1", 0))
    settings["endpoint"]["url"] = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    (folder / "config.yaml").write_text(json.dumps(settings), encoding="utf-8")
    status, said = _program(folder, [command, "orders.csv", "-v", "--config", "config.yaml"], listener, answers or {})
    _judge_screen(status, said, {0, 1})
    _judge_report(folder, command, rows)


def _judge_screen(status: int, said: str, allowed: set[int]) -> None:
    if "Traceback" in said:
        where = re.findall(r'File ".*?([^/"]+)", line \d+, in (\w+)', said)[-1:]
        raise Broken(f"traceback, {where}")
    if status == -signal.SIGPROF:
        raise Broken("no end in CPU time")
    if status not in allowed:
        raise Broken(f"exit {status}: {said.strip().splitlines()[-1:]}"[:200])
    if raw := RAW.search(said):
        raise Broken(f"raw U+{ord(raw[0]):04X} on the screen")


def _judge_report(folder: Path, command: str, rows: Sequence[Cells] | None) -> None:
    [report] = folder.glob("*report-*.csv")
    with report.open(encoding="utf-8-sig", newline="") as file:
        found = list(csv.DictReader(file))
    numbers = [line["line"] for line in found]
    if len(set(numbers)) != len(numbers):
        raise Broken("a line twice in the report")
    if rows is not None:
        full = [row for row in rows if any(cell.strip() for cell in row)]
        if len(found) != len(full):
            raise Broken(f"{len(found)} rows in the report, {len(full)} in the manifest")
    for row in found:
        if row["outcome"] not in set(Outcome) or row["reason"] not in set(Reason):
            raise Broken(f"{row['outcome']} {row['reason']}: not listed")
        if row["reason"] == "internal_error":
            raise Broken(f"internal_error {row['detail']}"[:80])
        good = {"uploaded"} if command == "run" else {"deferred", "ready"}
        if row["order_id"].startswith("GOODONE") and row["outcome"] not in good:
            raise Broken(f"a good row is {row['outcome']}, {row['reason']}")


def _write(path: Path, rows: Sequence[Cells]) -> None:
    file = io.StringIO()
    csv.writer(file).writerows([HEADER, *rows])
    path.write_bytes(file.getvalue().encode("utf-8", "replace"))


def _write_lines(path: Path, rows: Sequence[Cells]) -> None:
    objects = [dict(zip(HEADER, cells, strict=False)) for cells in rows]
    path.write_text("".join(json.dumps(one) + "\n" for one in objects), encoding="utf-8")


def _write_book(path: Path, rows: Sequence[Cells]) -> None:
    book = openpyxl.Workbook()
    assert book.active is not None
    for cells in [HEADER, *rows]:
        book.active.append(["".join(letter for letter in cell if letter.isprintable())[:30_000] for cell in cells[:5]])
    book.save(path)


def _program(
    folder: Path,
    words: Sequence[str],
    listener: socket.socket | None = None,
    answers: Mapping[str, bytes] | None = None,
) -> tuple[int, str]:
    """The program's exit code, negative where a signal ended it, and all that it wrote to the screen."""
    child = os.fork()
    if not child:
        try:
            _become(folder, words)
        except BaseException:  # noqa: BLE001 - the interpreter would show it so, and end
            os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
        finally:
            os._exit(70)
    if listener:
        Thread(target=_serve, args=(listener, answers), daemon=True).start()
    end = time.monotonic() + WALL_SECONDS
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise Broken("it hangs")
        time.sleep(0.005)
    if listener:
        listener.close()
    said = (folder / "screen").read_bytes().decode("utf-8", "backslashreplace")
    return os.waitstatus_to_exitcode(status), said


def _become(folder: Path, words: Sequence[str]) -> None:
    """Be the program, started by a user; no name is looked up, and nothing but loopback is reached."""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    os.chdir(folder)
    screen = os.open("screen", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(screen, 1)
    os.dup2(screen, 2)
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = ["batchupload", *words]
    for name in [name for name in os.environ if name.startswith("BATCHUPLOAD_")]:
        del os.environ[name]
    os.environ |= {"LANGUAGE": "en", "COLUMNS": "100", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    with nowhere([], [], here=True):
        main()


@contextmanager
def nowhere(names: list[tuple[str, int]], reached: list[tuple[object, ...]], *, here: bool = False) -> Iterator[None]:
    """Let nothing out: each name leads to `SOMEWHERE`, each connection is refused, but those to loopback if `here`.

    What was looked up and where it led is noted.
    """
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not (here and address[0] == "127.0.0.1"):
            reached.append(address)
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        connect(self, address)

    def noted(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:  # noqa: A002
        name = host.decode() if isinstance(host, bytes) else str(host)
        if not re.fullmatch(r"[0-9.]+|[0-9A-Fa-f:.%]*:[0-9A-Za-z:.%]*", name):
            names.append((name, port))
            name.encode("idna")  # as the real one does
            name = SOMEWHERE
        return look_up(name, port, family, type, proto, flags | socket.AI_NUMERICHOST)

    socket.socket.connect = guarded  # type: ignore[method-assign, assignment]
    socket.getaddrinfo = noted
    try:
        yield
    finally:
        socket.socket.connect = connect  # type: ignore[method-assign]
        socket.getaddrinfo = look_up


def _serve(listener: socket.socket, answers: Mapping[str, bytes] | None) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        Thread(target=_answer, args=(connection, answers or {}), daemon=True).start()


def _answer(connection: socket.socket, answers: Mapping[str, bytes]) -> None:
    """Read one request to its end; answer as its order has it, or well."""
    with connection:
        connection.settimeout(30)
        request = b""
        try:
            while more := connection.recv(1 << 16):
                request += more
                head, end, body = request.partition(b"\r\n\r\n")
                length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
                if end and length and len(body) >= int(length[1]):
                    break
            order = re.search(rb"[A-Z]{7}\d{4}", request)
            good = b'HTTP/1.1 200 OK\r\n\r\n{"code":200,"msg":"ok"}'
            answer = answers.get(order[0].decode(), good) if order else good
            head, _, body = answer.partition(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 "):  # spoilt there
                connection.sendall(answer)
                return
            connection.sendall(head + b"\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        except OSError:
            return
