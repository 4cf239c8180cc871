"""The command `scan`: its words on the command line → the scan; no logic of its own."""

from pathlib import Path
from typing import Any

import click

from batchupload.console import leave, say
from batchupload.options import CONFIG, PROFILE, settings_from

_EPILOG = """\b
Exit codes:
  0    every order is whole
  1    some order needs a person, or a picture is left over that an order may wait for
  2    wrong usage or config, or no photo of an order was found: no manifest was written
"""


@click.command(epilog=_EPILOG, short_help="Make a manifest of photo folders.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="MANIFEST", help="New manifest [FOLDER.csv, beside it]."
)
@CONFIG
@PROFILE
@click.option(
    "--pattern",
    multiple=True,
    metavar="PATTERN",
    help="Where photos lie, such as '*/{order_id}/{field}.*'; may stand several times [scan.patterns].",
)
@click.option("--photos-root", type=click.Path(path_type=Path), help="Folder of the photos [the manifest's own].")
@click.option("--incomplete", is_flag=True, help="Write orders that are not whole too, with empty cells.")
@click.option("--all", "everything", is_flag=True, help="List all that is found, not the first 20 of each kind.")
@click.option("--json", "as_json", is_flag=True, help="All that is found as one line of JSON on standard output.")
def scan(folder: Path, output: Path | None, incomplete: bool, everything: bool, as_json: bool, **options: Any) -> None:
    """Make a manifest of the photos in FOLDER, and list what is missing, doubtful or ambiguous.

    {order_id} in a pattern is an order number (manifest.order_id_pattern); {field} is face, back or hand, or one of
    their Chinese or configured names (manifest.columns); .* is any extension, and */ any folder. Which photo is which
    is never guessed: an order with something missing or ambiguous is left out of the manifest. Nothing is sent, nothing
    is written over, and no link to a folder is followed.

    \b
    batchupload scan photos
    batchupload scan photos -o orders.csv --pattern '{order_id}-{field}.jpg'
    """
    from batchupload.scan_job import MOST_LISTED, ScanWish
    from batchupload.scan_job import scan as find

    given = settings_from({**options, "pattern": options["pattern"] or None}, send=False)
    most = None if everything or as_json else MOST_LISTED
    scanned = find(ScanWish(folder, output, incomplete, most, given.again), given.settings)
    say(scanned.as_json() if as_json else scanned.as_text())
    leave(scanned.exit_code)
