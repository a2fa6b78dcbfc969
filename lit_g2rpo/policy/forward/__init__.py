"""The forward pass of training, packed or padded, with dynamic shapes."""
