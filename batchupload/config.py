"""Command line, environment and YAML file → settings, in this order of strength, with every mistake named."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from batchupload.model import BatchuploadError
from batchupload.settings import LedgerSettings, Settings

ENVIRONMENT_PREFIX = "BATCHUPLOAD_"
Path_ = tuple[str | int, ...]
"""Where a setting stands: its keys, and its places in lists."""
Option = tuple[str, object]
"""A command-line option as it is typed, and its value."""


class ConfigError(BatchuploadError):
    """The settings can't be used; the message names every mistake with key, line and remedy."""


def load(file: Path | None, environment: Mapping[str, str], options: Mapping[str, Option], *, send: bool) -> Settings:
    """Merge `options` (dotted key → its option and value) over the environment's variables over the YAML `file`.

    Relative paths in the file count from the file's folder. `send=False` is for commands that send nothing: there
    the endpoint's address is not held to the plaintext rule. Raises `ConfigError` with every mistake found.
    """
    tree: dict[str, Any] = {}
    origins: dict[Path_, str] = {}
    if file is not None:
        tree, origins = read_yaml(file)
        _anchor(tree, file.parent)
    names = {environment_name(key): key for key in keys()}
    mistakes = []
    for name in sorted(n for n in environment if n.startswith(ENVIRONMENT_PREFIX) and n != "BATCHUPLOAD_CONFIG"):
        if name not in names:
            mistakes.append(f"{name} in the environment: no such setting.{_nearest(name, names)}")
            continue
        try:
            value = yaml.safe_load(environment[name])
        except yaml.YAMLError:
            value = environment[name]
        _put(tree, origins, names[name], value, f"{name} in the environment")
    for key, (name, value) in options.items():
        _put(tree, origins, tuple(key.split(".")), value, name)
    if not send and isinstance(tree.setdefault("endpoint", {}), dict):
        tree["endpoint"]["allow_plaintext"] = True
    try:
        settings = Settings.model_validate(tree | {"endpoint": tree.get("endpoint", {})})
    except ValidationError as error:
        mistakes += [_mistake(e, origins) for e in error.errors()]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return settings


def read_yaml(file: Path) -> tuple[dict[str, Any], dict[Path_, str]]:
    """The file as plain data, and for each place in it "file, line N". Raises `ConfigError`."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file. `batchupload init` writes one.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: can't be read ({error}). It must be a UTF-8 text file.") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"{file}{where}: {what}. Check indentation, colons and quotes.") from None
    if node is None:
        return {}, {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}, line 1: expected `key: value` lines, see config.example.yaml.")
    origins: dict[Path_, str] = {}
    for path, at, twice in _places(node, ()):
        if twice:
            raise ConfigError(f"{file}, line {at.start_mark.line + 1}: {_dotted(path)} stands twice; keep one.")
        origins[path] = f"{file}, line {at.start_mark.line + 1}"
    return tree, origins


def example() -> str:
    """`config.example.yaml`: every key with its default and one line on what it does."""
    lines = [
        "# Settings of batchupload; every key stands here with its default. Delete what you don't change.",
        "# Stronger than this file: environment variables such as BATCHUPLOAD_PACE_CONCURRENCY, and the command line.",
    ]
    for section, field in Settings.model_fields.items():
        lines += ["", f"# {field.description}", f"{section}:"]
        lines += _example_of(_section(field.annotation), "  ")
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


def _example_of(section: type[BaseModel], indent: str) -> Iterator[str]:
    defaults = section.model_construct().model_dump(mode="json", by_alias=True)
    for name, field in section.model_fields.items():
        value = defaults[field.alias or name]
        shown = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
        yield f"{indent}# {field.description}"
        yield f"{indent}{field.alias or name}: {shown.strip().removesuffix('...').strip()}"


def _anchor(tree: dict[str, Any], folder: Path) -> None:
    """Make the file's relative paths count from its own folder; the ledger is there if nothing else is said."""
    ledger = tree.setdefault("ledger", {})
    if isinstance(ledger, dict):
        ledger.setdefault("path", str(LedgerSettings().path))
    for section, name in (("photos", "root"), ("ledger", "path"), ("report", "folder")):
        inner = tree.get(section)
        if isinstance(inner, dict) and isinstance(inner.get(name), str):
            inner[name] = str(folder / inner[name])
    manifest = tree.get("manifest")
    if isinstance(manifest, dict) and isinstance(manifest.get("paths"), list):
        manifest["paths"] = [str(folder / p) if isinstance(p, str) else p for p in manifest["paths"]]


def _put(tree: dict[str, Any], origins: dict[Path_, str], path: Path_, value: object, origin: str) -> None:
    section, name = path
    inner = tree.get(str(section))
    if not isinstance(inner, dict):
        inner = tree[str(section)] = {}
    inner[name] = value
    origins[path] = origin


def _places(node: yaml.Node, path: Path_) -> Iterator[tuple[Path_, yaml.Node, bool]]:
    """Every place below `node`: its path, the node to name, and whether its key stood before."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            here = (*path, key.value)
            yield here, key, here in seen
            seen.add(here)
            yield from _places(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            yield (*path, place), value, False
            yield from _places(value, (*path, place))


def _dotted(path: Path_) -> str:
    return ".".join(str(part) for part in path)


def _nearest(name: str, known: Mapping[str, object] | list[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]}?" if near else ""


def _mistake(error: Any, origins: Mapping[Path_, str]) -> str:
    """One mistake as pydantic found it, in the user's words: place, key, what is wrong, what is allowed."""
    path: Path_ = tuple(error["loc"])
    known = next((path[:n] for n in range(len(path), 0, -1) if path[:n] in origins), None)
    if path == ("endpoint",) and ("endpoint", "url") in origins:
        known = path = ("endpoint", "url")
    where = f"{origins[known]}: " if known else ""
    message = error["msg"].removeprefix("Value error, ")
    given = f", not {error['input']!r}" if error["type"] not in {"missing", "value_error"} else ""
    if error["type"] == "extra_forbidden":
        section = Settings.model_fields.get(str(path[0])) if len(path) > 1 else None
        fields = _section(section.annotation).model_fields if section else Settings.model_fields
        names = [f.alias or n for n, f in fields.items()]
        message, given = f"no such setting.{_nearest(str(path[-1]), names)} Allowed here: {', '.join(names)}", ""
    return f"{where}{_dotted(path)}: {message}{given}."
