"""Events: prints what happens to a node, its calls and its links."""

from punch.node.events import CallFailed, Connected, Disconnected, PathChanged, Registered
from punch.ui.text.causes import event_sentence


def watch(node, show=print):
    """Print events until what is returned is called."""

    def handle(event):
        if isinstance(event, Registered):
            show(f"registered at {event.rendezvous}")
        elif isinstance(event, (Connected, PathChanged)):
            path = event.path
            show(f"{event.peer.short}: {path.kind}, {path.local} to {path.remote}")
        elif isinstance(event, Disconnected):
            show(f"{event.peer.short}: the link is over ({event.reason})")
        elif isinstance(event, CallFailed):
            show(event_sentence(event))

    return node.subscribe(handle)
