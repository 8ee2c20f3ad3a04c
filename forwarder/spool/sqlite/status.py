"""The statuses of a row, as persist-queue numbers them (`persistqueue.AckStatus`)."""

INITED = 0  # put by plain persist-queue: not checked yet
READY = 1  # put by us: checked and complete
UNACK = 2  # a plain consumer has taken it and not said more
ACKED = 5  # a plain consumer is done with it
ACK_FAILED = 9  # a plain consumer gave it up
