"""From what the user wrote to flat tensors, and back: trees, argnums, paths, modules, checks."""
