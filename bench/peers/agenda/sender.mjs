// The sender of Agenda: the commands of bench/sending.py.

import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "./agenda.mjs";
import { monotonic } from "./counting.mjs";

const BATCH = 500;
const WARM_UP = 50;
const WARM_UP_SECONDS = 1.5;
const IN_FLIGHT = 2000;
const { agenda, client } = await connect({});

const send = (work, planned) => agenda.now(work, { planned });
const sendMany = (work, count) => Promise.all(Array.from({ length: count }, () => send(work, 0)));

async function fill(work, count) {
  const begun = monotonic();
  for (let done = 0; done < count; done += BATCH) await sendMany(work, Math.min(BATCH, count - done));
  return { count, seconds: monotonic() - begun };
}

async function one(seconds) {
  for (let i = 0; i < WARM_UP; i++) await send("noop", 0);
  let count = 0;
  const begun = monotonic();
  while (monotonic() < begun + seconds) {
    await send("noop", 0);
    count += 1;
  }
  return { count, seconds: monotonic() - begun };
}

async function bulk(seconds) {
  await sendMany("noop", BATCH);
  let count = 0;
  const begun = monotonic();
  while (monotonic() < begun + seconds) {
    await sendMany("noop", BATCH);
    count += BATCH;
  }
  return { count, seconds: monotonic() - begun };
}

async function pace(rate, seconds) {
  const late = [];
  const under = new Set();
  let planned = monotonic() + 0.1;
  let warmUp = 0;
  const begin = planned + WARM_UP_SECONDS;
  while ((planned += -Math.log(1 - Math.random()) / rate) < begin + seconds) {
    const pause = planned - monotonic();
    if (pause > 0) await sleep(pause * 1000);
    while (under.size >= IN_FLIGHT) await Promise.race(under);
    const asked = planned >= begin;
    if (asked) late.push(monotonic() - planned);
    else warmUp += 1;
    const sending = send("timed", asked ? planned : 0).then(() => under.delete(sending));
    under.add(sending);
  }
  await Promise.all(under);
  late.sort((a, b) => a - b);
  const at = (share) => late[Math.floor(late.length * share)] ?? 0;
  return { count: warmUp + late.length, seconds: monotonic() - begin, late_p50: at(0.5), late_p99: at(0.99) };
}

const [command, ...words] = process.argv.slice(2);
const commands = {
  prepare: async () => ({}),
  fill: () => fill(words[0], Number(words[1])),
  one: () => one(Number(words[0])),
  bulk: () => bulk(Number(words[0])),
  pace: () => pace(Number(words[0]), Number(words[1])),
};
const measured = await commands[command]();
console.log(JSON.stringify(measured));
await client.close();
process.exit(0);
