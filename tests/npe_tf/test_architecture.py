import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import npe_tf
from npe_tf.bias.architecture import Architecture
from npe_tf.bias.neural import NeuralBias, neural_bias_model, response_scales
from npe_tf.pretraining import random_parameters
from tests.layers.symmetries import lattice_symmetries, turn

THRESHOLD = float(np.log(2e12))
# the smallest of what each choice makes, all kinds of invariants and depths among them
RICH = [
    Architecture(5),
    Architecture(orders=(0, 1), features=2),
    Architecture(orders=(0, 2), invariants="product", num_components=3),
    Architecture(orders=(0, 1, 2), num_layers=2, family="tapered_pareto"),
]


def density(size, seed=0):
    return np.random.default_rng(seed).exponential(size=(1, size, size, size, 1)) - 1.0


def outputs(model, delta):
    """All numbers of all voxels, `[N, N, N, 3 T]`."""
    found = model(tf.constant(delta))
    return np.concatenate([found[key][0] for key in ("log_amplitude", "mean", "scale")], axis=-1)


def stirred(architecture, seed=3):
    """A network in float64 with random weights, its biases too."""
    bias = architecture.bias(THRESHOLD, dtype="float64")
    bias.parameters.assign(bias.model, tf.constant(random_parameters(bias, seed)))
    return bias.model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kernel_size": 5, "num_components": 3, "softening": 0.3},
        {"parameterisation": "mass"},
        {"family": "tapered_pareto", "num_components": 1},
    ],
)
def test_without_directions_it_is_the_papers_network(options):
    """The same weights of the same names, from the same seed, and the same outputs, bit for bit."""
    ours = Architecture(**options).build(THRESHOLD, seed=7)
    papers = neural_bias_model(log_mass_threshold=THRESHOLD, seed=7, **options)
    assert [v.path for v in ours.trainable_variables] == [
        v.path for v in papers.trainable_variables
    ]
    for one, other in zip(ours.get_weights(), papers.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    delta = density(6).astype("float32")
    np.testing.assert_array_equal(outputs(ours, delta), outputs(papers, delta))


def test_the_papers_numbers():
    paper = Architecture()
    assert paper.num_parameters == 17
    assert paper.receptive_radius == 1
    assert set(response_scales(paper.build(THRESHOLD))) == {1.0}


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        # l = 0 and 1 of 3^3 cells: 4 + 3 shells and one bias a filter; 3 T weights of a feature
        # and as many biases
        (Architecture(orders=(0, 1), features=2), 2 * (4 + 3 + 1) + 6 * 4 + 6),
        # the second layer's 4 + 3 + 3 shells for each of three scalars
        (Architecture(orders=(0, 1, 2), num_layers=2), 11 + 31 + 6 * 3 + 6),
        # a second set of maps of l = 2
        (Architecture(orders=(0, 2), invariants="product"), 4 + 3 + 1 + 3 + 6 * 2 + 6),
        # squared distances 0, 1, 2, 3, 4, 5, 6, 8, 9, 12
        (Architecture(5, num_components=1), 10 + 1 + 3 + 3),
    ],
)
def test_number_of_parameters(architecture, expected):
    assert architecture.num_parameters == expected


@pytest.mark.parametrize("architecture", RICH, ids=lambda a: a.label)
def test_mass_functions_turn_with_the_box(architecture):
    """Exactly, under all symmetries of the cube."""
    model, delta = stirred(architecture), density(5)
    whole = outputs(model, delta)
    assert np.ptp(whole[..., 0]) > 0.01
    turned = np.concatenate([turn(delta, matrix) for matrix in lattice_symmetries(3)])
    found = model(tf.constant(turned))
    found = np.concatenate([found[key] for key in ("log_amplitude", "mean", "scale")], axis=-1)
    assert len(found) == 48
    for matrix, values in zip(lattice_symmetries(3), found, strict=True):
        expected = turn(whole[np.newaxis], matrix)[0]
        np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("architecture", RICH, ids=lambda a: a.label)
def test_a_voxel_is_seen_as_far_as_the_receptive_radius(architecture):
    radius = architecture.receptive_radius
    size = 2 * radius + 5
    model, delta = stirred(architecture), density(size)
    other = delta.copy()
    centre = size // 2
    other[0, centre, centre, centre, 0] += 0.5
    changed = np.any(np.abs(outputs(model, other) - outputs(model, delta)) > 1e-10, axis=-1)
    places = np.argwhere(changed) - centre
    assert np.abs(places).max() == radius
    assert changed.sum() == (2 * radius + 1) ** 3


def test_valid_padding_leaves_out_what_sees_a_face():
    architecture = Architecture(orders=(0, 1), num_layers=2)
    valid = architecture.build(THRESHOLD, padding="valid", dtype="float64", seed=1)
    periodic = architecture.build(THRESHOLD, dtype="float64", seed=1)
    delta = density(7)
    inside = slice(2, -2)
    np.testing.assert_allclose(
        outputs(valid, delta), outputs(periodic, delta)[inside, inside, inside], rtol=1e-12
    )


@pytest.mark.parametrize("architecture", [Architecture(), *RICH], ids=lambda a: a.label)
def test_json(architecture):
    text = architecture.to_json()
    assert Architecture.from_json(text) == architecture
    assert json.loads(text)["kernel_size"] == architecture.kernel_size
    assert hash(architecture) == hash(Architecture.from_json(text))


def test_what_is_not_in_the_json_is_the_papers():
    assert Architecture.from_json('{"orders": [0, 2]}') == Architecture(orders=(0, 2))
    for text in ("[]", "{", '{"colour": "red"}', "3"):
        with pytest.raises(ValueError, match="argument `text`"):
            Architecture.from_json(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kernel_size", 4),
        ("kernel_size", 9),
        ("kernel_size", 3.0),
        ("orders", (1,)),
        ("orders", (1, 0)),
        ("orders", (0, 3)),
        ("orders", (0, True)),
        ("orders", 0),
        ("num_layers", 0),
        ("num_layers", 4),
        ("features", 0),
        ("features", True),
        ("invariants", "product"),
        ("invariants", "sum"),
        ("num_components", 5),
        ("parameterisation", "mas"),
        ("family", "cauchy"),
        ("softening", 0.0),
        ("softening", "much"),
    ],
)
def test_bad_values_are_named(name, value):
    with pytest.raises(ValueError, match=f"argument `{name}`"):
        Architecture(**{name: value})


def test_a_tapered_pareto_is_per_log_mass():
    with pytest.raises(ValueError, match="argument `parameterisation`"):
        Architecture(family="tapered_pareto", parameterisation="mass")


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Architecture().kernel_size = 5


def test_saved_and_loaded(tmp_path):
    model = Architecture(orders=(0, 1), features=2, invariants="product").build(THRESHOLD, seed=2)
    model.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    delta = density(5).astype("float32")
    np.testing.assert_array_equal(outputs(loaded, delta), outputs(model, delta))


def test_starts_of_large_kernels_respond_as_the_papers():
    """The response to a constant input has the same spread whatever the extent."""
    spreads = []
    for size in (3, 5, 7):
        bias = Architecture(size).bias(THRESHOLD)
        engine = bias.model.get_layer("neural_physical_engine")
        values = []
        for seed in range(300):
            theta = random_parameters(bias, seed)
            weights = theta[: engine.num_weights]
            values.append(engine.basis[0].kernel(weights).sum())
        spreads.append(np.std(values))
    np.testing.assert_allclose(spreads, spreads[0], rtol=0.15)


def test_the_recommended_model():
    bias = npe_tf.bias.recommended(2e12, dtype="float64", seed=3)
    assert isinstance(bias, NeuralBias)
    assert bias.dtype == "float64"
    assert bias.log_mass_threshold == pytest.approx(THRESHOLD)
    network = npe_tf.bias.RECOMMENDED.build(THRESHOLD, dtype="float64", seed=3)
    delta = density(5)
    np.testing.assert_array_equal(outputs(bias.model, delta), outputs(network, delta))
    for threshold in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="argument `mass_threshold`"):
            npe_tf.bias.recommended(threshold)
    with pytest.raises(AttributeError, match="astrology"):
        _ = npe_tf.bias.astrology
