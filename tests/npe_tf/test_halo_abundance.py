"""Mass functions against quadrature, the fraction of mass in haloes, and the shipped simulation."""

import math

import numpy as np
import pytest
from scipy import integrate, special

from npe_tf.cosmology import Cosmology
from npe_tf.datasets import load_nbody_box
from npe_tf.gadget import CRITICAL_DENSITY
from npe_tf.halo_abundance import FITS, expected_haloes, halo_abundance
from npe_tf.peak_background import lagrangian_radius, sigma_of_radius

COSMOLOGY = Cosmology()
DENSITY = CRITICAL_DENSITY * COSMOLOGY.Omega_m


def test_the_mass_in_haloes_is_that_of_the_closed_form():
    """Of Sheth & Tormen above a mass: incomplete gamma functions of nu."""
    low = 1e11
    mass = np.geomspace(low, 1e17, 600)
    found = halo_abundance(mass, COSMOLOGY)
    share = integrate.simpson(found * mass / DENSITY, x=np.log(mass))
    sigma = sigma_of_radius(lagrangian_radius(low, COSMOLOGY), COSMOLOGY)
    nu = 0.707 * (1.686 / float(sigma)) ** 2

    def upper(s):
        return special.gamma(s) * special.gammaincc(s, nu / 2)

    expected = 0.3222 / math.sqrt(math.pi) * (upper(0.5) + 2**-0.3 * upper(0.2))
    assert share == pytest.approx(expected, rel=1e-4)
    nu = 0.0
    all_of_it = 0.3222 / math.sqrt(math.pi) * (upper(0.5) + 2**-0.3 * upper(0.2))
    assert all_of_it == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("fit", FITS)
def test_the_shipped_simulation_is_near(fit):
    box = load_nbody_box()
    edges = np.geomspace(5e12, 3e14, 7)
    counts = np.histogram(box.catalogue.mass, edges)[0]
    ratio = counts / expected_haloes(edges, box.box_size**3, COSMOLOGY, fit=fit)
    assert (np.abs(ratio - 1) < 0.3).all(), ratio


def test_counts_are_integrals():
    edges = [1e13, 1e14, np.inf]
    found = expected_haloes(edges, 1e6, COSMOLOGY, 0.7, "tinker")
    for low, high, value in ((1e13, 1e14, found[0]), (1e14, 1e16, found[1])):
        mass = np.geomspace(low, high, 301)
        density = halo_abundance(mass, COSMOLOGY, 0.7, "tinker")
        assert value == pytest.approx(1e6 * integrate.simpson(density, x=np.log(mass)), rel=1e-3)


def test_there_are_fewer_haloes_at_earlier_times_and_the_more_massive_are_the_rarer():
    for fit in ("sheth_tormen", "tinker"):
        now, then = (halo_abundance([1e12, 1e14], COSMOLOGY, a, fit) for a in (1.0, 0.5))
        assert then[1] < 0.5 * now[1] and now[1] < 0.02 * now[0]


@pytest.mark.parametrize("mass", [[0.0], [1e30], [np.nan], 1e12])
def test_masses_out_of_range(mass):
    with pytest.raises(ValueError, match="`mass`"):
        halo_abundance(mass, COSMOLOGY)


def test_none_are_expected_above_the_heaviest():
    assert expected_haloes([1e18, np.inf], 1e6, COSMOLOGY)[0] == 0.0


def test_an_unknown_fit():
    with pytest.raises(ValueError, match="`fit`.*warren"):
        halo_abundance([1e12], COSMOLOGY, fit="press_schechter")
