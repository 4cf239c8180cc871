"""A folder on the disk → what lies in it, streamed, and no link followed to another."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from batchupload.scan import Doubt, is_ignored


@dataclass(frozen=True, slots=True)
class File:
    """A file, or a link that is no folder's."""

    path: str
    """Below the folder that is scanned."""
    entry: "os.DirEntry[str]"


@dataclass(frozen=True, slots=True)
class Subfolder:
    """A folder, which is not looked into."""

    path: str


@dataclass(frozen=True, slots=True)
class FolderLink:
    """A link to a folder, which is never followed."""

    path: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """A hidden or system file, or what lies in such a folder."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A folder that can't be looked into, or no further."""

    path: str
    why: str


Seen = File | Subfolder | FolderLink | Ignored | Unreadable


def walk(root: str, start: str, *, deep: bool, skip: str = "") -> Iterator[Seen]:
    """All that lies in `start` below `root`, in the order of the disk, but for the file `skip` (a whole path).

    Not `deep`, its folders are only named, but for those that are ignored, whose files are counted. Folders wait on a
    list and not in a recursion, so that neither stack nor open files bound how deep they lie.
    """
    waiting = [(start, False)]
    while waiting:
        folder, ignored = waiting.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    hidden = ignored or is_ignored(entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        if deep or hidden:
                            waiting.append((path, hidden))
                        else:
                            yield Subfolder(path)
                    elif hidden and entry.path != skip:
                        yield Ignored()
                    elif entry.is_symlink() and _leads_to_folder(entry):
                        yield FolderLink(path)
                    elif entry.path != skip:
                        yield File(path, entry)
        except OSError as error:
            if not ignored:  # as `lost+found`, which nobody but root may enter
                yield Unreadable(folder, error.strerror or str(error))


def look(entry: "os.DirEntry[str]", root: str) -> Doubt | None:
    """What is wrong with a file, whatever its name says; `root`, a real path, is what no link may leave."""
    try:
        if entry.is_symlink():
            target = os.path.realpath(entry.path, strict=True)
            if os.path.commonpath([root, target]) != root:
                return Doubt.LINK_OUTSIDE
        status = entry.stat()
    except OSError:
        return Doubt.LINK_BROKEN if _is_link(entry) else Doubt.UNREADABLE
    if not stat.S_ISREG(status.st_mode):
        return Doubt.NOT_A_FILE
    return None if status.st_size else Doubt.EMPTY


def _leads_to_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round
        return False


def _is_link(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_symlink()
    except OSError:
        return False
