"""End to end: processes of the rendezvous."""
