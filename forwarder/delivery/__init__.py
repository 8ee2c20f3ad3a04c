"""How events leave: batch, one POST, outcome, settle. Only this package knows requests.

An event's way out, in the order of the code: `dispatcher.Dispatcher.next` claims a batch, its kind packs it
into a request body, `wire.client.Client.post` sends it, `wire.outcome.judge` says what the reply means, and
`dispatcher.Dispatcher.settle` acts on it: the batch is acked, or waits in `deferred.Deferred`. `flow.Flow`
learns how much the server can take.

Where the order counts, `ordered.OrderedDispatcher` takes the dispatcher's place. It keeps rows in
`lanes.Lanes`.
"""
