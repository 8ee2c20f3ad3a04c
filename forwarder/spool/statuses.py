"""The statuses of a row, as persist-queue numbers them (`persistqueue.AckStatus`), and two more: 7 and 8."""

INITED = 0  # put by an external producer: not checked yet
READY = 1  # put by us: checked and complete
UNACK = 2  # a plain consumer has taken it, without ack or nack yet
ACKED = 5  # a plain consumer is done with it
HELD = 7  # held back by a person
SENT = 8  # being sent, in a request that must not be repeated blindly
ACK_FAILED = 9  # a plain consumer gave it up
