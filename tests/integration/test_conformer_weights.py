"""The packaged weights of conformers: certified molecules, equivariant to rounding, the same whatever runs beside."""

from pathlib import Path

import pytest
import torch
from rdkit import Chem
from torch import Tensor

from scidiff.molecules.three_d.batches import LEAF, condition_of
from scidiff.molecules.three_d.conformers import conformers
from scidiff.molecules.three_d.draws import Halved, positions
from scidiff.molecules.three_d.model import ConformerModel
from scidiff.molecules.three_d.records import Record, record
from scidiff.state import Layout
from scidiff.testing import assert_equivariant

STEREO = ("C[C@H](O)CN", "C/C=C\\C#N", "O=C1C[C@@H]1F")


@pytest.fixture(scope="module")
def shipped() -> ConformerModel:
    return ConformerModel.load()


def records(model: ConformerModel) -> list[Record]:
    found = [record(Chem.MolFromSmiles(smiles), model.config, k, "") for k, smiles in enumerate(STEREO)]
    return [one for one in found if isinstance(one, Record)]


def test_most_draws_are_certified(shipped):
    run = conformers(records(shipped), num=8, model=shipped, steps=10)
    assert run.certified == 24
    assert run.drawn <= 36


def test_a_seed_gives_the_same_conformers_alone_and_among_others(shipped):
    one = conformers(records(shipped)[1:2], num=2, model=shipped, steps=4, seed=3)
    all_ = conformers(records(shipped), num=2, model=shipped, steps=4, seed=3)
    first, same = one.ensembles[0].conformers, all_.ensembles[1].conformers
    assert [c.position.tobytes() for c in first] == [c.position.tobytes() for c in same]


def test_cores_change_no_bit(shipped):
    before, found = torch.get_num_threads(), []
    try:
        for cores in (1, 2):
            torch.set_num_threads(cores)
            run = conformers(records(shipped), num=2, model=shipped, steps=3, seed=1)
            found.append([c.position.tobytes() for one in run.ensembles for c in one.conformers])
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_wide_products_in_bfloat16_move_atoms_by_hundredths_of_an_angstrom(shipped):
    condition, index = condition_of(records(shipped)[0].graph), torch.arange(1)
    exact, halved = (
        positions(denoiser, shipped.processes, condition, seed=3, index=index)
        for denoiser in (shipped.denoiser, Halved(shipped.denoiser))
    )
    away = (exact - halved).norm(dim=-1)
    assert halved.dtype == torch.float32
    assert 0 < float(away.mean()) < 0.03


@pytest.mark.parametrize("t", [0.02, 0.3, 0.9])
def test_trained_weights_are_equivariant(shipped, t):
    graph = records(shipped)[0].graph
    condition = condition_of(graph)
    n = condition["atom"].shape[1]
    layout = Layout.ragged({LEAF: torch.tensor([n])}, {LEAF: (3,)})

    def clean(x: Tensor, told: dict[str, Tensor]) -> Tensor:
        return shipped.denoiser({LEAF: x}, torch.tensor([t]), layout, told)[LEAF]

    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    turned = {"mirrored": lambda told: told | {"parity": -told["parity"]}, "vectors": True}
    with torch.no_grad():
        assert_equivariant(clean, x - x.mean(0), condition, **turned)


def test_the_card_tells_where_they_come_from(shipped):
    assert shipped.card["molecules"] > 90_000
    assert "QM9" in shipped.card["data"]
    assert sum(x.numel() for x in shipped.denoiser.parameters()) <= 4_000_000
    assert Path(__file__).parents[2].joinpath("scidiff/molecules/three_d/weights/qm9/README.md").exists()
