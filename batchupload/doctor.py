"""Settings and this machine → what is well, and what to mend before the next run, each with its remedy."""

import asyncio
import os
import resource
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from batchupload.checkup import Checkup, mend, ok, warning
from batchupload.inputs import files_of
from batchupload.language import _, several
from batchupload.ledger_file import connect, failed, is_held, resolved
from batchupload.model import BatchuploadError
from batchupload.notify import NotifyError, channels
from batchupload.reach import reach
from batchupload.settings import NotifySettings, Settings
from batchupload.source import ManifestError
from batchupload.summary import size

SCARCE, LITTLE = 50 << 20, 500 << 20
"""Bytes free: below the first a night may not fit; below the second a million orders don't (200 bytes each in the
ledger, and as much in the report)."""
FEW_NAMES = 100
OPEN_BESIDE = 64
"""Files open beside the connections: photos being read, ledger, report, libraries."""


async def examine(settings: Settings, config: Path | None, *, sends: bool) -> Sequence[Checkup]:
    """Look at everything; `sends` is False where the endpoint's address can't be used as it is.

    No wait is longer than `timeouts.connect`.
    """
    patience = settings.timeouts.connect
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    looks: list[tuple[str, Callable[[], Checkup]]] = [
        ("config", partial(_config, config)),
        ("ledger", partial(_ledger, settings.ledger.path)),
        *(("reports", partial(_folder, "reports", folder, "report.folder")) for folder in _report_folders(settings)),
        ("photos", partial(_photos, settings.photos.root)),
        *(("manifest", partial(_manifests, path)) for path in settings.manifest.paths),
        ("files", partial(open_files, settings.pace.bounds[1], limit)),
        *([("notify", partial(_notify, settings.notify))] if settings.notify.urls else []),
    ]
    way = asyncio.create_task(reach(settings.endpoint.url, patience)) if sends else None
    here = await asyncio.gather(*(_bounded(name, look, patience) for name, look in looks))
    return [*here, *(await way if way else ())]


def open_files(highest: int, limit: int) -> Checkup:
    """Whether `highest` sends at once fit into the open files that this process may have."""
    found = _(
        "{files} may be open, for up to {highest} sends at once",
        files=_("any number") if limit == resource.RLIM_INFINITY else limit,
        highest=highest,
    )
    remedy = _("raise `ulimit -n` (LimitNOFILE= of the service), or lower pace.highest")
    if limit == resource.RLIM_INFINITY or limit >= 2 * highest + OPEN_BESIDE:  # a send may try two addresses
        return ok("files", found)
    if limit >= highest + OPEN_BESIDE:
        return warning("files", found, remedy)
    return mend("files", found, remedy)


async def _bounded(name: str, look: Callable[[], Checkup], patience: float) -> Checkup:
    try:
        async with asyncio.timeout(patience):
            return await asyncio.to_thread(look)
    except TimeoutError:
        return mend(name, _("the disk does not answer in {patience:g} s", patience=patience), _("look at its mount"))


def _config(path: Path | None) -> Checkup:
    if path is None:
        return ok("config", _("no file; defaults, and the environment"))
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return mend("config", f"{path}: {_why(error)}", _("let it be read"))
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        remedy = _("it says where ID photos go: chmod go-w {path}", path=path)
        return warning("config", _("{path}: others may change it", path=path), remedy)
    return ok("config", _("{path}: read", path=path))


def _ledger(path: Path) -> Checkup:
    path = resolved(path)
    folder = _folder("ledger", path.parent, "ledger.path")
    if folder.level == "mend":
        return folder
    if path.exists() and not os.access(path, os.W_OK):
        return mend("ledger", _("{path}: this user may not write it", path=path), _("see whose it is: chown"))
    if not path.exists():
        return Checkup(
            "ledger",
            folder.level,
            _("{path}: none yet, the first run makes it; {free}", path=path, free=_free(path)),
            folder.remedy,
        )
    try:
        with closing(connect(path, readonly=True)) as database:
            (runs,) = database.execute("SELECT count(*) FROM runs").fetchone()
    except BatchuploadError as error:
        return mend("ledger", str(error), "")
    except sqlite3.Error as error:  # found out only when it is read
        return mend("ledger", str(failed(path, error)), "")
    held = _(", and one holds it now") if is_held(path) else ""
    found = _(
        "{path}: {runs}{held}; {free}",
        path=path,
        runs=several(runs, "{n} run", "{n} runs"),
        held=held,
        free=_free(path),
    )
    return Checkup("ledger", folder.level, found, folder.remedy)


def _folder(name: str, path: Path, setting: str) -> Checkup:
    """Whether a file can be made there, and grow."""
    try:
        if not path.is_dir():
            return mend(
                name,
                _("{path}: no folder", path=path) if path.exists() else _("{path}: not there", path=path),
                _("make it, or set {setting}", setting=setting),
            )
        with tempfile.TemporaryFile(dir=path) as probe:  # it has no name, where the file system can do that
            probe.write(bytes(4096))
            probe.flush()
        room = shutil.disk_usage(path).free
        names = os.statvfs(path)
    except OSError as error:
        return mend(
            name,
            _("{path}: no file can be made there: {why}", path=path, why=_why(error)),
            _("let this user write it, or set {setting}", setting=setting),
        )
    found = _("{path}: {size} free", path=path, size=size(room))
    if room < SCARCE or (names.f_files and names.f_favail < FEW_NAMES):
        return mend(name, found, _("make room: `batchupload purge`, or another {setting}", setting=setting))
    if room < LITTLE:
        return warning(name, found, _("make room: `batchupload purge`, or another {setting}", setting=setting))
    return ok(name, found)


def _report_folders(settings: Settings) -> Sequence[Path]:
    """Where a run without further words puts its report."""
    if settings.report.folder:
        return [settings.report.folder]
    return [path.parent for path in settings.manifest.paths[:1]]


def _photos(root: Path | None) -> Checkup:
    if root is None:
        return ok("photos", _("beside each manifest"))
    try:
        with os.scandir(root) as entries:
            empty = next(entries, None) is None
    except OSError as error:
        return mend("photos", f"{root}: {_why(error)}", _("mount it, let this user read it, or correct photos.root"))
    if empty:
        return warning("photos", _("{root}: empty", root=root), _("is it mounted?"))
    return ok("photos", _("{root}: there", root=root))


def _manifests(named: Path) -> Checkup:
    try:
        paths = [path for path, _ in files_of([named])]
    except ManifestError as error:
        return warning("manifest", str(error), _("without one a run is exit 2: see what is to write it"))
    found = [_manifest(path) for path in paths]
    bad = [one for one in found if one.remedy]
    return (
        bad[0]
        if bad
        else found[0]
        if len(found) == 1
        else ok("manifest", _("{named}: {count} files", named=named, count=len(found)))
    )


def _manifest(path: Path) -> Checkup:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return warning("manifest", f"{path}: {_why(error)}", _("without it a run is exit 2: see what is to write it"))
    return ok("manifest", _("{path}: there", path=path))


def _notify(settings: NotifySettings) -> Checkup:
    try:
        told = channels(settings, os.environ)
    except NotifyError as error:
        return mend("notify", str(error), "")
    if not told:
        return ok("notify", "nobody is told: notify.when is never")
    names = ", ".join(channel.name for channel in told)
    return ok("notify", f"{names}; `batchupload notify` sends a test message")


def _free(path: Path) -> str:
    return _("{size} free", size=size(shutil.disk_usage(path.parent).free))


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
