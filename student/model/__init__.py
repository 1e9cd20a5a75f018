"""The network: log-mel features, Conformer, CTC head, and the decoders that only training uses."""
