"""The gRPC edge: `codec` for messages, `principals` for who calls, one module a service, `server` that binds them."""
