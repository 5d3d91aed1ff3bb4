"""Reads ONNX models: the walk over the nodes, and what each operator becomes."""
