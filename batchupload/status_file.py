"""What a run under way tells other processes: a small file beside its ledger, there as long as the run."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from batchupload.kept_file import KeptFile
from batchupload.snapshot import RunFacts, Snapshot, read_snapshot

EVERY_SECONDS = 1.0
MOST_BYTES = 1 << 20
"""No status file of ours is larger."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a run said of itself."""

    facts: RunFacts
    now: Snapshot


def status_path(ledger: Path) -> Path:
    """Where the run that holds this ledger tells of itself."""
    return ledger.with_name(f"{ledger.name}-status")


async def keep_status(path: Path, facts: RunFacts, look: Callable[[], Snapshot]) -> None:
    """Keep the file at `path` up to date until cancelled, and then remove it; where it can't be written it is not."""
    file = KeptFile(path, 0o600)
    try:
        while True:
            await file.write(lambda: _bytes(facts, look()))
            await asyncio.sleep(EVERY_SECONDS)
    finally:
        await file.remove()


def read_status(path: Path) -> Told | None:
    """What the run told, or its last words if it was killed; None where there are none."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        with path.open("rb") as file:
            found = json.loads(file.read(MOST_BYTES))
        facts = {**found["run"], "manifests": tuple(found["run"]["manifests"])}
        return Told(RunFacts(**facts), read_snapshot(found["now"]))
    return None


def _bytes(facts: RunFacts, now: Snapshot) -> bytes:
    return json.dumps({"run": asdict(facts), "now": now.facts()}).encode()
