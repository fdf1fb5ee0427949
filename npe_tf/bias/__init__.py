"""Bias models: densities to halo mass functions."""
