"""The documents name what there is: files, links, versions, sections of the Hub's protocol."""

import os
import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from hfvision import __version__

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
WALKS = ("architecture", "task", "dataset format", "training option", "CLI command", "Hub route")


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def prose(text):
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path):
    """The anchors that the headings of a page have on GitHub."""
    titles = re.findall(r"^#+ +(.*)$", prose(path.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def broken_links(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        page = path.parent / target if target else path
        if not page.exists() or (anchor and anchor not in anchors(page)):
            yield link


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_inside_the_repository_leads_somewhere(path):
    assert list(broken_links(path)) == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A title\n[a](#a-title) [b](#none) [c](none.md) [d](page.md#a-title) [e](https://example.org)\n")
    assert list(broken_links(page)) == ["#none", "none.md"]


@pytest.mark.parametrize("name", ["docs/where-to-change.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_file_that_is_named_exists(name):
    named = re.findall(r"`((?:hfvision|tests|docs|scripts|\.ci)/[\w./-]*)`", text_of(name))
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_tables_that_are_named_stand_in_the_files_named_with_them():
    page = " ".join(text_of("docs/where-to-change.md").split())
    named = re.findall(r"`([A-Z_]{4,})` (?:in|of) `(hfvision/[\w/]+\.py)`", page)
    named += [
        (table, path) for path, table in re.findall(r"`(hfvision/[\w/]+\.py)`(?:: a row of| \() ?`([A-Z]+)`", page)
    ]
    assert len(named) >= 5
    assert [(table, path) for table, path in named if not re.search(rf"\b{table}\b", text_of(path))] == []


def test_every_kind_of_addition_has_its_section():
    titles = re.findall(r"^## An? new (.*)$", text_of("docs/where-to-change.md"), flags=re.MULTILINE)
    assert tuple(titles) == WALKS


def test_every_part_has_its_layer():
    layers = text_of("ARCHITECTURE.md").partition("## Layers")[2].partition("## Mechanisms")[0]
    parts = {
        path.stem for path in (ROOT / "hfvision").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert sorted(part for part in parts - {"__init__"} if f"`{part}`" not in layers) == []


def test_changelog_and_citation_are_of_this_release():
    version, date = re.search(r"^## (\d\S*) \((\S+)\)$", text_of("CHANGELOG.md"), flags=re.MULTILINE).groups()
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert version == citation["version"] == __version__
    assert date == str(citation["date-released"])


def test_the_citation_has_what_its_format_asks_for():
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert {"authors", "message", "title"} <= citation.keys()
    assert all(author["name"] for author in citation["authors"])
    assert citation["license"] in text_of("pyproject.toml")


def test_hooks_before_a_commit_are_the_commands_of_the_check():
    hooks = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    check = text_of("scripts/check").splitlines()
    assert [hook["entry"].replace(" --force-exclude", "").removesuffix(" .") for hook in hooks] == [
        line.removesuffix(" .") for line in check[-3:]
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").iterdir()), ids=lambda path: path.name)
def test_a_script_is_described_can_run_and_is_valid(path):
    assert f"`scripts/{path.name}`" in text_of("CONTRIBUTING.md")
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], check=True)


PROTOCOL = "docs/hub-protocol.md"


def test_every_section_of_the_protocol_that_the_code_cites_exists():
    sections = set(re.findall(r"^##+ (\d+(?:\.\d+)?)\.? ", text_of(PROTOCOL), flags=re.MULTILINE))
    cited = {}
    for path in (ROOT / "hfvision" / "hub").rglob("*.py"):
        for first, second in re.findall(
            r"\bsections? (\d[\d.]*\d|\d)(?: and (\d[\d.]*\d|\d))?", path.read_text("utf-8")
        ):
            cited.update({number: path.name for number in (first, second) if number})
    assert len(cited) > 10
    assert {number: name for number, name in cited.items() if number not in sections} == {}


def test_the_protocol_lists_the_routes_of_the_server_and_no_others():
    app = pytest.importorskip("hfvision.hub.app")
    served = set()
    for area in app.AREAS:
        for route in import_module(f"hfvision.hub.http.{area}").ROUTES:
            pattern = route.pattern.replace("/{kinds}/{namespace}/{name}.git", "/{namespace}/{name}.git")
            served |= {f"{method} {pattern}" for method in route.methods - {"HEAD"}}
    rows = "\n".join(line.split(" | ")[0] for line in text_of(PROTOCOL).splitlines() if line.startswith("| `"))
    told = set(re.findall(r"`((?:GET|POST|PUT|DELETE) [^`]+)`", rows))
    assert {one.replace("REPO", "/api/{kinds}/{namespace}/{name}") for one in told} == served
