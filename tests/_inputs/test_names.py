"""Names that code reads."""

from torchjac._inputs.names import names_in


def test_functions_inside_count_and_attributes_do_not():
    func = lambda x: [scale(y.shift) for y in x] and (lambda: other)  # noqa: E731, F821
    assert names_in(func.__code__).globals == ("other", "scale")


def test_attributes_called_grad():
    assert names_in((lambda w: w.grad).__code__).reads_grad


def test_imports_of_libraries_read_nothing_outside():
    def func():
        import torch.nn.functional as f

        return f

    assert not names_in(func.__code__).reads_outside
