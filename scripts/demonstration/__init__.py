"""The demo: every process is a real one, every figure is read from the chain or from the payers' own books."""
