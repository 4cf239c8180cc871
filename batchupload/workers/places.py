"""Where the photos of a run lie: so that a worker that can't read them is found out before the first send."""

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from batchupload.model import Row, is_address
from batchupload.workers.words import Place

ROWS = 1000
"""How many are looked at."""


def places(rows: Iterable[Row], root: Path | None) -> tuple[Place, ...]:
    """The folders that the first rows' photos are in, with a photo of each where one is there; none for addresses."""
    found: dict[Path, str] = {}
    for row in islice(rows, ROWS):
        folder = (root or row.manifest.parent).absolute()
        if row.problem or found.get(folder):
            continue
        paths = [path for path in row.photos.values() if path and not is_address(path)]
        if paths:
            found[folder] = next((path for path in paths if os.access(folder / path, os.R_OK)), "")
    return tuple(Place(folder, photo) for folder, photo in found.items())
