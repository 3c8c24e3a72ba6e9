"""A folder of checkpoints of any model: read in three formats, measured once, continued, and drawn; bad input."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from hessflat.cli import checkpoints, measure
from hessflat.report import checkpoints as report
from hessflat.runs import foreign
from hessflat.utils.errors import DamagedError, InputError
from hessflat.utils.files import read_lines

X = np.random.default_rng(0).normal(size=(30, 12)).astype(np.float32)
# The loss is Σ_j x_j² w_j⁴ / 12 on average over examples, so that its Hessian is diagonal: mean(x_j²) w_j².
MODEL = """
import jax.numpy as jnp
import numpy as np
X = np.random.default_rng(0).normal(size=(30, 12)).astype(np.float32)
def data():
    return {"x": jnp.asarray(X)}
def loss(params, batch):
    return jnp.mean(batch["x"] ** 2 @ params["w"] ** 4) / 12
def shifted(params, batch):
    return jnp.mean(batch["x"] ** 2 @ params["w"] ** 4)
def broken():
    raise RuntimeError("no data today")
def misspelt(params, batch):
    return jnp.mean(batch["x"] @ params["v"])
def vector(params, batch):
    return batch["x"] @ params["w"]
def none(params, batch):
    pass
def true(params, batch):
    return True
def whole(params, batch):
    return jnp.int32(1)
def constant(params, batch):
    return 1.0
tree = {"a": {"w": np.zeros(12)}}
number = 3
"""
LOSS = ("--loss=others_model:loss", "--data=others_model:data")
LITTLE = (*LOSS, "--quantities=loss", "--top=3", "--out=out")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a model and three checkpoints of it, w = 1, 2 and 3."""
    (tmp_path / "others_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "others_model", raising=False)
    (tmp_path / "saved").mkdir()
    for step in (100, 20, 3):
        np.savez(tmp_path / "saved" / f"model-{step}.npz", w=np.full(12, {3: 1, 20: 2, 100: 3}[step], np.float32))
    return tmp_path


def lines(place):
    return {line["step"]: line for line in read_lines(place / "out" / "metrics.jsonl")}


@pytest.mark.slow
def test_a_folder_is_measured_once_and_continued(place, monkeypatch, capsys):
    measured, original = [], checkpoints._measure

    def stopped(checkpoint, *others):
        if len(measured) == 1:
            raise KeyboardInterrupt
        measured.append(checkpoint.step)
        return original(checkpoint, *others)

    monkeypatch.setattr(checkpoints, "_measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        measure.main(["--checkpoints=saved", *LITTLE])
    assert measured == [3]
    monkeypatch.setattr(checkpoints, "_measure", lambda one, *rest: measured.append(one.step) or original(one, *rest))
    assert measure.main(["--checkpoints=saved", *LITTLE]) == 0
    assert measured == [3, 20, 100]
    assert measure.main(["--checkpoints=saved", *LITTLE]) == 0
    assert measured == [3, 20, 100]
    found = lines(place)
    assert found[20]["loss"] == pytest.approx(16 * float((X**2).sum(axis=1).mean()) / 12, rel=1e-5)
    page = (place / "out" / "index.html").read_text()
    assert "3 checkpoints measured." in page
    assert page.index("model-3.npz") < page.index("model-20.npz") < page.index("model-100.npz")
    assert (place / "out" / "measurements.csv").read_text().startswith("step,name,loss")
    # A checkpoint that is another one now is measured again, and so is one whose arrays are gone.
    np.savez(place / "saved" / "model-20.npz", w=np.ones(12, np.float32))
    (place / "out" / "spectra" / "100.npz").unlink()
    (place / "saved" / "model-7.npz").write_bytes(b"PK\x03\x04 half a file")
    np.savez(place / "saved" / "model-8.npz", w=np.ones(5, np.float32))
    np.savez(place / "saved" / "best.npz", w=np.ones(12, np.float32))
    capsys.readouterr()
    assert measure.main(["--checkpoints=saved", *LITTLE]) == 1
    assert measured == [3, 20, 100, 20, 100]
    told = capsys.readouterr().err
    assert "model-7.npz: model-7.npz cannot be read" in told
    assert "model-8.npz: its tree differs: w is float32[5] here and float32[12] in the first checkpoint" in told
    assert "best.npz: has no step in its name" in told
    assert "3 of 6 could not be measured" in told
    assert "3 could not be measured" in (place / "out" / "index.html").read_text()
    monkeypatch.setattr(sys.modules["others_model"], "loss", sys.modules["others_model"].shifted)
    with pytest.raises(InputError, match="the loss or its data have changed"):
        measure.main(["--checkpoints=saved", *LITTLE])
    with pytest.raises(InputError, match="holds results with --top='3', but '4' is asked for"):
        measure.main(["--checkpoints=saved", *LITTLE[:3], "--top=4", "--out=out"])


def test_a_page_has_checkpoints_without_a_positive_eigenvalue(tmp_path, monkeypatch):
    monkeypatch.setattr(report.plot, "as_svg", lambda figure: figure)
    (tmp_path / "spectra").mkdir()
    found = {1: [3.0, 2.0], 2: [0.0, 0.0], 3: [-1.0, -2.0], 4: [5.0, -1.0]}
    for step, values in found.items():
        np.savez(tmp_path / "spectra" / f"{step}.npz", eigenvalues=values, residuals_of_eigenvalues=[1e-6, 1e-6])
    drawn, _ = report._spectra(tmp_path, [{"step": step, "arrays": "digest"} for step in found])
    (axes,) = drawn.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["step 1", "step 4"]
    assert [container[0].get_ydata().tolist() for container in axes.containers] == [[3.0, 2.0], [5.0]]
    assert report._spectra(tmp_path, [{"step": step, "arrays": "digest"} for step in (2, 3)]) is None


@pytest.mark.slow
def test_all_quantities_of_nested_parameters(place):
    np.savez(place / "saved" / "model-3.npz", **{"a.w": np.ones(12, np.float32)})
    for step in (20, 100):
        (place / "saved" / f"model-{step}.npz").unlink()
    (place / "others_model.py").write_text(MODEL.replace('params["w"]', 'params["a"]["w"]'))
    more = ["--like=others_model:tree", "--exact=100", "--lanczos_steps=12", "--probes=2", "--out=all"]
    assert measure.main(["--checkpoints=saved", *LOSS, *more]) == 0
    (line,) = read_lines(place / "all" / "metrics.jsonl")
    diagonal = (X**2).mean(axis=0)
    assert line["gradient_norm"] == pytest.approx(np.linalg.norm(diagonal) / 3, rel=1e-4)
    assert line["trace"] == pytest.approx(diagonal.sum(), rel=1e-4)
    assert line["num_eigenvalues"] == 12
    assert line["lambda_max"] == pytest.approx(diagonal.max(), rel=1e-4)
    assert line["tail_exponent"] > 1
    with np.load(place / "all" / "spectra" / "3.npz") as stored:
        np.testing.assert_allclose(stored["eigenvalues"], np.sort(diagonal)[::-1], rtol=1e-4)
        assert stored["nodes"].shape == (2, 12)
    page = (place / "all" / "index.html").read_text()
    assert page.count("<figure>") == 2
    assert "gradient norm" in page


def test_three_formats_are_read_alike(tmp_path):
    tree = {"params": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, "step": np.array(7)}
    with ocp.StandardCheckpointer() as saver:
        for step in (1, 10):
            saver.save(tmp_path / "plain" / f"step_{step}", tree)
    with ocp.CheckpointManager(
        tmp_path / "managed", options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    ) as manager:
        manager.save(5, args=ocp.args.StandardSave(tree))
    np.save(tmp_path / "w-3.npy", tree["params"]["w"])
    for name, steps in (("plain", [1, 10]), ("managed", [5])):
        found, problems = foreign.find(tmp_path / name)
        assert ([one.step for one in found], problems) == (steps, [])
        read = foreign.read(found[0])
        np.testing.assert_array_equal(read["params"]["w"], tree["params"]["w"])
        assert len(foreign.digest(found[0])) == 64
    (single,), _ = foreign.find(tmp_path)
    np.testing.assert_array_equal(foreign.read(single), tree["params"]["w"])


def test_safetensors_and_their_shards(tmp_path):
    flax = pytest.importorskip("safetensors.flax")
    for step in (2, 11):
        for number, name in enumerate(("a.w", "b.w")):
            folder = tmp_path / f"checkpoint-{step}"
            folder.mkdir(exist_ok=True)
            file = folder / f"model-0000{number + 1}-of-00002.safetensors"
            flax.save_file({name: jnp.full(3, step, jnp.bfloat16)}, file)
    found, problems = foreign.find(tmp_path)
    assert ([one.step for one in found], problems) == ([2, 11], [])
    read = foreign.nested(foreign.read(found[1]), ".")
    assert foreign.shapes(read) == {"a/w": "bfloat16[3]", "b/w": "bfloat16[3]"}


def test_without_safetensors_there_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "model-1.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    (found,), _ = foreign.find(tmp_path)
    with pytest.raises(InputError, match="needs the package safetensors; run: pip install safetensors"):
        foreign.read(found)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"checkpoints": "nowhere"}, "nowhere is no folder"),
        ({"checkpoints": "empty"}, "empty holds no checkpoint"),
        ({"loss": "no_such_module:loss"}, "--loss=no_such_module:loss: no module named no_such_module"),
        ({"loss": "others_model"}, "--loss must be module:name"),
        ({"loss": "others_model:los"}, "others_model has no los; did you mean 'loss'"),
        (
            {"loss": "imports_more:loss"},
            "importing imports_more failed: ModuleNotFoundError: No module named 'no_such'",
        ),
        ({"loss": "others_model:misspelt"}, "KeyError: 'v' (PLACE/others_model.py, line 14); the checkpoint holds w"),
        (
            {"loss": "others_model:vector"},
            "must be a scalar, the mean over the batch, got shape (30,); the checkpoint holds w",
        ),
        (
            {"loss": "others_model:none"},
            "must be a scalar, the mean over the batch, got a tree; the checkpoint holds w",
        ),
        (
            {"loss": "others_model:true"},
            "must be real floating point, got bool; give floating point numbers; the checkpoint holds w",
        ),
        (
            {"loss": "others_model:whole"},
            "must be real floating point, got int32; give floating point numbers; the checkpoint holds w",
        ),
        ({"loss": "others_model:number"}, "must be a function of (params, batch), got int"),
        (
            {"data": "others_model:broken"},
            "--data=others_model:broken failed: RuntimeError: no data today (PLACE/others_model.py, line 12)",
        ),
        ({"quantities": "loss,trice"}, "did you mean 'trace'"),
        ({"top": "many"}, "--top must be a whole number of at least 1, got 'many'"),
        ({"rtol": "2"}, "--rtol must be a number between 0 and 1"),
        ({"steps": "5"}, "no checkpoint of step 5"),
        ({"params": "parms"}, "a checkpoint holds nothing at 'parms'"),
        ({"like": "others_model:tree"}, "must be those of --like: 1 absent, first 'a/w' and 1 unknown, first 'w'"),
        ({"config.measure.probes": "3"}, "is a setting of a run"),
        ({"out": "saved"}, "saved is not empty and holds no such results"),
    ],
)
def test_bad_input_is_one_line(place, changed, message):
    (place / "empty").mkdir()
    (place / "imports_more.py").write_text("import no_such")
    asked = {"checkpoints": "saved", "loss": "others_model:loss", "data": "others_model:data", "out": "out"} | changed
    with pytest.raises(InputError) as caught:
        measure.main([f"--{name}={value}" for name, value in asked.items()])
    assert message.replace("PLACE", str(place)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_loss_that_does_not_suit_the_tree_says_what_is_there(place):
    for step in (20, 100):
        (place / "saved" / f"model-{step}.npz").unlink()
    np.savez(place / "saved" / "model-3.npz", kernel=np.ones((2, 2), np.float32))
    with pytest.raises(InputError) as caught:
        measure.main(["--checkpoints=saved", *LITTLE])
    assert "none of 1 checkpoints could be measured" in str(caught.value)
    place_of_it = f"({place / 'others_model.py'}, line 8)"
    assert f"KeyError: 'w' {place_of_it}; the checkpoint holds kernel float32[2, 2]" in str(caught.value)
    assert json.loads((place / "out" / "settings.json").read_text())["top"] == "3"


def saved(folder, *names):
    """NumPy checkpoints of the same tree, each at its path in the folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.savez(folder / name, w=np.ones(12, np.float32))


def told(folder, item=""):
    """Names and steps of what is found, and what is no checkpoint with the reason."""
    found, problems = foreign.find(folder, item)
    return [(one.name, one.step) for one in found], dict(problems)


def test_steps_are_whole_numbers_in_the_names_of_checkpoints(tmp_path):
    saved(tmp_path / "run2", "step-9.npz", "step-10.npz", "epoch11_acc0.93.npz", "lr1e-4.npz", "again/step-9.npz")
    found, problems = told(tmp_path / "run2")
    assert found == [("step-9.npz", 9), ("step-10.npz", 10)]
    assert problems == {
        "epoch11_acc0.93.npz": "has 0.93 last in its name, which is no step; rename it",
        "lr1e-4.npz": "has 1e-4 last in its name, which is no step; rename it",
    }
    # One file is a checkpoint of its folder, whatever number the folder has.
    saved(tmp_path / "run3", "step-5.npz")
    assert told(tmp_path / "run3") == ([("step-5.npz", 5)], {})
    saved(tmp_path / "step-7", "model.npz")
    assert told(tmp_path / "step-7") == ([("step-7", 7)], {})
    saved(tmp_path / "run4", "scaler.npz", "step-1/model.npz")
    assert told(tmp_path / "run4") == (
        [("step-1", 1)],
        {"scaler.npz": "has no step in its name, such as step-100; rename it"},
    )
    saved(tmp_path / "named", "best.npz")
    with pytest.raises(
        InputError, match=r"no checkpoint with its step in the name; best\.npz: has no step in its name"
    ):
        foreign.find(tmp_path / "named")


def test_nothing_that_looks_like_a_checkpoint_is_skipped_without_a_word(tmp_path):
    saved(tmp_path, "step-1/params.npz", "step-1/opt.npz", "step-2/params.npz", "with space 3.npz")
    (tmp_path / "step-4.npz").symlink_to(tmp_path / "gone.npz")
    found, problems = told(tmp_path)
    assert found == [("step-2", 2), ("with space 3.npz", 3), ("step-4.npz", 4)]
    assert problems == {
        "step-1": f"{tmp_path}/step-1 holds opt.npz, params.npz; say --item=... which is to be measured"
    }
    assert told(tmp_path, "params")[0][:2] == [("step-1", 1), ("step-2", 2)]
    # It was there when the folder was looked through.
    gone = foreign.find(tmp_path)[0][-1]
    for work in (foreign.digest, foreign.read):
        with pytest.raises(DamagedError, match=r"step-4\.npz cannot be read \(FileNotFoundError"):
            work(gone)


def test_shards_that_are_missing_are_counted(tmp_path):
    saved(tmp_path, "step-1/model-00001-of-00002.npz")
    ((found,), problems) = foreign.find(tmp_path)
    assert not problems
    with pytest.raises(DamagedError, match="step-1 has 1 of 2 shards"):
        foreign.read(found)


def test_arrays_beside_the_parameters_are_told_and_left_out_when_asked(place, capsys):
    for step in (3, 20, 100):
        (place / "saved" / f"model-{step}.npz").unlink()
    content = {"model.w": np.ones(12, np.float32), "optimizer.mu.w": np.ones(12, np.float32), "step": np.int64(7)}
    np.savez(place / "saved" / "model-1.npz", **content)
    asked = ["--checkpoints=saved", *LOSS, "--quantities=gradient", "--separator=."]
    assert measure.main([*asked, "--params=model", "--out=alone"]) == 0
    (place / "two.py").write_text(MODEL.replace('params["w"]', 'params["model"]["w"]'))
    with pytest.raises(InputError, match="step"):
        measure.main(["--checkpoints=saved", "--loss=two:loss", "--data=two:data", "--separator=.", "--out=all"])
    del content["step"]
    np.savez(place / "saved" / "model-1.npz", **content)
    capsys.readouterr()
    asked = ["--checkpoints=saved", "--loss=two:loss", "--data=two:data", "--quantities=gradient", "--separator=."]
    assert measure.main([*asked, "--out=both"]) == 0
    assert "model-1.npz: the gradient of optimizer/mu/w is exactly 0" in capsys.readouterr().err
    (alone,), (both,) = (read_lines(place / out / "metrics.jsonl") for out in ("alone", "both"))
    assert both["gradient_norm"] == pytest.approx(alone["gradient_norm"], rel=1e-6)
    assert both["arrays_without_gradient"] == 1
    assert "arrays_without_gradient" not in alone
    assert "arrays without gradient" in (place / "both" / "index.html").read_text()


def test_narrow_types_that_numpy_files_lose_are_refused_with_the_way_out(place):
    np.savez(place / "saved" / "model-3.npz", w=np.ones(12, jnp.bfloat16))
    with pytest.raises(InputError, match=r"must hold numbers, got bytes of type \|V2; NumPy's files lose .*bfloat16"):
        measure.main(["--checkpoints=saved", *LITTLE, "--steps=3"])
