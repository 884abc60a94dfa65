"""The public calls; each composes the stages."""
