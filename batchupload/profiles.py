"""Profiles of a config: what another shop has otherwise, laid over the rest of the file."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from batchupload.language import _
from batchupload.settings import LedgerSettings

Place = tuple[str | int, ...]
"""Where a setting stands: its keys, and its places in lists."""
Config = tuple[dict[str, Any], dict[Place, str]]
"""Plain data, and for each place in it where that stands."""
SECTION = "profiles"


class ProfileError(Exception):
    """The profiles can't be used; says what is wrong and what to do."""


def split(config: Config) -> tuple[Config, dict[str, Config]]:
    """A config as it was read → what holds for all, and each profile by its name. Raises `ProfileError`."""
    tree, origins = config
    common = {key: value for key, value in tree.items() if key != SECTION}
    profiles = tree.get(SECTION) or {}
    where = origins.get((SECTION,), SECTION)
    if not isinstance(profiles, dict):
        raise ProfileError(
            _(
                "{where}: {section}: give `name: settings` lines below it, not {profiles!r}.",
                where=where,
                section=SECTION,
                profiles=profiles,
            )
        )
    found: dict[str, Config] = {}
    for name, settings in profiles.items():
        at = origins.get((SECTION, name), where)
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name):
            raise ProfileError(
                _(
                    "{at}: {section}.{name}: a profile's name has 1 to 32 letters, digits, _ or -.",
                    at=at,
                    section=SECTION,
                    name=name,
                )
            )
        if not isinstance(settings, dict):
            raise ProfileError(
                _(
                    "{at}: {section}.{name}: give `key: value` lines below it, not {settings!r}.",
                    at=at,
                    section=SECTION,
                    name=name,
                    settings=settings,
                )
            )
        own = {place[2:]: origin for place, origin in origins.items() if place[:2] == (SECTION, name)}
        found[name] = settings, own
    return (common, {place: origin for place, origin in origins.items() if place[:1] != (SECTION,)}), found


def lay_over(common: Config, name: str, profile: Config) -> Config:
    """The settings of one profile. It has a ledger of its own: what one shop has, another has not."""
    tree, origins = _merged(common[0], profile[0]), common[1] | profile[1]
    ledger = tree.setdefault("ledger", {})
    if isinstance(ledger, dict) and ("ledger", "path") not in profile[1]:
        path = Path(str(ledger.get("path") or LedgerSettings().path))
        ledger["path"] = str(path.with_name(f"{path.stem}-{name}{path.suffix}"))
    return tree, origins


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    return dict(_pairs(below, above))


def _pairs(below: Mapping[str, Any], above: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in {**below, **above}:
        one, other = below.get(key), above.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield key, _merged(one, other)
        else:
            yield key, other if key in above else one
