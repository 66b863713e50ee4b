"""Measured points -> a system's constants and how far predictions err: a hierarchical fit with held-out intervals.

A system is a source and a GPU. Each has constants of its own, drawn around those of its family of software, which are
drawn around common ones: many points decide their system's constants, few pull them a little, and a system without
points has those of its family. What the constants
leave is smoothed by a Gaussian process over the set-up's logarithms, within a system. Intervals come from residuals of
points that were held out: of five folds for known systems, of whole systems left out for new ones.

Sources: Gelman and Hill 2006 (partial pooling); Rasmussen and Williams 2006, chapter 2 (Gaussian process regression);
Vovk et al. 2005 (quantiles of held-out scores as intervals).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace.plan.families import FAMILIES, family_indices, family_of
from headrace.plan.points import Column, Points

Array = NDArray[np.float64]
Model = Callable[[Points, Array], Column]
"""(N set-ups, [N, K] logarithms of constants) -> N positive predictions."""

COVERAGE: Final = 0.9
_NOISE: Final = 0.05
"""Relative spread of repeated measurements."""
_RESIDUAL_SD: Final = 0.10
_LENGTHS: Final = np.array([3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 1.0, 2.0, 2.0])
"""Doublings (of the last three: steps) of a quantity over which what the formulae miss changes."""
_FOLDS: Final = 5
_FULL_POINTS: Final = 10
"""Points from which a system counts fully in its family."""
_FAMILY_PULL: Final = 1.0
"""Systems that the common constants count for in a family."""
_HOST_PULL: Final = 10.0
"""The same for constants that are seconds: latencies are more the host's than the software's."""
_EARLIER_PULL: Final = 4.0
"""Systems that an earlier calibration of a family counts for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A prediction and the bounds that hold it 9 times of 10; arrays [N]."""

    value: Column
    low: Column
    high: Column
    known: NDArray[np.bool_]
    """Was the system calibrated by points of its own?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Fitted constants of systems, and the scale of their held-out errors. Make one with `calibrate`."""

    systems: tuple[str, ...]
    counts: tuple[int, ...]
    """Points of each system."""
    common: Array
    """[K]: logarithms of the constants that families are drawn around."""
    centers: Array
    """[len(FAMILIES), K]: those that a family's systems are drawn around; a new system begins with them."""
    constants: Array
    """[S, K]."""
    covariance: Array
    """[S, K, K]: uncertainty of constants."""
    new_covariance: Array
    """[K, K]: of a system without points."""
    features: Array
    """[N, F]: set-ups whose residuals correct predictions near them."""
    residuals: Array
    """[N]: log(predicted / measured) by constants alone."""
    owners: NDArray[np.int64]
    """[N]: index into systems."""
    known_scale: float
    """Bounds of known systems, in predicted standard deviations."""
    new_scale: float

    def to_json(self) -> dict[str, Any]:
        """As plain values: JSON."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {k: np.round(v, 6).tolist() if isinstance(v, np.ndarray) else v for k, v in fields.items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Calibration:
        """What to_json made."""
        arrays = ("common", "centers", "constants", "covariance", "new_covariance", "features", "residuals")
        return cls(
            **{
                **values,
                "systems": tuple(values["systems"]),
                "counts": tuple(values["counts"]),
                **{name: np.array(values[name], dtype=np.float64) for name in arrays},
                "owners": np.array(values["owners"], dtype=np.int64),
            }
        )

    def constants_of(self, system: str | None, p: Points) -> Array:
        """[K] logarithms of a system's constants; those of its family where it has no points."""
        known = system in self.systems
        found: Array = (
            self.constants[self.systems.index(str(system))]
            if known
            else self.centers[FAMILIES.index(family_of(system, p))]
        )
        return found

    def predict(self, model: Model, p: Points, systems: Sequence[str | None]) -> Interval:
        """Predictions with intervals.

        Args:
            model: the formula that was calibrated.
            p: N set-ups.
            systems: N names; None is headrace without runs of its own, a name without points a new system.
        """
        index = np.array([self.systems.index(s) if s in self.systems else -1 for s in systems])
        known = index >= 0
        logs = np.where(known[:, None], self.constants[index], self.centers[family_indices(systems, p)])
        covariance = np.where(known[:, None, None], self.covariance[index], self.new_covariance)
        value = np.log(model(p, logs))
        slopes = _slopes(model, p, logs, value)
        variance = np.einsum("nk,nkl,nl->n", slopes, covariance, slopes)
        shift, left = self._smooth(features(p), index)
        sd = np.sqrt(variance + left + _NOISE**2)
        reach = np.where(known, self.known_scale, self.new_scale) * sd
        middle = value - shift
        return Interval(
            value=np.exp(middle), low=np.exp(middle - reach), high=np.exp(middle + reach), known=known
        )

    def _smooth(self, x: Array, index: NDArray[np.int64]) -> tuple[Column, Column]:
        """Expected residual at each set-up, and the variance that the smoothing leaves."""
        shift, left = np.zeros(len(x)), np.where(index >= 0, _RESIDUAL_SD**2, 0.0)
        for system in np.unique(index[index >= 0]):
            here, mine = index == system, self.owners == system
            if mine.sum() < 2:
                continue
            known = self.features[mine]
            matrix = _kernel(known, known) + _NOISE**2 * np.eye(mine.sum())
            cross = _kernel(x[here], known)
            weights = np.linalg.solve(matrix, cross.T)
            shift[here] = weights.T @ self.residuals[mine]
            left[here] = np.maximum(_RESIDUAL_SD**2 - np.einsum("nm,mn->n", cross, weights), 0)
        return shift, left


def features(p: Points) -> Array:
    """[N, F]: logarithms to base 2 of what a set-up's time depends on; then sharding, recomputation and dtype."""
    columns = (
        p.micro_batch * p.seq_len / p.cp, p.hidden_size, p.tp, p.pp, p.data_ranks, p.num_micro_batches, p.num_layers,
        p.seq_len, p.gpus,
    )  # fmt: skip
    logs = [np.log2(column) for column in columns]
    return np.stack([*logs, np.where(p.fsdp > 1, 1.0, 0.0), p.recompute, p.dtype], axis=1)


def calibrate(
    model: Model,
    p: Points,
    measured: Column,
    systems: Sequence[str],
    *,
    spread: Array,
    host: NDArray[np.bool_] | None = None,
    prior: Calibration | None = None,
) -> Calibration:
    """Fit constants to measured points, and measure on held-out points how far predictions err.

    Args:
        model: formula of a quantity.
        p: N measured set-ups.
        measured: N values of the quantity, above 0.
        systems: N names.
        spread: [K] standard deviations of the constants' logarithms between systems.
        host: [K] whether a constant is the host's more than the software family's; default: none is.
        prior: what other systems taught before; it pulls the common constants, and its systems stay known.
    """
    names = sorted(set(systems))
    index = np.array([names.index(s) for s in systems])
    target = np.log(measured)
    start = np.zeros(len(spread)) if prior is None else prior.common

    families = np.array([FAMILIES.index(family_of(name, p[index == i])) for i, name in enumerate(names)])
    centers = None if prior is None else prior.centers

    pull = _pull(spread, host, is_first=prior is None)

    def fit(chosen: NDArray[np.bool_]) -> Calibration:
        data = (p[chosen], target[chosen], index[chosen])
        return _fit(model, data, names, families, spread=spread, start=start, centers=centers, pull=pull)

    if len(target) >= 2 * _FOLDS or prior is None:
        folds = np.random.default_rng(0).permutation(len(target)) % _FOLDS
        known = _scores(model, p, target, systems, [(fit(folds != f), folds == f) for f in range(_FOLDS)])
        known_scale = _quantile(known, np.ones(len(target)))
    else:  # too few to hold some out
        known_scale = prior.known_scale
    fitted = fit(np.ones(len(target), dtype=bool))
    if len(names) > 1 and (prior is None or len(names) > 3):
        held = [(fit(index != s), index == s) for s in range(len(names))]
        new = _scores(model, p, target, systems, held)
        weight = 1 / np.bincount(index)[index]
        new_scale = _quantile(new, weight)
    else:
        new_scale = prior.new_scale if prior is not None else 1.645
    result = _replace(fitted, known_scale=known_scale, new_scale=new_scale)
    return result if prior is None else _joined(result, prior)


def _fit(
    model: Model,
    data: tuple[Points, Column, NDArray[np.int64]],
    names: list[str],
    families: NDArray[np.int64],
    *,
    spread: Array,
    start: Array,
    pull: Array,
    centers: Array | None = None,
) -> Calibration:
    """Maximum a posteriori by Gauss-Newton steps with Huber weights.

    Systems are drawn around their family, families around the common constants.
    """
    p, target, index = data
    size, num = len(spread), len(names)
    common = start.copy()
    is_first = centers is None
    old = np.tile(start, (len(FAMILIES), 1)) if centers is None else centers
    centers, logs = old.copy(), old[families]
    hessians = np.tile(np.diag(1 / spread**2), (num, 1, 1))
    present = np.unique(index)
    weights = np.minimum(np.bincount(index, minlength=num), _FULL_POINTS) / _FULL_POINTS
    for _ in range(18):
        value = np.log(model(p, logs[index]))
        error = value - target
        slopes = _slopes(model, p, logs[index], value)
        weight = np.minimum(1, 0.2 / np.maximum(np.abs(error), 1e-9)) / 0.1**2
        for system in present:
            mine = index == system
            a, w = slopes[mine], weight[mine]
            hessians[system] = a.T @ (a * w[:, None]) + np.diag(1 / spread**2)
            gradient = a.T @ (w * error[mine]) + (logs[system] - centers[families[system]]) / spread**2
            logs[system] -= np.clip(np.linalg.solve(hessians[system], gradient), -0.7, 0.7)
        common = (logs[present].sum(axis=0) + 0.5 * start) / (len(present) + 0.5)
        # A table that is added to earlier ones moves its families; the others stay.
        base = np.tile(common, (len(FAMILIES), 1)) if is_first else old
        for family in range(len(FAMILIES)):
            w = (weights * (families == family))[:, None]
            centers[family] = ((w * logs).sum(axis=0) + pull * base[family]) / (w.sum() + pull)
        absent = np.setdiff1d(np.arange(num), present)
        logs[absent] = centers[families[absent]]
    covariance: Array = np.asarray(np.linalg.inv(hessians), dtype=np.float64)
    new = np.diag(spread**2 * (1 + 1 / max(len(present), 1)))
    covariance[np.setdiff1d(np.arange(num), present)] = new
    return Calibration(
        systems=tuple(names[s] for s in present),
        counts=tuple(int((index == s).sum()) for s in present),
        common=common,
        centers=centers,
        constants=logs[present].reshape(len(present), size),
        covariance=covariance[present],
        new_covariance=new,
        features=features(p),
        residuals=np.log(model(p, logs[index])) - target,
        owners=np.searchsorted(present, index),
        known_scale=1.0,
        new_scale=1.0,
    )


def _pull(spread: Array, host: NDArray[np.bool_] | None, *, is_first: bool) -> Array:
    """[K]: systems that the common constants, or those of an earlier calibration, count for in a family."""
    if not is_first:
        return np.full(len(spread), _EARLIER_PULL)
    return np.where(np.zeros(len(spread), dtype=bool) if host is None else host, _HOST_PULL, _FAMILY_PULL)


def _scores(
    model: Model,
    p: Points,
    target: Column,
    systems: Sequence[str | None],
    held: list[tuple[Calibration, NDArray[np.bool_]]],
) -> Column:
    """|log error| of held-out points in predicted standard deviations."""
    scores = np.zeros(len(target))
    for fitted, out in held:
        if out.any():
            found = fitted.predict(model, p[out], [s for s, o in zip(systems, out, strict=True) if o])
            scores[out] = np.abs(np.log(found.value) - target[out]) / (np.log(found.high / found.low) / 2)
    return scores


def _slopes(model: Model, p: Points, logs: Array, value: Column) -> Array:
    """[N, K] derivative of the prediction's logarithm by each constant's."""
    slopes = np.empty(logs.shape)
    for k in range(logs.shape[1]):
        moved = logs.copy()
        moved[:, k] += 1e-4
        slopes[:, k] = (np.log(model(p, moved)) - value) / 1e-4
    return slopes


def _kernel(a: Array, b: Array) -> Array:
    distance = (((a[:, None] - b[None]) / _LENGTHS) ** 2).sum(axis=-1)
    kernel: Array = _RESIDUAL_SD**2 * np.exp(-0.5 * distance)
    return kernel


def _quantile(scores: Column, weights: Column) -> float:
    """Weighted quantile at COVERAGE, with the sample's own uncertainty added (one more point at the top)."""
    order = np.argsort(scores)
    share = np.cumsum(weights[order]) / (weights.sum() + weights.mean())
    place = min(int(np.searchsorted(share, COVERAGE)), len(scores) - 1)
    return float(max(scores[order][place], 0.5))


def _replace(calibration: Calibration, **changes: Any) -> Calibration:
    return Calibration(
        **{**{n: getattr(calibration, n) for n in calibration.__dataclass_fields__}, **changes}
    )


def _joined(new: Calibration, old: Calibration) -> Calibration:
    """The new calibration, and those systems of the old one that it has no points of."""
    kept = [i for i, name in enumerate(old.systems) if name not in new.systems]
    mine = np.isin(old.owners, kept)
    moved = {system: len(new.systems) + place for place, system in enumerate(kept)}
    return _replace(
        new,
        systems=new.systems + tuple(old.systems[i] for i in kept),
        counts=new.counts + tuple(old.counts[i] for i in kept),
        constants=np.concatenate([new.constants, old.constants[kept]]),
        covariance=np.concatenate([new.covariance, old.covariance[kept]]),
        features=np.concatenate([new.features, old.features[mine]]),
        residuals=np.concatenate([new.residuals, old.residuals[mine]]),
        owners=np.concatenate([new.owners, np.array([moved[o] for o in old.owners[mine]], dtype=np.int64)]),
    )
