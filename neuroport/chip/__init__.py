"""The integer network: a chip's arithmetic, quantization to its ranges, the oracle and the reference core."""
