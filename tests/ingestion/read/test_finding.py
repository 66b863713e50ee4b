"""Which files are sources (sources.py): nothing is left out without a word, nothing is taken twice."""

import pytest

from headrace.errors import ConfigError, SourceError
from headrace.ingestion import FieldOptions, find_sources, ingest, read_texts


@pytest.fixture
def mixed(tmp_path):
    folder = tmp_path / "mixed"
    (folder / "__data").mkdir(parents=True)
    (folder / "good.jsonl").write_text('{"text": "good"}\n')
    (folder / "_f.jsonl").write_text('{"text": "hidden"}\n')
    (folder / "__data" / "g.jsonl").write_text('{"text": "hidden"}\n')
    for name in ("part-0000", "part-0001", "page.html", "code.py"):
        (folder / name).write_text('{"text": "unknown"}\n')
    return folder


def test_a_directory_says_what_it_leaves_out_and_why(tmp_path, mixed):
    summary = ingest(mixed, tmp_path / "store")
    assert summary.documents == 1
    hidden, unknown = summary.notes
    assert "2 files were left out, hidden (a name that begins with . or _): g.jsonl, _f.jsonl" in hidden
    assert "4 files were left out, of unknown format by name: code.py, page.html, part-0000, ..." in unknown
    assert ingest(str(mixed / "*.jsonl"), tmp_path / "globbed").notes == ()


def test_a_format_names_what_names_do_not(tmp_path, mixed):
    jsonl = FieldOptions(format="jsonl")
    assert ingest(mixed, tmp_path / "store", fields=jsonl).documents == 5
    assert list(read_texts(mixed / "part-0000", fields=jsonl)) == ["unknown"]
    assert list(read_texts(mixed / "part-0000", fields=FieldOptions(format="text"))) == [
        '{"text": "unknown"}\n'
    ]
    with pytest.raises(ConfigError, match="format is 'html'; expected auto, jsonl"):
        FieldOptions(format="html")


def test_a_directory_without_a_known_name_names_the_option(tmp_path):
    (tmp_path / "part-0000").write_text("x")
    with pytest.raises(SourceError, match=r"Name the files themselves, or give their --format"):
        find_sources([tmp_path])


def test_a_symbolic_link_and_its_target_are_one_source_and_it_is_said(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "once"}\n')
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "a.jsonl")
    summary = ingest(
        [tmp_path / "a.jsonl", tmp_path / "b.jsonl", f"{tmp_path}/./a.jsonl"], tmp_path / "store"
    )
    assert summary.documents == 1
    assert "were taken once" in summary.notes[0]
    assert "b.jsonl is" in summary.notes[0]
    assert "and 1 more" in summary.notes[0]
