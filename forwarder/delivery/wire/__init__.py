"""One POST and its verdict: `client.Client` sends, `outcome.judge` says what the reply means."""
