"""An ID as a QR code: the path that a page draws, made by segno."""

from __future__ import annotations

from typing import Any

import segno

from punch.identity import PeerID


def qr_code(peer: PeerID) -> dict[str, Any]:
    """
    The code of an ID.

    :return: `size`, modules along each side without the quiet zone; `path`, the dark ones as an SVG path. The
        ID is in upper case, which makes a smaller code and is read like the other.
    """
    rows = [bytes(row) for row in segno.make_qr(str(peer).upper(), error="m").matrix]
    path = []
    for y, row in enumerate(rows):
        x = 0
        while x < len(row):
            if not row[x]:
                x += 1
                continue
            end = x
            while end < len(row) and row[end]:
                end += 1
            path.append(f"M{x} {y}h{end - x}v1h-{end - x}z")
            x = end
    return {"size": len(rows), "path": "".join(path)}
