"""Normalization: activation statistics, activation scales, and the recipes that choose among methods."""
