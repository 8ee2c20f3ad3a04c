"""How events leave: batch, one POST, outcome, settle. The only place that knows requests.

An event's way out, in the order of the code: `dispatcher.Dispatcher.next` claims a batch, its kind packs it
into a request body, `wire.client.Client.post` sends it, `wire.outcome.judge` says what the reply means, and
`dispatcher.Dispatcher.settle` does what follows from it: the batch is acked, or waits in `deferred.Deferred`,
and `flow.Flow` learns what the server bears.
"""
