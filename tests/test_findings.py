"""What a reply or a silence proves, in full: its verdict, reason, status, code, message and wait, as tables."""

import gzip
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from batchupload.model import Cause, Finding, NoReply, Phase, Reply, Verdict
from batchupload.reasons import Reason
from batchupload.shop_settings import ReplyRule
from batchupload.verdict import UNPACKED_LIMIT, judge, retry_after

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CAP = 300.0
OK = '{"code":200,"msg":"提交成功"}'
PAGE = b"<html><head><title>nginx</title></head></html>"
WARNING = "<br />\n<b>Warning</b>:  x in <b>/a.php</b> on line <b>3</b><br />\n"


def finding(body: bytes | str, status: int = 200, *, whole: bool = True, rules: Any = (), **more: Any) -> Finding:
    content = body.encode() if isinstance(body, str) else body
    return judge(Reply(status, content, **more), whole, [ReplyRule.model_validate(rule) for rule in rules], NOW, CAP)


# No reply

BEFORE_A_CONNECTION = {
    Cause.DNS: Reason.DNS_FAILED,
    Cause.REFUSED: Reason.CONNECTION_REFUSED,
    Cause.TIMEOUT: Reason.CONNECT_TIMEOUT,
    Cause.FILES_EXHAUSTED: Reason.FILES_EXHAUSTED,
    Cause.BROKEN: Reason.CONNECT_FAILED,
    Cause.MALFORMED: Reason.CONNECT_FAILED,
}
IN_THE_BODY = {
    Cause.TIMEOUT: Reason.UPLOAD_STALLED,
    Cause.BROKEN: Reason.UPLOAD_RESET,
    Cause.MALFORMED: Reason.UPLOAD_RESET,
    Cause.DNS: Reason.UPLOAD_RESET,
    Cause.REFUSED: Reason.UPLOAD_RESET,
    Cause.FILES_EXHAUSTED: Reason.UPLOAD_RESET,
}
AFTER_THE_BODY = {
    Cause.TIMEOUT: Reason.REPLY_TIMEOUT,
    Cause.MALFORMED: Reason.REPLY_MALFORMED,
    Cause.BROKEN: Reason.REPLY_LOST,
    Cause.DNS: Reason.REPLY_LOST,
    Cause.REFUSED: Reason.REPLY_LOST,
    Cause.FILES_EXHAUSTED: Reason.REPLY_LOST,
}


@pytest.mark.parametrize("cause", BEFORE_A_CONNECTION)
def test_silence_proves_what_the_endpoint_can_have_had_by_then(cause: Cause) -> None:
    def found(phase: Phase, *, whole: bool) -> Finding:
        return judge(NoReply(phase, cause), whole, (), NOW, CAP)

    assert found(Phase.CONNECT, whole=False) == Finding(Verdict.RETRY, BEFORE_A_CONNECTION[cause])
    assert found(Phase.BODY, whole=False) == Finding(Verdict.RETRY, IN_THE_BODY[cause])
    assert found(Phase.REPLY, whole=False) == Finding(Verdict.RETRY, IN_THE_BODY[cause])
    assert found(Phase.BODY, whole=True) == Finding(Verdict.AMBIGUOUS, AFTER_THE_BODY[cause])
    assert found(Phase.REPLY, whole=True) == Finding(Verdict.AMBIGUOUS, AFTER_THE_BODY[cause])


@pytest.mark.parametrize(
    ("cause", "reason", "message"),
    [
        (Cause.TLS, Reason.TLS_FAILED, ""),
        (Cause.CERTIFICATE_NOT_YET_VALID, Reason.CERTIFICATE_DATE, "the certificate is not valid yet; "),
        (Cause.CERTIFICATE_EXPIRED, Reason.CERTIFICATE_DATE, "the certificate has expired; "),
    ],
)
@pytest.mark.parametrize("phase", Phase)
def test_a_certificate_that_is_not_trusted_is_a_wrong_address_and_names_the_clock(
    cause: Cause, reason: Reason, message: str, phase: Phase
) -> None:
    clock = f"this machine's clock says {NOW.astimezone():%Y-%m-%d %H:%M:%S %z}"
    said = message and message + clock
    assert judge(NoReply(phase, cause), False, (), NOW, CAP) == Finding(Verdict.MISADDRESSED, reason, message=said)


# The status alone

BY_STATUS = {
    **dict.fromkeys([101, 200, 299], (Verdict.AMBIGUOUS, Reason.REPLY_UNREADABLE)),
    **dict.fromkeys([300, 307, 399], (Verdict.MISADDRESSED, Reason.REDIRECTED)),
    **dict.fromkeys([401, 403, 404, 405], (Verdict.MISADDRESSED, Reason.WRONG_ADDRESS)),
    **dict.fromkeys([400, 402, 406, 499], (Verdict.REJECTED, Reason.HTTP_REFUSED)),
    413: (Verdict.REJECTED, Reason.BODY_TOO_LARGE),
    408: (Verdict.RETRY, Reason.REQUEST_TIMEOUT),
    425: (Verdict.RETRY, Reason.TOO_EARLY),
    429: (Verdict.RETRY, Reason.RATE_LIMITED),
    503: (Verdict.RETRY, Reason.UNAVAILABLE),
    **dict.fromkeys([500, 502, 504, 599, 600], (Verdict.AMBIGUOUS, Reason.SERVER_ERROR)),
}


@pytest.mark.parametrize("status", BY_STATUS)
def test_a_page_proves_what_its_status_says(status: int) -> None:
    verdict, reason = BY_STATUS[status]
    assert finding(PAGE, status) == Finding(verdict, reason, status, "", "nginx")
    assert finding(b"", status) == Finding(verdict, reason, status, "", "")
    if reason is Reason.SERVER_ERROR:
        verdict = Verdict.RETRY  # of an unfinished upload nothing was accepted
    assert finding(PAGE, status, whole=False) == Finding(verdict, reason, status, "", "nginx")


@pytest.mark.parametrize("status", BY_STATUS)
def test_json_without_a_code_proves_what_its_status_says(status: int) -> None:
    verdict, reason = BY_STATUS[status]
    if reason is Reason.REPLY_UNREADABLE:
        reason = Reason.REPLY_WITHOUT_CODE
    assert finding('{"msg":"so"}', status) == Finding(verdict, reason, status, "", "so")
    assert finding('{"code":null,"message":"so"}', status) == Finding(verdict, reason, status, "", "so")


@pytest.mark.parametrize("cut", [Reason.REPLY_TOO_LARGE, Reason.REPLY_LOST, Reason.REPLY_TIMEOUT])
def test_a_reply_that_is_not_whole_says_why_and_is_not_read(cut: Reason) -> None:
    assert finding(OK, cut=cut) == Finding(Verdict.AMBIGUOUS, cut, 200)
    assert finding(PAGE, 404, cut=cut) == Finding(Verdict.MISADDRESSED, Reason.WRONG_ADDRESS, 404)


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("<title>a</title>", "a"),
        ('<TITLE lang="en"> a \n b </TITLE>', "a b"),
        (" " * 16_300 + "<title>a</title>", "a"),
        (" " * 16_380 + "<title>a</title>", ""),
        ("<p>no title</p>", ""),
    ],
)
def test_the_title_of_a_page_is_its_message(page: str, title: str) -> None:
    assert finding(page, 502).message == title


# The endpoint's code

BY_CODE = {
    ("200", 200): (Verdict.ACCEPTED, Reason.ACCEPTED, "200"),
    ('" 200 "', 200): (Verdict.ACCEPTED, Reason.ACCEPTED, "200"),
    ("400", 200): (Verdict.REJECTED, Reason.ENDPOINT_REFUSED, "400"),
    ("404", 404): (Verdict.REJECTED, Reason.ENDPOINT_REFUSED, "404"),
    ("413", 413): (Verdict.REJECTED, Reason.ENDPOINT_REFUSED, "413"),
    ("499", 499): (Verdict.REJECTED, Reason.ENDPOINT_REFUSED, "499"),
    ("503", 200): (Verdict.REJECTED, Reason.ENDPOINT_REFUSED, "503"),
    ("502", 500): (Verdict.REJECTED, Reason.ENDPOINT_REFUSED, "502"),
    ("503", 503): (Verdict.RETRY, Reason.UNAVAILABLE, "503"),
    ("429", 429): (Verdict.RETRY, Reason.RATE_LIMITED, "429"),
    ('"408"', 408): (Verdict.RETRY, Reason.REQUEST_TIMEOUT, "408"),
    ("500", 500): (Verdict.AMBIGUOUS, Reason.SERVER_ERROR, "500"),
    ("502", 502): (Verdict.AMBIGUOUS, Reason.SERVER_ERROR, "502"),
    ("0", 200): (Verdict.REJECTED, Reason.ENDPOINT_REFUSED, "0"),
    ('"-1"', 200): (Verdict.REJECTED, Reason.ENDPOINT_REFUSED, "-1"),
    ("999999999", 200): (Verdict.REJECTED, Reason.ENDPOINT_REFUSED, "999999999"),
    ("-999999999", 200): (Verdict.REJECTED, Reason.ENDPOINT_REFUSED, "-999999999"),
    ('"999999999"', 200): (Verdict.REJECTED, Reason.ENDPOINT_REFUSED, "999999999"),
    ("1000000000", 200): (Verdict.AMBIGUOUS, Reason.REPLY_WITHOUT_CODE, ""),
    ("-1000000000", 200): (Verdict.AMBIGUOUS, Reason.REPLY_WITHOUT_CODE, ""),
    ('"1000000000"', 200): (Verdict.AMBIGUOUS, Reason.REPLY_WITHOUT_CODE, ""),
    ('"0200"', 200): (Verdict.AMBIGUOUS, Reason.REPLY_WITHOUT_CODE, ""),
    ('"٢٠٠"', 200): (Verdict.AMBIGUOUS, Reason.REPLY_WITHOUT_CODE, ""),
    ("true", 200): (Verdict.AMBIGUOUS, Reason.REPLY_WITHOUT_CODE, ""),
}


@pytest.mark.parametrize(("code", "status"), BY_CODE)
def test_a_code_proves_what_it_says_unless_it_only_repeats_a_passing_status(code: str, status: int) -> None:
    verdict, reason, shown = BY_CODE[code, status]
    assert finding(f'{{"code":{code},"msg":"so"}}', status) == Finding(verdict, reason, status, shown, "so")


def test_a_code_that_repeats_an_error_before_the_whole_upload_is_certainly_no_acceptance() -> None:
    assert finding('{"code":500}', 500, whole=False) == Finding(Verdict.RETRY, Reason.SERVER_ERROR, 500, "500")


@pytest.mark.parametrize("more", [{"whole": False}, {"early": True}])
@pytest.mark.parametrize("rules", [(), [{"message": "成功", "then": "accept"}]])
def test_an_acceptance_that_came_too_early_is_none_and_keeps_its_words(more: dict[str, bool], rules: Any) -> None:
    early = Finding(Verdict.AMBIGUOUS, Reason.REPLY_TOO_EARLY, 200, "200", "提交成功", 7.0)
    assert finding(OK, rules=rules, retry_after="7", **more) == early
    refused = finding('{"code":400,"msg":"no"}', **more)
    assert refused == Finding(Verdict.REJECTED, Reason.ENDPOINT_REFUSED, 200, "400", "no")


@pytest.mark.parametrize(
    ("rule", "body", "verdict", "reason"),
    [
        ({"code": 400, "then": "accept"}, '{"code":400,"msg":"a"}', Verdict.ACCEPTED, Reason.ACCEPTED),
        ({"code": 200, "then": "reject"}, '{"code":200,"msg":"a"}', Verdict.REJECTED, Reason.ENDPOINT_REFUSED),
        ({"message": "^a", "then": "retry"}, '{"code":200,"msg":"a"}', Verdict.RETRY, Reason.ENDPOINT_BUSY),
        ({"message": "^a", "then": "retry"}, '{"code":200,"msg":"ba"}', Verdict.ACCEPTED, Reason.ACCEPTED),
        ({"message": "a", "then": "retry"}, '{"msg":"a"}', Verdict.RETRY, Reason.ENDPOINT_BUSY),
        ({"code": 400, "message": "a", "then": "retry"}, '{"code":200,"msg":"a"}', Verdict.ACCEPTED, Reason.ACCEPTED),
        ({"code": 200, "message": "b", "then": "retry"}, '{"code":200,"msg":"a"}', Verdict.ACCEPTED, Reason.ACCEPTED),
    ],
)
def test_a_rule_decides_if_all_that_it_names_is_there(
    rule: dict[str, Any], body: str, verdict: Verdict, reason: Reason
) -> None:
    said = json.loads(body)
    code = str(said.get("code", ""))
    assert finding(body, rules=[rule]) == Finding(verdict, reason, 200, code, said["msg"])


# One answer in a body

ANSWER = "accepted", "提交成功"
NONE = "ambiguous", ""


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (f"Warning: a\n{OK}", ANSWER),
        (f">{OK}", ANSWER),
        (f"x{OK}", NONE),
        (f"<p>\n{{}}\n{OK}", ANSWER),
        (f'{WARNING}{{"x"}}\n{OK}', ANSWER),
        (f'{WARNING}{{"x":1}}\n{OK}', NONE),
        (WARNING + '{"x"}\n' * 49 + OK, ANSWER),
        (WARNING + '{"x"}\n' * 50 + OK, NONE),
        (f'"warning\n{OK}', NONE),
        (f"[\n{OK}", NONE),
        (f'{WARNING}said {{"code":400}} before\n{OK}', NONE),
        (f"<p>busy</p>HTTP/1.1 200 OK\r\nServer: x\r\n\r\n{OK}", NONE),
        ('{"code":200,"msg":"","x":NaN}', NONE),
        ('{"code":200,"msg":"","x":-Infinity}', NONE),
        (f'{WARNING}{{"status":"error"\n{OK}', NONE),
        (f'{WARNING}{{"status"\n{OK}', NONE),
        (f'{WARNING}{{"status":[1,\n{OK}', NONE),
    ],
)
def test_an_answer_is_what_a_body_ends_with_unless_another_object_may_stand_before(
    body: str, read: tuple[str, str]
) -> None:
    found = finding(body)
    assert (found.verdict, found.message) == read
    assert found.reason in {Reason.ACCEPTED, Reason.REPLY_UNREADABLE}


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ('"a"', "a"),
        ("null", "null"),
        ('{"原因":1}', '{"原因": 1}'),
        (json.dumps(" " * 3000 + "a"), "a"),
        (json.dumps("a" + " " * 998 + "b"), "a b"),
        (json.dumps("a" + " " * 999 + "b"), "a"),
        (json.dumps("a\u2028\x85 \x1fb\n"), "a b"),
        (json.dumps("\ud83d"), "\ufffd"),
        (json.dumps("ab" * 1000), "ab" * 250),
    ],
)
def test_the_endpoints_words_are_one_line_of_at_most_500_characters(message: str, shown: str) -> None:
    assert finding(f'{{"code":400,"msg":{message}}}').message == shown
    assert finding(f'{{"code":400,"message":{message}}}').message == shown
    assert finding(f'{{"code":400,"msg":{message},"message":"other"}}').message == shown
    assert finding('{"code":400}').message == ""


@pytest.mark.parametrize("name", ["gzip", "x-gzip", "deflate", " GZip\t", "Deflate"])
def test_each_name_of_a_packed_reply_is_known(name: str) -> None:
    assert finding(gzip.compress(OK.encode()), content_encoding=name).verdict is Verdict.ACCEPTED
    unpacked = finding(OK, content_encoding=name)
    assert (unpacked.verdict, unpacked.reason) == (Verdict.AMBIGUOUS, Reason.REPLY_UNREADABLE)


@pytest.mark.parametrize("name", ["", "identity", "br", "gzip, br"])
def test_a_reply_that_is_packed_in_no_way_we_know_is_read_as_it_is(name: str) -> None:
    assert finding(OK, content_encoding=name).verdict is Verdict.ACCEPTED
    assert finding(gzip.compress(OK.encode()), content_encoding=name).verdict is Verdict.AMBIGUOUS


def test_a_packed_reply_is_read_up_to_a_size_and_says_if_it_is_larger_or_cut() -> None:
    def found(size: int, *, cut: int = 0) -> Finding:
        packed = gzip.compress(OK.encode() + b" " * (size - len(OK.encode())))
        return finding(packed[: len(packed) - cut], content_encoding="gzip")

    assert found(UNPACKED_LIMIT - 1).verdict is Verdict.ACCEPTED
    assert found(UNPACKED_LIMIT * 2) == Finding(Verdict.AMBIGUOUS, Reason.REPLY_TOO_LARGE, 200)
    assert found(100, cut=4) == Finding(Verdict.AMBIGUOUS, Reason.REPLY_UNREADABLE, 200)


# Whose wait counts


@pytest.mark.parametrize(
    ("body", "status", "asks"),
    [
        (OK, 200, False),
        (OK, 503, False),
        (PAGE, 503, True),
        (PAGE, 429, True),
        (PAGE, 502, True),
        (PAGE, 200, True),
        ('{"code":503}', 503, True),
        ('{"msg":"so"}', 200, True),
        ('{"code":400}', 200, True),
    ],
)
def test_whatever_is_no_acceptance_may_ask_for_a_wait(body: bytes | str, status: int, asks: bool) -> None:
    assert finding(body, status).retry_after is None
    assert finding(body, status, retry_after="7").retry_after == (7.0 if asks else None)
    assert finding(body, status, retry_after="0").retry_after == (0.0 if asks else None)
    assert finding(body, status, retry_after="soon").retry_after is None
    assert finding(body, status, retry_after="7").verdict is finding(body, status).verdict


@pytest.mark.parametrize(
    ("header", "date", "seconds"),
    [
        ("301", "", 300.0),
        ("300", "", 300.0),
        ("0.5", "", 0.5),
        ("1.123456789", "", 1.123456789),
        ("1.1234567890", "", None),
        ("9" * 18, "", 300.0),
        ("9" * 19, "", None),
        ("1.", "", None),
        ("Fri, 02 Jan 2026 03:04:15 -0000", "", 10.0),
        ("Fri, 02 Jan 2026 11:04:15 +0800", "", 10.0),
        ("Fri, 02 Jan 2026 03:04:05 GMT", "", 0.0),
        ("Fri, 02 Jan 2026 03:04:06 GMT", "", 1.0),
        ("Fri, 02 Jan 2026 03:04:15 GMT", "no date", 10.0),
        ("Fri, 02 Jan 2026 03:04:15 GMT", "Fri, 02 Jan 2026 03:04:15 GMT", 0.0),
        ("Fri, 02 Jan 2026 03:04:15 GMT", "Sat, 03 Jan 2026 03:04:15 GMT", 0.0),
    ],
)
def test_a_wait_is_seconds_or_a_date_by_the_endpoints_own_clock(header: str, date: str, seconds: float | None) -> None:
    assert retry_after(Reply(503, retry_after=header, date=date), NOW, CAP) == seconds
    assert finding(PAGE, 503, retry_after=header, date=date).retry_after == seconds
