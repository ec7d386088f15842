"""The commands by theme; each function here is one command, and its docstring is its help."""
