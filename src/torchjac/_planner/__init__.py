"""Candidates, what they cost, and the choice."""
