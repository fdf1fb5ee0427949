"""Gravity: accuracy against JaxPM and an N-body run, time and memory of densities and gradients.

Parts, chosen by ``--parts``:

* ``accuracy``: displacements of first and second order of the shipped box's linear density on 64^3
  cells, and cloud-in-cell mass, against JaxPM; differences in units of the rms.
* ``joint``: value and gradient of the joint log posterior (field and parameters) at 64^3, with
  Zel'dovich, the paper's network and float32, against eight real FFTs of 64^3, which is what the
  transforms alone take, and against JaxPM with the same bias model in `jax.numpy`; and where our
  time goes.
* ``particle_mesh``: time of one step, forward and with the gradient.
* ``scaling``: time of the joint gradient against N, and of the density alone at 256^3.
* ``memory``: peak memory of a gradient at 128^3, above that of TensorFlow itself. Every case is a
  process of its own. Linux only.
* ``simulation``: densities against the one that the shipped box has at the end of its N-body run,
  from the same linear modes: correlation r(k), and T(k), the root of the ratio of powers, with the
  windows of both mass assignments divided out. The reference has 64 times as many particles and
  modes beyond our mesh's.

Everything that is compared is measured in the same run. JaxPM is optional: ``pip install jaxpm``.

Run from the root of the repository: ``python benchmarks/gravity.py --parts accuracy joint``.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from npe_tf.cosmology import Cosmology
from npe_tf.datasets import load_nbody_box
from npe_tf.gravity.forward_model import ForwardModel
from npe_tf.gravity.lpt import LPT, lpt_displacements
from npe_tf.gravity.pm import ParticleMesh
from npe_tf.grid import Grid
from npe_tf.initial_field import InitialField
from npe_tf.painting import paint
from npe_tf.posterior import FieldPosterior, PosteriorConfig
from npe_tf.statistics import cross_correlation, power_spectrum

Tensor = Any

MASS_THRESHOLD = 2e12
NUM_CELLS = 64
WAVENUMBERS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6)
MEMORY_CASES = ("1lpt", "2lpt", "pm 2", "pm 5", "pm 10")


def median_milliseconds(
    calls: dict[str, Callable[[], Any]], repeats: int, warm_up: int = 2
) -> dict[str, float]:
    """Compile each, then let them take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + warm_up):
        for name, call in calls.items():
            began = time.perf_counter()
            for result in tf.nest.flatten(call()):
                np.asarray(result)
            if turn >= warm_up:
                times[name].append(time.perf_counter() - began)
    return {name: 1e3 * float(np.median(taken)) for name, taken in times.items()}


def has_jaxpm() -> bool:
    """Whether JaxPM is there; says so if it is not."""
    found = importlib.util.find_spec("jaxpm") is not None
    if not found:
        print("left out: jaxpm is not installed")
    return found


def white_noise_of(num_cells: int) -> Tensor:
    """A draw from the prior, float32."""
    return tf.random.stateless_normal([num_cells] * 3, [1, 2])


def value_and_gradient(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """Value and gradient with respect to all arguments as one graph."""

    @tf.function
    def call(*arguments: Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            value = function(*arguments)
        return value, tape.gradient(value, arguments)

    return call


def build(num_cells: int, **arguments: Any) -> FieldPosterior:
    """Posterior of the shipped catalogue."""
    config = PosteriorConfig(num_cells, MASS_THRESHOLD, **arguments)
    return config.build(load_nbody_box().catalogue)


def accuracy(_: int) -> None:
    """Displacements and painting against JaxPM."""
    if not has_jaxpm():
        return
    import jax.numpy as jnp
    from peers import gravity_jax as peer

    box = load_nbody_box()
    cosmology = Cosmology(**box.cosmology)
    grid = Grid(NUM_CELLS, box.box_size)
    delta = box.delta_linear.astype(np.float32)
    ours = lpt_displacements(tf.signal.rfft3d(delta), grid, 2)
    first, second = (np.moveaxis(psi.numpy(), 0, -1) / grid.cell_size for psi in ours)
    theirs = peer.cosmology_of(cosmology)

    def row(name: str, a: Any, b: Any) -> None:
        error, scale = np.asarray(a) - np.asarray(b), np.sqrt(np.mean(np.square(a)))
        rms = np.sqrt(np.mean(np.square(error))) / scale
        print(f"  {name:37s} {rms:9.1e} {np.abs(error).max() / scale:9.1e}")

    print("differences in units of the rms              rms       max")

    def displacements(kernel: str) -> tuple[Any, Any]:
        one = peer.displacement(jnp.asarray(delta), theirs, 1)
        two = peer.displacement(jnp.asarray(delta), theirs, 2) - one
        row(f"psi1, {kernel}", first, one)
        row(f"psi2, {kernel}", second, two / (-3.0 / 7.0))
        both = first + float(cosmology.second_order_growth_factor(1.0)) * second
        row(f"2LPT at a=1, {kernel}", both, one + two)
        return one, two

    displacements("finite differences")
    with peer.exact_gradient():
        _, two = displacements("exact derivatives")
    alive = grid.alive[..., np.newaxis]
    modes = np.fft.rfftn(np.asarray(two) / (-3.0 / 7.0), axes=(0, 1, 2)) * alive
    row("the same psi2 without Nyquist planes", second, np.fft.irfftn(modes, grid.shape, (0, 1, 2)))
    positions = LPT(grid, cosmology, order=2).positions(tf.signal.rfft3d(delta))
    row(
        "cloud-in-cell mass, same positions",
        paint(positions, NUM_CELLS, "cic"),
        peer.paint(np.asarray(positions), NUM_CELLS),
    )
    ratio = float(cosmology.second_order_growth_factor(1.0)) / (-3.0 / 7.0)
    print(f"  our D2 today / (-3/7), JaxPM's is one: {ratio:.4f}")


def eight_transforms(white_noise: Tensor) -> Tensor:
    """Four real transforms and four back, each of what the one before gave."""
    for _ in range(4):
        white_noise = tf.signal.irfft3d(tf.signal.rfft3d(white_noise))
    return white_noise


def joint(repeats: int) -> None:
    """The joint gradient against FFTs and JaxPM, and where its time goes."""
    white_noise = white_noise_of(NUM_CELLS)
    calls: dict[str, Callable[[], Any]] = {}
    transforms = tf.function(eight_transforms)
    calls["8 real FFTs"] = lambda: transforms(white_noise)
    posteriors = {scheme: build(NUM_CELLS, mass_assignment=scheme) for scheme in ("tsc", "cic")}
    theta = posteriors["cic"].bias.theta
    for scheme, posterior in posteriors.items():
        gradient = value_and_gradient(posterior.log_prob)
        calls[f"npe_tf, {scheme}"] = lambda call=gradient: call(white_noise, theta)
    found = median_milliseconds(calls, repeats)
    if has_jaxpm():
        # not in turns with ours: threads of one library that wait would slow the other down
        peers = jaxpm_calls(posteriors["cic"], white_noise, theta)
        found |= median_milliseconds(peers, repeats)
    print(f"value and gradient of the joint log posterior, {NUM_CELLS}^3, medians of {repeats}")
    print("                                 ms  / FFTs  / npe_tf cic")
    for name, taken in found.items():
        ratios = taken / found["8 real FFTs"], taken / found["npe_tf, cic"]
        print(f"  {name:27s} {taken:6.1f}  {ratios[0]:6.1f}  {ratios[1]:12.2f}")
    for scheme, posterior in posteriors.items():
        profile(posterior, scheme, white_noise, theta, repeats)


def jaxpm_calls(
    posterior: FieldPosterior, white_noise: Tensor, theta: Tensor
) -> dict[str, Callable[[], Any]]:
    """JaxPM with the same bias model, after a comparison of the values."""
    import jax
    from peers import gravity_jax as peer

    state = tuple(jax.numpy.asarray(x.numpy()) for x in (white_noise, theta))
    delta = posterior.density(white_noise)
    ours = float(posterior.log_likelihood(delta, theta))
    theirs = float(jax.jit(peer.log_likelihood(posterior))(delta.numpy(), state[1]))
    if abs(theirs / ours - 1.0) > 1e-5:
        raise RuntimeError(f"bias models differ: {theirs} for {ours}")
    print(f"log likelihood of the same density: relative difference {abs(theirs / ours - 1):.1e}")

    @value_and_gradient
    def whole(white_noise: Tensor, theta: Tensor) -> Tensor:
        prior = posterior.log_prior_field(0.0 * white_noise)
        prior += posterior.log_prior_parameters(0.0 * theta)
        return posterior.log_prob(white_noise, theta) - prior

    value, (slope, _) = whole(white_noise, theta)
    cosmology = peer.cosmology_of(posterior.initial_field.cosmology)
    with peer.exact_gradient():
        exact = jax.jit(jax.value_and_grad(peer.log_posterior(posterior, cosmology), (0, 1)))
        other, (other_slope, _) = exact(*state)
    relative = abs(float(other) / float(value) - 1.0)
    error = np.linalg.norm(np.asarray(other_slope) - slope) / np.linalg.norm(slope)
    print(f"JaxPM with exact derivatives: value to {relative:.1e}, field's gradient to {error:.1e}")
    if relative > 1e-3:
        raise RuntimeError("log posteriors differ")
    calls = {}
    for name, absolute in (("cic_paint", True), ("cic_paint_dx", False)):
        function = jax.value_and_grad(peer.log_posterior(posterior, cosmology, absolute), (0, 1))
        calls[f"JaxPM lpt, {name}"] = functools.partial(jax.jit(function), *state)
    return calls


def profile(
    posterior: FieldPosterior, scheme: str, white_noise: Tensor, theta: Tensor, repeats: int
) -> None:
    """Parts of the joint gradient, each alone."""
    positions = posterior.gravity.positions(posterior.initial_field.modes(white_noise))
    delta = posterior.density(white_noise)

    @tf.function
    def painted(positions: Tensor) -> Tensor:
        return paint(positions, NUM_CELLS, scheme)

    @tf.function
    def adjoint(positions: Tensor, upstream: Tensor) -> Tensor:
        with tf.GradientTape() as tape:
            tape.watch(positions)
            mass = paint(positions, NUM_CELLS, scheme)
        return tape.gradient(mass, positions, output_gradients=upstream)

    transforms = tf.function(eight_transforms)
    likelihood = value_and_gradient(posterior.log_likelihood)
    whole = value_and_gradient(posterior.log_prob)
    found = median_milliseconds(
        {
            "8 real FFTs": lambda: transforms(white_noise),
            "painting": lambda: painted(positions),
            "its adjoint": lambda: adjoint(positions, delta),
            "network and likelihood": lambda: likelihood(delta, theta),
            "whole": lambda: whole(white_noise, theta),
        },
        repeats,
    )
    total = found.pop("whole")
    found["rest"] = total - sum(found.values())
    print(f"{scheme}: {total:.1f} ms")
    for name, taken in found.items():
        print(f"  {name:27s} {taken:6.1f}  {taken / total:5.0%}")


def particle_mesh(repeats: int) -> None:
    """Time of a step, as a fourth of the difference between six and two."""
    print(f"particle mesh, {NUM_CELLS}^3 particles, ms per step, medians of {repeats}")
    print("force_factor  forward  with gradient  ratio")
    grid = Grid(NUM_CELLS, load_nbody_box().box_size)
    modes = InitialField(grid, Cosmology()).modes(white_noise_of(NUM_CELLS))
    weights = tf.random.stateless_normal([3, *[NUM_CELLS] * 3], [3, 4])
    for factor in (1, 2):
        calls: dict[str, Callable[[], Any]] = {}
        for steps in (2, 6):
            model = ParticleMesh(grid, Cosmology(), num_steps=steps, force_factor=factor)

            def weighted(modes: Tensor, model: Any = model) -> Tensor:
                return tf.reduce_sum(model.displacement(modes) * weights)

            forward, gradient = tf.function(weighted), value_and_gradient(weighted)
            calls[f"forward {steps}"] = lambda call=forward: call(modes)
            calls[f"gradient {steps}"] = lambda call=gradient: call(modes)
        found = median_milliseconds(calls, repeats)
        forward_ms, gradient_ms = (
            (found[f"{name} 6"] - found[f"{name} 2"]) / 4.0 for name in ("forward", "gradient")
        )
        ratio = gradient_ms / forward_ms
        print(f"{factor:12d}  {forward_ms:7.1f}  {gradient_ms:13.1f}  {ratio:5.2f}", flush=True)


def scaling(repeats: int) -> None:
    """Time against the number of cells."""
    sides = (32, 64, 96, 128)
    for scheme in ("cic", "tsc"):
        print(f"joint gradient, Zel'dovich, {scheme}")
        print("cells       ms  ns per cell  / N^3 log N (64^3: 1)")
        found = {}
        for side in sides:
            posterior = build(side, mass_assignment=scheme)
            gradient = value_and_gradient(posterior.log_prob)
            state = white_noise_of(side), posterior.bias.theta
            taken = median_milliseconds({"": lambda c=gradient, s=state: c(*s)}, repeats)
            found[side] = taken[""]
        for side, taken in found.items():
            cost = taken / (side**3 * np.log(side))
            cost /= found[NUM_CELLS] / (NUM_CELLS**3 * np.log(NUM_CELLS))
            print(f"{side:4d}^3  {taken:7.1f}  {1e6 * taken / side**3:11.0f}  {cost:19.2f}")
        slope = np.polyfit(np.log(sides), np.log(list(found.values())), 1)[0]
        print(f"time ~ N^{slope:.2f}", flush=True)
        density_at_256(scheme)


def density_at_256(scheme: str) -> None:
    """The density alone, where a gradient would be slow."""
    posterior = build(256, mass_assignment=scheme)
    density = tf.function(posterior.density)
    white_noise = white_noise_of(256)
    taken = median_milliseconds({"": lambda: density(white_noise)}, 3)[""]
    print(f"256^3 density alone: {taken:.0f} ms, {1e6 * taken / 256**3:.0f} ns per cell")


def peak_megabytes() -> float:
    """Largest resident set of this process so far.

    Not that of `getrusage`, which a child starts with its parent's.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(status.split("VmHWM:")[1].split()[0]) / 1024.0


def print_memory(case: str) -> None:
    """Peak memory of one case; for a process that does nothing else."""
    tf.reduce_sum(tf.ones([8, 8])).numpy()
    before = peak_megabytes()
    gravity, _, steps = case.partition(" ")
    posterior = build(128, gravity=gravity, pm_steps=int(steps or 1))
    gradient = value_and_gradient(posterior.log_prob)
    state = white_noise_of(128), posterior.bias.theta
    for _ in range(2):
        gradient(*state)[0].numpy()
    print(peak_megabytes() - before)


def memory(_: int) -> None:
    """Peak memory of the joint gradient."""
    print("joint gradient at 128^3, peak memory above TensorFlow's own [MB]; a field has 8.4 MB")
    for case in MEMORY_CASES:
        command = [sys.executable, __file__, "--memory-of", case]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"  {case:6s} {float(output.split()[-1]):6.0f}", flush=True)


def simulation(_: int, supersamplings: Sequence[int] = (1, 2)) -> None:
    """r(k) and T(k) of densities against the N-body run, as a Markdown table."""
    box = load_nbody_box()
    cosmology = Cosmology(**box.cosmology)
    grid = Grid(NUM_CELLS, box.box_size)
    modes = tf.signal.rfft3d(box.delta_linear.astype(np.float32))
    reference = power_spectrum(box.delta_final, grid, assignment="cic")
    shells = [int(np.argmin(np.abs(reference.wavenumber - k))) for k in WAVENUMBERS]

    def models(**arguments: Any) -> dict[str, ForwardModel]:
        found: dict[str, ForwardModel] = {
            "1LPT": LPT(grid, cosmology, order=1, **arguments),
            "2LPT": LPT(grid, cosmology, order=2, **arguments),
        }
        for integrator, steps in (*(("bullfrog", n) for n in (1, 3, 5, 10)), ("fastpm", 10)):
            found[f"{integrator} {steps}"] = ParticleMesh(
                grid, cosmology, num_steps=steps, integrator=integrator, **arguments
            )
        return found

    columns = [f"{name}({k:g})" for name in "rT" for k in WAVENUMBERS]
    print("| model | particles | cloud | " + " | ".join([*columns, "ms"]) + " |")
    print("|" + "---|" * (len(columns) + 4))
    for supersampling, scheme in itertools.product(supersamplings, ("tsc", "cic")):
        arguments = {"supersampling": supersampling, "mass_assignment": scheme}
        for name, model in models(**arguments).items():
            density = tf.function(model)
            delta = density(modes).numpy()
            taken = median_milliseconds({"": lambda call=density: call(modes)}, 3, 0)[""]
            _, r = cross_correlation(delta, box.delta_final, grid)
            ratio = power_spectrum(delta, grid, assignment=scheme).power / reference.power
            numbers = [f"{x:.3f}" for x in (*r[shells], *np.sqrt(ratio)[shells])]
            side = NUM_CELLS * supersampling
            cells = [name, f"{side}^3", scheme, *numbers, f"{taken:.0f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


PARTS: dict[str, Callable[[int], None]] = {
    part.__name__: part for part in (accuracy, joint, particle_mesh, scaling, memory, simulation)
}


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=15, help="timings of each call")
    parser.add_argument("--memory-of", choices=MEMORY_CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print_memory(arguments.memory_of)
        return
    print(f"{os.cpu_count()} cores")
    for part in arguments.parts:
        print(f"\n{part}")
        PARTS[part](arguments.repeats)


if __name__ == "__main__":
    main()
