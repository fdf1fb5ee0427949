"""A small chain file of draws from the prior about a mock catalogue, in either mode of psi."""

import numpy as np

from npe_tf.chain_store import ChainStore, Column
from npe_tf.posterior import PosteriorConfig
from tests.npe_tf.mock import MASS_THRESHOLD, draw_catalogue

CHAINS, SWEEPS, WARMUP, EVERY = 3, 8, 4, 2


def write_run(
    folder,
    num_cells=8,
    padding="periodic",
    with_truth=True,
    initial_theta=None,
    num_warmup=WARMUP,
    for_summary=False,
):
    """Write `folder`/chain.h5; chain 0 and 2 rise with the density, chain 1 falls with it.

    With `for_summary` the file also has what `npe_tf.summary` reads of a run of the joint scheme.

    Returns:
        The catalogue and the rows that were written, by column.
    """
    catalogue, white_noise, theta = draw_catalogue(num_cells)
    config = PosteriorConfig(num_cells, MASS_THRESHOLD, dtype="float64", padding=padding)
    posterior = config.build(catalogue)
    rng = np.random.default_rng(3)
    thetas = theta + 0.05 * rng.standard_normal((SWEEPS, CHAINS, theta.size))
    thetas[:, 1, :4] *= -1
    rows = {
        "theta": thetas,
        "log_posterior": rng.standard_normal((SWEEPS, CHAINS)),
        "power": rng.uniform(1.0, 2.0, (SWEEPS, CHAINS, num_cells // 2)),
        "white_noise": rng.standard_normal((SWEEPS, CHAINS, *posterior.grid.shape)),
    }
    state = {}
    if for_summary:
        rows |= {
            "acceptance": np.ones((SWEEPS, CHAINS, 2)),
            "step_size": rng.uniform(0.1, 0.2, (SWEEPS, CHAINS, 2)),
            "energy_error": rng.uniform(1e-6, 1e-5, (SWEEPS, CHAINS)),
            "wall_seconds": rng.uniform(1.0, 2.0, SWEEPS),
            "cpu_seconds": rng.uniform(2.0, 4.0, SWEEPS),
            "energy_joules": np.full(SWEEPS, np.nan),
        }
        state = {f"{chain}/moments/count": np.array(4) for chain in range(CHAINS)}
        for chain in range(CHAINS):
            for name in ("initial_mean", "initial_m2", "final_mean", "final_m2"):
                field = rng.uniform(0.1, 1.0, posterior.grid.shape)
                state[f"{chain}/moments/{name}"] = field
    columns = {
        name: Column(row.shape[1:], every=EVERY if name == "white_noise" else 1)
        for name, row in rows.items()
    }
    attributes = {
        **config.to_attributes(),
        "num_warmup": num_warmup,
        "num_chains": CHAINS,
        "box_size": catalogue.box_size,
        "parameters": list(posterior.bias.parameters.names),
        "initial_theta": "" if initial_theta is None else initial_theta.tobytes().hex(),
    }
    if for_summary:
        attributes |= {
            "scheme": "joint",
            "gradients_per_sweep": 20,
            "num_haloes": posterior.likelihood.num_haloes,
            "seed": 3,
            "catalogue": "/data/haloes.h5",
            "catalogue_sha256": "0" * 64,
        }
    truth = posterior.initial_field(white_noise).numpy()
    constants = {"true_delta_linear": truth} if with_truth else {}
    path = folder / "chain.h5"
    with ChainStore.create(path, columns, SWEEPS, state, attributes, constants) as store:
        for sweep in range(SWEEPS):
            store.append({name: row[sweep] for name, row in rows.items()}, state)
    return catalogue, rows
