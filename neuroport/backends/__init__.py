"""Backends: what runs an integer network, on the CPU or in a vendor's toolchain."""
