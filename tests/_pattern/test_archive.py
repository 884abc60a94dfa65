"""Files: whole or not there, and never misread."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from torchjac import errors
from torchjac._pattern.pattern import SparsityPattern


@pytest.fixture
def pattern() -> SparsityPattern:
    return SparsityPattern.from_dense(np.tri(40, 30, k=2))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pattern.npz"


@pytest.mark.parametrize("convert", [Path, str])
def test_saved_and_loaded(pattern, path: Path, convert) -> None:
    pattern.save(convert(path))
    assert SparsityPattern.load(convert(path)) == pattern
    assert os.listdir(path.parent) == ["pattern.npz"]


def test_the_name_is_kept_as_it_is(pattern, tmp_path: Path) -> None:
    pattern.save(tmp_path / "pattern.bin")
    assert os.listdir(tmp_path) == ["pattern.bin"]


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (2, 2**33)])
def test_empty_and_wide_patterns_are_saved(path: Path, shape) -> None:
    SparsityPattern.from_coo(shape, [], []).save(path)
    assert SparsityPattern.load(path) == SparsityPattern.from_coo(shape, [], [])


def test_any_changed_byte_is_noticed_or_without_effect(pattern, path: Path) -> None:
    pattern.save(path)
    good = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for position in random.integers(0, len(good), 300).tolist():
        bad = bytearray(good)
        bad[position] ^= 1 << random.integers(8)
        path.write_bytes(bad)
        try:
            again = SparsityPattern.load(path)
        except errors.FileContentError:
            refused += 1
        else:
            assert again == pattern  # a time stamp, say
    assert refused > 200


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(pattern, path: Path, kept: float) -> None:
    pattern.save(path)
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    with pytest.raises(errors.FileContentError, match="is damaged or was not written by torchjac"):
        SparsityPattern.load(path)


def test_a_missing_file_is_an_oserror(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SparsityPattern.load(path)


def test_an_interrupted_save_leaves_the_file_before_it(pattern, path: Path, monkeypatch) -> None:
    pattern.save(path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        pattern.T.save(path)
    assert SparsityPattern.load(path) == pattern
    assert os.listdir(path.parent) == ["pattern.npz"]


def test_the_file_is_as_readable_as_any_other(pattern, path: Path) -> None:
    pattern.save(path)
    (path.parent / "other").write_text("")
    assert path.stat().st_mode == (path.parent / "other").stat().st_mode
