"""The report of conformers: self-contained, true to the run, and turned by hand in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from scidiff.molecules.three_d.conformers import Conformer, ConformerRun, Ensemble
from scidiff.molecules.three_d.graphs import graph_of
from scidiff.molecules.three_d.measures import relaxed
from scidiff.molecules.three_d.records import Record, Refused
from scidiff.molecules.three_d.report import STRAIN, render, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def run() -> ConformerRun:
    found = ConformerRun(requested=2, seed=3, steps=10)
    for number, smiles in enumerate(("C[C@H](O)CN", "c1ccoc1", "CC#N"), 1):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        AllChem.EmbedMultipleConfs(mol, 2, randomSeed=1)
        drawn = [Conformer(draw=k, position=c.GetPositions()) for k, c in enumerate(mol.GetConformers())]
        record = Record(number=number, name=f"mine {number}", mol=mol, graph=graph_of(mol))
        found.ensembles.append(Ensemble(record=record, conformers=drawn, drawn=3, reasons=Counter({"atoms clash": 1})))
    found.refused.append(Refused(number=4, name="<b>", text="", reason="not a valid SMILES"))
    return found


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def test_the_page_needs_nothing_but_itself(run: ConformerRun) -> None:
    page = render(run, command='--out "</script>"')
    assert not re.findall(r"(?:https?:)?//[a-z][\w.-]+\.\w+", page)
    assert not re.findall(r"<(?:link|img|iframe|object|embed)\b|\bsrc=|@import|url\(|\bfetch\(|XMLHttpRequest", page)
    assert "<b>" not in page
    assert page.count("</script>") == 2


def test_the_page_holds_every_conformer_and_the_account(run: ConformerRun) -> None:
    page = render(run, values={one.record.number: {"qed": 0.1 * one.record.number} for one in run.ensembles})
    data = data_of(page)
    assert data["values"] == [STRAIN, "qed"]
    pairs = [(one, conformer) for one in run.ensembles for conformer in one.conformers]
    for shown, (one, conformer) in zip(data["conformers"], pairs, strict=True):
        assert (shown["name"], shown["draw"]) == (one.record.name, conformer.draw)
        assert np.allclose(shown["x"], conformer.position - conformer.position.mean(0), atol=6e-4)
        assert shown["elements"] == [atom.GetAtomicNum() for atom in one.record.mol.GetAtoms()]
        assert len(shown["bonds"]) == one.record.mol.GetNumBonds()
        strain = relaxed(one.record.mol, conformer.position)[1]
        assert shown["values"] == pytest.approx([strain, 0.1 * one.record.number], abs=0.01)
    assert run.summary() in page
    assert "<td>atoms clash</td><td>3</td>" in page
    assert "<td>4</td><td>&lt;b&gt;</td><td>not a valid SMILES</td>" in page


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_turning_sorting_and_searching_in_a_browser(run: ConformerRun, tmp_path: Path) -> None:
    write_report(run, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    act = """
    const field = id => document.getElementById(id);
    const set = (id, value) => { field(id).value = value; field(id).dispatchEvent(new Event("input")); };
    set("sort", "0"); set("find", "mine");
    document.getElementById("down").click();
    const first = grid.querySelector("canvas"), card = first.parentElement.card;
    first.setPointerCapture = () => {};
    const at = (type, x, y) => first.dispatchEvent(new PointerEvent(type, {clientX: x, clientY: y, pointerId: 1}));
    at("pointerdown", 10, 10); at("pointermove", 90, 10); at("pointerup", 90, 10);
    first.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowUp"}));
    const pixels = first.getContext("2d").getImageData(0, 0, first.width, first.height).data;
    first.dataset.painted = pixels.filter((v, k) => k % 4 === 3 && v > 0).length;
    """
    start = page.rindex("</script>")
    (tmp_path / "acted.html").write_text(page[:start] + act + page[start:])
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    dom = subprocess.run(
        [*command, f"--user-data-dir={tmp_path / 'profile'}", str(tmp_path / "acted.html")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    shown = data_of(page)["conformers"]
    wanted = sorted(shown, key=lambda one: (-one["values"][0], one["place"]))
    grid = dom[dom.index('id="grid"') :]
    found = re.findall(r"<figcaption[^>]*>(mine \d), draw (\d)", grid)
    assert found == [(one["name"], str(one["draw"])) for one in wanted]
    assert "6 of 6 shown" in dom
    turn, painted = (re.search(rf'data-{name}="([^"]+)"', grid) for name in ("turn", "painted"))
    assert turn is not None
    assert painted is not None
    assert int(painted[1]) > 300
    c, s = np.cos(1.0), np.sin(1.0)  # 80 pixels to the right, then the arrow
    d, e = np.cos(0.2), np.sin(-0.2)
    expected = np.array([[1, 0, 0], [0, d, -e], [0, e, d]]) @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    assert np.allclose([[float(v) for v in row.split(",")] for row in turn[1].split(";")], expected, atol=2e-3)
