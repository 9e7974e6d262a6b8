"""ImageBind in plain PyTorch, under the published parameter names."""
