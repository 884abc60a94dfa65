"""Custom functions with a mistake in their derivatives, for tests of who notices."""

import torch


class WrongJvp(torch.autograd.Function):
    """x -> 2 x, with a forward rule that says 3."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x * 2

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g * 2

    @staticmethod
    def jvp(ctx, t):
        return t * 3


class WrongProduct(torch.autograd.Function):
    """2 x g, and 3 x g in a batch."""

    @staticmethod
    def forward(x, g):
        return 2 * x * g

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def vmap(info, in_dims, x, g):
        return 3 * x * g, 0


class WronglyBatched(torch.autograd.Function):
    """x^2 with a backward pass that is wrong in a batch."""

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        return WrongProduct.apply(ctx.saved_tensors[0], g)
