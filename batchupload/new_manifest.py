"""Rows → a new manifest file, which gets its name only when it was read back as it was meant."""

import csv
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from xxhash import xxh3_128

from batchupload.language import _
from batchupload.manifest import open_manifest, read_rows
from batchupload.model import BatchuploadError
from batchupload.scan import order_cell
from batchupload.shop_settings import ManifestSettings
from batchupload.source import ManifestError


class NewManifest:
    """A manifest while it is written, a context manager; until `finish` it has another name, and is gone on an error.

    A manifest that ends too early looks like a whole one, so there never is such.
    """

    def __init__(self, path: Path, settings: ManifestSettings) -> None:
        self.path = path
        self.rows = 0
        self._settings = settings.model_copy(update={"encoding": "utf-8"})
        self._digest = xxh3_128()

    def __enter__(self) -> Self:
        """Begin the file. Raises `BatchuploadError`."""
        if os.path.lexists(self.path):
            raise self._existing()
        if not str(self.path).isprintable():  # bytes that are no UTF-8 could not stand in a report
            raise BatchuploadError(
                _("{path!a}: this file name can't be written in a report. Name another with -o.", path=str(self.path))
            )
        try:
            descriptor, name = tempfile.mkstemp(".part", ".batchupload-scan-", self.path.parent)
        except OSError as error:
            raise self._unwritable(error) from None
        self.part = Path(name)
        """Where it is while it is written; for its owner only."""
        self._file = open(descriptor, "w", encoding="utf-8-sig", newline="")
        delimiter = "," if self._settings.delimiter == "auto" else self._settings.delimiter
        self._writer = csv.writer(self._file, delimiter=delimiter)
        self._writer.writerow(["order_id", *self._settings.photo_fields])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self.part.unlink()

    def write(self, order_id: str, paths: Sequence[str]) -> None:
        """Add the row of an order; an empty path for a photo that there is not. Raises `BatchuploadError`."""
        try:
            self._writer.writerow([order_cell(order_id), *paths])
        except OSError as error:
            raise self._unwritable(error) from None
        self._digest.update(_known_by(order_id, paths))
        self.rows += 1

    def finish(self) -> None:
        """Have it on the disk, read it back, and give it its name. Raises `BatchuploadError`."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._read_back()
            # The name is taken first: a rename alone would replace what somebody has put there meanwhile.
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            self.part.replace(self.path)
        except FileExistsError:
            raise self._existing() from None
        except OSError as error:
            raise self._unwritable(error) from None

    def _read_back(self) -> None:
        digest = xxh3_128()
        try:
            for row in read_rows(open_manifest(self.part, self._settings), self._settings):
                paths = [row.photos.get(name, "") for name in self._settings.photo_fields]
                if row.problem is None or not all(paths):
                    digest.update(_known_by(row.order_id, paths))
            same = digest.digest() == self._digest.digest()
        except ManifestError:
            same = False
        if not same:
            raise BatchuploadError(
                _(
                    "{path}: with this config the manifest would be read otherwise than it was written. "
                    "Correct manifest.columns: do they name one of order_id, face, back and hand for another "
                    "column?",
                    path=self.path,
                )
            )

    def _existing(self) -> BatchuploadError:
        return BatchuploadError(
            _("{path}: this file exists; it was left as it is. Name another with -o.", path=self.path)
        )

    def _unwritable(self, error: OSError) -> BatchuploadError:
        return BatchuploadError(
            _("{path}: can't be written ({why}). Name another place with -o.", path=self.path, why=error.strerror)
        )


def _known_by(order_id: str, paths: Sequence[str]) -> bytes:
    return "\0".join((order_id, *paths, "")).encode()
