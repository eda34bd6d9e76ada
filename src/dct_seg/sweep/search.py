"""Search methods: the values of the next trial by grid, at random, or from earlier results."""

from __future__ import annotations

import importlib.util
import itertools
import json
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dct_seg.sweep.space import Parameter, Sweep, Values

if TYPE_CHECKING:
    import optuna

DRAWS_PER_TRIAL = 100
"""Maximum number of draws per trial; then a random search ends, even with fewer different values."""


class Search(Protocol):
    """Search that proposes values and receives their metrics."""

    total: int
    """Maximum number of trials."""
    num_known: int
    """Number of finished trials of earlier runs that ``next`` does not return again."""

    def next(self) -> Values | None:
        """Return values for another trial, or None after the last one."""
        ...

    def tell(self, values: Values, metric: float | None) -> None:
        """Receive the metric of a finished trial; None for a failed one."""
        ...


class Listed:
    """Search whose trials are known from the start.

    Args:
        plan: Values of each trial.
    """

    def __init__(self, plan: Iterable[Values]) -> None:
        self._left = deque(plan)
        self.total = len(self._left)
        self.num_known = 0

    def next(self) -> Values | None:
        return self._left.popleft() if self._left else None

    def tell(self, values: Values, metric: float | None) -> None:
        """Ignore the metric."""


def planned(sweep: Sweep, *, trials: int | None = None, seed: int = 0) -> list[Values]:
    """Trials of a grid, with the last parameter changing fastest, or of a random search.

    Args:
        sweep: Sweep with method ``grid`` or ``random``.
        trials: Maximum number of trials; by default the file's ``run_cap``.
        seed: Seed of a random search; the nth draw does not depend on the number of trials.

    Raises:
        ValueError: When a random search has no number of trials.
    """
    most = trials or sweep.run_cap
    if sweep.method == "grid":
        names = [parameter.name for parameter in sweep.parameters]
        combinations = itertools.product(*(parameter.choices or [] for parameter in sweep.parameters))
        return [dict(zip(names, values, strict=True)) for values in itertools.islice(combinations, most)]
    most = _enough(most, sweep)
    drawn: dict[str, Values] = {}
    for number in range(DRAWS_PER_TRIAL * most):
        rng = np.random.default_rng([seed, number])
        values = {parameter.name: parameter.draw(rng) for parameter in sweep.parameters}
        drawn.setdefault(json.dumps(values, sort_keys=True), values)
        if len(drawn) == most:
            break
    return list(drawn.values())


class OptunaSearch:
    """Bayesian search with Optuna's TPE.

    Args:
        sweep: Sweep with a metric.
        trials: Total number of trials, earlier ones included; by default the file's ``run_cap``.
        seed: Seed of the sampler.
        known: Values and metrics of earlier trials, which count toward ``trials``.
        unfinished: Values of stopped trials, which are proposed first.

    Raises:
        ValueError: When Optuna is not installed, cannot draw a parameter, or no number of trials is given.
    """

    def __init__(
        self,
        sweep: Sweep,
        *,
        trials: int | None = None,
        seed: int = 0,
        known: Sequence[tuple[Values, float | None]] = (),
        unfinished: Sequence[Values] = (),
    ) -> None:
        if importlib.util.find_spec("optuna") is None:
            raise ValueError(
                "method bayes needs Optuna; pip install 'dct-seg[optuna]', or set method: random in the file"
            )
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        assert sweep.metric is not None
        self._states = optuna.trial.TrialState
        self._parameters = sweep.parameters
        self._spaces = {p.name: _distribution(p) for p in sweep.parameters if p.distribution != "constant"}
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)  # trials run in parallel
        self._study = optuna.create_study(direction=sweep.metric.goal, sampler=sampler)
        self._asked: dict[str, list[Any]] = {}  # equal values may be proposed again while they run
        self.total = _enough(trials or sweep.run_cap, sweep)
        for values, metric in known:
            state = self._states.FAIL if metric is None else self._states.COMPLETE
            given = {
                "params": self._encoded(values),
                "distributions": self._spaces,
                "value": metric,
                "state": state,
            }
            self._study.add_trial(optuna.trial.create_trial(**given))
        self.num_known = len(known)
        self._num_left = self.total - len(known)
        for values in unfinished:
            self._study.enqueue_trial(self._encoded(values))

    def next(self) -> Values | None:
        if self._num_left <= 0:
            return None
        self._num_left -= 1
        trial = self._study.ask(self._spaces)
        values = {p.name: self._decoded(p, trial.params) for p in self._parameters}
        self._asked.setdefault(json.dumps(values, sort_keys=True), []).append(trial)
        return values

    def tell(self, values: Values, metric: float | None) -> None:
        asked = self._asked.get(json.dumps(values, sort_keys=True))
        if asked:
            self._study.tell(asked.pop(), metric, state=self._states.FAIL if metric is None else None)

    def _encoded(self, values: Values) -> dict[str, Any]:
        """Convert values for Optuna; a choice becomes its index, because it may be a list or a mapping."""
        by_name = {p.name: p for p in self._parameters}
        return {
            name: by_name[name].options["values"].index(values[name])
            if "values" in by_name[name].options
            else values[name]
            for name in self._spaces
        }

    def _decoded(self, parameter: Parameter, found: dict[str, Any]) -> Any:
        if parameter.distribution == "constant":
            return parameter.options["value"]
        value = found[parameter.name]
        return parameter.options["values"][value] if "values" in parameter.options else value


def _distribution(parameter: Parameter) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    options = parameter.options
    if parameter.distribution == "categorical":
        return CategoricalDistribution(range(len(options["values"])))
    if parameter.distribution == "int_uniform":
        return IntDistribution(options["min"], options["max"])
    if parameter.distribution in ("uniform", "q_uniform"):
        step = float(options.get("q", 1.0)) if parameter.distribution == "q_uniform" else None
        return FloatDistribution(float(options["min"]), float(options["max"]), step=step)
    if parameter.distribution == "log_uniform_values":
        return FloatDistribution(float(options["min"]), float(options["max"]), log=True)
    raise ValueError(
        f"parameter '{parameter.name}' has distribution {parameter.distribution}, which method bayes cannot "
        "draw; use values, uniform, int_uniform, q_uniform or log_uniform_values"
    )


def _enough(trials: int | None, sweep: Sweep) -> int:
    if trials is None:
        raise ValueError(
            f"method {sweep.method} has no number of trials; give --trials N, or run_cap in the file"
        )
    return trials
