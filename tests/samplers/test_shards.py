"""A state that is spread over the replicas of a strategy moves as one."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest

# Logical devices must be made before TensorFlow starts, so in a process of its own.
SCRIPT = """
import json

import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import tensorflow_probability as tfp
from samplers import LimitedMemoryInverseHessian, QuasiNewtonAdaptation, QuasiNewtonHMC

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
scales = np.array([[0.4, 1.0, 2.0], [0.3, 0.5, 4.0]])
chains, draws = 16, {draws}


def target(x):
    # the log density of the whole on every replica, the gradient that of the replica's share
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    z = x / tf.gather(tf.constant(scales), replica)
    own = -0.5 * tf.reduce_sum(z**2 + 0.1 * z**4, -1)

    @tf.custom_gradient
    def everywhere(value):
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, value), lambda upstream: upstream

    return everywhere(own)


kernel = QuasiNewtonAdaptation(
    QuasiNewtonHMC(
        target,
        0.3,
        6,
        LimitedMemoryInverseHessian(6),
        experimental_shard_axis_names="shard",
    ),
    150,
)


@tf.function
def start():
    return strategy.run(lambda: kernel.bootstrap_results(tf.zeros([chains, 3], tf.float64) + 0.01))


@tf.function
def step(x, results, seed):
    return strategy.run(kernel.one_step, (x, results, seed))


x = strategy.run(lambda: tf.zeros([chains, 3], tf.float64) + 0.01)
results, kept = start(), []
for number in range(200 + draws):
    x, results = step(x, results, tf.constant([1, number]))
    if number >= 200:
        inner = results.inner_results
        kept.append([tf.nest.map_structure(lambda v: [r.numpy() for r in v.values], value)
                     for value in (x, inner.is_accepted, inner.accepted_results.target_log_prob)])
states, accepted, log_prob = (
    [np.stack([k[which][replica] for k in kept]) for replica in range(2)] for which in range(3)
)
print(json.dumps({{
    "same_acceptance": bool(np.array_equal(*accepted)),
    "same_log_prob": bool(np.array_equal(*log_prob)),
    "acceptance": float(np.mean(accepted[0])),
    "std": [s.std((0, 1)).tolist() for s in states],
    "correlation": float(np.corrcoef(states[0][..., 0].ravel(), states[1][..., 0].ravel())[0, 1]),
}}))
"""


def run(draws: int = 350) -> dict[str, Any]:
    code = textwrap.dedent(SCRIPT).format(draws=draws)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_a_distributed_state_is_sampled() -> None:
    found = run()
    assert found["same_acceptance"] and found["same_log_prob"]
    assert 0.5 < found["acceptance"] < 1.0
    # standard deviation of exp(-z^2/2 - z^4/20), by quadrature
    width = 0.85092
    for got, scale in zip(found["std"], ([0.4, 1.0, 2.0], [0.3, 0.5, 4.0]), strict=True):
        for value, expected in zip(got, scale, strict=True):
            assert abs(value / (width * expected) - 1.0) < 0.06
    assert abs(found["correlation"]) < 0.05
