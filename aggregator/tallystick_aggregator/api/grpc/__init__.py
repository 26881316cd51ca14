"""The gRPC edge, one module a service.

server              what it binds to, TLS, limits of one peer
account, charge, facilitator, settlement    the services
codec               what `tallystick.codec` leaves to this side; fast_codec for batches of charges
calls               whose token a call carries, and how it ends: a refusal, a gRPC status
concurrency_limits  how many calls of one caller are under way
"""
