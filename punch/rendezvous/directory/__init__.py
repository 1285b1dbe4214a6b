"""
Many processes as one service: at which process a peer is, and what the processes tell each other. `interface`
is what the registry of a process needs from a directory; `redis` implements it, with `peer_entries` (at which
process a peer is), `redis_client` and `redis_answers`; `redis_address` reads its address. `connector` joins a
registry to it, and `remote_calls` and `messages` are what processes send each other about calls. The modules
`shared_…` keep limits, members, quotas and their state in step.
"""
