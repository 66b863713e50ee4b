"""A directory holds one demo with one set of options, run by one process at a time."""

from __future__ import annotations

import pytest

from headrace.demo.state import exclusive, open_state
from headrace.errors import ConfigError

OWNED = ["corpus", "run"]


@pytest.fixture
def out(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    return path


def test_a_recorded_step_is_finished_after_a_kill(out):
    open_state(out, {"seed": 1}, owned=OWNED, restart=False).record("corpus", {"documents": 3})
    again = open_state(out, {"seed": 1}, owned=OWNED, restart=False)
    assert again.result("corpus") == {"documents": 3}
    assert again.result("train") is None


def test_a_demo_with_other_options_is_refused_with_what_differs(out):
    open_state(out, {"seed": 1, "text": "a"}, owned=OWNED, restart=False).record("corpus", {})
    with pytest.raises(ConfigError, match=r'text was "a", now "b".*--restart'):
        open_state(out, {"seed": 1, "text": "b"}, owned=OWNED, restart=False)


def test_a_demo_that_failed_in_its_first_step_may_be_replaced(out):
    open_state(out, {"text": "bad"}, owned=OWNED, restart=False)
    (out / "corpus").write_text("half")
    open_state(out, {"text": "good"}, owned=OWNED, restart=False).record("corpus", {})
    assert not (out / "corpus").exists()
    assert open_state(out, {"text": "good"}, owned=OWNED, restart=False).result("corpus") == {}


def test_a_directory_with_other_files_is_refused_and_not_changed(out):
    (out / "thesis.tex").write_text("years of work")
    for restart in (False, True):
        with pytest.raises(ConfigError, match=r"thesis\.tex"):
            open_state(out, {}, owned=OWNED, restart=restart)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_restart_deletes_the_files_of_a_demo_and_nothing_else(out):
    open_state(out, {"seed": 1}, owned=OWNED, restart=False).record("corpus", {})
    (out / "corpus").mkdir()
    (out / "corpus" / "part").write_text("x")
    (out / "notes.txt").write_text("mine")
    state = open_state(out, {"seed": 2}, owned=OWNED, restart=True)
    assert state.result("corpus") is None
    assert sorted(path.name for path in out.iterdir()) == ["demo.json", "notes.txt"]


def test_a_kill_while_the_old_demo_is_deleted_leaves_nothing_of_it_to_the_new_one(out, monkeypatch):
    open_state(out, {"seed": 1}, owned=OWNED, restart=False)
    for name in OWNED:
        (out / name).write_text("old")
    removed = []

    def killed(path):
        if removed:
            raise KeyboardInterrupt
        removed.append(path)
        path.unlink()

    with monkeypatch.context() as patch:
        patch.setattr("headrace.demo.state._remove", killed)
        with pytest.raises(KeyboardInterrupt):
            open_state(out, {"seed": 2}, owned=OWNED, restart=True)
    assert (out / "run").exists()
    open_state(out, {"seed": 2}, owned=OWNED, restart=False)
    assert not (out / "run").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}'])
def test_a_state_that_cannot_be_read_is_refused_by_name(out, content):
    (out / "demo.json").write_text(content)
    with pytest.raises(ConfigError, match=r"demo\.json"):
        open_state(out, {}, owned=OWNED, restart=False)


def test_a_second_demo_in_the_directory_is_refused_and_a_later_one_is_not(out):
    with exclusive(out), pytest.raises(ConfigError, match="another demo is running"), exclusive(out):
        pass
    with exclusive(out):
        assert list(out.iterdir()) == []
