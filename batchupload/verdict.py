"""A reply, or the lack of one → what it proves about the order. Pure: no I/O, no clock of its own."""

import codecs
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any

from batchupload.expressions import expression
from batchupload.foreign import writable
from batchupload.language import _
from batchupload.model import Cause, Finding, NoReply, Phase, Reply, Verdict
from batchupload.reasons import Reason
from batchupload.shop_settings import ReplyRule

UNPACKED_LIMIT = 1 << 20
"""Bytes that a compressed reply may unpack to."""
MESSAGE_LIMIT = 500
"""Characters of the endpoint's text that are kept."""
JSON_STARTS = 50
"""Places of a page with text before its JSON that are tried as its beginning."""
TITLE_WITHIN = 16 * 1024
"""Characters of a page in which its title is looked for."""
HEADER_LIMIT = 64
"""Characters of a `Retry-After` or `Date` that is one."""

# Found now, not with the first reply: a process that is out of open files could not load them then.
_CODECS = (codecs.lookup("utf-8-sig"), codecs.lookup("gb18030"))
_CHARACTERS_OF_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\s]+")
_OBJECT = re.compile(r'\{(?=\s*["}])')
_LIKE_AN_ANSWER = re.compile(r"""["'](?:code|msg|message)["']\s*:""")
# A body without a length ends with the connection, and holds all that the server sent until then: also a second answer
# with its head. In a PHP warning no header follows the status line.
_HEAD_OF_ANOTHER = re.compile(r"HTTP/1\.[01] [0-9]{3}[^\r\n]{0,200}\r?\n[A-Za-z-]{1,60}:")
_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{1,500})</title>", re.IGNORECASE)
_RETRYABLE = {
    408: Reason.REQUEST_TIMEOUT,
    425: Reason.TOO_EARLY,
    429: Reason.RATE_LIMITED,
    503: Reason.UNAVAILABLE,
}
_THEN = {
    "accept": (Verdict.ACCEPTED, Reason.ACCEPTED),
    "reject": (Verdict.REJECTED, Reason.ENDPOINT_REFUSED),
    "retry": (Verdict.RETRY, Reason.ENDPOINT_BUSY),
}
_NO_CONNECTION = {
    Cause.DNS: Reason.DNS_FAILED,
    Cause.REFUSED: Reason.CONNECTION_REFUSED,
    Cause.TIMEOUT: Reason.CONNECT_TIMEOUT,
    Cause.FILES_EXHAUSTED: Reason.FILES_EXHAUSTED,
}
_NO_BODY = {Cause.TIMEOUT: Reason.UPLOAD_STALLED}
_NO_ANSWER = {Cause.TIMEOUT: Reason.REPLY_TIMEOUT, Cause.MALFORMED: Reason.REPLY_MALFORMED}


class UnreadableError(Exception):
    """The body holds no JSON of the endpoint; carries the `reason`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Answer:
    """The endpoint's JSON."""

    code: int | None
    message: str


def judge(
    answer: Reply | NoReply, whole: bool, rules: Sequence[ReplyRule], now: datetime, retry_after_cap: float
) -> Finding:
    """What the attempt proves.

    `whole` tells whether the endpoint may have the whole body. The `code` in the body decides, and the HTTP status
    only where there is none; `rules` come before both. `now` is the wall clock, for a `Retry-After` that is a date;
    `retry_after_cap` in seconds.
    """
    if isinstance(answer, NoReply):
        return _judge_silence(answer, whole, now)
    text = ""
    try:
        text = _text(answer)
        said = parse(text)
    except UnreadableError as error:
        title = _TITLE.search(text[:TITLE_WITHIN])
        finding = _judge_status(answer.http_status, whole, _tidy(title[1]) if title else "", error.reason)
    else:
        finding = _judge_answer(said, answer.http_status, whole, rules)
        if finding.verdict is Verdict.ACCEPTED and (answer.early or not whole):
            finding = replace(finding, verdict=Verdict.AMBIGUOUS, reason=Reason.REPLY_TOO_EARLY)
    wait = retry_after(answer, now, retry_after_cap) if finding.verdict is not Verdict.ACCEPTED else None
    return replace(finding, retry_after=wait)


def parse(text: str) -> Answer:
    """The endpoint's answer out of a body, also behind a PHP warning. Raises `UnreadableError`.

    Two answers in one body are none, also if they say the same: it is not known which one is meant.
    """
    found, before = _object(text.strip())
    if _LIKE_AN_ANSWER.search(before) or _HEAD_OF_ANOTHER.search(before):
        raise UnreadableError(Reason.REPLY_UNREADABLE)
    message = found.get("msg", found.get("message", ""))
    shown = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
    return Answer(_code(found.get("code")), _tidy(shown))


def retry_after(reply: Reply, now: datetime, cap: float) -> float | None:
    """Seconds that the endpoint asks to wait, from 0 to `cap`; None where it says nothing that can be read.

    A date counts from the reply's own `Date`, so that a wrong clock on either side does no harm (RFC 9110, 10.2.3).
    """
    value = reply.retry_after.strip()
    if re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,9})?", value):
        return min(float(value), cap)
    until = _date(value)
    if until is None:
        return None
    return min(max((until - (_date(reply.date) or now)).total_seconds(), 0.0), cap)


def _judge_silence(silence: NoReply, whole: bool, now: datetime) -> Finding:
    shown = f"{now.astimezone():%Y-%m-%d %H:%M:%S %z}"
    match silence.cause:
        case Cause.TLS:
            return Finding(Verdict.MISADDRESSED, Reason.TLS_FAILED)
        case Cause.CERTIFICATE_NOT_YET_VALID:
            message = _("the certificate is not valid yet; this machine's clock says {now}", now=shown)
            return Finding(Verdict.MISADDRESSED, Reason.CERTIFICATE_DATE, message=message)
        case Cause.CERTIFICATE_EXPIRED:
            message = _("the certificate has expired; this machine's clock says {now}", now=shown)
            return Finding(Verdict.MISADDRESSED, Reason.CERTIFICATE_DATE, message=message)
    if silence.phase is Phase.CONNECT:
        return Finding(Verdict.RETRY, _NO_CONNECTION.get(silence.cause, Reason.CONNECT_FAILED))
    if not whole:
        return Finding(Verdict.RETRY, _NO_BODY.get(silence.cause, Reason.UPLOAD_RESET))
    return Finding(Verdict.AMBIGUOUS, _NO_ANSWER.get(silence.cause, Reason.REPLY_LOST))


def _judge_answer(said: Answer, status: int, whole: bool, rules: Sequence[ReplyRule]) -> Finding:
    code = "" if said.code is None else str(said.code)
    rule = next((rule for rule in rules if _matches(rule, said)), None)
    if rule:
        verdict, reason = _THEN[rule.then]
    elif said.code is None or (said.code == status and _is_retryable(status)):
        # A code that only repeats the status is a framework's error page as JSON.
        return _judge_status(status, whole, said.message, Reason.REPLY_WITHOUT_CODE, code)
    else:
        verdict, reason = _THEN["accept" if said.code == 200 else "reject"]
    return Finding(verdict, reason, status, code, said.message)


def _judge_status(status: int, whole: bool, message: str, unreadable: Reason, code: str = "") -> Finding:
    """By the HTTP status alone; `unreadable` says what was wrong with the body."""
    verdict, reason = Verdict.AMBIGUOUS, unreadable
    if 300 <= status < 400:
        verdict, reason = Verdict.MISADDRESSED, Reason.REDIRECTED
    elif status in {401, 403, 404, 405}:
        verdict, reason = Verdict.MISADDRESSED, Reason.WRONG_ADDRESS
    elif status in _RETRYABLE:
        verdict, reason = Verdict.RETRY, _RETRYABLE[status]
    elif status == 413:
        verdict, reason = Verdict.REJECTED, Reason.BODY_TOO_LARGE
    elif 400 <= status < 500:
        verdict, reason = Verdict.REJECTED, Reason.HTTP_REFUSED
    elif status >= 500:
        # A gateway's 502 or 504 does not end the work behind it; only an unfinished upload can't have been accepted.
        verdict, reason = Verdict.AMBIGUOUS if whole else Verdict.RETRY, Reason.SERVER_ERROR
    return Finding(verdict, reason, status, code, message)


def _is_retryable(status: int) -> bool:
    return status in _RETRYABLE or status >= 500


def _matches(rule: ReplyRule, said: Answer) -> bool:
    by_code = rule.code is None or rule.code == said.code
    return by_code and (rule.message is None or expression(rule.message).is_in(said.message))


def _text(reply: Reply) -> str:
    """The body as text: UTF-8, or else GB18030, whatever its header says."""
    if reply.cut:
        raise UnreadableError(reply.cut)
    body = (
        _unpacked(reply.body) if reply.content_encoding.strip().lower() in {"gzip", "x-gzip", "deflate"} else reply.body
    )
    for codec in _CODECS:
        try:
            return codec.decode(body)[0]
        except UnicodeDecodeError:
            pass
    raise UnreadableError(Reason.REPLY_UNREADABLE)


def _unpacked(body: bytes) -> bytes:
    for wbits in (47, -15):  # zlib or gzip by the header; raw deflate, which some servers call deflate
        unpacker = zlib.decompressobj(wbits)
        try:
            content = unpacker.decompress(body, UNPACKED_LIMIT)
        except zlib.error:
            continue
        if unpacker.eof and unpacker.unused_data:
            break  # another member, or bytes that are none: one of two answers must not pass for the only one
        if unpacker.eof:
            return content
        raise UnreadableError(Reason.REPLY_TOO_LARGE if unpacker.unconsumed_tail else Reason.REPLY_UNREADABLE)
    raise UnreadableError(Reason.REPLY_UNREADABLE)


def _object(text: str) -> tuple[dict[str, Any], str]:
    """The JSON object that `text` ends with, and what stands before it: nothing, or other text that ends with a tag
    or a line. Raises `UnreadableError`.

    Text that itself begins like JSON is no warning: there, an inner object must not pass for the answer.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
    begins_like_json = text.startswith(("{", "[", '"'))
    starts = iter([0]) if begins_like_json else _starts(text)
    read = -1
    for start in islice(starts, JSON_STARTS):
        if start <= read:
            # What begins within an object that is broken, or at the place where it breaks off, is no answer.
            continue
        try:
            value, read = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            read = error.pos
            continue
        except (ValueError, RecursionError):  # well-formed, but no answer that everybody reads alike
            break
        if read == len(text) and isinstance(value, dict):
            return value, text[:start]
        if value:
            break  # another object
    raise UnreadableError(Reason.REPLY_UNREADABLE)


def _starts(text: str) -> Iterator[int]:
    """Where an object may begin behind other text: after a tag, or on a line of its own. Reads each character once."""
    looked_at = 0
    for match in _OBJECT.finditer(text):
        between = text[looked_at : match.start()]
        before = between.rstrip()
        if before.endswith(">") or "\n" in between[len(before) :]:
            yield match.start()
        looked_at = match.end()


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("the same key twice: readers differ in which one they take")
    return members


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


def _code(value: object) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"-?(0|[1-9][0-9]{0,8})", value.strip()):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**9 else None


def _tidy(text: str) -> str:
    start = writable(text.lstrip()[: 2 * MESSAGE_LIMIT])
    return _CHARACTERS_OF_CONTROL.sub(" ", start).strip()[:MESSAGE_LIMIT]


def _date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value[:HEADER_LIMIT])
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
