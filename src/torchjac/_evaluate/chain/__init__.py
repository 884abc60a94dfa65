"""Products of parts of a Jacobian, cut where the linear program is narrow."""
