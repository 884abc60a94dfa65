"""Which pixels does a classifier of handwritten digits look at?

Trains a small network on the 8x8 digits that ship with scikit-learn, computes the Jacobian of its
10 logits with respect to the 64 pixels for every test image in one call of
``torchjac.batch_jacobian``, compares it with ``torch.func`` and draws the Jacobian of a few images.

Run ``python examples/digits.py``; the picture goes to ``examples/output/digits_jacobian.png``.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # draws without a display

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import torchjac

OUTPUT = Path(__file__).resolve().parent / "output" / "digits_jacobian.png"
SIDE = 8
CLASSES = 10
SHOWN = (3, 4, 7, 8)  # the digits in the picture
INK = "#222222"
GRAY = "#666666"
FRAME = "#bbbbbb"
ACCENT = "#1a7f37"  # neither red nor blue, which the maps use
COLORS = "RdBu_r"
TITLE = "Which pixels raise and which lower each logit?"
SUBTITLE = (
    "Jacobian of the 10 logits of a 64-32-10 network with respect to the 8x8 pixels. "
    "Red: ink here raises the logit; blue: lowers it. Number: the logit; frame: the prediction."
)


def load_data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns training images and labels, test images and labels; pixels lie in [0, 1]."""
    digits = load_digits()
    parts = train_test_split(
        digits.data / 16, digits.target, test_size=0.2, random_state=0, stratify=digits.target
    )
    train_x, test_x, train_y, test_y = (torch.from_numpy(part) for part in parts)
    return train_x.float(), train_y, test_x.float(), test_y


def train(x: Tensor, y: Tensor, steps: int = 500) -> nn.Sequential:
    """Trains a 64-32-10 perceptron by full-batch gradient descent (Adam)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(SIDE**2, 32), nn.Tanh(), nn.Linear(32, CLASSES))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        # Noise penalizes a large Jacobian, also at border pixels that are blank in the data.
        noisy = x + 0.3 * torch.randn_like(x)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(noisy), y).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Returns the fraction of images classified correctly."""
    return (model(x).argmax(dim=1) == y).float().mean().item()


def timed(compute: Callable[[], Tensor], repeats: int = 5) -> tuple[Tensor, float]:
    """Returns the result and the least of the wall times in milliseconds."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        result = compute()
        times.append(1e3 * (time.perf_counter() - begin))
    return result, min(times)


def _bare(axes: Axes, color: str, width: float) -> None:
    """Leaves nothing of the axes but a frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(color)
        spine.set_linewidth(width)


def _draw_row(
    row: Sequence[Axes], image: Tensor, logits: Tensor, maps: Tensor, limit: float
) -> None:
    """Draws an image and the maps of its logits, framing the map of the prediction."""
    row[0].imshow(image.reshape(SIDE, SIDE).numpy(), cmap="gray_r", vmin=0, vmax=1)
    _bare(row[0], FRAME, 0.8)
    row[1].axis("off")
    for digit, axes in enumerate(row[2:]):
        axes.imshow(maps[digit].reshape(SIDE, SIDE).numpy(), cmap=COLORS, vmin=-limit, vmax=limit)
        predicted = digit == logits.argmax()
        _bare(axes, ACCENT if predicted else FRAME, 2.4 if predicted else 0.8)
        color, weight = (ACCENT, "bold") if predicted else (GRAY, "normal")
        label = f"{logits[digit]:+z.1f}".replace("-", "\N{MINUS SIGN}")
        axes.set_xlabel(label, fontsize=9.5, labelpad=3, color=color, fontweight=weight)


def draw(images: Tensor, logits: Tensor, jacobian: Tensor, path: Path) -> None:
    """Draws one row per image: the image, then the maps of the 10 logits.

    Args:
        images: The pixels, of shape ``[rows, 64]``.
        logits: Their logits, of shape ``[rows, 10]``.
        jacobian: The Jacobian, of shape ``[rows, 10, 64]``.
        path: The PNG file to write.
    """
    rows = len(images)
    figure, grid = plt.subplots(
        rows,
        CLASSES + 2,  # the second column is a gap
        figsize=(13.2, 1.28 * rows + 1.25),
        width_ratios=[1, 0.1] + [1] * CLASSES,
        squeeze=False,
    )
    figure.subplots_adjust(left=0.02, right=0.925, bottom=0.065, top=0.79, wspace=0.1, hspace=0.27)
    # One symmetric scale for all maps makes them comparable; a few outliers may saturate it.
    limit = jacobian.abs().quantile(0.998).item()
    for row, image, scores, maps in zip(grid, images, logits, jacobian, strict=True):
        _draw_row(row, image, scores, maps, limit)
    grid[0, 0].set_title("image", fontsize=12, color=INK)
    for digit, axes in enumerate(grid[0, 2:]):
        axes.set_title(f"{digit}", fontsize=13, color=INK)
    colors = ScalarMappable(Normalize(-limit, limit), COLORS)
    bar = figure.colorbar(colors, cax=figure.add_axes((0.94, 0.065, 0.011, 0.725)))
    bar.set_label("change of logit per unit of ink", fontsize=10.5, color=INK)
    bar.outline.set_visible(False)
    figure.text(0.02, 0.935, TITLE, fontsize=17, color=INK, weight="bold")
    figure.text(0.02, 0.885, SUBTITLE, fontsize=10.5, color=GRAY)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, facecolor="white")
    plt.close(figure)


def main() -> None:
    """Trains, differentiates, compares and draws."""
    train_x, train_y, test_x, test_y = load_data()
    begin = time.perf_counter()
    model = train(train_x, train_y)
    elapsed = time.perf_counter() - begin
    size = sum(p.numel() for p in model.parameters())
    print(f"64-32-10 network, {size} parameters, trained in {elapsed:.1f} s")
    print(f"accuracy: train {accuracy(model, train_x, train_y):.1%}, ", end="")
    print(f"test {accuracy(model, test_x, test_y):.1%}")

    jacobian, ours = timed(lambda: torchjac.batch_jacobian(model, test_x))
    print(f"\nJacobian of {CLASSES} logits by {SIDE**2} pixels for {len(test_x)} images: ", end="")
    print(f"shape {list(jacobian.shape)}")
    print(f"one backward pass per image and logit would be {jacobian[:, :, 0].numel()} passes")
    reference, theirs = timed(lambda: torch.func.vmap(torch.func.jacrev(model))(test_x))
    difference = (jacobian - reference).abs().max().item()
    print(f"torchjac.batch_jacobian  {ours:8.2f} ms")
    print(f"torch.func.vmap(jacrev)  {theirs:8.2f} ms")
    print(f"largest difference       {difference:8.1e}")

    # The first test image of each digit to be shown.
    chosen = torch.tensor([int((test_y == digit).nonzero()[0]) for digit in SHOWN])
    draw(test_x[chosen], model(test_x[chosen]), jacobian[chosen], OUTPUT)
    print(f"\npicture: {OUTPUT}")


if __name__ == "__main__":
    main()
