"""The packaged weights of the joint model: molecules whose geometry is mostly theirs."""

from collections import Counter
from itertools import islice

from scidiff.molecules.parsing import parse_all
from scidiff.molecules.three_d.joint.generator import NONE, JointGenerator


def test_most_draws_are_certified_and_none_is_no_molecule():
    generator = JointGenerator.load().given(parse_all(["formula == C3H7NO"]))
    drawn = list(islice(generator.stream(seed=3, start=0, steps=None, batch_size=8), 8))
    reasons = Counter(why for one in drawn for why in one.refused)
    assert reasons[NONE] == 0
    assert sum(not one.refused for one in drawn) >= 4
    assert len({one.smiles for one in drawn}) > 2
    assert len(generator.geometries) == sum(not one.refused for one in drawn)


def test_the_card_says_what_it_was_trained_on():
    card = JointGenerator.load().model.card
    assert card["molecules"] == 99_393
    assert "training split" in card["data"]
