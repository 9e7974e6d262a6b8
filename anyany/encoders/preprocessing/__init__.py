"""Media to tensors, without weights: equal to ImageBind's published preprocessing."""
