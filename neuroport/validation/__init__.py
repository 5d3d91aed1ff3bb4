"""Validation: the ladder of rungs on the same samples, the exact comparison, and the report."""
