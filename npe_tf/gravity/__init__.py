"""Gravity models: linear density to evolved density."""
