"""The report page in a real browser: what a person does with it, what hostile values try, and a very long report."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Shop, batchupload, read_report
from reports import GOOD, KINDS, night, write_report
from test_page import HOSTILE

from batchupload.foreign import visible
from batchupload.model import PHOTO_FIELDS
from batchupload.page.make import make_page

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (it is in the test extra)")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM, DRIVER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome"),
    shutil.which("chromedriver"),
)
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium with its driver: apt-get install chromium chromium-driver"
)
PATIENCE = 60.0
"""Seconds, which only a loaded machine needs."""


class Tab:
    """A browser with one page in it, as its reader has it."""

    def __init__(self, driver: Any, downloads: Path) -> None:
        self.driver = driver
        self._downloads = downloads

    def open(self, page: Path) -> None:
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(page.as_uri())
        self.until(lambda: self.script("return document.documentElement.dataset.ready === 'true'"))

    def until(self, met: Callable[[], Any]) -> Any:
        end = time.monotonic() + PATIENCE
        while not (value := met()):
            assert time.monotonic() < end
            time.sleep(0.02)
        return value

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        texts: list[str] = self.script(
            "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)", selector
        )
        return texts

    def orders(self) -> list[str]:
        return self.texts("#table tbody .c-order")

    def search(self, words: str) -> None:
        field = self.find("#search")
        field.clear()
        field.send_keys(words)

    def download(self) -> Path:
        """What the button gives."""
        before = set(self._downloads.iterdir())
        self.find("#download").click()
        (made,) = self.until(lambda: {p for p in self._downloads.iterdir() if p.suffix == ".csv"} - before)
        return Path(made)

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> set[str]:
        """Addresses that it asked for, without those within the browser."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        urls = {
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        }
        return {url for url in urls if not url.startswith(("blob:", "data:", "chrome:", "chrome-untrusted:"))}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    downloads = tmp_path_factory.mktemp("downloads")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--window-size=1280,1000",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(PATIENCE)
    driver.set_script_timeout(PATIENCE)
    yield Tab(driver, downloads)
    driver.quit()


@pytest.fixture
def tab(browser: Tab, tmp_path: Path) -> Iterator[Tab]:
    """A page of a night of 400 rows, 40 of them left; at its end it has asked for nothing and complained of nothing."""
    page = make_page(write_report(tmp_path / "night.csv", night(400), ("客户",)))
    browser.open(page)
    yield browser
    assert browser.complaints() == []
    assert browser.requests() == {page.as_uri()}


def test_the_rows_that_are_left_are_shown_with_what_to_do(tab: Tab) -> None:
    left = [row for row in night(400) if row["outcome"] != "uploaded"]
    assert tab.find("#shown").text == "40 rows"
    assert tab.orders() == [row["order_id"] for row in left[:25]]
    at = next(n for n, row in enumerate(left) if row["outcome"] == "rejected")
    line = tab.texts(f"#table tbody tr:nth-child({at + 1}) td")
    assert line[:3] == [left[at]["line"], left[at]["order_id"], "rejected"]
    assert "The endpoint understood the order and refused it: read its message." in line[3]
    assert "订单不存在" in line[4]
    tab.find("#after").click()
    assert tab.orders() == [row["order_id"] for row in left[25:]]
    assert tab.find("#place").text == "26 – 40 of 40"
    assert not tab.find("#after").is_enabled()


def test_a_chinese_page_is_chinese_throughout(browser: Tab, tmp_path: Path) -> None:
    report = write_report(tmp_path / "night.csv", night(300))
    assert batchupload("page", report.name, "--lang", "zh", cwd=tmp_path).returncode == 0
    browser.open(report.with_suffix(".html"))
    assert browser.script("return document.documentElement.lang") == "zh-CN"
    browser.find("#table tbody button.more").click()
    browser.search("nothing has this")
    browser.until(lambda: browser.find("#none").is_displayed())
    browser.find("#clear").click()
    browser.until(lambda: browser.orders())
    told = browser.script(
        "document.querySelectorAll('dl.all, .id, bdi').forEach((e) => e.remove()); return document.body.innerText"
    )
    labels = browser.script(
        "return [...document.querySelectorAll('[aria-label], [placeholder]')]"
        ".map((e) => (e.ariaLabel || '') + (e.placeholder || ''))"
    )
    codes = r"batchupload( run)?|orders\.csv|[a-z]+(_[a-z]+)+"
    for text in [*told.splitlines(), *labels]:
        assert not re.search("[A-Za-z]{3,} [a-z]{2,}", re.sub(codes, "", text)), text
    assert "待处理的行" in told
    assert browser.complaints() == []


def test_a_search_finds_rows_by_any_cell(tab: Tab) -> None:
    left = [row for row in night(400) if row["outcome"] != "uploaded"]
    tab.search(left[7]["order_id"])
    tab.until(lambda: tab.orders() == [left[7]["order_id"]])
    tab.search("订单不存在  REFUSED")
    rejected = [row["order_id"] for row in left if row["outcome"] == "rejected"]
    tab.until(lambda: tab.orders() == rejected)
    assert tab.find("#shown").text == f"{len(rejected)} rows (of 40)"
    tab.search("张三 no such thing")
    tab.until(lambda: tab.find("#none").is_displayed())
    assert not tab.find("#download").is_enabled()
    tab.find("#clear").click()
    assert len(tab.orders()) == 25


def test_outcomes_and_reasons_filter(tab: Tab) -> None:
    left = [row for row in night(400) if row["outcome"] != "uploaded"]
    some = [row["order_id"] for row in left if row["outcome"] in {"failed", "unknown"}]
    for outcome in ("failed", "unknown"):
        button = tab.find(f"[data-outcome={outcome}]")
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
    assert tab.orders() == some[:25]
    assert tab.texts("#reason option")[0].startswith("All (")
    assert {text.split(" ")[0] for text in tab.texts("#reason option")[1:]} == {"unavailable", "reply_timeout"}
    tab.script(
        "const s = arguments[0]; s.value = 'unavailable'; s.dispatchEvent(new Event('change'))", tab.find("#reason")
    )
    assert tab.orders() == [row["order_id"] for row in left if row["outcome"] == "failed"][:25]
    tab.find("[data-outcome=failed]").click()  # only `unknown` is left, where that reason is not
    assert tab.find("#reason").get_attribute("value") == ""
    assert tab.orders() == [row["order_id"] for row in left if row["outcome"] == "unknown"][:25]


def test_columns_sort_by_click_and_by_key_and_say_so(tab: Tab) -> None:
    left = [row for row in night(400) if row["outcome"] != "uploaded"]

    def head(key: str) -> Any:
        return tab.find(f"#table th[data-key={key}]")

    assert head("line").get_attribute("aria-sort") == "ascending"
    head("time").find_element(By.TAG_NAME, "button").click()
    assert head("time").get_attribute("aria-sort") == "descending"
    assert head("line").get_attribute("aria-sort") is None
    slowest = sorted(left, key=lambda row: (-int(row["duration_ms"] or 0), int(row["line"])))
    assert tab.orders() == [row["order_id"] for row in slowest[:25]]
    head("time").find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert head("time").get_attribute("aria-sort") == "ascending"
    head("order").find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    head("order").find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    assert head("order").get_attribute("aria-sort") == "descending"
    assert tab.orders() == sorted((row["order_id"] for row in left), reverse=True)[:25]


def test_everything_can_be_reached_by_keyboard(tab: Tab) -> None:
    reached: list[str] = []
    for _ in range(25):
        tab.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(tab.script("const a = document.activeElement; return a.id || a.textContent"))
    for name in ("To the rows that are left", "search", "reason", "download", "Line", "Order", "Time", "All cells"):
        assert name in reached


def test_all_cells_of_a_row_open_and_close(tab: Tab) -> None:
    button = tab.find("#table .more")
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    cells = dict(zip(tab.texts(".all dt"), tab.texts(".all dd"), strict=True))
    row = next(row for row in night(400) if row["outcome"] != "uploaded")
    assert cells == {name: cell for name, cell in row.items() if cell}
    button.click()
    assert tab.texts(".all dt") == []


def test_what_is_shown_can_be_downloaded_as_a_manifest(browser: Tab, shop: Shop) -> None:
    good = shop.orders(3)
    rows = [
        {**GOOD, "line": str(n), "order_id": order, "outcome": "failed", "reason": "unavailable", "message": "=1+1",
         "备注": "=cmd()", "说明": 'a "quoted",\r\ncell', **{name: f"{order}/{name}.jpg" for name in PHOTO_FIELDS}}
        for n, order in enumerate(good, 2)
    ]  # fmt: skip
    rows += [{**GOOD, "line": "9", "order_id": "HT999999", "outcome": "invalid", "reason": "photo_missing"}, GOOD]
    report = write_report(shop.folder / "r.csv", rows, ("备注", "说明"))
    page = make_page(report)
    browser.open(page)
    browser.find("[data-outcome=failed]").click()
    file = browser.download()
    assert file.name.startswith("r.left")
    assert file.read_bytes().startswith(b"\xef\xbb\xbfline,order_id,outcome,")
    assert read_report(file) == read_report(report)[:3]  # cell by cell, with the marks that keep formulas from running
    again = shutil.copy(file, shop.folder / "again.csv")
    done = batchupload("check", again, "--only", "failed", "--report", "c.csv", cwd=shop.folder)
    assert done.returncode == 0
    checked = read_report(shop.folder / "c.csv")
    assert sorted((row["order_id"], row["reason"], row["备注"]) for row in checked) == [
        (order, "not_sent", "'=cmd()") for order in good
    ]
    assert browser.complaints() == []
    assert browser.requests() == {page.as_uri()}


def test_hostile_values_are_text_and_come_back_as_they_were(browser: Tab, tmp_path: Path) -> None:
    columns = ("order_id", "detail", "message", "code", "face", "back", "hand", "note")
    rows = [
        {**GOOD, "line": str(n), "outcome": "rejected", "reason": "endpoint_refused", "attempts": "2",
         **dict.fromkeys(columns, text)}
        for n, text in enumerate(HOSTILE, 2)
    ]  # fmt: skip
    rows += [{**GOOD, "line": str(n), "outcome": text, "reason": text} for n, text in enumerate(HOSTILE, 50)]
    report = write_report(tmp_path / "r.csv", rows, ("note", "</script><b>"))
    page = make_page(report)
    browser.open(page)
    names = "return [...new Set([...document.querySelectorAll('body *')].map((one) => one.localName))].sort()"
    markup = browser.script(names)
    assert not {"img", "b:not(.legend b)", "iframe"} & set(markup)
    assert browser.script("return document.scripts.length") == 2
    # NUL and what turns the direction are named, and the whole of a cell is there to be read.
    assert browser.orders()[0] == HOSTILE[0]
    for button in browser.driver.find_elements(By.CSS_SELECTOR, "#table .more"):
        browser.script("arguments[0].click()", button)
    shown = browser.texts(".all dd")
    for text in HOSTILE:
        assert visible(text) in shown
    assert set(browser.script(names)) - set(markup) <= {"dl", "dt", "dd"}
    assert read_report(browser.download()) == read_report(report)
    assert browser.script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.complaints() == []
    assert browser.requests() == {page.as_uri()}


def test_the_page_lets_nothing_in_or_out_even_if_something_got_into_it(browser: Tab, tmp_path: Path) -> None:
    browser.open(make_page(write_report(tmp_path / "r.csv", [GOOD])))
    refused = browser.driver.execute_async_script(
        """
        const [done, seen] = [arguments[0], new Set()];
        addEventListener("securitypolicyviolation", (event) => {
          seen.add(event.effectiveDirective);
          if (seen.size === 4) done([...seen].sort());
        });
        new Image().src = "http://127.0.0.1:9/";
        fetch("http://127.0.0.1:9/").catch(() => {});
        for (const [name, text] of [["script", "window.ran = true"], ["style", "body { display: none }"]]) {
          const made = document.createElement(name);
          made.textContent = text;
          document.body.append(made);
        }
        """
    )
    assert refused == ["connect-src", "img-src", "script-src-elem", "style-src-elem"]
    assert browser.script("return window.ran") is None
    browser.complaints()


def test_the_page_fits_a_phone_and_a_wide_screen(tab: Tab) -> None:
    for width in (320, 390, 768, 1280, 1920):
        tab.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        assert tab.script("return document.documentElement.scrollWidth") <= width
    tab.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_printing_shows_all_rows_and_none_of_the_controls(tab: Tab) -> None:
    tab.script("dispatchEvent(new Event('beforeprint'))")
    assert len(tab.orders()) == 40
    tab.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not tab.find("#download").is_displayed()
    assert tab.find("#table thead").is_displayed()
    tab.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    tab.script("dispatchEvent(new Event('afterprint'))")
    assert len(tab.orders()) == 25


def test_a_hundred_thousand_rows_stay_usable(browser: Tab, tmp_path: Path) -> None:
    rows = list(night(100_000, all_left=True))
    page = make_page(write_report(tmp_path / "r.csv", rows, ("客户",)))
    began = time.monotonic()
    browser.open(page)
    assert browser.find("#shown").text == "100,000 rows"
    paint = browser.script("return performance.getEntriesByName('first-contentful-paint')[0].startTime")
    took = {"first paint": paint / 1000, "table": time.monotonic() - began}
    began = time.monotonic()
    browser.search(rows[77_777]["order_id"])
    browser.until(lambda: browser.orders() == [rows[77_777]["order_id"]])
    took["first search"] = time.monotonic() - began
    browser.find("#search").clear()
    browser.find("#search").send_keys(" ", Keys.BACKSPACE)
    browser.until(lambda: browser.find("#shown").text == "100,000 rows")
    began = time.monotonic()
    browser.find("#table th[data-key=time] button").click()
    slowest = max(rows, key=lambda row: int(row["duration_ms"] or 0))
    assert browser.orders()[0] == slowest["order_id"]
    took["sort"] = time.monotonic() - began
    began = time.monotonic()
    browser.find("[data-outcome=failed]").click()
    took["filter"] = time.monotonic() - began
    failed = [row["order_id"] for row in rows if row["reason"] == KINDS["failed"]]
    began = time.monotonic()
    file = browser.download()
    took["download"] = time.monotonic() - began
    assert sorted(row["order_id"] for row in read_report(file)) == sorted(failed)
    assert browser.script("return document.querySelectorAll('*').length") < 3000
    print({name: round(seconds, 2) for name, seconds in took.items()})
    assert all(seconds < 20 for seconds in took.values()), took  # about a tenth of it where nothing else goes on
    assert browser.complaints() == []
    assert browser.requests() == {page.as_uri()}
