"""Every evaluation of a random function sees the same random numbers."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import torchjac
from torchjac._evaluate.randomness import random_state
from torchjac.errors import TorchjacError, TorchjacWarning

STRATEGIES = ["auto", "reverse-mode", "forward-mode"]
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
weight = torch.linspace(-1, 1, 180, dtype=torch.float64).reshape(60, 3)


def point():
    return torch.tensor([0.5, -1.25, 2.0], dtype=torch.float64)


class TestState:
    """Taking the state, and going back to it."""

    def test_a_block_starts_where_the_state_was_taken(self):
        torch.manual_seed(0)
        state = random_state([point()])
        first = torch.rand(3)

        with state.replayed():
            second = torch.rand(3)

        assert torch.equal(first, second)

    def test_after_a_block_all_goes_on_as_if_it_had_not_been(self):
        torch.manual_seed(0)
        expected = torch.rand(6)

        torch.manual_seed(0)
        state = random_state([point()])
        drawn = torch.rand(3)
        with state.replayed():
            torch.rand(100)
        rest = torch.rand(3)

        assert torch.equal(torch.cat([drawn, rest]), expected)

    def test_a_block_that_fails_changes_nothing_either(self):
        state = random_state([point()])
        before = torch.get_rng_state()

        def draw_and_fail():
            with state.replayed():
                torch.rand(3)
                raise KeyError

        with pytest.raises(KeyError):
            draw_and_fail()

        assert torch.equal(before, torch.get_rng_state())

    def test_blocks_nest(self):
        state = random_state([point()])

        with state.replayed():
            first = torch.rand(2)
            with state.replayed():
                again = torch.rand(2)
            second = torch.rand(2)

        with state.replayed():
            assert torch.equal(torch.rand(4), torch.cat([first, second]))
        assert torch.equal(first, again)

    def test_drawing_is_noticed(self):
        state = random_state([point()])
        assert not state.was_used()

        torch.rand(1)

        assert state.was_used()

    def test_looking_draws_nothing(self):
        before = torch.get_rng_state()

        state = random_state([point()])
        state.was_used()

        assert torch.equal(before, torch.get_rng_state())


class TestDropout:
    """One mask for a whole Jacobian."""

    @every_strategy
    @pytest.mark.parametrize(
        "options", [{}, {"chunk_size": 1}, {"chunk_size": 2}, {"vectorize": False}], ids=str
    )
    def test_the_mask_is_that_of_one_evaluation(self, options, strategy):
        x = torch.linspace(0.5, 2, 8, dtype=torch.float64)

        torch.manual_seed(11)
        result = torchjac.jacobian(
            lambda x: F.dropout(x, 0.5) ** 2, x, strategy=strategy, **options
        )
        torch.manual_seed(11)
        mask = F.dropout(torch.ones_like(x), 0.5)

        assert 0 < mask.count_nonzero() < 8
        torch.testing.assert_close(result, torch.diag(2 * x * mask**2))

    @every_strategy
    @pytest.mark.parametrize("chunk_size", [None, 1])
    def test_samples(self, chunk_size, strategy):
        x = torch.linspace(0.5, 2, 32, dtype=torch.float64).reshape(4, 8)

        torch.manual_seed(11)
        result = torchjac.batch_jacobian(
            lambda x: F.dropout(x, 0.5) ** 2, x, strategy=strategy, chunk_size=chunk_size
        )
        torch.manual_seed(11)
        mask = F.dropout(torch.ones_like(x), 0.5)

        torch.testing.assert_close(result, torch.diag_embed(2 * x * mask**2))

    @every_strategy
    def test_value_and_jacobian_belong_together(self, strategy):
        x = torch.linspace(0.5, 2, 8, dtype=torch.float64)

        value, result = torchjac.value_and_jacobian(
            lambda x: F.dropout(x, 0.5) ** 2, x, strategy=strategy
        )

        torch.testing.assert_close(result.diagonal(), 2 * value / x)

    @every_strategy
    def test_hessians(self, strategy):
        x = torch.linspace(0.5, 2, 8, dtype=torch.float64)

        torch.manual_seed(11)
        result = torchjac.hessian(
            lambda x: (F.dropout(x, 0.5) ** 3).sum(), x, outer_jacobian_strategy=strategy
        )
        torch.manual_seed(11)
        mask = F.dropout(torch.ones_like(x), 0.5)

        torch.testing.assert_close(result, torch.diag(6 * x * mask**3))

    @every_strategy
    def test_calls_differ_from_each_other(self, strategy):
        x = torch.ones(64, dtype=torch.float64)
        torch.manual_seed(0)

        first, second = (
            torchjac.jacobian(lambda x: F.dropout(x, 0.5), x, strategy=strategy) for _ in range(2)
        )

        assert not torch.equal(first, second)

    @every_strategy
    def test_the_generator_stands_where_one_evaluation_leaves_it(self, strategy):
        torch.manual_seed(5)
        torchjac.jacobian(lambda x: weight @ F.dropout(x), point(), strategy=strategy, chunk_size=1)
        after = torch.rand(3)

        torch.manual_seed(5)
        F.dropout(point())
        assert torch.equal(after, torch.rand(3))


class TestOtherGenerators:
    """Generators that torchjac cannot set back."""

    @pytest.mark.parametrize("chunk_size", [None, 1])
    @every_strategy
    @pytest.mark.parametrize("source", ["torch.Generator", "numpy"])
    def test_columns_of_different_draws_are_not_put_together_in_silence(
        self, source, strategy, chunk_size
    ):
        generator = torch.Generator().manual_seed(0)
        numbers = np.random.default_rng(0)

        def func(x):
            if source == "numpy":
                factor = torch.from_numpy(numbers.random(3))
            else:
                factor = torch.rand(3, generator=generator, dtype=torch.float64)
            return weight @ (x * factor[:1])  # one factor for all columns

        said = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = torchjac.jacobian(func, point(), strategy=strategy, chunk_size=chunk_size)
            except TorchjacError as error:
                said.append(error)
        said += [w for w in caught if issubclass(w.category, TorchjacWarning)]

        factors = [] if not caught and said else (result / weight).flatten()
        consistent = len(factors) > 0 and torch.allclose(factors, factors[0])
        assert consistent or said
