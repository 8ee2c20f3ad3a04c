"""The statuses of a row, as persist-queue numbers them (`persistqueue.AckStatus`)."""

from persistqueue import AckStatus

INITED = int(AckStatus.inited)  # put by plain persist-queue: not checked yet
READY = int(AckStatus.ready)  # put by us: checked and complete
UNACK = int(AckStatus.unack)  # a plain consumer has taken it and not said more
ACKED = int(AckStatus.acked)  # a plain consumer is done with it
ACK_FAILED = int(AckStatus.ack_failed)  # a plain consumer gave it up
