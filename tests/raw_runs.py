"""Runs the real program against the raw endpoint and holds its report and ledger against that endpoint's log.

`python tests/raw_runs.py --orders 20000 --seed 1` plays rounds of up to 500 orders until there were that many; each
round is three runs: over the manifest, over what its report left open, over the manifest again. A round depends on its
seed: `--seed N --orders 1` plays round N alone. The batchupload tried is that of `PYTHONPATH`.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from raw_check import PATH, Memory, Run, Violation, check
from raw_endpoint import RawEndpoint

FIELDS = ("face", "back", "hand")
ROUND = 500
"""Orders of a round; fewer if they go one at a time."""
OPEN_OUTCOMES = "failed,unknown,deferred"
SLOWEST_RUN = 240.0
"""Seconds that a run may take."""
SHOWN = 8
"""Violations of a rule that are shown."""


@dataclass(frozen=True, slots=True)
class Round:
    """How the program is set in one round."""

    seed: int
    orders: int
    concurrency: int
    attempts: int
    patience: float
    """The reply timeout in seconds."""
    order_limit: float
    tls: bool
    host: str
    """What the endpoint is called; to a name a cookie would be sent back."""
    stopped: bool
    """Whether the first two runs get a SIGTERM in their midst."""
    cluster: bool
    """Whether two other processes send."""


def round_of(seed: int, orders: int = ROUND) -> Round:
    """The round of this seed, with at most so many orders."""
    chance = random.Random(f"round {seed}")
    concurrency = (16, 32, 8, 32, 1)[seed % 5]
    return Round(
        seed,
        min(orders, 60) if concurrency == 1 else orders,
        concurrency,
        attempts=chance.choice((2, 3, 4)),
        patience=chance.choice((0.4, 0.5, 0.7)),
        order_limit=chance.choice((1.5, 30.0, 30.0, 30.0)),
        tls=seed % 7 == 3,
        host="localhost" if seed % 7 in {1, 5} else "127.0.0.1",
        stopped=chance.random() < 0.25,
        cluster=seed % 20 == 11,
    )


def play(plan: Round, folder: Path) -> tuple[Counter[str], list[tuple[int, Violation]]]:
    """Play a round; return what was struck and what came out, and the violations with the number of their run."""
    counts: Counter[str] = Counter(orders=plan.orders)
    found: list[tuple[int, Violation]] = []
    memory = Memory()
    photos = dict(_photos(plan, folder))
    manifest, wanted = _manifest(plan, folder, list(photos))
    tls = _certified(folder) if plan.tls else None
    with RawEndpoint(plan.seed, plan.patience, tls=tls) as endpoint:
        _write_config(plan, folder, endpoint.port)
        previous: list[dict[str, str]] = []
        for number in (1, 2, 3):
            since = len(endpoint.log.events)
            again = number == 2
            report = folder / f"report{number}.csv"
            words = [str(folder / "report1.csv"), "--only", OPEN_OUTCOMES] if again else [str(manifest)]
            left = [("", row["order_id"]) for row in previous if row["outcome"] in OPEN_OUTCOMES.split(",")]
            stop_after = len(left if again else wanted) // 3 if plan.stopped and number < 3 else None
            code, screen = _run(plan, folder, [*words, "--report", str(report)], stop_after=stop_after)
            endpoint.settle(3 * plan.patience)
            if code not in {0, 1, 143}:
                found.append((number, Violation("exit", "-", f"exit {code}: {screen[-2000:]}")))
            rows_now = _read(report)
            run = Run(
                left if again else wanted, photos, rows_now, *_ledger(folder), endpoint.log.events[since:],
                f"{plan.host}:{endpoint.port}", plan.attempts,
            )  # fmt: skip
            found += [(number, violation) for violation in check(run, memory)]
            previous = rows_now
            counts.update(f"run {number} {row['outcome']}" for row in rows_now)
        counts.update({f"struck {what}": count for what, count in endpoint.struck.items()})
        counts["attempts"] += sum(event.what == "request" for event in endpoint.log.events)
        endpoint.log.save(folder / "endpoint.jsonl")
    return counts, found


def _photos(plan: Round, folder: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Make three photos for each order, most of them small; give the hashes of each order's."""
    chance = random.Random(f"photos {plan.seed}")
    for number in range(plan.orders):
        order_id = f"HT{plan.seed:04}{number:06}"
        (folder / order_id).mkdir()
        filling = chance.choices((300, 3000, 60_000, 400_000, 1_900_000), (40, 36, 10, 12, 1))[0]
        hashes = {}
        for colour, name in enumerate(FIELDS):
            content = photo(colour, f"{order_id} {name} ".encode() + chance.randbytes(chance.randrange(filling)))
            (folder / order_id / f"{name}.jpg").write_bytes(content)
            hashes[name] = hashlib.sha256(content).hexdigest()
        yield order_id, hashes


def _manifest(plan: Round, folder: Path, order_ids: Sequence[str]) -> tuple[Path, list[tuple[str, str]]]:
    """Write the manifest: each order, some twice, and a few that may not be sent; give line and order of each row."""
    chance = random.Random(f"manifest {plan.seed}")
    rows = [[order_id, *(f"{order_id}/{name}.jpg" for name in FIELDS)] for order_id in order_ids]
    rows += chance.sample(rows, len(rows) // 30)
    for number in range(len(rows) // 50):
        one, other = chance.sample(order_ids, 2)
        for of in (one, other):  # the same order with other photos
            rows.append([f"HT{plan.seed:04}9{number:05}", *(f"{of}/{name}.jpg" for name in FIELDS)])
        rows.append([f"HT{plan.seed:04}8{number:05}", f"{one}/face.jpg", f"{other}/gone.jpg", f"{one}/hand.jpg"])
    chance.shuffle(rows)
    manifest = folder / "orders.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["order_id", *FIELDS], *rows])
    return manifest, [(str(line), row[0]) for line, row in enumerate(rows, 2)]


def photo(colour: int, filling: bytes) -> bytes:
    """Make a small JPEG, filled up with comments."""
    file = io.BytesIO()
    Image.new("RGB", (32, 24), (40 + 80 * colour, 90, 120)).save(file, "JPEG")
    content = file.getvalue()
    pieces = [filling[at : at + 60_000] for at in range(0, len(filling), 60_000)]
    comments = b"".join(b"\xff\xfe" + (len(piece) + 2).to_bytes(2) + piece for piece in pieces)
    return content[:2] + comments + content[2:]


def _write_config(plan: Round, folder: Path, port: int) -> None:
    settings: dict[str, dict[str, Any]] = {
        "endpoint": {"url": f"http{'s' * plan.tls}://{plan.host}:{port}{PATH}"},
        "photos": {"warn": False},
        # Faults at most orders are no reason to stop: here the endpoint is never taken to be down.
        "pace": {
            "concurrency": plan.concurrency, "canary": 0,
            "probe_after_failures": 100_000, "stop_after_misaddressed": 100_000,
        },
        "retry": {
            "attempts": plan.attempts, "base": 0.01, "cap": 0.05, "budget": 10, "retry_after_cap": 0.05,
            "order_limit": plan.order_limit, "quarantine_after": 0,
        },
        "timeouts": {"connect": 3, "progress": plan.patience, "reply": plan.patience, "drain": 0.1},
        "report": {"page": False},
        "cluster": {"address": "local:2"} if plan.cluster else {},
    }  # fmt: skip
    (folder / "batchupload.yaml").write_text(json.dumps(settings))


def _run(plan: Round, folder: Path, words: Sequence[str], *, stop_after: int | None) -> tuple[int, str]:
    """One run of the program, as a user starts it; it gets a SIGTERM after so many rows of its report."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BATCHUPLOAD_")}
    environment |= (
        {"LANGUAGE": "en", "SSL_CERT_FILE": str(folder / "certificate.pem")} if plan.tls else {"LANGUAGE": "en"}
    )
    command = [sys.executable, "-m", "batchupload", "run", *words, "--config", "batchupload.yaml", "--quiet"]
    with subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            if stop_after is not None:
                _wait_for_rows(process, Path(words[-1]), stop_after)
                process.send_signal(signal.SIGTERM)
            screen, _ = process.communicate(timeout=SLOWEST_RUN)
        except subprocess.TimeoutExpired:
            process.kill()
            screen, _ = process.communicate()
            return -1, f"it did not end within {SLOWEST_RUN} s\n{screen}"
    return process.returncode, screen


def _wait_for_rows(process: "subprocess.Popen[str]", report: Path, count: int) -> None:
    until = time.monotonic() + SLOWEST_RUN
    while process.poll() is None and time.monotonic() < until:
        if report.exists() and report.read_bytes().count(b"\n") > count:
            return
        time.sleep(0.02)


def _read(report: Path) -> list[dict[str, str]]:
    if not report.exists():
        return []
    with report.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def _ledger(folder: Path) -> tuple[list[Mapping[str, Any]], list[tuple[str, str]]]:
    """Attempts and outcomes of the last run."""
    if not (folder / "batchupload.db").exists():
        return [], []
    with closing(sqlite3.connect(f"file:{folder / 'batchupload.db'}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        last = "run = (SELECT max(id) FROM runs)"
        attempts = database.execute(f"SELECT order_id, number, verdict, message, bytes_sent FROM attempts WHERE {last}")
        outcomes = database.execute(f"SELECT order_id, outcome FROM outcomes WHERE {last}")
        return [dict(row) for row in attempts], [(row[0], row[1]) for row in outcomes]


def _certified(folder: Path) -> ssl.SSLContext:
    """TLS with a certificate of its own for 127.0.0.1."""
    openssl = shutil.which("openssl")
    if not openssl:
        raise SystemExit("openssl is needed for the rounds with TLS")
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", *files,
        ],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


def _played(plan: Round, keep: Path | None) -> tuple[Counter[str], list[tuple[int, Violation]]]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        counts, found = play(plan, Path(folder))
        if keep:
            shutil.copytree(
                folder, keep / f"round{plan.seed}", ignore=shutil.ignore_patterns("HT*", "key.pem"), dirs_exist_ok=True
            )
        return counts, found


def main() -> int:
    """Play rounds, print what they met, and each violation with the seed of its round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--round", type=int, default=ROUND, help="orders of a round at most")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="rounds at a time")
    parser.add_argument("--keep", type=Path, help="keep manifest, reports, ledger and log of each round here")
    arguments = parser.parse_args()
    began, plans = time.monotonic(), [round_of(arguments.seed, arguments.round)]
    while sum(plan.orders for plan in plans) < arguments.orders:
        plans.append(round_of(plans[-1].seed + 1, arguments.round))
    counts: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for plan, (more, found) in zip(plans, pool.map(_played, plans, [arguments.keep] * len(plans)), strict=True):
            counts.update(more)
            for number, violation in found:
                rules[violation.rule] += 1
                if rules[violation.rule] <= SHOWN:
                    print(f"round {plan.seed}, run {number}, {violation.rule}: {violation.order_id}: {violation.text}")
            print(f"{time.monotonic() - began:6.0f} s  {counts['orders']} orders, {len(found)} violations in {plan}")
            if found:
                print(f"  again: python tests/raw_runs.py --seed {plan.seed} --orders 1 --round {arguments.round}")
            sys.stdout.flush()
    for what, count in sorted(counts.items()):
        print(f"{count:8} {what}")
    print(f"{sum(rules.values())} violations: {dict(rules)} in {time.monotonic() - began:.0f} s")
    return 1 if rules else 0


if __name__ == "__main__":
    sys.exit(main())
