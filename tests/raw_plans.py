"""What the raw endpoint does to one request, drawn by a seed: when, what, how it is sent, and what follows."""

import random
from dataclasses import dataclass, replace

from raw_answers import ACCEPT, AGAIN, ENDED_BY_CLOSE, INTERIM, NOWHERE, REFUSE, Kind, choose_framing, choose_kind

PLAIN = "plain"
"""Everything as it should be: the whole body, then one acceptance at once."""
STRIKES = {"at the end": 30.0, "in the body": 10.0, "in the body, early": 4.0}
ACTS = {
    "answer": 40.0,
    "close": 2.0,
    "reset": 2.0,
    "shut for writing": 1.0,
    "shut for reading": 1.0,
    "say nothing": 1.0,
    "hint without end": 0.5,
}
DELIVERIES = {
    "at once": 14.0,
    "late": 2.0,
    "too late": 1.0,
    "in pieces": 3.0,
    "in drops": 1.0,
    "half": 2.0,
    "twice": 2.0,
    "again later": 6.0,
}
ENDS = {"keep": 10.0, "close": 4.0, "reset": 1.0, "half-close": 1.0}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to one request."""

    strike: str
    share: float
    """Share of the body that is read before the strike, if it comes in the body."""
    idle: float
    """Seconds without reading or writing before the act."""
    act: str
    kind: Kind
    framing: str
    interim: bytes
    delivery: str
    second: Kind
    gap: float
    """Seconds until the second answer, or between pieces."""
    reads_on: bool
    """Whether the body is read to its end after an early act."""
    end: str
    takes: bool
    """Whether the order is taken if neither answer nor lack of answer says otherwise."""

    @property
    def both_in_one_body(self) -> bool:
        """Whether the second answer belongs to the body of the first, by the rules of HTTP."""
        return self.framing in ENDED_BY_CLOSE and self.delivery in {"twice", "again later"}


def draw_plan(chance: random.Random, plain: float, patience: float, *, grudging: bool) -> Plan:
    """Draw one; `plain` is the share of those without any fault, `patience` the client's reply timeout in seconds.

    A `grudging` one says in all clarity that the order was not taken, as it is of an order that was taken before:
    whoever forgets the earlier attempt then loses it.
    """
    framing = choose_framing(chance)
    delivery = _drawn(chance, DELIVERIES)
    if delivery == "half" and framing in ENDED_BY_CLOSE:
        framing = "length"  # else the half could be a whole of its own
    plan = Plan(
        strike=_drawn(chance, STRIKES),
        share=chance.random() ** 2,
        idle=chance.choice((0, 0, 0, 0, 0, 0, 0, 0.02, 0.1, 1.4 * patience)),
        act=_drawn(chance, ACTS),
        kind=choose_kind(chance),
        framing=framing,
        interim=chance.choices(list(INTERIM), list(INTERIM.values()))[0],
        delivery=delivery,
        second=choose_kind(chance, chance.choice((ACCEPT, REFUSE))),
        gap=chance.choice((0, 0.001, 0.005, 0.02, 0.05, 0.2)),
        reads_on=chance.random() < 0.7,
        end=_drawn(chance, ENDS),
        takes=chance.random() < 0.6,
    )
    clear = replace(
        plan, strike="at the end", idle=0, act="answer", kind=choose_kind(chance, ACCEPT), framing="length",
        interim=b"", delivery=PLAIN, end=chance.choice(("keep", "close")),
    )  # fmt: skip
    if grudging:
        kind = choose_kind(chance, chance.choice((AGAIN, AGAIN, AGAIN, REFUSE, NOWHERE)))
        return replace(clear, kind=kind, delivery="at once")
    return clear if chance.random() < plain else plan


def _drawn(chance: random.Random, weights: dict[str, float]) -> str:
    return chance.choices(list(weights), list(weights.values()))[0]
