"""A directory holds one demo, of one thing, run by one process."""

from __future__ import annotations

import pytest

from headrace.demo.journal import only_one, open_journal
from headrace.errors import ConfigError

OWNED = ["corpus", "run"]


@pytest.fixture
def out(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    return path


def test_what_was_recorded_is_done_after_a_kill(out):
    open_journal(out, {"seed": 1}, owned=OWNED, fresh=False).record("corpus", {"documents": 3})
    again = open_journal(out, {"seed": 1}, owned=OWNED, fresh=False)
    assert again.done("corpus") == {"documents": 3}
    assert again.done("train") is None


def test_a_demo_of_something_else_is_refused_with_what_differs(out):
    open_journal(out, {"seed": 1, "text": "a"}, owned=OWNED, fresh=False).record("corpus", {})
    with pytest.raises(ConfigError, match=r'text was "a", now "b".*--fresh'):
        open_journal(out, {"seed": 1, "text": "b"}, owned=OWNED, fresh=False)


def test_a_demo_that_failed_in_its_first_step_gives_way_to_another(out):
    open_journal(out, {"text": "bad"}, owned=OWNED, fresh=False)
    (out / "corpus").write_text("half")
    open_journal(out, {"text": "good"}, owned=OWNED, fresh=False).record("corpus", {})
    assert not (out / "corpus").exists()
    assert open_journal(out, {"text": "good"}, owned=OWNED, fresh=False).done("corpus") == {}


def test_a_directory_of_something_else_is_refused_and_left_alone(out):
    (out / "thesis.tex").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(ConfigError, match=r"thesis\.tex"):
            open_journal(out, {}, owned=OWNED, fresh=fresh)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_fresh_deletes_what_a_demo_wrote_and_nothing_else(out):
    open_journal(out, {"seed": 1}, owned=OWNED, fresh=False).record("corpus", {})
    (out / "corpus").mkdir()
    (out / "corpus" / "part").write_text("x")
    (out / "notes.txt").write_text("mine")
    journal = open_journal(out, {"seed": 2}, owned=OWNED, fresh=True)
    assert journal.done("corpus") is None
    assert sorted(path.name for path in out.iterdir()) == ["demo.json", "notes.txt"]


def test_a_kill_while_the_old_demo_is_deleted_leaves_nothing_of_it_to_the_new_one(out, monkeypatch):
    open_journal(out, {"seed": 1}, owned=OWNED, fresh=False)
    for name in OWNED:
        (out / name).write_text("old")
    removed = []

    def killed(path):
        if removed:
            raise KeyboardInterrupt
        removed.append(path)
        path.unlink()

    with monkeypatch.context() as patch:
        patch.setattr("headrace.demo.journal._remove", killed)
        with pytest.raises(KeyboardInterrupt):
            open_journal(out, {"seed": 2}, owned=OWNED, fresh=True)
    assert (out / "run").exists()
    open_journal(out, {"seed": 2}, owned=OWNED, fresh=False)
    assert not (out / "run").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}'])
def test_a_journal_that_cannot_be_read_is_refused_by_name(out, content):
    (out / "demo.json").write_text(content)
    with pytest.raises(ConfigError, match=r"demo\.json"):
        open_journal(out, {}, owned=OWNED, fresh=False)


def test_a_second_demo_in_the_directory_is_refused_and_a_later_one_is_not(out):
    with only_one(out), pytest.raises(ConfigError, match="another demo is running"), only_one(out):
        pass
    with only_one(out):
        assert list(out.iterdir()) == []
