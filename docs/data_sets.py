"""Writes the tables of ``data_sets.md``: what `segzoo.data.DATASETS` knows of each data set.

python docs/data_sets.py
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from segzoo import zoo
from segzoo.cards.scores import METRIC_TITLES
from segzoo.data.facts import DATASETS, DatasetFacts, TestSize
from segzoo.text import markdown_text

PAGE = Path(__file__).with_name("data_sets.md")
MARK = "<!-- written by docs/data_sets.py -->\n"
OVERVIEW = "data set", "classes", "metric, the mean over", "tested on", "test size", "rows of the zoo", "licence"
PARTS = "part", "pictures", "pictures in", "masks in"


def size(sides: TestSize) -> str:
    """A size of test pictures in words."""
    longer, shorter = sides
    return f"shorter side {shorter}" if longer is None else f"{longer}x{shorter}"


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    columns = list(columns)
    return "".join("| " + " | ".join(row) + " |\n" for row in (columns, ["---"] * len(columns), *rows))


def overview(known: Iterable[DatasetFacts]) -> str:
    """A row for each data set."""
    trained = Counter(row.dataset for row in zoo.rows().values())
    rows = []
    for facts in known:
        part = facts.splits.get(facts.test_split)
        count = sum(trained[name] for name in facts.zoo_names)
        rows.append(
            [
                f"[`{facts.name}`](#{facts.name})",
                str(facts.num_labels),
                f"{METRIC_TITLES[facts.metric]}, {facts.mean_over}",
                f"{facts.test_split}, {part.num_images:,}" if part else "",
                size(facts.test_sizes[0]) if facts.test_sizes else "own",
                str(count) if count else "",
                markdown_text(facts.licence),
            ]
        )
    return table(OVERVIEW, rows)


def parts(facts: DatasetFacts) -> str:
    """A row for each part of a data set."""
    rows = []
    for name, part in facts.splits.items():
        count = f"{part.num_images:,}" + (f" tiles of {part.cut_from:,} pictures" if part.cut_from else "")
        listed = f", those of `{part.image_list}`" if part.image_list else ""
        images = f"`{part.images}/*{facts.image_suffix}`{listed}" if part.images else ""
        rows.append([name, count, images, f"`{part.masks}/*{facts.mask_suffix}`" if part.masks else ""])
    return table(PARTS, rows)


def section(facts: DatasetFacts) -> Iterator[str]:
    """Everything that is known of a data set, in paragraphs."""
    yield f'<a id="{facts.name}"></a>\n\n## {markdown_text(facts.title)}\n'
    where = f"<{facts.url}>; " if facts.url else ""
    note = f" Note: {markdown_text(facts.note)}." if facts.note else ""
    yield f"{where}licence: {markdown_text(facts.licence)}.{note}\n"
    rule = "0 for no class and 1..n for the classes" if facts.reduce_labels else "the ids 0..n-1"
    others = "".join(f", or {encoding.name.replace('_', ' ')}" for encoding in facts.encodings)
    yield f"Masks hold {rule}{others}; {facts.ignore_index} does not count.\n"
    if len(facts.test_sizes) > 1:
        yield f"Some rows of the zoo are tested at {', '.join(map(size, facts.test_sizes[1:]))}.\n"
    if facts.splits:
        yield parts(facts)
    names = ", ".join(f"{index} {markdown_text(name)}" for index, name in enumerate(facts.classes))
    yield f"<details><summary>{facts.num_labels} classes</summary>\n\n{names}\n\n</details>\n"


def page() -> str:
    """The whole page with the tables as they are now."""
    known = sorted(DATASETS.values(), key=lambda facts: facts.name)
    text = [overview(known), *(paragraph for facts in known for paragraph in section(facts))]
    return PAGE.read_text(encoding="utf-8").partition(MARK)[0] + MARK + "\n" + "\n".join(text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
