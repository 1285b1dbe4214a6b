"""ICE candidates in the text form of RFC 8839, section 5.1 (the value of an `a=candidate` line)."""
