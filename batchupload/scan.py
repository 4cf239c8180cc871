"""What lies in photo folders → which orders are whole, and what of the others needs a person. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from batchupload.columns import EDGES, clean
from batchupload.delimited import ROW_LINES
from batchupload.reasons import Explained
from batchupload.sheet import neutral

PHOTOS = frozenset({"jpg", "jpeg", "jpe", "jfif", "png"})
"""Extensions of what the endpoint takes."""
MENDABLE = PHOTOS | {"heic", "heif"}
"""Where `photos.repair` has `heic`."""
PICTURES = PHOTOS | {"heic", "heif", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2", "dng", "mpo"}
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_SYSTEM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "#recycle"}
)
# A path that every spreadsheet and the reader of manifests takes as it is; most are such.
_PLAIN = re.compile(r"[A-Za-z0-9][\w./ -]*[A-Za-z0-9]", re.ASCII)
_LINE_BREAKS = ROW_LINES // 4 - 1
"""In one path, so that its row can be read again."""


class Doubt(Explained):
    """Why a file is not taken for a photo."""

    NO_PATTERN = "no_pattern", "fits no pattern: rename it, or name a --pattern that it fits"
    OTHER_FILE = "other_file", "no picture by its extension, and no photo is missed for it"
    NO_PICTURE = "no_picture", "no picture by its extension: bring a JPEG or PNG"
    NOT_SENDABLE = "not_sendable", "neither JPEG nor PNG by its extension: save it as one"
    EMPTY = "empty", "an empty file: bring the photo again"
    LINK_OUTSIDE = "link_outside", "a link that leaves the folder: put the photo itself there"
    LINK_BROKEN = "link_broken", "a link that leads nowhere: put the photo itself there"
    LINK_FOLDER = "link_folder", "a link to a folder, which is not followed: put the folder itself there"
    NOT_A_FILE = "not_a_file", "a pipe, socket or device: put a photo there"
    NAME_UNWRITABLE = "name_unwritable", "a name that can't stand in a manifest: rename it"
    UNREADABLE = "unreadable", "can't be read: check its permissions and the disk"


_DOUBTS = {doubt.value: doubt for doubt in Doubt}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may be a photo of an order, by its name."""

    order_id: str
    field: str
    """Empty for a folder of the order, which is yet to be looked into or can't be."""
    path: str
    """Below the folder that is scanned."""
    doubt: Doubt | None = None
    sure: bool = True
    """False where its name may also mean another order or field."""

    def packed(self) -> str:
        """In as little memory as can be: a million of these may wait to be sorted, by order."""
        return "\0".join((self.order_id, self.field, self.doubt or "", "" if self.sure else "?", self.path))

    @classmethod
    def unpacked(cls, text: str) -> "Candidate":
        """What `packed` made."""
        order_id, name, doubt, unsure, path = text.split("\0")
        return cls(order_id, name, path, _DOUBTS.get(doubt), not unsure)


class State(StrEnum):
    """What there is of an order."""

    WHOLE = "whole"
    MISSING = "missing"
    AMBIGUOUS = "ambiguous"


@dataclass(frozen=True, slots=True)
class FoundOrder:
    """One order, and the files that are its photos or may be."""

    order_id: str
    photos: Mapping[str, str]
    """Field → the one file that is this photo."""
    missing: Mapping[str, tuple[Candidate, ...]]
    """Field without a photo → what is there in its place."""
    ambiguous: Mapping[str, tuple[Candidate, ...]]
    """Field → all that may be this photo."""
    beside: tuple[str, ...]
    """What would be a photo by its name but is no picture, where there is one."""
    unreadable: tuple[str, ...]
    """Its folders that can't be looked into, where more of its photos may lie."""

    @property
    def state(self) -> State:
        """What there is of it; ambiguous goes before missing."""
        if self.ambiguous:
            return State.AMBIGUOUS
        return State.MISSING if self.missing or self.unreadable else State.WHOLE


@dataclass(frozen=True, slots=True)
class LeftOver:
    """A file or folder that is no order's."""

    path: str
    doubt: Doubt

    @property
    def may_be_a_photo(self) -> bool:
        """Whether an order may wait for it, so that a person must look; notes and lists are nobody's photo."""
        return self.doubt is not Doubt.OTHER_FILE


def settle(
    order_id: str, candidates: Iterable[Candidate], required: Sequence[str], optional: Sequence[str] = ()
) -> FoundOrder:
    """Decide for each field whether there is just one file that it can be; an `optional` one may have none."""
    found: dict[str, list[Candidate]] = {name: [] for name in ("", *required, *optional)}
    for candidate in sorted(candidates, key=lambda candidate: candidate.path):
        found[candidate.field].append(candidate)
    photos, missing, ambiguous = {}, {}, {}
    beside: list[str] = []
    for name in (*required, *optional):
        notes = [one for one in found[name] if one.doubt is Doubt.NO_PICTURE and one.sure]
        rivals = [one for one in found[name] if one not in notes]
        if len(rivals) > 1 or not all(one.sure for one in rivals):
            ambiguous[name] = tuple(rivals)
        elif rivals and rivals[0].doubt is None:
            photos[name] = rivals[0].path
        else:
            if found[name] or name in required:
                missing[name] = (*rivals, *notes)
            continue
        beside += [one.path for one in notes]
    return FoundOrder(order_id, photos, missing, ambiguous, tuple(beside), tuple(one.path for one in found[""]))


def doubt_of_name(
    path: str, extension_is_open: bool, doubt: Doubt | None, sendable: frozenset[str] = PHOTOS
) -> Doubt | None:
    """What is wrong with a file that fits a pattern: `doubt` where it is so by what it is, else by its extension."""
    extension = extension_of(path) if extension_is_open else "jpg"
    if extension not in PICTURES:
        return Doubt.NO_PICTURE
    return doubt or (None if extension in sendable else Doubt.NOT_SENDABLE)


def left_over(path: str) -> LeftOver:
    """A file that fits no pattern."""
    return LeftOver(path, Doubt.NO_PATTERN if extension_of(path) in PICTURES else Doubt.OTHER_FILE)


def extension_of(path: str) -> str:
    """What follows the last dot of the file's own name, in small letters; empty where it has none."""
    stem, _, extension = path.rpartition("/")[2].rpartition(".")
    return extension.lower() if stem else ""


def is_ignored(name: str) -> bool:
    """Whether this is a hidden file or folder, or what systems put beside photos."""
    return name.startswith((".", "~$")) or name.lower() in _SYSTEM_FILES or name.lower() in _SYSTEM_FOLDERS


def path_cell(path: str) -> str | None:
    """The cell of a manifest that names `path`, and is read as just that; None where no cell is.

    No `'` makes a path harmless for spreadsheets, since it would be part of the name; `./` does and is not.
    """
    if _PLAIN.fullmatch(path):
        return path
    cell = f"./{path}" if neutral(path) != path or path.strip(EDGES) != path else path
    try:
        cell.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8
        return None
    breaks = cell.count("\n") + cell.count("\r")
    readable = cell.strip(EDGES) == cell and "\\" not in cell and breaks <= _LINE_BREAKS
    return cell if readable else None


def order_cell(order_id: str) -> str | None:
    """The cell of a manifest that is read as this order number; None where no cell is."""
    cell = neutral(order_id)
    return cell if order_id.isprintable() and clean(cell) == order_id else None
