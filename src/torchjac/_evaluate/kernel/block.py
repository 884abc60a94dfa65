"""Factors of the Jacobians of a block of samples, held against a plain backward pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from torchjac._evaluate.attention import uses_fused_attention, with_math_attention
from torchjac._evaluate.blocks import apply_seeds
from torchjac._evaluate.differentiate import explain_refusals
from torchjac._evaluate.kernel.contracted import rows_of_samples_alone
from torchjac._evaluate.kernel.factors import Explicit
from torchjac._evaluate.kernel.places import Place, Product
from torchjac._evaluate.kernel.structure import (
    Cotangents,
    Factor,
    factors_of,
    nodes_to_seed,
    places_of,
)
from torchjac._evaluate.kernel.uses import Graph, read_graph
from torchjac._evaluate.ladder import batchings, climb_down
from torchjac._evaluate.mixing import because_of_batch_norm
from torchjac._evaluate.randomness import random_state
from torchjac._evaluate.seeds import basis
from torchjac._evaluate.tape import Tape, record
from torchjac._evaluate.watch import Watch
from torchjac._evaluate.witness import random_like
from torchjac._inputs.signature import Signature, bind
from torchjac._inputs.warn import warn
from torchjac._torch import batched, bytes_after, pytree, refuse_wrong_batching, shape_after
from torchjac.errors import ArgumentError, FallbackWarning, MixedSamplesError, ShapeError

# A seed times this shows the rounding errors of a product.
MULTIPLE = 3.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A function of samples and of the parameters of a module.

    Attributes:
        api: Name of the public function, for messages.
        func: Takes and returns whole batches, along axis 0.
        module: Holds the parameters.
        names: Names of the parameters that count.
        numbers: Their places among all parameters of the module.
    """

    api: str
    func: Callable[..., Any]
    module: nn.Module
    names: tuple[str, ...]
    numbers: tuple[int, ...]

    def signature(self, inputs: Any) -> Signature:
        """The function of all parameters, at some samples."""
        return bind(self.api, self.func, inputs, wrt=self.module)


@dataclass(frozen=True, slots=True)
class Recorded:
    """The function evaluated on some samples.

    Attributes:
        subject: The function.
        inputs: The samples.
        tape: Its graph down to the parameters that count.
        output: What it returned, samples along axis 0.
        places: Of each parameter its uses, read.
        graph: What its graph says of the parameters.
    """

    subject: Subject
    inputs: Any
    tape: Tape
    output: Tensor
    places: list[list[Place | str]]
    graph: Graph

    def held_bytes(self) -> int:
        """Bytes that the factors of these samples will take, about."""
        seeds = self.output[:1].numel() + 1
        inputs = {
            id(place): place.inputs.numel() * place.inputs.element_size()
            for places in self.places
            for place in places
            if isinstance(place, Product) and place.inputs is not None
        }
        rows = [
            parameter.numel() * parameter.element_size()
            for parameter, places in zip(self.tape.inputs, self.places, strict=True)
            if not all(isinstance(place, Product) for place in places)
        ]
        cotangents = [bytes_after(node) for node in nodes_to_seed(self.places)]
        return seeds * (sum(cotangents) + sum(rows)) + sum(inputs.values())

    def pass_bytes(self) -> int:
        """Bytes that making them takes beside, about: the graph, and gradients on their way."""
        seeds = self.output[:1].numel() + 1
        return self.graph.gradient_bytes + 2 * seeds * self.graph.largest_bytes


@dataclass(frozen=True, slots=True)
class Block:
    """Factors of the Jacobians of some samples.

    Attributes:
        factors: By all parameters that play a part.
        reasons: Parameters whose Jacobians were multiplied out sample by sample, and why.
    """

    factors: list[Factor]
    reasons: dict[int, str]

    def separate(self) -> list[Factor]:
        """Factors of one parameter each, multiplied out."""
        return [part for factor in self.factors for part in factor.separate()]


def record_samples(subject: Subject, inputs: Any, count: int, *, quiet: bool) -> Recorded:
    """Evaluate the function.

    Args:
        subject: The function.
        inputs: The samples.
        count: How many.
        quiet: Whether to leave out warnings about values that are read.

    Returns:
        Its graph, read.

    Raises:
        ArgumentError: The function draws random numbers.
        ShapeError: It does not return one tensor of `count` samples.
    """
    signature = subject.signature(inputs)
    state = random_state(signature.leaves)
    tape = record(signature, create_graph=False, watch=Watch(subject.api, warn=not quiet))
    if state.was_used():
        raise ArgumentError(
            f"{subject.api}: `func` draws random numbers, so that its samples belong to different "
            "functions. Call .eval() on the module, or hold the numbers still."
        )
    if uses_fused_attention(tape.survey().node_names):
        tape = record(with_math_attention(signature), create_graph=False)
    tensors = tape.outputs.tensors
    if tape.outputs.spec is not None or tensors[0].shape[:1] != (count,):
        got = [tuple(tensor.shape) for tensor in tensors]
        raise ShapeError(
            f"{subject.api}: `func` must return one tensor with the samples along axis 0: expected "
            f"shape ({count}, ...), got {got[0] if len(got) == 1 else got}."
        )
    output = tensors[0]
    parameters = tuple(tape.inputs[number] for number in subject.numbers)
    graph = read_graph(output, parameters)
    _refuse_strays(subject, graph)
    places = [places_of(uses, p) for uses, p in zip(graph.uses, parameters, strict=True)]
    return Recorded(subject, inputs, Tape(parameters, tape.outputs), output, places, graph)


def _refuse_strays(subject: Subject, graph: Graph) -> None:
    """Refuse a function that holds a parameter itself: exchanging it in the module has no effect.

    Raises:
        ArgumentError: There is one.
    """
    named = dict(subject.module.named_parameters())
    for name in subject.names:
        if id(named[name]) in graph.leaves:
            raise ArgumentError(
                f"{subject.api}: parameter {name} is used from outside of its module, where it is "
                "no parameter (a list, a closure, another object), so that its derivative would be "
                "missed. Use it as an attribute of the module that registers it."
            )


def factorise(recorded: Recorded) -> Block:
    """Factors of the Jacobians of the samples of a record.

    Args:
        recorded: The function evaluated on them.

    Returns:
        The factors, each of which agrees with a plain backward pass.

    Raises:
        MixedSamplesError: The derivative of a sample depends on other samples.
    """
    output, tape = recorded.output, recorded.tape
    if not output.requires_grad:
        return Block([], {})
    (seed,) = random_like([output])
    cotangents = _cotangents(recorded, seed)
    truth = _Truth(tape, seed, cotangents)
    factors, reasons = factors_of(recorded.places, tape.inputs, cotangents)
    sound: list[Factor] = []
    for factor in factors:
        if truth.agrees(factor):
            sound.append(factor)
        else:
            said = "what its layer says of a product is not what a backward pass says"
            reasons.update(dict.fromkeys(factor.parameters, said))
    if reasons:
        sound += _multiplied_out(recorded, sorted(reasons), truth)
    return Block(sound, reasons)


def _cotangents(recorded: Recorded, seed: Tensor) -> Cotangents:
    """One pass to the outputs of all layers, with a seed for each output of a sample."""
    output, tape = recorded.output, recorded.tape
    count = output[:1].numel()
    nodes = nodes_to_seed(recorded.places)
    edges = [GradientEdge(node, 0) for node in nodes]
    seeds = torch.cat([basis(output, 0, count, 0), seed[None]])

    def product(seeds: Sequence[Tensor]) -> Sequence[Tensor | None]:
        return torch.autograd.grad(
            [output], edges, list(seeds), retain_graph=True, allow_unused=True
        )

    def compute(stacked: bool) -> Sequence[Tensor | None]:
        if not stacked:
            return apply_seeds(product, [seeds], stacked=False)
        refuse_wrong_batching(tape.survey().node_names)
        return batched(product, [seeds])

    made: Sequence[Tensor | None] = []
    if nodes:
        used, made, refusals = climb_down(batchings("reverse-mode", (True, False), compute))
        if refusals:
            warn(explain_refusals(recorded.subject.api, used, refusals), FallbackWarning)
    at = {
        node: output.new_zeros(count + 1, *shape_after(node)) if part is None else part
        for node, part in zip(nodes, made, strict=True)
    }
    weights = seed.reshape(output.shape[0], count).T
    scale = seed.norm() * output.detach().norm() / max(output.numel(), 1) ** 0.5
    return Cotangents(at, weights, scale)


class _Truth:
    """J^T u for all parameters, by a plain backward pass."""

    def __init__(self, tape: Tape, seed: Tensor, cotangents: Cotangents) -> None:
        self._tape, self._seed, self._cotangents = tape, seed, cotangents
        self._products = self._pull(1.0)
        self._others: list[Tensor] | None = None

    def _pull(self, multiple: float) -> list[Tensor]:
        made = self._tape.pull([0], [multiple * self._seed], stacked=False, create_graph=False)
        pairs = zip(made, self._tape.inputs, strict=True)
        return [torch.zeros_like(x) if g is None else g.to_dense() / multiple for g, x in pairs]

    def _noise(self, number: int) -> Tensor:
        """What rounding makes of a product: it is linear in the seed but for that."""
        if self._others is None:
            self._others = self._pull(MULTIPLE)
        return self._others[number] - self._products[number]

    def agrees(self, factor: Factor) -> bool:
        """Whether J^T u of a factor is the same, for each of its parameters."""
        weights = self._cotangents.weights
        return all(
            self._cotangents.agrees(
                ours,
                self._products[number].to(ours),
                lambda k=k: factor.sizes(weights)[k],
                partial(self._noise, number),
            )
            for k, (number, ours) in enumerate(
                zip(factor.parameters, factor.gradients(weights), strict=True)
            )
        )


def _multiplied_out(recorded: Recorded, numbers: Sequence[int], truth: _Truth) -> list[Factor]:
    """Factors from single samples, batched, or one by one where PyTorch cannot batch."""
    subject = recorded.subject
    wanted = [recorded.tape.inputs[number].detach() for number in numbers]
    leaves, spec = pytree.tree_flatten(recorded.inputs)
    places = [k for k, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def of_sample(parts: list[Tensor], values: Sequence[Tensor]) -> Tensor:
        full = list(leaves)
        for place, part in zip(places, parts, strict=True):
            full[place] = part
        signature = subject.signature(pytree.tree_unflatten(full, spec))
        given = [leaf.detach() for leaf in signature.leaves]
        for number, value in zip(numbers, values, strict=True):
            given[subject.numbers[number]] = value
        return with_math_attention(signature).replay(given).tensors[0]

    def compute(stacked: bool) -> list[Factor]:
        made = rows_of_samples_alone(
            of_sample, [leaves[place] for place in places], wanted, stacked=stacked
        )
        factors = [
            Factor((number,), (value.shape,), Explicit(rows))
            for number, value, rows in zip(numbers, wanted, made, strict=True)
        ]
        if all(map(truth.agrees, factors)):
            return factors
        if stacked:
            raise NotImplementedError("samples in a batch have other derivatives than alone")
        raise MixedSamplesError(not_independent(subject))

    used, factors, refusals = climb_down(batchings("reverse-mode", (True, False), compute))
    if refusals:
        warn(explain_refusals(subject.api, used, refusals), FallbackWarning)
    return factors


def not_independent(subject: Subject) -> str:
    """What to say of samples that depend on each other."""
    cause = (
        because_of_batch_norm(subject.func)
        or because_of_batch_norm(subject.module)
        or (
            "a sample alone has another value or derivative than among others. Look for a "
            "reduction, a normalisation or a reshape over the batch axis"
        )
    )
    return (
        f"{subject.api}: the samples are not independent: {cause}. A kernel of pairs of samples "
        "needs a function of single ones."
    )
