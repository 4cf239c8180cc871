"""YAML that people write → plain data, by the core schema of YAML 1.2, in bounded time and memory; and back. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

from batchupload.foreign import visible, writable
from batchupload.language import _

MOST_BYTES = 256 * 1024
"""Bytes of a config; the example has ten thousand, and each profile fewer."""
MOST_NODES, MOST_CHARACTERS = 20_000, 1_000_000
"""Values and characters of a config, those that an alias repeats included."""
MOST_DEPTH = 32
"""Levels that values may be nested; settings have six."""

_NUMBERS = (
    ("int", re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"), "-+0123456789"),
    ("float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), "-+.0123456789"),
    ("float", re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), "-+."),
)
_WORDS = (
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), "tTfF"),
    ("merge", re.compile(r"<<"), "<"),
)
_ORDER = ("null", "bool", "int", "float", "merge")
"""An integer is looked for before a float, which looks alike."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands."""

    path: tuple[str | int, ...]
    """Keys, and places in lists."""
    line: int
    """From 1 on."""
    again: bool
    """Whether its key stood there before."""


class YamlError(Exception):
    """The text can't be used: `line` from 1 on, or 0; what is wrong, and what to do about it."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


def read(text: str) -> tuple[Any, list[Place]]:
    """The document's data, and each place in it; None where it is empty. Raises `YamlError`."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, []
        places = list(_places(node, ()))  # before `<<` puts one mapping's keys into another
        return loader.construct_document(node), places
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = _("{what}. Check indentation, colons and quotes.", what=error.problem or _("not YAML"))
        raise YamlError(mark.line + 1 if mark else 0, what) from None
    except ValueError as error:  # such as "\U00110000", which is no character
        what = _("{what}. Check indentation, colons and quotes.", what=error)
        raise YamlError(loader.line + 1, what) from None
    finally:
        loader.dispose()


def write(value: object) -> str:
    """A value on one line, so that readers of YAML 1.1 and of YAML 1.2 take it for the same."""
    shown = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=1_000_000)
    return shown.strip().removesuffix("...").strip()


class _Loader(yaml.SafeLoader):
    """Refuses what grows without end, while it is read."""

    yaml_implicit_resolvers = dict[str, Any]()  # noqa: RUF012
    yaml_constructors: ClassVar[dict[str | None, Any]] = {}  # without those of dates, binary data, sets

    def __init__(self, text: str) -> None:
        try:
            super().__init__(text)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            character = visible(text[error.position])
            what = _(
                '{character} can\'t stand in YAML as it is: write "{character}" in double quotes.', character=character
            )
            raise YamlError(line, what) from None
        self._depth = self._nodes = self._characters = 0
        self._open: set[str] = set()
        """Anchors of what is being read."""
        self._cost: dict[str, tuple[int, int]] = {}
        """Anchor → nodes and characters of what it stands for."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line, anchor = event.start_mark.line + 1, event.anchor
        if isinstance(event, yaml.AliasEvent):
            if anchor in self._open:
                raise YamlError(line, _("*{anchor} stands within itself. Write the value out.", anchor=anchor))
            nodes, characters = self._cost.get(anchor, (0, 0))
            self._count(line, nodes, characters)
            return super().compose_node(parent, index)
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise YamlError(line, _("nested deeper than {most} levels. No setting is.", most=MOST_DEPTH))
        before = self._nodes, self._characters
        self._count(line, 1, len(getattr(event, "value", "")))
        self._open.add(anchor)
        node = super().compose_node(parent, index)
        self._open.discard(anchor)
        self._cost[anchor] = self._nodes - before[0], self._characters - before[1]
        self._depth -= 1
        if isinstance(node, yaml.ScalarNode):
            node.value = writable(node.value)
        return node

    def _count(self, line: int, nodes: int, characters: int) -> None:
        self._nodes += nodes
        self._characters += characters
        if self._nodes > MOST_NODES or self._characters > MOST_CHARACTERS:
            what = _(
                "more than {nodes:,} values or {characters:,} characters, with what aliases repeat. Write out the few "
                "that are needed.",
                nodes=MOST_NODES,
                characters=MOST_CHARACTERS,
            )
            raise YamlError(line, what)


class _Dumper(yaml.SafeDumper):
    """Puts into quotes what either version would take for something else than text."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        start: [*rules] for start, rules in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


def _places(node: yaml.Node, path: tuple[str | int, ...]) -> Iterator[Place]:
    """Every place below `node`."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # refused when the data is made
            here = (*path, key.value)
            yield Place(here, key.start_mark.line + 1, here in seen)
            seen.add(here)
            yield from _places(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            yield Place((*path, place), value.start_mark.line + 1, again=False)
            yield from _places(value, (*path, place))


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    try:
        return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
    except ValueError:  # one of thousands of digits, or one that is called so by `!!int`
        raise yaml.MarkedYAMLError(
            problem=_("no whole number: {text}", text=text[:40]), problem_mark=node.start_mark
        ) from None


def _real(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).lower()
    try:
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        raise yaml.MarkedYAMLError(
            problem=_("no number: {text}", text=text[:40]), problem_mark=node.start_mark
        ) from None


def _truth(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> object:
    text = str(loader.construct_scalar(node))
    return {"true": True, "false": False}.get(text.lower(), text)


def _set_up() -> None:
    for name, pattern, starts in sorted((*_NUMBERS, *_WORDS), key=lambda rule: _ORDER.index(rule[0])):
        whole = re.compile(rf"(?:{pattern.pattern})\Z")
        for kind in (_Loader, _Dumper) if name in {"int", "float"} else (_Loader,):
            kind.add_implicit_resolver(f"tag:yaml.org,2002:{name}", whole, list(starts))
    kept = {"null", "str", "seq", "map"}
    for name in kept:
        tag = f"tag:yaml.org,2002:{name}"
        _Loader.add_constructor(tag, yaml.SafeLoader.yaml_constructors[tag])
    for name, constructor in (("int", _integer), ("float", _real), ("bool", _truth)):
        _Loader.add_constructor(f"tag:yaml.org,2002:{name}", constructor)
    _Loader.add_constructor(None, yaml.SafeLoader.yaml_constructors[None])


_set_up()
