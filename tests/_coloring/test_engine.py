"""The compiled kernels: when they are loaded, and what happens where no cache can be kept."""

import subprocess
import sys

import numba
import numpy as np

from torchjac._coloring.kernels.compiled import compiled


def test_importing_torchjac_does_not_import_numba():
    code = (
        "import sys, torchjac, torchjac._api.color, torchjac._layout.decompress;"
        "print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def double(x):
    return x + x


def test_kernels_are_compiled_without_a_cache_where_none_can_be_kept(monkeypatch):
    given = []
    original = numba.njit

    def njit(**options):
        given.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'double': no locator available")
        return original(**options)

    monkeypatch.setattr(numba, "njit", njit)
    fast = compiled(double)
    assert given == [{"cache": True, "nogil": True}, {"nogil": True}]
    assert fast(np.int32(4)) == 8
