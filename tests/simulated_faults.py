"""What the endpoint of the simulation does to a send: at any moment of it, late, twice, in pieces, or not at all."""

from dataclasses import dataclass

from batchupload.model import Cause, NoReply, Phase, Reply
from batchupload.reasons import Reason

ACCEPTED = b'{"code": 200, "msg": "ok"}'
REFUSED = b'{"code": 400, "msg": "no"}'
WARNING = b"<br />\n<b>Warning</b>: x\n"


@dataclass(frozen=True)
class Fault:
    """Whether it takes the order, and what comes back after a while."""

    weight: float
    accepts: bool
    answer: Reply | NoReply
    whole: bool = True
    """Whether the whole body was handed over before the answer, or the lack of one."""
    seconds: float = 0.5
    later: float = 0.0
    """It takes the order so many seconds after the body's end, whatever became of the connection."""
    says: bool = False
    """Whether the answer says so."""


PLAIN_SHARES = (20, 8, 3)
"""Weights of an answer without fault: with the last an order meets several faults before one settles it."""
PLAIN = Fault(0, True, Reply(200, ACCEPTED), says=True)
FAULTS = (
    Fault(4, True, Reply(200, WARNING + ACCEPTED), seconds=20, says=True),
    Fault(3, True, NoReply(Phase.REPLY, Cause.BROKEN)),
    Fault(2, True, NoReply(Phase.REPLY, Cause.TIMEOUT), seconds=90),
    Fault(2, True, Reply(504, b"<html>")),
    Fault(2, True, Reply(200, b"<html>")),
    Fault(2, False, Reply(200, b'{"code": null}')),
    Fault(2, False, NoReply(Phase.REPLY, Cause.BROKEN)),
    Fault(4, False, NoReply(Phase.BODY, Cause.BROKEN), whole=False),
    Fault(3, False, NoReply(Phase.CONNECT, Cause.REFUSED), whole=False),
    Fault(2, False, NoReply(Phase.CONNECT, Cause.TIMEOUT), whole=False, seconds=10),
    Fault(4, False, Reply(503, b"busy")),
    Fault(2, False, Reply(500, b"oh")),
    Fault(1, False, Reply(429, b"", retry_after="7")),
    Fault(4, False, Reply(200, REFUSED)),
    Fault(1, False, Reply(413, b"")),
    Fault(1, False, Reply(302, b"")),
    # Too early: before the end of the body.
    Fault(2, False, Reply(200, ACCEPTED), whole=False),
    Fault(1, False, Reply(200, REFUSED), whole=False),
    Fault(1, False, Reply(502, b"<html>"), whole=False),
    # Too late: the order is taken when the answer is no longer waited for, also after its next attempt began.
    Fault(2, True, NoReply(Phase.REPLY, Cause.TIMEOUT), seconds=90, later=40),
    Fault(2, True, Reply(504, b"<html>"), later=2),
    Fault(1, True, NoReply(Phase.REPLY, Cause.BROKEN), later=0.5),
    # In pieces, the last of which does not come, or not in time.
    Fault(2, True, Reply(200, ACCEPTED[:9], cut=Reason.REPLY_TIMEOUT), seconds=90),
    Fault(2, True, Reply(200, ACCEPTED, cut=Reason.REPLY_LOST)),
    Fault(2, False, Reply(200, REFUSED, cut=Reason.REPLY_LOST)),
    Fault(1, False, Reply(503, b"bu", cut=Reason.REPLY_LOST)),
    # Twice in one body, one way or the other.
    Fault(1, False, Reply(200, REFUSED + b"\n" + ACCEPTED)),
    Fault(1, False, Reply(200, WARNING + REFUSED + b"\n" + ACCEPTED)),
    Fault(1, True, Reply(200, WARNING + ACCEPTED + b"\n" + REFUSED)),
)
