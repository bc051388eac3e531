"""The student, and its first weights."""
