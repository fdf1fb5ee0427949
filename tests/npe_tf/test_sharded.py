import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from npe_tf.catalogue import Catalogue
from npe_tf.cosmology import Cosmology
from npe_tf.grid import Grid
from npe_tf.painting import paint
from npe_tf.posterior import FieldPosterior, PosteriorConfig
from npe_tf.sharded.fft import SlabFourier
from npe_tf.sharded.gravity import SlabGravity
from npe_tf.sharded.memory import memory_by_device
from npe_tf.sharded.posterior import ShardedPosterior
from npe_tf.sharded.slabs import Slabs, extend, fold

ROOT = Path(__file__).resolve().parents[2]
CELL = 16.0
CONFIG = PosteriorConfig(8, 2e12, dtype="float64")


def haloes(config, count=300):
    rng = np.random.default_rng(0)
    box = CELL * config.num_cells
    mass = config.mass_threshold * np.exp(rng.exponential(1.0, count))
    return Catalogue(rng.uniform(0, box, (count, 3)), mass, box)


def state(config):
    """White noise, and parameters with two living components of ordinary widths."""
    white_noise = np.random.default_rng(1).standard_normal((config.num_cells,) * 3)
    size = config.build_bias().parameters.size
    theta = 0.3 * np.random.default_rng(2).standard_normal(size)
    if config.bias == "neural":
        theta[12] += 1.0  # of `mean_bias`
    return white_noise.astype(config.dtype), theta.astype(config.dtype)


def value_and_gradient(config, catalogue, white_noise, theta, completeness=None, jit_compile=False):
    """Of the posterior on one device."""
    parts = config.build(catalogue, completeness)
    posterior = FieldPosterior(
        parts.initial_field,
        parts.gravity,
        parts.bias,
        parts.likelihood,
        parts.prior_scale,
        jit_compile=jit_compile,
    )

    @tf.function
    def work_out(white_noise, theta):
        with tf.GradientTape() as tape:
            tape.watch([white_noise, theta])
            value = posterior.log_prob(white_noise, theta)
        return value, *tape.gradient(value, [white_noise, theta])

    return work_out(tf.constant(white_noise), tf.constant(theta))


def compare(found, expected):
    """Largest differences, relative to the largest number."""
    value, slabs, of_theta = found
    pairs = [
        (value.numpy(), expected[0].numpy()),
        (np.concatenate([slab.numpy() for slab in slabs]), expected[1].numpy()),
        (of_theta.numpy(), expected[2].numpy()),
    ]
    return [float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs]


def in_a_process(**request):
    """Reports of the worker, whose logical devices are four."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.npe_tf.sharded_worker", json.dumps(request)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_report(report, num_cells, tolerance, itemsize):
    count = report["count"]
    assert max(report["errors"]) < tolerance, report
    # slabs and their gradients are on their devices, and so is all that is done
    assert report["homes"] == [f"CPU:{i}" for i in range(count)] * 2
    assert report["unplaced"] == ["Placeholder"]
    # eight transforms, and the ghost planes of the painting and the kernel there and back
    modes = 8 * 2 * itemsize * num_cells**2 * (num_cells // 2 + 1)
    ghosts = 4 * itemsize * num_cells**2 * (report["ghosts"] + 1)
    travels = modes * (count - 1) / count**2 + (ghosts if count > 1 else 0)
    for received in report["received"]:
        assert 0 <= received - travels < 1000  # theta, its gradient and the values of the slabs


def test_four_devices():
    [report] = in_a_process(
        num_cells=16, options={"dtype": "float64"}, counts=[4], jit_compile=False
    )
    check_report(report, 16, 1e-10, 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"dtype": "float64"}, 1e-10),
        ({"dtype": "float64", "padding": "valid"}, 1e-10),
        ({"dtype": "float64", "scale_factor": 0.7, "mass_assignment": "cic"}, 1e-10),
        # a sum of the gradient's size rounds at 6e-8
        ({"dtype": "float32"}, 2e-5),
    ],
)
def test_one_two_and_four_devices_compiled(options, tolerance):
    reports = in_a_process(num_cells=16, options=options, counts=[1, 2, 4], jit_compile=True)
    for report in reports:
        check_report(report, 16, tolerance, 8 if options["dtype"] == "float64" else 4)
        assert report["repeats"]
    one, two, four = (max(report["peaks"]) for report in reports)
    # what is beyond 1/D: ghost planes
    assert 0.5 <= two / one < 0.6
    assert 0.25 <= four / one < 0.35


@functools.cache
def slabs_of(count, num_cells=8):
    # a device that comes more than once holds more than one slab: as many slabs as one likes
    return Slabs(num_cells, ["CPU:0"] * count)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_transforms_are_those_of_numpy(count):
    fourier = SlabFourier(slabs_of(count))
    field = np.random.default_rng(0).standard_normal((8, 8, 8))
    modes = fourier.forward(fourier.slabs.scatter(field))
    expected = np.fft.rfftn(field).transpose(1, 2, 0)
    np.testing.assert_allclose(np.concatenate(modes), expected, atol=1e-12)
    np.testing.assert_allclose(np.concatenate(fourier.inverse(modes)), field, atol=1e-14)
    frequencies = [fourier.frequencies(number) for number in range(count)]
    x, y, z = Grid(8, 1.0).frequencies
    assert np.array_equal(frequencies[-1][0].numpy().ravel(), x.ravel())
    assert np.array_equal(np.concatenate([f[1] for f in frequencies]).ravel(), y.ravel())
    assert np.array_equal(frequencies[0][2].numpy().ravel(), z.ravel())


@pytest.mark.parametrize("count", [1, 4])
def test_adjoints_of_the_transforms(count):
    fourier = SlabFourier(slabs_of(count))
    rng = np.random.default_rng(0)
    field, other = rng.standard_normal((2, 8, 8, 8))
    modes = rng.standard_normal((8, 5, 8)) + 1j * rng.standard_normal((8, 5, 8))
    cut = np.split(modes, count)

    def product(a, b):
        return sum(np.sum((x.numpy() * np.conj(y)).real) for x, y in zip(a, b, strict=True))

    # of real parts, since a gradient is one with respect to real and imaginary parts
    there = product(fourier.forward(fourier.slabs.scatter(field)), cut)
    back = product(fourier.forward_adjoint([tf.constant(m) for m in cut]), np.split(field, count))
    assert there == pytest.approx(back, rel=1e-12)
    there = product(fourier.inverse([tf.constant(m) for m in cut]), np.split(other, count))
    back = product(fourier.inverse_adjoint(fourier.slabs.scatter(other)), cut)
    assert there == pytest.approx(back, rel=1e-12)


@pytest.mark.parametrize(("count", "width"), [(1, 3), (2, 4), (4, 2), (4, 0)])
def test_ghost_planes(count, width):
    slabs = slabs_of(count)
    field = np.random.default_rng(0).standard_normal((8, 8, 8))
    extended = extend(slabs.scatter(field), width, slabs.devices)
    other = np.random.default_rng(1).standard_normal((count, 8 // count + 2 * width, 8, 8))
    folded = fold([tf.constant(part) for part in other], width, slabs.devices)
    expected = np.zeros_like(field)
    for number, part in enumerate(extended):
        planes = np.arange(-width, 8 // count + width) + number * (8 // count)
        np.testing.assert_array_equal(part, field[planes % 8])
        np.add.at(expected, planes % 8, other[number])
    np.testing.assert_allclose(np.concatenate(folded), expected, atol=1e-15)


def test_a_mesh_that_is_no_cube():
    positions = np.random.default_rng(0).uniform(0, 4, (3, 50)) + [[1.0], [0.0], [0.0]]
    box = paint(positions, (7, 4, 5)).numpy()
    cube = paint(positions, 20).numpy()
    # fold the cube, in which nothing wraps below zero but the clouds of the first planes
    expected = np.zeros((7, 4, 5))
    index = np.indices(cube.shape) - np.where(np.indices(cube.shape) > 10, 20, 0)
    np.add.at(expected, (index[0] % 7, index[1] % 4, index[2] % 5), cube)
    np.testing.assert_allclose(box, expected, atol=1e-12)
    with pytest.raises(ValueError, match="`masses`.*no cube"):
        paint(positions, (7, 4, 5), "tsc", np.ones(50))
    with pytest.raises(ValueError, match=r"`num_cells`.*\(7, 4\)"):
        paint(positions, (7, 4))


@pytest.mark.parametrize("padding", ["periodic", "valid"])
def test_shares_of_a_likelihood(padding):
    config = dataclasses.replace(CONFIG, padding=padding)
    posterior = config.build(haloes(config), np.random.default_rng(3).uniform(0.1, 1, (8,) * 3))
    likelihood = posterior.likelihood
    delta = np.random.default_rng(4).uniform(-0.5, 1, (8,) * 3)
    mass_function = posterior.bias.mass_function(tf.constant(delta))
    side = likelihood.shape[0]
    total = 0.0
    for first, last in ((0, 1), (1, 4), (4, side)):
        part = likelihood.slab(first, last)
        assert np.array_equal(part.counts, likelihood.counts[first:last])
        plane = np.arange(first * side**2, last * side**2).reshape(part.shape)
        total += part(mass_function.at(plane)).numpy()
    assert total == pytest.approx(likelihood(mass_function).numpy(), rel=1e-12)


OPTIONS = [
    ({"gravity": "2lpt", "mass_assignment": "cic", "scale_factor": 0.6, "prior_scale": 3.3}, 2),
    ({"padding": "valid"}, 4),
    ({"bias": "power_law", "kernel_size": 1, "counts": "negative_binomial"}, 2),
]


@pytest.mark.slow
@pytest.mark.parametrize(("options", "count"), OPTIONS)
def test_kinds_of_posteriors(options, count):
    config = dataclasses.replace(CONFIG, num_cells=16, **options)
    catalogue, (white_noise, theta) = haloes(config), state(config)
    window = np.random.default_rng(3).uniform(0.1, 1, (16,) * 3)
    posterior = ShardedPosterior(
        config, catalogue, ["CPU:0"] * count, completeness=window, jit_compile=False
    )
    found = posterior.value_and_gradient(posterior.slabs.scatter(white_noise), tf.constant(theta))
    expected = value_and_gradient(config, catalogue, white_noise, theta, window)
    assert max(compare(found, expected)) < 1e-10


def test_a_tape_finds_the_gradient():
    posterior = small()
    white_noise, theta = state(CONFIG)
    slabs, theta = posterior.slabs.scatter(white_noise), tf.constant(theta)
    with tf.GradientTape() as tape:
        tape.watch([*slabs, theta])
        value = 2.0 * posterior.log_prob(slabs, theta)
    gradients = tape.gradient(value, [*slabs, theta])
    expected, by_slab, of_theta = posterior.value_and_gradient(slabs, theta)
    assert value.numpy() == pytest.approx(2.0 * expected.numpy(), rel=1e-14)
    for found, gradient in zip(gradients, [*by_slab, of_theta], strict=True):
        # not exactly: what is not compiled may sum a tape's gradients in any order
        np.testing.assert_allclose(found, 2.0 * gradient.numpy(), rtol=1e-10, atol=1e-12)


@functools.cache
def small():
    return ShardedPosterior(CONFIG, haloes(CONFIG), ["CPU:0"] * 2, jit_compile=False)


def test_a_particle_beyond_the_ghost_planes_is_an_error():
    posterior = small()
    white_noise, theta = state(CONFIG)
    far = posterior.slabs.scatter(100.0 * white_noise)
    with pytest.raises(tf.errors.InvalidArgumentError, match="assertion failed.*`ghost_planes`"):
        posterior.value_and_gradient(far, tf.constant(theta))


def test_what_is_not_finite_goes_through():
    posterior = small()
    white_noise, theta = state(CONFIG)
    white_noise[0, 0, 0] = np.nan
    value = posterior.value_and_gradient(posterior.slabs.scatter(white_noise), tf.constant(theta))
    assert np.isnan(value[0].numpy())


def test_bytes_counted_by_hand():
    def function(x):
        with tf.device("CPU:0"):
            a = tf.sqrt(tf.reshape(x, [10, 10]))
        with tf.device("CPU:1"):
            b = tf.sin(tf.sqrt(a))
        with tf.device("CPU:0"):
            return b[:5], a

    traced = tf.compat.v1.wrap_function(function, [tf.TensorSpec([100], tf.float32)])
    first, second = memory_by_device(traced, ["CPU:0", "CPU:1"])
    # a comes over and its root is made; then the root and its sine
    assert second == (800, 400, 400, 800)
    assert (first.largest, first.received) == (400, 400)
    # the input, a and half of b, and what says which half: the stack of three and the shape
    assert 0 <= first.produced - 1000 < 100
    # a is returned, and so still there when b comes to be cut
    assert 0 <= first.peak - 1000 < 100


def test_ghost_planes_hold_seven_standard_deviations():
    grid, slabs = Grid(16, 256.0), Slabs(16, ["CPU:0"])
    gravity = SlabGravity(grid, slabs, Cosmology())
    rng = np.random.default_rng(0)
    fields, _ = gravity._displacements([tf.constant(rng.standard_normal(grid.shape))])
    spread = np.std([field[0].numpy() for field in fields])
    assert 5.0 < gravity.farthest / spread < 12.0
    nearest = SlabGravity(grid, slabs, Cosmology(), mass_assignment="ngp")
    assert nearest.farthest == nearest.ghost_planes + 0.5


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"gravity": "pm"}, "gravity='pm'"),
        ({"supersampling": 2}, "one particle per cell.*supersampling=2"),
        ({"redshift_space": True}, "real space.*redshift_space=True"),
        ({"bias": "second_order"}, "neighbouring voxels.*bias='second_order'"),
    ],
)
def test_what_cannot_be_cut_is_refused(options, match):
    config = dataclasses.replace(CONFIG, **options)
    with pytest.raises(ValueError, match=f"`config`.*{match}"):
        ShardedPosterior(config, haloes(config), ["CPU:0"])


@pytest.mark.parametrize(
    ("devices", "options", "match"),
    [
        ([], {}, "`devices`.*divides num_cells=8.*0 devices"),
        (["CPU:0"] * 3, {}, "`devices`.*divides num_cells=8.*3 devices"),
        (["CPU:0"] * 4, {"ghost_planes": 3}, "`ghost_planes`.*2 planes.*ghost_planes=3"),
        (["CPU:0"] * 4, {"ghost_planes": 0}, "`ghost_planes`.*more than 0.5.*ghost_planes=0"),
        (["CPU:0"] * 8, {"ghost_planes": 1}, "`devices`.*more than 1 planes.*8 slabs of 1"),
    ],
)
def test_a_mesh_that_does_not_divide_is_refused(devices, options, match):
    with pytest.raises(ValueError, match=match):
        ShardedPosterior(CONFIG, haloes(CONFIG), devices, **options)


def test_slabs_of_another_shape_are_refused():
    posterior = small()
    white_noise, theta = state(CONFIG)
    with pytest.raises(ValueError, match=r"`slabs`.*2 tensors of shape \(4, 8, 8\)"):
        posterior.value_and_gradient([tf.constant(white_noise)], tf.constant(theta))
    with pytest.raises(ValueError, match=r"`field`.*\(8, 8, 8\).*\(4, 8, 8\)"):
        posterior.slabs.scatter(white_noise[:4])
