"""A function of the user (map.py): run in the workers, part of what a job is continued with, its errors named."""

import sys

import pytest

from headrace.errors import ConfigError, DocumentError, ResumeError
from headrace.ingestion import JobOptions, OperatorOptions, ingest, pipeline

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
