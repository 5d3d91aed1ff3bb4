"""`search`: the best conversions of one network for one chip, tried by Optuna."""
