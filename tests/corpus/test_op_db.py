"""Every differentiable operation of PyTorch: all routes equal one backward pass per row."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

import torchjac
from tests.corpus.gaps import MODES_DIFFER
from torchjac.errors import (
    DisagreementWarning,
    FallbackWarning,
    IndependenceWarning,
    TorchjacWarning,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.opinfo.core import OpInfo, SampleInput

# PyTorch warns of operations that it has deprecated or that are in beta.
pytestmark = pytest.mark.filterwarnings("ignore")

SEED = 20_240
RTOL = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
SMALL = 1e-3  # a Jacobian with no larger entry is compared absolutely


class Limits(NamedTuple):
    """Which samples of an operation are compared."""

    samples: int  # at most so many, spread evenly over those that fit
    empty: int  # besides, at most so many whose inputs or outputs have no elements
    seeds: int  # elements of the inputs, and of the outputs
    entries: int  # of the Jacobian


FEW = Limits(samples=6, empty=1, seeds=300, entries=20_000)
MANY = Limits(samples=40, empty=4, seeds=1_000, entries=400_000)


class Route(NamedTuple):
    """One way to ask for a Jacobian."""

    jacobian: Callable[..., Any]
    # Blocks have the dtype of their input, or of their output as in PyTorch's forward mode.
    output_dtype: bool = False
    # Where PyTorch's two modes differ the answer is that of reverse mode, or of forward mode.
    by_columns: bool = False


ROUTES = {
    "auto": Route(torchjac.jacobian),
    "auto, loop": Route(lambda f, x: torchjac.jacobian(f, x, vectorize=False)),
    "reverse-mode": Route(lambda f, x: torchjac.jacobian(f, x, strategy="reverse-mode")),
    "forward-mode": Route(
        lambda f, x: torchjac.jacobian(f, x, strategy="forward-mode"), output_dtype=True
    ),
    "forward-mode, loop": Route(
        lambda f, x: torchjac.jacobian(f, x, vectorize=False, strategy="forward-mode"),
        output_dtype=True,
    ),
    "functional, reverse-mode": Route(torchjac.functional.jacobian),
    "functional, forward-mode": Route(
        lambda f, x: torchjac.functional.jacobian(f, x, vectorize=True, strategy="forward-mode"),
        output_dtype=True,
        by_columns=True,
    ),
}


class Case(NamedTuple):
    """A function and where to differentiate it."""

    function: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def sizes(self) -> tuple[int, int]:
        return sum(x.numel() for x in self.inputs), sum(y.numel() for y in self.outputs)

    @property
    def is_empty(self) -> bool:
        return not prod(self.sizes)

    def fits(self, limits: Limits) -> bool:
        n_in, n_out = self.sizes
        return max(n_in, n_out) <= limits.seeds and n_in * n_out <= limits.entries

    def flat(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs as a tuple, from the same random numbers at every call."""
        torch.manual_seed(SEED)
        outputs = self.function(*inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)


def name_of(op: OpInfo) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


def is_differentiable(op: OpInfo) -> bool:
    return (
        op.supports_autograd
        and op.supports_dtype(torch.float64, "cpu")
        and torch.float64 in op.supported_backward_dtypes("cpu")
    )


OPS: dict[str, OpInfo] = {name_of(op): op for op in op_db if is_differentiable(op)}


def samples_of(op: OpInfo) -> list[SampleInput]:
    torch.manual_seed(SEED)
    return list(op.sample_inputs("cpu", torch.float64, requires_grad=True))


def case_of(op: OpInfo, sample: SampleInput) -> Case | None:
    """The sample as a function of its differentiable tensors, or None if there are none."""
    leaves, spec = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    places = [k for k, leaf in enumerate(leaves) if _is_input(leaf)]
    inputs = tuple(leaves[k].detach() for k in places)

    def everything(*values: Tensor) -> list[Any]:
        # Copies, since running statistics are written to.
        filled = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        for k, value in zip(places, values, strict=True):
            filled[k] = value
        first, args, kwargs = pytree.tree_unflatten(filled, spec)
        result = op.gradcheck_wrapper(op.get_op(), first, *args, **kwargs)
        if sample.output_process_fn_grad is not None:
            result = sample.output_process_fn_grad(result)
        return pytree.tree_leaves(result)

    if not places:
        return None
    probed = everything(*[x.detach().requires_grad_() for x in inputs])
    kept = [k for k, y in enumerate(probed) if isinstance(y, Tensor) and y.requires_grad]

    def function(*values: Tensor) -> Any:
        result = everything(*values)
        outputs = tuple(_as_real(result[k]) for k in kept)
        return outputs[0] if len(outputs) == 1 else outputs

    outputs = tuple(_as_real(probed[k].detach()) for k in kept)
    return Case(function, inputs, outputs) if kept else None


def _is_input(leaf: Any) -> bool:
    return (
        isinstance(leaf, Tensor)
        and leaf.requires_grad
        and leaf.is_floating_point()
        and leaf.layout is torch.strided
    )


def _as_real(output: Tensor) -> Tensor:
    dense = output if output.layout is torch.strided else output.to_dense()
    return torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense


def by_rows(case: Case) -> list[Tensor]:
    """Blocks from one backward pass per row; PyTorch refuses outputs without elements."""
    full = [i for i, y in enumerate(case.outputs) if y.numel()]

    def nonempty(*inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = case.flat(*inputs)
        return tuple(outputs[i] for i in full)

    rows = torch.autograd.functional.jacobian(nonempty, case.inputs) if full else ()
    found = dict(zip(full, rows, strict=True))
    return [
        found[i][j] if i in found else x.new_zeros(y.shape + x.shape)
        for i, y in enumerate(case.outputs)
        for j, x in enumerate(case.inputs)
    ]


def by_columns(case: Case) -> list[Tensor]:
    """Blocks from one tangent per column, by PyTorch's forward mode."""
    blocks = [[y.new_zeros(y.numel(), x.numel()) for x in case.inputs] for y in case.outputs]
    for j, x in enumerate(case.inputs):
        for column in range(x.numel()):
            tangents = [other.new_zeros(other.shape) for other in case.inputs]
            tangents[j].view(-1)[column] = 1
            with forward_ad.dual_level():
                duals = map(forward_ad.make_dual, [t.clone() for t in case.inputs], tangents)
                for row, y in zip(blocks, case.flat(*duals), strict=True):
                    tangent = forward_ad.unpack_dual(y).tangent
                    if tangent is not None:
                        row[j][:, column] = tangent.reshape(-1)
    return [
        block.reshape(y.shape + x.shape)
        for y, row in zip(case.outputs, blocks, strict=True)
        for x, block in zip(case.inputs, row, strict=True)
    ]


def difference(case: Case, blocks: Sequence[Tensor], expected: Sequence[Tensor]) -> str | None:
    """How two Jacobians differ, or None; NaN equals NaN, rounding is relative to the largest."""
    shapes = [block.shape for block in blocks]
    if shapes != [block.shape for block in expected]:
        return f"shapes {[tuple(shape) for shape in shapes]}"
    rtol = max(RTOL[t.dtype] for t in (*case.inputs, *case.outputs))
    ours, theirs = (torch.cat([b.double().flatten() for b in side]) for side in (blocks, expected))
    finite = theirs[theirs.isfinite()].abs()
    largest = finite.max().item() if finite.numel() else 0.0
    atol = rtol * max(largest, SMALL)
    wrong = ~torch.isclose(ours, theirs, rtol=rtol, atol=atol, equal_nan=True)
    if not wrong.any():
        return None
    worst = (ours - theirs)[wrong].abs().max()
    return f"{wrong.sum()} of {wrong.numel()} entries differ, by up to {worst:.3g}"


def dtypes(case: Case, route: Route) -> list[torch.dtype]:
    """Dtypes that the blocks are to have."""
    return [y.dtype if route.output_dtype else x.dtype for y in case.outputs for x in case.inputs]


def has_constant_output(case: Case, blocks: Sequence[Tensor]) -> bool:
    """Whether the derivatives of an output by all inputs are zero."""
    width = len(case.inputs)
    rows = [blocks[start : start + width] for start in range(0, len(blocks), width)]
    return any(not any(block.any() for block in row) for row in rows)


class Account:
    """What came of one operation: counts, fallbacks, faults, and whether its gap showed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.compared = 0
        self.faults: list[str] = []
        self.fallbacks: Counter[str] = Counter()
        self.gap_shows = False

    def compare(self, number: int, case: Case) -> None:
        """Compare every route with the reference."""
        rows = by_rows(case)
        columns = rows
        if self.name in MODES_DIFFER:
            columns = by_columns(case)
            self.gap_shows |= difference(case, columns, rows) is not None
        for label, route in ROUTES.items():
            fault = self._fault(label, route, case, columns if route.by_columns else rows)
            if fault is not None:
                self.faults.append(f"sample {number}, {label}: {fault}")
        self.compared += not case.is_empty

    def _fault(self, label: str, route: Route, case: Case, expected: list[Tensor]) -> str | None:
        torch.manual_seed(SEED)
        inputs = case.inputs if len(case.inputs) > 1 else case.inputs[0]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                blocks = pytree.tree_leaves(route.jacobian(case.function, inputs))
            except Exception as error:
                return f"raised {type(error).__name__}: {error}"
        expected_warnings = [DisagreementWarning] if self.name in MODES_DIFFER else []
        if has_constant_output(case, expected):
            expected_warnings.append(IndependenceWarning)
        for warning in caught:
            if issubclass(warning.category, FallbackWarning):
                self.fallbacks[f"{label} -> {str(warning.message).partition(': ')[2]}"] += 1
            elif (
                issubclass(warning.category, TorchjacWarning)
                and warning.category not in expected_warnings
            ):
                return f"warned {warning.message}"
        found = [block.dtype for block in blocks]
        if found != dtypes(case, route):
            return f"dtypes {found}"
        return difference(case, blocks, expected)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.compared} samples"]
        return "\n".join(lines + [f"  {n} x {text}" for text, n in self.fallbacks.items()])


def cases(op: OpInfo, limits: Limits) -> Iterator[tuple[int, Case]]:
    """Numbered samples that fit the limits, or the smallest; then some without elements.

    Yields:
        The number of the sample, and its case.
    """
    samples = [*EXTRA_SAMPLES.get(name_of(op), list)(), *samples_of(op)]
    every = [(number, case_of(op, sample)) for number, sample in enumerate(samples)]
    known = [(number, case) for number, case in every if case is not None]
    fitting = [pair for pair in known if pair[1].fits(limits) and not pair[1].is_empty]
    if not fitting:
        full = [pair for pair in known if not pair[1].is_empty]
        fitting = sorted(full, key=lambda pair: prod(pair[1].sizes))[:1]
    stride = max(1, -(-len(fitting) // limits.samples))
    yield from fitting[::stride]
    yield from [pair for pair in known if pair[1].is_empty][: limits.empty]


def check(name: str, limits: Limits) -> None:
    account = Account(name)
    for number, case in cases(OPS[name], limits):
        account.compare(number, case)
    print(account)  # noqa: T201 - `pytest -rP` shows where PyTorch cannot take the fast way
    assert account.compared, f"no sample of {name} was compared"
    assert not account.faults, "\n".join(account.faults)
    if name in MODES_DIFFER:
        assert account.gap_shows, f"the gap of {name} does not show any more: {MODES_DIFFER[name]}"


def _small_slice_scatter() -> Iterable[SampleInput]:
    yield SampleInput(_leaf(4, 5), args=(_leaf(4, 2),), kwargs={"dim": 1, "start": 1, "end": 3})


def _small_ctc_loss() -> Iterable[SampleInput]:
    targets = torch.tensor([[1, 2], [3, 1]])
    lengths = {"input_lengths": torch.tensor([5, 4]), "target_lengths": torch.tensor([2, 1])}
    yield SampleInput(_leaf(5, 2, 4), args=(targets,), kwargs=lengths)


def _tall_scatter_reduce() -> Iterable[SampleInput]:
    index = torch.tensor([1, 1, 7, 30])
    target = torch.ones(40, dtype=torch.float64)
    yield SampleInput(target, args=(0, index, _leaf(4), "prod"), kwargs={"include_self": True})


def _leaf(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


# For operations whose own samples are all too large for a whole Jacobian, and for one whose forward
# mode is wrong but whose samples are never tall enough for forward mode to be chosen.
EXTRA_SAMPLES: dict[str, Callable[[], Iterable[SampleInput]]] = {
    "nn.functional.ctc_loss": _small_ctc_loss,
    "scatter_reduce.prod": _tall_scatter_reduce,
    "slice_scatter": _small_slice_scatter,
}


# A part of every family, for the quick run.
FAMILIES = {
    "pointwise": "add mul div.no_rounding_mode pow sin exp log1p tanh sigmoid clamp where lerp "
    "addcmul atan2 nn.functional.gelu nn.functional.softplus nn.functional.rrelu bfloat16",
    "reductions": "sum mean prod var std.unbiased logsumexp amax norm cumsum cumprod softmax "
    "linalg.vector_norm masked.softmax",
    "linear algebra": "matmul addmm einsum tensordot cdist matrix_exp svd_lowrank linalg.inv "
    "linalg.solve linalg.cholesky linalg.qr linalg.svdvals linalg.eigh linalg.det linalg.pinv",
    "indexing": "__getitem__ gather index_select take_along_dim masked_select masked_fill "
    "index_put sort topk median",
    "scattering": "scatter scatter_add scatter_reduce.mean scatter_reduce.prod index_add "
    "slice_scatter as_strided_scatter",
    "movement": "cat stack roll repeat permute unfold diag_embed split tril "
    "nn.functional.pad.reflect",
    "layers": "nn.functional.linear nn.functional.embedding nn.functional.conv1d "
    "nn.functional.conv2d nn.functional.conv_transpose2d nn.functional.avg_pool2d "
    "nn.functional.max_pool2d nn.functional.max_unpool2d nn.functional.adaptive_avg_pool2d "
    "nn.functional.layer_norm nn.functional.group_norm nn.functional.batch_norm "
    "nn.functional.scaled_dot_product_attention nn.functional.dropout",
    "transforms": "fft.rfft fft.irfft fft.fft2 nn.functional.interpolate.bilinear "
    "nn.functional.grid_sample",
    "losses": "nn.functional.cross_entropy nn.functional.mse_loss nn.functional.ctc_loss "
    "nn.functional.binary_cross_entropy",
}
REPRESENTATIVES = [name for names in FAMILIES.values() for name in names.split()]


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_common_operations_by_every_route_equal_single_backward_passes(name: str) -> None:
    check(name, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPS)
def test_all_operations_by_every_route_equal_single_backward_passes(name: str) -> None:
    check(name, MANY)


def test_the_table_of_gaps_names_operations_that_are_tested() -> None:
    assert set(MODES_DIFFER) <= set(OPS)


def test_names_of_operations_are_unique() -> None:
    assert len(OPS) == sum(map(is_differentiable, op_db))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda block: block + 1e-6,
        lambda block: block.T,
        lambda block: block.float(),
        lambda block: torch.where(block == 0, torch.nan, block),
        lambda block: block[:1],
    ],
    ids=["values", "order", "precision", "nan", "shape"],
)
def test_a_wrong_route_is_found(
    spoil: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Route(lambda f, x: spoil(torchjac.jacobian(f, x)))
    monkeypatch.setitem(ROUTES, "wrong", wrong)
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    account = Account("planted")
    account.compare(7, Case(lambda x: x.cumsum(0), (x,), (x,)))
    assert [fault[:16] for fault in account.faults] == ["sample 7, wrong:"]


def test_a_gap_that_does_not_show_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODES_DIFFER, "cumsum", "none")
    with pytest.raises(AssertionError, match="the gap of cumsum does not show any more: none"):
        check("cumsum", FEW)
