"""From compressed values to tensors of every layout."""
