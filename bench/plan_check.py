"""Does the planner predict runs that it has not seen?

Claim     On held-out points of known systems the mean error of step time is at most 8 % and 85 to 95 % lie inside the
          90 % interval; on systems never seen at most 15 %.
Run       python bench/plan_check.py TABLE.csv [TABLE.csv ...] [--out bench/results]
Compares  The same rows: a roofline (model FLOPs at the data sheet's peak), and the roofline at the median share of the
          peak that the other rows of that GPU and precision reach (what public calculators do).
Ceiling   Repeated measurements of one configuration in the tables differ by 2 to 5 %.
Reports   Mean and median of |predicted / measured - 1|, share inside the interval; regret of the chosen layout where a
          table has several layouts of one model, batch and number of GPUs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import numpy as np

from headrace.plan.calibration import calibrate
from headrace.plan.constants import memory_bytes, step_seconds
from headrace.plan.memory import SPREAD as MEMORY_SPREAD
from headrace.plan.points import Points
from headrace.plan.step_time import SPREAD
from headrace.plan.table import read_table


def held_out(p, y, systems, groups, model, spread, *, as_new):
    """Predictions of each group by the calibration on the others: value, inside."""
    value, inside = np.zeros(len(y)), np.zeros(len(y), dtype=bool)
    for group in np.unique(groups):
        out = groups == group
        fitted = calibrate(model, p[~out], y[~out], list(systems[~out]), spread=spread)
        found = fitted.predict(model, p[out], [None if as_new else s for s in systems[out]])
        value[out], inside[out] = found.value, (found.low <= y[out]) & (y[out] <= found.high)
    return value, inside


def errors(value, y):
    e = np.abs(value / y - 1)
    return {"mean": float(e.mean()), "median": float(np.median(e))}


def regret(p, y, value):
    """Measured time of the layout with the best prediction over the best measured one, for groups of one job."""
    names = ("num_layers", "hidden_size", "seq_len", "global_batch", "gpus", "peak")
    keys = [tuple(getattr(p, name)[i] for name in names) for i in range(len(y))]
    found = []
    for key in set(keys):
        rows = np.array([k == key for k in keys])
        if rows.sum() >= 3:
            found.append(float(y[rows][np.argmin(value[rows])] / y[rows].min() - 1))
    return (
        {"groups": len(found), "mean": float(np.mean(found)), "worst": float(np.max(found))}
        if found
        else {"groups": 0}
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tables", nargs="+")
    parser.add_argument("--out", default="bench/results")
    options = parser.parse_args()
    tables = [read_table(path) for path in options.tables]
    p = Points.concatenate([t.points for t in tables])
    y = np.concatenate([t.step_s for t in tables])
    mem = np.concatenate([t.memory_bytes for t in tables])
    systems = np.array([s for t in tables for s in t.systems])
    timed = ~np.isnan(y)
    p_t, y_t, s_t = p[timed], y[timed], systems[timed]
    folds = np.random.default_rng(3).permutation(len(y_t)) % 5
    known, inside = held_out(p_t, y_t, s_t, folds, step_seconds, SPREAD, as_new=False)
    new, new_inside = held_out(p_t, y_t, s_t, s_t, step_seconds, SPREAD, as_new=True)
    flops = p_t.flops_per_token * p_t.global_batch * p_t.seq_len / p_t.gpus
    roofline = flops / p_t.peak
    share = np.array(
        [
            np.median((roofline / y_t)[(p_t.peak == a) & (s_t != s)])
            if ((p_t.peak == a) & (s_t != s)).any()
            else 0.4
            for a, s in zip(p_t.peak, s_t, strict=True)
        ]
    )
    weighed = ~np.isnan(mem)
    each = np.arange(weighed.sum())
    m_value, m_inside = held_out(
        p[weighed], mem[weighed], systems[weighed], each, memory_bytes, MEMORY_SPREAD, as_new=False
    )
    big = np.array([s.startswith("vTrain") for s in s_t])
    result = {
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "points": len(y_t),
        "known systems, five folds": {**errors(known, y_t), "inside": float(inside.mean())},
        "new systems, one left out": {**errors(new, y_t), "inside": float(new_inside.mean())},
        "new systems without the largest table": {
            **errors(new[~big], y_t[~big]),
            "inside": float(new_inside[~big].mean()),
        },
        "roofline": errors(roofline, y_t),
        "roofline at the median share of other systems": errors(roofline / share, y_t),
        "memory, each point left out": {
            **errors(m_value, mem[weighed]),
            "inside": float(m_inside.mean()),
            "points": int(weighed.sum()),
        },
        "regret, known": regret(p_t, y_t, known),
        "by system": {
            s: {
                "points": int((s_t == s).sum()),
                "known": errors(known[s_t == s], y_t[s_t == s])["mean"],
                "new": errors(new[s_t == s], y_t[s_t == s])["mean"],
            }
            for s in np.unique(s_t)
        },
    }
    out = Path(options.out)
    (out / "plan_check.json").write_text(json.dumps(result, indent=1) + "\n")
    lines = [
        "# plan_check",
        "",
        f"{result['points']} published points, headrace at {result['commit']}; arithmetic only, no machine.",
        "",
        "| predictions of | mean error | median | inside 90 % |",
        "|---|---|---|---|",
    ]
    for name in (
        "known systems, five folds",
        "new systems, one left out",
        "new systems without the largest table",
        "memory, each point left out",
        "roofline",
        "roofline at the median share of other systems",
    ):
        row = result[name]
        inside_text = f"{100 * row['inside']:.0f} %" if "inside" in row else "-"
        lines.append(f"| {name} | {100 * row['mean']:.1f} % | {100 * row['median']:.1f} % | {inside_text} |")
    r = result["regret, known"]
    lines += [
        "",
        (
            f"Regret of the layout with the best held-out prediction, {r['groups']} groups of three layouts or more of "
            f"one job: mean {100 * r.get('mean', 0):.1f} %, worst {100 * r.get('worst', 0):.1f} %."
        ),
        "",
        "| system | points | known | new |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {s} | {v['points']} | {100 * v['known']:.1f} % | {100 * v['new']:.1f} % |"
        for s, v in result["by system"].items()
    ]
    (out / "plan_check.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
