"""The HTTP edge: an x402 facilitator as the official SDKs know it, over the same object as gRPC.

server        listens: uvicorn in this process, TLS, graceful stop
connections   what a connection may take up before it has asked for anything
app           which path goes where; the pages that only tell (Starlette)
payments      POST /verify and /settle, without a framework: they are asked most
requests      tokens, bodies, and x402's requests as values
responses     x402's answers, refusals and errors, as JSON
reason_codes  our reasons as x402's standard codes
limits        size, time and how many at once, as the configuration says
discovery     GET and PUT /discovery/resources, over the port of what is listed
openapi       the document that describes all of it
"""
