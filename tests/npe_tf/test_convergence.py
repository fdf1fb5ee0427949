"""The verdict on a run, and runs that stop at it."""

import numpy as np
import pytest

from npe_tf import inference
from npe_tf.chain_store import CHAIN_FILE, ChainStore, Column
from npe_tf.convergence import Limits, convergence_of, measure_convergence, watched_names
from npe_tf.inference import Settings, run_inference
from npe_tf.posterior import PosteriorConfig
from tests.npe_tf.mock import MASS_THRESHOLD, draw_catalogue


def samples(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(800, 4, 2)), rng.normal(size=(800, 4)), rng.normal(size=(800, 4, 3))


def test_independent_draws_have_converged():
    found = measure_convergence(*samples(), ["a", "b"])
    assert found.reaches(Limits())
    names = [row.name for row in found.watched]
    assert names == ["a", "b", "log posterior", *(f"P(k) shell {i}" for i in range(3))]


@pytest.mark.parametrize(
    ("spoil", "worst"),
    [
        (lambda theta, log, power: theta[:, 0, 1].__iadd__(3.0), "b"),
        (lambda theta, log, power: log.__iadd__(np.linspace(0, 9, 800)[:, None]), "log posterior"),
        (lambda theta, log, power: power[:, 2, 1].__imul__(5.0), "P(k) shell 1"),
        (lambda theta, log, power: power[..., 2].fill(1.0), "P(k) shell 2"),
    ],
    ids=["a chain apart", "a drift", "a chain of another width", "no motion"],
)
def test_one_quantity_is_enough_to_spoil_it(spoil, worst):
    theta, log, power = samples()
    spoil(theta, log, power)
    found = measure_convergence(theta, log, power, ["a", "b"])
    assert not found.reaches(Limits())
    assert found.worst_rhat.name == worst


def test_further_quantities_count_as_much():
    rng = np.random.default_rng(1)
    further = {
        "modes": (rng.normal(size=(800, 4, 2)), ["re", "im"]),
        "mass_function": (rng.normal(size=(800, 4, 2, 2)), ["00", "01", "10", "11"]),
    }
    found = measure_convergence(*samples(), ["a", "b"], further)
    assert found.reaches(Limits())
    assert [row.name for row in found.watched[6:]] == ["re", "im", "00", "01", "10", "11"]
    kinds = {kind: [row.name for row in rows] for kind, rows in found.by_kind.items()}
    assert list(kinds) == ["parameters", "log posterior", "P(k)", "modes", "mass function"]
    assert kinds["P(k)"] == [f"P(k) shell {i}" for i in range(3)]
    assert kinds["mass function"] == ["00", "01", "10", "11"]
    further["mass_function"][0][:, 3, 1, 0] += 2.0
    found = measure_convergence(*samples(), ["a", "b"], further)
    assert not found.reaches(Limits())
    assert found.worst_rhat.name == "10"
    assert found.worst_ess.name == "10"


def test_further_quantities_need_their_names():
    further = {"modes": (np.zeros((800, 4, 3)), ["re", "im"])}
    with pytest.raises(ValueError, match="D=2"):
        measure_convergence(*samples(), ["a", "b"], further)


@pytest.fixture
def chain(tmp_path):
    """A function that writes a chain of independent draws, one mode excepted if asked to."""

    def write(drift, marked=True, num_warmup=30):
        shapes = {"theta": (2, 2), "log_posterior": (2,), "power": (2, 3), "modes": (2, 2)}
        attributes = {"parameters": ["a", "b"], "num_warmup": num_warmup}
        if marked:
            attributes["names.modes"] = ["re", "im"]
        rng = np.random.default_rng(2)
        columns = {name: Column(shape) for name, shape in shapes.items()}
        state = {"nothing": np.zeros(1)}
        path = tmp_path / CHAIN_FILE
        with ChainStore.create(path, columns, 1000, state, attributes) as store:
            for sweep in range(430):
                row = {name: rng.normal(size=shape) for name, shape in shapes.items()}
                row["modes"][1, 1] += drift * sweep / 100
                if sweep < num_warmup:
                    row["theta"] += 100.0  # to be left out
                store.append(row, state)
        return ChainStore.open(path)

    return write


LOOSE = Limits(max_rhat=1.05, min_ess=200)


def test_convergence_of_what_a_file_holds(chain):
    with chain(drift=0.0) as store:
        found = convergence_of(store)
        assert watched_names(store) == {"modes": ["re", "im"]}
        theta = store.read("theta", 30)
    assert found.reaches(LOOSE)
    assert len(found.watched) == 2 + 1 + 3 + 2
    assert found.parameters[1].mean == pytest.approx(theta[..., 1].mean())


@pytest.mark.parametrize("marked", [True, False])
def test_a_mode_that_drifts_keeps_a_run_going(chain, marked):
    settings, said = Settings(num_warmup=30, num_samples=970), []
    with chain(drift=1.0, marked=marked) as store:
        converged = inference._has_converged(store, settings, LOOSE, said.append)
    # where the file does not say what the column is, nobody asks
    assert converged is not marked
    assert ("(im)" in said[0]) is marked
    assert said[0].startswith("not converged after 400" if marked else "CONVERGED after 400")


def test_few_effective_samples_are_not_enough():
    theta, log, power = (x[:50] for x in samples())
    found = measure_convergence(theta, log, power, ["a", "b"])
    assert found.reaches(Limits(max_rhat=1.2, min_ess=50))
    assert not found.reaches(Limits(max_rhat=1.2, min_ess=400))


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        ({"max_rhat": 1.0}, "`max_rhat`.*1.0"),
        ({"max_rhat": np.nan}, "`max_rhat`.*nan"),
        ({"min_ess": 0.0}, "`min_ess`.*0.0"),
        ({"min_ess": np.inf}, "`min_ess`.*inf"),
    ],
)
def test_limits_are_checked(limits, match):
    with pytest.raises(ValueError, match=match):
        Limits(**limits)


@pytest.mark.slow
def test_a_run_stops_when_it_has_converged(tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "CHECK_EVERY", 20)
    catalogue, _, theta = draw_catalogue()
    posterior = PosteriorConfig(8, MASS_THRESHOLD).build(catalogue)
    settings = Settings(
        num_warmup=10,
        num_samples=42,
        num_chains=2,
        field_leapfrog_steps=2,
        bias_leapfrog_steps=2,
        bias_steps=1,
        field_every=2,
    )
    said = []

    def sweeps(limits):
        run_inference(
            posterior, settings, tmp_path, initial_theta=theta, limits=limits, say=said.append
        )
        with ChainStore.open(tmp_path / CHAIN_FILE) as store:
            return store.num_committed

    loose = Limits(max_rhat=1e9, min_ess=1e-9)
    assert sweeps(loose) == 40
    assert said[-1].startswith("CONVERGED after 30 samples: worst R-hat")
    # once more: there is nothing to do
    assert sweeps(loose) == 40
    assert sweeps(Limits(max_rhat=1.0001, min_ess=1e6)) == 52
    assert any(line.startswith("not converged after 30 samples") for line in said)
