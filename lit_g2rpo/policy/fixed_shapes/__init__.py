"""The forward pass of training on devices that compile for each shape."""
