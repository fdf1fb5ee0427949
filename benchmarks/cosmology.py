"""Growth, distances and linear power against other codes: agreement, derivatives and time.

Measured, each where the other code is installed:

* CAMB: the linear power of a Boltzmann code with massless neutrinos, for the same `sigma8` and for
  the same `A_s`; distances. CAMB has radiation, which `npe_tf` has not.
* Colossus: the same fits of Eisenstein & Hu 1998, the growth factor, distances.
* CCL: the fit of Eisenstein & Hu 1998, growth factor and rate, distances, also for w0, wa and
  Omega_k.
* jax-cosmo: derivatives of P(k), of the growth factor and of the distance with respect to the
  parameters. Its growth is interpolated from a table, and its sigma8 integral is a Simpson rule.

Every number is the largest relative difference over 0.001 to 5 h/Mpc, or over a = 0.2 to 1; for
derivatives, relative to the largest derivative. Nothing is tuned to agree.

The peers: ``pip install camb colossus pyccl jax-cosmo``. The peers may live in another environment:
``python benchmarks/cosmology.py --write ours.npz`` writes our numbers, and ``--read ours.npz``
compares with them without TensorFlow.

Run from the root of the repository: ``python benchmarks/cosmology.py``.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

K = np.geomspace(1e-3, 5.0, 200)
A = np.linspace(0.2, 1.0, 33)
FIDUCIAL = {"Omega_m": 0.315, "Omega_b": 0.049, "h": 0.68, "sigma8": 0.81, "n_s": 0.97}
T_CMB = 2.7255
A_S = 2.1e-9
UNIVERSES: dict[str, dict[str, float]] = {
    "LCDM": {},
    "w0wa": {"w0": -0.9, "wa": 0.2},
    "open": {"Omega_k": 0.1},
    "closed": {"Omega_k": -0.1},
}
DERIVATIVES = tuple(FIDUCIAL)


def ours() -> dict[str, Array]:
    """All our numbers, by name."""
    import tensorflow as tf

    from npe_tf.cosmology import Cosmology
    from npe_tf.power import linear_power, sigma8

    numbers: dict[str, Any] = {}
    for name, changes in UNIVERSES.items():
        cosmology = Cosmology(**{**FIDUCIAL, **changes})
        numbers[f"{name} D1"] = cosmology.growth_factor(A)
        numbers[f"{name} f1"] = cosmology.growth_rate(A)
        numbers[f"{name} distance"] = cosmology.transverse_comoving_distance(A[:-1])
    numbers["wiggles"] = linear_power(K, Cosmology(**FIDUCIAL))
    numbers["no wiggles"] = linear_power(K, Cosmology(**FIDUCIAL), "eisenstein_hu_no_wiggle")
    by_amplitude = Cosmology(**{**FIDUCIAL, "sigma8": None, "A_s": A_S})
    numbers["by A_s"] = linear_power(K, by_amplitude)
    numbers["sigma8 of A_s"] = sigma8(by_amplitude)

    def jacobian(function: Callable[[Any], Any]) -> tuple[Callable[[Any], Any], Any]:
        @tf.function
        def of(x: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                cosmology = Cosmology(**{n: x[i] for i, n in enumerate(FIDUCIAL)})
                value = function(cosmology)
            return tape.jacobian(value, x)

        point = tf.constant(list(FIDUCIAL.values()), tf.float64)
        return of, of(point)

    for name, function in {
        "d ln P": lambda c: tf.math.log(linear_power(K, c)),
        "d D1": lambda c: c.growth_factor(A),
        "d distance": lambda c: c.transverse_comoving_distance(A[:-1]),
    }.items():
        of, numbers[name] = jacobian(function)
        point = tf.constant(list(FIDUCIAL.values()), tf.float64)
        start = time.perf_counter()
        for _ in range(10):
            of(point)
        numbers[f"{name} time"] = (time.perf_counter() - start) / 10
    return {name: np.asarray(value) for name, value in numbers.items()}


def difference(one: Any, other: Any) -> float:
    """Largest relative difference."""
    return float(np.max(np.abs(np.asarray(one) / np.asarray(other) - 1.0)))


def with_camb(numbers: dict[str, Array]) -> list[tuple[str, float]]:
    """Compare with CAMB."""
    import camb

    rows = []
    h, radiation = FIDUCIAL["h"], 0.0
    for name, changes in UNIVERSES.items():
        pars = camb.CAMBparams()
        pars.set_cosmology(
            H0=100 * h,
            ombh2=FIDUCIAL["Omega_b"] * h**2,
            omch2=(FIDUCIAL["Omega_m"] - FIDUCIAL["Omega_b"]) * h**2,
            omk=changes.get("Omega_k", radiation),
            mnu=0.0,
            TCMB=T_CMB,
        )
        pars.set_dark_energy(
            w=changes.get("w0", -1.0), wa=changes.get("wa", 0.0), dark_energy_model="ppf"
        )
        pars.InitPower.set_params(As=A_S, ns=FIDUCIAL["n_s"])
        pars.set_matter_power(redshifts=[0.0], kmax=20.0)
        results = camb.get_results(pars)
        distance = results.comoving_radial_distance(1 / A[:-1] - 1)
        if "Omega_k" in changes:
            distance = np.array([results.angular_diameter_distance(1 / a - 1) / a for a in A[:-1]])
        rows.append((f"{name}: distance", difference(numbers[f"{name} distance"], distance * h)))
        if name == "LCDM":
            sigma8 = results.get_sigma8_0()
            power = results.get_matter_power_interpolator(nonlinear=False).P(0.0, K)
            scaled = power * (FIDUCIAL["sigma8"] / sigma8) ** 2
            rows.append(("P(k) for sigma8", difference(numbers["wiggles"], scaled)))
            rows.append(("P(k) for A_s", difference(numbers["by A_s"], power)))
            rows.append(("sigma8 of A_s", difference(numbers["sigma8 of A_s"], sigma8)))
    return rows


def with_colossus(numbers: dict[str, Array]) -> list[tuple[str, float]]:
    """Compare with Colossus."""
    from colossus.cosmology import cosmology

    rows = []
    for name, changes in UNIVERSES.items():
        if "Omega_k" in changes:
            continue
        parameters = {
            "flat": True,
            "H0": 100 * FIDUCIAL["h"],
            "Om0": FIDUCIAL["Omega_m"],
            "Ob0": FIDUCIAL["Omega_b"],
            "sigma8": FIDUCIAL["sigma8"],
            "ns": FIDUCIAL["n_s"],
            "Tcmb0": T_CMB,
            "relspecies": False,
            "persistence": "",
        }
        if changes:
            parameters.update(de_model="w0wa", w0=changes["w0"], wa=changes["wa"])
        peer = cosmology.setCosmology("peer", parameters)
        growth = peer.growthFactor(1 / A - 1)
        rows.append((f"{name}: D1", difference(numbers[f"{name} D1"], growth)))
        distance = peer.comovingDistance(0.0, 1 / A[:-1] - 1, transverse=True)
        rows.append((f"{name}: distance", difference(numbers[f"{name} distance"], distance)))
        if not changes:
            for fit, model in (("wiggles", "eisenstein98"), ("no wiggles", "eisenstein98_zb")):
                power = peer.matterPowerSpectrum(K, model=model)
                rows.append((f"P(k) {fit}", difference(numbers[fit], power)))
    return rows


def with_ccl(numbers: dict[str, Array]) -> list[tuple[str, float]]:
    """Compare with CCL."""
    import pyccl

    rows = []
    h = FIDUCIAL["h"]
    for name, changes in UNIVERSES.items():
        peer = pyccl.Cosmology(
            Omega_c=FIDUCIAL["Omega_m"] - FIDUCIAL["Omega_b"],
            Omega_b=FIDUCIAL["Omega_b"],
            h=h,
            sigma8=FIDUCIAL["sigma8"],
            n_s=FIDUCIAL["n_s"],
            T_CMB=T_CMB,
            Omega_g=0.0,
            Neff=0.0,
            Omega_k=changes.get("Omega_k", 0.0),
            w0=changes.get("w0", -1.0),
            wa=changes.get("wa", 0.0),
            transfer_function="eisenstein_hu",
        )
        rows.append((f"{name}: D1", difference(numbers[f"{name} D1"], peer.growth_factor(A))))
        rows.append((f"{name}: f1", difference(numbers[f"{name} f1"], peer.growth_rate(A))))
        distance = peer.comoving_angular_distance(A[:-1]) * h
        rows.append((f"{name}: distance", difference(numbers[f"{name} distance"], distance)))
        if not changes:
            power = pyccl.linear_matter_power(peer, K * h, 1.0) * h**3
            rows.append(("P(k) wiggles", difference(numbers["wiggles"], power)))
    return rows


def with_jax_cosmo(numbers: dict[str, Array]) -> list[tuple[str, float]]:
    """Compare with jax-cosmo, derivatives above all."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    import jax_cosmo

    def peer(x: Any) -> Any:
        matter, baryon, h, sigma8, n_s = x
        return jax_cosmo.Cosmology(
            Omega_c=matter - baryon, Omega_b=baryon, h=h, sigma8=sigma8, n_s=n_s,
            Omega_k=0.0, w0=-1.0, wa=0.0,
        )  # fmt: skip

    rows = []
    point = jnp.array(list(FIDUCIAL.values()))
    functions = {
        "d ln P": lambda x: jnp.log(jax_cosmo.power.linear_matter_power(peer(x), K)),
        "d D1": lambda x: jax_cosmo.background.growth_factor(peer(x), jnp.array(A)),
        "d distance": lambda x: jax_cosmo.background.transverse_comoving_distance(
            peer(x), jnp.array(A[:-1])
        ),
    }
    for name, function in functions.items():
        of = jax.jit(jax.jacrev(function))
        theirs = np.asarray(of(point))
        start = time.perf_counter()
        for _ in range(10):
            of(point).block_until_ready()
        taken = (time.perf_counter() - start) / 10
        for i, parameter in enumerate(DERIVATIVES):
            if np.any(numbers[name][:, i]):
                error = np.abs(theirs[:, i] - numbers[name][:, i]).max()
                rows.append((f"{name} / d {parameter}", error / np.abs(numbers[name][:, i]).max()))
        rows.append((f"{name}: ms, ours", 1e3 * float(numbers[f"{name} time"])))
        rows.append((f"{name}: ms, theirs", 1e3 * taken))
    return rows


PEERS = {
    "camb": with_camb,
    "colossus": with_colossus,
    "pyccl": with_ccl,
    "jax_cosmo": with_jax_cosmo,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", help="write our numbers to this file, compare with nobody")
    parser.add_argument("--read", help="read our numbers from this file")
    arguments = parser.parse_args()
    numbers = dict(np.load(arguments.read)) if arguments.read else ours()
    if arguments.write:
        np.savez(arguments.write, **numbers)
        return
    for name, compare in PEERS.items():
        if importlib.util.find_spec(name) is None:
            print(f"{name}: not installed")
            continue
        version = getattr(importlib.import_module(name), "__version__", "")
        print(f"{name} {version}")
        for what, value in compare(numbers):
            print(f"  {what:28s} {value:9.2g}")


if __name__ == "__main__":
    main()
