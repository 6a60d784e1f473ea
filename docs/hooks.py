"""What mkdocs does beyond its configuration: the pages of the API, and those of the files that lie above docs/.

The API is what the packages say that they offer: their ``__init__.pyi``, or ``__all__`` of their ``__init__.py``. A name that is
added there is on the site.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"

PACKAGES = (
    "segzoo",
    "segzoo.prediction",
    "segzoo.inference",
    "segzoo.data",
    "segzoo.training",
    "segzoo.evaluation",
    "segzoo.metrics",
    "segzoo.conversion",
    "segzoo.losses",
    "segzoo.backbones",
    "segzoo.necks",
    "segzoo.heads",
)
ABOVE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the API into the navigation, below its first page."""
    api = next(entry for entry in config.nav if "API" in entry)
    api["API"] = [api["API"], *({package: page_name(package)} for package in PACKAGES)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file in docs/ holds."""
    for package in PACKAGES:
        files.append(File.generated(config, page_name(package), content=api_page(package)))
    for source, page in ABOVE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Make links that are right in the repository right on the site too."""
    for source, page in ABOVE.items():
        markdown = markdown.replace(f"](../{source}", f"]({page}")
    return re.sub(r"\]\(docs/", "](", markdown)


def on_post_page(output: str, page: Page, **_: object) -> None:
    """Refuse a page that loads scripts, styles, fonts or pictures from elsewhere; links may lead there."""
    found = re.search(
        r"""<(?:script|img|iframe|link(?![^>]*rel="?canonical))[^>]*?(?:src|href)="?(?:https?:)?//[^>]*>""", output
    )
    if found:
        raise PluginError(f"{page.file.src_path}: {found[0][:200]} is loaded from another server")


def page_name(package: str) -> str:
    """The file of a package's page, below docs/."""
    return f"api/{package}.md"


def api_page(package: str) -> str:
    """The page of a package: what it says of itself, and the docstring of everything that it offers."""
    folder = SOURCE.joinpath(*package.split("."))
    about = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    names = sorted(offered(package), key=lambda place: place.rpartition(".")[2].lower())
    blocks = [f"# {package}", about.replace("``", "`"), *(f"::: {name}" for name in names)]
    return "\n\n".join(blocks) + "\n"


def offered(package: str) -> Iterator[str]:
    """The full names of the functions and classes that a package offers, each in the module where it is written."""
    folder = SOURCE.joinpath(*package.split("."))
    stub = folder / "__init__.pyi"
    tree = ast.parse((stub if stub.is_file() else folder / "__init__.py").read_text(encoding="utf-8"))
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom):
            module = f"{package}.{statement.module}" if statement.level else statement.module
            yield from (f"{module}.{alias.name}" for alias in statement.names if not alias.name.isupper())
