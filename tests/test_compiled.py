"""Commands keep what can be made again, and go on where nothing can be kept."""

import jax
import pytest

from hessflat.cli import app
from hessflat.utils import compat


@pytest.fixture(autouse=True)
def settings():
    """JAX's own of its cache, put back."""
    names = ("compilation_cache_dir", "persistent_cache_min_compile_time_secs", "persistent_cache_min_entry_size_bytes")
    before = {name: compat.setting(f"jax_{name}") for name in names}
    yield
    for name, value in before.items():
        jax.config.update(f"jax_{name}", value)


@pytest.mark.parametrize("place", ["a file", "below a file"])
def test_a_folder_that_cannot_be_made_is_one_line(place, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" if place == "a file" else tmp_path / "file" / "cache"
    monkeypatch.setenv("HESSFLAT_CACHE", str(folder))
    before = compat.setting("jax_compilation_cache_dir")
    app.keep_compiled_code()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: nothing is kept in {folder}: ")
    assert line.endswith("; set HESSFLAT_CACHE to another folder")
    assert app.cache_folder() is None
    assert compat.setting("jax_compilation_cache_dir") == before


def test_a_folder_that_can_be_made_has_what_is_compiled(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HESSFLAT_CACHE", str(tmp_path / "new"))
    app.keep_compiled_code()
    assert app.cache_folder() == tmp_path / "new"
    assert compat.setting("jax_compilation_cache_dir").startswith(f"{tmp_path / 'new'}/jaxlib-")
    assert capsys.readouterr().err == ""


def test_zero_keeps_nothing(monkeypatch, capsys):
    monkeypatch.setenv("HESSFLAT_CACHE", "0")
    before = compat.setting("jax_compilation_cache_dir")
    app.keep_compiled_code()
    assert app.cache_folder() is None
    assert compat.setting("jax_compilation_cache_dir") == before
    assert capsys.readouterr().err == ""
