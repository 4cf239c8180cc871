"""Command line, environment and YAML file → settings, in this order of strength, with every mistake named."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from batchupload import plain_yaml
from batchupload.language import N_, VARIABLE, _
from batchupload.model import BatchuploadError
from batchupload.profiles import Config, ProfileError, lay_over, split
from batchupload.settings import LedgerSettings, Settings

ENVIRONMENT_PREFIX = "BATCHUPLOAD_"
Path_ = tuple[str | int, ...]
"""Where a setting stands: its keys, and its places in lists."""
Option = tuple[str, object]
"""A command-line option as it is typed, and its value."""
NO_URL = N_(
    "no endpoint.url is set: put the shop's address into the config (`batchupload init` writes one), or give "
    "--endpoint."
)
MOST_SHOWN, MOST_CHARACTERS = 50, 1000
"""Mistakes that a message names, and characters of each: a wrong value may be a whole file."""
CHOICES = {"BATCHUPLOAD_CONFIG", "BATCHUPLOAD_PROFILE", VARIABLE}
"""Variables of the environment that are no settings."""
PLAIN = {
    "bool_parsing": N_("give true or false"),
    "bool_type": N_("give true or false"),
    "extra_forbidden": N_("no such setting"),
    "invalid_key": N_("no such setting"),
    "missing": N_("is missing"),
    "model_attributes_type": N_("give `key: value` lines"),
    "model_type": N_("give `key: value` lines"),
    "path_type": N_("give a path"),
    "string_type": N_("give text, in quotes where it looks like a number"),
}
"""Kind of mistake, as pydantic names it → what to do, where the setting itself doesn't matter."""
LISTS = {
    "paths": "[a.csv, b.csv]",
    "repair": "[resize, orientation]",
    "patterns": "['{order_id}/{field}.*']",
    "replies": "[{code: 400, then: retry}]",
    "order_id": "[单号]",
    "face": "[人像面]",
    "back": "[国徽面]",
    "hand": "[免冠照]",
    "urls": "['${DINGTALK_URL}']",
}
"""A list as it may stand for a setting."""

ANCHORED = (
    ("photos", "root"),
    ("ledger", "path"),
    ("report", "folder"),
    ("metrics", "textfile"),
    ("cluster", "ca"),
    ("cluster", "cert"),
    ("cluster", "key"),
)
"""Settings that are paths, which count from the file's own folder."""

EXAMPLE_OF_PROFILES = (
    "# Other shops, each chosen with --profile NAME: what stands there goes over the rest of this file. Each has a",
    "# ledger of its own (batchupload-NAME.db if nothing else is said). Such as: {other: {endpoint: {url: https://…}}}",
    "profiles: {}",
)


class ConfigError(BatchuploadError):
    """The settings can't be used; the message names every mistake with key, line and remedy."""


def load(
    file: Path | None,
    environment: Mapping[str, str],
    options: Mapping[str, Option],
    *,
    send: bool,
    profile: str | None = None,
) -> Settings:
    """Merge `options` (dotted key → its option and value) over the environment's variables over the YAML `file`.

    In the file, the `profile` goes over the rest; relative paths there count from the file's folder. `send=False` is
    for commands that send nothing: there the endpoint's address is not held to the plaintext rule. Raises
    `ConfigError` with every mistake found.
    """
    tree, origins = _of_file(file, profile)
    names = {environment_name(key): key for key in keys()}
    mistakes = []
    for name in sorted(n for n in environment if n.startswith(ENVIRONMENT_PREFIX) and n not in CHOICES):
        if name not in names:
            mistakes.append(
                _("{name} in the environment: no such setting.{hint}", name=name, hint=_nearest_variable(name))
            )
            continue
        try:
            value: object = plain_yaml.read(environment[name])[0]
        except plain_yaml.YamlError:
            value = environment[name]
        _put(tree, origins, names[name], value, _("{name} in the environment", name=name))
    for key, (name, value) in options.items():
        _put(tree, origins, tuple(key.split(".")), value, name)
    if not send and isinstance(tree.setdefault("endpoint", {}), dict):
        tree["endpoint"]["allow_plaintext"] = True
    try:
        settings = Settings.model_validate(tree | {"endpoint": tree.get("endpoint", {})})
    except ValidationError as error:
        found = sorted(error.errors(), key=lambda e: _is_about_no_url(e, origins))  # what else is wrong may be why
        mistakes += [_mistake(e, origins) for e in found]
    if mistakes:
        raise ConfigError(_listed(mistakes))
    return settings


def _listed(mistakes: Sequence[str]) -> str:
    """Put mistakes into one message, each on a line, as far as a person would read it."""
    lines = [line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}…" for line in mistakes[:MOST_SHOWN]]
    if len(mistakes) > MOST_SHOWN:
        lines.append(_("and {count:,} more mistakes.", count=len(mistakes) - MOST_SHOWN))
    return "\n".join(lines)


def _of_file(file: Path | None, profile: str | None) -> Config:
    """What the file says, with its profile laid over the rest."""
    if file is None:
        if profile:
            raise ConfigError(
                _("--profile {profile}: there is no config file that has it. Name one with --config.", profile=profile)
            )
        return {}, {}
    try:
        common, profiles = split(read_yaml(file))
    except ProfileError as error:
        raise ConfigError(str(error)) from None
    if profile and profile not in profiles:
        names = ", ".join(profiles) or _("none")
        raise ConfigError(
            _(
                "--profile {profile}: {file} has no such profile. It has: {names}.",
                profile=profile,
                file=file,
                names=names,
            )
        )
    for tree, _origins in (common, *profiles.values()):
        _anchor(tree, file.parent)
    ledger = common[0].setdefault("ledger", {})
    if isinstance(ledger, dict):
        ledger.setdefault("path", str(file.parent / LedgerSettings().path))
    return lay_over(common, profile, profiles[profile]) if profile else common


def read_yaml(file: Path) -> tuple[dict[str, Any], dict[Path_, str]]:
    """The file as plain data, and for each place in it "file, line N". Raises `ConfigError`."""
    try:
        with file.open(encoding="utf-8-sig") as opened:
            text = opened.read(plain_yaml.MOST_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(_("{file}: no such file. `batchupload init` writes one.", file=file)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            _("{file}: can't be read ({error}). It must be a UTF-8 text file.", file=file, error=error)
        ) from None
    if len(text) > plain_yaml.MOST_BYTES:
        raise ConfigError(
            _(
                "{file}: over {most} KiB, which no config is. Name the right file.",
                file=file,
                most=plain_yaml.MOST_BYTES >> 10,
            )
        )
    try:
        tree, places = plain_yaml.read(text)
    except plain_yaml.YamlError as error:
        where = _(", line {line}", line=error.line) if error.line else ""
        raise ConfigError(_("{file}{where}: {what}", file=file, where=where, what=error)) from None
    if tree is None:
        return {}, {}
    if not isinstance(tree, dict):
        raise ConfigError(_("{file}, line 1: expected `key: value` lines, see config.example.yaml.", file=file))
    origins: dict[Path_, str] = {}
    for place in places:
        if place.again:
            raise ConfigError(
                _(
                    "{file}, line {line}: {path} stands twice; keep one.",
                    file=file,
                    line=place.line,
                    path=_dotted(place.path),
                )
            )
        origins[place.path] = _("{file}, line {line}", file=file, line=place.line)
    return tree, origins


def example(answers: Mapping[Path_, object] | None = None) -> str:
    """`config.example.yaml`: every key with its default, or its answer, and one line on what it does."""
    lines = [
        "# Settings of batchupload; every key stands here with its default. Delete what you don't change."
        if not answers
        else "# Settings of batchupload, as they were answered; every other key with its default.",
        "# Stronger than this file: environment variables such as BATCHUPLOAD_PACE_CONCURRENCY, and the command line.",
    ]
    for section, field in Settings.model_fields.items():
        lines += ["", f"# {field.description}", f"{section}:"]
        given = {path[1]: value for path, value in (answers or {}).items() if path[0] == section}
        lines += _example_of(_section(field.annotation), given, "  ")
    lines += ["", *EXAMPLE_OF_PROFILES]
    return "\n".join(lines) + "\n"


def keys() -> Iterator[Path_]:
    """The path of every setting that can stand in the environment."""
    for section, field in Settings.model_fields.items():
        for name, inner in _section(field.annotation).model_fields.items():
            yield section, inner.alias or name


def environment_name(path: Path_) -> str:
    """`("pace", "concurrency")` → `BATCHUPLOAD_PACE_CONCURRENCY`."""
    return ENVIRONMENT_PREFIX + "_".join(str(part) for part in path).upper()


def _section(annotation: object) -> type[BaseModel]:
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        raise TypeError(f"every field of Settings is a section, not {annotation}")
    return annotation


def _example_of(section: type[BaseModel], given: Mapping[str | int, object], indent: str) -> Iterator[str]:
    values = section.model_construct().model_dump(mode="json", by_alias=True) | dict(given)
    for name, field in section.model_fields.items():
        value = values[field.alias or name]
        yield f"{indent}# {field.description}"
        yield f"{indent}{field.alias or name}: {plain_yaml.write(value)}"


def _anchor(tree: dict[str, Any], folder: Path) -> None:
    """Make the file's relative paths count from its own folder."""
    for section, name in ANCHORED:
        inner = tree.get(section)
        if isinstance(inner, dict) and isinstance(inner.get(name), str):
            inner[name] = str(folder / inner[name])
    manifest = tree.get("manifest")
    if isinstance(manifest, dict) and isinstance(manifest.get("paths"), list):
        manifest["paths"] = [str(folder / p) if isinstance(p, str) else p for p in manifest["paths"]]


def _put(tree: dict[str, Any], origins: dict[Path_, str], path: Path_, value: object, origin: str) -> None:
    section, name = path
    inner = tree.setdefault(str(section), {})
    if isinstance(inner, dict):  # what else stands in the file is a mistake, which is yet to be named
        inner[name] = value
        origins[path] = origin


def _dotted(path: Path_) -> str:
    return ".".join(str(part) for part in path)


def _nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    near = difflib.get_close_matches(name[:100], list(known), n=1, cutoff=cutoff)
    return near[0] if near else ""


def _nearest_variable(name: str) -> str:
    """All begin alike, which says nothing about how near they are."""
    known = [environment_name(key).removeprefix(ENVIRONMENT_PREFIX) for key in keys()]
    near = _nearest(name.removeprefix(ENVIRONMENT_PREFIX), known, 0.8)
    return _(" Did you mean {near}?", near=ENVIRONMENT_PREFIX + near) if near else ""


def _is_about_no_url(error: Any, origins: Mapping[Path_, str]) -> bool:
    """Whether this is the complaint about the address that stands where none was given."""
    return error["loc"] == ("endpoint",) and error["type"] == "value_error" and ("endpoint", "url") not in origins


def _mistake(error: Any, origins: Mapping[Path_, str]) -> str:
    """One mistake as pydantic found it, in the user's words: place, key, what is wrong, what is allowed."""
    if _is_about_no_url(error, origins):
        return _(NO_URL)
    path: Path_ = tuple(error["loc"])
    if path == ("endpoint",) and ("endpoint", "url") in origins:
        path = ("endpoint", "url")
    known = next((path[:n] for n in range(len(path), 0, -1) if path[:n] in origins), None)
    where = _("{where}: ", where=origins[known]) if known else ""
    kind = error["type"]
    section, field = _setting(path)
    message = _(PLAIN.get(kind, "")) or _range(field, kind) or _in_their_words(error)
    secret = path[:1] == ("notify",)  # what stands there may be an address with a key in it
    shows = kind not in {"missing", "value_error"} and not secret
    given = _(", not {value!r}", value=error["input"]) if shows else ""
    if kind in {"extra_forbidden", "invalid_key"}:
        names = [f.alias or n for n, f in section.model_fields.items()]
        near = _nearest(str(path[-1]), names)
        meant = _(" Did you mean {near}?", near=near) if near else ""
        message, given = (
            _("{message}.{meant} Allowed here: {names}", message=message, meant=meant, names=", ".join(names)),
            "",
        )
    elif kind in {"tuple_type", "list_type"}:
        message = _("give a list, such as {example}", example=LISTS.get(str(path[-1]), "[a, b]"))
    elif kind == "string_type" and not isinstance(error["input"], int | float):
        message = _("give text")
    return _("{where}{key}: {mistake}{given}.", where=where, key=_dotted(path), mistake=message, given=given)


def _in_their_words(error: Any) -> str:
    """What pydantic says; of a choice in ours."""
    if error["type"] == "literal_error":
        return _("must be {expected}", expected=error["ctx"]["expected"].replace(" or ", _(" or ")))
    return str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")


def _setting(path: Path_) -> tuple[type[BaseModel], FieldInfo | None]:
    """The section that `path` ends in, and the field there, if it is one."""
    section: type[BaseModel] = Settings
    field = None
    for depth, part in enumerate(path):
        if isinstance(part, int) and depth < len(path) - 1:
            continue  # a place in a list
        field = next((f for n, f in section.model_fields.items() if part in {n, f.alias}), None)
        if field is None or depth == len(path) - 1:
            break
        inner = [a for a in (field.annotation, *get_args(field.annotation)) if isinstance(a, type)]
        section = next((a for a in inner if issubclass(a, BaseModel)), section)
    return section, field


def _range(field: FieldInfo | None, kind: str) -> str:
    """What a number must be, where the mistake is that it isn't."""
    if field is None or not kind.startswith(("int_", "float_", "finite_number", "greater_than", "less_than")):
        return ""
    above, least, most = (
        next((at for m in field.metadata if (at := getattr(m, name, None)) is not None), None)
        for name in ("gt", "ge", "le")
    )
    what = _("a whole number") if kind.startswith(("int_", "finite_number")) else ""
    what = _("a number") if kind.startswith("float_") else what
    bounds = [
        *([_("above {bound}", bound=above)] if above is not None else []),
        *([_("at least {bound}", bound=least)] if least is not None else []),
        *([_("at most {bound}", bound=most)] if most is not None else []),
    ]
    span = _(" and ").join(bounds)
    if least is not None and most is not None:
        span = _("from {least} to {most}", least=least, most=most)
    if what and span:
        return _("must be {what} {span}", what=what, span=span)
    return _("must be {expected}", expected=what or span)
