import keras
import numpy as np
import pytest
import tensorflow as tf

from layers import MixtureDensity
from layers.components import TaperedParetoComponents
from layers.poisson_process import PoissonProcessLoss, points_by_cell
from tests.layers import reference

THRESHOLD = 1.5
FAMILIES = {
    "normal": {"family": "normal"},
    "per_mass_normal": {"family": "normal", "parameterisation": "mass"},
    "tapered_pareto": {"family": "tapered_pareto"},
}


def loss_of(kind="normal", **options):
    return PoissonProcessLoss(
        **{"log_mass_threshold": THRESHOLD, "dtype": "float64", **FAMILIES[kind], **options}
    )


def mixtures(*shape, num_components=2, seed=0):
    rng = np.random.default_rng(seed)
    log_amplitude, mean = rng.normal(size=(2, *shape, num_components))
    scale = 0.4 + rng.random((*shape, num_components))
    return np.stack([log_amplitude, mean + THRESHOLD + 1.0, scale], axis=-2)


def points(*shape, most=4, seed=1):
    """Marks with padding among and after them, and a mark exactly at the threshold."""
    rng = np.random.default_rng(seed)
    marks = THRESHOLD + 2.0 * rng.random((*shape, most))
    marks[rng.random((*shape, most)) < 0.4] = -np.inf
    marks[rng.random((*shape, most)) < 0.1] = THRESHOLD - 0.3
    marks[(0,) * len(shape)] = THRESHOLD
    return marks


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("num_components", [1, 3])
def test_against_loops(name, num_components):
    mixture, marks = mixtures(2, 3, 2, num_components=num_components), points(2, 3, 2)
    cells = loss_of(name, cell_volume=2.5, reduction=None)(marks, mixture)
    assert cells.shape == (2, 3, 2)
    expected = reference.poisson_process_loss(
        marks.reshape(12, -1), mixture.reshape(12, 3, -1), 2.5, THRESHOLD, name
    )
    np.testing.assert_allclose(np.reshape(cells, 12), expected, rtol=1e-12)
    for reduction, total in (("sum", np.sum(expected)), ("sum_over_batch_size", np.mean(expected))):
        value = loss_of(name, cell_volume=2.5, reduction=reduction)(marks, mixture)
        np.testing.assert_allclose(value, total, rtol=1e-12)


def value_and_gradients(loss, marks, mixture, jit_compile):
    @tf.function(jit_compile=jit_compile)
    def both(marks, mixture):
        with tf.GradientTape() as tape:
            tape.watch(mixture)
            value = loss(marks, mixture)
        return value, tape.gradient(value, mixture)

    return both(tf.constant(marks, loss.dtype), tf.constant(mixture, loss.dtype))


@pytest.mark.parametrize(("dtype", "jit_compile"), [("float32", True), ("float64", False)])
@pytest.mark.parametrize("name", FAMILIES)
def test_padding_changes_neither_value_nor_gradient(name, dtype, jit_compile):
    loss, mixture = loss_of(name, dtype=dtype), mixtures(5)
    full = THRESHOLD + np.random.default_rng(3).exponential(size=(5, 2))
    padded = np.full((5, 6), -np.inf)
    padded[:, [1, 4]] = full
    padded[:, 2] = THRESHOLD - 1e-3
    value, gradient = value_and_gradients(loss, full, mixture, jit_compile)
    again, again_gradient = value_and_gradients(loss, padded, mixture, jit_compile)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    assert np.all(np.isfinite(again_gradient)) and np.any(again_gradient != 0)
    np.testing.assert_allclose(again, value, rtol=tolerance)
    np.testing.assert_allclose(again_gradient, gradient, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", FAMILIES)
def test_cells_without_points_have_finite_gradients(name):
    """Also where the components are out of all proportion to the threshold."""
    grids = np.meshgrid([-80.0, 0.0], [-200.0, 1.0, 200.0], [1e-3, 1.0, 5.0])
    mixture = np.stack([np.ravel(g) for g in grids], axis=-1)[..., None]
    loss = loss_of(name, dtype="float32")
    value, gradient = value_and_gradients(loss, np.full((18, 1), -np.inf), mixture, False)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_a_mark_that_is_nan_shows():
    marks = points(4)
    marks[2, 0] = np.nan
    assert np.isnan(loss_of()(marks, mixtures(4)))


def test_sample_weights_leave_cells_out():
    mixture, marks = mixtures(4), points(4)
    weights = np.array([1.0, 0.0, 2.0, 0.0])
    cells = loss_of(reduction=None)(marks, mixture)
    value = loss_of()(marks, mixture, sample_weight=weights)
    np.testing.assert_allclose(value, np.sum(weights * cells), rtol=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_against_differences(name):
    loss, marks, mixture = loss_of(name, cell_volume=0.7), points(6), mixtures(6)
    _, gradient = value_and_gradients(loss, marks, mixture, False)
    direction = np.random.default_rng(5).normal(size=mixture.shape)
    ends = [loss(marks, mixture + s * 1e-6 * direction) for s in (1, -1)]
    np.testing.assert_allclose(np.sum(gradient * direction), (ends[0] - ends[1]) / 2e-6, rtol=1e-7)


@pytest.mark.parametrize("name", FAMILIES)
def test_configuration_round_trip(name):
    loss = loss_of(name, cell_volume=3.0, reduction="sum_over_batch_size", name="mine")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
    assert (again.dtype, again.family) == ("float64", loss.family)
    np.testing.assert_array_equal(again(points(4), mixtures(4)), loss(points(4), mixtures(4)))
    code = PoissonProcessLoss.__init__.__code__
    assert set(code.co_varnames[1 : code.co_argcount]) == set(loss.get_config())


class Network(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.head = head()

    def call(self, inputs):
        return self.head(inputs)


def head():
    return MixtureDensity(
        1,
        THRESHOLD,
        initial_amplitude=1.0,
        mean_bias_initializer="ones",
        kernel_initializer="zeros",
        family="tapered_pareto",
        output_format="stacked",
        name="head",
    )


def functional():
    inputs = keras.Input((None, 1))
    return keras.Model(inputs, head()(inputs))


MODELS = {
    "sequential": lambda: keras.Sequential([keras.Input((None, 1)), head()]),
    "functional": functional,
    "subclassed": Network,
}


def simulated(num_cells=1500, volume=2.0):
    """Points of a tapered Pareto whose abundance grows with a feature of the cell."""
    rng = np.random.default_rng(11)
    feature = rng.uniform(-1, 1, num_cells)
    truth = {"amplitude": np.log1p(np.exp(1.0 + 1.5 * feature)), "mean": 2.0, "scale": 1.3}
    cells = np.repeat(np.arange(num_cells), rng.poisson(volume * truth["amplitude"]))
    pareto = truth["scale"] * rng.exponential(size=len(cells))
    excess = np.exp(truth["mean"]) * rng.exponential(size=len(cells))
    marks = np.minimum(THRESHOLD + pareto, np.log(np.exp(THRESHOLD) + excess))
    by_cell = points_by_cell(cells[:, np.newaxis], marks, (num_cells,))
    return feature[np.newaxis, :, np.newaxis], by_cell[np.newaxis], truth


@pytest.mark.parametrize("kind", MODELS)
def test_fit_recovers_what_made_the_points(kind):
    features, marks, truth = simulated()
    keras.utils.set_random_seed(0)
    model = MODELS[kind]()
    loss = PoissonProcessLoss(2.0, THRESHOLD, family=TaperedParetoComponents())
    model.compile(keras.optimizers.Adam(0.1), loss=loss)
    before = model.evaluate(features, marks, verbose=0)
    steps = tf.data.Dataset.from_tensors((features, marks)).repeat()
    model.fit(steps, steps_per_epoch=100, shuffle=False, verbose=0)
    after = model.evaluate(features, marks, verbose=0)
    assert after < before - 100
    log_amplitude, mean, scale = np.moveaxis(model(features).numpy()[0, :, :, 0], 1, 0)

    # Four standard errors, from 4,100 points: about a fifth of them feel the cut-off
    amplitude = np.exp(log_amplitude)
    count = np.sum(np.isfinite(marks))
    np.testing.assert_allclose(np.mean(amplitude), np.mean(truth["amplitude"]), rtol=4 / count**0.5)
    assert np.corrcoef(amplitude, truth["amplitude"])[0, 1] > 0.995
    np.testing.assert_allclose(np.mean(mean), truth["mean"], atol=0.25)
    np.testing.assert_allclose(np.mean(scale), truth["scale"], atol=0.2)
    # the fit is at least as likely as the truth
    full = np.ones_like(amplitude)
    exact = np.stack([np.log(truth["amplitude"]), truth["mean"] * full, truth["scale"] * full], -1)
    assert after < loss(marks, exact[np.newaxis, :, :, np.newaxis])


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_a_compiled_model_comes_back_with_its_loss(kind, tmp_path):
    model = MODELS[kind]()
    model.compile("sgd", loss=PoissonProcessLoss(2.0, THRESHOLD, family="tapered_pareto"))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.loss.get_config() == model.loss.get_config()
    features, marks, _ = simulated(20)
    np.testing.assert_allclose(
        again.evaluate(features, marks, verbose=0), model.evaluate(features, marks, verbose=0)
    )


def test_points_by_cell_against_a_loop():
    rng = np.random.default_rng(2)
    cells, marks = rng.integers(0, (4, 3, 2), (30, 3)), rng.normal(size=30)
    found = points_by_cell(cells, marks, (4, 3, 2))
    lists = {cell: [] for cell in np.ndindex(4, 3, 2)}
    for cell, mark in zip(cells, marks, strict=True):
        lists[tuple(cell)].append(mark)
    most = max(map(len, lists.values()))
    assert found.shape == (4, 3, 2, most)
    for cell, expected in lists.items():
        np.testing.assert_array_equal(found[cell], expected + [-np.inf] * (most - len(expected)))


def test_points_by_cell_without_points_and_dtypes():
    empty = points_by_cell(np.zeros((0, 2), int), [], (3, 2))
    np.testing.assert_array_equal(empty, np.full((3, 2, 1), -np.inf))
    assert points_by_cell([[0]], np.float32([1]), (2,)).dtype == np.float32
    assert points_by_cell(np.uint8([[0]]), [1], [2]).dtype == np.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0, 0]], [1.0], ()), "`shape`. Expected a tuple of strictly positive integers"),
        (([[0, 0]], [1.0], 4), "`shape`. Expected a tuple of strictly positive integers"),
        (([[0, 0]], [1.0], (4, 0)), "`shape`. Expected a strictly positive integer. .*shape=0"),
        (([0, 0], [1.0], (4, 4)), r"`cells`. Expected integers of shape \[H, 2\]. .*shape \(2,\)"),
        (([[0.0, 0.0]], [1.0], (4, 4)), "`cells`. Expected integers .* Received: cells='float64"),
        (([[0]], [1.0], (4, 4)), r"`cells`. Expected .* Received: cells='int64 of shape \(1, 1\)"),
        (
            ([[0, 0]], [1.0, 2.0], (4, 4)),
            r"`marks`. Expected numbers of shape \(1,\).*shape \(2,\)",
        ),
        (([[0, 0]], ["a"], (4, 4)), "`marks`. Expected numbers .* Received: marks='<U1"),
        (([[0, 0]], [np.inf], (4, 4)), "`marks`. Expected finite numbers. Received: marks=inf"),
        (([[0, 4]], [1.0], (4, 4)), r"`cells`. Expected cells of a mesh .*cells=\(0, 4\)"),
        (([[0, 0], [-1, 0]], [1.0, 2.0], (4, 4)), r"`cells`. Expected .* none negative.*\(-1, 0\)"),
    ],
)
def test_invalid_points(arguments, message):
    with pytest.raises(ValueError, match=f"Invalid value for argument {message}"):
        points_by_cell(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cell_volume": 0.0}, "argument `cell_volume`. Expected a strictly positive finite"),
        ({"cell_volume": "1"}, "argument `cell_volume`. Expected .* Received: cell_volume='1'"),
        ({"log_mass_threshold": -np.inf}, "argument `log_mass_threshold`. Expected a finite num"),
        ({"family": "gamma"}, "argument `family`. Expected one of .* Received: family='gamma'"),
        ({"parameterisation": "lin"}, "argument `parameterisation`. Expected one of"),
        (
            {"family": "tapered_pareto", "parameterisation": "mass"},
            "argument `parameterisation`. Expected 'log_mass' for the family 'tapered_pareto'",
        ),
        ({"reduction": "total"}, "reduction"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PoissonProcessLoss(**arguments)


@pytest.mark.parametrize(
    ("marks", "mixture", "message"),
    [
        ((4, 1), (4, 2), r"`y_pred`. Expected the shape \[..., 3, T\].*shape \(4, 2\)"),
        ((4, 1), (2,), r"`y_pred`. Expected the shape \[..., 3, T\]"),
        ((4,), (4, 3, 2), r"`y_true`. Expected marks of shape \(4, 'K'\). .*shape \(4,\)"),
        ((4, 1, 1), (4, 3, 2), r"`y_true`. Expected marks of shape \(4, 'K'\)"),
        ((1, 5), (4, 3, 2), r"`y_true`. Expected marks of shape \(4, 'K'\)"),
    ],
)
def test_shapes_that_do_not_fit(marks, mixture, message):
    with pytest.raises(ValueError, match=f"Invalid value for argument {message}"):
        loss_of()(np.ones(marks), np.ones(mixture))
