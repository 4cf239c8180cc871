"""A path → the bytes of the file, opened below the photo folder so that no link leads out of it."""

import errno
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from batchupload.language import _
from batchupload.photo_errors import PhotoError, too_large, unreadable
from batchupload.reasons import Reason

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Without O_NONBLOCK the opening of a pipe would wait for a writer."""


class Folders:
    """Opens files below `root`, so that no link swapped in meanwhile can lead out of it. A context manager.

    Photos of one order often lie in one folder, which stays open until the next is needed.
    """

    def __init__(self, root: Path, allow_outside_root: bool) -> None:
        self._root = root
        self._allow_outside_root = allow_outside_root
        self._folder = ""
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def open(self, path: str) -> int:
        """A descriptor of the file. Raises `OSError`, and `PhotoError` where the path leads out."""
        if "\0" in path:
            raise FileNotFoundError(errno.ENOENT, _("NUL in path"))
        path = path.replace("\\", "/")  # manifests from Windows
        if self._allow_outside_root:
            whole = self._root / path
            _refuse_special(whole.stat())
            return os.open(whole, FILE)
        inside = os.path.normpath(path)
        if not inside.startswith(("..", "/")):
            try:
                return self._open_below(inside)
            except OSError as error:
                if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
                    raise
        # There is a link, or the path needs the root's own; where they lead to must lie inside.
        root = os.path.realpath(self._root)
        inside = os.path.relpath(os.path.realpath(os.path.join(root, path)), root)
        if inside == ".." or inside.startswith("../"):
            raise PhotoError(Reason.PHOTO_OUTSIDE_ROOT, "")
        return self._open_below(inside)

    def _open_below(self, path: str) -> int:
        """Raises `OSError` also where there is a link in `path`, which leads downwards."""
        folder, _, name = path.rpartition("/")
        if self._descriptor < 0 or folder != self._folder:
            self._enter(folder)
        _refuse_special(os.stat(name, dir_fd=self._descriptor, follow_symlinks=False))
        return os.open(name, FILE | os.O_NOFOLLOW, dir_fd=self._descriptor)

    def _enter(self, folder: str) -> None:
        self._leave()
        self._descriptor = os.open(self._root, FOLDER)
        for name in folder.split("/") if folder else ():
            below = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=self._descriptor)
            os.close(self._descriptor)
            self._descriptor = below
        self._folder = folder

    def _leave(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _refuse_special(status: os.stat_result) -> None:
    """Opening a device can already do something; so look before."""
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
        raise PhotoError(Reason.PHOTO_NOT_A_FILE, "")


def read_photo(path: str, folders: Folders, most: int) -> bytes:
    """One photo of no more than `most` bytes, read once from a descriptor that was checked. Raises `PhotoError`."""
    try:
        descriptor = folders.open(path)
    except (FileNotFoundError, NotADirectoryError, UnicodeError):  # the last for half a character
        raise PhotoError(Reason.PHOTO_MISSING, "") from None
    except OSError as error:
        raise unreadable(error) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PhotoError(Reason.PHOTO_NOT_A_FILE, "")
        if status.st_size > most:
            raise too_large(status.st_size, most)
        content = os.read(descriptor, status.st_size + 1)
        # Not what was announced: a network disk reads in parts, or the file changes at this moment.
        while len(content) not in {status.st_size, most + 1} and (more := os.read(descriptor, 1 << 16)):
            content = (content + more)[: most + 1]
    except OSError as error:
        raise unreadable(error) from None
    finally:
        os.close(descriptor)
    if len(content) > most:
        raise too_large(len(content), most)
    if not content:
        raise PhotoError(Reason.PHOTO_EMPTY, "")
    return content
