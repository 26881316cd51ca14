"""The payer's commands of `tallystick`.

commands     wallet and fetch; options what they have in common
status_text  a wallet's status on a terminal
giving_back  what comes back without gas
withdrawals  a step of the timed way out; onchain its transactions (extra `chain`), channel_onchain those for channels
             with one seller alone
"""
