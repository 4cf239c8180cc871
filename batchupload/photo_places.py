"""Where photos were found in this run: by it a photo that is missing is told from a folder that is gone."""

import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path

REMEMBERED = 3
"""Photos that are looked for again; if all of these are gone too, it is not the one photo that is missing."""
MOST_FOLDERS = 1000
"""Folders of which some photos are remembered."""


class PhotoPlaces:
    """The places of photos below one root. Used by several threads at a time."""

    def __init__(self, root: Path, known: Iterable[str] = ()) -> None:
        self._root = root
        self._found: dict[str, deque[str]] = {}
        for path in known:
            self.found(path)

    def found(self, path: str) -> None:
        """Remember that this photo was there."""
        for folder in _folders(path):
            if folder in self._found or len(self._found) < MOST_FOLDERS:
                self._found.setdefault(folder, deque(maxlen=REMEMBERED)).append(path)

    def is_gone(self, path: str) -> bool:
        """Whether the folder of a photo that can't be read is gone: the root, or what was found near the photo."""
        near = next((list(self._found[folder]) for folder in _folders(path) if folder in self._found), [])
        if near:
            return not any(os.access(self._root / other.replace("\\", "/"), os.R_OK) for other in near)
        return not self._root.is_dir()


def _folders(path: str) -> Iterable[str]:
    """The folders that a path leads through, the innermost first; the last is the root itself."""
    folder = os.path.normpath(path.replace("\\", "/"))
    while folder not in {"", "/"}:
        folder = folder.rpartition("/")[0] or ("/" if len(folder) > 1 and folder[0] == "/" else "")
        yield folder
