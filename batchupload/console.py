"""What every command says and how it ends: words on the screen, the way out."""

import logging
import os
import shutil
import sys
from contextlib import suppress
from typing import NoReturn

import click

from batchupload.colour import wanted
from batchupload.language import _
from batchupload.logs import event, is_json
from batchupload.model import BatchuploadError
from batchupload.stderr import settle

log = logging.getLogger(__name__)


class OutputError(BatchuploadError):
    """What was asked for can't be printed."""

    exit_code = 1


def say(text: str) -> None:
    """Print what was asked for. Raises `BrokenPipeError`, which needs no words, and `OutputError`."""
    settle()
    try:
        click.echo(text, color=wanted(sys.stdout))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(_("standard output can't be written ({why}).", why=error.strerror)) from None


def tell(text: str, what: str = "told", **fields: object) -> None:
    """Say it on standard error, as far as that can be written; where log lines are JSON as the event `what`."""
    if is_json():
        log.error("%s", text, extra=event(what, **fields))
        return
    with suppress(OSError):
        click.echo(f"batchupload: {text}", err=True)


def screen_width() -> int:
    """Columns of the screen; long lines read badly on a wide one."""
    return max(60, min(shutil.get_terminal_size().columns, 100))


def leave(code: int) -> NoReturn:
    """Exit at once: what is to be on the disk is there, and a thread that hangs shall not hold it up."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    settle()
    os._exit(code)
