"""Text from outside on its way out: to a terminal, a model card, a web page, a table, JSON or an error message.

Names of classes, files, data sets and keys of checkpoints are whatever their authors wrote: control codes that rewrite
a terminal, tags and headings, formulas, ten megabytes, passwords in addresses. Each kind of output has one function
here, which every such text goes through. They all

- hide passwords and tokens (`without_secrets`),
- show what nobody can see or what turns text around - control codes, escape sequences, marks of direction, halves of
  surrogate pairs: everything of Unicode's categories C, Zl and Zp except the two joiners that scripts and emoji need
  (U+200C, U+200D) - as a backslash and a code, such as ``\\x1b``,
- and change nothing in ordinary text.

What they return can be encoded as UTF-8.
"""

import html
import json
import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import quote

MOST_IN_MESSAGE = 10_000
"""Characters of the longest error message."""

MOST_IN_NAME = 200
"""Characters of the longest name that is shown whole in a list, a table or a card."""

_NOT_ASCII = re.compile(r"[^ -~]")
_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]+")
_JOINERS = "\u200c\u200d"


# Lines and terminals


def line_text(value: object) -> str:
    """The value as one line without control codes, for a name inside a text: a line, a table, YAML metadata.

    Line breaks and tabs become one space. The result has no line break, and no character of the categories C, Zl and
    Zp but the joiners U+200C and U+200D. Applying it twice is the same as once.
    """
    return without_secrets(_visible(_BREAKS.sub(" ", str(value))))


def terminal_text(value: object) -> str:
    """The value as it may be printed: as `line_text`, but its line feeds stay, and tabs become four spaces.

    A carriage return before a line feed is left out; any other is shown as ``\\r``. Names inside a text of several
    lines go through `line_text` first, else a name could begin a line of its own. Applying it twice is the same as once.
    """
    text = str(value).replace("\r\n", "\n").replace("\t", "    ")
    # Secrets are looked for in what is shown: a control code inside one would hide its rest from the patterns.
    return without_secrets(_NOT_ASCII.sub(lambda match: "\n" if match[0] == "\n" else _shown(match[0]), text))


def message_text(value: object) -> str:
    """The text of an error message: as `terminal_text`, and no longer than `MOST_IN_MESSAGE` characters."""
    return shorten(terminal_text(value), MOST_IN_MESSAGE)


def _visible(text: str) -> str:
    return _NOT_ASCII.sub(lambda match: _shown(match[0]), text)


def _is_odd(character: str) -> bool:
    category = unicodedata.category(character)
    return (category[0] == "C" or category in ("Zl", "Zp")) and character not in _JOINERS


def _shown(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii") if _is_odd(character) else character


# Files


def html_text(value: object) -> str:
    """The value as text or attribute of a web page: `line_text` in which ``& < > " '`` are entities."""
    return html.escape(line_text(value))


def json_escapes(text: str) -> str:
    """JSON in which odd characters (`line_text` says which) are ``\\u`` escapes; it reads back as the same values.

    Args:
        text: JSON, whose line feeds between values stay.
    """
    return _NOT_ASCII.sub(lambda m: json.dumps(m[0])[1:-1] if m[0] != "\n" and _is_odd(m[0]) else m[0], text)


def csv_cell(value: object) -> object:
    """A value for a cell of a CSV file: text that a spreadsheet would run as a formula gets an apostrophe before it.

    That is text which begins with ``= + - @`` (also after spaces) and is not a number, or with a tab or line break.
    Text goes through `line_text`; numbers and other values are returned as they are.
    """
    if not isinstance(value, str):
        return value
    text = line_text(value)
    runs = value[:1] in ("\t", "\r", "\n") or (text.lstrip()[:1] in tuple("=+-@＝＋－＠") and not _is_number(text))
    return f"'{text}" if runs else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# Markdown

# "_" inside a word is no emphasis. Addresses become links by themselves.
_MARKDOWN = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.", re.IGNORECASE)
_BEGINS_BLOCK = re.compile(r"(?:#{1,6}|[-+])(?=\s|\Z)|[-=]+\s*\Z|(?P<number>\d{1,9})(?=[.)](?:\s|\Z))")


def markdown_text(value: object) -> str:
    """The value as words in Markdown: `line_text` without any mark-up of its own, also in a cell of a table.

    HTML, links, pictures, addresses, emphasis, code, formulas, table bars, and at the beginning headings, lists and
    rules are escaped: what a reader sees is the text itself.
    """
    text = html.escape(line_text(value).strip(), quote=False)
    text = _MARKDOWN.sub(lambda match: f"\\{match[0]}", text)
    if found := _BEGINS_BLOCK.match(text):
        place = found.end("number") if found["number"] else 0
        text = f"{text[:place]}\\{text[place:]}"
    return text


def markdown_code(value: object) -> str:
    """The value as code in a line of Markdown: `line_text` in a code span, or in ``<code>`` where it holds a backtick
    or a table bar.
    """
    text = line_text(value)
    if not text.strip() or "`" in text or "|" in text:
        return f"<code>{markdown_text(value)}</code>"
    return f"`{text}`"


def markdown_link(text: str | None, address: str | None) -> str | None:
    """A link in Markdown, whose text is cut at `MOST_IN_NAME` characters; the text alone without an address, or with one that is endless or not on the web; None without text."""
    if text is None:
        return None
    words = markdown_text(shorten(line_text(text), MOST_IN_NAME))
    if address is None or len(address) > MOST_IN_MESSAGE or not re.match(r"https?://", address, re.IGNORECASE):
        return words
    target = quote(line_text(address), safe="%/:?#[]@!$&'*+,;=~-._")
    return f"<{target}>" if text == address else f"[{words}]({target})"


def python_string(value: object) -> str:
    """`line_text` as a literal of Python in double quotes that stays inside a code block or code span of Markdown."""
    return json.dumps(line_text(value), ensure_ascii=False).replace("`", "\\u0060")


# Length


def shorten(text: str, most: int) -> str:
    """A text of at most ``most`` characters: a longer one is cut in the middle, and its length is said there.

    Args:
        text: any text.
        most: 1 or more. From about 50 on, there is room to say the length.
    """
    if len(text) <= most:
        return text
    cut = f" ... [{len(text):,} characters] ... "
    if len(cut) > most // 2:
        return text[: max(0, most - 3)] + "..."[:most]
    end = (most - len(cut)) // 2
    return text[: most - len(cut) - end] + cut + text[-end:]


def listed(names: Iterable[object], most: int = 8, *, quoted: bool = False) -> str:
    """The first ``most`` names, each at most `MOST_IN_NAME` long and on one line, and ``and N more``.

    Args:
        names: the names.
        most: how many are shown.
        quoted: whether they stand in quotation marks.
    """
    names = list(names)
    shown = [shorten(line_text(name), MOST_IN_NAME) for name in names[:most]]
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(repr, shown) if quoted else shown) + more


# Secrets and places

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_SECRETS = [
    # Also where a path has made one slash of two, and where http.client took a password for a port.
    (re.compile(r"(?<=[\w+.-][\w+.-]:)(/{1,3})[^\s/?#'\"<>]*@"), r"\1***@"),
    (re.compile(r"(?<=port: ')[^'\s]*@"), "***@"),
    # A proxy without a scheme.
    (re.compile(r"(?<![^\s'\"(=,])[^\s/:@'\"(=,]{1,64}:[^\s/@'\"]{1,256}@(?=[\w.-]+:\d)"), "***@"),
    (
        re.compile(
            r"(?<=[?&;#])((?:[\w.-]{0,64}?(?:token|secret|signature|password|passwd|credential|api[-_]?key|access[-_]?key"
            r"|key-pair)[\w.-]{0,64}|sig|key|pwd|auth|authorization|policy)=)[^&\s'\"<>)\]]+",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
    (re.compile(r"\b(Authorization:\s*\w+|Bearer)\s+[\w.~+/=-]{8,}"), r"\1 ***"),
    (re.compile(r"\b(hf_|api_org_|gh[pousr]_|github_pat_|glpat-)[\w-]{16,}"), r"\1***"),
]


def without_secrets(text: str) -> str:
    """The text with ``***`` for what gives access: names and passwords in addresses, signatures and tokens in their
    queries, and access tokens of Hugging Face, GitHub and GitLab. Everything else stays.
    """
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def is_local_path(text: str) -> bool:
    """Whether a text is an absolute path on POSIX or Windows, or begins at a home folder: it tells about one machine."""
    return text.startswith(("/", "~", "\\\\")) or _DRIVE.match(text) is not None


def published_name(text: str) -> str:
    """A file, folder or address for pages that others read: an absolute local path by its last part alone, anything
    else without secrets.
    """
    if is_local_path(text):
        return re.split(r"[\\/]", text.rstrip("\\/"))[-1]
    return without_secrets(text)
