"""Tables as users have them: formats, all that can be wrong with them, sizes, and files that cannot be written."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pytest

from scidiff.errors import UserError
from scidiff.timeseries import memory
from scidiff.timeseries.columns import Options
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.grid import irregular, regular
from scidiff.timeseries.imputed import imputed_table
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.readers import read_panel
from scidiff.timeseries.static import with_static
from scidiff.timeseries.stream import stream_panels
from scidiff.timeseries.writers import write_table

LONG = """RecordID,minute,variable,value
1,0,HR,73
1,0,Temp,35.10
1,60,HR,77
2,5,HR,
2,9,Temp,36.6
"""
WIDE = """RecordID;time;ward;HR;Temp
b;2020-03-29T00:30:00+01:00;A1;73;35.10
b;2020-03-29T03:30:00+02:00;A1;;36
a;2020-03-29T00:30:00+01:00;B2;80;
"""


def put(folder: Path, text: str | bytes, name: str = "in.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def problem(path: Path, options: Options | None = None) -> str:
    """The one line that tells what is wrong with a file, without its folder."""
    with pytest.raises(UserError) as caught:
        read_panel(path, options)
    text = str(caught.value)
    assert "\n" not in text
    assert path.name in text
    return text.replace(str(path), path.name)


def same(left: Panel, right: Panel) -> None:
    assert list(left.ids.astype(str)) == list(right.ids.astype(str))
    assert left.variables == right.variables
    np.testing.assert_array_equal(left.time, right.time)
    np.testing.assert_array_equal(left.value, right.value)


def test_long_and_wide_text(tmp_path: Path) -> None:
    long = read_panel(put(tmp_path, LONG))
    assert list(long.ids) == ["1", "2"]
    np.testing.assert_array_equal(long.value, [[73, 35.1], [77, np.nan], [np.nan, np.nan], [np.nan, 36.6]])
    wide = read_panel(put(tmp_path, WIDE))
    assert wide.variables == ("HR", "Temp")
    assert wide.source is not None
    assert any("ward" in note for note in wide.source.notes)
    assert np.diff(wide.times[0]).tolist() == [7200]  # the clocks were put forward in between
    single = read_panel(put(tmp_path, "t,x\n0,1\n1,\n"))
    assert len(single) == 1
    assert single.value.tolist()[0] == [1]


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (LONG.replace("\n", "\r\n").encode(), {}),
        (b"\xef\xbb\xbf" + LONG.encode(), {}),
        (LONG.encode("utf-16"), {}),
        (LONG.replace(",", "\t").encode(), {}),
        (LONG.replace(",", ";").replace(".", ",").encode(), {"decimal": ","}),
        (gzip.compress(LONG.encode()), {}),
        (LONG.replace("35.10", " +35.10 ").replace("HR,\n", "HR,NA\n").encode(), {}),
    ],
    ids=["crlf", "bom", "utf-16", "tabs", "decimal comma", "gzip", "spaces"],
)
def test_text_however_it_is_written(tmp_path: Path, content: bytes, options: dict[str, str]) -> None:
    path = put(tmp_path, content, "in.csv.gz" if content[:2] == b"\x1f\x8b" else "in.csv")
    panel = read_panel(path, Options(**options))  # type: ignore[arg-type]
    same(panel, read_panel(put(tmp_path, LONG, "plain.csv")))
    assert panel.source is not None
    grid = irregular(panel)
    out = tmp_path / f"out{path.name[2:]}"
    table = imputed_table(panel, grid, np.full(grid.values.shape, np.nan), text=True)
    write_table(table, out, panel.source.text)
    came, went = (gzip.decompress(f.read_bytes()) if f.suffix == ".gz" else f.read_bytes() for f in (path, out))
    assert went == came


def test_new_rows_are_written_like_those_that_came(tmp_path: Path) -> None:
    panel = read_panel(put(tmp_path, WIDE))
    grid = regular(panel, step=3600.0)
    median = np.full(grid.values.shape, 0.25)
    assert panel.source is not None
    write_table(imputed_table(panel, grid, median, text=True), tmp_path / "out.csv", panel.source.text)
    assert (tmp_path / "out.csv").read_text() == (
        "RecordID;time;ward;HR;Temp\n"
        "b;2020-03-29T00:30:00+01:00;A1;73;35.10\n"
        "b;2020-03-29T01:30:00+01:00;;0.25;0.25\n"
        "b;2020-03-29T03:30:00+02:00;A1;0.25;36\n"
        "a;2020-03-29T00:30:00+01:00;B2;80;0.25\n"
    )


def test_an_empty_cell_of_a_long_table_is_filled_where_it_stands(tmp_path: Path) -> None:
    panel = read_panel(put(tmp_path, LONG))
    assert panel.source is not None
    for grid in (irregular(panel), regular(panel, step=1.0)):
        out = imputed_table(
            panel, grid, np.full(grid.values.shape, 0.25), {0.1: np.zeros(grid.values.shape)}, text=True
        )
        assert not out.duplicated(["RecordID", "minute", "variable"]).any()
        assert len(out) == 2 * len(grid.owner)
        row = out[(out["RecordID"] == "2") & (out["minute"] == "5") & (out["variable"] == "HR")]
        assert row["value"].tolist() == ["0.25"]
        assert row["value_p10"].tolist() == ["0"]


def test_new_rows_stand_at_the_end_of_a_table_in_another_order(tmp_path: Path) -> None:
    by_variable = "id,t,variable,value\n1,0,HR,7.0\n1,2,HR,8\n1,1,Temp,37\n"
    panel = read_panel(put(tmp_path, by_variable))
    assert panel.source is not None
    grid = irregular(panel)
    write_table(imputed_table(panel, grid, np.zeros(grid.values.shape), text=True), tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == by_variable + "1,0,Temp,0\n1,1,HR,0\n1,2,Temp,0\n"


def test_every_format_is_the_same_panel(tmp_path: Path) -> None:
    frame = pd.read_csv(put(tmp_path, LONG))
    panel = read_panel(tmp_path / "in.csv")
    frame.to_parquet(tmp_path / "in.parquet")
    same(read_panel(tmp_path / "in.parquet"), panel)
    same(read_frame(frame), panel)
    wide = pd.DataFrame({"series": ["a", "a", "b", "b"], "time": [0, 1, 0, 1], "x": [1.0, np.nan, 3.0, 4.0]})
    wide.set_index(["series", "time"]).to_xarray().to_netcdf(tmp_path / "in.nc", engine="scipy")
    same(read_panel(tmp_path / "in.nc"), read_frame(wide))


def test_meds_names_are_understood() -> None:
    stamps = pd.to_datetime([None, "2020-01-01 08:00", "2020-01-01 08:00", "2020-01-01 09:00"])
    frame = pd.DataFrame(
        {
            "subject_id": [7, 7, 7, 7],
            "time": stamps,
            "code": ["GENDER//M", "HR", "ADMISSION", "HR"],
            "numeric_value": pd.array([None, 70, None, 72], dtype="float32"),
        }
    )
    panel = read_frame(frame)
    assert panel.variables == ("HR",)
    assert panel.value.tolist() == [[70], [72]]
    grid = regular(panel, step=1800.0)
    out = imputed_table(panel, grid, np.full(grid.values.shape, 71.0))
    assert out.dtypes.equals(frame.dtypes)
    assert len(out) == 5
    pd.testing.assert_frame_equal(out.drop(index=3).reset_index(drop=True), frame)


BAD = {
    "word": (
        LONG.replace("77", "high"),
        {},
        "in.csv, line 4, column 'value': expected a number or an empty cell, got 'high'",
    ),
    "limit": (LONG.replace("77", "<0.5"), {}, "got '<0.5'; a limit of detection must become a number or an empty cell"),
    "comma": (LONG.replace(",", ";").replace("77", "7,7"), {}, "for a decimal comma give --decimal ','"),
    "two bad": (LONG.replace("77", "x").replace("36.6", "y"), {}, "got 'x' (and 1 more)"),
    "infinite": (
        LONG.replace("77", "-inf"),
        {},
        "line 4, column 'value': expected a finite number or an empty cell, got -inf",
    ),
    "overflow": (LONG.replace("77", "1e999"), {}, "expected a finite number or an empty cell, got inf"),
    "absurd": (LONG.replace("77", "7e31"), {}, "line 4, column 'value': expected HR of at most 1e+30"),
    "no value": (
        LONG.replace("1,60,HR,77", "1,60,,77"),
        {},
        "line 4, column 'variable': expected the name of a variable",
    ),
    "no id": (
        LONG.replace("1,60,HR,77", ",60,HR,77"),
        {},
        "line 4, column 'RecordID': expected an identity, got an empty cell",
    ),
    "no time": (
        LONG.replace("1,60,HR,77", "1,NA,HR,77"),
        {},
        "line 4, column 'minute': expected a time, got an empty cell",
    ),
    "bad time": (LONG.replace("60", "an hour"), {}, "line 4, column 'minute': expected a number or an ISO date"),
    "duplicate": (
        LONG.replace("60", "0"),
        {},
        "line 4, column 'minute': expected one value of HR at a time, got a second at '0' (the first: line 2) of "
        "RecordID 1; 1 such rows: give --duplicates mean or --duplicates last",
    ),
    "unsorted": (
        LONG.replace("1,60", "1,-60"),
        {},
        "line 4, column 'minute': expected times in order, got '-60' after '0' (line 2) of RecordID 1: sort the file, "
        "or give --unsorted sort",
    ),
    "zones": (WIDE.replace("+02:00", ""), {}, "line 3, column 'time': expected time zones on all times or on none"),
    "column": (WIDE, {"id": "RecordId"}, "time, ward, HR, Temp, got 'RecordId'; did you mean 'RecordID'?"),
    "variable": (LONG, {"variables": ("HR", "temp")}, "expected one of HR, Temp, got 'temp'; did you mean 'Temp'?"),
    "text variable": (
        WIDE,
        {"variables": ("ward",)},
        "line 2, column 'ward': expected a number or an empty cell, got 'A1'",
    ),
    "twice": (WIDE, {"id": "time", "time": "time"}, "expected columns that differ, got 'time' for two of"),
    "no times": ("a,b\n1,2\n", {}, "expected a column of times, got a, b: name it with --time"),
    "no numbers": ("t,ward\n1,A\n", {}, "expected a column of numbers besides t, got none"),
    "empty": ("", {}, "got an empty file"),
    "blank": ("\n \n", {}, "got an empty file"),
    "header": ("RecordID,minute,variable,value\n", {}, "got a header only"),
    "same names": ("t,x,x\n1,2,3\n", {}, "expected names that differ, got 'x' 2 times"),
    "delimiter": (
        LONG,
        {"delimiter": ";"},
        "header: expected columns separated by ';', got 'RecordID,minute,variable,value'",
    ),
    "ragged": (LONG.replace("1,60,HR,77", "1,60,HR"), {}, "with the delimiter ','"),
    "encoding": (
        LONG.replace("Temp", "Körper").encode("latin-1"),
        {},
        "got other bytes at byte 46: give the right --encoding",
    ),
    "late": (
        (LONG + "2,10,HR,1\n" * 20000).encode() + "2,11,Körper,1\n".encode("latin-1"),
        {},
        "give the right --encoding",
    ),
    "binary": (b"PK\x03\x04\0\0\0\0", {}, "got binary data or another encoding"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_one_line_tells_what_is_wrong(tmp_path: Path, name: str) -> None:
    content, options, expected = BAD[name]
    assert expected in problem(put(tmp_path, content), Options(**options))  # type: ignore[arg-type]


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "No such file" in problem(tmp_path / "nowhere.csv")
    assert "got the folder" in problem(tmp_path)
    assert "expected a file ending in .csv" in problem(put(tmp_path, "x", "in.xlsx"))
    assert "cannot read" in problem(put(tmp_path, "no Parquet", "in.parquet"))
    assert "as netCDF" in problem(put(tmp_path, "no netCDF", "in.nc"))
    assert "cannot read" in problem(put(tmp_path, gzip.compress(LONG.encode())[:-20], "in.csv.gz"))
    with pytest.raises(UserError, match="expected the name of an encoding"):
        read_panel(put(tmp_path, LONG), Options(encoding="utf-88"))


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    text = LONG.replace("1,60,HR,77", "\n1,60,HR,bad")
    assert "line 5, column 'value'" in problem(put(tmp_path, text))
    table = pd.read_csv(put(tmp_path, LONG.replace("77", "bad")))
    with pytest.raises(UserError, match="row 2, column 'value'"):
        read_frame(table)


def test_sorting_on_request_keeps_the_order_of_the_file(tmp_path: Path) -> None:
    path = put(tmp_path, "t,x\n2,30\n0,10\n1,\n")
    panel = read_panel(path, Options(unsorted="sort"))
    np.testing.assert_array_equal(panel.value[:, 0], [10, np.nan, 30])
    grid = irregular(panel)
    out = imputed_table(panel, grid, np.full(grid.values.shape, 20.0), text=True)
    assert list(out["x"]) == ["30", "10", "20"]


def test_columns_of_a_frame_whatever_their_names() -> None:
    frame = pd.DataFrame({"": [0, 1], "t": [0, 1], 7: [1.0, np.nan], ("a", 1): ["x", "y"]})
    panel = read_frame(frame)
    assert panel.variables == ("7",)
    grid = irregular(panel)
    out = imputed_table(panel, grid, np.full(grid.values.shape, 2.0))
    pd.testing.assert_frame_equal(out, frame.fillna({7: 2.0}))
    with pytest.raises(UserError, match="expected names of columns that differ, got '7' more than once"):
        read_frame(frame.rename(columns={"": "7"}))


def test_a_value_a_billion_times_its_median_is_refused() -> None:
    frame = pd.DataFrame({"t": range(20), "x": [1.0] * 19 + [2e9], "y": [1e12] * 19 + [1e3], "z": [1.0] * 19 + [9e8]})
    with pytest.raises(UserError, match=r"row 19, column 'x': expected x of at most 1e\+09 .*, got 2e\+09"):
        read_frame(frame)
    assert len(read_frame(frame.drop(columns="x")).time) == 20


def test_static_covariates_are_matched_by_identity(tmp_path: Path) -> None:
    panel = read_panel(put(tmp_path, LONG))
    static = put(tmp_path, "RecordID,Age\n2,70\n9,20\n", "static.csv")
    found = with_static(panel, static)
    assert found.static is not None
    np.testing.assert_array_equal(found.static["Age"], [np.nan, 70])
    with pytest.raises(UserError, match="expected one row a series, got a second of '2'"):
        with_static(panel, put(tmp_path, "RecordID,Age\n2,70\n2,20\n", "static.csv"))
    with pytest.raises(UserError, match="expected rows of the panel's series"):
        with_static(panel, put(tmp_path, "RecordID,Age\n8,70\n", "static.csv"))
    with pytest.raises(UserError, match=r"static\.csv, line 2, column 'Age': expected a number"):
        with_static(panel, put(tmp_path, "RecordID,Age\n2,old\n", "static.csv"))


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("piece", [1 << 10, 1 << 14])
def test_patients_that_are_streamed_are_those_that_are_read(tmp_path: Path, suffix: str, piece: int) -> None:
    random = np.random.default_rng(0)
    rows = pd.DataFrame({"id": np.repeat(np.arange(40), 25), "time": np.tile(np.arange(25), 40)})
    rows["variable"] = random.choice(["HR", "Temp", "pH"], size=len(rows))
    rows["value"] = random.normal(size=len(rows))
    path = tmp_path / f"in.{suffix}"
    write_table(rows, path)
    whole = read_panel(path)
    pieces = list(stream_panels(path, piece=piece))
    assert len(pieces) > 2
    assert all(part.variables == whole.variables for part in pieces)
    assert [str(i) for part in pieces for i in part.ids] == [str(i) for i in whole.ids]
    np.testing.assert_array_equal(np.concatenate([part.value for part in pieces]), whole.value)
    np.testing.assert_array_equal(np.concatenate([part.time for part in pieces]), whole.time)

    out = tmp_path / f"out.{suffix}"
    kept = (
        imputed_table(part, irregular(part), np.full(irregular(part).values.shape, np.nan), text="csv" in suffix)
        for part in pieces
    )
    write_table(kept, out)
    same(read_panel(out), whole)


def test_a_stream_tells_the_line_in_the_whole_file(tmp_path: Path) -> None:
    lines = ["id,time,variable,value", *(f"{k // 10},{k % 10},HR,{k}" for k in range(1000))]
    path = put(tmp_path, "\n".join([*lines[:900], "89,99,HR,bad", *lines[901:]]) + "\n")
    with pytest.raises(UserError, match="line 901, column 'value'"):
        list(stream_panels(path, piece=1 << 10))
    path = put(tmp_path, "\n".join([*lines, "0,99,HR,1"]) + "\n")
    with pytest.raises(UserError, match=r"expected the rows of a series together, .* got '0' again"):
        list(stream_panels(path, piece=1 << 10))


def test_a_file_larger_than_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path, LONG)
    monkeypatch.setattr(memory, "available_memory", lambda: 100)
    assert not memory.fits_in_memory(path)
    assert "read it by patients" in problem(path)
    assert sum(map(len, stream_panels(path))) == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_threads_of_arrow_never_wait_for_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    """Those that read ahead when a command ends with an error would else abort it."""
    given: list[object] = []
    opened = arrow_csv.open_csv
    monkeypatch.setattr(arrow_csv, "open_csv", lambda stream, **rest: (given.append(stream), opened(stream, **rest))[1])
    held = read_panel(put(tmp_path, LONG.encode(encoding)), Options(encoding=encoding))
    same(held, read_panel(put(tmp_path, LONG, "utf-8.csv")))
    assert all(isinstance(one, pa.NativeFile) and not isinstance(one, pa.PythonFile) for one in given)


def test_a_million_rows_take_seconds(tmp_path: Path) -> None:
    rows = 1_000_000
    table = pd.DataFrame({"id": np.arange(rows) // 1000, "time": np.arange(rows) % 1000 // 10})
    table["variable"] = np.array([f"v{k}" for k in range(10)])[np.arange(rows) % 10]
    table["value"] = np.arange(rows) % 97 / 10
    write_table(table, tmp_path / "in.csv")
    began = time.process_time()
    panel = read_panel(tmp_path / "in.csv")
    grid = regular(panel, step=1.0)
    seconds = time.process_time() - began
    assert grid.values.shape == (1000, 100, 10)
    assert grid.mask.all()
    assert seconds < 10


def test_a_long_series_is_cut_into_windows() -> None:
    panel = read_frame(pd.DataFrame({"time": np.arange(5000), "x": np.arange(5000.0)}))
    grid = regular(panel, step=1.0, window=72, overlap=12)
    assert grid.values.shape[1] == 72
    np.testing.assert_array_equal(grid.rows(grid.values)[:, 0], np.arange(5000))
