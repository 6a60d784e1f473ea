"""What surrounds the package: continuous integration, citation, issue templates, Dockerfile, and the pictures of the pages."""

import importlib.util
import re
import shlex
import tomllib

import yaml
from support.documents import PAGES, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def load(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_workflow_runs_what_ci_runs():
    lines = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line.startswith("make ")]
    (exported,) = [dict(word.split("=") for word in line.split()[1:]) for line in lines if line.startswith("export ")]
    (job,) = load(".github/workflows/ci.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == commands and len(commands) >= 4
    assert job["env"] == exported
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert oldest in job["strategy"]["matrix"]["python"]


def test_the_weekly_workflow_runs_what_the_makefile_has():
    (job,) = load(".github/workflows/weekly.yml")["jobs"].values()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    targets = job["strategy"]["matrix"]["target"]
    assert set(targets) == {"test-slow", "test-lowest"} <= set(phony.split())
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make ${{ matrix.target }}"]


def test_citation():
    citation = load("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the format demands
    known = {
        "cff-version",
        "message",
        "title",
        "type",
        "authors",
        "version",
        "license",
        "keywords",
        "abstract",
        "url",
        "repository-code",
    }
    assert citation.keys() <= known and citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    assert [a["name"] for a in citation["authors"]] == [a["name"] for a in PROJECT["authors"]]


def test_issue_templates():
    folder = ROOT / ".github/ISSUE_TEMPLATE"
    forms = sorted(path for path in folder.glob("*.yml") if path.name != "config.yml")
    assert len(forms) == 3
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= form.keys() <= {"name", "description", "title", "labels", "body"}
        assert any(field["validations"]["required"] for field in form["body"] if "validations" in field)
        ids = [field["id"] for field in form["body"]]
        assert len(ids) == len(set(ids)) and all(re.fullmatch(r"[\w-]+", name) for name in ids)
        for field in form["body"]:
            assert field["type"] in ("textarea", "input", "dropdown", "checkboxes") and field["attributes"]["label"]


def test_dockerfile():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "never built" in text.splitlines()[0]
    arguments = dict(re.findall(r"^ARG (\w+)=(.*)$", text, re.M))
    assert set(arguments["EXTRAS"].split(",")) <= PROJECT["optional-dependencies"].keys()
    copied = {word.rstrip("/") for line in re.findall(r"^COPY (.*)$", text, re.M) for word in line.split()[:-1]}
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == kept and all((ROOT / name).exists() for name in copied)
    assert PROJECT["readme"] in copied and set(PROJECT["license-files"]) <= copied
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.M)
    assert yaml.safe_load(entry) == list(PROJECT["scripts"])
    for line in re.findall(r"^#   (docker .*)$", text, re.M):
        assert shlex.split(line, comments=True)[1] in ("build", "run")


def test_picture_of_the_concepts_is_the_scripts():
    spec = importlib.util.spec_from_file_location("way_of_the_data", ROOT / "docs/way_of_the_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.picture(), "run python docs/way_of_the_data.py"


def test_links_lead_somewhere():
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if not re.match(r"https?:|#|api/", target):  # the pages of the API are made with the site
                assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


def test_the_quickstart_lists_every_extra():
    page = (ROOT / "docs/quickstart.md").read_text(encoding="utf-8")
    missing = [extra for extra in PROJECT["optional-dependencies"] if f"\n| `{extra}` | " not in page]
    assert not missing, f"add {missing} to the table of docs/quickstart.md"


def test_every_page_is_in_the_navigation():
    named = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    pages = {page.name for page in PAGES if page.parent.name == "docs"}
    assert pages <= set(named) and len(named) == len(set(named))


def test_the_site_loads_nothing_from_elsewhere():
    """No fonts, scripts or styles of other servers: the theme's fonts are off, and no plugin or extra file brings any."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert re.search(r"^  font: false", text, re.M) and re.search(r"^strict: true$", text, re.M)
    assert not re.search(r"^extra_(css|javascript):|https?://", text, re.M)


def test_readme_is_short_and_has_its_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 160
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = [line.split("#")[0].split() for line in text.splitlines()]
    for target in ("quickstart", "test"):
        assert ["make", target] in lines and f"make {target}" in (ROOT / ".ci/run").read_text()
        installs = next(
            line
            for line in lines
            if line[-1:] in (['".[plot]"'], ['".[test]"']) and (target == "test") == ("test" in line[-1])
        )
        assert f"pip install --quiet -e {installs[-1]}" in makefile
