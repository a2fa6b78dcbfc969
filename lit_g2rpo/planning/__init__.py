"""How much memory a run will take, found without its weights."""
