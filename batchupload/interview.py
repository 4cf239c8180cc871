"""A few questions to a person → settings, each answer held to what the config allows."""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from batchupload.settings import Settings

Key = tuple[str | int, ...]
"""Section and name of a setting."""
Answers = Mapping[Key, object]
Ask = Callable[[str], str]
"""Shows a prompt, and gives the line that is typed. May raise `EOFError` or `KeyboardInterrupt`."""
Tell = Callable[[str], None]
YES, NO = {"y", "yes", "是"}, {"", "n", "no", "否"}
LATER = "set it later"


@dataclass(frozen=True, slots=True)
class _WrongError(Exception):
    """An answer that can't be taken, and what can."""

    what: str


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the questions are asked."""

    ask: Ask
    tell: Tell
    here: Path
    """The folder that relative answers start from: the present one."""
    folder: Path
    """The folder that they start from in the config: its own."""

    def path(self, text: str) -> str:
        """As the config has to have it, so that it means what was typed."""
        path = _home(text)
        return path if self.folder == self.here else os.path.abspath(self.here / path)

    def there(self, text: str) -> Path:
        """The file or folder itself."""
        return self.here / _home(text)


def _home(text: str) -> str:
    return os.path.expanduser(text)  # noqa: PTH111 - Path's raises where there is no such user


@dataclass(frozen=True, slots=True)
class Question:
    """One question; an empty answer leaves the setting as it is."""

    why: str
    prompt: str
    default: str
    take: Callable[[Stage, str], Answers]
    """An answer → settings. Raises `_WrongError` where it can't be taken."""


def interview(stage: Stage) -> Answers:
    """Ask all questions, each until it has an answer that can be taken."""
    stage.tell("An empty answer takes what stands in brackets. Ctrl-C ends it, and nothing is written.")
    found: dict[Key, object] = {}
    for question in QUESTIONS:
        stage.tell(f"\n{question.why}")
        found |= _answer(stage, question)
    return found


def _answer(stage: Stage, question: Question) -> Answers:
    while True:
        text = stage.ask(f"{question.prompt} [{question.default}]: ").strip()
        if not text:
            return {}
        try:
            if not text.isprintable():
                raise _WrongError("this holds characters that can't be shown: type it again.")
            return question.take(stage, text)
        except _WrongError as wrong:
            stage.tell(f"  {wrong.what}")


def _agreed(stage: Stage, prompt: str) -> bool:
    while (text := stage.ask(f"{prompt} [no]: ").strip().lower()) not in YES | NO:
        stage.tell("  Answer yes or no.")
    return text in YES


def _checked(key: Key, value: object, **more: object) -> None:
    """Raise `_WrongError` in the config's own words where it does not take this."""
    section, name = key
    try:
        Settings.model_validate({section: {name: value, **more}})
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise _WrongError(f"{message.replace('Input should be', 'Give')}.") from None


def _url(stage: Stage, text: str) -> Answers:
    key = ("endpoint", "url")
    _checked(key, text, allow_plaintext=True)
    try:
        _checked(key, text)
    except _WrongError:
        stage.tell("  This is plain http: ID photos would cross the network readable to anyone on the way.")
        if not _agreed(stage, "Send them all the same (endpoint.allow_plaintext)?"):
            raise _WrongError("Then give an https:// address.") from None
        return {key: text, ("endpoint", "allow_plaintext"): True}
    return {key: text}


def _folder(key: Key, stage: Stage, text: str) -> Answers:
    if not stage.there(text).is_dir():
        stage.tell(f"  {stage.there(text)} is no folder, at least not now.")
        if not _agreed(stage, "Take it all the same?"):
            raise _WrongError("Then give a folder that is there.")
    return {key: stage.path(text)}


def _manifests(stage: Stage, text: str) -> Answers:
    try:
        names = shlex.split(text)
    except ValueError:
        raise _WrongError("the quotes don't pair up: put each path with spaces in it into quotes.") from None
    for name in names:
        if not any(mark in name for mark in "*?[") and not stage.there(name).is_file():
            stage.tell(f"  {name} is not there now: a run that does not find it ends with exit code 2.")
    return {("manifest", "paths"): [stage.path(name) for name in names]}


def _file(key: Key, stage: Stage, text: str) -> Answers:
    if not stage.there(text).parent.is_dir() or stage.there(text).is_dir():
        raise _WrongError("give a file in a folder that is there; the first run makes it.")
    return {key: stage.path(text)}


def _value(key: Key, _: Stage, text: str) -> Answers:
    _checked(key, text)
    return {key: text}


def _addresses(stage: Stage, text: str) -> Answers:
    key = ("notify", "urls")
    _checked(key, text)
    if "${" not in text:
        stage.tell("  It will stand in the file as it is, which only its owner can read.")
    return {key: text.split()}


QUESTIONS: Sequence[Question] = (
    Question("Photos go to this address and nowhere else.", "The shop's upload address, https://…", LATER, _url),
    Question(
        "The photo paths in manifests start from this folder.",
        "Folder of the photos",
        "each manifest's own folder",
        partial(_folder, ("photos", "root")),
    ),
    Question(
        "What `batchupload run` takes when no manifest is named, as by night; patterns such as exports/*.csv too.",
        "Manifests, with spaces between them",
        "none",
        _manifests,
    ),
    Question(
        "How closely a photo is looked at before it is sent: full decodes it to its end, and finds the most; header is "
        "faster; off looks at size and type only.",
        "full, header or off",
        "full",
        partial(_value, ("photos", "validate")),
    ),
    Question(
        "Each run writes a report, mode 0600.",
        "Folder of the reports",
        "each manifest's own folder",
        partial(_folder, ("report", "folder")),
    ),
    Question(
        "The ledger knows what is uploaded, so that nothing is sent twice. It needs a disk of this machine.",
        "Ledger",
        "batchupload.db beside the config",
        partial(_file, ("ledger", "path")),
    ),
    Question(
        "When a run is to end, whether it is done or not; the next one goes on.",
        "Time of day such as 06:00, or a duration such as 4h30m",
        "none",
        partial(_value, ("pace", "deadline")),
    ),
    Question(
        "Who is told when a run needs a person: DingTalk, WeCom, Feishu, mail … It holds a secret, so better give "
        "${NAME} and set NAME in the environment; see the README.",
        "Address of the notifier",
        "none",
        _addresses,
    ),
)
