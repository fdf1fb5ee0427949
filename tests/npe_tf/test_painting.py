import functools

import numpy as np
import pytest
import tensorflow as tf

from npe_tf import painting
from npe_tf.painting import coarsen, interpolate, overdensity, paint
from npe_tf.statistics import assignment_window
from tests.npe_tf import reference

SCHEMES = pytest.mark.parametrize(
    ("scheme", "naive"),
    [
        ("ngp", reference.nearest_grid_point),
        ("cic", reference.cloud_in_cell),
        ("tsc", reference.triangular_shaped_cloud),
    ],
    ids=["ngp", "cic", "tsc"],
)


# 27 vertices take XLA long to compile
SMOOTH = pytest.mark.parametrize("scheme", ["cic", pytest.param("tsc", marks=pytest.mark.slow)])


@pytest.fixture
def positions():
    return np.random.default_rng(2).uniform(-7, 13, (40, 3))


@SCHEMES
def test_against_a_loop_over_particles(positions, scheme, naive):
    np.testing.assert_allclose(paint(positions.T, 6, scheme), naive(positions, 6), atol=1e-12)


@SCHEMES
@pytest.mark.parametrize("num_cells", [1, 2, 3])
def test_a_cloud_wider_than_the_mesh_meets_itself(positions, num_cells, scheme, naive):
    halves = np.round(2 * positions) / 2
    for x in (positions, halves):
        found = paint(x.T, num_cells, scheme)
        np.testing.assert_allclose(found, naive(x, num_cells), atol=1e-12)
        mesh = np.random.default_rng(8).standard_normal((num_cells,) * 3)
        expected = [np.sum(mesh * naive(y[np.newaxis], num_cells)) for y in x]
        np.testing.assert_allclose(interpolate(mesh, x.T, scheme), expected, atol=1e-12)


@SCHEMES
def test_on_a_gpu_vertex_after_vertex_is_added(monkeypatch, positions, scheme, naive):
    masses = np.random.default_rng(9).standard_normal((2, len(positions)))
    expected = [paint(positions.T, 5, scheme), *paint(positions.T, 5, scheme, masses)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda _: ["a GPU"])
    # an untouched cache, so that it is traced anew
    monkeypatch.setattr(painting, "_compiled", functools.cache(painting._compiled.__wrapped__))
    found = [paint(positions.T, 5, scheme), *paint(positions.T, 5, scheme, masses)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@SCHEMES
def test_mass_is_conserved_and_a_lattice_is_uniform(positions, scheme, naive):
    np.testing.assert_allclose(paint(positions.T, 4, scheme).numpy().sum(), 40.0)
    lattice = np.indices((5, 5, 5)).reshape(3, -1) + 0.3
    np.testing.assert_allclose(paint(lattice, 5, scheme).numpy(), 1.0, atol=1e-12)


def test_the_wider_cloud_has_a_continuous_gradient_and_the_narrow_one_kinks():
    """Central weights just before and behind a vertex, and halfway between two."""
    step = 1e-6

    def slope(scheme, x, side):
        near, far = (
            paint(np.array([[x + side * h], [2.0], [2.0]]), 6, scheme).numpy()[2, 2, 2]
            for h in (step, 2 * step)
        )
        return (far - near) / (side * step)

    for x in (2.0, 2.5):
        jump = slope("tsc", x, 1) - slope("tsc", x, -1)
        np.testing.assert_allclose(jump, 0.0, atol=1e-4)
    jump = slope("cic", 2.0, 1) - slope("cic", 2.0, -1)
    np.testing.assert_allclose(jump, -2.0, rtol=1e-4)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_coarsening_is_painting_on_the_coarser_mesh(positions, factor):
    fine = paint(positions.T * factor, 6 * factor, "cic").numpy()
    coarse = paint(positions.T, 6, "cic").numpy()
    np.testing.assert_allclose(coarsen(fine, 6) * factor**3, coarse, atol=1e-12)


def test_coarsening_wants_a_divisor():
    with pytest.raises(ValueError, match="`num_cells`.*divisor.*5"):
        coarsen(np.zeros((8, 8, 8)), 5)


def test_a_particle_at_the_upper_edge_is_wrapped():
    mesh = paint(np.array([[6.0], [6.0], [5.5]]), 6, "cic").numpy()
    assert mesh[0, 0, 5] == 0.5
    assert mesh[0, 0, 0] == 0.5


@SCHEMES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradient_in_graph_mode(positions, dtype, scheme, naive):
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((6, 6, 6))
    direction = rng.standard_normal(positions.shape)

    def value(x):
        return np.sum(weight * naive(x, 6))

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(weight.astype(dtype) * paint(x, 6, scheme))
        return tape.gradient(y, x)

    found = np.sum(gradient(tf.constant(positions.T, dtype)).numpy() * direction.T)
    expected = reference.directional_derivative(value, positions, direction, 1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-8 if dtype is np.float64 else 1e-4)


@SMOOTH
def test_second_derivative(positions, scheme):
    """Away from its kinks each scheme is a polynomial, so differences of gradients are exact."""
    rng = np.random.default_rng(4)
    weight = rng.standard_normal((6, 6, 6))
    v = tf.constant(rng.standard_normal(positions.T.shape))
    x = tf.constant(positions.T)

    def gradient(point):
        with tf.GradientTape() as tape:
            tape.watch(point)
            y = tf.reduce_sum(weight * paint(point, 6, scheme))
        return tape.gradient(y, point)

    with tf.GradientTape() as tape:
        tape.watch(x)
        product = tf.reduce_sum(gradient(x) * v)
    step = 1e-6
    expected = (gradient(x + step * v) - gradient(x - step * v)) / (2 * step)
    np.testing.assert_allclose(tape.gradient(product, x).numpy(), expected.numpy(), atol=1e-7)


@SCHEMES
def test_masses_are_a_sum_over_particles(positions, scheme, naive):
    masses = np.random.default_rng(5).standard_normal((2, len(positions)))
    found = paint(positions.T, 6, scheme, masses).numpy()
    for mesh, mass in zip(found, masses, strict=True):
        expected = sum(m * naive(x[np.newaxis], 6) for m, x in zip(mass, positions, strict=True))
        np.testing.assert_allclose(mesh, expected, atol=1e-12)
    np.testing.assert_array_equal(paint(positions.T, 6, scheme, masses[1]), found[1])


@SCHEMES
def test_interpolation_is_the_transpose_of_painting(positions, scheme, naive):
    mesh = np.random.default_rng(6).standard_normal((2, 6, 6, 6))
    found = interpolate(mesh, positions.T, scheme).numpy()
    expected = [[np.sum(f * naive(x[np.newaxis], 6)) for x in positions] for f in mesh]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_array_equal(interpolate(mesh[1], positions.T, scheme), found[1])


@SMOOTH
def test_gradients_of_masses_and_meshes(positions, scheme):
    """Of a quantity in which painting and interpolation follow each other, to second order."""
    rng = np.random.default_rng(7)
    x, masses = tf.constant(positions.T), tf.constant(rng.standard_normal((2, len(positions))))
    weight = tf.constant(rng.standard_normal((2, len(positions))))

    def value(x, masses):
        mesh = tf.sin(paint(x, 6, scheme, masses))
        return tf.reduce_sum(weight * interpolate(mesh, x, scheme))

    def gradients(x, masses):
        with tf.GradientTape() as tape:
            tape.watch((x, masses))
            y = value(x, masses)
        return tape.gradient(y, (x, masses))

    steps = tuple(tf.constant(rng.standard_normal(v.shape)) for v in (x, masses))
    found = sum(
        float(tf.reduce_sum(g * s)) for g, s in zip(gradients(x, masses), steps, strict=True)
    )

    def along(h):
        return x + h * steps[0], masses + h * steps[1]

    expected = reference.directional_derivative(
        lambda h: float(value(*along(h))), 0.0, 1.0, 1e-4 if scheme == "tsc" else 1e-5
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    with tf.GradientTape() as tape:
        tape.watch((x, masses))
        product = sum(
            tf.reduce_sum(g * s) for g, s in zip(gradients(x, masses), steps, strict=True)
        )
    ahead, behind = gradients(*along(1e-6)), gradients(*along(-1e-6))
    for second, plus, minus in zip(tape.gradient(product, (x, masses)), ahead, behind, strict=True):
        np.testing.assert_allclose(second, (plus - minus) / 2e-6, atol=1e-5)


def test_nothing_flows_through_the_nearest_vertex(positions):
    x = tf.constant(positions.T)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(tf.square(paint(x, 6, "ngp")))
    np.testing.assert_array_equal(tape.gradient(y, x), 0.0)


@pytest.mark.parametrize("scheme", ["ngp", "cic", "tsc"])
def test_a_compensated_plane_wave_has_its_amplitude(scheme):
    """Particles on a fine lattice, moved a little; to first order the window is all there is."""
    n, fine, amplitude = 8, 64, 1e-4
    lattice = np.indices((fine,) * 3).reshape(3, -1) * (n / fine)
    k = 2 * np.pi * 3 / n
    # half a spacing aside, so that no particle sits between two cells of the nearest scheme
    lattice[0] += 0.5 * n / fine
    wave = np.cos(k * np.arange(n))
    for compensated in (False, True):
        moved = lattice.copy()
        moved[0] -= amplitude / k * np.sin(k * lattice[0])
        delta = overdensity(moved, n, scheme, compensated=compensated).numpy()
        found = 2 * np.mean(delta * wave[:, None, None]) / amplitude
        window = np.sinc(3 / n) ** {"ngp": 1, "cic": 2, "tsc": 3}[scheme]
        # nearest sees the steps of the lattice only
        if scheme != "ngp":
            assert found == pytest.approx(1.0 if compensated else window, rel=2e-2)
    assert assignment_window(n, scheme)[3, 0, 0] == pytest.approx(
        np.sinc(3 / n) ** {"ngp": 1, "cic": 2, "tsc": 3}[scheme]
    )


def test_interlacing_removes_the_first_alias():
    """A wave above the Nyquist frequency is seen below it, but not in the interlaced mesh."""
    n, fine, amplitude = 8, 128, 1e-3
    lattice = (np.indices((fine, 8, 8)).reshape(3, -1) + 0.25) * np.array(
        [[n / fine], [1.0], [1.0]]
    )
    k = 2 * np.pi * (n - 2) / n  # appears at frequency 2
    moved = lattice.copy()
    moved[0] -= amplitude / k * np.sin(k * lattice[0])
    plain, interlaced = (
        np.abs(np.fft.rfftn(overdensity(moved, n, "cic", interlacing=i).numpy()))[2, 0, 0]
        for i in (False, True)
    )
    assert plain > 0.05 * amplitude * n**3 / 2
    assert interlaced < 1e-2 * plain


def test_a_wave_below_the_nyquist_frequency_survives_interlacing():
    n, fine, amplitude = 8, 128, 1e-3
    lattice = (np.indices((fine, 8, 8)).reshape(3, -1) + 0.25) * np.array(
        [[n / fine], [1.0], [1.0]]
    )
    k = 2 * np.pi * 2 / n
    moved = lattice.copy()
    moved[0] -= amplitude / k * np.sin(k * lattice[0])
    plain, interlaced = (
        np.fft.rfftn(overdensity(moved, n, "cic", interlacing=i).numpy())[2, 0, 0]
        for i in (False, True)
    )
    np.testing.assert_allclose(interlaced, plain, rtol=1e-2)


@pytest.mark.parametrize("num_cells", [4, 6, 10])
def test_meshes_finer_and_coarser_than_the_lattice(num_cells):
    lattice = np.indices((6, 6, 6)).reshape(3, -1) * (num_cells / 6)
    delta = overdensity(lattice, num_cells, "tsc").numpy()
    np.testing.assert_allclose(delta.mean(), 0.0, atol=1e-12)
    assert delta.min() >= -1.0
    if num_cells == 6:
        np.testing.assert_allclose(delta, 0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((np.zeros((5, 2)), 4), r"`positions`.*\[3, P\].*\(5, 2\)"),
        ((np.zeros((3, 2)), 4, "pcs"), "`mass_assignment`.*'tsc'.*'pcs'"),
        ((np.zeros((3, 2)), 4.0), "`num_cells`.*4.0"),
        ((np.zeros((3, 2)), 4, "cic", np.zeros(3)), r"`masses`.*\[2\].*\(3,\)"),
    ],
)
def test_painting_checks_its_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        paint(*arguments)


def test_interpolation_checks_its_mesh():
    with pytest.raises(ValueError, match=r"`mesh`.*\(4, 4, 5\)"):
        interpolate(np.zeros((4, 4, 5)), np.zeros((3, 2)))


@SCHEMES
def test_positions_are_no_constants_to_the_compiler(scheme, naive):
    """A start that `Slice` takes for one would be compiled anew for every set of positions."""
    positions = tf.TensorSpec([3, 5], tf.float64)
    compiled = painting._compiled(9, scheme).assign.get_concrete_function(positions, None)
    library = compiled.graph.as_graph_def().library.function
    ops = {node.op for function in library for node in function.node_def}
    assert "XlaDynamicSlice" in ops
    assert "Slice" not in ops
