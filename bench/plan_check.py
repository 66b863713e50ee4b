"""Does the planner predict runs that it has not seen?

Claim     On held-out points of known systems the mean error of step time is at most 8 % and 85 to 95 % lie inside the
          90 % interval; on systems never seen at most 15 %.
Run       python bench/plan_check.py TABLE.csv [TABLE.csv ...] [--out bench/results]
Compares  The same rows: a roofline (model FLOPs at the data sheet's peak), and the roofline at the median share of the
          peak that the other rows of that GPU reach; the formulae of public calculators (function calculators).
Ceiling   Repeated measurements of one configuration in the tables differ by 2 to 5 %.
Reports   Mean and median of |predicted / measured - 1|, share inside the interval; regret of the chosen layout where a
          table has several layouts of one model, batch and number of GPUs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np

from headrace.plan.calibration import calibrate
from headrace.plan.constants import memory_bytes, step_seconds
from headrace.plan.memory import SPREAD as MEMORY_SPREAD
from headrace.plan.points import Points
from headrace.plan.step_time import HOST, SPREAD
from headrace.plan.table import read_table
from measure import at_most, commit, machine


def held_out(p, y, systems, groups, model, spread, *, host=None):
    """Predictions of each group by the calibration on the others: value, inside."""
    value, inside = np.zeros(len(y)), np.zeros(len(y), dtype=bool)
    for group in np.unique(groups):
        out = groups == group
        fitted = calibrate(model, p[~out], y[~out], list(systems[~out]), spread=spread, host=host)
        found = fitted.predict(model, p[out], list(systems[out]))
        value[out], inside[out] = found.value, (found.low <= y[out]) & (y[out] <= found.high)
    return value, inside


def errors(value, y):
    e = np.abs(value / y - 1)
    return {"mean": float(e.mean()), "median": float(np.median(e))}


JOB = ("num_layers", "hidden_size", "seq_len", "global_batch", "gpus", "peak")
LAYOUT = ("micro_batch", "dp", "fsdp", "zero", "tp", "pp", "cp", "interleave", "recompute")


def regret(p, y, value, systems):
    """Measured time of the layout with the best prediction over the best measured one, for groups of one job.

    Repeated measurements of one layout on one system count as one, with their mean: they are no choice.
    """
    jobs = {}
    for i in range(len(y)):
        job = (systems[i], *(getattr(p, name)[i] for name in JOB))
        layout = tuple(getattr(p, name)[i] for name in LAYOUT)
        jobs.setdefault(job, {}).setdefault(layout, []).append(i)
    found = []
    for layouts in jobs.values():
        if len(layouts) >= 3:
            measured = np.array([y[rows].mean() for rows in layouts.values()])
            predicted = np.array([value[rows].mean() for rows in layouts.values()])
            found.append(float(measured[predicted.argmin()] / measured.min() - 1))
    if not found:
        return {"groups": 0}
    return {"groups": len(found), "mean": float(np.mean(found)), "worst": float(np.max(found))}


def calculators(p):
    """Step seconds by the public formulae of ANCHORS: fixed shares of the peak, no intervals.

    Narayanan et al. 2021: 96 B s L h^2 (1 + s/6h + V/16Lh) FLOPs with full recomputation (72 without) at 52 % of the
    peak (their A100s), times 1 + (p - 1) / (v m). llm-analysis: model FLOPs of a layer at flops_efficiency 0.5 (its
    default), plus ring all-reduces at the links' bandwidth, unhidden. EleutherAI's cookbook: 6 or 8 N D FLOPs at 40 %.
    """
    tokens = p.global_batch * p.seq_len
    again = np.where(p.recompute == 2, 4 / 3, 1.0)
    bubble = 1 + (p.pp - 1) / (p.interleave * p.num_micro_batches)
    h, layers, s, v = p.hidden_size, p.num_layers, p.seq_len, p.vocab_size
    narayanan = 72 * tokens * layers * h**2 * (again * (1 + s / (6 * h)) + v / (12 * layers * h))
    model = again * p.flops_per_token * tokens / p.gpus
    inside = p.tp * p.fsdp * p.dp <= p.gpus_per_node
    link = np.where(inside, p.link_bytes_s, p.network_bytes_s)
    gradients = 2 * (p.data_ranks - 1) / p.data_ranks * 2 * p.num_parameters / (p.tp * p.pp) / link
    rows = tokens / (p.data_ranks * p.cp) * p.num_layers / p.pp
    reduces = np.where(p.tp > 1, 4 * 2 * (p.tp - 1) / p.tp * 2 * rows * h / p.link_bytes_s, 0)
    return {
        "Narayanan et al. 2021": narayanan / p.gpus / (0.52 * p.peak) * bubble,
        "llm-analysis' formula": (model / (0.5 * p.peak) + reduces) * bubble + gradients,
        "EleutherAI cookbook": again * 6 * p.num_parameters * tokens / p.gpus / (0.4 * p.peak),
    }


def memory_calculators(p):
    """Bytes by the public formulae: 16 or 18 bytes a weight over ZeRO, and Korthikanti's activations, nothing else."""
    weights = p.num_parameters / (p.tp * p.pp)
    ranks = np.maximum(np.where(p.fsdp > 1, p.fsdp, p.dp), 1) * p.cp
    state = weights * np.select(
        [p.zero == 0, p.zero == 1, p.zero == 2],
        [np.full(len(p), 16.0), 4 + 12 / ranks, 2 + 14 / ranks],
        16 / ranks,
    )
    tokens = p.micro_batch * p.seq_len / p.cp
    kept = np.where(p.recompute == 2, 2.0, 34.0 / p.tp)
    in_flight = np.minimum(p.pp, p.num_micro_batches)
    return {
        "memory by Korthikanti et al. 2022 and ZeRO": state
        + tokens * p.hidden_size * kept * p.num_layers / p.pp * in_flight
    }


def goals(result):
    """What the planner claims, and what was found."""
    percent = {
        name: 100 * result[name]["mean"]
        for name in ("known systems, five folds", "new systems, one left out", "memory, each point left out")
    }
    bars = dict(zip(percent, (8, 15, 8), strict=True))
    found = [at_most(f"mean error: {name}", percent[name], bars[name], "%") for name in percent]
    for name, bar in (("mean", 2), ("worst", 10)):
        found.append(at_most(f"regret, {name}", 100 * result["regret, known"].get(name, np.nan), bar, "%"))
    return found


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
    known, inside = held_out(p_t, y_t, s_t, folds, step_seconds, SPREAD, host=HOST)
    new, new_inside = held_out(p_t, y_t, s_t, s_t, step_seconds, SPREAD, host=HOST)
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
    rivals = calculators(p_t)
    weighed = ~np.isnan(mem)
    each = np.arange(weighed.sum())
    m_value, m_inside = held_out(
        p[weighed], mem[weighed], systems[weighed], each, memory_bytes, MEMORY_SPREAD
    )
    big = np.array([s.startswith("vTrain") for s in s_t])
    result = {
        "machine": machine(),
        "commit": commit(),
        "points": len(y_t),
        "known systems, five folds": {**errors(known, y_t), "inside": float(inside.mean())},
        "new systems, one left out": {**errors(new, y_t), "inside": float(new_inside.mean())},
        "new systems without the largest table": {
            **errors(new[~big], y_t[~big]),
            "inside": float(new_inside[~big].mean()),
        },
        "roofline": errors(roofline, y_t),
        "roofline at the median share of other systems": errors(roofline / share, y_t),
        **{name: errors(value, y_t) for name, value in rivals.items()},
        **{name: errors(value, mem[weighed]) for name, value in memory_calculators(p[weighed]).items()},
        "memory, each point left out": {
            **errors(m_value, mem[weighed]),
            "inside": float(m_inside.mean()),
            "points": int(weighed.sum()),
        },
        "regret, known": regret(p_t, y_t, known, s_t),
        "by system": {
            s: {
                "points": int((s_t == s).sum()),
                "known": errors(known[s_t == s], y_t[s_t == s])["mean"],
                "new": errors(new[s_t == s], y_t[s_t == s])["mean"],
            }
            for s in np.unique(s_t)
        },
    }
    result["goals"] = [dataclasses.asdict(goal) for goal in goals(result)]
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
        *rivals,
        *memory_calculators(p[weighed]),
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
