"""Tables of measured runs -> src/headrace/plan/constants.json, the calibrations that come with headrace.

Run       python bench/plan_constants.py TABLE.csv [TABLE.csv ...]
Compares  nothing; bench/plan_check.py says how well a calibration predicts what it was not made from.
"""

from __future__ import annotations

import argparse
import json
from importlib.resources import files
from pathlib import Path

import numpy as np

from headrace.plan import memory as memory_model
from headrace.plan import step_time as time_model
from headrace.plan.calibration import calibrate
from headrace.plan.constants import memory_bytes, step_seconds
from headrace.plan.points import Points
from headrace.plan.table import read_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="+")
    parser.add_argument("--out", default=str(files("headrace.plan").joinpath("constants.json")))
    options = parser.parse_args()
    tables = [read_table(path) for path in options.tables]
    p = Points.concatenate([t.points for t in tables])
    systems = np.array([s for t in tables for s in t.systems])
    made = {}
    for name, model, spread, host, measured in (
        (
            "step",
            step_seconds,
            time_model.SPREAD,
            time_model.HOST,
            np.concatenate([t.step_s for t in tables]),
        ),
        ("memory", memory_bytes, memory_model.SPREAD, None, np.concatenate([t.memory_bytes for t in tables])),
    ):
        rows = ~np.isnan(measured)
        fitted = calibrate(model, p[rows], measured[rows], list(systems[rows]), spread=spread, host=host)
        made[name] = fitted.to_json()
        print(f"{name}: {rows.sum()} points of {len(fitted.systems)} systems")
    Path(options.out).write_text(json.dumps(made, separators=(", ", ": ")) + "\n")


if __name__ == "__main__":
    main()
