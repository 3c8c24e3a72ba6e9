"""The benchmark at its smallest scale: what it writes, what it judges, and the page made of it."""

import contextlib
import json

import numpy as np
import pytest

from benchmarks import agreement, command, document, goals, large, layouts, results, run, tables
from benchmarks.contenders import ENTRIES, OURS
from benchmarks.problems import FULL, SMOKE
from benchmarks.workloads import ON_DEVICE, WORKLOADS, chosen
from hessflat.utils import compat
from hessflat.utils.errors import InputError


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmarks") / "run.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", compat.setting("jax_compilation_cache_dir"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        run.main(["--only=W1,W5", "--peers=JAX by hand", "--repeats=2", "--scale=smoke", f"--out={path}"])
    return json.loads(path.read_text())


@pytest.mark.slow
def test_every_contender_runs_and_agrees(stored):
    assert [(row["workload"], row["contender"], row["status"]) for row in stored["rows"]] == [
        (workload, contender, "ok") for workload in ("W1", "W5") for contender in (OURS, "JAX by hand")
    ]
    for row in stored["rows"]:
        assert (len(row["first"]), len(row["seconds"]), len(row["gradient"])) == (1, 2, 2)
        assert min(row["first"] + row["seconds"] + row["gradient"]) > 0
        assert row["peak_bytes"] > 1e7
    ours, plain = stored["rows"][:2]
    assert (ours["searched"], ours["batch"]) == ({}, 0)
    assert set(plain["searched"]) == {"60", "30", "15"}
    assert str(plain["batch"]) == min(plain["searched"], key=lambda size: plain["searched"][size])
    assert tables.said_of_choice(plain) in ("all examples at once", "batches of 30", "batches of 15")
    ours, plain = (row["values"][-1] for row in stored["rows"][:2])
    assert ours == pytest.approx(plain, rel=1e-4)


@pytest.mark.slow
def test_a_run_says_what_it_was_taken_on(stored):
    assert stored["machine"]["device"] == "cpu"
    assert stored["machine"]["cores"] >= 1
    assert {"python", "jax", "numpy"} <= set(stored["versions"])
    assert stored["scale"] == "smoke"


@pytest.mark.slow
def test_tables_have_a_row_for_each_contender(stored):
    assert [len(tables.contenders(stored, workload)) for workload in ("W1", "W5")] == [3, 3]
    lines = tables.text(stored).splitlines()
    heading = next(i for i, line in enumerate(lines) if "first call" in line)
    assert len({len(line) for line in lines[heading : heading + 3]}) == 1


@pytest.mark.slow
def test_goals_are_judged_from_what_is_there(stored):
    judged = {goal.claim: goal for goal in goals.judge(stored)}
    assert judged["W1: ahead of every peer"].met in (True, False)
    assert "JAX by hand" in judged["W1: ahead of every peer"].found
    assert judged["W3: ahead of curvlinops"].met is None


def test_a_row_that_is_off_is_named_and_not_ranked():
    check = {"loss": 1.0, "gradient_norm": 2.0, "gradient_along_v": 0.1, "product_norm": 3.0, "product_along_v": 0.2}
    rows = [{"contender": name, "check": check, "values": [5.0]} for name in "abc"]
    assert agreement.disagreements(rows) == {}
    rows[1] = rows[1] | {"check": check | {"product_norm": 3.1}}
    rows[2] = rows[2] | {"values": [5.1]}
    assert list(agreement.disagreements(rows)) == ["b", "c"]
    assert not results.is_ranked({"status": "disagrees", "seconds": [1.0]})


def test_layouts_are_inverse_and_order_by_name():
    shapes = SMOKE["conv"].shapes
    vector = np.arange(SMOKE["conv"].size, dtype=np.float32)
    assert list(shapes) == sorted(shapes)
    turned = layouts.flat_to_torch(vector, shapes)
    assert not np.array_equal(turned, vector)
    assert np.array_equal(layouts.flat_from_torch(turned, shapes), vector)
    assert np.array_equal(layouts.join(layouts.split(vector, shapes)), vector)


def test_networks_have_the_sizes_they_are_quoted_with():
    sizes = {name: problem.size for name, problem in FULL.items()}
    assert sizes == {
        "dense": 79_510,
        "conv": 486_090,
        "residual": 11_173_962,
        "small": 4_270,
        "deep": 99_710,
        "digits": 3_466,
        "sentences": 7_072,
        "language": 218_240,
        "million": 1_000_120,
        "wide": 36_479_194,
    }


def test_workloads_are_chosen_by_how_they_begin():
    assert [workload.id for workload in chosen(["W6", "W1"])] == ["W6a", "W6b", "W1"]
    assert all(any(entry.takes(workload) for entry in ENTRIES) for workload in WORKLOADS.values())


@pytest.mark.parametrize("argument", ["--only=W99", "--peers=nobody", "--repeats=0", "--scale=huge", "--config.a=1"])
def test_wrong_arguments_are_refused_in_one_line(argument):
    with pytest.raises(InputError):
        run.parse([argument])


def test_all_workloads_are_measured_by_one_of_two_runs():
    short, long, one = (run.parse(arguments).common for arguments in ([], ["--long"], ["--only=W3"]))
    assert {workload.id for workload in [*short.workloads, *long.workloads]} | set(ON_DEVICE) == set(WORKLOADS)
    assert not {workload.id for workload in short.workloads} & {workload.id for workload in long.workloads}
    assert (short.budget + 60, long.budget, one.budget) == (900, 1e9, 1e9)
    assert (short.is_whole, long.is_whole, one.is_whole) == (True, True, False)


@pytest.mark.parametrize("out", [False, True], ids=["a whole run", "a file that was asked for"])
def test_results_of_other_versions_are_replaced_by_a_whole_run_alone(tmp_path, out):
    def found(workload, version):
        return nothing | {"rows": [{"workload": workload}], "versions": {"jax": version}}

    path = tmp_path / "machine.json"
    options = run.parse([f"--out={path}"] if out else []).common
    nothing = {"scale": "full", "machine": {}, "skipped": [], "seconds": 1.0}
    for workload in ("W1", "W3"):
        command.store(found(workload, "0.1"), path, options, lambda results: [])
    assert [row["workload"] for row in json.loads(path.read_text())["rows"]] == ["W1", "W3"]
    with pytest.raises(InputError, match=r"another version of jax") if out else contextlib.nullcontext():
        command.store(found("W2", "0.2"), path, options, lambda results: [])
    assert [row["workload"] for row in json.loads(path.read_text())["rows"]] == (["W1", "W3"] if out else ["W2"])


def test_blocks_are_judged_beside_the_whole_matrix():
    parts = {"whole": [2.0, 4.0], "blocks": [3.0, 6.0], "settled": [1.5]}
    row = {"workload": "block_cost", "contender": f"{OURS} blocks", "steps": 100, "parts": parts}
    assert tables.blocks({"rows": [row]})[-1] == ["all blocks, until each is settled", "1.5", "0.50"]
    (goal,) = (goal for goal in goals.judge({"rows": [row]}) if "blocks" in goal.claim)
    assert (goal.met, goal.found) == (True, "1.5")


@pytest.mark.slow
def test_a_later_run_joins_the_workloads_of_an_earlier_one(stored):
    first, second = stored["rows"][:2], [row | {"seconds": [9.0]} for row in stored["rows"][2:]]
    earlier = stored | {"rows": first + stored["rows"][2:], "skipped": ["W5", "W6a"], "seconds": 1.0}
    joined = results.join(earlier, stored | {"rows": second, "skipped": [], "seconds": 2.0})
    assert joined["rows"] == first + second
    assert (joined["skipped"], joined["seconds"]) == (["W6a"], 3.0)
    with pytest.raises(InputError, match=r"another version of jax: 0\.1 and"):
        results.join(stored | {"versions": stored["versions"] | {"jax": "0.1"}}, stored)


def test_the_page_is_what_the_stored_runs_say():
    assert document.DOCUMENT.read_text() == document.render(results.read_all())


@pytest.mark.slow
def test_the_page_shows_a_run(stored):
    page = document.render([stored])
    assert "### W1." in page
    assert f"| **{OURS}** |" in page


@pytest.mark.slow
def test_a_row_that_did_less_work_says_so(stored):
    rows = [stored["rows"][0] | {"reduced": True, "examples": 30, "steps": 3}, *stored["rows"][1:]]
    page = document.render([stored | {"rows": rows}])
    assert f"† {OURS}: 30 examples and 3 steps only, not ranked." in page


@pytest.mark.slow
def test_the_large_basis_at_a_small_size(capfd):
    large.main(["--size=5000", "--steps=100", "--storage=half"])
    heading, numbers = capfd.readouterr().out.splitlines()[1:]
    assert len(heading) == len(numbers)
    assert numbers.split()[0] == "half"
    with pytest.raises(InputError, match="unknown storage"):
        large.main(["--storage=disk"])
    with pytest.raises(InputError, match="--steps must be a whole number of at least 100, got 'few'"):
        large.main(["--steps=few"])


@pytest.mark.parametrize("storage", ["device", "half", "host"])
def test_the_large_basis_finds_what_is_known(storage):
    found = large.run(storage, 5000, 100)
    assert found["error"] <= found["bound"] < 1e-2
    assert found["orthogonality"] < (1e-3 if storage == "half" else 5e-5)
