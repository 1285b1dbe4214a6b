"""
The grid: every pair of kernel NAT profiles, connected with the real programs.

    python -m tests.nat --pairs masq-drop,random-drop --runs 5 --delay 25 --loss 5

Needs root, nftables, iproute2 and conntrack; docs/nat.md explains and shows what comes out.
"""
