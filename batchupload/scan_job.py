"""One scan from its photo folder to its manifest: puts the stages together."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from batchupload.columns import KNOWN_NAMES
from batchupload.expressions import expression
from batchupload.findings import FileState, Scanned, Tally
from batchupload.folder import File, FolderLink, Ignored, Seen, Subfolder, Unreadable, look, walk
from batchupload.foreign import visible
from batchupload.language import _
from batchupload.model import BatchuploadError
from batchupload.new_manifest import NewManifest
from batchupload.patterns import ORDER_ID, Reader, field_names, parse_pattern
from batchupload.scan import (
    MENDABLE,
    PHOTOS,
    Candidate,
    Doubt,
    FoundOrder,
    LeftOver,
    State,
    doubt_of_name,
    left_over,
    order_cell,
    path_cell,
    settle,
)
from batchupload.settings import Settings

EXAMPLE_ORDER = "HT2023111015044046891"
UTF_8 = frozenset({"auto", "utf-8", "utf8", "utf-8-sig"})
"""Settings of the encoding with which the manifest is read as it was written."""
MOST_LISTED = 20
"""Findings of each kind on a screen; more would push the counts out of sight."""


@dataclass(frozen=True, slots=True)
class ScanWish:
    """What one scan is asked to do, beside the settings."""

    folder: Path
    manifest: Path | None = None
    """None for a file beside the folder, with its name."""
    incomplete: bool = False
    """Whether orders that are not whole get a row too, with empty cells."""
    most: int | None = MOST_LISTED
    """Findings of each kind to list; None for all."""
    again: tuple[str, ...] = ()
    """Options to repeat in the command that goes on from here."""


def scan(wish: ScanWish, settings: Settings) -> Scanned:
    """Do the scan. Raises `BatchuploadError` where it can't be done or no file fits; then nothing is written."""
    _require_folder(wish.folder)
    manifest = wish.manifest or _beside(wish.folder)
    prefix = _prefix(wish.folder, manifest, settings.photos.root)
    reader = _reader(settings)
    tally = Tally(wish.most)
    with NewManifest(manifest, settings.manifest) as new:
        search = _Search(os.path.realpath(wish.folder), prefix, reader, tally, os.path.realpath(new.part), settings)
        for order in search.orders():
            written = order.state is State.WHOLE or wish.incomplete
            tally.add_order(order, written=written)
            if written:
                paths = (order.photos.get(name) for name in settings.manifest.photo_fields)
                new.write(order.order_id, [path_cell(prefix + path) or "" if path else "" for path in paths])
        if not search.fitting:
            raise BatchuploadError(_nothing(wish.folder, settings, reader, tally))
        if new.rows:
            new.finish()
    encoding = () if settings.manifest.encoding.lower() in UTF_8 else ("--encoding", "utf-8")
    again = ("batchupload", "check", str(manifest), *wish.again, *encoding)
    return Scanned(wish.folder, tally, manifest if new.rows else None, new.rows, again if new.rows else ())


class _Search:
    """The orders of a folder, by number."""

    def __init__(self, root: str, prefix: str, reader: Reader, tally: Tally, skip: str, settings: Settings) -> None:
        self.fitting = False
        """Whether any file fits a pattern."""
        self._required, self._optional = settings.manifest.required, settings.manifest.optional
        self._sendable = MENDABLE if "heic" in settings.photos.repair else PHOTOS
        self._root, self._prefix, self._reader, self._tally, self._skip = root, prefix, reader, tally, skip

    def orders(self) -> Iterator[FoundOrder]:
        """Each order with all of its files.

        Of the top, or where the patterns don't begin with the order of all files, one line for each file is kept to be
        sorted; what lies in an order's own folder is looked at when its turn comes.
        """
        lines: list[str] = []
        for seen in self._walk("", deep=not self._reader.streams):
            lines += [candidate.packed() for candidate in self._candidates(seen)]
        lines.sort()
        for order_id, several in groupby(map(Candidate.unpacked, lines), key=lambda candidate: candidate.order_id):
            candidates: list[Candidate] = []
            for candidate in several:
                candidates += [candidate] if candidate.field else self._look_into(candidate)
            yield settle(order_id, candidates, self._required, self._optional)

    def _walk(self, start: str, *, deep: bool) -> Iterator[Seen]:
        return walk(self._root, start, deep=deep, skip=self._skip)

    def _look_into(self, folder: Candidate) -> Iterator[Candidate]:
        for seen in self._walk(folder.path, deep=True):
            yield from self._candidates(seen)
            if isinstance(seen, Unreadable):
                yield Candidate(folder.order_id, "", seen.path, Doubt.UNREADABLE)

    def _candidates(self, seen: Seen) -> Iterator[Candidate]:
        """What may be a photo of an order; all else is counted."""
        tally = self._tally
        match seen:
            case File():
                yield from self._readings(seen)
            case Subfolder(path):
                if order_id := self._reader.order_of_folder(path):
                    yield Candidate(order_id, "", path)
                else:
                    for below in self._walk(path, deep=True):
                        yield from self._candidates(below)
            case FolderLink(path):
                tally.add_left_over(LeftOver(path, Doubt.LINK_FOLDER))
            case Ignored():
                tally.files[FileState.IGNORED] += 1
            case Unreadable(path, why):
                tally.add_unreadable(path, why)

    def _readings(self, file: File) -> Iterator[Candidate]:
        readings = self._reader.read(file.path)
        if not readings:
            self._tally.add_left_over(left_over(file.path))
            return
        self.fitting = True
        doubt = look(file.entry, self._root)
        if doubt is None and path_cell(self._prefix + file.path) is None:
            doubt = Doubt.NAME_UNWRITABLE
        sure = len(readings) == 1
        self._tally.files[FileState.AMBIGUOUS] += not sure
        for reading in readings:
            trouble = doubt_of_name(file.path, reading.any_extension, doubt, self._sendable)
            yield Candidate(reading.order_id, reading.field, file.path, trouble, sure)


def _reader(settings: Settings) -> Reader:
    order_id = expression(settings.manifest.order_id_pattern)
    fields: tuple[str, ...] = settings.manifest.photo_fields
    own = {name: getattr(settings.manifest.columns, name) for name in fields}
    names = field_names(own, {name: KNOWN_NAMES[name] for name in fields})

    @lru_cache(1 << 10)  # the files of one order mostly come one after another
    def is_order(text: str) -> bool:
        return bool(text and order_id.fits(text)) and order_cell(text) is not None

    return Reader(tuple(map(parse_pattern, settings.scan.patterns)), names, is_order, tuple(set(map(len, names))))


def _require_folder(folder: Path) -> None:
    try:
        with os.scandir(folder):
            return
    except FileNotFoundError:
        what = _("no such folder")
    except NotADirectoryError:
        what = _("this is not a folder")
    except OSError as error:
        what = _("can't be read ({why})", why=error.strerror)
    raise BatchuploadError(_("{folder}: {what}. Name the folder of the photos.", folder=folder, what=what))


def _beside(folder: Path) -> Path:
    """`photos.csv` for `photos`, in the same folder."""
    if name := Path(os.path.abspath(folder)).name:
        return (folder / ".." if folder.name in {"", ".."} else folder.parent) / f"{name}.csv"
    raise BatchuploadError(_("{folder}: this folder has no name. Name the manifest with -o.", folder=folder))


def _prefix(folder: Path, manifest: Path, root: Path | None) -> str:
    """What stands in the manifest before a path below `folder`; `run` takes no photo from outside its photo folder."""
    base = root or manifest.parent
    if not base.is_dir():
        raise BatchuploadError(
            _("{base}: no such folder. Correct photos.root.", base=base)
            if root
            else _("{base}: no such folder. Name another place with -o.", base=base)
        )
    below = os.path.relpath(os.path.realpath(folder), os.path.realpath(base))
    if below == ".":
        return ""
    if below == ".." or below.startswith("../"):
        place = {"folder": visible(str(folder)), "base": visible(str(base.absolute()))}
        if root:
            raise BatchuploadError(
                _(
                    "{folder} does not lie below {base}, the photo folder (--photos-root, photos.root), where `run` "
                    "looks for photos. Give --photos-root {folder}.",
                    **place,
                )
            )
        raise BatchuploadError(
            _(
                "{folder} does not lie below {base}, the folder of the manifest, where `run` looks for photos. "
                "Give --photos-root {folder}, or beside that folder a manifest with -o.",
                **place,
            )
        )
    if path_cell(below) is None:
        raise BatchuploadError(
            _(
                "{below!a}: this folder's name can't stand in a manifest. Rename it, or give it with --photos-root.",
                below=below,
            )
        )
    return f"{below}/"


def _nothing(folder: Path, settings: Settings, reader: Reader, tally: Tally) -> str:
    count = sum(tally.files.values())
    seen = (
        _("{count:,} files were seen, such as {seen}", count=count, seen=visible(tally.seen))
        if tally.seen
        else _("No file was seen")
    )
    if tally.unreadable_count:
        path, why = tally.unreadable[0]
        seen += _(
            "; {count:,} folders can't be looked into, such as {path} ({why})",
            count=tally.unreadable_count,
            path=visible(path),
            why=why,
        )
    order_id = EXAMPLE_ORDER if reader.is_order(EXAMPLE_ORDER) else ORDER_ID
    example = reader.patterns[0].example(order_id, settings.manifest.required[0])
    lines = [
        _("{folder}: no photo of an order was found. {seen}.", folder=visible(str(folder)), seen=seen),
        _(
            "Looked for {patterns}, such as {example}.",
            patterns=_(" and ").join(settings.scan.patterns),
            example=example,
        ),
        _(
            "{{order_id}} matches {pattern} (manifest.order_id_pattern), {{field}} is one of",
            pattern=settings.manifest.order_id_pattern,
        ),
        *(f"  {name}: {', '.join(reader.names_of(name))}" for name in settings.manifest.photo_fields),
        _("or of manifest.columns. Say with --pattern how the files are named."),
    ]
    return "\n".join(lines)
