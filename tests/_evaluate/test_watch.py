"""What autograd does not see is seen: values pulled out, and gradients switched off."""

import threading
import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import torchjac
from torchjac._evaluate.watch import Watch
from torchjac.errors import HiddenValueWarning, IndependenceWarning

STRATEGIES = ["auto", "reverse-mode", "forward-mode"]
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
weight = torch.linspace(-1, 1, 180, dtype=torch.float64).reshape(60, 3)


def point():
    return torch.tensor([0.5, -1.25, 2.0], dtype=torch.float64)


READERS = {
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: sum(x.tolist()),
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.sum()),
    "index": lambda x: [1.0, 2.0, 3.0, 4.0][x.sum().long() * 0 + int(x[2])],
    "complex": lambda x: complex(x.sum()).real,
    "torch.tensor": lambda x: torch.tensor([x[0], x[1], x[2]]).sum(),
}


class TestHiddenValues:
    """A number that came out of a tensor carries no derivative."""

    @every_strategy
    @pytest.mark.parametrize("reader", READERS)
    def test_a_value_pulled_out_is_warned_of(self, reader, strategy):
        read = READERS[reader]

        with pytest.warns(HiddenValueWarning, match="^jacobian: .*number"):
            torchjac.jacobian(lambda x: x * read(x), point(), strategy=strategy)

    @every_strategy
    @pytest.mark.parametrize("shape", ["square", "tall"])
    def test_what_was_pulled_out_counts_as_constant(self, shape, strategy):
        matrix = weight if shape == "tall" else torch.eye(3, dtype=torch.float64)

        with pytest.warns(HiddenValueWarning, match=r"item\(\)` turns a tensor that depends"):
            result = torchjac.jacobian(
                lambda x: matrix @ (x * x.sum().item()), point(), strategy=strategy
            )

        torch.testing.assert_close(result, matrix * 1.25)

    @every_strategy
    def test_detaching_first_says_that_it_is_meant(self, strategy):
        result = torchjac.jacobian(
            lambda x: x * x.detach().sum().item() + float(x.detach()[0]), point(), strategy=strategy
        )

        torch.testing.assert_close(result, 1.25 * torch.eye(3, dtype=torch.float64))

    @every_strategy
    def test_no_grad_says_that_it_is_meant(self, strategy):
        def func(x):
            with torch.no_grad():
                total = x.sum().item()
            return x * total

        result = torchjac.jacobian(func, point(), strategy=strategy)

        torch.testing.assert_close(result, 1.25 * torch.eye(3, dtype=torch.float64))

    @every_strategy
    def test_values_that_depend_on_nothing_are_free(self, strategy):
        constants = torch.arange(3.0, dtype=torch.float64)

        result = torchjac.jacobian(
            lambda x: x * constants.sum().item() * float(constants[1]), point(), strategy=strategy
        )

        torch.testing.assert_close(result, 3 * torch.eye(3, dtype=torch.float64))

    @every_strategy
    def test_shapes_and_branches_are_free(self, strategy):
        def func(x):
            return x * x.shape[0] * len(x) * x.numel() if x.detach()[0] > 0 else x

        result = torchjac.jacobian(func, point(), strategy=strategy)

        torch.testing.assert_close(result, 27 * torch.eye(3, dtype=torch.float64))

    def test_the_warning_points_at_the_line_that_reads(self):
        def func(x):
            return x * x.sum().item()

        with pytest.warns(HiddenValueWarning) as caught:
            torchjac.jacobian(func, point())

        assert caught[0].filename == __file__
        assert caught[0].lineno == func.__code__.co_firstlineno + 1

    def test_pytorch_does_not_say_the_same_again(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torchjac.jacobian(lambda x: x * float(x.sum()), point())

        assert [warning.category for warning in caught] == [HiddenValueWarning]

    @pytest.mark.parametrize("chunk_size", [1, None])
    def test_several_evaluations_warn_once(self, chunk_size):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torchjac.jacobian(
                lambda x: weight @ (x * x.sum().item()),
                point(),
                strategy="forward-mode",
                chunk_size=chunk_size,
            )

        assert [warning.category for warning in caught] == [HiddenValueWarning]

    def test_the_warning_names_the_public_call(self):
        with pytest.warns(HiddenValueWarning, match="^hessian: "):
            torchjac.hessian(lambda x: (x**2).sum() * x.sum().item(), point())
        with pytest.warns(HiddenValueWarning, match="^value_and_jacobian: "):
            torchjac.value_and_jacobian(lambda x: x * x.sum().item(), point())

    def test_a_watch_that_is_not_to_warn_is_silent(self):
        x = torch.ones(2, requires_grad=True)

        with Watch("jacobian", warn=False):
            value = x.sum().item()

        assert value == 2.0

    def test_a_watch_is_left_by_an_error(self):
        x = torch.ones(2, requires_grad=True)
        with pytest.raises(KeyError), Watch("jacobian"):
            raise KeyError

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert x.sum().item() == 2.0

    def test_other_threads_are_not_watched(self):
        values = []

        def func(x):
            other = torch.ones(2, requires_grad=True)
            thread = threading.Thread(target=lambda: values.append(other.sum().item()))
            thread.start()
            thread.join()
            return x * 2

        torchjac.jacobian(func, point())

        assert values == [2.0]


def no_grad_block(x):
    with torch.no_grad():
        total = x.sum()
    return total


@torch.no_grad()
def no_grad_decorated(x):
    return x.sum()


def set_grad_enabled_block(x):
    with torch.set_grad_enabled(False):
        total = x.sum()
    return total


def set_grad_enabled_call(x):
    torch.set_grad_enabled(False)
    total = x.sum()
    torch.set_grad_enabled(True)
    return total


def enable_within_no_grad(x):
    with torch.no_grad():
        with torch.enable_grad():
            pass
        total = x.sum()
    return total


def nested_no_grad(x):
    with torch.no_grad():
        with torch.no_grad():
            pass
        total = x.sum()
    return total


def error_within_no_grad(x):
    try:
        with torch.no_grad():
            total = x.sum()
            raise KeyError
    except KeyError:
        return total


def detached(x):
    return x.detach().sum()


SWITCHED_OFF = [
    no_grad_block,
    no_grad_decorated,
    set_grad_enabled_block,
    set_grad_enabled_call,
    enable_within_no_grad,
    nested_no_grad,
    error_within_no_grad,
    detached,
]


class TestNoGrad:
    """Forward mode ignores such blocks in PyTorch; here both modes take them as constant."""

    @every_strategy
    @pytest.mark.parametrize("shape", ["square", "tall"])
    @pytest.mark.parametrize("total", SWITCHED_OFF)
    def test_a_block_without_gradients_is_constant_in_every_mode(self, total, shape, strategy):
        matrix = weight if shape == "tall" else torch.eye(3, dtype=torch.float64)

        result = torchjac.jacobian(lambda x: matrix @ (x * total(x)), point(), strategy=strategy)

        torch.testing.assert_close(result, matrix * 1.25)

    @every_strategy
    def test_gradients_that_are_enabled_again_count(self, strategy):
        def func(x):
            with torch.no_grad():
                constant = x.sum()
                with torch.enable_grad():
                    total = x.sum()
            return weight @ (x * total * constant)

        result = torchjac.jacobian(func, point(), strategy=strategy)

        x = point()
        expected = 1.25 * weight @ (1.25 * torch.eye(3, dtype=torch.float64) + x[:, None])
        torch.testing.assert_close(result, expected)

    @every_strategy
    @pytest.mark.parametrize("api", ["batch_jacobian", "hessian"])
    def test_other_calls(self, api, strategy):
        if api == "batch_jacobian":
            x = point()[None]
            result = torchjac.batch_jacobian(
                lambda x: x * no_grad_block(x)[None], x, strategy=strategy
            )[0]
            expected = 1.25 * torch.eye(3, dtype=torch.float64)
        else:
            result = torchjac.hessian(
                lambda x: (x**2).sum() * no_grad_block(x),
                point(),
                outer_jacobian_strategy=strategy,
            )
            expected = 2.5 * torch.eye(3, dtype=torch.float64)

        torch.testing.assert_close(result, expected)

    @every_strategy
    def test_a_value_made_wholly_without_gradients_is_zero_and_warned_of(self, strategy):
        def func(x):
            with torch.no_grad():
                return weight @ x

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = torchjac.jacobian(func, point(), strategy=strategy)

        assert not result.any()
        assert IndependenceWarning in [warning.category for warning in caught]

    @pytest.mark.parametrize("enabled", [True, False])
    @every_strategy
    def test_the_callers_mode_is_as_it_was(self, strategy, enabled):
        with torch.set_grad_enabled(enabled):
            torchjac.jacobian(lambda x: weight @ (x * no_grad_block(x)), point(), strategy=strategy)

            assert torch.is_grad_enabled() is enabled
        assert torch._C._is_fwd_grad_enabled()

    @every_strategy
    def test_a_function_that_forgets_to_switch_gradients_on_again_harms_no_other(self, strategy):
        def forgetful(x):
            y = weight @ x
            torch.set_grad_enabled(False)
            return y

        torchjac.jacobian(forgetful, point(), strategy=strategy)

        assert torch.is_grad_enabled()
        assert torch._C._is_fwd_grad_enabled()
        result = torch.func.jacfwd(torch.sin)(torch.zeros(2))
        assert result.tolist() == [[1, 0], [0, 1]]


WITH_NUMBERS = {
    "sum": (lambda x: x + 2, [1.0, 1.0, 1.0]),
    "number first": (lambda x: 2.5 + x, [1.0, 1.0, 1.0]),
    "difference": (lambda x: x - 0.5, [1.0, 1.0, 1.0]),
    "from a number": (lambda x: 1 - x, [-1.0, -1.0, -1.0]),
    "product": (lambda x: 3 * x, [3.0, 3.0, 3.0]),
    "quotient": (lambda x: x / 4, [0.25, 0.25, 0.25]),
    "of one number": (lambda x: 4 / x, [-16.0, -2.56, -1.0]),
    "function": (lambda x: torch.div(torch.mul(x, 3), 2), [1.5, 1.5, 1.5]),
    "with alpha": (lambda x: torch.add(x, 1.0, alpha=2), [1.0, 1.0, 1.0]),
    "rounded": (lambda x: torch.div(x, 2, rounding_mode="floor"), [0.0, 0.0, 0.0]),
    "truth value": (lambda x: x * True, [1.0, 1.0, 1.0]),
}


class TestNumbers:
    """Numbers beside tensors are numbers in forward mode too."""

    @every_strategy
    @pytest.mark.parametrize("name", WITH_NUMBERS)
    def test_derivatives_are_right(self, name, strategy):
        func, diagonal = WITH_NUMBERS[name]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", IndependenceWarning)
            result = torchjac.jacobian(func, point(), strategy=strategy)

        expected = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        torch.testing.assert_close(result, expected)

    @every_strategy
    def test_dtypes_are_those_of_pytorch(self, strategy):
        seen = []

        def func(x):
            whole = torch.arange(3) * 2
            half = torch.arange(3) / 2
            seen.append((whole.dtype, half.dtype, (whole * 0.5).dtype, (x * 2).dtype))
            return x * half

        torchjac.jacobian(func, point().float(), strategy=strategy)

        assert set(seen) == {(torch.int64, torch.float32, torch.float32, torch.float32)}

    def test_operators_of_numbers_are_called_in_forward_mode(self):
        called = []

        class Listener(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                called.append(func)
                return func(*args, **(kwargs or {}))

        def func(x):
            with Listener():
                return 0.5 * x

        torchjac.jacobian(func, point(), strategy="forward-mode")

        assert torch.ops.aten.mul.Scalar in called
