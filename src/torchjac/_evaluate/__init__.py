"""Evaluate a Jacobian: record the function, choose a mode, run seeds in chunks that fit."""
