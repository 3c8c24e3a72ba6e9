import pytest
from fabricated_runs import write_run

from hessflat.analysis.experiment import Table
from hessflat.analysis.results import load_run
from hessflat.analysis.tables import as_markdown, as_text, table_by


def test_a_row_per_setting_with_mean_and_std(tmp_path):
    runs = []
    for seed, (top, accuracy) in enumerate([(10.0, 0.9), (12.0, 0.92)]):
        final = {"hessian.lambda_max": top, "test_accuracy": accuracy}
        runs.append(load_run(write_run(tmp_path, 0.0, seed, spectra=False, final=final)))
    runs.append(load_run(write_run(tmp_path, 5e-4, 0, spectra=False, final={"hessian.lambda_max": 20.0})))
    runs.append(load_run(write_run(tmp_path, 5e-4, 1, spectra=False, status="diverged", epochs=(0,))))
    table = table_by(runs, columns=[("λ_max", "hessian.lambda_max", ".4g"), ("test", "test_accuracy", ".1%")])
    assert table.header == ("L2", "λ_max", "test", "seeds")
    assert table.rows[0] == ("0", "11 ± 1", "91.0 ± 1.4 %", "2")
    assert table.rows[1][1] == "20"
    assert table.rows[1][3] == "1 of 2 (1 diverged)"


@pytest.mark.parametrize(
    ("values", "style", "text"),
    [
        ([13.52, 13.72], ".4g", "13.62 ± 0.14"),
        ([2.00001, 2.00002], ".3f", "2.000 ± 7.1e-6"),
        ([1.1e-5, 1.3e-5], ".2g", "1.2e-5 ± 1.4e-6"),
        ([2.0, 2.0], ".2f", "2.00 ± 0.00"),
    ],
)
def test_a_spread_is_as_precise_as_its_mean(tmp_path, values, style, text):
    runs = [load_run(write_run(tmp_path, 0.0, i, spectra=False, final={"m": v})) for i, v in enumerate(values)]
    assert table_by(runs, columns=[("m", "m", style)]).rows[0][1] == text


def test_what_was_not_measured_is_a_dash(tmp_path):
    run = load_run(write_run(tmp_path, spectra=False))
    assert table_by([run], columns=[("x", "nothing", ".2f")]).rows[0][1] == "–"


def test_text_lines_up():
    lines = as_text(Table("A caption.", ("L2", "λ_max"), (("0", "12.3 ± 0.1"), ("5e-4", "9")))).splitlines()
    assert lines[0] == "A caption."
    assert lines[4].index("12.3") == lines[5].index("9") == lines[2].index("λ_max") == 6


def test_markdown_escapes_what_would_break_it():
    assert "x\\|y" in as_markdown(Table("a < b", ("x|y",), (("<b>",),)))
