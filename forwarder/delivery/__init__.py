"""How events leave: batch, one POST, outcome, settle. The only place that knows requests.

An event's way out, in the order of the code: `courier.Courier.next` claims a batch, `batch.pack` makes it
a request body, `client.Client.post` sends it, `outcome.judge` says what the reply means, and
`courier.Courier.settle` does what follows from it.
"""
