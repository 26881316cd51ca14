"""A network in memory: `node` answers as an endpoint does, for the escrow and the token of `contracts`."""
