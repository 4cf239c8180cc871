"""What every command needs: settings from its options, words on the screen, the way out."""

import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from batchupload.model import BatchuploadError
from batchupload.stderr import settle

if TYPE_CHECKING:
    from batchupload.config import Option
    from batchupload.settings import Settings

DEFAULT_CONFIG = Path("config.yaml")

# Option → the setting it stands for; stronger than environment and config file.
SETTING_OF = {
    "concurrency": "pace.concurrency",
    "validate": "photos.validate",
    "endpoint": "endpoint.url",
    "photos_root": "photos.root",
    "encoding": "manifest.encoding",
    "rate": "pace.rate",
    "bandwidth": "pace.bandwidth",
    "deadline": "pace.deadline",
    "canary": "pace.canary",
    "max_failures": "pace.max_failures",
    "pattern": "scan.patterns",
}
NOT_REPEATED = frozenset({"encoding", "deadline", "canary", "max_failures", "pattern"})
"""Options that a command which goes on from here doesn't need."""


class OutputError(BatchuploadError):
    """What was asked for can't be printed."""

    exit_code = 1


def print_out(text: str) -> None:
    """Print what was asked for. Raises `BrokenPipeError`, which needs no words, and `OutputError`."""
    settle()
    try:
        click.echo(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output can't be written ({error.strerror}).") from None


def tell(text: str) -> None:
    """Say it on standard error, as far as that can be written."""
    with suppress(OSError):
        click.echo(f"batchupload: {text}", err=True)


def settings_from(options: Mapping[str, Any], *, send: bool) -> "tuple[Settings, tuple[str, ...]]":
    """The settings, and the options to repeat in a command that goes on from here."""
    from batchupload.config import load

    file = options["config"] or os.environ.get("BATCHUPLOAD_CONFIG")
    if file is None and DEFAULT_CONFIG.exists():
        file = DEFAULT_CONFIG
    given: dict[str, Option] = {}
    again = ["--config", str(options["config"])] if options["config"] else []
    for name, setting in SETTING_OF.items():
        if options.get(name) is not None:
            option = "--" + name.replace("_", "-")
            value = options[name]
            given[setting] = (option, int(value) if name == "concurrency" and value.isdecimal() else value)
            if name not in NOT_REPEATED:
                again += [option, str(options[name])]
    return load(Path(file) if file else None, os.environ, given, send=send), tuple(again)


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
