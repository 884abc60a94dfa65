"""Which entries of a Jacobian can be nonzero."""
