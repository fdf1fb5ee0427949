"""Spectra, multipoles and bispectra against loops over modes and against analytic fields."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from npe_tf import statistics
from npe_tf.grid import Grid

GRID = Grid(8, 50.0)


def naive_shells(first, second, grid, num_shells):
    """Mean cross power and number of modes per shell, mode by mode over the full transform."""
    n = grid.num_cells
    a, b = np.fft.fftn(first), np.fft.fftn(second)
    power, wavenumber, count = np.zeros(num_shells), np.zeros(num_shells), np.zeros(num_shells)
    for index in itertools.product(range(n), repeat=3):
        f = [i if i <= n // 2 else i - n for i in index]
        if n // 2 in f or f == [0, 0, 0]:
            continue
        length = np.sqrt(sum(x * x for x in f))
        shell = min(num_shells - 1, max(0, int((length - 0.5) // (n / 2 / num_shells))))
        power[shell] += (a[index] * np.conj(b[index])).real * grid.box_size**3 / n**6
        wavenumber[shell] += length * 2 * np.pi / grid.box_size
        count[shell] += 1
    with np.errstate(invalid="ignore"):
        return wavenumber / count, power / count, count


@pytest.mark.parametrize("num_shells", [None, 1, 3, 8])
def test_spectra_against_naive_loop(num_shells):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, *GRID.shape))
    count = num_shells or GRID.num_cells // 2
    k, p_ab, modes = naive_shells(a, b, GRID, count)
    p_aa, p_bb = (naive_shells(x, x, GRID, count)[1] for x in (a, b))
    got_k, got, got_modes = statistics.power_spectrum(a, GRID, num_shells=num_shells)
    np.testing.assert_allclose(got_k, k, rtol=1e-12)
    np.testing.assert_allclose(got, p_aa, rtol=1e-12)
    np.testing.assert_allclose(
        statistics.cross_correlation(a, b, GRID, num_shells)[1],
        p_ab / np.sqrt(p_aa * p_bb),
        rtol=1e-11,
    )
    np.testing.assert_allclose(
        statistics.transfer(a, b, GRID, num_shells)[1], np.sqrt(p_aa / p_bb), rtol=1e-12
    )
    np.testing.assert_array_equal(got_modes, modes)
    cross = statistics.power_spectrum(a, GRID, b, num_shells)
    np.testing.assert_allclose(cross.power, p_ab, rtol=1e-11)


def test_one_plane_wave():
    """A cosine of amplitude A has |d_k| = A N^3 / 2 at k and -k and nothing elsewhere."""
    x = 2 * np.pi * np.arange(8) / 8
    field = np.broadcast_to(3.0 * np.cos(2 * x)[:, None, None], GRID.shape)
    k, power, modes = statistics.power_spectrum(field, GRID)
    shell = int(np.argmin(np.abs(k - 2 * GRID.fundamental)))
    expected = np.zeros(4)
    expected[shell] = 2 * (3.0 / 2) ** 2 * GRID.volume / modes[shell]
    np.testing.assert_allclose(power, expected, atol=1e-9)


def test_white_noise_has_the_power_of_a_cell_and_its_scatter():
    fields = np.random.default_rng(1).normal(size=(40, 10, *GRID.shape)).astype(np.float32)
    _, power, modes = statistics.power_spectrum(fields, GRID)
    assert power.shape == (40, 10, 4)
    ratio = power.reshape(400, 4) / GRID.cell_volume
    scatter = np.sqrt(2 / modes)
    np.testing.assert_array_less(np.abs(ratio.mean(0) - 1), 4 * scatter / np.sqrt(400))
    np.testing.assert_allclose(ratio.std(0), scatter, rtol=4 / np.sqrt(2 * 400))


def test_correlation_broadcasts_and_is_bounded():
    rng = np.random.default_rng(2)
    truth, noise = rng.normal(size=GRID.shape), rng.normal(size=(5, *GRID.shape))
    fields = 0.6 * truth + 0.8 * noise
    k, r = statistics.cross_correlation(fields, truth, GRID)
    assert k.shape == (4,)
    assert r.shape == (5, 4)
    for index in range(5):
        one = statistics.cross_correlation(truth, fields[index], GRID)[1]
        np.testing.assert_allclose(r[index], one, rtol=1e-12)
    np.testing.assert_allclose(r.mean(), 0.6, atol=0.05)
    same, opposite = (
        statistics.cross_correlation(truth, x, GRID)[1] for x in (7.0 * truth, -truth)
    )
    np.testing.assert_allclose(same, 1.0, rtol=1e-12)
    np.testing.assert_allclose(opposite, -1.0, rtol=1e-12)
    np.testing.assert_allclose(statistics.transfer(7.0 * truth, truth, GRID)[1], 7.0, rtol=1e-12)
    assert np.isnan(statistics.cross_correlation(truth, np.zeros(GRID.shape), GRID)[1]).all()


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 5), (2, 4, 4, 4)])
def test_fields_of_another_mesh_are_refused(shape):
    with pytest.raises(ValueError, match=r"`other`.*N=8"):
        statistics.power_spectrum(np.zeros(GRID.shape), GRID, np.zeros(shape))
    for measure in (
        statistics.power_multipoles,
        lambda x, grid: statistics.bispectrum(x, grid, [[0.1, 0.1, 0.1]]),
        lambda x, grid: statistics.smooth(x, grid, 1.0),
    ):
        with pytest.raises(ValueError, match=r"`delta`.*N=8.*Received: shape"):
            measure(np.zeros(shape), GRID)
    with pytest.raises(ValueError, match=r"`delta`.*N=8.*Received: shape"):
        statistics.power_spectrum(np.zeros(shape), GRID)
    with pytest.raises(ValueError, match="`b`"):
        statistics.cross_correlation(np.zeros(GRID.shape), np.zeros(shape), GRID)


def legendre(order, mu):
    return {
        0: 1.0,
        2: (3 * mu**2 - 1) / 2,
        4: (35 * mu**4 - 30 * mu**2 + 3) / 8,
    }[order]


def live_modes(grid):
    """Signed frequencies of every live mode of the full transform."""
    half = grid.num_cells // 2
    for f in itertools.product(range(-half + 1, half), repeat=3):
        if f != (0, 0, 0):
            yield f


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_multipoles_of_a_kaiser_field_are_the_discrete_mode_averages(axis):
    """Modes multiplied by 1 + f mu^2 (Kaiser 1987), against a loop over modes."""
    growth_rate = 0.7
    grid = Grid(8, 50.0)
    delta = np.random.default_rng(10).normal(size=grid.shape)
    frequency = np.stack(np.broadcast_arrays(*grid.frequencies)).astype(float)
    length = np.sqrt(np.sum(frequency**2, axis=0))
    mu = frequency[axis] / np.where(length > 0, length, 1.0)
    squashed = np.fft.irfftn(
        np.fft.rfftn(delta) * (1 + growth_rate * mu**2) * grid.alive, s=grid.shape, axes=(0, 1, 2)
    )
    modes = np.fft.fftn(delta)
    expected, count = np.zeros((3, 4)), np.zeros(4)
    for f in live_modes(grid):
        size = np.sqrt(sum(x * x for x in f))
        cosine = f[axis] / size
        shell = min(3, max(0, int(size - 0.5)))
        power = abs(modes[f]) ** 2 * grid.volume / 8**6 * (1 + growth_rate * cosine**2) ** 2
        count[shell] += 1
        for row, order in enumerate((0, 2, 4)):
            expected[row, shell] += (2 * order + 1) * legendre(order, cosine) * power
    got = statistics.power_multipoles(squashed, grid, line_of_sight=axis)
    np.testing.assert_array_equal(got.num_modes, count)
    np.testing.assert_allclose(got.power, expected / count, rtol=1e-10)
    mono = statistics.power_spectrum(squashed, grid)
    np.testing.assert_allclose(got.power[0], mono.power, rtol=1e-12)
    np.testing.assert_allclose(got.wavenumber, mono.wavenumber)


def test_multipoles_of_many_modes_are_kaisers():
    """With unit power: P_0 = 1 + 2f/3 + f^2/5, P_2 = 4f/3 + 4f^2/7, P_4 = 8f^2/35."""
    f = 0.5
    grid = Grid(48, 100.0)
    mu = grid.fundamental * grid.frequencies[2] / np.where(grid.wavenumber > 0, grid.wavenumber, 1)
    white = np.random.default_rng(11).normal(size=grid.shape) / np.sqrt(grid.cell_volume)
    field = np.fft.irfftn(np.fft.rfftn(white) * (1 + f * mu**2), s=grid.shape, axes=(0, 1, 2))
    got = statistics.power_multipoles(np.stack([field, 2 * field]), grid, num_shells=8)
    assert got.power.shape == (2, 3, 8)
    expected = np.array([1 + 2 * f / 3 + f**2 / 5, 4 * f / 3 + 4 * f**2 / 7, 8 * f**2 / 35])
    # the shells below the Nyquist sphere are isotropic enough; Gaussian errors of (2l+1) P
    error = np.sqrt(2 / got.num_modes[3:7]) * np.sqrt([[1], [5], [9]]) * 1.6
    pull = (got.power[0, :, 3:7] - expected[:, None]) / error
    assert np.all(np.abs(pull) < 4)
    np.testing.assert_allclose(got.power[1], 4 * got.power[0], rtol=1e-12)


@pytest.mark.parametrize(("assignment", "order"), [("ngp", 1), ("cic", 2), ("tsc", 3)])
def test_the_window_of_the_mass_assignment_is_divided_out(assignment, order):
    """A field multiplied by the window, mode by mode, has its own spectra back."""
    rng = np.random.default_rng(12)
    a, b = rng.normal(size=(2, *GRID.shape))

    def painted(field):
        modes = np.fft.fftn(field)
        for index in np.ndindex(*GRID.shape):
            for i in index:
                u = np.pi * min(i, 8 - i) / 8
                modes[index] *= (np.sin(u) / u) ** order if u else 1.0
        return np.fft.ifftn(modes).real

    options = {"assignment": assignment}
    for measure in (
        lambda x, y, **o: statistics.power_spectrum(x, GRID, y, **o).power,
        lambda x, y, **o: statistics.power_multipoles(x, GRID, **o).power,
        lambda x, y, **o: statistics.bispectrum(x, GRID, [[0.15, 0.2, 0.25]], **o).bispectrum,
        lambda x, y, **o: statistics.bispectrum(x, GRID, [[0.15, 0.2, 0.25]], **o).reduced,
    ):
        truth = measure(a, b)
        np.testing.assert_allclose(measure(painted(a), painted(b), **options), truth, rtol=1e-9)
        assert not np.allclose(measure(painted(a), painted(b)), truth, rtol=1e-2)


def in_shell(f, centre, width, fundamental):
    return centre - width / 2 <= fundamental * np.sqrt(sum(x * x for x in f)) < centre + width / 2


@pytest.mark.parametrize("width", [None, 0.17])
def test_bispectrum_against_all_triples_of_modes(width):
    grid = Grid(8, 50.0)
    rng = np.random.default_rng(13)
    fields = rng.normal(size=(2, *grid.shape))
    fields[1] = fields[1] ** 2  # a strong skewness
    f = grid.fundamental
    triangles = np.array([[f, f, f], [f, 2 * f, 2 * f], [f, 2 * f, 2.5 * f], [2 * f, f, f]])
    thickness = width or f
    got = statistics.bispectrum(fields, grid, triangles, width=width)
    assert got.bispectrum.shape == got.reduced.shape == (2, 4)
    assert got.wavenumber.shape == (4, 3)
    for number, sides in enumerate(triangles):
        shells = [[q for q in live_modes(grid) if in_shell(q, k, thickness, f)] for k in sides]
        pairs = itertools.product(shells[0], shells[1])
        closing = [(p, q, tuple(-np.add(p, q))) for p, q in pairs]
        closing = [t for t in closing if t[2] in shells[2]]
        assert got.num_triangles[number] == len(closing) > 0
        for index, field in enumerate(fields):
            d = np.fft.fftn(field)
            triple = np.mean([(d[p] * d[q] * d[r]).real for p, q, r in closing])
            b = triple * grid.box_size**6 / 8**9
            p = [np.mean([abs(d[q]) ** 2 for q in s]) * grid.volume / 8**6 for s in shells]
            np.testing.assert_allclose(got.bispectrum[index, number], b, rtol=1e-9)
            q = b / (p[0] * p[1] + p[1] * p[2] + p[2] * p[0])
            np.testing.assert_allclose(got.reduced[index, number], q, rtol=1e-9)
        mean = [np.mean([f * np.sqrt(np.dot(q, q)) for q in s]) for s in shells]
        np.testing.assert_allclose(got.wavenumber[number], mean)


def test_bispectrum_of_three_plane_waves():
    """cos(ax) + cos(by) + c cos(ax + by): each triple of modes has (N^3/2)^3 c."""
    grid = Grid(12, 30.0)
    x, y, _ = np.meshgrid(*[2 * np.pi * np.arange(12) / 12] * 3, indexing="ij")
    field = np.cos(2 * x) + np.cos(y) + 0.3 * np.cos(2 * x + y)
    f = grid.fundamental
    sides = [[f, 2 * f, np.sqrt(5) * f]]
    got = statistics.bispectrum(field, grid, sides, width=0.01 * f)
    # frequency (2,1,0) and its kin are 24 modes with one triangle each: 2 of 24 have the waves
    assert got.num_triangles[0] == 24
    np.testing.assert_allclose(got.bispectrum, [0.3 / 8 * grid.volume**2 * 2 / 24], rtol=1e-10)


def test_bispectrum_of_a_quadratic_field_is_that_of_perturbation_theory():
    """d + b d^2 of a Gaussian field of white power P has B = 2 b (P P + P P + P P) + O(b^3)."""
    b, amplitude = 0.05, 0.5
    grid = Grid(32, 200.0)
    rng = np.random.default_rng(14)
    k = 6 * grid.fundamental
    draws = []
    for _ in range(6):
        # band-limited, so that the square has no aliases among the modes that are measured
        modes = np.fft.rfftn(rng.normal(size=grid.shape)) * (grid.wavenumber < 9 * grid.fundamental)
        gaussian = np.fft.irfftn(modes, s=grid.shape, axes=(0, 1, 2))
        gaussian *= amplitude / gaussian.std()
        plus, minus = (gaussian + s * b * gaussian**2 for s in (1, -1))
        up, down = (
            statistics.bispectrum(field, grid, [[k, k, k]], width=3 * grid.fundamental)
            for field in (plus, minus)
        )
        # the odd part in b: the Gaussian field's own scatter cancels
        draws.append((up.reduced - down.reduced) / 2)
    error = np.std(draws, ddof=1) / np.sqrt(len(draws))
    assert error < 0.05 * 2 * b
    assert abs(np.mean(draws) - 2 * b) < 4 * error


def test_triangles_without_modes_are_not_known():
    got = statistics.bispectrum(np.ones(GRID.shape), GRID, [[0.13, 0.13, 0.13]], width=1e-6)
    assert got.num_triangles[0] == 0
    assert np.isnan([got.bispectrum[0], got.reduced[0], *got.wavenumber[0]]).all()


def test_the_mean_of_a_field_is_no_side_of_a_triangle():
    f = GRID.fundamental
    got = statistics.bispectrum(5 + np.ones(GRID.shape), GRID, [[0.45 * f, f, f]])
    assert got.num_triangles[0] == 0


def test_modes_on_the_edges_of_shells_do_not_depend_on_rounding():
    """Shells from 1 to 2 fundamental wavenumbers: the first edge is in, the last one is not."""
    shell = [f for f in live_modes(GRID) if 1 <= sum(x * x for x in f) < 4]
    known = set(shell)
    closing = sum(tuple(-np.add(p, q)) in known for p, q in itertools.product(shell, shell))
    for box_size in np.linspace(10, 1000, 25):
        grid = Grid(8, box_size)
        sides = [[1.5 * grid.fundamental] * 3]
        got = statistics.bispectrum(np.ones(grid.shape), grid, sides)
        assert got.num_triangles[0] == closing


@pytest.mark.parametrize(
    ("kernel", "response"),
    [
        ("gaussian", lambda x: np.exp(-(x**2) / 2)),
        ("top_hat", lambda x: 3 * (np.sin(x) - x * np.cos(x)) / x**3),
    ],
)
@pytest.mark.parametrize("radius", [0.02, 4.0, 20.0])
def test_smoothing_of_a_plane_wave(kernel, response, radius):
    phase = 2 * np.pi * np.arange(8) / 8
    wave = np.cos(phase[:, None, None] + 2 * phase[None, :, None] + 0 * phase)
    k = np.sqrt(5) * GRID.fundamental
    got = statistics.smooth(np.stack([1 + wave, 2 * wave]), GRID, radius, kernel)
    factor = response(k * radius)
    np.testing.assert_allclose(got, [1 + factor * wave, 2 * factor * wave], atol=1e-9)
    np.testing.assert_allclose(statistics.smooth(wave, GRID, 0.0, kernel), wave, atol=1e-12)


def test_the_top_hats_series_meets_its_closed_form():
    x = np.array([0.0, 0.0099999, 0.0100001])
    got = statistics._top_hat(x)
    assert got[0] == 1.0
    assert abs(got[1] - got[2]) < 1e-8
    np.testing.assert_allclose(got, 1 - x**2 / 10 + x**4 / 280, rtol=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: statistics.power_spectrum(x, GRID, assignment="pcs"), "`assignment`.*'pcs'"),
        (lambda x: statistics.power_multipoles(x, GRID, (1,)), "`multipoles`"),
        (lambda x: statistics.power_multipoles(x, GRID, ()), "`multipoles`"),
        (lambda x: statistics.power_multipoles(x, GRID, (-2,)), "`multipoles`"),
        (lambda x: statistics.power_multipoles(x, GRID, line_of_sight=3), "`line_of_sight`"),
        (lambda x: statistics.bispectrum(x, GRID, [0.1, 0.1, 0.1]), "`triangles`.*shape"),
        (lambda x: statistics.bispectrum(x, GRID, [[0.1, 0.1, 0.0]]), "`triangles`.*positive"),
        (lambda x: statistics.bispectrum(x, GRID, [[0.1, 0.1, 0.3]]), "longer than"),
        (lambda x: statistics.bispectrum(x, GRID, [[0.4, 0.4, 0.4]]), "twice the Nyquist"),
        (lambda x: statistics.bispectrum(x, GRID, [[0.33, 0.33, 0.33]]), "which reach 1.17"),
        (lambda x: statistics.bispectrum(x, GRID, [[0.1] * 3], width=0), "`width`"),
        (lambda x: statistics.smooth(x, GRID, -1.0), "`radius`"),
        (lambda x: statistics.smooth(x, GRID, 1.0, "box"), "`kernel`.*'box'"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.zeros(GRID.shape))
