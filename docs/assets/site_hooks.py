"""Files of the repository that are not in docs/ -> pages of the site: API reference, benchmarks, examples, changelog.

MkDocs calls the functions on_config, on_files, on_page_markdown and on_post_build by their names.
"""

from __future__ import annotations

import ast
import posixpath
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import headrace

ROOT = Path(__file__).parents[2]

PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
"""Pages at the repository's root -> pages of the site."""

API_SECTIONS = {
    "Ingest and stores": ["ingest", "Store", "load_tokenizer", "train_tokenizer"],
    "Load": ["Loader", "Batch", "mix"],
    "Train": ["train", "GPT", "GPTConfig", "load_model"],
    "Generate": ["generate", "read_predictions", "report"],
}
"""Public names by section; the others, errors first, come last."""


def site_pages() -> dict[str, str]:
    """Path of each generated page -> its Markdown."""
    pages = {
        "api.md": api_page(),
        "examples/index.md": examples_index(),
        "benchmarks/index.md": benchmark_index(),
    }
    pages |= {site: (ROOT / name).read_text() for name, site in PAGES.items() if (ROOT / name).is_file()}
    for path in sorted((ROOT / "bench/results").glob("*.md")):
        if path.name != "README.md":
            pages[f"benchmarks/{path.name}"] = path.read_text()
    for path in sorted((ROOT / "examples").glob("*.py")):
        pages[f"examples/{path.stem}.md"] = example_page(path)
    return pages


def api_page() -> str:
    """One entry per public name, filled by mkdocstrings from the docstrings."""
    listed = {name for names in API_SECTIONS.values() for name in names}
    others = [name for name in headrace.__all__ if name not in listed]
    sections = API_SECTIONS | {"Errors": [n for n in others if n.endswith("Error")]}
    sections["Options and values"] = [n for n in others if not n.endswith("Error")]
    lines = ["# API reference", "", "Everything is imported from `headrace`: `import headrace as hr`.", ""]
    for title, names in sections.items():
        if names:
            lines += [f"## {title}", ""]
            lines += [
                f"::: headrace.{name}\n    options:\n      heading_level: 3\n"
                # Its loops and its state are of a base class that is no public name.
                + ("      inherited_members: true\n" if name == "Loader" else "")
                for name in names
            ]
    return "\n".join(lines)


def example_page(path: Path) -> str:
    """An example as its docstring and its code."""
    source = path.read_text()
    return f"# {path.name}\n\n{ast.get_docstring(ast.parse(source))}\n\n```python\n{source}```\n"


def examples_index() -> str:
    """The examples with the first lines of their docstrings."""
    rows = []
    for path in sorted((ROOT / "examples").glob("*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        rows.append(f"| [{path.name}]({path.stem}.md) | {' '.join(doc.split(chr(10) * 2)[0].split())} |")
    table = "\n".join(["| program | what it does |", "|---|---|", *rows])
    return f"# Examples\n\nWhole programs; the tests run each of them.\n\n{table}\n"


def benchmark_index() -> str:
    """The goals of bench/results/README.md, grouped by benchmark, each with its own page."""
    lines = (ROOT / "bench/results/README.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    head, rows = rows[0][1:], rows[2:]
    out = [line for line in lines if not line.startswith(("|", "- `"))]
    for name in dict.fromkeys(row[0] for row in rows):
        out += ["", f"## [{name}]({name}.md)", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        out += [f"| {' | '.join(row[1:])} |" for row in rows if row[0] == name]
        out += [
            "",
            *(f"Measured at {line.partition(': ')[2]}." for line in lines if line.startswith(f"- `{name}`")),
        ]
    listed = {row[0] for row in rows}
    others = sorted(
        path.stem for path in (ROOT / "bench/results").glob("*.md") if path.stem not in {*listed, "README"}
    )
    out += [f"\n## [{name}]({name}.md)" for name in others]
    return "\n".join(out) + "\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the generated pages to the navigation, and SECURITY.md where there is one."""
    pages = sorted(site_pages())
    for section in config.nav or []:
        for title, entries in section.items():
            prefix = f"{title.lower()}/"
            if prefix in ("examples/", "benchmarks/"):
                entries += [name for name in pages if name.startswith(prefix) and name not in entries]
            if title == "Development" and "security.md" in pages:
                entries.append("security.md")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, text in site_pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Rewrite links that are relative to the repository; a file that is not on the site becomes plain text."""
    source = repository_path(page.file.src_uri)
    return re.sub(
        r"\[([^\]\n]*)\]\((?!https?://|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)",
        lambda found: _site_link(found, source, page.file.src_uri),
        markdown,
    )


def repository_path(site_path: str) -> str:
    """The file of the repository that a page of the site comes from."""
    for name, site in PAGES.items():
        if site == site_path:
            return name
    if site_path == "benchmarks/index.md":
        return "bench/results/README.md"
    if site_path.startswith("benchmarks/"):
        return f"bench/results/{site_path.removeprefix('benchmarks/')}"
    if site_path.startswith("examples/"):
        return site_path
    return f"docs/{site_path}"


_SITE_PATHS = (
    (r"README\.md", "index.md"),
    (r"bench/(?:results/?)?(?:README\.md)?", "benchmarks/index.md"),
    (r"bench/results/(\w+\.md)", r"benchmarks/\1"),
    (r"examples/?", "examples/index.md"),
    (r"examples/(\w+)\.(?:py|md)", r"examples/\1.md"),
    (r"docs/(.+)", r"\1"),
)


def site_path_of(repository: str) -> str | None:
    """The page of the site that shows a file of the repository; None where there is none."""
    if repository in PAGES:
        return PAGES[repository]
    for pattern, site in _SITE_PATHS:
        if match := re.fullmatch(pattern, repository):
            return match.expand(site)
    return None


def _site_link(found: re.Match[str], source: str, page: str) -> str:
    text, target, anchor = found[1], found[2], found[3] or ""
    repository = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    site = site_path_of(repository)
    if site is None:
        if not (ROOT / repository).exists():
            return found[0]  # left as it is: the strict build reports it
        return text if "`" in text else f"`{text}`"
    return f"[{text}]({posixpath.relpath(site, posixpath.dirname(page) or '.')}{anchor})"


class _Links(HTMLParser):
    """The ids of a page, its links, and what a browser loads for it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect one element."""
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        elif tag == "link" and values.get("rel") != "canonical" and "href" in values:
            self.loaded.add(values["href"])
        elif "src" in values:
            self.loaded.add(values["src"])


def broken_links(site: Path) -> list[str]:
    """Links of the built pages to a page or an id that does not exist, and requests to other hosts."""
    pages = {path: _Links(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    broken = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its links are absolute: it is served for any address
        name = path.relative_to(site)
        broken += [f"{name}: loads {url}" for url in sorted(page.loaded) if "://" in url]
        for url in sorted(page.links | page.loaded):
            if re.match(r"[a-z]+:", url):
                continue
            target, _, anchor = unquote(url).partition("#")
            file = (path.parent / target).resolve() if target else path
            if file.is_dir():
                file /= "index.html"
            if not file.exists():
                broken.append(f"{name}: {url}: no such file")
            elif anchor and file in pages and anchor not in pages[file].ids and not anchor.startswith("__"):
                broken.append(f"{name}: {url}: no such id")
    return broken


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site with a broken link or a request to another host."""
    broken = broken_links(Path(config.site_dir))
    if broken:
        raise PluginError("\n".join(broken))
