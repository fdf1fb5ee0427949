"""Effective samples per gradient: quasi-Newton HMC against the samplers of TFP, NumPyro, BlackJAX.

Measured, for every sampler and target in one run: the effective sample size (ESS) per gradient of
the log density, the smallest and the median over the principal axes of the target and their squares
(the square of an axis is what a trajectory that comes back to where it began does not move). Where
the ESS exceeds the number of draws it counts as that number. Gradients are those of all chains.
Warm-up is left out in the first two columns; the third has it in: it is the ESS per gradient of a
run that stops at an ESS of 400, 400 / (gradients of the warm-up + 400 / first column). R-hat and
the worst z-score of the variances of the axes say whether the numbers mean anything.

Targets:

* ``gaussian_17``: a rotated normal, variances 1e-2 to 10;
* ``gaussian_100``: a rotated normal, variances 1e-4 to 1;
* ``banana``: Haario et al. 1999 in ten dimensions, x_1 ~ N(0.03 (x_0^2 - 100), 1), x_0 ~ N(0, 100);
* ``halos``: the real one, the 17 bias parameters given the true initial field of the shipped box:
  32^3 cells, haloes above 2e12 Msun/h, chains started around the optimum of `pretrain`. Its axes
  are the parameters. The density is `FieldPosterior.given_field`, with the response of the mesh to
  each shell of the kernel computed once and the chains side by side; that the two agree to 1e-6 is
  checked at the start;
* ``halos_standardised``: the same posterior in other coordinates. The mixture sees the field as
  w psi + b only, and psi may be stretched if w shrinks: a ridge that bends. With psi shifted to
  mean zero and scaled to variance one, w and b are what is left, and the ridge is straight. Draws
  are taken back to the parameters of ``halos`` before anything is measured.

Samplers (four chains, except the ensemble): `warm_up`, which chooses everything; quasi-Newton HMC
with `QuasiNewtonAdaptation`, with M = B or the paper's M = 1; with B from the Hessian at the mode
and never changed (normals and haloes only); `QuasiNewtonEnsemble` with three chains per dimension;
`MicrocanonicalLangevin` with a diagonal B, which is not adjusted;
TFP's windowed NUTS and windowed HMC; TFP's preconditioned HMC given the true covariance, which
nobody has (of the haloes, from two runs in the standardised coordinates); and, if they are
installed, NumPyro's NUTS with a diagonal and with a dense mass and BlackJAX's MCLMC, which is
not adjusted. NumPyro and BlackJAX see the first three targets only. Those whose trajectories do not
find a length of their own take `Target.leapfrogs` steps, or ``--leapfrogs``, and aim at an
acceptance of 0.9.

Run from the root of the repository: ``python benchmarks/sampling.py`` takes five minutes and leaves
out the haloes. ``--targets halos halos_standardised`` takes hours if NUTS is in ``--samplers``.
``--warmups 100 200 400 800 --figure docs/images/samplers.png`` draws ESS per gradient against the
gradients of the warm-up. ``--save`` and ``--load`` keep the rows of a run in a JSON file, so that a
figure may be made of several runs.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from sampling_targets import TARGETS, Array, Target, halos

from samplers import (
    DiagonalInverseHessian,
    LimitedMemoryInverseHessian,
    MicrocanonicalLangevin,
    QuasiNewtonAdaptation,
    QuasiNewtonEnsemble,
    QuasiNewtonHMC,
    sample,
    tune_microcanonical,
    warm_up,
)

CHAINS = 4
WANTED_ESS = 400
ACCEPTANCE = 0.9
JITTER = 0.2
COLUMNS = ("min", "median", "with w.u.", "R-hat", "worst z", "warm-up", "per draw", "seconds")


class Chains(NamedTuple):
    """What a sampler did: draws `[draws, chains, d]` and gradients of all chains together."""

    draws: Array
    warmup_gradients: int
    gradients: int


def warmed_up(target: Target, num_warmup: int, num_draws: int, seed: int) -> Chains:
    """`warm_up` and `sample`, with nothing set by hand."""
    found = warm_up(
        target.log_prob, target.start(CHAINS), (seed, 1), num_warmup, lengths=target.lengths
    )
    draws = sample(found.kernel, num_draws, found.state, (seed, 2)).draws
    cost = num_draws * found.num_leapfrog_steps
    return Chains(draws, CHAINS * found.num_gradients, CHAINS * cost)


def run_adaptive(
    kernel: Any, start: Array, num_warmup: int, num_draws: int, num_leapfrog_steps: int, seed: int
) -> Chains:
    """Run a kernel in an adaptation of its step size; trajectories of a given length."""
    adaptive = with_step_size(kernel, num_warmup)
    return run_kernel(adaptive, start, num_warmup, num_draws, num_leapfrog_steps, seed)


def with_step_size(kernel: Any, num_warmup: int) -> Any:
    """The kernel with a step size that adapts for most of the warm-up."""
    return tfp.mcmc.DualAveragingStepSizeAdaptation(
        kernel, max(int(0.8 * num_warmup), 1), target_accept_prob=ACCEPTANCE
    )


def run_kernel(
    kernel: Any, start: Array, num_warmup: int, num_draws: int, num_leapfrog_steps: int, seed: int
) -> Chains:
    """Run a kernel as it is; trajectories of a given length."""

    @tf.function(autograph=False)
    def run() -> Any:
        return tfp.mcmc.sample_chain(
            num_draws,
            tf.constant(start),
            kernel=kernel,
            num_burnin_steps=num_warmup,
            trace_fn=None,
            seed=[seed, 3],
        )

    per_step = len(start) * num_leapfrog_steps
    return Chains(run().numpy(), num_warmup * per_step, num_draws * per_step)


def quasi_newton_hmc(target: Target, num_leapfrog_steps: int, **arguments: Any) -> QuasiNewtonHMC:
    """The kernel with what never changes here."""
    return QuasiNewtonHMC(
        target.log_prob,
        num_leapfrog_steps=num_leapfrog_steps,
        step_size_jitter=JITTER,
        store_parameters_in_results=True,
        **arguments,
    )


def hessian_start(target: Target, num_warmup: int, num_draws: int, seed: int) -> Chains | None:
    """B is the inverse Hessian at the mode, for ever."""
    if target.hessian is None:
        return None
    hessian, price = target.hessian
    operator = LimitedMemoryInverseHessian(max(len(hessian), 30))
    kernel = quasi_newton_hmc(
        target,
        target.leapfrogs[0],
        step_size=0.1,
        inverse_hessian=operator,
        initial_curvature=operator.from_hessian(hessian),
    )
    chains = run_adaptive(
        kernel, target.start(CHAINS), num_warmup, num_draws, target.leapfrogs[0], seed
    )
    return chains._replace(warmup_gradients=chains.warmup_gradients + price)


def adapted(target: Target, num_warmup: int, num_draws: int, seed: int, mass: Any) -> Chains:
    """B learnt in the warm-up from B = 1, with a mass of B or of one."""
    start = target.start(CHAINS)
    operator = LimitedMemoryInverseHessian(min(max(4 * start.shape[1], 40), 400))
    steps = target.leapfrogs[mass == 1.0]
    kernel = quasi_newton_hmc(target, steps, step_size=0.1, inverse_hessian=operator, mass=mass)
    kernel = QuasiNewtonAdaptation(kernel, int(0.6 * num_warmup))
    return run_adaptive(kernel, start, num_warmup, num_draws, steps, seed)


def ensemble(target: Target, num_warmup: int, num_draws: int, seed: int) -> Chains:
    """Curvature from the other half of many chains."""
    size = target.start(1).shape[1]
    start = target.start(4 * ((3 * size + 3) // 4))
    operator = LimitedMemoryInverseHessian(len(start) // 2)
    steps = target.leapfrogs[0]
    inner = quasi_newton_hmc(target, steps, step_size=0.1, inverse_hessian=operator)
    kernel = QuasiNewtonEnsemble(with_step_size(inner, num_warmup))
    return run_kernel(kernel, start, num_warmup, num_draws, steps, seed)


def microcanonical(target: Target, num_warmup: int, num_draws: int, seed: int) -> Chains:
    """Microcanonical Langevin with a diagonal B, not adjusted."""
    start = target.start(CHAINS)
    kernel = MicrocanonicalLangevin(
        target.log_prob, step_size=0.1, inverse_hessian=DiagonalInverseHessian()
    )
    # four phases
    tuned = tune_microcanonical(
        kernel, tf.constant(start), (seed, 1), num_warmup // 4, learn_variance=True
    )
    draws = sample(tuned.kernel, num_draws, tuned.state, (seed, 2), chunk_size=1000).draws
    return Chains(draws, CHAINS * 4 * (num_warmup // 4), CHAINS * num_draws)


def true_covariance(target: Target, num_warmup: int, num_draws: int, seed: int) -> Chains:
    """TFP's preconditioned HMC with the covariance that the others look for."""
    covariance = target.covariance()
    momenta = tfp.experimental.distributions.MultivariateNormalPrecisionFactorLinearOperator(
        precision_factor=tf.linalg.LinearOperatorLowerTriangular(
            tf.constant(np.linalg.cholesky(covariance))
        ),
        precision=tf.linalg.LinearOperatorFullMatrix(tf.constant(covariance)),
    )
    steps = target.leapfrogs[0]
    kernel = tfp.experimental.mcmc.PreconditionedHamiltonianMonteCarlo(
        target.log_prob,
        step_size=tf.constant(0.1, tf.float64),
        num_leapfrog_steps=steps,
        momentum_distribution=momenta,
    )
    return run_adaptive(kernel, target.start(CHAINS), num_warmup, num_draws, steps, seed)


class Density(tfp.distributions.Distribution):
    """A log density in the clothes of a distribution, which TFP's windowed samplers ask for."""

    def __init__(self, log_prob: Callable[[Any], Any], size: int) -> None:
        """Keep both."""
        self._log_density, self._size = log_prob, size
        super().__init__(
            tf.float64, tfp.distributions.NOT_REPARAMETERIZED, False, True, name="density"
        )

    def _event_shape(self) -> Any:
        return tf.TensorShape([self._size])

    def _event_shape_tensor(self) -> Any:
        return tf.constant([self._size])

    def _batch_shape(self) -> Any:
        return tf.TensorShape([])

    def _batch_shape_tensor(self) -> Any:
        return tf.constant([], tf.int32)

    def _log_prob(self, value: Any) -> Any:
        return self._log_density(value)

    def _sample_n(self, n: Any, seed: Any = None) -> Any:
        # asked for its shape only
        return tf.zeros([n, self._size], tf.float64)

    def _default_event_space_bijector(self) -> Any:
        return tfp.bijectors.Identity()

    def _parameter_control_dependencies(self, is_init: bool) -> list[Any]:
        return []


def windowed(target: Target, num_warmup: int, num_draws: int, seed: int, nuts: bool) -> Chains:
    """TFP's windowed adaptation of a diagonal mass, around NUTS or HMC."""
    start = target.start(CHAINS)
    joint = tfp.distributions.JointDistributionSequential(
        [Density(target.log_prob, start.shape[1])]
    )
    mcmc = tfp.experimental.mcmc
    arguments = {
        "n_chains": [len(start)],
        "num_adaptation_steps": num_warmup,
        "current_state": [tf.constant(start)],
        "discard_tuning": False,
        "seed": [seed, 3],
    }

    @tf.function(autograph=False)
    def run() -> Any:
        if nuts:
            return mcmc.windowed_adaptive_nuts(num_draws, joint, **arguments)
        return mcmc.windowed_adaptive_hmc(
            num_draws, joint, num_leapfrog_steps=target.leapfrogs[1], **arguments
        )

    [draws], trace = run()
    steps = (
        trace["n_steps"].numpy()
        if nuts
        else np.full(draws.shape[:2], target.leapfrogs[1], np.int64)
    )
    warm, rest = np.split(steps, [num_warmup])
    return Chains(draws.numpy()[num_warmup:], int(warm.sum()), int(rest.sum()))


def numpyro_nuts(
    target: Target, num_warmup: int, num_draws: int, seed: int, dense: bool
) -> Chains | None:
    """NumPyro's NUTS."""
    if target.log_prob_of_jax is None:
        return None
    import jax
    import jax.numpy as jnp
    from numpyro.infer import MCMC, NUTS

    jax.config.update("jax_enable_x64", True)
    of_jax = target.log_prob_of_jax
    mcmc = MCMC(
        NUTS(potential_fn=lambda x: -of_jax(jnp, x), dense_mass=dense),
        num_warmup=num_warmup,
        num_samples=num_draws,
        num_chains=CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )
    first, second = jax.random.split(jax.random.PRNGKey(seed))
    start = jnp.asarray(target.start(CHAINS))
    counted = ("num_steps",)
    mcmc.warmup(first, init_params=start, extra_fields=counted, collect_warmup=True)
    warm = int(mcmc.get_extra_fields()["num_steps"].sum())
    mcmc.run(second, init_params=start, extra_fields=counted)
    draws = np.swapaxes(np.asarray(mcmc.get_samples(group_by_chain=True)), 0, 1)
    return Chains(draws, warm, int(mcmc.get_extra_fields()["num_steps"].sum()))


def blackjax_mclmc(target: Target, num_warmup: int, num_draws: int, seed: int) -> Chains | None:
    """BlackJAX's MCLMC with its own tuning, each chain by itself; two gradients a step."""
    if target.log_prob_of_jax is None:
        return None
    import blackjax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    of_jax = target.log_prob_of_jax
    kernel = blackjax.mcmc.mclmc.build_kernel()

    def log_prob(x: Any) -> Any:
        return of_jax(jnp, x)

    def one_chain(position: Any, key: Any) -> Any:
        keys = jax.random.split(key, 3)
        state = blackjax.mcmc.mclmc.init(position, log_prob, keys[0])
        # it takes this number for that of the run, and tunes for about a third of it
        state, found, _ = blackjax.mclmc_find_L_and_step_size(
            kernel, 3 * num_warmup, state, keys[1], log_prob
        )

        def step(state: Any, key: Any) -> Any:
            state, _ = kernel(
                key, state, log_prob, found.inverse_mass_matrix, found.L, found.step_size
            )
            return state, state.position

        return jax.lax.scan(step, state, jax.random.split(keys[2], num_draws))[1]

    keys = jax.random.split(jax.random.PRNGKey(seed), CHAINS)
    draws = jax.jit(jax.vmap(one_chain))(jnp.asarray(target.start(CHAINS)), keys)
    # phases of 0.1, 0.1 (and a third more for the preconditioner) and 0.1 of the number given
    tuned = round(0.3 * num_warmup) + (4 * round(0.3 * num_warmup)) // 3 + round(0.3 * num_warmup)
    return Chains(np.swapaxes(np.asarray(draws), 0, 1), 2 * CHAINS * tuned, 2 * CHAINS * num_draws)


class Sampler(NamedTuple):
    """A sampler, how long it warms up and draws by default, and the package it needs."""

    run: Callable[[Target, int, int, int], Chains | None]
    num_warmup: int
    num_draws: int
    package: str = "tensorflow_probability"


SAMPLERS = {
    "quasi-Newton, warm_up": Sampler(warmed_up, 400, 1500),
    "quasi-Newton, M = B": Sampler(functools.partial(adapted, mass="inverse_hessian"), 400, 1500),
    "quasi-Newton, M = 1": Sampler(functools.partial(adapted, mass=1.0), 400, 500),
    "quasi-Newton, Hessian": Sampler(hessian_start, 100, 1500),
    "quasi-Newton ensemble": Sampler(ensemble, 60, 200),
    "microcanonical Langevin": Sampler(microcanonical, 2000, 20_000),
    "TFP windowed NUTS": Sampler(functools.partial(windowed, nuts=True), 300, 150),
    "TFP windowed HMC": Sampler(functools.partial(windowed, nuts=False), 400, 500),
    "TFP HMC, true covariance": Sampler(true_covariance, 100, 1500),
    "NumPyro NUTS": Sampler(functools.partial(numpyro_nuts, dense=False), 300, 300, "numpyro"),
    "NumPyro NUTS, dense mass": Sampler(
        functools.partial(numpyro_nuts, dense=True), 300, 1000, "numpyro"
    ),
    "BlackJAX MCLMC": Sampler(blackjax_mclmc, 2000, 20_000, "blackjax"),
}


def effective_size(draws: Array) -> Array:
    """ESS of each quantity, `[draws, chains, n]` to `[n]`; at most the number of draws."""
    count = draws.shape[0] * draws.shape[1]
    size = tfp.mcmc.effective_sample_size(
        draws, cross_chain_dims=1, filter_beyond_positive_pairs=True
    ).numpy()
    return np.where((size > 0) & (size < count), size, count)


def row_of(target: Target, chains: Chains) -> dict[str, float]:
    """The numbers of a row of the table."""
    quantities = target.quantities(chains.draws)
    mean = 0.0 if target.variances is not None else quantities.mean((0, 1))
    squares = (quantities - mean) ** 2
    of_squares = effective_size(squares)
    sizes = np.minimum(effective_size(quantities), of_squares)
    smallest = sizes.min() / chains.gradients
    worst = np.nan
    if target.variances is not None:
        error = np.sqrt(squares.var((0, 1)) / of_squares)
        worst = np.abs((squares.mean((0, 1)) - target.variances) / error).max()
    r_hat = tfp.mcmc.potential_scale_reduction(quantities, split_chains=True).numpy().max()
    with_warmup = WANTED_ESS / (chains.warmup_gradients + WANTED_ESS / smallest)
    return {
        "min": float(smallest),
        "median": float(np.median(sizes) / chains.gradients),
        "with_warmup": float(with_warmup),
        "r_hat": float(r_hat),
        "z": float(worst),
        "warmup_gradients": float(chains.warmup_gradients),
        "gradients": float(chains.gradients),
        "steps": float(chains.gradients / (chains.draws.shape[0] * chains.draws.shape[1])),
    }


def measure(
    target: Target, sampler: Sampler, num_warmup: int, num_draws: int, seeds: Sequence[int]
) -> dict[str, float] | None:
    """Median over seeds of every number of a row."""
    rows = []
    for seed in seeds:
        chains = sampler.run(target, num_warmup, num_draws, seed)
        if chains is None:
            return None
        rows.append(row_of(target, chains))
    return {key: float(np.median([row[key] for row in rows])) for key in rows[0]}


def find_reference() -> None:
    """Draw the haloes' parameters once, for their covariance."""
    if halos().reference is not None:
        return
    began = time.monotonic()
    target = halos().target(True)
    draws = adapted(target, 400, 200, 8, "inverse_hessian").draws
    halos().reference = draws.reshape(-1, draws.shape[-1])
    # the covariance of the first run is that of the momenta of the second
    draws = true_covariance(target, 100, 500, 9).draws
    halos().reference = draws.reshape(-1, draws.shape[-1])
    print(f"reference: {time.monotonic() - began:.0f} s", flush=True)


def draw_figure(rows: list[dict[str, Any]], path: Path) -> None:
    """ESS per gradient after the warm-up against the gradients of the warm-up."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    # Okabe & Ito 2008; each line has a marker of its own as well
    styles = {
        "quasi-Newton, warm_up": ("#0072B2", "o-"),
        "quasi-Newton, M = B": ("#56B4E9", "s-"),
        "quasi-Newton, M = 1": ("#999999", "x:"),
        "quasi-Newton ensemble": ("#009E73", "D-"),
        "microcanonical Langevin": ("#F0E442", "*-"),
        "TFP windowed NUTS": ("#D55E00", "^--"),
        "TFP windowed HMC": ("#E69F00", "v--"),
        "NumPyro NUTS, dense mass": ("#CC79A7", "P--"),
        "TFP HMC, true covariance": ("black", "-"),
    }
    names = [name for name in TARGETS if any(row["target"] == name for row in rows)]
    figure, axes = plt.subplots(
        1,
        len(names),
        figsize=(3.2 * len(names), 3.4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, name in zip(axes[0], names, strict=True):
        for sampler, (color, style) in styles.items():
            points = sorted(
                (row["warmup_gradients"], row["min"])
                for row in rows
                if row["target"] == name and row["sampler"] == sampler
            )
            if not points:
                continue
            if sampler == "TFP HMC, true covariance":
                axis.axhline(np.median([y for _, y in points]), color=color, lw=1, label=sampler)
            else:
                axis.loglog(*zip(*points, strict=True), style, color=color, ms=5, label=sampler)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("gradients of the warm-up")
        axis.set_xscale("log")
    axes[0, 0].set_yscale("log")
    axes[0, 0].set_ylabel("smallest ESS per gradient, after it")
    handles = {
        label: handle
        for axis in axes[0]
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure and print a table for each target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--targets",
        nargs="+",
        choices=list(TARGETS),
        default=["gaussian_17", "gaussian_100", "banana"],
    )
    parser.add_argument("--samplers", nargs="+", choices=list(SAMPLERS), default=list(SAMPLERS))
    parser.add_argument("--warmups", nargs="+", type=int, help="steps of warm-up, for all samplers")
    parser.add_argument("--leapfrogs", type=int, help="steps of trajectories of a given length")
    parser.add_argument("--draws", type=int, help="draws of each chain, for all samplers")
    parser.add_argument("--seeds", type=int, default=1, help="runs, of which the median is shown")
    parser.add_argument("--save", type=Path, help="JSON file to add the rows to")
    parser.add_argument(
        "--load", nargs="*", type=Path, default=[], help="JSON files for the figure"
    )
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()

    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    for name in [] if args.load else args.targets:
        target = TARGETS[name]()
        if args.leapfrogs:
            target = target._replace(leapfrogs=(args.leapfrogs, args.leapfrogs))
        if name.startswith("halos") and "TFP HMC, true covariance" in args.samplers:
            find_reference()
        print(f"\n{name:25s}" + "".join(f"{column:>10s}" for column in COLUMNS))
        for label in args.samplers:
            sampler = SAMPLERS[label]
            if importlib.util.find_spec(sampler.package) is None:
                print(f"{label:25s}left out: {sampler.package} is not installed", flush=True)
                continue
            for num_warmup in args.warmups or [sampler.num_warmup]:
                started = time.monotonic()
                row = measure(
                    target,
                    sampler,
                    num_warmup,
                    args.draws or sampler.num_draws,
                    range(args.seeds),
                )
                if row is None:
                    print(f"{label:25s}left out: not for this target", flush=True)
                    break
                rows.append({"target": name, "sampler": label, **row})
                print(
                    f"{label:25s}{row['min']:10.2g}{row['median']:10.2g}{row['with_warmup']:10.2g}"
                    f"{row['r_hat']:10.3f}{row['z']:10.1f}{row['warmup_gradients']:10,.0f}"
                    f"{row['steps']:10.0f}{time.monotonic() - started:10.0f}",
                    flush=True,
                )
                if args.save:
                    args.save.write_text(json.dumps(rows, indent=1))
    for path in args.load:
        rows += json.loads(path.read_text())
    if args.figure:
        draw_figure(rows, args.figure)
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
