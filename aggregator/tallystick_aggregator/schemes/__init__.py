"""The ways to pay, one folder each: verify and settle."""
