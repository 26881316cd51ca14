"""What payers do with their accounts, and what must fit together before anything is done with one.

accounts      read them, register and revoke spend keys, approve totals, open channels
deposits      land a payer's authorization in the escrow
fundings      what payers sign for that
refunds       give back what is not owed
channels      make channels known, each with its baseline from the chain
signed_calls  what payers sign to be heard
offers        the networks, escrows, tokens and delays that are served, and whether a config is
outcomes      what becomes of a call that needs the store, the chain or a transaction
"""
