"""cli/diagnose.py: what it does is in tests/diagnosis/test_store_stages.py; here are its options."""

from __future__ import annotations

import dataclasses

from headrace.cli.app import main
from headrace.diagnosis import StoreOptions


def test_every_option_of_the_loader_is_an_option_of_the_command(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["diagnose", "--help"]) == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(StoreOptions):
        assert f"--{field.name.replace('_', '-')}" in shown
    assert "--try" in shown
