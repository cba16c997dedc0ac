"""Which method a request gets. What fragments decide is enforced by any, so it is properties that choose.

A census of the training molecules says, before anything is drawn, about how many of the model's meet the request.
Where that is enough, or so few are wanted that plain draws find them about as soon as a tile of guided ones is drawn,
draws as they come are cheapest and follow the model without weights. Elsewhere steered draws certify the most a second
(`benchmarks/molecules_constraints.py`), and a second of projected ones is worth as many independent draws by their
weights, without a pilot: they take the requests that are too small for one. Where scores say little of a property (QED)
both certify less than plain draws do, and a model that can be told of it is told, as one without scores is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scidiff.molecules.edges import ends
from scidiff.molecules.enforcement import Enforcement
from scidiff.molecules.language import Expression
from scidiff.molecules.model import FragmentModel
from scidiff.molecules.scores import SCORED

RARE = 0.05
TILE = 512  # plain draws that cost what a tile of guided ones does
PILOT = 200  # molecules from which on a pilot is worth its draws, about


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A method, and why it is chosen.

    Attributes:
        method: `exact`, `steer`, `guide` or `project`.
        why: in words.
        share: about the share of the model's molecules that meet what fragments do not decide; None if nobody knows.
    """

    method: str
    why: str
    share: float | None = None


def choose(
    model: FragmentModel, enforcement: Enforcement | None, terms: Sequence[Expression], *, num: int = PILOT
) -> Choice:
    """The method for a request.

    Args:
        model: its census, what it can be told and its scores decide.
        enforcement: what fragments decide of the terms; None for nothing.
        terms: what must hold together.
        num: how many molecules are wanted.
    """
    left = [term for term in terms if enforcement is None or enforcement.decides(term) != "exact"]
    low, high = ends(SCORED, left)
    asked = low.isfinite() | high.isfinite()
    if not bool(asked.any()):
        return Choice(method="exact", why="no property is asked for that draws could lean towards")
    if model.census is None or not model.census.says(left):
        return Choice(method="exact", why="this model has no census, so that nothing is known before draws are made")
    share = float(model.census.meets(left).double().mean())
    about = f"about {share:.2g} of the training molecules meet the properties asked for"
    if not share:
        about = f"none of {len(model.census.lengths):,} training molecules meets the properties asked for"
    if share >= RARE or num <= TILE * share:
        return Choice(method="exact", why=f"{about}: plain draws are cheaper", share=share)
    told = bool(model.config.edges) and bool(model.edges.told(left).any())
    if told and model.scores is not None and model.scores.say_little(model.census.values.std(0), asked):
        why = f"{about}, fragments say little of one by themselves, and the model can be told of it"
        return Choice(method="guide", why=why, share=share)
    if model.scores is not None and num >= PILOT:
        return Choice(method="steer", why=f"{about}, and {PILOT} molecules or more are worth a pilot", share=share)
    if model.scores is not None:
        why = f"{about}, and fewer than {PILOT} molecules are not worth a pilot"
        return Choice(method="project", why=why, share=share)
    if told:
        return Choice(method="guide", why=f"{about}, and the model can be told of them", share=share)
    return Choice(method="exact", why=f"{about}, but the model has nothing to lean on", share=share)
