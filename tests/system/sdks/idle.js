// Chains of calls of the SDK for Node, each with a connection of its own that is idle between two calls for EDGE
// ms, some a bit longer than others. Prints how many calls there were, and the errors.
const [url, token, edge] = process.argv.slice(2);
const { hostname, port } = new URL(url);
const SDK = require('mixpanel');
const CHAINS = 50, CALLS = 5, SPREAD_MS = 4;
const said = { calls: 0, errors: [] };

const chain = async which => {
  const sdk = SDK.init(token, { protocol: 'http', host: `${hostname}:${port}` });
  for (let at = 0; at < CALLS; at++) {
    if (at) {
      const idle = Number(edge) + (which / CHAINS - 0.5) * SPREAD_MS;
      await new Promise(resolve => setTimeout(resolve, idle));
    }
    await new Promise(resolve => sdk.track(`${which}-${at}`, { distinct_id: 'user' }, error => {
      said.calls += 1;
      if (error) said.errors.push(error.message);
      resolve();
    }));
  }
};
Promise.all([...Array(CHAINS).keys()].map(chain)).then(() => console.log(JSON.stringify(said)));
