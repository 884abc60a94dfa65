"""Direct evaluation: every entry of a sparse Jacobian computed once, by one program from x."""
