"""A module for each group of subcommands. Their heavy imports are inside the functions."""
