"""The search for a network that says more of haloes it has not seen than the paper's.

Optuna (extra ``search``) proposes architectures, `npe_tf.comparison.score_held_out` scores each on
octants of the box, all of them with one buffer around the hidden octant, and the gain over the
paper's network is taken octant by octant. All is kept in one SQLite file, octant by octant, so that
a search may be interrupted anywhere and goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from npe_tf.bias.architecture import Architecture
from npe_tf.comparison import HeldOut

__all__ = ["ArchitectureSearch", "PartScore", "SearchSpace", "best", "table", "to_dict"]

NUM_ERRORS = 3.0
"""Standard errors of a gain over the paper's network from which a network counts as better."""

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """What a search may choose from; every attribute is the values of one of `Architecture`.

    Attributes:
        kernel_size: of these extents.
        orders: tuples of l.
        num_layers: numbers of convolutions.
        features: filters.
        invariants: of maps of l > 0.
        num_components: of the mixture.
        heads: pairs of family and parameterisation.
        softening: of the logarithm.
        max_radius: largest receptive radius [cells]; larger networks are left out.

    Raises:
        ValueError: if a value is none of an architecture, or the radius leaves nothing.
    """

    kernel_size: tuple[int, ...] = (3, 5, 7)
    orders: tuple[tuple[int, ...], ...] = ((0,), (0, 1), (0, 2), (0, 1, 2))
    num_layers: tuple[int, ...] = (1, 2, 3)
    features: tuple[int, ...] = (1, 2)
    invariants: tuple[str, ...] = ("power", "product")
    num_components: tuple[int, ...] = (1, 2, 3, 4)
    heads: tuple[tuple[str, str], ...] = (
        ("normal", "log_mass"),
        ("normal", "mass"),
        ("tapered_pareto", "log_mass"),
    )
    softening: tuple[float, ...] = (0.1,)
    max_radius: int = 3

    def __post_init__(self) -> None:
        """Try every value."""
        for name in ("kernel_size", "orders", "num_layers", "features", "num_components"):
            for value in getattr(self, name):
                Architecture(**{name: value})
        for value in self.invariants:
            Architecture(orders=(0, 1), invariants=value)
        for family, parameterisation in self.heads:
            Architecture(family=family, parameterisation=parameterisation)
        for softening in self.softening:
            Architecture(softening=softening)
        for field in dataclasses.fields(self):
            if not isinstance(getattr(self, field.name), int) and not getattr(self, field.name):
                raise ValueError(
                    f"Invalid value for argument `{field.name}`. Expected at least one value. "
                    f"Received: {field.name}={getattr(self, field.name)!r}"
                )
        if not self._extents():
            raise ValueError(
                "Invalid value for argument `max_radius`. Expected room for the smallest network "
                f"of kernels {self.kernel_size} and layers {self.num_layers}. Received: "
                f"max_radius={self.max_radius!r}"
            )

    def _extents(self) -> dict[int, list[int]]:
        """Numbers of layers that fit, for each extent with any."""
        fitting = {
            size: [n for n in self.num_layers if n * (size // 2) <= self.max_radius]
            for size in self.kernel_size
        }
        return {size: layers for size, layers in fitting.items() if layers}

    def suggest(self, trial: Any) -> Architecture:
        """The architecture that a trial of Optuna proposes."""
        extents = self._extents()
        size = trial.suggest_categorical("kernel_size", list(extents))
        # the numbers of layers that fit differ from extent to extent, and choices must not
        layers = trial.suggest_categorical(f"num_layers_{size}", extents[size])
        orders = trial.suggest_categorical("orders", [_text(o) for o in self.orders])
        family, parameterisation = trial.suggest_categorical(
            "head", [":".join(head) for head in self.heads]
        ).split(":")
        invariants = "power"
        if orders != "0":
            invariants = trial.suggest_categorical("invariants", list(self.invariants))
        return Architecture(
            kernel_size=size,
            orders=tuple(int(order) for order in orders),
            num_layers=layers,
            features=trial.suggest_categorical("features", list(self.features)),
            invariants=invariants,
            num_components=trial.suggest_categorical("num_components", list(self.num_components)),
            parameterisation=parameterisation,
            family=family,
            softening=trial.suggest_categorical("softening", list(self.softening)),
        )

    def parameters(self, architecture: Architecture) -> dict[str, Any]:
        """What Optuna is told to propose an architecture.

        Raises:
            ValueError: if the space does not have it.
        """
        a = architecture
        extents = self._extents()
        has = (
            a.kernel_size in extents
            and a.num_layers in extents[a.kernel_size]
            and (a.family, a.parameterisation) in self.heads
            and (a.orders == (0,) or a.invariants in self.invariants)
            and all(
                getattr(a, name) in getattr(self, name)
                for name in ("orders", "features", "num_components", "softening")
            )
        )
        if not has:
            raise ValueError(
                "Invalid value for argument `architectures`. Expected networks of the space of the "
                f"search. Received: {a.to_json()}"
            )
        chosen = {
            "kernel_size": a.kernel_size,
            f"num_layers_{a.kernel_size}": a.num_layers,
            "orders": _text(a.orders),
            "head": f"{a.family}:{a.parameterisation}",
            "features": a.features,
            "num_components": a.num_components,
            "softening": a.softening,
        }
        return chosen if a.orders == (0,) else {**chosen, "invariants": a.invariants}


@dataclasses.dataclass(frozen=True)
class PartScore:
    """Score of one network on one part of the box.

    Attributes:
        log_likelihood: of the part's haloes, at parameters fitted to the others.
        num_haloes: of the part.
        is_dead: whether the best of the fits has two components that coincide everywhere.
        seconds: it took.
    """

    log_likelihood: float
    num_haloes: int
    is_dead: bool = False
    seconds: float = 0.0


class ArchitectureSearch:
    """A search, in one file.

    Args:
        path: of the SQLite file; a search that is there goes on.
        space: to search.
        score: of a network on a part, by its number; a `RuntimeError` fails the trial.
        parts: numbers of the parts, in the order in which they are scored.
        settings: all that scores depend on; must be what the file has.
        seed: of the sampler.
        prune: whether to give up networks whose gain is below the median of the others' on the
            parts so far.
        report: called with a line after each part, and the number of parts scored anew.

    Raises:
        ImportError: without Optuna.
        ValueError: if the file is of a search with other settings.
    """

    def __init__(
        self,
        path: str | Path,
        space: SearchSpace,
        score: Callable[[Architecture, int], PartScore],
        parts: Sequence[int],
        settings: dict[str, Any],
        *,
        seed: int = 0,
        prune: bool = True,
        report: Callable[[str, int], None] | None = None,
    ) -> None:
        """Open or begin the study."""
        self._optuna = _import_optuna()
        self._space, self._score, self._parts = space, score, tuple(parts)
        self._report = report or (lambda line, scored: None)
        self._scored = 0
        storage = self._optuna.storages.RDBStorage(f"sqlite:///{Path(path)}")
        study = self._optuna.create_study(
            study_name="architectures", storage=storage, load_if_exists=True, direction="maximize"
        )
        settings = json.loads(
            json.dumps({**settings, "parts": list(parts), "space": dataclasses.asdict(space)})
        )
        kept = study.user_attrs.get("settings", settings)
        if kept != settings:
            other = sorted(k for k in {*kept, *settings} if kept.get(k) != settings.get(k))
            raise ValueError(
                f"Invalid value for argument `settings`. Expected those of the search in "
                f"{str(path)!r}. Received: others for {other}"
            )
        study.set_user_attr("settings", settings)
        done = len(study.trials)
        # a seed by itself would propose again what it has proposed
        study.sampler = self._optuna.samplers.TPESampler(seed=seed + done, n_startup_trials=8)
        pruners = self._optuna.pruners
        study.pruner = (
            pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
            if prune
            else pruners.NopPruner()
        )
        self.study = study
        self._known: dict[str, dict[str, Any]] = {}
        self._recover()

    def _recover(self) -> None:
        """End the trials that a kill has left open, and take up all scores."""
        states = self._optuna.trial.TrialState
        kept = [self.study.user_attrs.get("reference", {})]
        for trial in self.study.get_trials(deepcopy=False):
            kept.append(trial.user_attrs)
            if trial.state == states.RUNNING:
                self.study.tell(trial.number, state=states.FAIL)
            elif trial.state == states.WAITING:
                # the one that is asked for is the one that waits
                self.study.tell(self.study.ask(), state=states.FAIL)
        for attributes in kept:
            if "architecture" in attributes:
                known = self._known.setdefault(_key(attributes["architecture"]), {})
                known.update(attributes.get("parts", {}))

    def run(self, num_trials: int, architectures: Iterable[Architecture] = ()) -> None:
        """Score the paper's network, then those given, then what Optuna proposes.

        Args:
            num_trials: networks in all, without the paper's; those that the file has count, unless
                they were interrupted.
            architectures: to begin with; those that the file has are not begun again.

        Raises:
            ValueError: if one of them is outside the space.
        """
        first = [(a, self._space.parameters(a)) for a in architectures]
        first += [(a, self._space.parameters(a)) for a in self._interrupted()]
        self.score_reference()
        for architecture, parameters in first:
            done = {_key(trial.user_attrs["architecture"]) for trial in self._ended()}
            if _key(dataclasses.asdict(architecture)) not in done and self._is_short(num_trials):
                self.study.enqueue_trial(parameters)
                self._run_trial()
        while self._is_short(num_trials):
            self._run_trial()

    def _is_short(self, num_trials: int) -> bool:
        return len(self._ended()) < num_trials

    def _interrupted(self) -> list[Architecture]:
        """Networks that were begun and neither scored nor given up."""
        return [
            _architecture(trial.user_attrs)
            for trial in self.study.get_trials(deepcopy=False)
            if "architecture" in trial.user_attrs and not _is_over(trial)
        ]

    def parts_left(self, num_trials: int) -> int:
        """Scores that `run` still needs, at most.

        Args:
            num_trials: networks in all, without the paper's.
        """
        ended = self._ended()
        over = {_key(trial.user_attrs["architecture"]) for trial in ended}
        over -= {_key(dataclasses.asdict(Architecture()))}
        wanted = {str(number) for number in self._parts}
        known = sum(len(wanted & set(of)) for key, of in self._known.items() if key not in over)
        return max(0, (1 + num_trials - len(ended)) * len(wanted) - known)

    def _ended(self) -> list[Any]:
        return [trial for trial in self.study.get_trials(deepcopy=False) if _is_over(trial)]

    def score_reference(self) -> None:
        """Score the paper's network on the parts that are not known yet."""
        paper = Architecture()
        attributes = _attributes(paper)

        def keep(known: dict[str, Any]) -> None:
            self.study.set_user_attr("reference", {**attributes, "parts": known})

        for number in self._parts:
            self._part(paper, number, keep)

    def confirm(self, architecture: Architecture, parts: Sequence[int]) -> tuple[float, float]:
        """Gain over the paper's network on parts that the search has not used.

        Args:
            architecture: the best of the search.
            parts: their numbers.

        Returns:
            Mean gain of a part and its standard error, which are kept in the file too.

        Raises:
            ValueError: for less than two parts.
        """
        if len(parts) < 2:
            raise ValueError(
                "Invalid value for argument `parts`. Expected two or more. Received: "
                f"parts={list(parts)}"
            )
        kept = self.study.user_attrs.get("confirmation", {})
        own = _attributes(architecture)
        if kept.get("on") == list(parts) and kept["architecture"] == own["architecture"]:
            return kept["gain"], kept["gain_standard_error"]
        ours, theirs = (
            [self._part(network, number) for number in parts]
            for network in (architecture, Architecture())
        )
        gain, error = _held_out(ours).gain(_held_out(theirs))
        self.study.set_user_attr(
            "confirmation",
            {
                **own,
                "on": list(parts),
                "log_likelihood": [score.log_likelihood for score in ours],
                "reference_log_likelihood": [score.log_likelihood for score in theirs],
                "gain": gain,
                "gain_standard_error": error,
            },
        )
        return gain, error

    def _part(
        self,
        architecture: Architecture,
        number: int,
        keep: Callable[[dict[str, Any]], None] | None = None,
    ) -> PartScore:
        """A score, from the file where it is known; what is told of is kept."""
        known = self._known.setdefault(_key(dataclasses.asdict(architecture)), {})
        if str(number) not in known:
            began = time.monotonic()
            score = self._score(architecture, number)
            if not math.isfinite(score.log_likelihood):
                raise RuntimeError(f"The score is {score.log_likelihood}")
            seconds = time.monotonic() - began
            known[str(number)] = dataclasses.asdict(dataclasses.replace(score, seconds=seconds))
            if keep is not None:
                keep(dict(known))
            self._scored += 1
            self._report(
                f"{architecture.label}, part {number}: {score.num_haloes} haloes, "
                f"log L = {score.log_likelihood:.1f}"
                f"{' (dead component)' if score.is_dead else ''}",
                self._scored,
            )
        return PartScore(**known[str(number)])

    def _run_trial(self) -> None:
        """One network, whatever becomes of it."""
        states = self._optuna.trial.TrialState
        trial = self.study.ask()
        architecture = self._space.suggest(trial)
        for name, value in _attributes(architecture).items():
            trial.set_user_attr(name, value)
        ours: list[PartScore] = []
        theirs: list[PartScore] = []
        gain = 0.0
        for step, number in enumerate(self._parts):
            numbers = [str(n) for n in self._parts[: step + 1]]

            def keep(known: dict[str, Any], numbers: list[str] = numbers) -> None:
                trial.set_user_attr("parts", {n: known[n] for n in numbers})

            try:
                ours.append(self._part(architecture, number, keep))
            except RuntimeError as error:
                trial.set_user_attr("reason", str(error))
                self.study.tell(trial, state=states.FAIL)
                return
            # from an earlier trial, too
            keep(self._known[_key(dataclasses.asdict(architecture))])
            theirs.append(self._part(Architecture(), number))
            gain = _gain(ours, theirs)[0]
            trial.report(gain, step)
            if step + 1 < len(self._parts) and trial.should_prune():
                trial.set_user_attr("reason", f"gain {gain:.1f} after {step + 1} parts")
                self.study.tell(trial, state=states.PRUNED)
                return
        self.study.tell(trial, gain)

    def rows(self) -> list[Row]:
        """All networks, the paper's first and then the best first; each once."""
        reference = self.study.user_attrs["reference"]
        theirs = {k: PartScore(**v) for k, v in reference["parts"].items()}
        rows = [_row(reference, "reference", theirs, self._parts)]
        seen = {_key(reference["architecture"])}
        found = []
        for trial in self._ended():
            key = _key(trial.user_attrs["architecture"])
            if key not in seen:
                seen.add(key)
                state = trial.state.name.lower()
                found.append(_row(trial.user_attrs, state, theirs, self._parts))
                found[-1]["trial"] = trial.number
        # whole ones before those that were given up
        found.sort(key=lambda row: (row["state"] != "complete", -(row["gain"] or -math.inf)))
        return rows + found


def best(rows: Sequence[Row], num_errors: float = NUM_ERRORS) -> tuple[Architecture, bool]:
    """The network with the largest gain, and whether it is better than the paper's.

    Args:
        rows: of `ArchitectureSearch.rows`.
        num_errors: standard errors that the gain must have.

    Returns:
        The best network that was scored on all parts, and whether its gain is that much; it takes
        two parts to tell.
    """
    whole = [row for row in rows if row["state"] in ("reference", "complete")]
    top = max(whole, key=lambda row: row["gain"])
    error = top["gain_standard_error"]
    return _architecture(top), error is not None and top["gain"] > num_errors * error > 0.0


def to_dict(search: ArchitectureSearch) -> dict[str, Any]:
    """All numbers of a search, for JSON."""
    attributes = search.study.user_attrs
    found = {"settings": attributes["settings"], "networks": search.rows()}
    if "confirmation" in attributes:
        found["confirmation"] = attributes["confirmation"]
    return found


def table(rows: Sequence[Row]) -> str:
    """A table in Markdown."""
    lines: list[Sequence[str]] = [
        ("architecture", "trial", "parameters", "held-out log L of each part", "gain", "seconds")
    ]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        gain = "" if row["gain"] is None else f"{row['gain']:,.1f}"
        if row["gain_standard_error"] is not None and row["state"] != "reference":
            gain += f" ± {row['gain_standard_error']:,.1f}"
        if row["state"] in ("pruned", "fail"):
            gain = f"{gain} ({'given up' if row['state'] == 'pruned' else 'failed'})".strip()
        lines.append(
            (
                f"{row['label']}{' (the paper)' if row['state'] == 'reference' else ''}",
                "" if row["trial"] is None else str(row["trial"]),
                str(row["num_parameters"]),
                " ".join(f"{score:,.1f}" for score in row["log_likelihood"]),
                gain,
                f"{row['seconds']:.0f}",
            )
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(attributes: Row, state: str, theirs: dict[str, PartScore], parts: Sequence[int]) -> Row:
    """Numbers of one network, over the parts that it has been scored on."""
    kept = attributes.get("parts", {})
    numbers = [number for number in parts if str(number) in kept]
    ours = [PartScore(**kept[str(number)]) for number in numbers]
    gain, error = _gain(ours, [theirs[str(number)] for number in numbers]) if ours else (None, None)
    return {
        "trial": None,
        "state": state,
        "reason": attributes.get("reason"),
        "label": _architecture(attributes).label,
        "architecture": attributes["architecture"],
        "num_parameters": attributes["num_parameters"],
        "parts": numbers,
        "log_likelihood": [score.log_likelihood for score in ours],
        "num_haloes": [score.num_haloes for score in ours],
        "dead": [score.is_dead for score in ours],
        "gain": gain,
        "gain_standard_error": error,
        "seconds": sum(score.seconds for score in ours),
    }


def _gain(ours: Sequence[PartScore], theirs: Sequence[PartScore]) -> tuple[float, float | None]:
    """Mean gain of a part; its standard error from two parts on."""
    if len(ours) == 1:
        return ours[0].log_likelihood - theirs[0].log_likelihood, None
    return _held_out(ours).gain(_held_out(theirs))


def _held_out(scores: Sequence[PartScore]) -> HeldOut:
    return HeldOut(
        tuple(score.log_likelihood for score in scores), tuple(score.num_haloes for score in scores)
    )


def _is_over(trial: Any) -> bool:
    """Whether a trial has ended by itself: what failed says why, what was killed does not."""
    return trial.state.is_finished() and (
        trial.state.name != "FAIL" or "reason" in trial.user_attrs
    )


def _attributes(architecture: Architecture) -> Row:
    return {
        "architecture": json.loads(architecture.to_json()),
        "num_parameters": architecture.num_parameters,
    }


def _architecture(row: Row) -> Architecture:
    return Architecture.from_json(json.dumps(row["architecture"]))


def _key(fields: Row) -> str:
    """The same of an architecture and of what JSON has made of it."""
    return json.dumps(fields, sort_keys=True)


def _text(orders: Sequence[int]) -> str:
    return "".join(map(str, np.ravel(orders)))


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "The search of architectures needs Optuna: pip install 'npe_tf[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
