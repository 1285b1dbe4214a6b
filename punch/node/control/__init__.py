"""The control channel to the rendezvous, as the peer speaks it."""
