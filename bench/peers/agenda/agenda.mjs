// Agenda on MongoDB. A change stream announces new jobs, as its documentation advises for a replica set.

import { MongoBackend, MongoChangeStreamNotificationChannel } from "@agendajs/mongo-backend";
import { Agenda } from "agenda";
import { MongoClient } from "mongodb";

export async function connect(options) {
  const client = await MongoClient.connect(process.env.BENCH_MONGO_URL);
  const db = client.db(process.env.BENCH_DATABASE);
  const agenda = new Agenda({
    backend: new MongoBackend({ mongo: db }),
    notificationChannel: new MongoChangeStreamNotificationChannel({ db }),
    processEvery: 100,
    ...options,
  });
  await agenda.ready;
  return { agenda, client };
}
