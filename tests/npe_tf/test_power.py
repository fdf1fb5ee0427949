from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from npe_tf.background import HUBBLE_DISTANCE
from npe_tf.cosmology import Cosmology
from npe_tf.grid import Grid
from npe_tf.initial_field import InitialField
from npe_tf.power import linear_power, sigma8, transfer_function
from npe_tf.tabulated_power import TabulatedPower

TABLES = Path(__file__).parent / "tables"

SMOOTH = "eisenstein_hu_no_wiggle"
TRANSFERS = pytest.mark.parametrize("transfer", ["eisenstein_hu", SMOOTH])

PARAMETERS = ("Omega_m", "Omega_b", "h", "n_s", "T_cmb", "sigma8")
FIDUCIAL = [0.315, 0.049, 0.68, 0.97, 2.7255, 0.81]
WAVENUMBERS = [0.003, 0.05, 0.1, 0.2, 1.0, 8.0]


@pytest.fixture(scope="module")
def power_table():
    return np.loadtxt(TABLES / "power_z0.csv", delimiter=",")


@pytest.mark.parametrize(("transfer", "column"), [("eisenstein_hu", 1), (SMOOTH, 2)])
def test_against_colossus(power_table, transfer, column):
    """The same fits; 1e-3 allows for the two codes' sigma8 quadratures (measured: 2e-4)."""
    k, colossus = power_table[:, 0], power_table[:, column]
    chosen = (k >= 1e-3) & (k <= 10)
    assert chosen.sum() > 100
    ours = linear_power(k[chosen], Cosmology(), transfer)
    np.testing.assert_allclose(ours, colossus[chosen], rtol=1e-3)


def test_against_camb(power_table):
    """A Boltzmann code: Eisenstein & Hu claim a few per cent for their fit."""
    k, camb = power_table[:, 0], power_table[:, 3]
    chosen = (k >= 1e-3) & (k <= 5)
    np.testing.assert_allclose(linear_power(k[chosen], Cosmology()), camb[chosen], rtol=0.06)


def test_the_wiggles_are_there(power_table):
    k, smooth = power_table[:, 0], power_table[:, 2]
    chosen = (k > 0.04) & (k < 0.2)
    assert np.max(np.abs(linear_power(k[chosen], Cosmology()) / smooth[chosen] - 1)) > 0.03


def rms_in_spheres(k, power):
    x = 8 * k
    window = 3 * (np.sin(x) - x * np.cos(x)) / x**3
    return np.sqrt(np.trapezoid(k**3 * power * window**2 / (2 * np.pi**2), np.log(k)))


@TRANSFERS
@pytest.mark.parametrize(
    "cosmology",
    [
        Cosmology(sigma8=0.7),
        Cosmology(Omega_m=0.25, Omega_b=0.15),
        Cosmology(Omega_m=0.6, n_s=1.3),
        Cosmology(Omega_m=0.1, n_s=0.7),
        Cosmology(sigma8=None, A_s=2e-9),
    ],
    ids=repr,
)
def test_sigma8_of_the_returned_power(cosmology, transfer):
    """Between 1e-5 and 300 h/Mpc by a fine rule; `linear_power` claims 3e-7."""
    k = np.geomspace(1e-5, 3e2, 60001)
    rms = rms_in_spheres(k, linear_power(k, cosmology, transfer))
    np.testing.assert_allclose(rms, sigma8(cosmology, transfer), rtol=1e-6)


def test_amplitude_of_planck():
    """Planck 2018, table 2: sigma8 with ln(10^10 A_s) = 3.047; neutrinos of 0.06 eV are 1.4%."""
    cosmology = Cosmology.preset("planck2018", sigma8=None, A_s=np.exp(3.047) * 1e-10)
    np.testing.assert_allclose(sigma8(cosmology), 0.8102, rtol=0.03)


def test_amplitude_on_the_largest_scales():
    """In an Einstein-de Sitter universe delta = 2/5 (k c/H0)^2 times the curvature."""
    k = np.array([1e-6, 1e-5])
    cosmology = Cosmology(Omega_m=1.0, A_s=3e-9, sigma8=None, n_s=0.9, h=0.5)
    primordial = 3e-9 * (k * 0.5 / 0.05) ** (0.9 - 1)
    expected = 2 * np.pi**2 / k**3 * primordial * (0.4 * (k * HUBBLE_DISTANCE) ** 2) ** 2
    np.testing.assert_allclose(linear_power(k, cosmology), expected, rtol=1e-3)


def test_amplitude_follows_growth():
    """What dark energy and curvature do to the amplitude is their growth since matter."""
    k = np.array([0.01, 0.3])
    early = Cosmology(A_s=2e-9, sigma8=None)
    late = Cosmology(A_s=2e-9, sigma8=None, w0=-0.8, Omega_k=0.1)
    ratio = np.asarray(linear_power(k, late)) / np.asarray(linear_power(k, early))
    growth = [float(c.growth_since_matter()) for c in (late, early)]
    np.testing.assert_allclose(ratio, (growth[0] / growth[1]) ** 2, rtol=1e-12)
    assert abs(ratio[0] - 1) > 0.05


@TRANSFERS
def test_limits_in_k(transfer):
    np.testing.assert_allclose(transfer_function(1e-7, Cosmology(), transfer), 1.0, rtol=1e-4)
    assert transfer_function(0.0, Cosmology(), transfer) == 1.0
    assert linear_power(0.0, Cosmology(), transfer) == 0.0
    for k in ([-1.0], [np.nan], [np.inf]):
        with pytest.raises(ValueError, match="`k`. Expected finite non-negative"):
            linear_power(k, Cosmology(), transfer)
        with pytest.raises(ValueError, match="`k`. Expected finite non-negative"):
            transfer_function(tf.constant(k), Cosmology(), transfer)


def test_unknown_transfer_functions():
    for function in (linear_power, transfer_function):
        with pytest.raises(ValueError, match="`transfer`. Expected one of .* transfer='bbks'"):
            function(0.1, Cosmology(), "bbks")


def log_power(state, transfer="eisenstein_hu"):
    """ln P at wavenumbers, of `[6 parameters + wavenumbers]`."""
    cosmology = Cosmology(**{n: state[i] for i, n in enumerate(PARAMETERS)})
    return tf.math.log(linear_power(state[6:], cosmology, transfer))


def log_power_by_amplitude(state, transfer="eisenstein_hu"):
    parameters = {n: state[i] for i, n in enumerate(PARAMETERS)}
    amplitude = parameters.pop("sigma8") * 2.5e-9
    cosmology = Cosmology(**parameters, sigma8=None, A_s=amplitude)
    return tf.math.log(linear_power(state[6:], cosmology, transfer))


def gradient(function):
    def weighted(state):
        with tf.GradientTape() as tape:
            tape.watch(state)
            value = tf.reduce_sum(function(state) * tf.range(1.0, 7.0, dtype=tf.float64))
        return tape.gradient(value, state)

    return weighted


def jacobian(function):
    def of_state(state):
        with tf.GradientTape() as tape:
            tape.watch(state)
            value = function(state)
        return tape.jacobian(value, state)

    return of_state


def central_difference(function, x, relative_step=2e-4):
    """Derivative along each axis of x, last axis of the result; error of sixth order."""
    columns = []
    for i in range(len(x)):
        move = np.zeros(len(x))
        move[i] = relative_step * x[i]
        difference = [
            np.asarray(function(tf.constant(x + n * move)))
            - np.asarray(function(tf.constant(x - n * move)))
            for n in (1, 2, 3)
        ]
        columns.append((45 * difference[0] - 9 * difference[1] + difference[2]) / (60 * move[i]))
    return np.stack(columns, axis=-1)


@TRANSFERS
@pytest.mark.parametrize("function", [log_power, log_power_by_amplitude])
def test_gradients(function, transfer):
    state = np.array(FIDUCIAL + WAVENUMBERS)
    traced = tf.function(lambda x: function(x, transfer))
    ours = tf.function(jacobian(traced))(tf.constant(state)).numpy()
    expected = central_difference(traced, state)
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-7)
    # every parameter matters, and only its own wavenumber
    assert np.all(np.abs(ours).max(axis=0) > 0)
    np.testing.assert_allclose(ours[:, 5], 2 / 0.81 if function is log_power else 1 / 0.81)
    assert np.count_nonzero(ours[:, 6:] - np.diag(np.diag(ours[:, 6:]))) == 0


@TRANSFERS
def test_second_derivatives(transfer):
    """The Hessian times a direction, against differences of the gradient along it."""
    state = np.array(FIDUCIAL + WAVENUMBERS)
    slope = tf.function(gradient(lambda x: log_power(x, transfer)))

    @tf.function
    def hessian_times(x, direction):
        with tf.GradientTape() as tape:
            tape.watch(x)
            along = tf.reduce_sum(slope(x) * direction)
        return tape.gradient(along, x)

    for draw in np.random.default_rng(2).normal(size=(3, len(state))):
        direction = draw * state
        ours = hessian_times(tf.constant(state), tf.constant(direction))
        along = central_difference(
            lambda t, d=direction: slope(tf.constant(state) + (t[0] - 1.0) * d), np.ones(1)
        )[:, 0]
        np.testing.assert_allclose(ours * state, along * state, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_a_compiled_function(jit_compile):
    state = tf.constant(FIDUCIAL + WAVENUMBERS, tf.float64)
    for function in (log_power, gradient(log_power_by_amplitude)):
        compiled = tf.function(function, jit_compile=jit_compile)(state)
        np.testing.assert_allclose(compiled, function(state), rtol=1e-9, atol=1e-9)


@TRANSFERS
def test_gradients_at_the_zero_mode(transfer):
    state = tf.constant([*FIDUCIAL, 0.0, 0.1], tf.float64)

    def power(state):
        cosmology = Cosmology(**{n: state[i] for i, n in enumerate(PARAMETERS)})
        return linear_power(state[6:], cosmology, transfer)

    assert np.all(np.isfinite(tf.function(jacobian(power))(state)))


@pytest.fixture(scope="module")
def table():
    k = np.geomspace(1e-4, 20.0, 600)
    return TabulatedPower(k, np.asarray(linear_power(k, Cosmology())))


def test_a_table_between_its_wavenumbers(table):
    """600 points from 1e-4 to 20 h/Mpc, as CAMB writes them."""
    k = np.geomspace(1.1e-4, 19.0, 3001)
    np.testing.assert_allclose(table.interpolate(k), linear_power(k, Cosmology()), rtol=2e-5)
    np.testing.assert_allclose(table.interpolate(table.k), table.power, rtol=1e-12)


def test_the_spline_is_the_natural_one(table):
    from scipy.interpolate import CubicSpline

    spline = CubicSpline(np.log(table.k), np.log(table.power), bc_type="natural")
    k = np.geomspace(1.0001e-4, 19.9, 501)
    np.testing.assert_allclose(
        np.log(table.interpolate(k)), spline(np.log(k)), rtol=1e-11, atol=1e-11
    )


def test_a_power_law_is_exact():
    table = TabulatedPower(
        np.array([0.001, 0.01, 0.5, 2.0]), 3.0 * np.array([0.001, 0.01, 0.5, 2.0])
    )
    np.testing.assert_allclose(table.interpolate([0.0, 0.002, 1.0]), [0.0, 0.006, 3.0], rtol=1e-12)


@pytest.mark.parametrize(("high", "rtol"), [(20.0, 1e-6), (2.0, 5e-6), (1.0, 1e-4)])
def test_a_table_is_normalised(high, rtol):
    """Its range decides how well: the rest of the integral continues it as a power law."""
    k = np.geomspace(1e-4, high, 500)
    table = TabulatedPower(k, 7.0 * np.asarray(linear_power(k, Cosmology())))
    expected = linear_power(k, Cosmology(sigma8=0.6))
    np.testing.assert_allclose(linear_power(k, Cosmology(sigma8=0.6), table), expected, rtol=rtol)
    assert sigma8(Cosmology(sigma8=0.6), table) == 0.6


def test_a_table_is_left_as_it_is(table):
    fixed = TabulatedPower(table.k, 7.0 * table.power, normalise=False)
    for cosmology in (Cosmology(sigma8=0.6), Cosmology(sigma8=None, A_s=2e-9)):
        np.testing.assert_array_equal(linear_power(0.1, cosmology, fixed), fixed.interpolate(0.1))
    np.testing.assert_allclose(sigma8(Cosmology(), fixed), 0.81 * np.sqrt(7.0), rtol=1e-6)


def test_gradients_through_a_table(table):
    """By sigma8, by the wavenumbers, and by the table itself."""
    k = np.array([2e-4, 0.0123, 0.3])
    picked = TabulatedPower(table.k[::60], table.power[::60])
    state = np.concatenate([[0.81], k, picked.power])

    @tf.function
    def power(state):
        tabulated = TabulatedPower(picked.k, state[4:])
        return tf.math.log(linear_power(state[1:4], Cosmology(sigma8=state[0]), tabulated))

    ours = tf.function(jacobian(power))(tf.constant(state)).numpy()
    np.testing.assert_allclose(ours, central_difference(power, state), rtol=1e-6, atol=1e-9)
    assert np.all(np.abs(ours).max(axis=0) > 0)
    compiled = tf.function(power.python_function, jit_compile=True)(tf.constant(state))
    np.testing.assert_allclose(compiled, power(tf.constant(state)), rtol=1e-12)


def test_a_table_that_does_not_reach(table):
    with pytest.raises(ValueError, match=r"`k`. Expected .* 0.0001 to 20 .* 0.1 to 30 h/Mpc"):
        linear_power([0.0, 0.1, 30.0], Cosmology(), table)
    with pytest.raises(ValueError, match=r"0.0001 to 20 .* Received: 1e-05 to 0.1 h/Mpc"):
        table.interpolate([1e-5, 0.1])
    unknown = tf.function(table.interpolate)(tf.constant([0.0, 0.1, 30.0], tf.float64))
    np.testing.assert_array_equal(np.isnan(unknown), [False, False, True])
    short = TabulatedPower(table.k[:300], table.power[:300])
    with pytest.raises(ValueError, match=r"`k`. Expected a table from 0.002 .* to 1 .*0.0001 to"):
        linear_power(0.01, Cosmology(), short)
    with pytest.raises(ValueError, match="`normalise`. Expected False.*A_s=2e-09"):
        linear_power(0.01, Cosmology(sigma8=None, A_s=2e-9), table)


@pytest.mark.parametrize(
    ("k", "power", "complaint"),
    [
        ([1.0, 2.0, 3.0], [1.0] * 3, "`k`. Expected at least 4"),
        ([0.0, 1.0, 2.0, 3.0], [1.0] * 4, "`k`. Expected at least 4 positive"),
        ([1.0, 2.0, 2.0, 3.0], [1.0] * 4, r"`k`. Expected increasing.*k\[2\]"),
        ([1.0, 2.0, 3.0, 4.0], [1.0] * 3, r"`power`. Expected the shape of k, \(4,\)"),
        ([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 0.0, 1.0], "`power`. Expected positive"),
        ([1.0, 2.0, 3.0, 4.0], tf.constant([1.0, 1.0, -1.0, 1.0]), "`power`. Expected positive"),
    ],
)
def test_tables_that_are_none(k, power, complaint):
    with pytest.raises(ValueError, match=complaint):
        TabulatedPower(k, power)


CAMB = "#            k/h    P\n"
CAMB_NEW = "#             k/h               P\n"
CLASS = (
    "# Matter power spectrum P(k) at redshift z=0\n"
    "# for k=1e-4 to 20 h/Mpc,\n"
    "# number of wavenumbers equal to 600\n"
    "#    1:k (h/Mpc)                    2:P (Mpc/h)^3  \n"
)
CLASS_OLD = "# Matter power spectrum P(k) at redshift z=0\n# k (h/Mpc)  P (Mpc/h)^3:\n"
IN_MPC = "# for k=1e-4 to 20 h/Mpc,\n#    1:k (1/Mpc)                    2:P (Mpc)^3\n"
MIXED = "# k [h Mpc^-1]    P(k) [Mpc^3]\n"


@pytest.mark.parametrize(
    ("header", "factors", "options"),
    [
        (CAMB, (1.0, 1.0), {}),
        (CAMB_NEW, (1.0, 1.0), {"h": 0.68}),
        (CLASS, (1.0, 1.0), {}),
        (CLASS_OLD, (1.0, 1.0), {}),
        ("# k [h/Mpc], P(k) [h^-3 Mpc^3]\n", (1.0, 1.0), {}),
        (IN_MPC, (0.68, 0.68**-3), {"h": 0.68}),
        ("# k [Mpc^-1] P [Mpc^3]\n", (0.68, 0.68**-3), {"h": 0.68}),
        (MIXED, (1.0, 0.68**-3), {"h": 0.68}),
        ("", (1.0, 1.0), {"units": "h/Mpc"}),
        ("", (0.68, 0.68**-3), {"units": "1/Mpc", "h": 0.68}),
        ("# k P\n", (1.0, 1.0), {"units": "h/Mpc"}),
    ],
)
def test_reading_tables(table, tmp_path, header, factors, options):
    """The same table, in the units that the header names."""
    path = tmp_path / "test_matterpower.dat"
    rows = np.column_stack([table.k * factors[0], table.power * factors[1], table.power])
    path.write_text(header + "".join("  ".join(f"{x:.10E}" for x in r) + "\n" for r in rows))
    read = TabulatedPower.read(path, **options)
    np.testing.assert_allclose(read.k, table.k, rtol=1e-9)
    np.testing.assert_allclose(read.power, table.power, rtol=1e-9)
    assert read.normalise
    assert not TabulatedPower.read(path, normalise=False, **options).normalise


ROWS = "".join(f" {k:.1E} {k:.1E}\n" for k in (0.001, 0.01, 0.1, 1.0, 2.0))


@pytest.mark.parametrize(
    ("text", "options", "complaint"),
    [
        (ROWS, {}, "`units`. Expected 'h/Mpc' or '1/Mpc'.*'no header'.*file.dat"),
        ("# k P\n" + ROWS, {}, "`units`.*'# k P'"),
        ("# k (1/Mpc) P\n" + ROWS, {"h": 0.7}, "`units`"),
        (ROWS, {"units": "Mpc"}, "`units`. Expected .*units='Mpc'"),
        (IN_MPC + ROWS, {}, "`h`. Expected the Hubble constant of the table.*h=None"),
        (IN_MPC + ROWS, {"h": -1.0}, "`h`.*h=-1.0"),
        (CAMB, {}, "`k`|`path`"),
        (CAMB + "1.0 abc\n", {}, "`path`. Expected columns of numbers.*file.dat"),
        (CAMB + "1.0\n2.0\n", {}, "`path`. Expected two columns or more. Received: 1"),
        (CLASS.replace("z=0", "z=1.5") + ROWS, {"normalise": False}, "`path`.*redshift 1.5"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_files_that_are_no_tables(tmp_path, text, options, complaint):
    path = tmp_path / "file.dat"
    path.write_text(text)
    with pytest.raises(ValueError, match=complaint):
        TabulatedPower.read(path, **options)


GRID = Grid(8, 100.0)


def noise():
    return tf.constant(np.random.default_rng(3).normal(size=GRID.shape))


def test_the_field_takes_its_power_at_every_mode():
    """Against the definition, mode by mode."""
    power = np.asarray(linear_power(GRID.wavenumber, Cosmology())) * GRID.alive
    expected = np.fft.rfftn(noise()) * np.sqrt(power * GRID.num_cells**3 / GRID.volume)
    field = InitialField(GRID, Cosmology())
    np.testing.assert_allclose(field.modes(noise()), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(field.linear_power(), power, rtol=1e-12)
    tensors = InitialField(GRID, Cosmology(h=tf.constant(0.68, tf.float64)))
    np.testing.assert_allclose(tensors.modes(noise()), expected, rtol=1e-12, atol=1e-12)
    assert tensors.modes(tf.cast(noise(), tf.float32)).dtype == tf.complex64


def test_the_field_is_differentiable():
    state = np.array(FIDUCIAL)
    draw, other = noise(), np.random.default_rng(4).normal(size=GRID.shape)

    @tf.function
    def statistic(state):
        cosmology = Cosmology(**{n: state[i] for i, n in enumerate(PARAMETERS)})
        return tf.reduce_sum(InitialField(GRID, cosmology)(draw) * other)[None]

    ours = jacobian(statistic)(tf.constant(state)).numpy()
    np.testing.assert_allclose(ours, central_difference(statistic, state), rtol=1e-6)
    assert np.all(ours != 0)


def test_other_powers_of_the_field(table):
    smooth = InitialField(GRID, Cosmology(), SMOOTH)
    expected = np.asarray(linear_power(GRID.wavenumber, Cosmology(), SMOOTH)) * GRID.alive
    np.testing.assert_allclose(smooth.linear_power(), expected, rtol=1e-12)
    tabulated = InitialField(GRID, Cosmology(sigma8=0.5), table)
    np.testing.assert_allclose(tabulated.white_noise(tabulated(noise())).shape, GRID.shape)
    expected = np.asarray(linear_power(GRID.wavenumber, Cosmology(sigma8=0.5), table)) * GRID.alive
    np.testing.assert_allclose(tabulated.linear_power(), expected, rtol=1e-12)
    slope = tf.Variable(1.5, dtype=tf.float64)
    with tf.GradientTape() as tape:
        own = InitialField(GRID, Cosmology(), lambda k: 3.0 * k**slope)
        total = tf.reduce_sum(own.linear_power())
    expected = np.where(GRID.alive, 3.0 * GRID.wavenumber**1.5, 0.0)
    np.testing.assert_allclose(own.linear_power(), expected, rtol=1e-12)
    log_k = np.log(np.where(GRID.alive, GRID.wavenumber, 1.0))
    np.testing.assert_allclose(tape.gradient(total, slope), np.sum(expected * log_k), rtol=1e-10)


def test_powers_that_are_none_of_the_field(table):
    short = TabulatedPower(table.k[300:], table.power[300:], normalise=False)
    with pytest.raises(ValueError, match="`k`. Expected wavenumbers within the table's"):
        InitialField(Grid(8, 1000.0), Cosmology(), short)
    with pytest.raises(ValueError, match="`power`. Expected a function that keeps the shape"):
        InitialField(GRID, Cosmology(), lambda k: 3.0)
    with pytest.raises(ValueError, match="`transfer`"):
        InitialField(GRID, Cosmology(), "bbks")
