import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from scipy.integrate import quad, solve_ivp
from scipy.special import hyp2f1

from npe_tf.background import HUBBLE_DISTANCE, sinhc_of_square
from npe_tf.cosmology import PRESETS, Cosmology

TABLES = Path(__file__).parent / "tables"

GROWTH = (
    "growth_factor",
    "growth_rate",
    "second_order_growth_factor",
    "second_order_growth_rate",
)
DISTANCES = ("comoving_distance", "transverse_comoving_distance")
FUNCTIONS = (*GROWTH, *DISTANCES, "hubble", "matter_fraction")
PARAMETERS = ("Omega_m", "Omega_k", "w0", "wa")

UNIVERSES = pytest.mark.parametrize(
    "cosmology",
    [
        Cosmology(),
        Cosmology(Omega_m=0.05, Omega_b=0.01),
        Cosmology(Omega_k=0.2),
        Cosmology(Omega_k=-0.2),
        Cosmology(w0=-0.8),
        Cosmology(w0=-2.0),
        Cosmology(w0=-0.9, wa=0.3),
        Cosmology(w0=-0.5, wa=0.3),
        Cosmology(w0=-1.3, wa=-0.7, Omega_k=0.1),
    ],
    ids=repr,
)


@pytest.fixture(scope="module")
def growth_table():
    return np.loadtxt(TABLES / "growth.csv", delimiter=",")


def fractions(cosmology, a):
    """E^2 and the shares of matter, curvature and dark energy in it, w integrated by hand."""
    w0, wa, matter = cosmology.w0, cosmology.wa, cosmology.Omega_m
    parts = np.array(
        [
            matter * a**-3.0,
            cosmology.Omega_k * a**-2.0,
            (1.0 - matter - cosmology.Omega_k)
            * a ** (-3.0 * (1.0 + w0 + wa))
            * np.exp(-3.0 * wa * (1.0 - a)),
        ]
    )
    return parts.sum(), parts / parts.sum()


def growth_by_ode(cosmology, a):
    """D1, f1, D2, f2 at increasing `a`, by Runge-Kutta from a=1e-9."""

    def slope(log_a, y):
        now = np.exp(log_a)
        _, (matter, curvature, dark) = fractions(cosmology, now)
        w = cosmology.w0 + cosmology.wa * (1.0 - now)
        friction = 2.0 - 1.5 * matter - curvature - 1.5 * (1.0 + w) * dark
        first, first_slope, second, second_slope = y
        return [
            first_slope,
            1.5 * matter * first - friction * first_slope,
            second_slope,
            1.5 * matter * (second - first**2) - friction * second_slope,
        ]

    start = 1e-9
    initial = np.array([start, start, -3 / 7 * start**2, -6 / 7 * start**2])
    # in units in which nothing underflows
    scale = np.array([start, start, start**2, start**2])
    solution = solve_ivp(
        lambda x, y: np.array(slope(x, y * scale)) / scale,
        [np.log(start), np.log(max(a[-1], 1.0))],
        initial / scale,
        method="DOP853",
        rtol=1e-11,
        atol=1e-12,
        dense_output=True,
    ).sol
    first, first_slope, second, second_slope = solution(np.log(a)) * scale[:, None]
    today = solution(0.0)[0] * scale[0]
    return first / today, first_slope / first, second / today**2, second_slope / second


def test_growth_against_tables(growth_table):
    """The tables have nine digits; colossus interpolates."""
    a = growth_table[:, 0]
    cosmology = Cosmology()
    for function, column in zip(GROWTH, (1, 3, 4, 5), strict=True):
        ours = getattr(cosmology, function)(a)
        np.testing.assert_allclose(ours, growth_table[:, column], rtol=1e-7, err_msg=function)
    np.testing.assert_allclose(cosmology.growth_factor(a), growth_table[:, 2], rtol=1e-4)


@UNIVERSES
def test_growth_against_an_ode(cosmology):
    """Measured: 1e-10 and better; the Runge-Kutta solution has its own 1e-10."""
    a = np.geomspace(1e-3, 1.0, 31)
    for function, expected in zip(GROWTH, growth_by_ode(cosmology, a), strict=True):
        ours = getattr(cosmology, function)(a)
        np.testing.assert_allclose(ours, expected, rtol=1e-8, err_msg=function)


def test_growth_where_dark_energy_is_never_negligible():
    """The claims of the docstring at w0 + wa = -0.2 and -0.1."""
    a = np.geomspace(1e-3, 1.0, 31)
    for wa, rtol in ((0.2, 1e-8), (0.3, 5e-6)):
        cosmology = Cosmology(Omega_m=0.3, w0=-0.4, wa=wa)
        for function, expected in zip(GROWTH, growth_by_ode(cosmology, a), strict=True):
            ours = getattr(cosmology, function)(a)
            np.testing.assert_allclose(ours, expected, rtol=rtol, err_msg=function)


@pytest.mark.parametrize(("w0", "rtol"), [(-1.0, 1e-7), (-2.0, 5e-6)])
def test_growth_in_the_future(w0, rtol):
    a = np.array([0.5, 1.0, 1.5, 2.0])
    cosmology = Cosmology(w0=w0)
    for function, expected in zip(GROWTH, growth_by_ode(cosmology, a), strict=True):
        ours = getattr(cosmology, function)(a)
        np.testing.assert_allclose(ours, expected, rtol=rtol, err_msg=function)


def test_growth_in_closed_form():
    """Flat LCDM: a times a hypergeometric function (e.g. Silveira & Waga 1994, PRD 50, 4890)."""
    a = np.geomspace(1e-4, 1.0, 41)
    growth = a * hyp2f1(1 / 3, 1, 11 / 6, -(a**3) * 0.685 / 0.315)
    cosmology = Cosmology()
    np.testing.assert_allclose(cosmology.growth_factor(a), growth / growth[-1], rtol=1e-12)
    np.testing.assert_allclose(cosmology.growth_since_matter(), growth[-1], rtol=1e-12)


def test_einstein_de_sitter_is_exact():
    a = np.array([1e-4, 0.1, 1.0, 3.0])
    cosmology = Cosmology(Omega_m=1.0)
    expected = {
        "growth_factor": a,
        "growth_rate": np.ones(4),
        "second_order_growth_factor": -3 / 7 * a**2,
        "second_order_growth_rate": np.full(4, 2.0),
        "hubble": a**-1.5,
        "matter_fraction": np.ones(4),
        "comoving_distance": 2 * HUBBLE_DISTANCE * (1 - np.sqrt(a)),
        "transverse_comoving_distance": 2 * HUBBLE_DISTANCE * (1 - np.sqrt(a)),
    }
    assert set(expected) == set(FUNCTIONS)
    for function, values in expected.items():
        # the operators of the collocation round at 1e-12
        np.testing.assert_allclose(
            getattr(cosmology, function)(a), values, rtol=1e-11, atol=1e-12, err_msg=function
        )


@UNIVERSES
def test_expansion_and_distance_against_quadrature(cosmology):
    for a in (0.01, 0.3, 1.0, 1.5):
        squared, shares = fractions(cosmology, a)
        np.testing.assert_allclose(cosmology.hubble(a), np.sqrt(squared), rtol=1e-13)
        np.testing.assert_allclose(cosmology.matter_fraction(a), shares[0], rtol=1e-13)
        integral, _ = quad(
            lambda x: 1 / np.sqrt(fractions(cosmology, x)[0]) / x**2, a, 1.0, epsrel=1e-12
        )
        line_of_sight = cosmology.comoving_distance(a)
        np.testing.assert_allclose(line_of_sight, HUBBLE_DISTANCE * integral, rtol=1e-9)
        root = np.emath.sqrt(cosmology.Omega_k)
        bent = np.real(np.sinh(root * integral) / root) if cosmology.Omega_k else integral
        np.testing.assert_allclose(
            cosmology.transverse_comoving_distance(a), HUBBLE_DISTANCE * bent, rtol=1e-9
        )


@pytest.mark.parametrize("matter", [0.2, 0.6])
def test_distance_of_mattig(matter):
    """Without dark energy (Mattig 1958), out to the early universe."""
    z = np.array([0.1, 1.0, 9.0, 999.0])
    cosmology = Cosmology(Omega_m=matter, Omega_k=1.0 - matter)
    mattig = matter * z + (matter - 2.0) * (np.sqrt(1.0 + matter * z) - 1.0)
    mattig *= 2.0 * HUBBLE_DISTANCE / (matter**2 * (1.0 + z))
    np.testing.assert_allclose(
        cosmology.transverse_comoving_distance(1 / (1 + z)), mattig, rtol=1e-11
    )


def test_sinhc():
    y = np.array([-90.0, -1.0, 0.0, 1e-9, 2.0, 90.0])
    root = np.emath.sqrt(np.where(y == 0, 1.0, y))
    expected = np.where(y == 0, 1.0, np.real(np.sinh(root) / root))
    np.testing.assert_allclose(sinhc_of_square(tf.constant(y)), expected, rtol=1e-12, atol=1e-13)


POINTS = pytest.mark.parametrize(
    "point",
    [[0.315, 0.0, -1.0, 0.0], [0.25, 0.05, -0.9, 0.2], [0.4, -0.1, -1.2, -0.3]],
    ids=["LCDM", "open", "closed"],
)
TIMES = [0.3, 0.7, 1.0, 1.4]


SCALE = [HUBBLE_DISTANCE if function in DISTANCES else 1.0 for function in FUNCTIONS]


def weighted(state):
    """Each function, summed over four scale factors with weights, `[8]`.

    The state holds four parameters and four scale factors.
    """
    parameters, a = state[:4], state[4:]
    cosmology = Cosmology(**{n: parameters[i] for i, n in enumerate(PARAMETERS)})
    weights = np.random.default_rng(5).normal(size=(len(FUNCTIONS), 4))
    return [
        tf.reduce_sum(getattr(cosmology, function)(a) * w) / scale
        for function, w, scale in zip(FUNCTIONS, weights, SCALE, strict=True)
    ]


def gradients(state):
    """Gradient of each, `[8, 8]`."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(state)
        values = weighted(state)
    return tf.stack([tape.gradient(value, state) for value in values])


def gradient_of_sum(state):
    with tf.GradientTape() as tape:
        tape.watch(state)
        value = tf.add_n(weighted(state))
    return tape.gradient(value, state)


def hessian_times(state, direction):
    """The second derivatives of the sum of all, times a direction, `[8]`."""
    with tf.GradientTape() as tape:
        tape.watch(state)
        slope = tf.reduce_sum(gradient_of_sum(state) * direction)
    return tape.gradient(slope, state)


def central_difference(function, x, moves):
    """Derivatives along the rows of `moves`, first axis of the result; error of sixth order."""
    rows = []
    for move in moves:
        difference = [
            np.asarray(function(tf.constant(x + n * move)))
            - np.asarray(function(tf.constant(x - n * move)))
            for n in (1, 2, 3)
        ]
        rows.append((45 * difference[0] - 9 * difference[1] + difference[2]) / 60)
    return np.stack(rows)


@pytest.fixture(scope="module")
def traced():
    """The functions of the state, traced once for all points."""
    functions = (weighted, gradients, gradient_of_sum, hessian_times)
    return {function: tf.function(function) for function in functions}


@POINTS
def test_gradients_of_everything_by_everything(point, traced):
    state = np.array(point + TIMES)
    ours = traced[gradients](tf.constant(state)).numpy()
    step = 2e-3
    numeric = central_difference(traced[weighted], state, step * np.eye(8)).T / step
    for name, row, expected in zip(FUNCTIONS, ours, numeric, strict=True):
        size = np.abs(expected).max()
        np.testing.assert_allclose(row, expected, rtol=1e-6, atol=1e-7 * size, err_msg=name)
        # each parameter and each scale factor counts: no gradient is lost
        assert np.all(row != 0), name


@POINTS
def test_second_derivatives(point, traced):
    """Measured: 2e-6; the third derivative of a Chebyshev series by a rounds so much."""
    state = np.array(point + TIMES)
    step = 1e-3
    for direction in np.random.default_rng(1).normal(size=(4, 8)):
        ours = traced[hessian_times](tf.constant(state), tf.constant(direction))
        (expected,) = central_difference(traced[gradient_of_sum], state, [step * direction])
        size = np.abs(expected / step).max()
        np.testing.assert_allclose(ours, expected / step, rtol=1e-5, atol=1e-6 * size)


def test_growth_rate_is_the_derivative_of_the_growth_factor():
    a = tf.constant([0.1, 0.5, 1.0], tf.float64)
    cosmology = Cosmology(w0=-0.9, Omega_k=0.1)
    for factor, rate in (GROWTH[:2], GROWTH[2:]):
        with tf.GradientTape() as tape:
            tape.watch(a)
            growth = getattr(cosmology, factor)(a)
        slope = tape.gradient(growth, a)
        np.testing.assert_allclose(getattr(cosmology, rate)(a), slope * a / growth, rtol=1e-10)


def hessian_of_growth(state):
    """Of the last quantity that the two solutions give."""
    with tf.GradientTape() as outer:
        outer.watch(state)
        with tf.GradientTape() as inner:
            inner.watch(state)
            cosmology = Cosmology(Omega_m=state[0], w0=state[2])
            value = cosmology.second_order_growth_rate(state[4])
        gradient = inner.gradient(value, state)
    return outer.jacobian(gradient, state)


@pytest.mark.parametrize(
    "function", [weighted, gradient_of_sum, pytest.param(hessian_of_growth, marks=pytest.mark.slow)]
)
def test_compiled_by_xla(function):
    state = tf.constant([0.25, 0.05, -0.9, 0.2, *TIMES], tf.float64)
    compiled = tf.function(function, jit_compile=True)(state)
    eager = function(state)
    np.testing.assert_allclose(compiled, eager, rtol=1e-9, atol=1e-10 * np.abs(eager).max())


def test_many_universes_at_once():
    matter = tf.constant([0.2, 0.3, 0.4], tf.float64)
    growth = tf.vectorized_map(
        lambda m: Cosmology(Omega_m=m).growth_factor(tf.constant(0.5, tf.float64)), matter
    )
    alone = [float(Cosmology(Omega_m=float(m)).growth_factor(0.5)) for m in matter]
    np.testing.assert_allclose(growth, alone, rtol=1e-12)


def test_parameters_of_other_precision_keep_their_gradients():
    matter = tf.constant(0.3, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(matter)
        growth = Cosmology(Omega_m=matter).growth_factor(0.5)
    assert growth.dtype == tf.float64
    slope = tape.gradient(growth, matter)
    assert slope.dtype == tf.float32
    assert float(slope) < -0.1


def test_numbers_stay_numbers_in_a_function():
    @tf.function(autograph=False)
    def traced():
        return tf.constant(float(Cosmology().growth_factor(0.5)), tf.float64)

    assert float(traced()) == float(Cosmology().growth_factor(0.5))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_shapes(function):
    method = getattr(Cosmology(), function)
    assert method(0.5).shape == ()
    a = np.array([[0.2, 0.4, 0.6], [0.5, 0.7, 0.9]])
    assert method(a).shape == (2, 3)
    np.testing.assert_allclose(method(a)[1, 0], method(0.5), rtol=1e-10)
    assert method(a).dtype == tf.float64


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("a", [0.0, -1.0, np.nan, np.inf, [0.5, 0.0]])
def test_scale_factors_that_are_none(function, a):
    with pytest.raises(ValueError, match="`a`. Expected positive finite"):
        getattr(Cosmology(), function)(a)
    with pytest.raises(ValueError, match="`a`"):
        getattr(Cosmology(), function)(tf.constant(a))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Omega_m", 0.0), ("Omega_m", 1.5), ("Omega_b", 0.4), ("Omega_b", -0.1), ("h", 0.0),
        ("sigma8", -1.0), ("n_s", np.nan), ("T_cmb", 0.0), ("w0", 1.5), ("w0", np.inf),
        ("wa", 1.0), ("wa", -20.0), ("Omega_k", -1.0), ("Omega_m", None), ("h", "0.7"),
        ("A_s", 2e-9), ("n_s", [0.9]),
    ],
)  # fmt: skip
def test_unphysical_parameters_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}`.*Received: {name}="):
        Cosmology(**{name: value})


@pytest.mark.parametrize("value", [-0.1, np.nan])
def test_known_tensors_are_checked(value):
    with pytest.raises(ValueError, match="`Omega_m`.*Received: Omega_m="):
        Cosmology(Omega_m=tf.constant(value))
    with pytest.raises(ValueError, match=r"`Omega_m`.*scalar tensor.*shape \(2,\)"):
        Cosmology(Omega_m=tf.constant([0.3, 0.3]))


def test_unknown_tensors_are_not_checked():
    @tf.function
    def growth(matter):
        return Cosmology(Omega_m=matter, Omega_b=0.02).hubble(0.5)

    assert np.isnan(growth(tf.constant(-3.0, tf.float64)))
    assert growth(tf.constant(0.3, tf.float64)) > 1.0


def test_universes_that_bounce_are_refused():
    with pytest.raises(ValueError, match=r"`Omega_k`. Expected E\(a\)\^2 > 0 .* at a=0"):
        Cosmology(Omega_m=0.05, Omega_b=0.01, Omega_k=-0.9)
    assert Cosmology(Omega_m=0.3, Omega_k=-0.5).Omega_k == -0.5


def test_dark_energy_before_matter_is_refused():
    with pytest.raises(ValueError, match="`wa`. Expected w0 . wa < 0"):
        Cosmology(w0=-0.5, wa=0.5)


def test_one_amplitude():
    assert Cosmology(A_s=2e-9, sigma8=None).sigma8 is None
    with pytest.raises(ValueError, match="exactly one of sigma8 and A_s"):
        Cosmology(sigma8=None)


def test_cosmologies_are_values():
    same = Cosmology(Omega_m=np.array(0.315), wa=0)
    assert same == Cosmology()
    assert hash(same) == hash(Cosmology())
    assert type(same.Omega_m) is type(same.wa) is float
    assert Cosmology(w0=-0.9) != Cosmology()
    assert dataclasses.replace(Cosmology(), h=0.7).h == 0.7
    assert Cosmology().is_numeric and not Cosmology(h=tf.constant(0.7)).is_numeric


def test_presets():
    assert Cosmology.preset("velmass") == Cosmology()
    for name, physical in (("planck2015", 0.02230), ("planck2018", 0.02242)):
        cosmology = Cosmology.preset(name)
        # four digits of Omega_b
        np.testing.assert_allclose(cosmology.Omega_b * cosmology.h**2, physical, atol=3e-5)
    assert Cosmology.preset("planck2018").Omega_m == 0.3111
    assert Cosmology.preset("planck2015", w0=-0.9) == Cosmology(**PRESETS["planck2015"], w0=-0.9)
    with pytest.raises(ValueError, match=r"`name`. Expected one of \['planck2015'.*name='planck'"):
        Cosmology.preset("planck")


def test_parameters_do_not_start_tensorflow():
    code = (
        "import sys; from npe_tf.cosmology import Cosmology; Cosmology.preset('planck2018'); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
