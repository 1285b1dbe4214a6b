"""End to end: the services on a link, and programs of others that use it."""
