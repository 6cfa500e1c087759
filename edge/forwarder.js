// Offline only: a local queue has no pull interface, so its messages are handed to the stand-in that has one.
export default {
  async queue(batch, env) {
    const messages = batch.messages.map((message) => ({ body: message.body, content_type: "json" }));
    const answer = await fetch(`${env.BRIDGE_URL}/bridge/${batch.queue}`, {
      method: "POST",
      headers: { Authorization: `Bearer ${env.BRIDGE_TOKEN}`, "Content-Type": "application/json" },
      body: JSON.stringify({ messages }),
    });
    if (!answer.ok) batch.retryAll();
  },
};
