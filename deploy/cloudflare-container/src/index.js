import { Container } from "@cloudflare/containers";
import { names, settingsFor, wanted } from "./fleet.js";

export class Workers extends Container {
  // Counts requests to the container. It gets none, so this says nothing about its work: see onActivityExpired.
  sleepAfter = "10m";
  entrypoint = ["/usr/bin/tini", "--", "/opt/overnight/bin/overnight", "worker"];
  enableInternet = true;

  // Does nothing if the container runs already.
  async begin() {
    await this.start({ envVars: settingsFor(this.env) });
  }

  // The base class would stop a container here, with jobs in it. The worker ends itself (OVERNIGHT_IDLE_EXIT_SECONDS).
  async onActivityExpired() {}
}

export default {
  async scheduled(_event, env) {
    const { backlogCount } = await env.QUEUE.metrics();
    const started = names(wanted(backlogCount, env)).map((name) => env.WORKERS.getByName(name).begin());
    for (const { status, reason } of await Promise.allSettled(started)) {
      if (status === "rejected") console.error("a container did not start; the next minute tries again:", String(reason));
    }
  },
};
