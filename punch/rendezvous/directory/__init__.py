"""
Many processes as one service: which process a peer is at, and what the processes tell each other.

`interface` is what the registry of a process needs of a directory; `redis` implements it, with `peer_entries`
(which process a peer is at), `redis_client` and `redis_answers`; `redis_address` reads its address.
`connector` joins a registry to it, and `remote_calls` and `messages` are what processes send each other about
calls. The modules `shared_…` keep limits, members, quotas and their state in step.
"""
