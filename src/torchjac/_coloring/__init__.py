"""Which columns or rows of a Jacobian can share a pass."""
