import keras
import numpy as np
import pytest
import tensorflow as tf

from layers import (
    MultipoleConv1D,
    MultipoleConv2D,
    MultipoleConv3D,
    MultipolePower,
    MultipoleProduct,
)
from tests.layers.symmetries import lattice_symmetries, turn

CONVS = {1: MultipoleConv1D, 2: MultipoleConv2D, 3: MultipoleConv3D}

# (mesh, multipoles, filters of each)
CONFIGURATIONS = [
    ((5,), (0, 1), (2, 2)),
    ((4,), (1,), (3,)),
    ((4, 3), (0, 1, 2), (1, 1, 1)),
    ((3, 4), (3, 0), (1, 2)),
    ((3, 2, 4), (0,), (3,)),
    ((3, 2, 4), (0, 1, 2), (2, 2, 2)),
    ((2, 3, 2), (2, 0, 1), (1, 3, 2)),
]
configurations = pytest.mark.parametrize(("mesh", "multipoles", "filters"), CONFIGURATIONS)
formats = pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def number_of_m(num_axes, order):
    if order == 0 or num_axes == 1:
        return 1
    return 2 if num_axes == 2 else 2 * order + 1


def objects(maps, multipoles, filters):
    """What maps `[..., maps]` consist of: (order, filter) to `[..., M]`."""
    found, first = {}, 0
    for order, count in zip(multipoles, filters, strict=True):
        size = number_of_m(maps.ndim - 2, order)
        for f in range(count):
            found[order, f] = maps[..., first : first + size]
            first += size
    assert first == maps.shape[-1]
    return found


def number_of_maps(mesh, multipoles, filters):
    sizes = [number_of_m(len(mesh), order) for order in multipoles]
    return sum(f * size for f, size in zip(filters, sizes, strict=True))


def in_format(values, data_format):
    return values if data_format == "channels_last" else np.moveaxis(values, -1, 1)


class TestPower:
    @formats
    @configurations
    def test_against_loops(self, mesh, multipoles, filters, data_format):
        maps = normal((2, *mesh, number_of_maps(mesh, multipoles, filters)))
        expected = []
        for (order, _), values in objects(maps, multipoles, filters).items():
            expected.append(
                values[..., 0]
                if order == 0
                else sum(values[..., m] ** 2 for m in range(values.shape[-1]))
            )
        expected = in_format(np.stack(expected, axis=-1), data_format)
        choices = [filters, list(filters)]
        if len(set(filters)) == 1:
            choices += [filters[0], None]
        for choice in choices:
            layer = MultipolePower(multipoles, choice, data_format, dtype="float64")
            inputs = in_format(maps, data_format)
            outputs = layer(inputs)
            assert outputs.shape == layer.compute_output_shape(inputs.shape) == expected.shape
            np.testing.assert_allclose(outputs, expected, rtol=1e-14)

    def test_scalars_pass_unchanged(self):
        inputs = normal((1, 3, 3, 3, 2))
        np.testing.assert_array_equal(MultipolePower((0,), dtype="float64")(inputs), inputs)

    @formats
    def test_a_mesh_of_unknown_size(self, data_format):
        layer = MultipolePower((0, 1), 2, data_format, dtype="float64")
        inputs = in_format(normal((2, 3, 4, 5, 8)), data_format)
        shape = [None] * 5
        shape[-1 if data_format == "channels_last" else 1] = 8
        function = tf.function(layer, input_signature=[tf.TensorSpec(shape, tf.float64)])
        np.testing.assert_array_equal(function(inputs), layer(inputs))
        shape[shape.index(8)] = 4
        assert layer.compute_output_shape([8 if n == 4 else n for n in shape]) == tuple(shape)


class TestProduct:
    @formats
    @configurations
    def test_matching_pairs_against_loops(self, mesh, multipoles, filters, data_format):
        shape = (2, *mesh, number_of_maps(mesh, multipoles, filters))
        first, second = normal(shape, 1), normal(shape, 2)
        theirs = objects(second, multipoles, filters)
        expected = [
            sum(a[..., m] * theirs[key][..., m] for m in range(a.shape[-1]))
            for key, a in objects(first, multipoles, filters).items()
        ]
        expected = in_format(np.stack(expected, axis=-1), data_format)
        layer = MultipoleProduct(multipoles, filters, data_format=data_format, dtype="float64")
        inputs = [in_format(first, data_format), in_format(second, data_format)]
        outputs = layer(inputs)
        shapes = [tuple(x.shape) for x in inputs]
        assert outputs.shape == layer.compute_output_shape(shapes) == expected.shape
        np.testing.assert_allclose(outputs, expected, rtol=1e-13, atol=1e-14)

    @formats
    @configurations
    @pytest.mark.parametrize("others", [1, 2])
    def test_all_pairs_against_loops(self, mesh, multipoles, filters, others, data_format):
        if len(set(filters)) > 1:
            known, others = filters, filters
        else:
            # each has one number of filters, which follow from the numbers of maps
            known, others = None, (others,) * len(multipoles)
        first = normal((2, *mesh, number_of_maps(mesh, multipoles, filters)), 1)
        second = normal((2, *mesh, number_of_maps(mesh, multipoles, others)), 2)
        ours, theirs = objects(first, multipoles, filters), objects(second, multipoles, others)
        expected = []
        for order, count, other in zip(multipoles, filters, others, strict=True):
            for f in range(count):
                for g in range(other):
                    a, b = ours[order, f], theirs[order, g]
                    expected.append(sum(a[..., m] * b[..., m] for m in range(a.shape[-1])))
        expected = in_format(np.stack(expected, axis=-1), data_format)
        layer = MultipoleProduct(multipoles, known, "all", data_format, dtype="float64")
        inputs = [in_format(first, data_format), in_format(second, data_format)]
        outputs = layer(inputs)
        shapes = [tuple(x.shape) for x in inputs]
        assert outputs.shape == layer.compute_output_shape(shapes) == expected.shape
        np.testing.assert_allclose(outputs, expected, rtol=1e-13, atol=1e-14)

    def test_with_itself_is_the_power(self):
        maps = normal((2, 3, 3, 3, 16))
        product = MultipoleProduct((1, 2), 2, dtype="float64")([maps, maps])
        np.testing.assert_allclose(product, MultipolePower((1, 2), 2, dtype="float64")(maps))

    @pytest.mark.parametrize("pairs", ["matching", "all"])
    def test_a_mesh_of_unknown_size(self, pairs):
        layer = MultipoleProduct((0, 1), 2, pairs, dtype="float64")
        inputs = [normal((2, 3, 4, 5, 8), seed) for seed in (1, 2)]
        signature = [[tf.TensorSpec([None] * 4 + [8], tf.float64)] * 2]
        function = tf.function(layer, input_signature=signature)
        np.testing.assert_array_equal(function(inputs), layer(inputs))
        products = 4 if pairs == "matching" else 8
        unknown = (None,) * 4
        assert layer.compute_output_shape([(*unknown, 8)] * 2) == (*unknown, products)


def randomised(model):
    model.set_weights([normal(w.shape, seed) for seed, w in enumerate(model.weights, start=3)])
    return model


def deep_network(num_axes, multipoles, share_orders):
    """Two convolutions with scalars in between and in the end, a bias and an activation."""

    def convolution(filters, kernel_size):
        return CONVS[num_axes](
            filters,
            kernel_size,
            multipoles,
            share_orders,
            padding="periodic",
            activation="softplus",
            dtype="float64",
        )

    return keras.Sequential(
        [
            convolution(2, 3),
            MultipolePower(multipoles, 2, dtype="float64"),
            convolution(1, 5 if num_axes < 3 else 3),
            MultipolePower(multipoles, dtype="float64"),
        ]
    )


def errors_of_symmetries(function, mesh):
    """Largest deviation of each symmetry from what it does to scalars, in units of their spread."""
    matrices = lattice_symmetries(mesh.ndim - 2)
    found = function(np.concatenate([turn(mesh, matrix) for matrix in matrices])).numpy()
    once = function(mesh).numpy()
    expected = np.concatenate([turn(once, matrix) for matrix in matrices])
    axes = tuple(range(1, mesh.ndim))
    return np.abs(found - expected).max(axis=axes) / once.std()


class TestInvariance:
    @pytest.mark.parametrize("kernel_size", [3, 5])
    def test_of_the_power(self, kernel_size):
        convolution = MultipoleConv3D(
            (1, 2, 1), kernel_size, (0, 1, 2), True, padding="periodic", dtype="float64"
        )
        model = keras.Sequential(
            [convolution, MultipolePower((0, 1, 2), (1, 2, 1), dtype="float64")]
        )
        mesh = normal((1, 5, 5, 5, 1))
        model(mesh)
        errors = errors_of_symmetries(randomised(model), mesh)
        assert len(errors) == 48
        assert errors.max() < 1e-12

    @pytest.mark.parametrize("pairs", ["matching", "all"])
    @pytest.mark.parametrize("share_orders", [True, False])
    def test_of_products(self, pairs, share_orders):
        inputs = keras.Input((None, None, None, 2), dtype="float64")
        maps = [
            MultipoleConv3D(
                2, size, (1, 2), share_orders, padding="periodic", use_bias=False, dtype="float64"
            )(inputs)
            for size in (3, 5)
        ]
        outputs = MultipoleProduct((1, 2), 2, pairs, dtype="float64")(maps)
        model = randomised(keras.Model(inputs, outputs))
        errors = errors_of_symmetries(model, normal((1, 5, 5, 5, 2)))
        assert (errors.max() < 1e-12) == share_orders
        assert share_orders or errors.max() > 0.1

    @pytest.mark.parametrize(
        ("num_axes", "multipoles", "symmetries"),
        [(1, (0, 1), 2), (2, (0, 1, 2, 3), 8), (3, (0, 1, 2), 48)],
    )
    @pytest.mark.parametrize("share_orders", [True, False])
    def test_of_a_deep_network(self, num_axes, multipoles, symmetries, share_orders):
        model = deep_network(num_axes, multipoles, share_orders)
        mesh = normal((1, *(7 if num_axes < 3 else 5,) * num_axes, 1))
        assert model(mesh).shape == (*mesh.shape[:-1], len(multipoles))
        errors = errors_of_symmetries(randomised(model), mesh)
        assert len(errors) == symmetries
        assert (errors.max() < 1e-11) == share_orders
        assert share_orders or errors.max() > 0.1

    def test_a_network_that_is_trained_stays_invariant(self):
        model = deep_network(2, (0, 1), True)
        mesh = normal((1, 7, 7, 1))
        model(mesh)
        model.compile(keras.optimizers.Adam(0.01), "mse")
        before = [w.copy() for w in model.get_weights()]
        model.fit(normal((8, 7, 7, 1), 1), normal((8, 7, 7, 2), 2), epochs=2, verbose=0)
        assert all(
            np.abs(a - b).max() > 0 for a, b in zip(model.get_weights(), before, strict=True)
        )
        assert errors_of_symmetries(model, mesh).max() < 1e-11


class TestErrors:
    @pytest.mark.parametrize("cls", [MultipolePower, MultipoleProduct])
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"multipoles": (0, 0)}, r"`multipoles`. Expected a tuple of different .*=\(0, 0\)"),
            ({"multipoles": 1}, "`multipoles`. Expected a tuple of .* Received: multipoles=1"),
            ({"multipoles": ()}, "`multipoles`. Expected a tuple of different non-negative"),
            (
                {"filters": 0},
                "`filters`. Expected a strictly positive integer. Received: filters=0",
            ),
            ({"filters": 1.5}, "`filters`. Expected a strictly positive integer"),
            ({"filters": (1, 2, 3)}, "`filters`. Expected .* one for each of 2 multipoles"),
            ({"data_format": "first"}, "`data_format`. Expected one of .*'first'"),
        ],
    )
    def test_invalid_arguments(self, cls, arguments, message):
        with pytest.raises(ValueError, match=f"Invalid value for argument {message}"):
            cls(**{"multipoles": (0, 1), **arguments})

    def test_invalid_pairs(self):
        with pytest.raises(ValueError, match="`pairs`. Expected one of .* Received: pairs='some'"):
            MultipoleProduct((0, 1), pairs="some")

    @pytest.mark.parametrize(
        ("arguments", "shape", "message"),
        [
            (
                {},
                (1, 4, 4, 4, 5),
                r"`inputs`. Expected \[1, 3\] maps for each filter of the orders \(0, 1\) with "
                r"filters=None. Received: 5 maps in inputs.shape=\(1, 4, 4, 4, 5\)",
            ),
            ({"filters": 2}, (1, 4, 4, 4, 4), "`inputs`. Expected .* filters=2. Received: 4 maps"),
            ({"filters": (2, 1)}, (1, 4, 4, 6), r"`inputs`. Expected \[1, 2\] .* Received: 6 maps"),
            ({}, (1, 4, 4, 4, None), "`input_shape`. Expected a known number of maps"),
            ({}, (4, 4), "`input_shape`. Expected a batch, one to three axes, and maps. Received"),
            ({}, (1, 4, 4, 4, 4, 4), "`input_shape`. Expected a batch, one to three axes"),
            ({"multipoles": (0, 2)}, (1, 4, 4), "`multipoles`. Expected a tuple of 0 .even. and 1"),
            (
                {"data_format": "channels_first"},
                (1, 5, 4, 4, 4),
                "`inputs`. Expected .* Received: 5 maps",
            ),
        ],
    )
    def test_invalid_inputs(self, arguments, shape, message):
        layer = MultipolePower(**{"multipoles": (0, 1), **arguments})
        with pytest.raises(ValueError, match=f"Invalid value for argument {message}"):
            layer.compute_output_shape(shape)
        if None not in shape:
            with pytest.raises(ValueError, match=f"Invalid value for argument {message}"):
                layer(np.zeros(shape, "float32"))

    @pytest.mark.parametrize("number", [1, 3])
    def test_products_are_of_two(self, number):
        layer = MultipoleProduct((0, 1))
        inputs = [np.zeros((1, 4, 4, 4, 4), "float32")] * number
        message = "`inputs`. Expected a list of two tensors. Received: "
        with pytest.raises(ValueError, match=message):
            layer(inputs)
        with pytest.raises(ValueError, match=message):
            layer(inputs[0])
        with pytest.raises(ValueError, match=message):
            layer.compute_output_shape([x.shape for x in inputs])

    @pytest.mark.parametrize(
        ("pairs", "shapes", "message"),
        [
            (
                "matching",
                [(1, 4, 4, 4, 4), (1, 4, 4, 4, 8)],
                r"as many filters in both with pairs='matching'. Received: \(1, 1\) and \(2, 2\)",
            ),
            ("all", [(1, 4, 4, 4, 4), (1, 4, 4, 4, 5)], r"\[1, 3\] maps for each filter"),
            (
                "all",
                [(1, 4, 4, 4, 4), (1, 4, 1, 4, 4)],
                "two tensors on one mesh. Received: inputs",
            ),
            ("matching", [(1, 4, 4, 4, 4), (2, 4, 4, 4, 4)], "two tensors on one mesh"),
            ("matching", [(1, 4, 4, 4, 4), (1, 4, 4, 3)], "two tensors on one mesh"),
        ],
    )
    def test_inputs_that_do_not_fit(self, pairs, shapes, message):
        layer = MultipoleProduct((0, 1), pairs=pairs)
        with pytest.raises(ValueError, match=f"argument `inputs`. Expected {message}"):
            layer.compute_output_shape(shapes)
        with pytest.raises(ValueError, match=f"argument `inputs`. Expected {message}"):
            layer([np.zeros(shape, "float32") for shape in shapes])
