"""
Many processes as one service: at which process a peer is, and what the processes tell each other. `connector`
has what the registry of a process needs from a directory, and joins the two; `redis` is the directory, with
`peer_entries` (at which process a peer is), `command_queue` (what waits for Redis, and what is kept while it
is away) and `redis_client`; `redis_address` reads its address. `remote_calls` and `messages` are what
processes send each other about calls. `shared_state` and `shared_members` keep limits, quotas and members in
step.
"""
