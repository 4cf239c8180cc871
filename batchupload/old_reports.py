"""Removes the report of a run that is to be forgotten, and what goes with it; nothing else, and through no link."""

import os
import re
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from batchupload.language import _
from batchupload.report import SEVERAL, START

PAGE = b"<!doctype html"
"""How a page begins, whatever the case of its letters."""
ON_THE_WAY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Removed:
    """One file that is gone, or would be."""

    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Left:
    """One file that stays, and why: a person must look at it."""

    path: Path
    why: str


def remove(report: Path, *, pretend: bool) -> list[Removed | Left]:
    """Remove the `report` of a run, its page, and what an earlier run of the same name left incomplete.

    What is gone already is not in the answer. The names are off the disk for good when this returns.
    """
    found: list[Removed | Left] = []
    try:
        with _folder(report.parent) as folder:
            for name in _names(report, folder):
                found += _remove(report.with_name(name), folder, pretend=pretend)
            if any(isinstance(one, Removed) for one in found) and not pretend:
                with suppress(OSError):  # not every file system can sync a folder
                    os.fsync(folder)
    except (FileNotFoundError, ValueError):  # ValueError: a path that none can be
        pass
    except OSError as error:
        found.append(Left(report, _why(error)))
    return found


def _names(report: Path, folder: int) -> Iterator[str]:
    incomplete = re.compile(rf"{re.escape(report.stem)}\.incomplete-[0-9]{{1,4}}{re.escape(report.suffix)}")
    yield report.name
    yield f"{report.stem}.html"
    yield from sorted(name for name in os.listdir(folder) if incomplete.fullmatch(name))


def _remove(path: Path, folder: int, *, pretend: bool) -> Iterator[Removed | Left]:
    try:
        seen = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(seen.st_mode):
            yield Left(path, _("a link") if stat.S_ISLNK(seen.st_mode) else _("no file"))
            return
        descriptor = os.open(path.name, FILE, dir_fd=folder)
        try:
            start = os.read(descriptor, 64)
        finally:
            os.close(descriptor)
        is_page = path.suffix == ".html" and start.removeprefix(b"\xef\xbb\xbf").lower().startswith(PAGE)
        if not (is_page or start.startswith((START, SEVERAL))):
            yield Left(path, _("no report, or one that was changed"))
            return
        if not pretend:
            os.unlink(path.name, dir_fd=folder)
        yield Removed(path, seen.st_size)
    except FileNotFoundError:
        return
    except OSError as error:
        yield Left(path, _why(error))


@contextmanager
def _folder(path: Path) -> Generator[int, None, None]:
    """A descriptor of the folder, reached without following any link. Raises `OSError`."""
    names = path.parts[1:]
    descriptor = os.open(path.anchor, ON_THE_WAY if names else FOLDER)
    try:
        for place, name in enumerate(names, 1):
            below = os.open(name, FOLDER if place == len(names) else ON_THE_WAY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def _why(error: OSError) -> str:
    if isinstance(error, NotADirectoryError):  # what O_DIRECTORY says of a link
        return _("a link is on the way to it")
    return _("it can't be removed: {why}", why=(error.strerror or str(error)).lower())
