"""A network in memory: `node` answers as an endpoint does, over escrow and token (`contracts`) and their `world`."""
