"""The posterior of a cut mesh on logical devices, which must be there before TensorFlow starts.

Prints as JSON how far value and gradients are from those of one device, where they are, and what
the graph asks of each device. Run by `test_sharded.py`.
"""

import json
import sys

import tensorflow as tf

from npe_tf.posterior import PosteriorConfig
from npe_tf.sharded.memory import memory_by_device
from npe_tf.sharded.posterior import ShardedPosterior
from tests.npe_tf.test_sharded import compare, haloes, state, value_and_gradient


def main():
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
    )
    request = json.loads(sys.argv[1])
    config = PosteriorConfig(request["num_cells"], 2e12, **request["options"])
    jit_compile = request["jit_compile"]
    catalogue, (white_noise, theta) = haloes(config), state(config)
    expected = value_and_gradient(config, catalogue, white_noise, theta, None, jit_compile)
    found = []
    for count in request["counts"]:
        devices = [f"CPU:{i}" for i in range(count)]
        posterior = ShardedPosterior(config, catalogue, devices, jit_compile=jit_compile)
        slabs = posterior.slabs.scatter(white_noise)
        value, gradient, of_theta = posterior.value_and_gradient(slabs, tf.constant(theta))
        again = posterior.value_and_gradient(slabs, tf.constant(theta))
        operations = posterior.graph_function.graph.get_operations()
        memory = memory_by_device(posterior.graph_function, devices)
        received = [device.received for device in memory]
        found.append(
            {
                "count": count,
                "errors": compare((value, gradient, of_theta), expected),
                "repeats": compare(again, (value, tf.concat(gradient, 0), of_theta)) == [0, 0, 0],
                "homes": [part.backing_device[-5:] for part in [*slabs, *gradient]],
                "unplaced": sorted({op.type for op in operations if not op.device and op.outputs}),
                "peaks": [device.peak for device in memory],
                "received": received,
                "ghosts": posterior.gravity.ghost_planes,
            }
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
