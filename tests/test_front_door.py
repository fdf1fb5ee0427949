import subprocess
import sys

import pytest

import npe_tf


def test_every_public_name_is_there():
    for name in npe_tf.__all__:
        assert getattr(npe_tf, name) is getattr(npe_tf, name)
        assert name in dir(npe_tf)


def test_the_siblings_are_the_same_packages():
    import layers
    import samplers

    assert npe_tf.layers is layers
    assert npe_tf.samplers is samplers


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="astrology"):
        _ = npe_tf.astrology


def test_reading_a_catalogue_does_not_start_tensorflow():
    code = (
        "import sys, npe_tf; npe_tf.load_nbody_box(); npe_tf.Grid(8, 1.0); npe_tf.ChainStore; "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
