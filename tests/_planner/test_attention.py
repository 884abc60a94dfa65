"""Plans of attention: rows through the whole, products in their cheapest order, and exact."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import torchjac

MASK = torch.tensor([[0, -1, 2], [1, 0, 1], [-3, 1, 0]], dtype=torch.float64)


class Block(nn.Module):
    """A transformer block of so wide tokens, some of its queries from elsewhere if asked."""

    def __init__(self, width: int, heads: int, **options) -> None:
        super().__init__()
        self.heads, self.options = heads, options
        self.norm, self.split = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.inner = nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.split(self.norm(x)).chunk(3, -1)
        parts = [p.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for p in parts]
        seen = scaled_dot_product_attention(*parts, **self.options)
        x = x + self.join(seen.transpose(-2, -3).flatten(-2))
        return x + self.inner(x)


def made(function, dtype):
    torch.manual_seed(0)
    return function().to(dtype).requires_grad_(False)


def check(net, *shape: int, dtype=torch.float64):
    x, other = (
        torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(k)) for k in (1, 2)
    )
    plan = torchjac.plan(net, x, backend="replay", layout=torch.strided)
    for point in (x, other, x.mT.contiguous().mT):
        torch.testing.assert_close(plan(point), torch.func.jacrev(net)(point))
    return plan


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.filterwarnings("ignore::torchjac.errors.FallbackWarning")
@pytest.mark.parametrize(
    ("shape", "heads", "dtype"),
    [
        ((8, 32), 4, torch.float32),
        ((5, 24), 1, torch.float64),
        ((1, 32), 2, torch.float64),
        ((2, 4, 32), 2, torch.float64),
        ((7, 33), 3, torch.float64),
    ],
)
def test_blocks(shape, heads, dtype):
    net = made(lambda: Block(shape[-1], heads), dtype)
    check(net, *shape, dtype=dtype)


@pytest.mark.parametrize(
    "options", [{"is_causal": True}, {"dropout_p": 0.0}, {"attn_mask": MASK}, {"scale": 0.1}]
)
def test_options_of_attention(options):
    check(made(lambda: Block(32, 2, **options), torch.float64), 3, 32)


def test_queries_that_see_no_key():
    mask = torch.tensor([[True, False, True], [False] * 3, [True] * 3])
    check(made(lambda: Block(32, 2, attn_mask=mask), torch.float64), 3, 32)


@pytest.mark.parametrize("moving", ["queries", "keys", "values", "all"])
def test_attention_to_others(moving):
    others = torch.randn(
        3, 2, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )

    def seen(x):
        wide = x.unflatten(-1, (2, 16)).transpose(0, 1)
        query, key, value = others
        query = wide if moving in ("queries", "all") else query
        key = wide if moving in ("keys", "all") else key[:, :9]
        value = wide.sin() if moving in ("values", "all") else value[:, :9]
        weights = torch.softmax(query @ key.mT, -1)
        return (weights @ value).transpose(0, 1).flatten(1)

    check(seen, 9, 32)


def test_two_blocks():
    check(made(lambda: nn.Sequential(Block(16, 2), Block(16, 2)), torch.float64), 4, 16)


def test_rows_go_through_the_whole():
    plan = check(made(lambda: Block(32, 4), torch.float64), 8, 32)
    assert plan.method == "direct, transposed, replay"


def test_what_is_infinite_is_not_lost():
    net = made(lambda: Block(32, 2), torch.float64)
    plan = torchjac.plan(
        net, torch.randn(6, 32, dtype=torch.float64), backend="replay", layout=torch.strided
    )
    x = torch.randn(6, 32, dtype=torch.float64)
    x[2, 3] = torch.nan
    assert plan(x).isnan()[2].all()
