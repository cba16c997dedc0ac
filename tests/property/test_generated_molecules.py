"""Whatever is asked of whatever model: every molecule that is delivered sanitises and meets every term.

The model's weights are random, and what judges is the evaluation of `expressions`, written apart from the package.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rdkit import Chem

from scidiff.errors import UserError
from scidiff.molecules import certified, generate, training
from scidiff.molecules.census import Census
from scidiff.molecules.generator import Generator
from scidiff.molecules.language import Expression
from scidiff.molecules.model import FragmentModel
from scidiff.molecules.parsing import parse_all
from scidiff.molecules.parts import holds, parts_of
from scidiff.molecules.scores import SCORED, Scores
from tests.domains.test_enforcement import model
from tests.property.expressions import POOL, expressions, naive

TOKENS = (
    "*C", "*N*", "*O*", "*c1ccc(*)cc1", "[1*]C", "[1*]N", "[1*]O", "[1*]Cl", "[1*]c1ccccc1", "*C[1*]", "*N[1*]",
    "[1*]C=O", "*C(*)[1*]", "*C([1*])=O", "*[N+](*)(*)[1*]", "[1*][O-]", "<ring:1>", "<ring:2>",
)  # fmt: skip
PARTS = ("decorates(*c1ccc(*)cc1)", "decorates(*CC*)", "extends(c1ccccc1)", "extends(CN)", "links(*C, *C=O)",
         "extends(C1CC1)")  # fmt: skip


def able(plain: FragmentModel) -> FragmentModel:
    """With edges, scores and a census, all of them random, so that every method has something to go by."""
    source = torch.Generator().manual_seed(0)
    edges = {"mw": (50.0, 80.0), "logp": (0.0, 1.0), "qed": (0.4,), "tpsa": (30.0,)}
    found = FragmentModel.create(plain.vocabulary, replace(plain.config, edges=edges))
    found.denoiser.load_state_dict({**found.denoiser.state_dict(), **plain.denoiser.state_dict()})
    torch.nn.init.normal_(found.denoiser.network.told[-1].weight, std=0.3, generator=source)
    table = torch.randn(len(TOKENS), len(SCORED), generator=source, dtype=torch.float64)
    census = Census(lengths=torch.full((50,), 4), values=80 * torch.rand(50, len(SCORED), generator=source).double())
    scores = Scores(table=table, intercept=table.mean(0), card={})
    return replace(found, scores=scores, census=census)


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[Generator]:
    generator = Generator(model=able(model(TOKENS, (0, 0, 2, 3, 3, 3, 2))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "training_molecules", lambda: frozenset({Chem.CanonSmiles(POOL[0])}))
        patch.setattr(certified, "load", lambda *_: generator)
        yield generator


@settings(max_examples=25, deadline=None)
@given(expressions, st.sampled_from(certified.METHODS), st.integers(0, 2))
def test_every_molecule_meets_every_term(expression: Expression, method: str, seed: int) -> None:
    assume(str(expression).count("formula") < 2)  # alternatives between formulas are enforced too, but slowly
    try:
        run = generate(num=5, where=[str(expression)], seed=seed, method=method, max_draws=512, properties=())
    except UserError as error:  # what no molecule of this model meets, or what contradicts itself
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        return
    assert len(run.molecules) + run.refused == run.drawn <= 512
    for one in run.molecules:
        mol = Chem.MolFromSmiles(one.smiles)
        assert mol is not None
        assert naive(expression, mol), (one.smiles, str(expression))


@pytest.mark.parametrize("text", PARTS)
def test_no_draw_is_without_its_part(small: Generator, text: str) -> None:
    (term,) = parse_all([text])
    for one in small.given((term,)).tile(0, seed=1):
        mol = Chem.MolFromSmiles(one.smiles)
        assert mol is not None
        assert holds(mol, term.name, term.argument), (one.smiles, text)  # type: ignore[attr-defined]
        assert all(mol.HasSubstructMatch(part.core) for part in parts_of(term.name, term.argument))  # type: ignore[attr-defined]
