"""Whole networks by every way that Keras has to build, fit and save them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from layers import (
    MixtureDensity,
    MultipoleConv3D,
    MultipolePower,
    MultipoleProduct,
    PoissonProcessLoss,
    points_by_cell,
)

MESH = (6, 6, 6)
THRESHOLD = 1.0


def paper():
    """One kernel of l = 0 and two components: 17 weights."""
    return [
        MultipoleConv3D(1, 3, padding="periodic", activation="softplus"),
        MixtureDensity(2, THRESHOLD, initial_amplitude=0.5, output_format="stacked"),
    ]


def deep():
    """Two layers of l = 0, 1, 2 with invariants behind each."""
    orders = (0, 1, 2)
    arguments = {"share_orders": True, "padding": "periodic", "activation": "softplus"}
    return [
        MultipoleConv3D((3, 2, 2), 3, orders, **arguments),
        MultipolePower(orders, (3, 2, 2)),
        MultipoleConv3D(2, 3, orders, isotropic=True, **arguments),
        MultipolePower(orders),
        MixtureDensity(2, THRESHOLD, family="tapered_pareto", output_format="stacked"),
    ]


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    """The parts in a list of its own."""

    def __init__(self, parts, **kwargs):
        super().__init__(**kwargs)
        self.parts = parts

    def call(self, inputs):
        for part in self.parts:
            inputs = part(inputs)
        return inputs

    def get_config(self):
        parts = [keras.saving.serialize_keras_object(part) for part in self.parts]
        return {**super().get_config(), "parts": parts}

    @classmethod
    def from_config(cls, config):
        parts = [keras.saving.deserialize_keras_object(part) for part in config.pop("parts")]
        return cls(parts, **config)


def sequential(parts):
    return keras.Sequential([keras.Input((*MESH, 1)), *parts])


def functional(parts):
    inputs = keras.Input((*MESH, 1))
    outputs = inputs
    for part in parts:
        outputs = part(outputs)
    return keras.Model(inputs, outputs)


def subclassed(parts):
    model = Subclassed(parts)
    model.build((None, *MESH, 1))
    return model


NETWORKS = {"paper": (paper, "normal"), "deep": (deep, "tapered_pareto")}
STYLES = {"sequential": sequential, "functional": functional, "subclassed": subclassed}


def data(seed=0):
    rng = np.random.default_rng(seed)
    field = rng.normal(size=(2, *MESH, 1)).astype("float32")
    points = []
    for _ in range(2):
        cells = rng.integers(0, 6, size=(100, 3))
        points.append(points_by_cell(cells, THRESHOLD + rng.exponential(size=100), MESH))
    width = max(p.shape[-1] for p in points)
    padded = [
        np.pad(p, [(0, 0)] * 3 + [(0, width - p.shape[-1])], constant_values=-np.inf)
        for p in points
    ]
    return field, np.stack(padded).astype("float32")


def fitted(network, style, jit_compile=False):
    parts, family = NETWORKS[network]
    model = STYLES[style](parts())
    loss = PoissonProcessLoss(0.5, THRESHOLD, family)
    model.compile(keras.optimizers.Adam(0.02), loss, jit_compile=jit_compile)
    history = model.fit(*data(), epochs=8, batch_size=1, verbose=0)
    return model, history.history["loss"]


@pytest.mark.parametrize(
    ("network", "style"),
    [
        ("paper", "sequential"),
        ("paper", "functional"),
        ("paper", "subclassed"),
        ("deep", "subclassed"),
    ],
)
def test_fit_save_and_export(network, style, tmp_path):
    model, losses = fitted(network, style)
    assert np.all(np.isfinite(losses)) and losses[-1] < losses[0]
    field, points = data()
    expected = model.predict(field, verbose=0)

    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(field, verbose=0), expected, rtol=1e-5, atol=1e-5)
    assert again.loss.get_config() == model.loss.get_config()
    np.testing.assert_allclose(
        again.evaluate(field, points, verbose=0), model.evaluate(field, points, verbose=0), 1e-5
    )
    again.fit(field, points, epochs=1, verbose=0)

    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    served = exported.serve(field)
    np.testing.assert_allclose(served, expected, rtol=1e-5, atol=1e-5)
    tf.saved_model.save(model, tmp_path / "saved")
    loaded = tf.saved_model.load(tmp_path / "saved")
    outputs = loaded.signatures["serving_default"](tf.constant(field))
    np.testing.assert_allclose(next(iter(outputs.values())), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_fit_compiled_by_xla(network):
    _, losses = fitted(network, "functional", jit_compile=True)
    assert np.all(np.isfinite(losses)) and losses[-1] < losses[0]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
@pytest.mark.parametrize("network", ["paper", pytest.param("deep", marks=pytest.mark.slow)])
def test_fit_in_other_precisions(network, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model, losses = fitted(network, "functional")
    finally:
        keras.config.set_dtype_policy(before)
    assert np.all(np.isfinite(losses)) and losses[-1] < losses[0]
    assert all(np.all(np.isfinite(weights)) for weights in model.get_weights())
    assert {weight.dtype for weight in model.weights} == (
        {"float64"} if policy == "float64" else {"float32"}
    )


def test_the_papers_network_has_17_weights():
    assert sequential(paper()).count_params() == 17


def test_products_of_two_branches():
    inputs = keras.Input((*MESH, 1))
    near = MultipoleConv3D(2, 3, (1, 2), share_orders=True, padding="periodic")(inputs)
    far = MultipoleConv3D(2, 5, (1, 2), share_orders=True, padding="periodic")(inputs)
    scalars = MultipoleProduct((1, 2), pairs="all")([near, far])
    model = keras.Model(inputs, keras.layers.Dense(1)(scalars))
    assert scalars.shape == (None, *MESH, 8)
    model.compile("adam", "mse")
    field, _ = data()
    assert np.isfinite(model.fit(field, field, epochs=2, verbose=0).history["loss"]).all()
