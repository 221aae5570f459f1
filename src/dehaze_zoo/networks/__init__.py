"""Plain nn.Modules: hazy (B, 3, H, W) in [0, 1] to restored, unclamped. One file a family; registry.py lists them."""
