"""The native engine: it reads prompts and images once, and decodes completions together."""
