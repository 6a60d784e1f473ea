"""The zoo's original configs, translated once in a process; many rows have equal ones."""

from functools import cache

from segzoo import zoo
from segzoo.conversion.translate import translate_config
from segzoo.conversion.translation import Translation
from segzoo.errors import SegZooError


@cache
def translations() -> dict[str, Translation]:
    """What each row that converts translates to, by its name; not to be changed."""
    by_text: dict[str, Translation | None] = {}
    found = {}
    for name in zoo.rows():
        original = zoo.original_config(name)
        if original is None:
            continue
        if (text := repr(original)) not in by_text:
            try:
                by_text[text] = translate_config(original)
            except SegZooError:
                by_text[text] = None
        if (translation := by_text[text]) is not None:
            found[name] = translation
    return found
