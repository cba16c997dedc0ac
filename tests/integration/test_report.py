"""The report: self-contained, true to the run, and working in a browser."""

from __future__ import annotations

import csv
import gzip
import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rdkit import Chem

from scidiff.molecules import generate, report, write_report
from scidiff.molecules.certified import Generation
from scidiff.molecules.drawing import PLOT_HEIGHT, PLOT_WIDTH, draw_molecule, plot
from scidiff.molecules.histograms import Histogram, histogram
from scidiff.molecules.where import parse

SAMPLE = Path(__file__).parents[2] / "datasets" / "moses" / "sample.csv.gz"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@dataclass(frozen=True, kw_only=True)
class Row:
    index: int
    smiles: str


class Sample:
    def stream(self, *, seed: int, start: int, steps: int | None, batch_size: int) -> Iterator[Row]:
        with gzip.open(SAMPLE, "rt") as stream:
            for index, row in enumerate(csv.DictReader(stream)):
                yield Row(index=index, smiles=row["smiles"])


@pytest.fixture(scope="module")
def run() -> Generation:
    return generate(num=70, where=["qed >= 0.8", "rings in {2, 3}"], source=Sample())


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def test_the_page_needs_nothing_but_itself(run: Generation) -> None:
    page = report.render(run)
    # The name spaces of SVG are identifiers, not addresses.
    addresses = set(re.findall(r"(?:https?:)?//[a-z][\w.-]+\.\w+[^\s'\"<]*", page)) - {"http://www.w3.org/2000/svg"}
    assert not addresses
    assert not re.findall(r"<(?:link|img|iframe|object|embed)\b|\bsrc=|@import|url\(|\bfetch\(|XMLHttpRequest", page)


def test_the_page_holds_every_molecule_and_the_account(run: Generation) -> None:
    page = report.render(run)
    data = data_of(page)
    assert [m["smiles"] for m in data["molecules"]] == [m.smiles for m in run.molecules]
    assert [m["index"] for m in data["molecules"]] == [m.index for m in run.molecules]
    names = [p["name"] for p in data["properties"]]
    for shown, molecule in zip(data["molecules"], run.molecules, strict=True):
        assert dict(zip(names, shown["values"], strict=True)) == dict(molecule.values)
        assert shown["violations"] == [0.0, 0.0]
    assert html.escape(run.summary()) in page
    assert f"{run.refused} of {run.drawn} draws" in page
    for reason, count in run.reasons.items():
        row = re.search(re.escape(html.escape(reason)) + r".*?<td>([\d,]+)</td>", page[page.index("Reason</th>") :])
        assert row is not None
        assert int(row.group(1).replace(",", "")) == count


def test_text_from_outside_cannot_leave_its_place(run: Generation) -> None:
    evil = '--where "</script><script>alert(1)</script>" <img src=x>'
    page = report.render(run, command=evil)
    assert html.escape(evil, quote=False) in page.replace("&#34;", '"')
    assert "<script>alert" not in page
    assert page.count("</script>") == 2
    block = page[page.index('id="data">') + len('id="data">') :]
    assert "<" not in block[: block.index("</script>")]


def test_only_the_first_are_drawn_and_the_page_says_so(run: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_DRAWN", 10)
    page = report.render(run)
    assert len(data_of(page)["drawings"]) == 10
    assert "drawn for the first 10 samples; the table holds all 70" in page


def test_a_drawing_shows_every_bond_and_hetero_atom() -> None:
    smiles = "CC(=O)Nc1ccc(O)cc1"
    drawing = draw_molecule(smiles)
    mol = Chem.MolFromSmiles(smiles)
    # Each half of a bond has the colour of its end: at least one stroke a bond, and red and blue for O and N.
    assert drawing.count("<path") >= mol.GetNumBonds()
    assert "#FF0000" in drawing
    assert "#0000FF" in drawing
    # What every line repeats is said once.
    assert "style=" not in drawing
    assert len(drawing) < 10_000


def test_bars_have_heights_in_proportion_and_the_allowed_range_is_marked() -> None:
    ours = histogram("rings", [1, 1, 1, 2, 3, 3])
    other = Histogram(name="rings", counts=(0, 6, 3, 3, *[0] * 8))
    drawn = plot(ours, other, (parse("rings in {1, 3}"),))
    heights = [bar.height for bar in drawn.bars]
    assert heights == pytest.approx([PLOT_HEIGHT, PLOT_HEIGHT / 3, PLOT_HEIGHT * 2 / 3])
    assert all(bar.y + bar.height == pytest.approx(PLOT_HEIGHT) for bar in drawn.bars)
    # min(3/6, 6/12) + min(1/6, 3/12) + min(2/6, 3/12)
    assert drawn.overlap == pytest.approx(0.5 + 1 / 6 + 0.25)
    bars = {round(bar.x): bar.width for bar in drawn.bars}
    for (x, width), k in zip(sorted(drawn.allowed), (0, 2), strict=True):
        assert x == pytest.approx(sorted(bars)[k], abs=1.0)
        assert width == pytest.approx(bars[sorted(bars)[k]] + 1.0)


def test_the_allowed_range_ends_at_the_bound() -> None:
    drawn = plot(histogram("qed", [0.0, 0.999]), None, (parse("qed >= 0.75"),))
    ((x, width),) = drawn.allowed
    assert x == pytest.approx(0.75 * PLOT_WIDTH)
    assert x + width == pytest.approx(PLOT_WIDTH)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_sorting_and_filtering_in_a_browser(run: Generation, tmp_path: Path) -> None:
    write_report(run, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    act = (
        "const type = (id, value, event) => { $(id).value = value; $(id).dispatchEvent(new Event(event)); };"
        "type('sort', 'mw', 'change'); $('direction').click(); type('filter', 'qed >= 0.85, rings == 3, N', 'input');"
    )
    start = page.rindex("</script>")
    (tmp_path / "acted.html").write_text(page[:start] + act + page[start:])
    dom = subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
            *("--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}"),
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
            *("--virtual-time-budget=3000", "--dump-dom", (tmp_path / "acted.html").as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    expected = [
        m
        for m in run.molecules
        if m.values["qed"] >= 0.85 and m.values["rings"] == 3 and ("N" in m.smiles or "N" in m.values["formula"])
    ]
    expected.sort(key=lambda m: (-m.values["mw"], m.index))
    assert 2 < len(expected) < 60
    grid = dom[dom.index('id="grid"') : dom.index("Certificates</h2>")]
    assert [int(n) for n in re.findall(r"<span>sample (\d+)</span>", grid)] == [m.index for m in expected]
    assert grid.count("<svg") == len(expected)
    table = dom[dom.index('id="table"') : dom.index("Refused</h2>")]
    assert [int(n) for n in re.findall(r"<tr><td>(\d+)</td>", table)] == [m.index for m in expected]
    assert f"{len(expected)} of 70" in dom
