"""A run tells those who are to hear of it, in counts; it never waits long for them, and never shows where they are."""

import asyncio
import email
import email.policy
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Shop, batchupload, command, environment, under_way
from listening import guarded, listening, mailbox
from test_readme import README

from batchupload import notify
from batchupload.notice import MOST_BYTES, Notice, When, is_due, of_run, orders_of
from batchupload.sandbox import Sandbox, SandboxOptions, parse_fault
from batchupload.settings import NotifySettings
from batchupload.summary import Summary, Tally

SECRET = "Geheim-5up3rSecret"
CHANNELS = {
    "dingtalk://SECa1b2c3d4@{token}": "oapi.dingtalk.com",
    "feishu://{token}": "open.feishu.cn",
    "wecombot://{token}": "qyapi.weixin.qq.com",
    "lark://{token}": "open.larksuite.com",
}


@asynccontextmanager
async def trouble(shop: Shop, orders: int = 3) -> AsyncIterator[Sandbox]:
    """An endpoint that refuses the first of these orders, by the words that it has for that."""
    shop.orders(orders)
    shop.manifest()
    rules = (parse_fault("refused@HT000000"),)
    async with Sandbox(SandboxOptions(rules)) as server:
        yield server


async def run(
    shop: Shop, server: Sandbox, urls: str, *options: str, stdin: str = "", **env: str
) -> "subprocess.CompletedProcess[str]":
    """The program, kept on this machine, with these to tell."""
    settings = {"BATCHUPLOAD_ENDPOINT_URL": server.url, "BATCHUPLOAD_NOTIFY_URLS": urls, **env}
    done = await asyncio.to_thread(
        batchupload, "run", "orders.csv", *options,
        cwd=shop.folder, env=guarded(shop.folder / "home") | settings, stdin=stdin,
    )  # fmt: skip
    assert "LEFT LOOPBACK" not in done.stderr
    return done


def text_of(message: Any) -> str:
    return f"{message['title']}\n{message['message']}"


async def test_a_run_with_trouble_is_told_in_counts_that_name_nobody(shop: Shop) -> None:
    async with trouble(shop) as server, listening() as listener:
        done = await run(shop, server, "${HOOK}", "-vv", HOOK=listener.url(SECRET))
    assert done.returncode == 1, done.stderr
    (message,) = listener.messages
    assert message["type"] == "warning"
    told = text_of(message)
    assert "batchupload, " in message["title"]
    assert message["title"].endswith(": Finished: 3 rows, 1 needs a person.")
    assert "uploaded: 2\nrejected: 1 → read the endpoint's message" in told
    assert "1 × endpoint_refused: The endpoint understood the order and refused it" in told
    (report,) = shop.folder.glob("*.report-*.csv")
    assert f"Report: {report.name}\nPage: {report.with_suffix('.html').name}" in told
    assert "Exit code 1, run 1." in told
    for private in ("HT000000", "订单不存在", str(shop.folder), server.url):
        assert private not in told
    written = [path for path in shop.folder.iterdir() if path.is_file() and path.name != "orders.csv"]
    assert len(written) == 4
    for content in (*(path.read_bytes() for path in written), (done.stdout + done.stderr).encode()):
        assert SECRET.encode() not in content


async def test_a_chinese_run_is_told_in_chinese(shop: Shop) -> None:
    async with trouble(shop) as server, listening() as listener:
        done = await run(shop, server, listener.url(), "--lang", "zh", BATCHUPLOAD_NOTIFY_ORDERS="true")
    assert done.returncode == 1, done.stderr
    (message,) = listener.messages
    told = message["message"]
    assert message["title"].endswith("：已完成：3 行，1 项需人工处理。")
    for words in (
        "uploaded 已上传：2\nrejected 被拒：1 → 看接口的 message\n",
        "1 × endpoint_refused：接口理解了订单但拒绝了它",
        "\n退出码 1，第 1 次运行。",
        "HT000000: rejected 被拒，endpoint_refused: 订单不存在",
    ):
        assert words in told
    assert not re.search("[a-z]{2,} [a-z]{2,} [a-z]{2,}", told)


@pytest.mark.parametrize(
    ("when", "options", "refused", "told"),
    [
        ("trouble", (), True, True),
        ("trouble", (), False, False),
        ("always", (), False, True),
        ("never", (), True, False),
        ("trouble", ("--notify", "always"), False, True),
        ("always", ("--notify", "never"), True, False),
        pytest.param("always", ("--dry-run",), True, False, marks=pytest.mark.idle_faults),
    ],
)
async def test_it_is_told_of_trouble_or_always_or_never(
    shop: Shop, when: str, options: Sequence[str], refused: bool, told: bool
) -> None:
    shop.orders(2)
    shop.manifest()
    rules = (parse_fault("refused@HT000000"),) if refused else ()
    async with Sandbox(SandboxOptions(rules)) as server, listening() as listener:
        done = await run(shop, server, listener.url(), *options, BATCHUPLOAD_NOTIFY_WHEN=when)
    assert done.returncode == int(refused and "--dry-run" not in options), done.stderr
    assert len(listener.heard) == int(told)
    if told:
        assert listener.messages[0]["type"] == ("warning" if refused else "success")


@pytest.mark.parametrize(
    ("code", "begun", "attended", "due"),
    [
        (0, True, False, False),
        *((code, True, attended, True) for code in (1, 3, 5) for attended in (True, False)),
        *((code, True, False, False) for code in (129, 130, 143)),
        *((code, False, False, True) for code in (2, 4, 5)),
        *((code, False, True, False) for code in (2, 4, 5)),
    ],
)
def test_what_a_person_asked_for_or_sees_is_no_trouble(code: int, begun: bool, attended: bool, due: bool) -> None:
    assert is_due("trouble", code, begun=begun, attended=attended) is due
    whens: tuple[When, ...] = ("always", "never")
    assert [is_due(when, code, begun=begun, attended=attended) for when in whens] == [True, False]


@pytest.mark.parametrize(("mask", "shown"), [("false", "HT000000"), ("true", "…0000")])
async def test_orders_that_need_a_person_are_named_where_that_is_wanted(shop: Shop, mask: str, shown: str) -> None:
    async with trouble(shop) as server, listening() as listener:
        env = {"BATCHUPLOAD_NOTIFY_ORDERS": "true", "BATCHUPLOAD_LOG_MASK_ORDERS": mask}
        await run(shop, server, listener.url(), **env, BATCHUPLOAD_NOTIFY_NAME="night shift")
    (message,) = listener.messages
    assert message["title"].startswith("batchupload, night shift: ")
    assert message["message"].endswith(f"\n\n{shown}: rejected, endpoint_refused: 订单不存在")
    assert "HT000001" not in message["message"]


def test_only_ten_orders_are_named_and_the_text_stays_short() -> None:
    row = {"order_id": "HT" + "9" * 62, "outcome": "rejected", "reason": "endpoint_refused", "message": "请" * 500}
    lines = orders_of([{**row, "outcome": "uploaded"}, *[row] * 12], mask=False)
    assert len(lines) == 11
    assert lines[-1] == "… and more: see the report"
    body = of_run(Summary(Tally(), 1.0, Path("/secret/place/r.csv"), checked_only=False), "here", lines).body
    assert len(body.encode()) <= MOST_BYTES
    assert "Report: r.csv" in body
    assert "/secret" not in body


@pytest.mark.parametrize(("url", "host"), CHANNELS.items(), ids=CHANNELS.values())
async def test_the_chats_get_it_in_their_own_form_and_nothing_gets_past_the_proxy(
    shop: Shop, tmp_path: Path, url: str, host: str
) -> None:
    """Their hosts are fixed: a proxy on loopback answers for them, with a certificate that this test made."""
    if not (openssl := shutil.which("openssl")):
        pytest.skip("no openssl here")
    words = [
        openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=test", "-addext", f"subjectAltName=DNS:{host}", "-keyout", "key.pem", "-out", "tls.pem",
    ]  # fmt: skip
    subprocess.run(words, check=True, capture_output=True, timeout=60, cwd=tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "tls.pem", tmp_path / "key.pem")
    token = "a1b2c3d4" * 4
    async with trouble(shop) as server, listening(tls=tls) as proxy:
        env = {"https_proxy": f"http://127.0.0.1:{proxy.port}", "REQUESTS_CA_BUNDLE": str(tmp_path / "tls.pem")}
        done = await run(shop, server, url.format(token=token), **env)
    assert (done.returncode, done.stderr.count("got through")) == (1, 0), done.stderr
    ((where, message),) = proxy.heard
    assert where.startswith(host)
    assert token in where
    assert "3 rows, 1 needs a person" in str(message)


def test_the_addresses_of_the_readme_are_taken(shop: Shop) -> None:
    chapter = README[README.index("### Telling people") : README.index("## Outcomes")]
    forms = re.findall(r"(?:`|- )(\w+://[^`\s]+)", chapter)
    assert {form.partition(":")[0] for form in forms} >= {"dingtalk", "wecombot", "feishu", "lark", "mailtos", "jsons"}
    words = {"SECRET": "SECa1b2c3d4", "FROM": "a@shop.example", "TO": "b@shop.example", "${MAIL_PASSWORD}": "pw%40"}
    words |= {"USER": "batch", "PASSWORD": "pw", "HOST": "smtp.shop.example"} | dict.fromkeys(
        ("TOKEN", "KEY"), "a1b2c3d4" * 4
    )
    for word, value in words.items():
        forms = [re.sub(rf"(?<![A-Z_]){re.escape(word)}(?![A-Z_])", value, form) for form in forms]
    shop.write("config.yaml", yaml.safe_dump({"notify": {"urls": forms}}).encode())
    done = batchupload("doctor", cwd=shop.folder, env=guarded(shop.folder / "home"))
    assert f"ok       notify    notify.urls 1 ({forms[0].partition(':')[0]}), " in done.stdout, done.stdout
    assert f"notify.urls {len(forms)} (" in done.stdout


async def test_a_mail_is_sent_with_the_verdict_as_its_subject(shop: Shop) -> None:
    async with trouble(shop) as server, mailbox() as box:
        url = f"mailto://127.0.0.1:{box.port}?from=batch@shop.example&to=night@shop.example&retry=0"
        done = await run(shop, server, url, BATCHUPLOAD_NOTIFY_NAME="夜班")
    assert "got through" not in done.stderr
    ((to, mail),) = box.heard
    assert "<night@shop.example>" in to
    read = email.message_from_bytes(mail, policy=email.policy.default)
    assert read["Subject"] == "batchupload, 夜班: Finished: 3 rows, 1 needs a person."
    body = read.get_body()
    assert body
    assert "endpoint_refused" in body.get_content()


@pytest.mark.parametrize(
    ("status", "more"), [("500 Error", ""), ("302 Found", "Location: http://127.0.0.1:9/elsewhere\r\n")]
)
async def test_who_can_not_be_told_is_named_by_place_and_changes_nothing_else(
    shop: Shop, status: str, more: str
) -> None:
    async with trouble(shop) as server, listening(status, more=more) as broken, listening() as good:
        urls = f"{broken.url(SECRET)} {good.url(SECRET)}"
        done = await run(shop, server, urls, "-q", "-vv")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "got through" in line]
    assert line == "batchupload: notify.urls 1 (json): no message got through: it can't be reached, or refused it."
    assert len(good.heard) == 1
    assert SECRET not in done.stderr + done.stdout


async def test_a_server_that_never_answers_does_not_hold_the_run(shop: Shop) -> None:
    async with trouble(shop) as server, listening(hangs=True) as listener:
        done = await run(shop, server, listener.url(more="&rto=0.5"))
    assert done.returncode == 1
    assert "no message got through" in done.stderr
    assert "Report: " in done.stdout


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what the library imports
def test_the_time_for_all_messages_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = [f"json://127.0.0.1:{silent.getsockname()[1]}/{SECRET}"] * 2
        told = notify.channels(NotifySettings.model_validate({"urls": urls}), {})
        failures = notify.Delivery(told, Notice("a", "b", trouble=True)).failures()
    assert [line.partition(":")[0] for line in failures] == ["notify.urls 1 (json)", "notify.urls 2 (json)"]
    assert SECRET not in str(failures)


async def test_a_signal_gives_up_the_message_and_leaves_the_exit_code(shop: Shop) -> None:
    async with trouble(shop) as server, listening(hangs=True) as listener:
        settings = {
            "BATCHUPLOAD_ENDPOINT_URL": server.url,
            "BATCHUPLOAD_NOTIFY_URLS": listener.url(more="&rto=19"),
            **guarded(shop.folder / "home"),
        }
        words = command("run", "orders.csv")
        async with under_way(words, shop.folder, environment(settings), listener.asked.is_set) as process:
            assert process.stderr
            while b"gives that up" not in (line := await asyncio.wait_for(process.stderr.readline(), 60)):
                assert line
            process.send_signal(signal.SIGTERM)
            _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert b"no message got through: given up, as asked." in err


async def test_a_run_that_can_not_begin_is_told_without_its_paths(shop: Shop) -> None:
    async with Sandbox(SandboxOptions()) as server, listening() as listener:
        done = await run(shop, server, listener.url())
    assert done.returncode == 2
    assert "orders.csv" in done.stderr
    (message,) = listener.messages
    assert message["title"].endswith(": a run could not begin.")
    assert message["message"].startswith("Exit code 2: wrong usage, config or manifest: nothing was sent.")
    assert "orders.csv" not in message["message"]


async def test_at_a_terminal_a_run_that_can_not_begin_is_nobody_elses_affair(shop: Shop) -> None:
    async with listening() as listener:
        outside, inside = os.openpty()
        env = environment({**guarded(shop.folder / "home"), "BATCHUPLOAD_NOTIFY_URLS": listener.url()})
        words = command("run", "absent.csv", "--endpoint", "http://127.0.0.1:9/")
        shop.folder.mkdir(exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            *words, cwd=shop.folder, env=env, stdin=inside, stderr=asyncio.subprocess.PIPE
        )
        _, err = await asyncio.wait_for(process.communicate(), 60)
        os.close(inside)
        os.close(outside)
    assert process.returncode == 2, err
    assert listener.heard == []


@pytest.mark.parametrize(
    ("urls", "told"),
    [
        ("${HOOK_" + "NOT_SET}", "notify.urls 1: HOOK_NOT_SET is not set in the environment. Set it, or"),
        ("json://127.0.0.1/ok ${EMPTY}", "notify.urls 2: EMPTY is not set in the environment"),
        ("${with space}", "notify.urls"),
        (f"nosuch://{SECRET}", "notify.urls 1 (nosuch): not an address that Apprise takes."),
        (f"wecombot://{SECRET}!!!", "notify.urls 1 (wecombot): not an address that Apprise takes."),
        (SECRET, "notify.urls: address 1 must be of the form scheme://…, or ${NAME}"),
        ("${WITHOUT}", "notify.urls 1 (no scheme): not an address that Apprise takes."),
        (f"{{a: '{SECRET}'}}", "notify.urls: give a list, such as ['${DINGTALK_URL}']."),
        (f"[[{SECRET}]]", "notify.urls"),
    ],
)
def test_an_address_that_can_not_be_used_is_named_before_anything_is_sent(shop: Shop, urls: str, told: str) -> None:
    shop.orders(1)
    shop.manifest()
    env = guarded(shop.folder / "home") | {"BATCHUPLOAD_NOTIFY_URLS": urls, "EMPTY": " ", "WITHOUT": SECRET}
    done = batchupload("run", "orders.csv", "--endpoint", "http://127.0.0.1:9/", cwd=shop.folder, env=env)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr + done.stdout
    assert not list(shop.folder.glob("*.report-*"))


@pytest.mark.parametrize(
    "text",
    [f"notify: '{SECRET}'", f"notify: ['{SECRET}']", f"notify: {{url: '{SECRET}'}}", f"notify: {{when: {SECRET}}}"],
)
def test_a_mistake_in_the_config_never_shows_the_address(shop: Shop, text: str) -> None:
    shop.write("config.yaml", text.encode())
    done = batchupload("run", "orders.csv", "--endpoint", "http://127.0.0.1:9/", cwd=shop.folder)
    assert done.returncode == 2
    assert "config.yaml, line 1: notify" in done.stderr
    assert SECRET not in done.stderr


def test_without_the_extra_it_says_how_to_get_it(shop: Shop) -> None:
    shop.orders(1)
    shop.manifest()
    env = guarded(shop.folder / "home") | {"BATCHUPLOAD_NOTIFY_URLS": "json://127.0.0.1/"}
    shop.write("home/apprise.py", b"raise ImportError('not here')")
    done = batchupload("run", "orders.csv", "--endpoint", "http://127.0.0.1:9/", cwd=shop.folder, env=env)
    assert done.returncode == 2
    assert "pip install 'batchupload[notify]'" in done.stderr


async def test_by_hand_a_message_can_be_sent_and_the_doctor_looks_at_the_addresses(shop: Shop) -> None:
    shop.write("config.yaml", b"notify: {urls: ['${HOOKS}', '${BROKEN}'], name: shop 7}\n")
    async with listening() as good, listening("403 No") as broken:
        hooks = f"{good.url(SECRET)} {good.url(SECRET)}"
        env = guarded(shop.folder / "home") | {"HOOKS": hooks, "BROKEN": broken.url(SECRET)}
        done = await asyncio.to_thread(batchupload, "notify", cwd=shop.folder, env=env)
        looked = await asyncio.to_thread(batchupload, "doctor", cwd=shop.folder, env=env)
        chinese = await asyncio.to_thread(batchupload, "notify", "--lang", "zh", cwd=shop.folder, env=env)
        del env["HOOKS"]
        unset = await asyncio.to_thread(batchupload, "doctor", "--json", cwd=shop.folder, env=env)
    assert done.returncode == 1
    assert done.stdout == "notify.urls 1 (json): handed over\n" * 2
    assert "notify.urls 2 (json): no message got through" in done.stderr
    assert (chinese.returncode, chinese.stdout) == (1, "notify.urls 1 (json)：已交给对方\n" * 2)
    assert "notify.urls 2 (json)：消息没有送达：" in chinese.stderr
    titles = ["batchupload, shop 7: a test message."] * 2 + ["batchupload，shop 7：测试消息。"] * 2
    assert [message["title"] for message in good.messages] == titles
    assert "ok       notify    notify.urls 1 (json), " in looked.stdout
    assert "HOOKS is not set in the environment" in unset.stdout
    assert SECRET not in done.stdout + done.stderr + looked.stdout + looked.stderr + unset.stdout
    nobody = batchupload("notify", cwd=shop.folder, env={"BATCHUPLOAD_NOTIFY_WHEN": "never"})
    assert nobody.returncode == 2
    assert "nobody is to be told" in nobody.stderr
