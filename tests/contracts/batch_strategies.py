"""Random claim batches, well-formed in every way that their encoding can tell."""

from hypothesis import strategies as st

from tallystick_contracts.claim_batch import AMOUNT_MAX, WITHDRAW_DELAY_MAX_S, AccountClaim, ClaimBatch, ClaimRow

HALF_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 // 2

addresses = st.binary(min_size=20, max_size=20)
amounts = st.integers(0, AMOUNT_MAX)
signatures = st.builds(
    lambda r, s, v: r + s.to_bytes(32, "big") + bytes([v]),
    st.binary(min_size=32, max_size=32),
    st.integers(0, HALF_ORDER),
    st.sampled_from([27, 28]),
)


@st.composite
def accounts(draw: st.DrawFn, receivers: list[bytes]) -> AccountClaim:
    approval = draw(st.none() | signatures)
    totals = draw(st.lists(st.tuples(st.sampled_from(receivers), amounts), max_size=6))
    rows = tuple(
        ClaimRow(receiver, total, total, None)
        if approval is not None
        else ClaimRow(receiver, total, draw(amounts), draw(signatures))
        for receiver, total in totals
    )
    return AccountClaim(
        payer=draw(addresses),
        payer_authorizer=draw(addresses),
        withdraw_delay_s=draw(st.integers(0, WITHDRAW_DELAY_MAX_S)),
        salt=draw(st.binary(min_size=32, max_size=32)),
        rows=rows,
        approval=approval,
    )


@st.composite
def batches(draw: st.DrawFn) -> ClaimBatch:
    receivers = draw(st.lists(addresses, min_size=1, max_size=5))
    return ClaimBatch(draw(addresses), draw(addresses), tuple(draw(st.lists(accounts(receivers), max_size=4))))
