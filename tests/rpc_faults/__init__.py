"""A proxy in front of a node's JSON-RPC that makes the faults which endpoints have, and writes down each of them.

`FaultProxy` passes everything on, except what one of its rules is about: `rules` has the rules and their effects,
`limits` the limits of ordinary providers, `lies` false answers about an escrow, its transactions and the chain's head.
Two proxies with different rules over one node are two endpoints that disagree.
"""

from rpc_faults.proxy import FaultProxy, Made
from rpc_faults.rules import UNCHANGED, Delay, Drop, Duplicate, Falsify, NodeRefusedError, Question, Refuse, Rule

__all__ = [
    "UNCHANGED",
    "Delay",
    "Drop",
    "Duplicate",
    "Falsify",
    "FaultProxy",
    "Made",
    "NodeRefusedError",
    "Question",
    "Refuse",
    "Rule",
]
