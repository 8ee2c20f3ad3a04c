"""A connection of the intake on a transport that a test drives byte by byte, with a door that notes."""

from forwarder.intake import connection as module
from forwarder.intake.answers import Answer
from forwarder.intake.connection import Connection, House
from forwarder.intake.room import Room

MOST_BODY = 100_000


class Transport(module.asyncio.Transport):
    """What was written, and whether it reads."""

    def __init__(self):
        self.written = b""
        self.reads = True
        self.closed = self.ended = self.aborted = False

    def get_extra_info(self, name, default=None):
        return ("8.8.8.8", 1) if name == "peername" else default

    def write(self, data):
        assert not self.closed
        assert not self.ended
        self.written += data

    def pause_reading(self):
        assert self.reads
        self.reads = False

    def resume_reading(self):
        assert not self.reads
        self.reads = True

    def is_closing(self):
        return self.closed or self.aborted

    def close(self):
        self.closed = True

    def abort(self):
        self.aborted = True

    def write_eof(self):
        self.ended = True

    def take(self):
        """What was written since the last call."""
        written, self.written = self.written, b""
        return written


class Rules:
    max_body_bytes = MOST_BODY


class Door:
    """Notes requests; answers at once, or when a test says so."""

    rules = Rules

    def __init__(self):
        self.requests, self.refusals, self.waiting = [], [], []
        self.answers_at_once = True

    def answer(self, request, respond):
        self.requests.append(request)
        if self.answers_at_once:
            respond(Answer(200, b"1"))
        else:
            self.waiting.append(respond)

    def refuse(self, request, status, words):
        self.refusals.append((status, words))
        return Answer(status, words.encode())


class Line:
    """A connection with all that it needs."""

    def __init__(self, room=None, door=None):
        self.door, self.transport = door or Door(), Transport()
        self.is_stopping = False
        self.lost = []
        house = House(self.door, room or Room(), lambda: self.is_stopping, self.lost.append)
        self.connection = Connection(house)
        self.connection.connection_made(self.transport)

    def send(self, *pieces):
        for piece in pieces:
            self.connection.received(piece)
        return self.transport.take()

    @property
    def got(self):
        return [(each.method, each.path, each.query, each.body) for each in self.door.requests]
