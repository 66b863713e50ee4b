"""There is one version, and the package, its metadata and the command line agree on it."""

from __future__ import annotations

import importlib.metadata

import headrace
from headrace.cli import main
from headrace.version import VERSION


def test_package_metadata_and_command_line_name_the_same_version(capsys):
    assert headrace.__version__ == VERSION == importlib.metadata.version("headrace")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == VERSION
