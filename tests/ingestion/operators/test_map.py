"""A function of the user (map.py): run in the workers, part of what a job is continued with, its errors named."""

import importlib
import sys

import pytest

from headrace.errors import ConfigError, DocumentError, ResumeError
from headrace.ingestion import JobOptions, OperatorOptions, ingest, pipeline
from headrace.ingestion.operators.map import load_function

STEP = """
def shout(text):
    return None if "secret" in text else text.upper()

def fail(text):
    raise ValueError("no good")

def count(text):
    return len(text)

def surrogate(text):
    return "\\ud800"

LIMIT = 3
"""


@pytest.fixture
def step(tmp_path, monkeypatch):
    """A module of the user, in a directory that is on the path."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "own_step.py").write_text(STEP)
    monkeypatch.syspath_prepend(str(folder))
    yield folder / "own_step.py"
    sys.modules.pop("own_step", None)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_document_goes_through_the_function_whatever_the_workers(
    tmp_path, step, write_jsonl, texts_of, workers
):
    path = write_jsonl(tmp_path / "a.jsonl", ["one", "a secret", "two"] * 20)
    operators = OperatorOptions(map="own_step:shout")
    summary = ingest(
        path, tmp_path / "store", workers=workers, operators=operators, job=JobOptions(shard_text_bytes=200)
    )
    assert texts_of(tmp_path / "store") == ["ONE", "TWO"] * 20
    assert summary.dropped == {"mapped": 20}


def test_a_half_done_job_is_not_continued_with_another_version_of_the_function(
    tmp_path, step, write_jsonl, monkeypatch
):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    path = write_jsonl(tmp_path / "a.jsonl", ["one"])
    operators = OperatorOptions(map="own_step:shout")
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "commit", killed)
        with pytest.raises(Killed):
            ingest(path, tmp_path / "store", operators=operators)
    step.write_text(STEP.replace("upper", "lower"))
    with pytest.raises(ResumeError, match="map_fingerprint was"):
        ingest(path, tmp_path / "store", operators=operators)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("own_step:fail", r"map own_step:fail: ValueError: no good; on the text 'one'"),
        ("own_step:count", r"map own_step:count: returned a int, expected str or None"),
        ("own_step:surrogate", r"returned text that is not valid Unicode"),
    ],
)
def test_an_error_of_the_function_is_one_line_with_the_text(tmp_path, step, write_jsonl, name, says):
    path = write_jsonl(tmp_path / "a.jsonl", ["one"])
    with pytest.raises(DocumentError, match=says):
        ingest(path, tmp_path / "store", operators=OperatorOptions(map=name))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("own_step", "expected module:function"),
        ("own_step:absent", "absent"),
        ("absent_module:f", "No module named 'absent_module'.*working directory"),
        ("own_step:LIMIT", "is a int, expected a function"),
    ],
)
def test_a_function_that_is_not_there_is_named(tmp_path, step, write_jsonl, name, says):
    path = write_jsonl(tmp_path / "a.jsonl", ["one"])
    with pytest.raises(ConfigError, match=says):
        ingest(path, tmp_path / "store", operators=OperatorOptions(map=name))


@pytest.fixture
def working_directory(tmp_path, monkeypatch):
    """An empty working directory that is not on the path; what was imported from it is forgotten afterwards."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
            del sys.modules[name]


def test_only_the_named_module_and_what_it_imports_are_found_in_the_working_directory(working_directory):
    """Other files there take no library's place, and none stays findable."""
    (working_directory / "own_here.py").write_text(
        "import own_helper, colorsys\ndef f(text): return own_helper.WORD\n"
    )
    (working_directory / "own_helper.py").write_text("WORD = 'helped'")
    (working_directory / "colorsys.py").write_text("raise SystemExit('the file of the user was imported')")
    (working_directory / "own_other.py").write_text("")
    sys.modules.pop("colorsys", None)
    path, finders = list(sys.path), list(sys.meta_path)
    assert load_function("own_here:f")("") == "helped"
    assert not sys.modules["colorsys"].__file__.startswith(str(working_directory))
    assert (sys.path, sys.meta_path) == (path, finders)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("own_other")


def test_a_named_module_in_the_working_directory_comes_before_an_installed_one(working_directory):
    (working_directory / "colorsys.py").write_text("def f(text): return 'mine'")
    library = sys.modules.pop("colorsys", None)
    try:
        assert load_function("colorsys:f")("") == "mine"
    finally:
        sys.modules.pop("colorsys", None)
        if library is not None:
            sys.modules["colorsys"] = library


def test_a_named_module_whose_name_a_library_in_use_has_is_refused(working_directory):
    (working_directory / "json.py").write_text("def dumps(text): return 'mine'")
    with pytest.raises(
        ConfigError, match=r"json\.py has the name of a module that is in use already.*rename it"
    ):
        load_function("json:dumps")


def test_an_error_of_the_module_itself_is_named(working_directory):
    (working_directory / "own_broken.py").write_text("undefined")
    with pytest.raises(ConfigError, match="map is 'own_broken:f': NameError: name 'undefined'"):
        load_function("own_broken:f")


def test_a_package_of_the_working_directory_is_found(working_directory):
    (working_directory / "own_package").mkdir()
    (working_directory / "own_package" / "steps.py").write_text("def f(text): return text * 2")
    assert load_function("own_package.steps:f")("a") == "aa"
