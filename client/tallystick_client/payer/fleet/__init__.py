"""A wallet served to many workers.

wallet   the wallet that payers import: opened here, or served by another process
serving  the wallet over gRPC; codec its messages
remote   a served wallet in a worker's hands; remote_grants what it pays from
workers  who holds what, and who has not been heard of for too long
"""
