"""Reads programs of torch.export: the walk over the nodes, and what each ATen operator becomes."""
