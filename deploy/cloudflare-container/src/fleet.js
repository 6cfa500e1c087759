// What is decided here, apart from Cloudflare's own modules: so that it can be tried without them.

// The settings of a worker: what the image is given, and nothing else of this Worker's bindings.
const OF_A_WORKER = /^(OVERNIGHT_|ANTHROPIC_|CLOUDFLARE_|SUPABASE_|AWS_)[A-Z0-9_]+$/;

export function settingsFor(env) {
  return Object.fromEntries(
    Object.entries(env).filter(([name, value]) => OF_A_WORKER.test(name) && typeof value === "string"),
  );
}

// Starts a container for every OVERNIGHT_CONCURRENCY messages that wait, beside those that run: what still waits although
// they look every few seconds, they have no hands for. `begin(name)` says whether that one had to be started. None is ever
// stopped from here: a container ends by itself when it has been idle, which this Worker cannot see.
export async function startFor(backlog, env, begin) {
  let missing = Math.ceil(backlog / Number(env.OVERNIGHT_CONCURRENCY));
  for (let number = 0; missing > 0 && number < Number(env.MAX_CONTAINERS); number += 1) {
    try {
      if (await begin(`worker-${number}`)) missing -= 1;
    } catch (error) {
      console.error("a container did not start; the next minute tries again:", String(error));
    }
  }
}
