"""Named arrays in one file: npz without pickles, checksummed, replaced in one step.

A reader either gets every array as it was written or an error that says what is wrong with the
file; a writer that is interrupted leaves the file that was there before.
"""

import hashlib
import os
import secrets
import zipfile
import zlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchjac.errors import FileContentError

KIND, VERSION, CHECKSUM = "kind", "version", "checksum"

# What NumPy, zipfile and zlib raise on a file with wrong bytes in it.
_UNREADABLE = (
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def write_archive(
    path: str | PathLike[str], kind: str, version: int, arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write arrays to `path`, by way of a file beside it that takes its place when it is whole.

    Args:
        path: The file, replaced if there is one.
        kind: What the arrays are, for the reader to compare.
        version: Number of the format.
        arrays: Names and arrays, none of them of Python objects.
    """
    target = Path(path)
    members: dict[str, Any] = {
        KIND: np.array(kind),
        VERSION: np.array(version),
        CHECKSUM: np.array(_checksum(kind, version, arrays)),
        **arrays,
    }
    beside = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        with beside.open("xb") as file:
            np.savez(file, **members)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    _sync_folder(target.parent)


def read_archive(
    api: str, path: str | PathLike[str], kind: str, version: int
) -> dict[str, NDArray[Any]]:
    """The arrays of a file that `write_archive` wrote.

    Args:
        api: Name of the public function, for messages.
        path: The file.
        kind: What the arrays must be.
        version: The newest format that the caller reads.

    Returns:
        Names and arrays.

    Raises:
        FileContentError: The file is damaged, of another kind or of a newer format.
        OSError: It cannot be read at all.
    """
    arrays = _read(api, path)
    if not {KIND, VERSION, CHECKSUM} <= arrays.keys():
        raise FileContentError(
            f"{api}: {str(path)!r} was not written by torchjac: it has no header."
        )
    header = {name: arrays.pop(name) for name in (KIND, VERSION, CHECKSUM)}
    if str(header[KIND]) != kind:
        raise FileContentError(f"{api}: {str(path)!r} holds a {header[KIND]}, expected a {kind}.")
    found = int(header[VERSION])
    if found > version:
        raise FileContentError(
            f"{api}: {str(path)!r} has format {found}, and this torchjac reads formats up to "
            f"{version}: a newer one wrote it."
        )
    if str(header[CHECKSUM]) != _checksum(kind, found, arrays):
        raise FileContentError(f"{api}: {str(path)!r} is damaged: its checksum does not match.")
    return arrays


def _read(api: str, path: str | PathLike[str]) -> dict[str, NDArray[Any]]:
    # Opened here: of files that it cannot parse, NumPy leaves some open.
    with Path(path).open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise FileContentError(
                f"{api}: {str(path)!r} is damaged or was not written by torchjac: "
                "it is no npz archive."
            )
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except _UNREADABLE as error:
            raise FileContentError(f"{api}: {str(path)!r} is damaged: {error}") from error


def _checksum(kind: str, version: int, arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of the header and of every name, dtype, shape and byte."""
    digest = hashlib.sha256(f"{kind} {version}".encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"|{name} {array.dtype.str} {np.shape(arrays[name])}|".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make the new name itself last, where folders can be opened (not on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
