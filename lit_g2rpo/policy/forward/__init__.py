"""The forward pass of training: packed or padded, in the shapes that come."""
