"""Where photos were found in this run: by it a photo that is missing is told from a disk that lost its photos."""

import os
import random
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock

REMEMBERED = 3
"""Photos of each folder that are looked for again; if all of these are gone too, it is not the one photo."""
SAMPLED = 20
"""Photos from all over the run that are looked for again: nobody but a disk that is emptied takes one of them away."""
IN_A_ROW = 10
"""Orders in succession whose photos are missing from one folder, with none found between: no matter of single rows."""
MOST_FOLDERS = 1000
"""Folders of which something is remembered."""


class PhotoPlaces:
    """The places of photos below one root. Used by several threads at a time."""

    def __init__(self, root: Path, known: Iterable[str] = ()) -> None:
        self._root = root
        self._found: dict[str, deque[str]] = {}
        self._missing: dict[str, set[str]] = {}
        """Folder → the photos that were missing from it since one was found there last."""
        self._sample: list[str] = []
        self._count = 0
        self._chance = random.Random(0)
        self._lock = Lock()
        for path in known:
            self.found([path])

    def found(self, paths: Sequence[str]) -> None:
        """Remember that these photos of one order were there."""
        with self._lock:
            seen: set[str] = set()
            for path in paths:
                for folder in _folders(path):
                    self._missing.pop(folder, None)
                    if folder not in seen and (folder in self._found or len(self._found) < MOST_FOLDERS):
                        self._found.setdefault(folder, deque(maxlen=REMEMBERED)).append(path)
                    seen.add(folder)
            self._draw(paths)

    def _draw(self, paths: Sequence[str]) -> None:
        """Keep each photo that was found in the sample as likely as any other."""
        for path in paths[:1]:
            self._count += 1
            if len(self._sample) < SAMPLED:
                self._sample.append(path)
            elif (place := self._chance.randrange(self._count)) < SAMPLED:
                self._sample[place] = path

    def is_gone(self, path: str, order: Sequence[str], *, again: bool = False) -> bool:
        """Whether it is the disk's fault that the photo at `path`, one of the paths of `order`, can't be read.

        So it is if the root is gone, if photos that were found before are gone too, or if no photo was found in a
        folder for many orders in succession, after others had been found. The photos in front of it were there.
        One that is looked for `again` is none of these orders.
        """
        if before := order[: order.index(path)]:
            self.found(before)
        with self._lock:
            near = next((list(self._found[folder]) for folder in _folders(path) if folder in self._found), [])
            sample = list(self._sample)
        if not near:
            return not _is_folder(self._root)
        if not any(map(self._is_there, near)) or not all(map(self._is_there, sample)):
            return True
        alone = not before and not any(self._is_there(other) for other in order if other != path)
        # What else the order has there says nothing of a folder that is not there at all.
        lacking = [folder for folder in _folders(path) if alone or not _is_folder(self._root / folder)]
        with self._lock:
            if not again:
                for folder in lacking:
                    self._note_missing(folder, path)
            return any(len(self._missing.get(folder, ())) >= IN_A_ROW for folder in lacking)

    def _note_missing(self, folder: str, path: str) -> None:
        missing = self._missing.pop(folder, set())
        if len(missing) < IN_A_ROW:
            missing.add(path)
        self._missing[folder] = missing
        if len(self._missing) > MOST_FOLDERS:
            del self._missing[next(iter(self._missing))]  # the one that nothing was missing from for longest

    def _is_there(self, path: str) -> bool:
        with suppress(ValueError):  # a path that can't be one
            return os.access(self._root / path.replace("\\", "/"), os.R_OK)
        return False


def _is_folder(path: Path) -> bool:
    with suppress(OSError):  # what can't be asked is as good as gone
        return path.is_dir()
    return False


def _folders(path: str) -> Iterable[str]:
    """The folders that a path leads through, the innermost first; the last is the root itself."""
    folder = os.path.normpath(path.replace("\\", "/"))
    while folder not in {"", "/"}:
        folder = folder.rpartition("/")[0] or ("/" if len(folder) > 1 and folder[0] == "/" else "")
        yield folder
