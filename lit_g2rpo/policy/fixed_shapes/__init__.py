"""The forward pass of training for devices that compile for each shape."""
