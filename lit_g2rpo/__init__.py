"""Gaussian GRPO for vision-language models, on Lightning."""
