"""HEADRACE_NATIVE decides what runs, and an extension that is required and absent is an error with its cure."""

import os
import subprocess
import sys

import pytest

from headrace.errors import ConfigError
from headrace.native import available_targets, kernels, load, native_target, use_target


@pytest.fixture
def choose(monkeypatch):
    """Chooses by a value of HEADRACE_NATIVE, as a fresh process does."""
    monkeypatch.setattr(load._State, "target", None)
    monkeypatch.setattr(load._State, "kernels", None)

    def with_setting(value):
        monkeypatch.setenv(load.VARIABLE, value)
        monkeypatch.setattr(load._State, "target", None)
        return native_target()

    return with_setting


@pytest.fixture
def without_extension(monkeypatch):
    monkeypatch.setitem(sys.modules, "headrace.native._kernels", None)
    monkeypatch.setitem(sys.modules, "headrace.native._decoder", None)


def test_the_fastest_that_this_processor_has_runs(choose):
    assert choose("auto") == choose("") == available_targets()[-1]


def test_off_runs_python(choose):
    assert choose("off") == "off"
    assert kernels() is None


def test_each_instruction_set_can_be_chosen(choose):
    for name in available_targets():
        assert choose(name) == name
        assert choose(name.upper()) == name


def test_without_the_extension_python_runs(choose, without_extension):
    assert choose("auto") == "off"
    assert available_targets() == ("off",)


@pytest.mark.parametrize("setting", ["require", "baseline"])
def test_an_extension_that_is_required_and_absent_is_an_error_with_its_cure(
    choose, without_extension, setting
):
    with pytest.raises(ConfigError, match=rf"HEADRACE_NATIVE={setting}, but .*pip install --force-reinstall"):
        choose(setting)


def test_a_setting_that_is_not_known_is_refused(choose):
    with pytest.raises(ConfigError, match="HEADRACE_NATIVE is 'fast'; expected one of auto, require"):
        choose("fast")


def test_an_instruction_set_that_this_processor_lacks_is_refused(choose, monkeypatch):
    class Old:
        def targets(self):
            return ("baseline",)

    monkeypatch.setattr(load, "extension", lambda name: Old())
    with pytest.raises(ConfigError, match=r"this processor does not have it\. It has: baseline"):
        choose("avx512")


def test_a_choice_lasts_for_its_block():
    before = native_target()
    with use_target("off"):
        assert native_target() == "off"
    assert native_target() == before


def test_importing_headrace_chooses_nothing():
    """A wrong setting is an error where it is first used, which every command reports without a traceback."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import headrace.native, headrace.order; print(headrace.native.load._State.target)",
        ],
        env={**os.environ, load.VARIABLE: "nonsense"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "None"
