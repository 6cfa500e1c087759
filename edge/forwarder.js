// Offline only: a local queue has no pull interface, so its messages are handed to the stand-in that has one. What the
// stand-in makes a dead letter of is put into the local queue for them: once the first message has come, it is asked
// each second, by a message of the forwarder to itself.
const TICKS = "forwarder-ticks";
let ticking = false;

export default {
  async queue(batch, env) {
    if (batch.queue === TICKS) {
      await bury(env);
      return;
    }
    const messages = batch.messages.map((message) => ({ body: message.body, content_type: "json" }));
    const answer = await ask(env, "", { method: "POST", body: JSON.stringify({ messages }) });
    if (!answer.ok) batch.retryAll();
    if (!ticking) await env.TICKS.send({});
    ticking = true;
  },
};

async function bury(env) {
  const dead = await (await ask(env, "/dead", {})).json();
  for (const letter of dead.result.messages) await env.DEAD_LETTERS.send(JSON.parse(atob(letter.body)));
  await env.TICKS.send({}, { delaySeconds: 1 });
}

function ask(env, path, options) {
  const headers = { Authorization: `Bearer ${env.BRIDGE_TOKEN}`, "Content-Type": "application/json" };
  return fetch(`${env.BRIDGE_URL}${path}`, { ...options, headers });
}
