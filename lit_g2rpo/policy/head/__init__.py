"""The language-model head without whole logits."""
