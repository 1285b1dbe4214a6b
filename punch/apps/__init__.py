"""Applications on links: each is a service and its client."""
