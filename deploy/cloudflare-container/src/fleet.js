// What is decided here, apart from Cloudflare's own modules: so that it can be tried without them.

// The settings of a worker: what the image is given, and nothing else of this Worker's bindings.
const OF_A_WORKER = /^(OVERNIGHT_|ANTHROPIC_|CLOUDFLARE_|SUPABASE_|AWS_)[A-Z0-9_]+$/;

export function settingsFor(env) {
  return Object.fromEntries(
    Object.entries(env).filter(([name, value]) => OF_A_WORKER.test(name) && typeof value === "string"),
  );
}

// How many containers should be up for a backlog. More are never stopped from here: a container ends by itself when it has
// been idle, which this Worker cannot see.
export function wanted(backlog, env) {
  const each = Number(env.OVERNIGHT_CONCURRENCY);
  return Math.min(Math.ceil(backlog / each), Number(env.MAX_CONTAINERS));
}

export function names(count) {
  return Array.from({ length: count }, (_, number) => `worker-${number}`);
}
