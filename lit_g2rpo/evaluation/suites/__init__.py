"""How evaluation suites read free text, so that figures can be compared with theirs; their oddities are kept."""
