"""The language-model head without full logits."""
