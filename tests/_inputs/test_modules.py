"""`wrt=module`: Jacobians by the parameters of a module."""

import copy
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import torchjac
from torchjac.errors import (
    ArgumentError,
    ArgumentTypeError,
    ClosureWarning,
    IndependenceWarning,
    TorchjacWarning,
)

STRATEGIES = ("auto", "reverse-mode", "forward-mode")
DTYPES = (torch.float64, torch.float32)

# Batch norm has no forward mode while it writes to its buffers.
may_fall_back = pytest.mark.filterwarnings("ignore::torchjac.errors.FallbackWarning")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(3, 3, dtype=torch.float64)
        self.decode = nn.Linear(3, 3, dtype=torch.float64)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        return self.decode(torch.tanh(self.encode(x)))


class Shared(nn.Module):
    """The same submodule under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3, dtype=torch.float64)
        self.second = self.first

    def forward(self, x):
        return self.second(self.first(x).sin())


def mlp(dtype=torch.float64):
    return nn.Sequential(nn.Linear(3, 4, dtype=dtype), nn.Tanh(), nn.Linear(4, 2, dtype=dtype))


def norm_net():
    return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).double()


def row_by_row(output, module):
    """The Jacobian by ordinary backward passes, one per element of the output."""
    parameters = dict(module.named_parameters())
    rows = [
        torch.autograd.grad(
            element,
            list(parameters.values()),
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        for element in output.reshape(-1)
    ]
    return {
        name: torch.stack([row[k] for row in rows]).reshape(output.shape + parameter.shape)
        for k, (name, parameter) in enumerate(parameters.items())
    }


def assert_same(actual, expected):
    assert list(actual) == list(expected)
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_jacobian_is_a_dict_by_parameter_name(strategy, dtype):
    net, x = mlp(dtype), torch.randn(5, 3, dtype=dtype)
    jac = torchjac.jacobian(net, x, wrt=net, strategy=strategy)
    assert {name: tuple(block.shape) for name, block in jac.items()} == {
        "0.weight": (5, 2, 4, 3),
        "0.bias": (5, 2, 4),
        "2.weight": (5, 2, 2, 4),
        "2.bias": (5, 2, 2),
    }
    assert_same(jac, row_by_row(net(x), net))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_linear_layer_has_the_jacobian_of_the_textbook(strategy):
    layer, x = nn.Linear(2, 2), torch.tensor([3.0, 5.0])
    jac = torchjac.jacobian(layer, x, wrt=layer, strategy=strategy)
    weight = [[[3.0, 5.0], [0.0, 0.0]], [[0.0, 0.0], [3.0, 5.0]]]
    assert jac["weight"].tolist() == weight
    assert jac["bias"].tolist() == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_function_may_be_a_closure_over_the_module(strategy):
    net, x = mlp(), torch.randn(3, dtype=torch.float64)

    def penalized(x):
        return net(x) ** 2 + net[0].weight.sum()

    jac = torchjac.jacobian(penalized, x, wrt=net, strategy=strategy)
    assert_same(jac, row_by_row(penalized(x), net))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("wrap", [lambda net: net.forward, partial], ids=["method", "partial"])
def test_the_function_may_be_a_method_or_a_partial_of_the_module(wrap, strategy):
    net, x = mlp(), torch.randn(3, dtype=torch.float64)
    jac = torchjac.jacobian(wrap(net), x, wrt=net, strategy=strategy)
    assert_same(jac, row_by_row(net(x), net))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_module_may_be_a_part_of_the_function(strategy):
    net, x = mlp(), torch.randn(3, dtype=torch.float64)
    jac = torchjac.jacobian(net, x, wrt=net[0], strategy=strategy)
    assert_same(jac, row_by_row(net(x), net[0]))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("make", [Tied, Shared])
def test_tied_weights_are_one_parameter_under_their_first_name(make, strategy):
    net, x = make(), torch.randn(3, dtype=torch.float64)
    expected = row_by_row(net(x), net)
    jac = torchjac.jacobian(net, x, wrt=net, strategy=strategy)
    first = "encode" if make is Tied else "first"
    assert next(iter(jac)) == f"{first}.weight"
    assert sum(name.endswith("weight") for name in jac) == 1
    assert_same(jac, expected)


def test_a_weight_tied_to_a_part_outside_of_the_module_is_not_silently_half_counted():
    net, x = Tied(), torch.randn(3, dtype=torch.float64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TorchjacWarning)
        jac = torchjac.jacobian(net, x, wrt=net.decode)
    if not caught:
        assert_same(jac, row_by_row(net(x), net.decode))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_frozen_parameters_are_differentiated_and_stay_frozen(strategy):
    net, x = mlp(), torch.randn(3, dtype=torch.float64)
    expected = row_by_row(net(x), net)
    net.requires_grad_(False)
    jac = torchjac.jacobian(net, x, wrt=net, strategy=strategy)
    assert_same(jac, expected)
    assert not any(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("make", [mlp, Tied, Shared])
def test_parameters_are_the_same_objects_with_the_same_values_afterwards(make, strategy):
    net, x = make(), torch.randn(3, dtype=torch.float64)
    before = {name: (parameter, parameter.clone()) for name, parameter in net.named_parameters()}
    torchjac.jacobian(net, x, wrt=net, strategy=strategy)
    after = dict(net.named_parameters())
    assert list(after) == list(before)
    for name, (parameter, value) in before.items():
        assert after[name] is parameter
        assert torch.equal(parameter, value)
        assert parameter.grad is None


def test_the_module_is_put_right_after_an_error_in_the_function():
    net, x = mlp(), torch.randn(3, dtype=torch.float64)
    weight = net[0].weight

    def fails(x):
        net(x)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        torchjac.jacobian(fails, x, wrt=net)
    assert net[0].weight is weight


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_running_statistics_of_a_module_in_training_stay_as_they_are(strategy, chunk_size):
    net, x = norm_net().train(), torch.randn(5, 3, dtype=torch.float64)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    jac = torchjac.jacobian(net, x, wrt=net, strategy=strategy, chunk_size=chunk_size)
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, before[name])
    other = copy.deepcopy(net)
    assert_same(jac, row_by_row(other(x), other))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_buffers_in_evaluation_are_read_as_they_are(strategy):
    net, x = norm_net().eval(), torch.randn(5, 3, dtype=torch.float64)
    net[0].running_mean.fill_(2.0)
    net[0].running_var.fill_(9.0)
    jac = torchjac.jacobian(net, x, wrt=net, strategy=strategy)
    assert_same(jac, row_by_row(net(x), net))


@may_fall_back
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_call_by_inputs_updates_running_statistics_as_one_call_of_the_module_does(strategy):
    net, x = nn.BatchNorm1d(3).double().train(), torch.randn(5, 3, dtype=torch.float64)
    once = nn.BatchNorm1d(3).double().train()
    once(x)
    torchjac.jacobian(net, x, strategy=strategy)
    assert net.num_batches_tracked == 1
    torch.testing.assert_close(net.running_mean, once.running_mean)


@may_fall_back
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "outer", [lambda net: lambda x: net(x), partial], ids=["lambda", "partial"]
)
def test_a_function_around_a_module_updates_its_statistics_once(outer, strategy):
    net, x = nn.BatchNorm1d(3).double().train(), torch.randn(5, 3, dtype=torch.float64)
    torchjac.jacobian(outer(net), x, strategy=strategy)
    assert net.num_batches_tracked == 1


@may_fall_back
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_statistics_beside_the_module_are_updated_no_more_than_once(strategy):
    net, x = norm_net().train(), torch.randn(5, 3, dtype=torch.float64)
    torchjac.jacobian(net, x, wrt=net[1], strategy=strategy)
    assert net[0].num_batches_tracked <= 1


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU])
def test_recurrent_weights_are_parameters_like_others(cell, strategy):
    net, x = cell(2, 3, dtype=torch.float64), torch.randn(4, 1, 2, dtype=torch.float64)

    def last(x):
        return net(x)[0][-1]

    jac = torchjac.jacobian(last, x, wrt=net, strategy=strategy)
    assert_same(jac, row_by_row(last(x), net))


def test_parametrized_weights_are_differentiated_at_their_originals():
    net = parametrizations.orthogonal(nn.Linear(3, 3, dtype=torch.float64))
    x = torch.randn(3, dtype=torch.float64)
    jac = torchjac.jacobian(net, x, wrt=net)
    assert "parametrizations.weight.original" in jac
    assert_same(jac, row_by_row(net(x), net))


def test_inputs_may_be_of_any_kind():
    table = nn.Embedding(5, 2, dtype=torch.float64)

    def func(indices, scale):
        return table(indices) * scale

    indices = torch.tensor([1, 1, 4])
    jac = torchjac.jacobian(func, (indices, 2.0), wrt=table)
    assert_same(jac, row_by_row(func(indices, 2.0), table))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_outputs_are_outside_and_parameters_inside(strategy):
    layer, x = nn.Linear(3, 2, dtype=torch.float64), torch.randn(3, dtype=torch.float64)

    def func(x):
        return {"logits": layer(x), "energy": (layer(x).sum(),)}

    jac = torchjac.jacobian(func, x, wrt=layer, strategy=strategy)
    assert_same(jac["logits"], row_by_row(layer(x), layer))
    assert_same(jac["energy"][0], row_by_row(layer(x).sum(), layer))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_jacobian_can_be_differentiated_by_the_parameters(strategy):
    net, x = mlp(), torch.randn(3, dtype=torch.float64)
    parameters = list(net.parameters())

    def penalty(jac):
        return sum((block**2).sum() for block in jac.values())

    jac = torchjac.jacobian(net, x, create_graph=True, wrt=net, strategy=strategy)
    ours = torch.autograd.grad(penalty(jac), parameters, allow_unused=True, materialize_grads=True)

    def reference(*values):
        named = dict(zip(dict(net.named_parameters()), values, strict=True))
        jac = torch.func.jacrev(lambda p: torch.func.functional_call(net, p, (x,)))(named)
        return penalty(jac)

    theirs = torch.func.grad(reference, tuple(range(4)))(*[p.detach() for p in parameters])
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_aux_is_handed_through(strategy):
    layer, x = nn.Linear(2, 2), torch.tensor([3.0, 5.0])

    def func(x):
        return layer(x), {"calls": 1}

    jac, aux = torchjac.jacobian(func, x, wrt=layer, has_aux=True, strategy=strategy)
    assert jac["bias"].tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert aux == {"calls": 1}


def test_the_value_comes_with_the_jacobian():
    net, x = mlp(), torch.randn(3, dtype=torch.float64)
    value, jac = torchjac.value_and_jacobian(net, x, wrt=net)
    torch.testing.assert_close(value, net(x).detach())
    assert_same(jac, row_by_row(net(x), net))


def test_inputs_are_not_written_to():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2))
    x = torch.tensor([-1.0, 2.0, -3.0])
    torchjac.jacobian(net, x, wrt=net)
    assert x.tolist() == [-1.0, 2.0, -3.0]


def test_inputs_made_under_inference_mode_are_taken():
    layer = nn.Linear(2, 2)
    with torch.inference_mode():
        jac = torchjac.jacobian(layer, torch.tensor([3.0, 5.0]), wrt=layer)
    assert jac["weight"][0].tolist() == [[3.0, 5.0], [0.0, 0.0]]


def test_a_parameter_held_directly_is_warned_of():
    layer, x = nn.Linear(2, 2), torch.tensor([3.0, 5.0])
    weight = layer.weight
    with pytest.warns(ClosureWarning, match="as weight"):
        torchjac.jacobian(lambda x: layer(x) + weight.sum(), x, wrt=layer)


def test_parameters_held_in_a_list_are_warned_of():
    layer, x = nn.Linear(2, 2), torch.tensor([3.0, 5.0])
    parameters = list(layer.parameters())
    with pytest.warns(ClosureWarning):
        torchjac.jacobian(
            lambda x: layer(x) + sum(p.square().sum() for p in parameters), x, wrt=layer
        )


def test_a_module_that_the_function_does_not_use_is_warned_of():
    used, unused, x = nn.Linear(2, 2), nn.Linear(2, 2), torch.tensor([3.0, 5.0])
    with pytest.warns(IndependenceWarning):
        jac = torchjac.jacobian(used, x, wrt=unused)
    assert not jac["weight"].any()


def test_a_module_without_parameters_is_refused():
    with pytest.raises(ArgumentError, match=r"`wrt` is a module without parameters: ReLU\(\)"):
        torchjac.jacobian(nn.ReLU(), torch.ones(2), wrt=nn.ReLU())


@pytest.mark.parametrize("value", [torch.tensor([1 + 1j]), torch.tensor([1])])
def test_parameters_without_a_real_derivative_are_refused_like_inputs(value):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(value, requires_grad=value.is_complex())

        def forward(self, x):
            return (self.factor * x).abs()

    model = Model()
    with pytest.raises(ArgumentTypeError, match="factor"):
        torchjac.jacobian(model, torch.ones(1), wrt=model)
