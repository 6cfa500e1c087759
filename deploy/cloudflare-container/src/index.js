import { Container } from "@cloudflare/containers";
import { settingsFor, startFor } from "./fleet.js";

export class Workers extends Container {
  // Counts requests to the container. It gets none, so this says nothing about its work: see onActivityExpired.
  sleepAfter = "10m";
  entrypoint = ["/usr/bin/tini", "--", "/opt/overnight/bin/overnight", "worker"];
  enableInternet = true;

  // False: the container runs already.
  async begin() {
    if (this.ctx.container.running) return false;
    await this.start({ envVars: settingsFor(this.env) });
    return true;
  }

  // The base class would stop a container here, with jobs in it. The worker ends itself (OVERNIGHT_IDLE_EXIT_SECONDS).
  async onActivityExpired() {}
}

export default {
  async scheduled(_event, env) {
    const { backlogCount } = await env.QUEUE.metrics();
    await startFor(backlogCount, env, (name) => env.WORKERS.getByName(name).begin());
  },
};
