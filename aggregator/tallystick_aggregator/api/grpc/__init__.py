"""The gRPC edge, one module a service.

server              what it binds to, TLS, limits of one peer
account, charge, facilitator, settlement    the services
codec, responses    what `tallystick.codec` leaves to this side; fast_codec for batches of charges
principals          whose token a call carries
errors              what goes wrong becomes a gRPC status
concurrency_limits  how many calls of one caller are under way
backpressure        streams wait for room in turn
"""
