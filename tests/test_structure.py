"""The rules of the code's structure: imports, sizes, words, and where tests are."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "headrace"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}
MODULES = {
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCES
}


def part_of(path: Path) -> str:
    """The part of the project that a file belongs to: "src/load", "tests/load", "docs/load.md", "bench"."""
    parts = path.relative_to(ROOT).parts
    if parts[0] == "src":
        parts = ("src", *parts[2:])
    return "/".join(parts[:2]) if parts[0] in ("src", "tests", "docs") else parts[0]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )


def test_no_folder_offers_a_name_that_is_also_one_of_its_modules():
    """`import headrace.profile.html_report as module` gives the module, and a test can patch it by its name."""
    shadowed = []
    for module, path in MODULES.items():
        if path.name != "__init__.py":
            continue
        offered = {name for node in TREES[path].body for name in bound_names(node)}
        shadowed += [f"{module}.{name}" for name in sorted(offered) if f"{module}.{name}" in MODULES]
    assert not shadowed


def bound_names(node: ast.stmt) -> list[str]:
    """Names that an import or a definition at the top of a module binds."""
    if isinstance(node, ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    return []


def test_the_core_imports_no_framework():
    """Ingest, store, order, load, sink, tokens, profile, diagnosis and the command line start without torch."""
    done = python(
        "import sys\n"
        "import headrace.cli, headrace.store, headrace.order, headrace.load, headrace.ingestion, headrace.tokens\n"
        "import headrace.sink, headrace.profile, headrace.diagnosis\n"
        "found = {'torch', 'jax', 'tensorflow', 'transformers', 'ray', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(found)) or 0)"
    )
    assert done.returncode == 0, done.stderr


def test_imports_go_down():
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_every_file_says_what_goes_in_and_what_comes_out():
    """The first line of a module is `in -> out`; of a module of values, a sentence."""
    for path in SOURCES:
        doc = ast.get_docstring(ast.parse(path.read_text()))
        assert doc, path
        first = doc.split("\n\n")[0]
        values = path.name in (
            "types.py",
            "document.py",
            "format.py",
            "journal.py",
            "options.py",
            "summary.py",
            "record.py",
            "protocol.py",
        )
        if path.name not in ("__init__.py", "__main__.py") and not values:
            assert "->" in first, f"{path}: the first line does not say in -> out"


def test_no_type_ignore_is_added_unnoticed():
    """A ratchet: lower the number when one goes."""
    found = sum(len(re.findall(r"#\s*type:\s*ignore", path.read_text())) for path in SOURCES)
    assert found <= TYPE_IGNORES


TYPE_IGNORES = 11


def test_no_stub_is_left():
    for path in SOURCES:
        assert not re.search(r"raise NotImplementedError|TODO|FIXME", path.read_text()), path


def test_every_pinned_package_but_torch_has_hashes():
    """`make pins` writes both files."""
    pins = set(re.findall(r"^\S+==\S+", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    hashed = set(re.findall(r"^\S+==\S+", (ROOT / ".ci/hashes.txt").read_text(), re.MULTILINE))

    def names(lines):
        return {line.lower().replace("_", "-") for line in lines if not line.startswith("torch==")}

    assert names(pins) == names(hashed)


def test_pins_name_no_package_host():
    for path in [*ROOT.glob("*.txt"), *(ROOT / "bench").glob("*.txt"), ROOT / "pyproject.toml"]:
        for line in path.read_text().splitlines():
            assert "://" not in line, f"{path}: {line}"
            assert not line.startswith(("-i", "--index", "--extra-index", "--find-links")), f"{path}: {line}"


# Words with a private meaning, and names that are verbs where a value is meant -> the field's term: docs/style.md.
PROSE = re.compile(
    r"""
    \b(?:
        nurser(?:y|ies) | nurtur\w+ | crews? | fleets? | outlets? | intakes? | twins? | standing
        | rooms? | doors? | houses?
        | pages?\ of\ C | hears? | heard | whoever | farewell
        | stands?\ (?:at|in|on|once|there) | stood
        | for\ ever | what\ is\ left\ of
    )\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
NAMES = re.compile(
    r"(?:^|_)(?:nursery|nurture|crew|fleet|conduct|outlet|intake|twins?|standing|room|door|hear|heard|said|told|asked|"
    r"wanted|beside|charge|onerow|lean|shelf|browse|refusal|farewell|story)(?:$|_)"
)
CLASSES = re.compile(
    r"Nurs|Nurture|Charge|Conduct|Outlet|Intake|Proof|Crew|Fleet|Exchange|About|Died|Standing|Origin|World|Twins|Lean|Onerow"
    r"|Hints|HostPlace$|FoundRows|Guard$|Driver|Asked|Wanted|Refusal|Shelf|Story"
)
TEXTS = [
    *SOURCES,
    *sorted(PACKAGE.rglob("*.c")),
    *sorted((ROOT / "tests").rglob("*.py")),
    *sorted((ROOT / "bench").glob("*.py")),
    *sorted((ROOT / "examples").rglob("*.py")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "bench/README.md", "conftest.py")
    ),
]


def words_in(path: Path) -> list[str]:
    if path == Path(__file__):
        return []
    text = path.read_text()
    return [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, found.start()) + 1}: {found.group()}"
        for found in PROSE.finditer(text)
    ]


def names_in(path: Path) -> list[str]:
    """Names that are defined in a module: of classes, functions, arguments, variables, attributes, and its own."""
    found = {(path.stem, 1)}
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add((node.name, node.lineno))
        elif isinstance(node, ast.arg):
            found.add((node.arg, node.lineno))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add((node.id, node.lineno))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add((node.attr, node.lineno))
    return [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for name, line in sorted(found, key=lambda pair: pair[1])
        if (CLASSES.match(name) if name[:1].isupper() and not name.isupper() else NAMES.search(name.lower()))
    ]


@pytest.mark.parametrize("part", sorted({part_of(path) for path in TEXTS}))
def test_words_with_a_private_meaning_do_not_come_back(part):
    files = [path for path in TEXTS if part_of(path) == part]
    found = [line for path in files for line in words_in(path)]
    found += [line for path in files if path in TREES for line in names_in(path)]
    assert not found, "\n" + "\n".join(found)


def test_no_class_name_is_in_two_modules():
    places = defaultdict(set)
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].add(str(path.relative_to(PACKAGE)))
    assert {name: sorted(paths) for name, paths in places.items() if len(paths) > 1} == {}


MAX_LINES = 80
MAX_PARAMETERS = 12


def functions_above_the_limits(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            parameters = len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs])
            if lines > MAX_LINES or parameters > MAX_PARAMETERS:
                yield f"{node.name}: {lines} lines, {parameters} parameters"


def test_functions_are_short_and_take_few_parameters():
    """At most 80 lines with the docstring, and 12 parameters, `self` included."""
    found = {
        str(path.relative_to(PACKAGE)): list(functions_above_the_limits(tree)) for path, tree in TREES.items()
    }
    assert {path: above for path, above in found.items() if above} == {}


def imports_of(module: str) -> set[str]:
    """Modules of headrace that a module imports, anywhere in its text, TYPE_CHECKING and functions included."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *filter(None, [node.module])])
            for alias in node.names:
                found.add(f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base)
    return {name for name in found if name in MODULES and name != module}


def test_no_import_goes_round_in_a_circle():
    """Modules import each other in one direction only; imports for types and within functions count."""
    graph = {module: imports_of(module) for module, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" > ".join(reversed(error.args[1])))


def test_other_folders_import_from_a_folder_and_not_from_its_modules():
    """`from headrace.storage import open_blob`: a folder's __init__ says what it offers."""
    found = []
    for module in MODULES:
        own = module.split(".")[1:2]
        if not own:
            continue
        found += [
            f"{module} imports {name}"
            for name in sorted(imports_of(module))
            if name.split(".")[1:2] != own and len(name.split(".")) > 2
        ]
    assert not found, "\n" + "\n".join(found)


def test_every_module_has_tests_of_its_name_or_a_test_that_names_it():
    """tests/<folder>/test_<module>.py, or a test file there whose docstring names the module."""
    docs = {
        test: ast.get_docstring(ast.parse(test.read_text())) or ""
        for test in (ROOT / "tests").rglob("test_*.py")
    }
    missing = []
    for path in SOURCES:
        relative = path.relative_to(PACKAGE)
        if path.name in ("__init__.py", "__main__.py"):
            continue
        if (ROOT / "tests" / relative.parent / f"test_{path.name}").is_file():
            continue
        near = ROOT / "tests" / (relative.parts[0] if len(relative.parts) > 1 else "")
        inside = "/".join(relative.parts[1:])  # in tests/ingestion: read/open.py
        names = (relative.as_posix(), *filter(None, [inside]), path.name)
        named = re.compile("|".join(rf"(?<![/\w]){re.escape(name)}\b" for name in names))
        if not any(named.search(doc) for test, doc in docs.items() if test.is_relative_to(near)):
            missing.append(str(relative))
    assert not missing, f"{len(missing)} modules: {', '.join(missing)}"
