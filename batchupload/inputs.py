"""What the user named → the manifests that are read: files, patterns, standard input."""

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from batchupload.language import _
from batchupload.logs import event
from batchupload.manifest import Layout, has_numbers, open_manifest
from batchupload.shop_settings import ManifestSettings
from batchupload.source import STDIN, ManifestError

log = logging.getLogger(__name__)


def open_manifests(named: Sequence[Path], only: frozenset[str], settings: ManifestSettings) -> tuple[Layout, ...]:
    """Each manifest once, with what was found out of it. With `only` each must be an earlier report.

    Raises `ManifestError`.
    """
    layouts: dict[Path, Layout] = {}
    for path, by_pattern in files_of(named):
        if not (name := str(path)).isprintable():  # bytes that are no UTF-8 could not be written down
            raise ManifestError(_("{name!a}: this file name can't be written in a report. Rename the file.", name=name))
        if first := layouts.get(path.resolve()):
            log.warning(
                _("%s is the same file as %s: its rows are taken once."),
                path,
                first.path,
                extra=event("manifest_named_twice"),
            )
            continue
        layout = open_manifest(path, settings)
        if only and not layout.is_report:
            raise ManifestError(
                _("{path}: --only needs an earlier report, and this is none. Leave --only out.", path=path)
            )
        if by_pattern and layout.is_report and not only:
            log.warning(
                _("%s is an earlier report, and left out: name it to send its orders again."),
                path,
                extra=event("report_left_out"),
            )
            continue
        if has_numbers(layout):
            log.warning(
                _(
                    "%s: order numbers stand there as numbers, without the leading zeros that Excel may "
                    "show. Where yours have such, format the column as text and type them anew."
                ),
                path,
                extra=event("order_numbers_as_numbers"),
            )
        layouts[path.resolve()] = layout
    if not layouts:
        raise ManifestError(
            _("{named}: only earlier reports there. Name a manifest.", named=", ".join(map(str, named)))
        )
    return tuple(layouts.values())


def files_of(named: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """Each file, and whether a pattern stands for it: a shell leaves that to us in a config, a timer, or in quotes."""
    for path in named:
        if path == STDIN or os.path.lexists(path) or not glob.has_magic(str(path)):
            yield path, False
            continue
        found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        if not found:
            raise ManifestError(_("{path}: no file fits this pattern.", path=path))
        yield from ((Path(one), True) for one in found if not one.endswith(".html"))  # the pages of reports
