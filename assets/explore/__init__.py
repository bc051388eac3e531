"""A page to look at a root with: which threshold, which groups, which images; served on loopback, or as files."""
