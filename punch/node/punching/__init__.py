"""
Direct paths for links that work over a relay: the coordination of attempts, and how each technique makes one.
"""
