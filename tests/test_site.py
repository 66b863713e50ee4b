"""The documentation site's hooks: links of the repository become links of the site, and broken ones are found."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import headrace

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/assets/site_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("repository", "site"),
    [
        ("README.md", "index.md"),
        ("CONTRIBUTING.md", "contributing.md"),
        ("bench/results/README.md", "benchmarks/index.md"),
        ("bench/results/ingest.md", "benchmarks/ingest.md"),
        ("examples/own_loop.py", "examples/own_loop.md"),
        ("docs/format.md", "format.md"),
        ("src/headrace/errors.py", None),
    ],
)
def test_files_of_the_repository_have_their_page(hooks, repository, site):
    assert hooks.site_path_of(repository) == site


def test_every_public_name_is_in_the_reference_once(hooks):
    lines = hooks.api_page().splitlines()
    listed = [line.removeprefix("::: headrace.") for line in lines if line.startswith(":::")]
    assert sorted(listed) == sorted(headrace.__all__)


def test_every_benchmark_is_on_its_index_with_all_of_its_goals(hooks):
    page = hooks.benchmark_index()
    readme = (ROOT / "bench/results/README.md").read_text()
    assert page.count(" met |") + page.count(" MISSED |") == readme.count(" met |") + readme.count(
        " MISSED |"
    )
    for path in (ROOT / "bench/results").glob("*.json"):
        assert f"]({path.stem}.md)" in page


def test_a_broken_link_a_missing_id_and_a_request_to_a_host_are_found(hooks, tmp_path):
    (tmp_path / "a.html").write_text('<h1 id="top"></h1><a href="b.html#top"></a><a href="#top"></a>')
    (tmp_path / "b.html").write_text(
        '<a href="gone.html"></a><a href="a.html#no"></a><script src="https://cdn.example/x.js"></script>'
    )
    assert hooks.broken_links(tmp_path) == [
        "a.html: b.html#top: no such id",
        "b.html: loads https://cdn.example/x.js",
        "b.html: a.html#no: no such id",
        "b.html: gone.html: no such file",
    ]


@pytest.mark.parametrize(
    "page",
    ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))],
)
def test_files_that_a_page_names_exist(page):
    """`src/headrace/store/codec.py` in a page is a file of this repository, also after it is renamed."""
    text = (ROOT / page).read_text()
    named = re.findall(r"`((?:src|tests|bench|examples|docs|\.ci)/[\w./-]+)`", text)
    missing = sorted({name for name in named if not (ROOT / name).exists()} - {"bench/.data"})
    assert not missing


def test_the_path_of_the_data_names_every_folder():
    page = (ROOT / "docs/path.md").read_text()
    entries = [path for path in (ROOT / "src/headrace").iterdir() if not path.name.startswith(("_", "py."))]
    names = [f"{path.name}/" if path.is_dir() else path.name for path in entries]
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
