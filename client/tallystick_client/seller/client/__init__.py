"""The seller's typed client: `aggregator` has its calls, `stream` many charges at once."""
