"""
One peer is killed and comes back with another of its state directories, again and again, in the middle of a
chat. A seed chooses when, and what is said meanwhile.
"""

from __future__ import annotations

from random import Random

from punch.apps.chat.events import ChatBroken
from punch.apps.chat.store import Store
from punch.test.apps.chat.chat_network import ChatNetwork, ChatPeer, result

STEPS = 60


class StatesInTurn:
    """
    Alice has three states, Bob one.

    :param seed: chooses what happens.
    """

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._network = ChatNetwork()
        self._alice = ChatPeer(self._network, 1, "alice").start()
        self._bob = ChatPeer(self._network, 2, "bob").start()
        self._disks = [self._alice.store, Store(None), Store(None)]
        self._said = 0
        self._network.connect(self._alice, self._bob)
        self._network.run()

    def run(self) -> list[str]:
        """Let it all happen; return what is wrong: everything must arrive once, in each state's order."""
        for step in range(STEPS):
            self._step(step)
        for answer in self._bob.answers:
            answer.callback(None)
        self._bob.slow = False
        wrong = []
        for number, disk in enumerate(self._disks):
            self._use(disk, 200 + number)
            self._alice.chat.call(self._bob.id)
            self._network.run(60.0)
            kept = [message.text for message in result(self._alice.chat.history.messages(self._bob.id))]
            heard = [text for text in self._bob.heard() if text.startswith(str(number))]
            if heard != kept or self._alice.chat.conversations.undelivered():
                wrong.append(f"of state {number}, {kept} was said, and {heard} was heard")
        if len(self._bob.heard()) != self._said:
            wrong.append(f"{self._said} messages were said, and {len(self._bob.heard())} heard")
        return wrong + [event.detail for event in (*self._alice.of(ChatBroken), *self._bob.of(ChatBroken))]

    def _step(self, step: int) -> None:
        random = self._random
        self._bob.slow = random.random() < 0.3
        if random.random() < 0.4:
            self._use(random.choice(self._disks), 100 + step)
            if random.random() < 0.7:
                self._network.connect(*random.sample([self._alice, self._bob], 2))
        if random.random() < 0.6:
            self._said += 1
            text = f"{self._disks.index(self._alice.store)} {self._said}"
            result(self._alice.chat.send(self._bob.id, text))
        for _ in range(random.randrange(4)):
            # One step of what is under way: the next kill may come in the middle.
            for line in list(self._network.streams):
                line.run()
        if self._bob.answers and random.random() < 0.5:
            self._bob.answers.pop(0).callback(None)

    def _use(self, disk: Store, seed: int) -> None:
        """Kill Alice's process and start another one on `disk`."""
        self._alice = self._alice.restart(seed, disk).start()
