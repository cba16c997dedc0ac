"""Molecules in 3-D: conformers of given molecules, with their stereochemistry certified."""
