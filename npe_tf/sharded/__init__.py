"""Fields larger than one device: the joint posterior of slabs, each on a device of its own."""
