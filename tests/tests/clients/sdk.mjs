// OpenMeter's, Lago's and CloudEvents' SDKs of JavaScript, told nothing but an address and a key.
import { createRequire } from "node:module";
import assert from "node:assert/strict";

const require = createRequire(`${process.env.CLIENTS}/node/`);
const { OpenMeter } = require("@openmeter/sdk");
const { Client } = require("lago-javascript-client");
const { CloudEvent, HTTP } = require("cloudevents");
const { WEIR_URL: url, WEIR_KEY: key } = process.env;

const openmeter = new OpenMeter({ baseUrl: url, apiKey: key });
const event = (number, tokens) => ({
  id: `openmeter-js-${number}`, source: "openmeter-js", type: "tokens", subject: "team-01",
  time: new Date(), data: { tokens },
});
await openmeter.events.ingest(event(1, 100));
await openmeter.events.ingest([event(2, "200"), event(3, "0.5")]);

const lago = Client(key, { baseUrl: `${url}/api/v1` });
const usage = (number, tokens) => ({
  transaction_id: `lago-js-${number}`, external_subscription_id: "team-01", code: "tokens",
  timestamp: Math.floor(Date.now() / 1000), properties: { tokens },
});
const { data } = await lago.events.createEvent({ event: usage(1, "100") });
assert.equal(data.event.transaction_id, "lago-js-1");
const several = await lago.events.createBatchEvents({ events: [usage(2, 200), usage(3, 0.5)] });
assert.equal(several.data.events.length, 2);

const cloudevent = (number, tokens) => new CloudEvent({
  id: `cloudevents-js-${number}`, source: "cloudevents-js", type: "tokens", subject: "team-01", data: { tokens },
});
for (const message of [HTTP.binary(cloudevent(1, "100")), HTTP.structured(cloudevent(2, 200))]) {
  const headers = { ...message.headers, authorization: `Bearer ${key}` };
  const answer = await fetch(`${url}/v1/events`, { method: "POST", headers, body: message.body });
  assert.equal(answer.status, 200, await answer.text());
}
