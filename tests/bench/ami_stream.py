"""Events a second: a stream of QueueMember events, parsed and given to a callback.

panoramisk 1.4: data_received() of its protocol, its message, its manager's dispatch. pyst2: its
manager on a loopback socket, with its reader, message and dispatch threads; ours then reads from
such a socket too, through its client for events.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import warnings
from collections.abc import Iterable, Iterator

from asterisk.manager import Event
from asterisk.manager import Manager as Pyst2Manager
from common import Context, Row, at_least, medians, seconds
from panoramisk.ami_protocol import AMIProtocol
from panoramisk.manager import Manager as PanoramiskManager
from panoramisk.message import Message as PanoramiskMessage

from asterisk_exporter.ami.client import AmiClient, Deadline, Target
from asterisk_exporter.ami.protocol import Message, Splitter, parse_message

EVENTS = 50_000
#: pyst2 reads byte by byte: a tenth of the stream tells its rate.
EVENTS_PYST2 = 5_000
CHUNK_BYTES = 1 << 16
ROUNDS = 5
FIELDS = ("Event", "Queue", "Name", "Status", "Paused", "LastCall")
EVENT = """\
Event: QueueMember
Privilege: agent,all
Queue: support-{queue}
Name: Agent {number}
Location: PJSIP/{number}
StateInterface: PJSIP/{number}
Membership: static
Penalty: 0
CallsTaken: {calls}
LastCall: {last}
LastPause: 0
LoginTime: 1795492392
InCall: 0
Status: {status}
Paused: 0
PausedReason:\x20
Wrapuptime: 15

"""


def stream(events: int) -> bytes:
    """Return so many events, no two alike."""
    text = "".join(
        EVENT.format(queue=n % 100, number=n, calls=n % 97, last=1_795_000_000 + n, status=n % 9)
        for n in range(events)
    )
    return text.replace("\n", "\r\n").encode()


class Handler:
    """The callback of all: reads the event's name and a few fields, and counts."""

    def __init__(self) -> None:
        self.read = 0
        self.length = 0

    def ours(self, message: Message) -> None:
        """Take one of our messages."""
        self.length += sum([len(message.get(name)) for name in FIELDS])
        self.read += 1

    def panoramisk(self, _manager: PanoramiskManager, message: PanoramiskMessage) -> None:
        """Take one of panoramisk's."""
        self.length += sum([len(message[name]) for name in FIELDS])
        self.read += 1

    def pyst2(self, event: Event, _manager: Pyst2Manager) -> None:
        """Take one of pyst2's."""
        self.length += sum([len(event[name]) for name in FIELDS])
        self.read += 1


def ours(chunks: list[bytes]) -> Handler:
    """Cut, parse and dispatch chunks."""
    splitter, handler = Splitter(), Handler()
    for chunk in chunks:
        for block in splitter.feed(chunk):
            handler.ours(parse_message(block))
    return handler


def panoramisk(chunks: list[bytes]) -> Handler:
    """Give chunks to panoramisk, as asyncio would."""
    manager, handler, protocol = PanoramiskManager(), Handler(), AMIProtocol()
    protocol.connection_made(None)
    protocol.factory, protocol.encoding = manager, "utf8"
    manager.register_event("*", handler.panoramisk)
    for chunk in chunks:
        protocol.data_received(chunk)
    return handler


@contextlib.contextmanager
def serving(data: bytes, login: bool) -> Iterator[int]:
    """Serve the banner, the answer to a login if one is to come, and the data. Yields the port."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"Asterisk Call Manager/11.0.0\r\n")
            if login:
                lines = connection.recv(CHUNK_BYTES).split(b"\r\n")
                action_id = next(line for line in lines if line.startswith(b"ActionID:"))
                connection.sendall(b"Response: Success\r\n" + action_id + b"\r\n\r\n")
            connection.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def ours_from_socket(data: bytes, events: int) -> Handler:
    """Log in, then receive, parse and dispatch."""
    handler = Handler()
    with serving(data, login=True) as port:
        target = Target("127.0.0.1", port, "events", "secret")
        client = AmiClient.connect(target, Deadline(5), events="agent")
        while handler.read < events:
            for block in client.receive(Deadline(5)):
                handler.ours(parse_message(block))
        client.close()
    return handler


def pyst2_from_socket(data: bytes, events: int) -> Handler:
    """Have pyst2 connect, and wait until its dispatch thread has seen all."""
    handler, manager, done = Handler(), Pyst2Manager(), threading.Event()

    def dispatch(event: Event, of: Pyst2Manager) -> None:
        handler.pyst2(event, of)
        if handler.read == events:
            done.set()

    manager.register_event("*", dispatch)
    with serving(data, login=False) as port:
        manager.connect("127.0.0.1", port)
        if not done.wait(600):
            raise RuntimeError(f"pyst2 dispatched {handler.read} of {events} events")
    return handler


def bench(_context: Context) -> Iterable[Row]:
    """Compare with panoramisk and with pyst2."""
    warnings.simplefilter("ignore", DeprecationWarning)  # pyst2's setDaemon and its like
    data = stream(EVENTS)
    chunks = [data[n : n + CHUNK_BYTES] for n in range(0, len(data), CHUNK_BYTES)]
    assert ours(chunks).__dict__ == panoramisk(chunks).__dict__
    mine, theirs = medians(ROUNDS, lambda: ours(chunks), lambda: panoramisk(chunks))
    yield at_least(
        f"AMI: {EVENTS:,} events parsed and dispatched; peer: panoramisk",
        EVENTS / mine,
        EVENTS / theirs,
        1.5,
        "events/s",
    )
    [mine] = medians(3, lambda: ours_from_socket(data, EVENTS))
    few = stream(EVENTS_PYST2)
    theirs = seconds(lambda: pyst2_from_socket(few, EVENTS_PYST2))
    yield at_least(
        "AMI: the same from a socket; peer: pyst2",
        EVENTS / mine,
        EVENTS_PYST2 / theirs,
        50,
        "events/s",
    )
