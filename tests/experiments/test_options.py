import io

import pytest
from absl import flags

from experiments import infer  # noqa: F401  (defines the flags)
from experiments.options import ProgressLine
from layers.components import FAMILIES, PARAMETERISATIONS
from npe_tf.bias.counts import COUNTS
from npe_tf.bias.kinds import KINDS
from npe_tf.cosmology import Cosmology


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_a_line_overwrites_the_one_before(monkeypatch):
    clock = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    stream = Terminal()
    line = ProgressLine(stream)
    line("sweep 9")
    line("short")
    line("done", last=True)
    assert stream.getvalue() == "\rsweep 9\rshort  \rdone \n"


def test_text_goes_below_the_line_of_progress(monkeypatch):
    stream = Terminal()
    line = ProgressLine(stream)
    line.say("before")
    line("sweep 1")
    line.say("stopped")
    assert stream.getvalue() == "before\n\rsweep 1\nstopped\n"


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_lines_too_soon_are_left_out_but_never_the_last(monkeypatch, stream):
    monkeypatch.setattr("time.monotonic", lambda: 5.0)
    line = ProgressLine(stream)
    for sweep in range(100):
        line(f"sweep {sweep}")
    line("the last", last=True)
    assert "sweep 0" in stream.getvalue()
    assert "sweep 1" not in stream.getvalue()
    assert "the last" in stream.getvalue()


def test_a_log_gets_whole_lines():
    stream = io.StringIO()
    ProgressLine(stream)("sweep 1")
    assert stream.getvalue() == "sweep 1\n"


def test_quiet_says_nothing():
    stream = Terminal()
    line = ProgressLine(stream, quiet=True)
    line("sweep 1", last=True)
    line.say("text")
    assert stream.getvalue() == ""


def test_flags_offer_what_the_layers_have():
    assert tuple(flags.FLAGS["component_family"].parser.enum_values) == FAMILIES
    assert tuple(flags.FLAGS["parameterisation"].parser.enum_values) == PARAMETERISATIONS
    assert tuple(flags.FLAGS["bias"].parser.enum_values) == KINDS
    assert tuple(flags.FLAGS["counts"].parser.enum_values) == COUNTS


def test_flags_offer_the_parameters_of_the_cosmology():
    for name in ("Omega_m", "sigma8", "w0", "wa", "Omega_k"):
        assert flags.FLAGS[name].default == getattr(Cosmology(), name)
    assert "A_s" not in flags.FLAGS
