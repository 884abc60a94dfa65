"""Sets of colors, 64 in a word."""

from torchjac._coloring.kernels.compiled import Array, compiled


@compiled
def add(words: Array, color: int) -> None:
    """Put a color into a set."""
    words[color >> 6] |= 1 << (color & 63)


@compiled
def has(words: Array, color: int) -> bool:
    """Whether a color is in a set."""
    return (words[color >> 6] >> (color & 63)) & 1 == 1


@compiled
def first_free(words: Array, width: int) -> int:
    """Least color that is not in a set, 64 `width` if its first `width` words are full."""
    word = 0
    while word < width and words[word] == -1:
        word += 1
    if word == width:
        return 64 * width
    bit = 0
    while (words[word] >> bit) & 1:
        bit += 1
    return 64 * word + bit
