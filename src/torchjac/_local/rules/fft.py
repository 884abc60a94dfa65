"""Fourier transforms and complex numbers.

A complex number counts as one element: its real and its imaginary part are not told apart.
"""

import torch

from torchjac._local.algebra import Mix, Move, Reduce, Scale, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule

aten = torch.ops.aten


@rule(aten._fft_r2c, aten._fft_c2c, aten._fft_c2r)
def fft(call: Call) -> Terms:
    """Every frequency depends on every sample, along the axes transformed.

    _fft_r2c(t, [1])  ->  t: Mix(1)
    """
    shape = call.out_shape()
    dims = tuple(sorted({d % len(shape) for d in call["dim"]}))
    return [Term(call["self"], [Mix(dims, shape)])]


@rule(aten.view_as_real)
def view_as_real(call: Call) -> Terms:
    """A complex number becomes two.

    view_as_real(t)  ->  t: Move(expand)
    """
    return [Term(call["self"], [Move(lambda t: t.unsqueeze(-1).expand(*t.shape, 2))])]


@rule(aten.view_as_complex)
def view_as_complex(call: Call) -> Terms:
    """Two numbers become a complex one.

    view_as_complex(t)  ->  t: Reduce(-1)
    """
    return [Term(call["self"], [Reduce((len(call.out_shape()),))])]


@rule(aten._conj, aten._conj_physical, aten._neg_view, aten.resolve_conj, aten.resolve_neg)
def conjugate(call: Call) -> Terms:
    """The same elements, their imaginary parts negated.

    _conj(t)  ->  t
    """
    return [Term(call["self"])]


@rule(aten.complex)
def complex_of_parts(call: Call) -> Terms:
    """A complex number from its parts.

    complex(t, c)  ->  t: Scale
    """
    return [Term(ref, [Scale(call.out_shape())]) for ref in call.tangents()]
