"""Layers onto cores, chips and boards, and what that costs."""
