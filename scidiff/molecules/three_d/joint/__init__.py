"""Molecules whose atoms, bonds and coordinates come from one reverse pass."""
