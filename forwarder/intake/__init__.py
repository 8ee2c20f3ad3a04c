"""The HTTP door for Mixpanel's SDKs: ``/track``, ``/import``, ``/engage`` and ``/groups``, into the queue.

A request's way: `connection` reads it, `access` says whether it may enter, `payload` finds the items in it,
`items` makes them what the queue takes, `writer` commits them, `answers` has the bytes that the SDK expects.
`door` joins these; `server` has the sockets and the process.

``1``, ``{"status": 1}`` and 200 mean one thing: committed to disk. What Mixpanel refuses later becomes a dead
letter.
"""
