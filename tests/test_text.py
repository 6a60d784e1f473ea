"""Each kind of output has one function, which lets nothing through that acts there and leaves ordinary text alone."""

import json
import re
import time
import unicodedata

import pytest
import yaml

from segzoo.errors import SegZooError
from segzoo.text import (
    MOST_IN_MESSAGE,
    csv_cell,
    html_text,
    is_local_path,
    json_escapes,
    line_text,
    listed,
    markdown_code,
    markdown_link,
    markdown_text,
    message_text,
    published_name,
    python_string,
    shorten,
    terminal_text,
    without_secrets,
)

# Of every character that acts somewhere, and of every kind that cannot be seen.
NASTY = "".join(
    map(chr, [*range(0x20), *range(0x7F, 0xA1), 0xAD, 0x61C, *range(0x200B, 0x2070), 0xDFFF, 0xD800, 0xFEFF])
)
NASTY += "\U000e0001\U0010ffff\ue000" + "".join(map(chr, range(0x21, 0x7F)))


def odd(text, allowed=""):
    """The characters that nobody can see or that turn text around."""
    return [c for c in text if unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp")
            if c not in "\u200c\u200d" + allowed]  # fmt: skip


@pytest.mark.parametrize("escape", [line_text, html_text, markdown_text, markdown_code, csv_cell, python_string])
def test_one_line_without_what_nobody_sees(escape):
    text = escape(NASTY)
    assert odd(text) == [] and text.encode("utf-8") and len(text.splitlines()) == 1


@pytest.mark.parametrize("escape", [line_text, terminal_text, message_text, csv_cell])
def test_twice_is_once(escape):
    for text in (NASTY, "a\r\nb\tc", "Bearer\tabcdefghijklmnopqrstuvwxyz", "http://a:b@c/?token=d", "x" * 50_000):
        assert escape(escape(text)) == escape(text)


@pytest.mark.parametrize(
    "text", ["traffic light", "UPerNet on InternImage-T", "0.001", "-3", "道路, café", "می‌شود", "👩‍🚀"]
)
def test_ordinary_text_stays(text):
    for escape in (line_text, terminal_text, html_text, markdown_text, csv_cell, without_secrets):
        assert escape(text) == text


def test_terminal():
    assert terminal_text("a\r\nb\tc\rd\x1b[2J\u202e") == "a\nb    c\\rd\\x1b[2J\\u202e"
    assert odd(terminal_text(NASTY), "\n") == []
    assert line_text("a\r\n\tb\u2028c") == "a b c"


def test_html():
    assert html_text("<b a='x' c=\"y\">&\x00\n") == "&lt;b a=&#x27;x&#x27; c=&quot;y&quot;&gt;&amp;\\x00 "


def test_csv():
    for formula in ("=1+1", "+1+1", "-1+1", "@SUM(A1)", " =1", "\t=1", "\rx", "\n=1", "＝1"):
        assert csv_cell(formula)[0] == "'"
    assert [csv_cell(value) for value in (-1.5, 3, None, "-1.5", "+2", "a=b")] == [-1.5, 3, None, "-1.5", "+2", "a=b"]


def test_json_reads_back_as_it_was():
    text = json_escapes(json.dumps({NASTY: [NASTY]}, ensure_ascii=False, indent=1))
    assert json.loads(text) == {NASTY: [NASTY]} and odd(text, "\n") == [] and text.encode("utf-8")


MARKDOWN = [
    *("# h", "###### h", "#", "- x", "+ x", "* x", "1. x", "12) x", "---", "===", "> x", "    code", "***", "___", "~~x~~"),
    *("![x](http://e.example/p)", "[x](y)", "<http://e.example>", "http://e.example", "www.e.example", "[x]: y", "a | b"),
    *("<script>x</script>", "<!-- x", "&lt;", "`code`", "``", "*x*", "_x_", "__x__", "a\\", "\\*x*", "x\n# h", "$x$", "!", "|"),
]  # fmt: skip


@pytest.mark.parametrize("text", MARKDOWN)
def test_markdown_reads_as_the_text_itself(text):
    parser = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False})

    def read(source):
        return [t for block in parser.parse(source) for t in (block, *(block.children or ()))]

    wanted = line_text(text).strip()
    tokens = read(markdown_text(text))
    assert [t.type for t in tokens if t.type not in ("text", "text_special")] == [
        "paragraph_open",
        "inline",
        "paragraph_close",
    ]
    assert "".join(t.content for t in tokens if t.type != "inline") == wanted
    assert not re.search(r"(?<!\\)(\]|://)|www\.", markdown_text(text))
    table = read(f"| a | b |\n|---|---|\n| {markdown_text(text)} | {markdown_code(text)} |\n")
    assert sum(t.type == "td_open" for t in table) == 2
    assert {t.content for t in table if t.type == "html_inline"} <= {"<code>", "</code>"}
    assert {t.type for t in table if t.type.startswith(("link", "image", "heading", "html_block"))} == set()


def test_links():
    assert markdown_link("a[b]", "https://e.example/x (1)|<>") == "[a\\[b\\]](https://e.example/x%20%281%29%7C%3C%3E)"
    assert markdown_link("https://e.example/", "https://e.example/") == "<https://e.example/>"
    assert markdown_link("a*", "javascript:alert(1)") == markdown_link("a*", None) == "a\\*"
    assert markdown_link("x", "https://me:pw@e.example/") == "[x](https://***@e.example/)"
    assert markdown_link(None, "https://e.example/") is None


def test_python_string():
    assert eval(python_string('a"b\\`"')) == 'a"b\\`"' and "`" not in python_string("```\n")


def test_yaml_holds_a_line():
    assert yaml.safe_load(yaml.safe_dump({"name": line_text(NASTY)}, allow_unicode=True)) == {"name": line_text(NASTY)}


@pytest.mark.parametrize("most", [1, 2, 3, 10, 60, 61, 200])
def test_shorten(most):
    text = "".join(str(i) for i in range(10_000))
    assert len(shorten(text, most)) == most and shorten(text[:most], most) == text[:most]
    if most > 100:
        assert shorten(text, most).startswith("0123") and shorten(text, most).endswith("99989999")
        assert f"[{len(text):,} characters]" in shorten(text, most)


def test_listed():
    assert listed("abc") == "a, b, c" and listed("abc", 2) == "a, b and 1 more"
    assert listed(["a\nb", "c"], quoted=True) == "'a b', 'c'"
    assert len(listed(["x" * 10**5] * 20, 5)) < 1100


SECRET = "s3cr3tS3cr3ts3cr3t9"


@pytest.mark.parametrize(
    "text",
    [
        f"https://me:{SECRET}@host.example/data.zip: not there",
        f"cannot reach https://{SECRET}@github.com/a/b.git",
        f"--dataset_name 'ftp://me:{SECRET}:x@@h/x'",
        f"proxy me:{SECRET}@proxy.example:3128 did not answer",
        f"http://h/x.png?a=1&token={SECRET}: 404",
        f"There is no folder http:/me:{SECRET}@h/x.png",
        f"InvalidURL nonnumeric port: '{SECRET}@h'",
        f"(http://h/x.png?X-Amz-Algorithm=A&X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}&X-Amz-Security-Token={SECRET})",
        f"http://h/x?sig={SECRET}&sv=1",
        f"http://h/x#access_token={SECRET}",
        f"http://h/x?AWSAccessKeyId={SECRET}&api_key={SECRET}&Signature={SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"the token hf_{SECRET} is wrong",
        f"ghp_{SECRET}",
    ],
)
def test_secrets_are_hidden(text):
    assert SECRET not in without_secrets(text) and "***" in without_secrets(text)
    for escape in (line_text, terminal_text, html_text, markdown_text, markdown_code, csv_cell, message_text):
        assert SECRET not in escape(text)
    assert SECRET not in str(SegZooError(text))


@pytest.mark.parametrize(
    "text",
    [
        "https://host.example:80/a@b/c?page=2",
        "git@github.com:a/b.git",
        "12:30@home.png",
        "hf_model",
        "Bearer token",
        "a?b=c",
    ],
)
def test_other_text_is_not_hidden(text):
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    "hostile",
    [
        "k" * 10**7,
        ":" * 10**5,
        "://" * 10**5,
        "a:" * 10**5,
        "?a" * 10**5,
        " " * 10**6,
        "?" + "a" * 10**6,
        "@" * 10**6,
        "\x1b" * 10**5,
    ],
    ids=lambda text: text[:3],
)
def test_megabytes_are_cut_soon(hostile):
    start = time.process_time()
    message = str(SegZooError(f"{hostile}: cannot be used; take another"))
    assert len(message) <= MOST_IN_MESSAGE and message.endswith("cannot be used; take another")
    assert time.process_time() - start < 30


def test_paths():
    assert [is_local_path(p) for p in ("/a", "~/a", "C:\\a", "c:/a", "\\\\s\\a")] == [True] * 5
    assert [is_local_path(p) for p in ("a/b", "a:b", "https://a/b", "me/data", ".")] == [False] * 5
    assert [published_name(p) for p in ("/home/me/data/", "C:\\me\\data", "~/x.json", "me/data")] == [
        "data",
        "data",
        "x.json",
        "me/data",
    ]
