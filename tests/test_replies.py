"""What a reply proves: a table, and the rule that an acceptance is only ever read from the endpoint's own words."""

import json
import zlib
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientResponse
from aioresponses import aioresponses
from conftest import picture
from hypothesis import given
from hypothesis import strategies as st

from batchupload.endpoint import Endpoint
from batchupload.model import Cause, Finding, NoReply, Phase, Photo, PhotoSet, Reply, Verdict
from batchupload.settings import TimeoutSettings
from batchupload.shop_settings import EndpointSettings, ReplyRule
from batchupload.verdict import judge, retry_after

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OK = '{"code":200,"msg":"提交成功"}'.encode()


def finding(body: bytes, status: int = 200, *, whole: bool = True, rules: Any = (), **more: Any) -> Finding:
    return judge(Reply(status, body, **more), whole, [ReplyRule.model_validate(rule) for rule in rules], NOW, 300.0)


READ_AS = {
    OK: "accepted",
    b'{"code":"200"}': "accepted",
    b' \r\n{ "code" : 200 }\n': "accepted",
    b"\xef\xbb\xbf" + OK: "accepted",
    '{"code":200,"msg":"提交成功"}'.encode("gb18030"): "accepted",
    json.dumps({"code": 200, "msg": "提交成功"}).encode(): "accepted",
    b"<br />\n<b>Warning</b>:  x in <b>/a.php</b> on line <b>3</b><br />\n" + OK: "accepted",
    b"\nNotice: {closure}() in a.php on line 3\n" + OK: "accepted",
    b"PHP Warning: a > b" + OK: "unknown",
    b'{"code":400,"msg":"no"}': "rejected",
    b'{"code":"400"}': "rejected",
    b'{"code":0}': "rejected",
    b'{"code":-1}': "rejected",
    b'{"code":200.0}': "unknown",
    b'{"code":"200.0"}': "unknown",
    b'{"code":true}': "unknown",
    b'{"code":null}': "unknown",
    b'{"code":"ok"}': "unknown",
    b'{"code":[200]}': "unknown",
    b'{"msg":"ok"}': "unknown",
    b"{}": "unknown",
    b"[]": "unknown",
    b"200": "unknown",
    b'"code":200': "unknown",
    b"": "unknown",
    OK[:-1]: "unknown",
    OK + b"x": "unknown",
    OK + OK: "unknown",
    b'{"code":400,"code":200}': "unknown",
    b'{"code":200,"code":200}': "unknown",
    b'{"code":NaN}': "unknown",
    b'{"code":400,"data":{"code":200}}': "rejected",
    b'{"code":400,"data":{"code":200}': "unknown",
    b'{"code":400,"data":\n{"code":200}': "unknown",
    b'[{"code":400},\n{"code":200}': "unknown",
    b"<html><title>502</title></html>": "unknown",
    b'{"code":' + b"9" * 5000 + b"}": "unknown",
    b"\xff\xfe\xfd": "unknown",
}
MEANS = {
    Verdict.ACCEPTED: "accepted",
    Verdict.REJECTED: "rejected",
    Verdict.AMBIGUOUS: "unknown",
    Verdict.RETRY: "retry",
    Verdict.MISADDRESSED: "address",
}


@pytest.mark.parametrize("body", READ_AS)
def test_bodies(body: bytes) -> None:
    assert MEANS[finding(body).verdict] == READ_AS[body]


STATUSES = {
    **dict.fromkeys([200, 201, 204, 299], "unknown"),
    **dict.fromkeys([300, 301, 302, 303, 304, 307, 308], "address"),
    **dict.fromkeys([401, 403, 404, 405], "address"),
    **dict.fromkeys([400, 402, 406, 411, 413, 414, 415, 418, 422, 451], "rejected"),
    **dict.fromkeys([408, 425, 429, 503], "retry"),
    **dict.fromkeys([500, 501, 502, 504, 505, 520, 599], "unknown"),
}


class ScriptedResponse(ClientResponse):
    """What aioresponses builds lacks an argument that newer versions of aiohttp need."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"stream_writer": SimpleNamespace(output_size=0), **options})


@pytest.mark.parametrize("status", STATUSES)
async def test_a_status_decides_where_the_body_is_not_the_endpoints(status: int) -> None:
    url = "http://127.0.0.1:9/upload"
    photo_set = PhotoSet((Photo("face", picture("face"), "image/jpeg"),), b"")
    settings = EndpointSettings(url=url)
    with aioresponses() as script:
        script.post(url, status=status, body=b"<html>nginx</html>", response_class=ScriptedResponse)
        async with Endpoint(settings, TimeoutSettings()) as endpoint:
            reply = await endpoint.send(endpoint.prepare("HT0001", photo_set))
    assert isinstance(reply, Reply)
    assert MEANS[judge(reply, True, (), NOW, 300.0).verdict] == STATUSES[status]


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500, 502])
def test_the_code_in_the_body_decides_over_the_status(status: int) -> None:
    assert finding(OK, status).verdict is Verdict.ACCEPTED
    assert finding(b'{"code":400,"msg":"no"}', status).verdict is Verdict.REJECTED


def test_a_code_that_only_repeats_a_passing_status_is_no_refusal() -> None:
    assert finding(b'{"code":503}', 503).verdict is Verdict.RETRY
    assert finding(b'{"code":429}', 429).verdict is Verdict.RETRY
    assert finding(b'{"code":502}', 502).verdict is Verdict.AMBIGUOUS
    assert finding(b'{"code":503}', 200).verdict is Verdict.REJECTED


def test_an_acceptance_before_the_whole_upload_is_not_believed() -> None:
    assert finding(OK, whole=False).verdict is Verdict.AMBIGUOUS
    assert finding(b"", 502, whole=False).verdict is Verdict.RETRY
    assert finding(b"", 413, whole=False).verdict is Verdict.REJECTED


@pytest.mark.parametrize(
    ("phase", "cause", "whole", "verdict"),
    [
        (Phase.CONNECT, Cause.REFUSED, False, "retry"),
        (Phase.CONNECT, Cause.DNS, False, "retry"),
        (Phase.CONNECT, Cause.TIMEOUT, False, "retry"),
        (Phase.CONNECT, Cause.BROKEN, False, "retry"),
        (Phase.CONNECT, Cause.TLS, False, "address"),
        (Phase.BODY, Cause.BROKEN, False, "retry"),
        (Phase.BODY, Cause.TIMEOUT, False, "retry"),
        (Phase.BODY, Cause.TIMEOUT, True, "unknown"),
        (Phase.BODY, Cause.BROKEN, True, "unknown"),
        (Phase.REPLY, Cause.BROKEN, True, "unknown"),
        (Phase.REPLY, Cause.TIMEOUT, True, "unknown"),
        (Phase.REPLY, Cause.MALFORMED, True, "unknown"),
    ],
)
def test_silence(phase: Phase, cause: Cause, whole: bool, verdict: str) -> None:
    assert MEANS[judge(NoReply(phase, cause), whole, (), NOW, 300.0).verdict] == verdict


def test_rules_come_first_and_the_first_match_wins() -> None:
    rules = [
        {"code": 400, "message": "繁忙|稍后", "then": "retry"},
        {"message": "已上传", "then": "accept"},
        {"code": 200, "then": "reject"},
    ]
    assert finding('{"code":400,"msg":"系统繁忙"}'.encode(), rules=rules).verdict is Verdict.RETRY
    assert finding('{"code":400,"msg":"该订单已上传"}'.encode(), rules=rules).verdict is Verdict.ACCEPTED
    assert finding('{"msg":"已上传"}'.encode(), rules=rules).verdict is Verdict.ACCEPTED
    assert finding(OK, rules=rules).verdict is Verdict.REJECTED
    assert finding(b'{"code":400,"msg":"other"}', rules=rules).verdict is Verdict.REJECTED


def test_the_endpoints_words_are_kept_on_one_line() -> None:
    found = finding('{"code":400,"msg":"三张照片\\r\\n必须\\u0000全部上传!"}'.encode())
    assert (found.code, found.message) == ("400", "三张照片 必须 全部上传!")
    assert finding(b'{"code":400,"message":{"a":1}}').message == '{"a": 1}'
    assert finding("<html><title>\n系统维护中</title>".encode()).message == "系统维护中"
    assert len(finding(b'{"code":400,"msg":"' + b"x" * 5000 + b'"}').message) == 500


@pytest.mark.parametrize("wbits", [31, 15, -15])
def test_compressed_replies(wbits: int) -> None:
    packer = zlib.compressobj(wbits=wbits)
    body = packer.compress(OK) + packer.flush()
    name = "gzip" if wbits == 31 else "deflate"
    assert finding(body, content_encoding=name).verdict is Verdict.ACCEPTED
    assert finding(body[:-5], content_encoding=name).verdict is Verdict.AMBIGUOUS


@pytest.mark.parametrize(
    ("header", "date", "seconds"),
    [
        ("0", "", 0.0),
        ("120", "", 120.0),
        (" 7 ", "", 7.0),
        ("1.5", "", 1.5),
        ("99999999999", "", 300.0),
        ("Fri, 02 Jan 2026 03:04:15 GMT", "", 10.0),
        ("Fri, 02 Jan 2026 03:04:00 GMT", "", 0.0),
        ("Fri, 02 Jan 2099 03:04:00 GMT", "", 300.0),
        ("Fri, 02 Jan 2026 09:00:10 GMT", "Fri, 02 Jan 2026 09:00:00 GMT", 10.0),
        ("soon", "", None),
        ("", "", None),
        ("-5", "", None),
        ("1e3", "", None),
        ("NaN", "", None),
        ("Fri, 99 Jan 2026", "", None),
        ("١٢", "", None),
    ],
)
def test_retry_after(header: str, date: str, seconds: float | None) -> None:
    assert retry_after(Reply(503, retry_after=header, date=date), NOW, 300.0) == seconds


@given(st.binary(max_size=300), st.integers(200, 599), st.booleans(), st.sampled_from(["", "gzip", "deflate", "br"]))
def test_any_reply_has_a_verdict(body: bytes, status: int, whole: bool, encoding: str) -> None:
    found = finding(body, status, whole=whole, content_encoding=encoding)
    assert found.verdict is not Verdict.ACCEPTED or b"200" in body


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(200) | st.just("200"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["code", "msg", "data"]), inner),
    max_leaves=8,
)


@given(JSON, st.sampled_from(["", "<br />\n", "Warning\n", "\ufeff"]), st.integers(0, 5))
def test_only_a_code_of_200_at_the_top_is_an_acceptance(value: Any, front: str, cut: int) -> None:
    text = json.dumps(value)
    found = finding((front + text[: len(text) - cut]).encode())
    accepted = isinstance(value, dict) and value.get("code") in (200, "200") and not isinstance(value["code"], float)
    assert (found.verdict is Verdict.ACCEPTED) <= (accepted and cut == 0)
    if accepted and cut == 0 and "NaN" not in text and "Infinity" not in text:
        assert found.verdict is Verdict.ACCEPTED


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_retry_after_is_seconds_within_the_cap_or_nothing(header: str, date: str) -> None:
    seconds = retry_after(Reply(503, retry_after=header, date=date), NOW, 300.0)
    assert seconds is None or 0 <= seconds <= 300
