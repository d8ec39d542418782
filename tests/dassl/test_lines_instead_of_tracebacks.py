"""What a person can mend is one line: places that cannot be written, odd files, odd terminals, unknown names."""

import errno
import os
import subprocess
import sys

import pytest

from dassl.config import get_cfg_default, merge_from_file
from dassl.utils.errors import Unwritable, UserError, run_main, unknown_name
from dassl.utils.io import atomic_path, read_json_object, sha256_cached, sha256_file, write_text
from dassl.utils.paths import REPO, cache_root


def ended(main, capsys):
    """(exit code, standard error) of a script whose main() is this."""
    with pytest.raises(SystemExit) as end:
        run_main(main)
    return end.value.code, capsys.readouterr().err


# ---- the cache


def test_the_cache_is_the_users_and_never_under_output(monkeypatch, tmp_path):
    monkeypatch.delenv("CILMP_CACHE")
    monkeypatch.setenv("OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_root() == tmp_path / "home" / ".cache" / "cilmp"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "cilmp"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says its specification
    assert cache_root() == tmp_path / "home" / ".cache" / "cilmp"
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"


def test_a_cache_that_cannot_be_written_names_its_variable(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "file" / "cache"))
    code, err = ended(lambda: write_text("x", cache_root() / "a" / "b.json"), capsys)
    assert code == 2 and len(err.splitlines()) == 1
    assert str(tmp_path / "file" / "cache") in err and "CILMP_CACHE" in err


# ---- places that cannot be written


def raising(number, path):
    def main():
        raise OSError(number, os.strerror(number), str(path))

    return main


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EISDIR,
                                    errno.ENAMETOOLONG])  # fmt: skip
def test_an_output_that_cannot_be_written_is_one_line(number, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OUTPUT", str(tmp_path))
    code, err = ended(raising(number, tmp_path / "run" / "log.txt"), capsys)
    assert code == 2 and len(err.splitlines()) == 1 and err.startswith("error: ")
    assert str(tmp_path / "run" / "log.txt") in err and "OUTPUT" in err and os.strerror(number) in err


def test_other_failures_of_the_machine_keep_their_traceback():
    with pytest.raises(OSError, match="Bad file descriptor"):
        run_main(raising(errno.EBADF, "x"))


def test_a_file_in_the_way_of_an_output_folder(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(Unwritable, match=r"out/results\.json.*is not a directory|out/results\.json.*Not a directory"):
        write_text("x", tmp_path / "out" / "results.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(Unwritable, match="Is a directory"):
        write_text("x", tmp_path / "folder")
    assert not list(tmp_path.glob(".*"))


def test_a_disk_that_is_full_is_said_whatever_the_library_calls_it(monkeypatch, tmp_path):
    """torch and safetensors have errors of their own for it."""
    from dassl.utils import io

    with pytest.raises(RuntimeError, match="file write failed"), atomic_path(tmp_path / "x"):
        raise RuntimeError("PytorchStreamWriter: file write failed")
    with pytest.raises(Unwritable, match="No space left"), atomic_path(tmp_path / "x"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")  # safetensors
    monkeypatch.setattr(io, "_free", lambda path: 0)
    with pytest.raises(Unwritable, match=f"{tmp_path / 'x'}.*No space left"), atomic_path(tmp_path / "x"):
        raise RuntimeError("PytorchStreamWriter: file write failed")


def test_names_print_in_any_locale(tmp_path):
    """LC_ALL=C without UTF-8 mode, and a Latin-1 byte in a file name."""
    script = tmp_path / "names.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(REPO)!r})\n"  # the test's own script is no command
                      "from dassl.utils.errors import UserError, run_main\n"
                      "def main():\n    print('глиома │ ±', b'caf\\xe9.jpg'.decode('utf-8', 'surrogateescape'))\n"
                      "    raise UserError('глиома: no')\nrun_main(main)", encoding="utf-8")  # fmt: skip
    for environ in ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "C.UTF-8"}):
        done = subprocess.run([sys.executable, str(script)], env={**os.environ, **environ},
                              capture_output=True)  # fmt: skip
        assert done.returncode == 2 and b"Traceback" not in done.stderr, done.stderr
        assert done.stdout and done.stderr.startswith(b"error: ")


# ---- files


def test_json_that_is_no_object(tmp_path):
    path = tmp_path / "results.json"
    for text in ("[1]", "1", '"a"', "null"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"results\.json.* must hold a JSON object"):
            read_json_object(path)
    path.write_text('{"a": 1}')
    assert read_json_object(path) == {"a": 1}
    with pytest.raises(UserError, match="can't be read"):
        read_json_object(tmp_path)


def test_configuration_files_that_are_none(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("SEED: 1\n", encoding="utf-16")
    for bad, words in ((path, r"c\.yaml is not UTF-8 text.*UTF-16"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=words) as error:
            merge_from_file(get_cfg_default(), bad)
        assert "\n" not in str(error.value)
    path.write_bytes(b"\xef\xbb\xbfSEED: 3\n")  # as Windows' editor writes UTF-8
    cfg = get_cfg_default()
    merge_from_file(cfg, path)
    assert cfg.SEED == 3
    path.write_bytes(b"SEED: 1 \xe9\n")
    with pytest.raises(UserError, match="not UTF-8 text"):
        merge_from_file(cfg, path)


def test_a_configuration_file_that_may_not_be_read(tmp_path, monkeypatch):
    from pathlib import Path

    path = tmp_path / "c.yaml"
    path.write_text("SEED: 1\n")

    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(UserError, match=r"c\.yaml can't be read \(Permission denied\)"):
        merge_from_file(get_cfg_default(), path)


def test_a_hash_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    from dassl.utils import io

    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "cache"))
    path, read = tmp_path / "weights.bin", []
    original = io.sha256_file
    monkeypatch.setattr(io, "sha256_file", lambda p: read.append(p) or original(p))

    def age(seconds):
        os.utime(path, ns=(path.stat().st_mtime_ns - seconds * 10**9,) * 2)

    path.write_bytes(b"one")
    assert sha256_cached(path) == sha256_cached(path) == sha256_file(path)
    assert len(read) == 2  # so young a file may change within the clock's tick: not remembered
    age(60)
    monkeypatch.setattr(io, "YOUNG", 0)
    assert sha256_cached(path) == sha256_cached(path)
    assert len(read) == 3
    stamp = path.stat()
    path.write_bytes(b"two")  # as long
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # and, as `cp -p` would, as old
    assert sha256_cached(path) == original(path) and len(read) == 4


def test_hashing_needs_no_cache(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"x")
    monkeypatch.setenv("CILMP_CACHE", str(tmp_path / "x" / "cache"))
    assert sha256_cached(tmp_path / "x") == sha256_file(tmp_path / "x")


# ---- unknown names


def test_an_unknown_name_says_why_first_then_how_then_a_few():
    names = [f"set{i:02d}" for i in range(61)] + ["busi"]
    text = str(unknown_name("dataset", "busy", names, "Make one with: cilmp prepare."))
    assert text.startswith("unknown dataset 'busy' - did you mean 'busi'? Make one with: cilmp prepare.")
    assert text.index("Make one") < text.index("Known: busi, set00") and "and 54 more" in text
    assert "see cilmp list" in text and len(text) < 300
    few = str(unknown_name("schedule", "cosin", ["single", "cosine"]))
    assert few == "unknown schedule 'cosin' - did you mean 'cosine'? Known: cosine, single."
    assert "cilmp list" not in str(unknown_name("open_clip model", "x", names))
