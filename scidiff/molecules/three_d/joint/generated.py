"""Certified molecules of the joint model with the geometry that each was drawn with."""

from __future__ import annotations

from collections.abc import Mapping

from rdkit import Chem

from scidiff.molecules.certified import Generation
from scidiff.molecules.three_d.conformers import Conformer, ConformerRun, Ensemble
from scidiff.molecules.three_d.graphs import graph_of
from scidiff.molecules.three_d.records import Record
from scidiff.molecules.writers import name_of


def with_own_geometries(generation: Generation, geometries: Mapping[int, Chem.Mol], steps: int) -> ConformerRun:
    """The molecules of a run, each as an ensemble of the one conformer it was drawn with, to be written and shown.

    Args:
        generation: from a `JointGenerator`.
        geometries: its own.
        steps: network calls of a molecule.
    """
    run = ConformerRun(requested=1, seed=generation.seed, steps=steps, seconds=generation.seconds)
    for one in generation.molecules:
        mol = geometries[one.index]
        record = Record(number=one.index, name=name_of(one), mol=mol, graph=graph_of(mol))
        conformer = Conformer(draw=0, position=mol.GetConformer().GetPositions())
        run.ensembles.append(Ensemble(record=record, conformers=[conformer], drawn=1))
    return run
