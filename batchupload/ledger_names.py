"""The ledger's file → whether it has more names than one. Below `ledger_file.py`.

Lock and log are found by the name. A run by another name would neither wait for this one nor see what it has written.
"""

import os
import re
import shlex
from contextlib import suppress
from pathlib import Path

from batchupload.language import _


def other_names(path: Path) -> str:
    """Say why a run may not use the ledger at `path`, and the remedy; nothing if it may, or if there is no file yet.

    A hard link that is made in mid-run is met by the run that comes by it. Raises `OSError`.
    """
    with suppress(FileNotFoundError):
        if (names := path.stat().st_nlink) > 1:
            return _(
                "{path}: this ledger has {names} names (hard links), by which two runs would not see each other. "
                "Remove the others (find / -samefile {quoted}), or make this a file of its own: "
                "cp -p {quoted} {copy} && mv {copy} {quoted}",
                path=path,
                names=names,
                quoted=shlex.quote(str(path)),
                copy=shlex.quote(f"{path}.copy"),
            )
    if _is_mounted_alone(path):
        return _(
            "{path}: only this file is mounted here, and not its log and lock, which lie beside it. Mount its folder "
            "instead.",
            path=path,
        )
    return ""


def _is_mounted_alone(path: Path) -> bool:
    """Tell whether the file itself is a mount point, as containers make it of a single file. Only Linux tells."""
    with suppress(OSError):
        mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
        name = re.sub(rb"[\\\s]", lambda found: b"\\%03o" % found[0][0], os.fsencode(path))
        return any(fields[4] == name for line in mounts if len(fields := line.split(b" ")) > 4)
    return False
