"""The ledger's file: found, held for one run, made, checked and brought to the newest schema. Below `ledger.py`."""

import errno
import fcntl
import json
import os
import re
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import filelock

from batchupload.language import _
from batchupload.ledger_names import other_names
from batchupload.model import BatchuploadError, Verdict

APPLICATION_ID = 0x62617570
"""`baup` in the file's header says whose database it is."""
BUSY_SECONDS = 10.0
"""How long a lock of another program on the database is waited for."""
HELD_SECONDS = 0.5
"""How long a held ledger is waited for: `history` holds it for a moment, to see whether a run does."""
MIGRATIONS = (
    """
CREATE TABLE runs (
  id INTEGER PRIMARY KEY,
  started_at TEXT NOT NULL,  -- ISO 8601 with offset, as in the report
  ended_at TEXT,             -- NULL while it goes on, and where it died
  pid INTEGER NOT NULL,
  version TEXT NOT NULL,
  endpoint TEXT NOT NULL,    -- an order is known as uploaded to one endpoint
  manifests TEXT NOT NULL,   -- JSON array of paths
  report TEXT NOT NULL,
  summary TEXT               -- JSON as `run --json` shows it
);
CREATE TABLE attempts (
  order_id TEXT NOT NULL,
  run INTEGER NOT NULL REFERENCES runs,
  number INTEGER NOT NULL,
  photos BLOB NOT NULL,      -- XXH3-128 of each photo, one behind the other
  started_at REAL NOT NULL,  -- Unix time
  seconds REAL,              -- NULL, as all below, while it is under way, and where the run died then
  bytes_sent INTEGER,
  verdict TEXT,
  reason TEXT,
  http_status INTEGER,
  code TEXT,
  message TEXT,
  PRIMARY KEY (order_id, run, number)
) WITHOUT ROWID;
CREATE TABLE outcomes (
  run INTEGER NOT NULL REFERENCES runs,
  manifest INTEGER NOT NULL, -- its place in runs.manifests
  line INTEGER NOT NULL,
  order_id TEXT NOT NULL,
  outcome TEXT NOT NULL,
  reason TEXT NOT NULL,
  detail TEXT NOT NULL,
  PRIMARY KEY (run, manifest, line)
) WITHOUT ROWID;
""",
    """
CREATE TABLE released (
  order_id TEXT PRIMARY KEY,
  run INTEGER NOT NULL,      -- the nights up to this run count no more against the order
  released_at TEXT NOT NULL
) WITHOUT ROWID;
""",
)
"""Each brings the schema from the version that is its place to the next; none is ever changed."""

INACCESSIBLE = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
}
"""What SQLite says where the file may well be good, but can't be used."""


class LedgerError(BatchuploadError):
    """The ledger can't be opened or written; it is never taken for an empty one."""

    exit_code = 5


class LedgerHeldError(BatchuploadError):
    """Another run holds the ledger."""

    exit_code = 4


@contextmanager
def hold(path: Path) -> Generator[tuple[Path, sqlite3.Connection], None, None]:
    """The ledger at `path`, made where there is none, held for one run: where it really is, and its database.

    Raises `LedgerHeldError` where another run or program holds it, and `LedgerError` where it can't be used or trusted.
    """
    path = resolved(path)
    try:
        _look_at_place(path)
    except OSError as error:  # such as a folder that this user may not enter
        raise unreachable(path, error) from None
    lock = filelock.FileLock(_lock_path(path), timeout=HELD_SECONDS, poll_interval=0.02, mode=0o600)
    try:
        try:
            lock.acquire()
        except filelock.Timeout:
            lock.acquire(blocking=False)  # this machine may have slept since the last look
    except filelock.Timeout:
        raise LedgerHeldError(
            _(
                "{path}: another run holds this ledger{holder}. Let it end, then run again.",
                path=path,
                holder=_holder(path),
            )
        ) from None
    except OSError as error:
        raise LedgerError(
            _(
                "{path}: the ledger can't be held by this file ({why}). Let its folder and this "
                "file be written, or set ledger.path.",
                path=_lock_path(path),
                why=error.strerror or error,
            )
        ) from None
    try:
        _sign(path)
        yield path, _open(path)
    finally:
        lock.release()


def resolved(path: Path) -> Path:
    """Where the ledger really is: by whatever link a run comes to it, it must meet the same lock."""
    return Path(os.path.realpath(path))


def existing(path: Path) -> Path:
    """Where the ledger at `path` really is. Raises `LedgerError` where there is none."""
    path = resolved(path)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise LedgerError(
            _("{path}: there is no ledger yet; the first `batchupload run` makes it.", path=path)
        ) from None
    except OSError as error:
        raise unreachable(path, error) from None
    return path


def watched(path: Path, database: sqlite3.Connection) -> tuple[Path, ...]:
    """The files that a run needs to keep: without the one its commits are lost, without the lock it is not alone."""
    log = (_log_path(path),) if _pragma(database, "journal_mode") == "wal" else ()
    return (path, *log, _lock_path(path))


def is_held(path: Path) -> bool | None:
    """Whether a run holds the ledger at `path`; None where that can't be seen."""
    try:
        lock = os.open(_lock_path(resolved(path)), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(lock)
    return False


def connect(path: Path, *, readonly: bool) -> sqlite3.Connection:
    """The database at `path`, which must be there and be ours. Raises `LedgerError` and `LedgerHeldError`."""
    try:
        if not path.stat().st_size:
            raise distrusted(path, _("it is empty"))
        if not readonly and not os.access(path, os.W_OK):  # SQLite would open it all the same, and say so much later
            raise PermissionError(errno.EACCES, _("this user may not write it"))
        database = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={'ro' if readonly else 'rw'}",
            uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False,
        )  # fmt: skip
    except OSError as error:
        raise unreachable(path, error) from None
    except sqlite3.Error as error:
        raise failed(path, error) from None
    try:
        if _pragma(database, "application_id") != APPLICATION_ID:
            raise distrusted(path, _("it is not one of batchupload"))
        version = _pragma(database, "user_version")
        if not isinstance(version, int) or version > len(MIGRATIONS):
            raise LedgerError(
                _("{path}: this ledger is from a newer batchupload. Install that, or set ledger.path.", path=path)
            )
        if not readonly:
            _make_current(database, version)
            _check(path, database)
            # A copy made by VACUUM INTO has lost this mode, in which `history` may read while a run writes.
            database.execute("PRAGMA journal_mode = WAL")
    except sqlite3.Error as error:
        database.close()
        raise failed(path, error) from None
    except LedgerError:
        database.close()
        raise
    return database


def failed(path: Path, error: sqlite3.Error) -> LedgerError | LedgerHeldError:
    """What SQLite's `error` means for a ledger that was opened or read."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # errors of the module itself have none
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return LedgerHeldError(_("{path}: another program holds this ledger. Close it, then run again.", path=path))
    if code in INACCESSIBLE:
        return LedgerError(
            _(
                "{path}: the ledger can't be used ({error}). Check the disk and who may write this file and its "
                "folder, or set ledger.path.",
                path=path,
                error=error,
            )
        )
    return distrusted(path, str(error))


def unreachable(path: Path, error: OSError) -> LedgerError:
    """The refusal of a ledger that may well be good, but that the system does not let us at."""
    return LedgerError(
        _(
            "{path}: the ledger can't be used ({why}). Let it be read and written, or set ledger.path.",
            path=path,
            why=error.strerror,
        )
    )


def distrusted(path: Path, what: str) -> LedgerError:
    """The refusal of a ledger that is damaged, or none."""
    return LedgerError(
        _(
            "{path}: this ledger can't be trusted ({what}); nothing is sent by it. Restore it from a "
            "copy, or set it aside or another ledger.path and begin a new one: orders uploaded "
            "before will then be sent once more.",
            path=path,
            what=what,
        )
    )


def _look_at_place(path: Path) -> None:
    """Raise `LedgerError` where there can be no ledger. A folder is not made: a mistyped path, or a disk that is not
    mounted, would begin an empty ledger there, and all would be sent again."""
    if path.is_dir():
        raise LedgerError(_("{path}: this is a folder. Set ledger.path to a file.", path=path))
    if path.is_symlink():  # resolved, and still a link
        raise LedgerError(_("{path}: this link leads back to itself. Set ledger.path.", path=path))
    if not path.parent.is_dir():
        what = _("is not a folder") if path.parent.exists() else _("does not exist")
        raise LedgerError(
            _(
                "{path}: the ledger can't be there: {parent} {what}. Make it, or set ledger.path.",
                path=path,
                parent=path.parent,
                what=what,
            )
        )
    if why := other_names(path):
        raise LedgerError(why)


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _log_path(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _sign(path: Path) -> None:
    """Say in the lock file who holds it. No more than a courtesy: whether it is held, the lock itself tells.

    Without flock the lock became one by existence: then its file says already whose it is, in the way by which a dead
    run's is told, and is left as it is.
    """
    lock = _lock_path(path)
    with suppress(OSError):
        if lock.stat().st_size and not holder(path):
            return
        lock.write_text(f"process {os.getpid()}, begun {time.strftime('%Y-%m-%d %H:%M:%S')}")


def _holder(path: Path) -> str:
    """Who holds the ledger, as far as it tells."""
    found = holder(path)
    return _(": process {pid}, begun {begun}", pid=found[0], begun=found[1]) if found else ""


def holder(path: Path) -> tuple[int, str] | None:
    """Process number and time of who holds the ledger at `path`, or held it last, as far as it tells."""
    with suppress(OSError, ValueError):
        if found := re.match(r"process (\d+), begun ([\d :-]+)$", _lock_path(resolved(path)).read_text()):
            return int(found[1]), found[2]
    return None


def _open(path: Path) -> sqlite3.Connection:
    try:
        if not path.exists():
            _create(path)
    except OSError as error:
        raise LedgerError(
            _("{path}: the ledger can't be made ({why}). Set ledger.path.", path=path, why=error.strerror)
        ) from None
    except sqlite3.Error as error:
        raise LedgerError(
            _("{path}: the ledger can't be made ({error}). Check the disk, or set ledger.path.", path=path, error=error)
        ) from None
    return connect(path, readonly=False)


def _create(path: Path) -> None:
    """Make an empty ledger beside its place and move it there whole, so that a crash leaves none or a good one."""
    log = _log_path(path)
    if log.exists() and log.stat().st_size:
        raise distrusted(path, _("it is gone, but its -wal file is there"))
    made = path.with_name(f"{path.name}.new")
    made.unlink(missing_ok=True)
    os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(made, isolation_level=None)) as database:
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute("PRAGMA journal_mode = WAL")
        _make_current(database, 0)
    made.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check(path: Path, database: sqlite3.Connection) -> None:
    """Raise `LedgerError` where what is in the ledger can't be so."""
    if (fault := _pragma(database, "quick_check(1)")) != "ok":
        raise distrusted(path, str(fault))
    # A byte that changed within a cell leaves the structure whole. A verdict that is none would be met in mid-run.
    wrong = "SELECT 1 FROM attempts WHERE verdict NOT IN (SELECT value FROM json_each(?)) LIMIT 1"
    if database.execute(wrong, (json.dumps(list(Verdict)),)).fetchone():
        raise distrusted(path, _("an attempt in it has a verdict that is none"))


def _make_current(database: sqlite3.Connection, version: int) -> None:
    """Set what a connection needs, see that it can write, and bring the schema from `version` to the newest."""
    database.execute("PRAGMA synchronous = FULL")  # a commit is on the disk, not only on its way there
    database.execute("PRAGMA temp_store = MEMORY")
    database.execute("BEGIN IMMEDIATE")
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        for statement in filter(str.strip, script.split(";\n")):
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {number}")
    database.execute("COMMIT")


def _pragma(database: sqlite3.Connection, name: str) -> object:
    return database.execute(f"PRAGMA {name}").fetchone()[0]
