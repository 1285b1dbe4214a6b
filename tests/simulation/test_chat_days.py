"""A terminal that nobody looks at for days."""

from __future__ import annotations

from punch.test.ui.terminal.test_front_end import SayingCase


class DaysTests(SayingCase):
    """Days without anybody at the keyboard."""

    def test_days_without_anybody_at_the_keyboard(self) -> None:
        """
        What is kept is thinned out, so of 250 messages that somebody has seen some may stay unread, and later
        ones do; what is seen to the end is all read.
        """
        chat_link = self.connect()
        begin = len(self.prompt.shown)
        for number in range(500):
            chat_link.far.send(f"message {number}")
        chat_link.run()
        self.front_end.noticed(begin + 250)
        states = [str(message.state) for message in self.history(500)]
        self.assertEqual(states.index("unread"), states.count("read"))
        self.assertLessEqual(states.count("read"), 250)
        self.assertGreater(states.count("read"), 0)
        self.front_end.noticed(len(self.prompt.shown))
        self.assertEqual({str(message.state) for message in self.history(500)}, {"read"})
