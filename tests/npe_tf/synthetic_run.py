"""A small chain file of draws from the prior about a mock catalogue, in either mode of psi."""

import numpy as np

from npe_tf.chain_store import ChainStore, Column
from npe_tf.posterior import PosteriorConfig
from tests.npe_tf.mock import MASS_THRESHOLD, draw_catalogue

CHAINS, SWEEPS, WARMUP, EVERY = 3, 8, 4, 2


def write_run(
    folder, num_cells=8, padding="periodic", with_truth=True, initial_theta=None, num_warmup=WARMUP
):
    """Write `folder`/chain.h5; chain 0 and 2 rise with the density, chain 1 falls with it.

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
    truth = posterior.initial_field(white_noise).numpy()
    constants = {"true_delta_linear": truth} if with_truth else {}
    path = folder / "chain.h5"
    with ChainStore.create(path, columns, SWEEPS, {}, attributes, constants) as store:
        for sweep in range(SWEEPS):
            store.append({name: row[sweep] for name, row in rows.items()}, {})
    return catalogue, rows
