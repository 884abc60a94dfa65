"""Benchmarks of torchjac against what PyTorch offers: `python -m benchmarks --help`."""
