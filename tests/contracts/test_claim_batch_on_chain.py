"""The contract reads a batch as Python wrote it: both make the same digest of its rows."""

from batch_strategies import batches
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anvil import Devnet
from tallystick import eip712
from tallystick.hashing import keccak256
from tallystick_contracts.claim_batch import ClaimBatch, ClaimBatchError, decode, encode

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def digest_on_chain(devnet: Devnet, data: bytes) -> bytes:
    """What `Escrow.claimBatchDigest(bytes)` makes of the encoding."""
    padded = data + bytes(-len(data) % 32)
    argument = (32).to_bytes(32, "big") + len(data).to_bytes(32, "big") + padded
    return devnet.anvil.call(devnet.escrow, keccak256(b"claimBatchDigest(bytes)")[:4] + argument)


def digest_in_python(devnet: Devnet, batch: ClaimBatch) -> bytes:
    entries = [
        (
            eip712.digest(
                devnet.domain,
                eip712.hash_channel_config(
                    payer=account.payer,
                    payer_authorizer=account.payer_authorizer,
                    receiver=row.receiver,
                    receiver_authorizer=batch.operator,
                    token=batch.token,
                    withdraw_delay_s=account.withdraw_delay_s,
                    salt=account.salt,
                ),
            ),
            row.max_claimable_amount,
            row.total_claimed,
        )
        for account in batch.accounts
        for row in account.rows
    ]
    return eip712.digest(devnet.domain, eip712.hash_claim_batch(entries))


@QUICK
@given(batches())
def test_the_contract_reads_what_python_wrote(anvil_process: Devnet, batch: ClaimBatch) -> None:
    assert digest_on_chain(anvil_process, encode(batch)) == digest_in_python(anvil_process, batch)


@QUICK
@given(batches().map(encode), st.integers(0, 400), st.integers(1, 255))
def test_the_contract_takes_whatever_python_decodes(
    anvil_process: Devnet, data: bytes, position: int, flip: int
) -> None:
    damaged = bytearray(data)
    damaged[position % len(damaged)] ^= flip
    try:
        batch = decode(bytes(damaged))
    except ClaimBatchError:
        return
    assert digest_on_chain(anvil_process, bytes(damaged)) == digest_in_python(anvil_process, batch)
