"""From a function to its derivative as a program of linear operations."""
