// All calls of the SDK for Node; prints as JSON what it said to each: null, or the error.
const [url, token, text] = process.argv.slice(2);
const hard = () => JSON.parse(text);
const SDK = require('mixpanel');
const { hostname, port } = new URL(url);
const place = { protocol: 'http', host: `${hostname}:${port}` };
const said = { version: require('mixpanel/package.json').version };

const call = (name, object, method, ...given) => new Promise(resolve => {
  object[method](...given, error => {
    said[name] = [error].flat().filter(Boolean).map(each => each.message || String(each)).join() || null;
    resolve();
  });
});

(async () => {
  const sdk = SDK.init(token, { ...place, key: 'api-key' });
  const { people, groups } = sdk;
  await call('track', sdk, 'track', 'Tracked', { distinct_id: 'user', ...hard() });
  const verbose = SDK.init(token, { ...place, verbose: true });
  await call('track verbosely', verbose, 'track', 'Verbose', { distinct_id: 'user', ...hard() });
  await call('set', people, 'set', 'user', { plan: 'pro', gone: 1, ...hard() });
  await call('add', people, 'increment', 'user', { n: 2 });
  await call('add again', people, 'increment', 'user', 'n', 3);
  await call('append', people, 'append', 'user', 'list', 'a');
  await call('union', people, 'union', 'user', { tags: ['x', 'y'] });
  await call('union again', people, 'union', 'user', { tags: ['y', 'z'] });
  await call('unset', people, 'unset', 'user', ['gone']);
  await call('set of another', people, 'set', 'leaver', { plan: 'free' });
  await call('delete', people, 'delete_user', 'leaver');
  await call('group', groups, 'set', 'company', 'acme', { size: 5, gone: 1, ...hard() });
  await call('group union', groups, 'union', 'company', 'acme', { tags: ['x'] });
  await call('group unset', groups, 'unset', 'company', 'acme', ['gone']);
  await call('group of another', groups, 'set', 'company', 'old', { size: 1 });
  await call('group delete', groups, 'delete_group', 'company', 'old');
  await call('import', sdk, 'import', 'Imported', 1600000000, { distinct_id: 'user', ...hard() });

  const many = [...Array(119).keys()].map(number => (
    { event: `e${number}`, properties: { distinct_id: 'user', at: number, ...hard() } }));
  many.push({ properties: { distinct_id: 'user', $insert_id: 'nameless' } });
  await call('batch', sdk, 'track_batch', many, {});
  said.plus = [0, 50, 100].map(at => Buffer.from(JSON.stringify(many.slice(at, at + 50))).toString('base64'))
    .every(coded => coded.includes('+'));

  const other = SDK.init('token-of-another-project', place);
  await call('refused', other, 'track', 'Refused', { distinct_id: 'user' });
  await call('refused update', other.people, 'set', 'user', { plan: 'refused' });
  console.log(JSON.stringify(said));
})();
