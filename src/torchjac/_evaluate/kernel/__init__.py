"""The empirical neural tangent kernel, from the structure of layers."""
