from pathlib import Path

import numpy as np
import pytest

from npe_tf.cosmology import Cosmology
from npe_tf.power import linear_power, transfer_function

TABLES = Path(__file__).parent / "tables"


@pytest.fixture(scope="module")
def power_table():
    return np.loadtxt(TABLES / "power_z0.csv", delimiter=",")


@pytest.fixture(scope="module")
def growth_table():
    return np.loadtxt(TABLES / "growth.csv", delimiter=",")


def test_linear_power_against_colossus(power_table):
    """The same fit; 1e-3 allows for the two codes' sigma8 quadratures (measured: 2e-4)."""
    k, colossus = power_table[:, 0], power_table[:, 1]
    chosen = (k >= 1e-3) & (k <= 10)
    assert chosen.sum() > 100
    np.testing.assert_allclose(linear_power(k[chosen], Cosmology()), colossus[chosen], rtol=1e-3)


def test_linear_power_against_camb(power_table):
    """A Boltzmann code: Eisenstein & Hu claim a few per cent for their fit."""
    k, camb = power_table[:, 0], power_table[:, 3]
    chosen = (k >= 1e-3) & (k <= 5)
    np.testing.assert_allclose(linear_power(k[chosen], Cosmology()), camb[chosen], rtol=0.06)


def test_the_wiggles_are_there(power_table):
    k, smooth = power_table[:, 0], power_table[:, 2]
    chosen = (k > 0.04) & (k < 0.2)
    assert np.max(np.abs(linear_power(k[chosen], Cosmology()) / smooth[chosen] - 1)) > 0.03


def test_growth_against_an_ode_and_colossus(growth_table):
    a = growth_table[:, 0]
    cosmology = Cosmology()
    np.testing.assert_allclose(cosmology.growth_factor(a), growth_table[:, 1], rtol=1e-6)
    np.testing.assert_allclose(cosmology.growth_rate(a), growth_table[:, 3], rtol=1e-6)
    # colossus interpolates a table
    np.testing.assert_allclose(cosmology.growth_factor(a), growth_table[:, 2], rtol=1e-4)


def test_einstein_de_sitter_grows_like_the_scale_factor():
    a = np.array([1e-4, 0.1, 1.0, 3.0])
    cosmology = Cosmology(Omega_m=1.0)
    np.testing.assert_allclose(cosmology.growth_factor(a), a, rtol=1e-12)
    np.testing.assert_allclose(cosmology.growth_rate(a), 1.0, rtol=1e-12)


def test_sigma8_of_the_returned_power():
    k = np.geomspace(1e-5, 1e2, 20001)
    x = 8 * k
    window = 3 * (np.sin(x) - x * np.cos(x)) / x**3
    integrand = k**3 * linear_power(k, Cosmology(sigma8=0.7)) * window**2 / (2 * np.pi**2)
    np.testing.assert_allclose(np.sqrt(np.trapezoid(integrand, np.log(k))), 0.7, rtol=1e-4)


def test_limits_in_k():
    np.testing.assert_allclose(transfer_function(1e-7, Cosmology()), 1.0, rtol=1e-4)
    assert linear_power(0.0, Cosmology()) == 0.0
    with pytest.raises(ValueError, match="`k`"):
        linear_power([-1.0], Cosmology())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Omega_m", 0.0), ("Omega_m", 1.5), ("Omega_b", 0.4), ("Omega_b", -0.1), ("h", 0.0),
        ("sigma8", -1.0), ("n_s", np.nan), ("T_cmb", 0.0),
    ],
)  # fmt: skip
def test_unphysical_parameters_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}`.*Received: {name}="):
        Cosmology(**{name: value})


def test_growth_refuses_the_big_bang():
    with pytest.raises(ValueError, match="`a`"):
        Cosmology().growth_factor(0.0)
