import keras
import numpy as np
import pytest
import tensorflow as tf

from layers import PeriodicPadding1D, PeriodicPadding2D, PeriodicPadding3D
from layers.padding import crop, embed

LAYERS = {1: PeriodicPadding1D, 2: PeriodicPadding2D, 3: PeriodicPadding3D}
ZEROS = {
    1: keras.layers.ZeroPadding1D,
    2: keras.layers.ZeroPadding2D,
    3: keras.layers.ZeroPadding3D,
}
MESH = (3, 4, 5)

# (axes, what the layer is given, cells before and after)
FORMS = [
    (1, 1, ((1, 1),)),
    (1, 0, ((0, 0),)),
    (1, (2, 0), ((2, 0),)),
    (1, [1, 3], ((1, 3),)),
    (1, (7, 11), ((7, 11),)),
    (2, 1, ((1, 1), (1, 1))),
    (2, (0, 2), ((0, 0), (2, 2))),
    (2, ((1, 0), (0, 3)), ((1, 0), (0, 3))),
    (2, (1, (0, 3)), ((1, 1), (0, 3))),
    (2, ((7, 3), (4, 9)), ((7, 3), (4, 9))),
    (3, 1, ((1, 1), (1, 1), (1, 1))),
    (3, 0, ((0, 0), (0, 0), (0, 0))),
    (3, (0, 1, 2), ((0, 0), (1, 1), (2, 2))),
    (3, ((1, 0), (0, 3), (2, 1)), ((1, 0), (0, 3), (2, 1))),
    (3, [[1, 0], 2, (0, 1)], ((1, 0), (2, 2), (0, 1))),
    # wider than the mesh, which is repeated
    (3, (7, 8, 11), ((7, 7), (8, 8), (11, 11))),
]


@pytest.mark.parametrize(("num_axes", "padding", "pads"), FORMS)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("known", [True, False])
def test_against_numpy(num_axes, padding, pads, data_format, known):
    last = data_format == "channels_last"
    mesh = MESH[:num_axes]
    inputs = np.random.default_rng(0).normal(size=(2, *mesh, 2) if last else (2, 2, *mesh))
    none = (0, 0)
    expected = np.pad(inputs, [none, *pads, none] if last else [none, none, *pads], mode="wrap")
    layer = LAYERS[num_axes](padding, data_format, dtype="float64")
    shape = inputs.shape if known else (None,) * inputs.ndim
    function = tf.function(layer, input_signature=[tf.TensorSpec(shape, tf.float64)])
    outputs = function(inputs).numpy()
    assert outputs.shape == layer.compute_output_shape(inputs.shape)
    np.testing.assert_array_equal(outputs, expected)
    np.testing.assert_array_equal(layer(inputs), expected)
    assert layer.padding == pads


@pytest.mark.parametrize(("num_axes", "padding", "pads"), FORMS)
def test_takes_what_the_padding_of_keras_takes(num_axes, padding, pads):
    shape = (2, *MESH[:num_axes], 1)
    inputs = np.random.default_rng(0).normal(size=shape).astype("float32")
    first = [before for before, _ in pads]
    inside = [slice(k, k + n) for k, n in zip(first, shape[1:-1], strict=True)]
    for layer in (ZEROS[num_axes](padding), LAYERS[num_axes](padding)):
        outputs = layer(inputs).numpy()
        assert outputs.shape == (
            2,
            *(n + sum(k) for n, k in zip(shape[1:-1], pads, strict=True)),
            1,
        )
        np.testing.assert_array_equal(outputs[(slice(None), *inside)], inputs)


def test_the_default_is_one_cell():
    for num_axes, cls in LAYERS.items():
        assert cls().padding == ((1, 1),) * num_axes


def test_the_default_format_is_the_configured_one():
    before = keras.config.image_data_format()
    try:
        keras.config.set_image_data_format("channels_first")
        layer = PeriodicPadding2D()
    finally:
        keras.config.set_image_data_format(before)
    assert layer.compute_output_shape((1, 2, 4, 4)) == (1, 2, 6, 6)
    assert PeriodicPadding2D().data_format == before


def test_unknown_sizes_stay_unknown():
    layer = PeriodicPadding3D((1, 2, (3, 4)))
    assert layer.compute_output_shape((None, 4, None, 5, 1)) == (None, 6, None, 12, 1)
    layer = PeriodicPadding2D((1, 2), "channels_first")
    assert layer.compute_output_shape((None, None, 4, None)) == (None, None, 6, None)


@pytest.mark.parametrize(
    ("num_axes", "padding", "expected"),
    [
        *((1, padding, "a pair of them") for padding in ((1, 2, 3), (1, -2), ((1, 2), 3), ())),
        *((2, padding, "two pairs of them") for padding in ((1, 2, 3), (1,), (1, (2,)), (0.5, 1))),
        *(
            (3, padding, "three pairs of them")
            for padding in (
                *(-1, 1.0, True, "1", None, (1, 2), (1, 2, -3)),
                *(((1, 2, 3), 1, 1), ((1, 0.5), 1, 1)),
            )
        ),
    ],
)
def test_invalid_padding(num_axes, padding, expected):
    message = f"argument `padding`. Expected a non-negative .*{expected} .*Received: padding="
    with pytest.raises(ValueError, match=message):
        LAYERS[num_axes](padding)


@pytest.mark.parametrize("num_axes", LAYERS)
def test_invalid_format_and_inputs(num_axes):
    cls = LAYERS[num_axes]
    with pytest.raises(ValueError, match="`data_format`. Expected one of .* data_format='last'"):
        cls(1, data_format="last")
    shape = (4,) * (num_axes + 1)
    with pytest.raises(ValueError, match=f"`input_shape`. Expected {num_axes + 2} sizes. Rec"):
        cls(1).compute_output_shape(shape)
    with pytest.raises(ValueError, match=f"expected ndim={num_axes + 2}"):
        cls(1)(np.zeros(shape))


@pytest.mark.parametrize("num_axes", LAYERS)
def test_the_gradient_folds_back_what_was_continued(num_axes):
    layer = LAYERS[num_axes](((2, 1),) * num_axes if num_axes > 1 else (2, 1), dtype="float64")
    a = tf.constant(np.random.default_rng(1).normal(size=(1, *MESH[:num_axes], 1)))
    with tf.GradientTape() as tape:
        tape.watch(a)
        padded = layer(a)
        weights = np.random.default_rng(2).normal(size=padded.shape)
        total = tf.reduce_sum(padded * weights)
    folded = np.zeros(a.shape)
    for position in np.ndindex(*weights.shape):
        cell = [(n - 2) % size for n, size in zip(position[1:-1], MESH, strict=False)]
        folded[(0, *cell, 0)] += weights[position]
    np.testing.assert_allclose(tape.gradient(total, a), folded, rtol=1e-13)


PADS = ((1, 2), (0, 1), (2, 0))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
@pytest.mark.parametrize("function", [crop, embed])
def test_crop_and_embed_to_the_third_derivative(function, num_axes, jit_compile):
    pads = PADS[:num_axes]
    x = tf.constant(np.random.default_rng(1).normal(size=(2, *(4, 5, 6)[:num_axes], 1)))
    inside = (slice(None), *(slice(before, -after or None) for before, after in pads))
    kept = np.zeros(x.shape)
    if function is crop:
        kept[inside] = 1.0
        np.testing.assert_array_equal(crop(x, pads), x.numpy()[inside])
    else:
        kept[:] = 1.0
        np.testing.assert_array_equal(embed(x, pads), np.pad(x, [(0, 0), *pads, (0, 0)]))

    @tf.function(jit_compile=jit_compile)
    def third(x):
        with tf.GradientTape() as a:
            a.watch(x)
            with tf.GradientTape() as b:
                b.watch(x)
                with tf.GradientTape() as c:
                    c.watch(x)
                    value = function(x, pads) ** 4
                first = c.gradient(value, x)
            second = b.gradient(first, x)
        return a.gradient(second, x)

    np.testing.assert_allclose(third(x), 24.0 * x * kept, rtol=1e-13)


@pytest.mark.parametrize("function", [crop, embed])
def test_crop_and_embed_of_unknown_sizes(function):
    signature = [tf.TensorSpec([None] * 5, tf.float64)]
    unknown = tf.function(lambda x: function(x, PADS), input_signature=signature)
    x = np.random.default_rng(1).normal(size=(2, 4, 5, 6, 1))
    np.testing.assert_array_equal(unknown(x), function(x, PADS))
