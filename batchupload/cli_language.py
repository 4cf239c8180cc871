"""The commands as they stand in the code → the same in the language chosen, each with `--lang`."""

import copy
import inspect
from typing import TypeVar

import click

from batchupload.language import LANGUAGES, N_, VARIABLE, _

C = TypeVar("C", bound=click.Command)
P = TypeVar("P", bound=click.Parameter)

HELP = N_("Language: en or zh [by the locale].")


def in_words(command: C) -> C:
    """A copy of it, with its commands; `language.choose` has found out before what `--lang` asks for."""
    told = copy.copy(command)
    told.help, told.short_help, told.epilog = (
        text and _(inspect.cleandoc(text)) for text in (command.help, command.short_help, command.epilog)
    )
    # The option checks what it is given, and is wanted in help and completion; its value is not passed on.
    language = click.Option(
        ["--lang"], type=click.Choice([*LANGUAGES]), envvar=VARIABLE, expose_value=False, help=_(HELP)
    )
    told.params = [*map(_parameter, command.params), language]
    if isinstance(command, click.Group) and isinstance(told, click.Group):
        told.commands = {name: in_words(one) for name, one in command.commands.items()}
    return told


def _parameter(parameter: P) -> P:
    told = copy.copy(parameter)
    if isinstance(told, click.Option) and told.help:
        told.help = _(told.help)
    return told
