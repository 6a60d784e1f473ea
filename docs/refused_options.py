"""Writes the last table of ``conversion.md``: the options of components with few supported values, read from the rules.

python docs/refused_options.py
"""

import ast
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).with_name("conversion.md")
RULES = Path(__file__).parents[1] / "src/segzoo/conversion/rules"
MARK = "<!-- written by docs/refused_options.py -->\n"

# What rules compute, in words of the config.
COMPUTED = {
    "channels": "the head's `feat_channels`",
    "channels // 2": "half of the head's `feat_channels`",
    "num_levels": "the head's `num_transformer_feat_level`",
    "number": "the number of the stage",
    "order": "the order of the original's own configs",
    "spelling.batch_first": "`False` in configs for mmdetection 2, `True` in those for mmdetection 3",
    "'BOTTLENECK' if number == 1 else 'BASIC'": "`'BOTTLENECK'` in the first stage, `'BASIC'` in the others",
    "(fields['patch_size'], 2, 2, 2)[:len(fields['depths'])]": "`patch_size`, then 2 for every further stage",
}


def supported(value: ast.expr) -> str:
    """A supported value in words of the config: as it is written there, or whence it comes.

    Raises:
        SystemExit: a rule computes it, and nothing says from what.
    """
    text = ast.unparse(value)
    try:
        ast.literal_eval(value)
    except ValueError:
        if text not in COMPUTED:
            raise SystemExit(f"{text}: say in COMPUTED of {__file__} what this is in words of the config") from None
        return COMPUTED[text]
    return f"`{text}`"


def options(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Each option that a rule expects, and its supported values as text, in the order of the file."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="expect"), args=[ast.Constant(value=str(name)), *allowed]):
                yield name, " or ".join(map(supported, allowed))
            case ast.keyword(arg="expected", value=ast.Dict(keys=keys, values=values)):
                for key, allowed in zip(keys, values, strict=True):
                    parts = allowed.elts if isinstance(allowed, ast.Tuple) else [allowed]
                    yield ast.literal_eval(key), " or ".join(map(supported, parts))
            case ast.Call(func=ast.Attribute(attr="batch_norm")):
                yield "norm_cfg", "a batch norm"
            case ast.Call(func=ast.Attribute(attr="activation"), keywords=keywords):
                for keyword in keywords:
                    if keyword.arg == "only":
                        yield "act_cfg", supported(keyword.value)


def table() -> str:
    """The table as markdown: a row for each rule file and option."""
    lines = ["| rule | option | supported |", "|---|---|---|"]
    for path in sorted(RULES.glob("*.py")):
        found = dict.fromkeys(options(ast.parse(path.read_text(encoding="utf-8"))))
        lines += [f"| {path.stem} | `{name}` | {allowed} |" for name, allowed in sorted(found)]
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole page with the table as it is now."""
    return PAGE.read_text(encoding="utf-8").partition(MARK)[0] + MARK + "\n" + table()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
