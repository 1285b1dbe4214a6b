"""What two peers say to each other: sealed over the rendezvous, and in frames over their link."""
