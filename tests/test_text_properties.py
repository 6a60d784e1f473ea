"""What segzoo.text promises of every text, whatever it holds."""

import html
import json
import re
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segzoo import text as texts

FEW = settings(max_examples=100, deadline=None)
HOSTILE = [
    "\x1b[2J", "\x1b]0;t\x07", "\r", "\n", "\r\n", "\t", "\x00", "\x85", "\u2028", "\u202e", "\u200d", "\ud800", "\ufeff",
    "<script>", "</td>", "&lt;", "\"'", "`", "``", "|", "\\", "[a](http://b)", "![", "# ", "---", "1. ", "* ", "_a_", "~~", "$x$",
    "=1+1", "@SUM", "-", "+", "＝", "http://", "https://user:pw@host/", "?token=abcdef", "hf_" + "a" * 20, "www.a", "道路", "é", " ",
]  # fmt: skip
any_text = st.lists(st.sampled_from(HOSTILE) | st.text(st.characters(), max_size=5), max_size=8).map("".join)


def odd(character):
    category = unicodedata.category(character)
    return (category[0] == "C" or category in ("Zl", "Zp")) and character not in "\u200c\u200d"


@FEW
@given(any_text)
def test_a_line_has_nothing_that_is_not_seen(text):
    line = texts.line_text(text)
    assert not any(map(odd, line)) and len(line.splitlines()) <= 1
    assert texts.line_text(line) == line
    line.encode()


@FEW
@given(any_text)
def test_a_terminal_sees_lines_and_nothing_else(text):
    for function in (texts.terminal_text, texts.message_text):
        shown = function(text)
        assert not any(odd(character) and character != "\n" for character in shown)
        assert function(shown) == shown
        shown.encode()


@FEW
@given(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=30).filter(lambda text: ":" not in text))
def test_ordinary_text_stays(text):
    assert texts.line_text(text) == texts.terminal_text(text) == text
    assert html.unescape(texts.html_text(text)) == text


@FEW
@given(any_text)
def test_a_page_has_no_tags_of_it(text):
    page = texts.html_text(text)
    assert not set("<>\"'") & set(page)
    assert re.sub(r"&(amp|lt|gt|quot|#x27);", "", page).count("&") == 0
    assert html.unescape(page) == texts.line_text(text)


@FEW
@given(any_text)
def test_a_card_has_no_tags_cells_or_lines_of_it(text):
    for function in (texts.markdown_text, texts.markdown_code):
        shown = function(text)
        assert len(shown.splitlines()) <= 1
        assert not any(map(odd, shown))
    words = texts.markdown_text(text)
    assert not set("<>") & set(words)
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*\[\]~$]", re.sub(r"\\[^\w\s]", "", words))
    assert "|" not in re.sub(r"\\\|", "", texts.markdown_code(text))


@FEW
@given(any_text, st.none() | any_text | any_text.map("https://a/".__add__))
def test_a_link_leads_to_the_web_or_nowhere(text, address):
    link = texts.markdown_link(text, address)
    target = re.search(r"(?<!\\)\]\((.*)\)\Z", link)
    if target and address and re.match("https?://", address, re.IGNORECASE):
        assert re.match("https?://", target[1], re.IGNORECASE) and not re.search(r"[\s()<>]", target[1])
    assert not any(map(odd, link))


@FEW
@given(
    st.recursive(
        any_text | st.integers() | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(any_text, inner),
        max_leaves=8,
    )
)
def test_json_reads_back(values):
    for indent in (None, 2):
        escaped = texts.json_escapes(json.dumps(values, ensure_ascii=False, indent=indent))
        assert json.loads(escaped) == values
        assert not any(odd(character) and character != "\n" for character in escaped)


@FEW
@given(any_text)
def test_a_cell_is_no_formula(text):
    cell = texts.csv_cell(text)
    begins = cell.lstrip()[:1]
    try:
        float(cell)
    except ValueError:
        assert begins not in tuple("=+-@＝＋－＠")
    assert len(cell.splitlines()) <= 1


@FEW
@given(any_text)
def test_a_literal_of_python_reads_back(text):
    literal = texts.python_string(text)
    assert "`" not in literal and len(literal.splitlines()) == 1
    assert eval(literal, {"__builtins__": {}}) == texts.line_text(text)


@FEW
@given(any_text, st.integers(1, 300))
def test_a_long_text_is_cut(text, most):
    for whole in (text, text * 50):
        short = texts.shorten(whole, most)
        assert len(short) <= most and (len(whole) > most or short == whole)


@FEW
@given(st.lists(any_text, max_size=20), st.integers(1, 9), st.booleans())
def test_a_list_has_a_bound(names, most, quoted):
    shown = texts.listed([name * 100 for name in names], most, quoted=quoted)
    each = 10 * texts.MOST_IN_NAME if quoted else texts.MOST_IN_NAME  # a quoted character may be \\U0010ffff
    assert len(shown) <= most * (each + 4) + 40 and len(shown.splitlines()) <= 1


@FEW
@given(
    st.text("abcdefghijklmnopqrstuvwxyzABCDEF0123456789", min_size=24, max_size=40),
    st.sampled_from(
        [
            "https://user:{}@host/a",
            "https://{}@host",
            "see https://h/a?b=c&token={}",
            "https://h?X-Amz-Signature={}&a=b",
            "hf_{}",
            "Authorization: Bearer {}",
            "ghp_{}",
        ]
    ),
    st.sampled_from(["", "(", "a ", "'"]),
)
def test_secrets_are_not_shown(secret, form, before):
    text = before + form.format(secret)
    for function in (
        texts.line_text, texts.terminal_text, texts.message_text, texts.html_text, texts.markdown_text, texts.markdown_code,
        texts.python_string, texts.csv_cell, texts.published_name, texts.without_secrets,
    ):  # fmt: skip
        assert secret not in function(text)


@FEW
@given(
    st.sampled_from(["/home/me", "~", "~/a", "C:\\Users\\me", "d:/x", "\\\\server\\share", "/"]),
    st.text("ab ./\\", max_size=9),
)
def test_no_place_of_a_machine_is_published(folder, name):
    published = texts.published_name(f"{folder}/{name}")
    assert published == "~" or not texts.is_local_path(published)
    assert not {"home", "me", "Users", "server"} & set(re.split(r"[\\/]", published)[:-1])


@pytest.mark.parametrize("part", [*HOSTILE, "a:", "a", ".", "a@", "://", "token", "?a=", "-", "_", "key", " a:a@a"])
def test_long_texts_take_no_long_time(part):
    text = part * (40_000 // len(part))
    begun = time.process_time()
    for function in (texts.terminal_text, texts.html_text, texts.markdown_text, texts.markdown_code, texts.csv_cell):
        function(text)
    texts.json_escapes(json.dumps(text, ensure_ascii=False))
    assert time.process_time() - begun < 60  # a second or less, and minutes if it grew with the square
