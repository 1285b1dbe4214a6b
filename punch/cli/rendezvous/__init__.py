"""The rendezvous as a plugin of twistd, and the commands of its operator."""
