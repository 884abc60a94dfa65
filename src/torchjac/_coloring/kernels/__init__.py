"""Compiled kernels of graph coloring, which is sequential by nature.

Two kinds of graph appear. A *hypergraph* has hyperedges of any size: for the columns of a matrix
they are its rows. An *adjacency graph* lists the neighbors of each vertex, with the number of the
edge that joins them, the same from both ends.
"""

from torchjac._coloring.kernels.acyclic import acyclic
from torchjac._coloring.kernels.distance2 import first_fit
from torchjac._coloring.kernels.order import degrees, greedy_order
from torchjac._coloring.kernels.saturation import saturation_order
from torchjac._coloring.kernels.star import star
from torchjac._coloring.kernels.trees import color_groups, strip_leaves

__all__ = [
    "acyclic",
    "color_groups",
    "degrees",
    "first_fit",
    "greedy_order",
    "saturation_order",
    "star",
    "strip_leaves",
]
