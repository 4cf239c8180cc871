"""The user's patterns: they mean what they mean to Python, and no text keeps them busy."""

import re
import time

import pytest

from batchupload.expressions import ExpressionError, expression

PATTERNS = [
    "系统繁忙",
    "繁忙|稍后",
    "^HT\\d{19}$",
    "(?i)BUSY",
    "[A-Za-z0-9][A-Za-z0-9_-]{3,63}",
    "[0-9]{16}",
    "(?s).*",
    "H.*",
    "订单\\w+不存在",
    "\\D+",
    "\\W",
    "\\S+\\s\\S+",
    "[\\d-]+",
    "[^\\d]",
    "[\\w.]+",
    "[^\\s,]+",
    "[]a]+",
    "[^]a]+",
    "[[:alpha:]]+",
    "[a[]+",
    "[\\b]",
    "a{,3}b",
    "[{,3}]+",
    "\\u7cfb\\u7edf",
    "[\\u4e00-\\u9fff]+",
    "\\x41",
    "(?P<no>HT)\\d",
    "(?:ab)*?c",
    "\\AHT",
    "b\\Z",
    "\\.\\*\\[",
    "a\\\nb",
    "[\\^a]",
    "\\t| ",
    "[^\\D]+",
    "(a+)+$",
    "",
    "x{2}{3}",
]
TEXTS = [
    "",
    "系统繁忙，请稍后再试",
    "HT1234567890123456789",
    "ＨＴ１２３",
    "busy",
    "Server Busy",
    "订单A1不存在",
    "订单不存在",
    "no",
    "a]",
    "[a",
    ":alpha:",
    "aaab",
    "b",
    "a{,3}b",
    "ht\x0812",
    "AB",
    "ababc",
    "x.*[y",
    "a\nb",
    "^",
    "a b",
    "a\u3000b",
    "a\x85b",
    "a\x1cb",
    "é",
    "é9",
    "٣",
    "Ⅷ",
    "½",
    "_",
    "-",
    "1-2",
    "x,y",
    "aaaa!",
    "\t",
    "xxxxxx",
    "12345678901234567",
]


@pytest.mark.filterwarnings("ignore:Possible nested set")
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_means_what_it_means_to_python(pattern: str) -> None:
    try:
        theirs = re.compile(pattern)
    except re.error:
        with pytest.raises(ExpressionError, match="not a regular expression"):
            expression(pattern)
        return
    ours = expression(pattern)
    for text in TEXTS:
        assert ours.is_in(text) == (theirs.search(text) is not None), text
        assert ours.fits(text) == (theirs.fullmatch(text) is not None), text


@pytest.mark.parametrize(
    "kind", ["\\d", "\\w", "\\s", "\\D", "\\W", "\\S", "[\\d]", "[\\w]", "[\\s]", "[^\\w]", "[^\\s]"]
)
def test_digits_words_and_spaces_are_those_of_every_script(kind: str) -> None:
    ours, theirs = expression(kind), re.compile(kind)
    odd = [
        one
        for one in map(chr, [*range(0xD800), *range(0xE000, 0x10000)])
        if one.isprintable() and ours.fits(one) != (theirs.fullmatch(one) is not None)
    ]
    assert len(odd) < 20, "no more than a newer Unicode adds"
    for one in "0９٣aZ中_é \t\n\u3000\xa0\x85-，Ⅷ":
        assert ours.fits(one) == (theirs.fullmatch(one) is not None)


@pytest.mark.parametrize(
    "pattern",
    [
        "(?!HT$).*",
        "(?<=a)b",
        "(a)\\1",
        "(?P<a>x)(?P=a)",
        "\\bok\\b",
        "a*+b",
        "(?>a)b",
        "[\\W]",
        "[^\\S]",
        "a{2000}",
        "(?x) a",
    ],
)
def test_what_has_no_bound_is_refused_with_a_remedy(pattern: str) -> None:
    re.compile(pattern)
    with pytest.raises(ExpressionError, match="write it without look-ahead"):
        expression(pattern)


SLOW = [
    "(a+)+$",
    "(a|a)*$",
    "(a|aa)+$",
    "(.*a){20}$",
    "([A-Za-z0-9]+-?)+",
    "(a?){40}a{40}",
    "^(([a-z])+.)+[A-Z]([a-z])+$",
]


@pytest.mark.parametrize("pattern", SLOW)
def test_no_text_keeps_a_pattern_busy(pattern: str) -> None:
    began = time.perf_counter()
    for text in ["a" * 60 + "!", "a" * 500 + "!", "a-" * 400 + "!"]:
        expression(pattern).is_in(text)
        expression(pattern).fits(text)
    expression(pattern).fits("a" * (1 << 20))
    assert time.perf_counter() - began < 5


def test_half_a_character_is_matched_too() -> None:
    assert expression(".+").fits("ok \ud83d")
    assert not expression("[A-Z]+").is_in("\ud83d")
