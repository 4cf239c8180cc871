"""The command that looks at a run from a second terminal. Heavy modules load inside the command."""

import sys
import time
from pathlib import Path

import click

from batchupload.console import say
from batchupload.options import CONFIG, PROFILE, settings_from

EACH_SECONDS = 1.0
"""Between two looks, at least."""


@click.command(short_help="Tell what the run that is on is doing, or what became of the last.")
@CONFIG
@PROFILE
@click.option("--ledger", type=click.Path(path_type=Path), help="The ledger to look at [the config's].")
@click.option("--watch", is_flag=True, help="Go on until the run ends.")
@click.option("--json", "as_json", is_flag=True, help="As one line of JSON; with --watch one each second.")
def status(config: Path | None, profile: str | None, ledger: Path | None, watch: bool, as_json: bool) -> int:
    """Tell what the run that holds the ledger is doing: how far it is, what became of its rows, how fast, until when.

    \b
    Exit codes: 0 a run is on (with --watch: was on), 1 no run is on, 5 the ledger can't be read.
    """
    from batchupload.colour import painted, plain, wanted
    from batchupload.screen import Display, display_for
    from batchupload.status import status as look

    path = ledger or settings_from({"config": config, "profile": profile}, send=False).settings.ledger.path
    paint = painted if wanted(sys.stdout) else plain
    found = look(path)
    was_on = found.on
    display: Display | None = None
    try:
        while watch and found.on:
            if as_json:
                say(found.as_json())
            elif found.now:
                if not display:
                    say(found.as_text(paint))
                    display = display_for(quiet=False, verbose=False, out=sys.stdout)
                else:
                    display.show(found.now)
            time.sleep(max(EACH_SECONDS, display.interval if display else 0.0))
            found = look(path)
    finally:
        if display:
            display.close()
    say(found.as_json() if as_json else found.as_text(paint))
    return 0 if was_on else 1
