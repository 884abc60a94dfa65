"""Changes in what a function holds are seen."""

import torch

from torchjac._planner.held import marks_of_function, marks_of_inputs

WEIGHT = torch.ones(2)
SCALE = 1.0


def uses_globals(x):
    return SCALE * WEIGHT * x


def test_nothing_changed():
    assert marks_of_function(uses_globals, []) == marks_of_function(uses_globals, [])


def test_a_write_to_a_tensor():
    weight = torch.ones(2)
    func = lambda x: weight * x  # noqa: E731
    before = marks_of_function(func, [])
    weight.mul_(2)
    assert marks_of_function(func, []) != before


def test_a_global_number(monkeypatch):
    before = marks_of_function(uses_globals, [])
    monkeypatch.setitem(uses_globals.__globals__, "SCALE", 2.0)
    assert marks_of_function(uses_globals, []) != before


def test_a_parameter_of_a_module():
    module = torch.nn.Linear(2, 2)
    before = marks_of_function(module, [])
    with torch.no_grad():
        module.weight.add_(1)
    assert marks_of_function(module, []) != before


def test_parameters_that_are_differentiated_do_not_count():
    module = torch.nn.Linear(2, 2)
    parameters = list(module.parameters())
    before = marks_of_function(module, parameters)
    with torch.no_grad():
        module.weight.add_(1)
    assert marks_of_function(module, parameters) == before


def test_a_list_of_tensors():
    held = [torch.ones(1), torch.ones(1)]
    func = lambda x: held[0] * x  # noqa: E731
    before = marks_of_function(func, [])
    held[0] = torch.zeros(1)
    assert marks_of_function(func, []) != before


def test_inputs_that_are_not_differentiated():
    x, t = torch.ones(2), torch.ones(1)
    before = marks_of_inputs((x, t, 1.0), [x])
    assert marks_of_inputs((x, t, 1.0), [x]) == before
    assert marks_of_inputs((x, t, 2.0), [x]) != before
    assert marks_of_inputs((x, t.clone(), 1.0), [x]) != before


def test_a_tensor_of_inference_mode():
    with torch.inference_mode():
        t = torch.ones(1)
    assert marks_of_inputs((t,), []) == marks_of_inputs((t,), [])
    assert marks_of_inputs((t,), []) != marks_of_inputs((t.clone(),), [])
