// node worker.mjs SLOTS: one worker process.

import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "./agenda.mjs";
import { count } from "./counting.mjs";

const slots = Number(process.argv[2]);
// Without a limit it locks the whole backlog before it runs the first job of it.
const { agenda } = await connect({
  maxConcurrency: slots,
  defaultConcurrency: slots,
  lockLimit: slots,
  defaultLockLimit: slots,
});
agenda.define("noop", async () => count());
agenda.define("nap", async () => {
  await sleep(10);
  count();
});
agenda.define("timed", async (job) => count(job.attrs.data.planned));
await agenda.start();
