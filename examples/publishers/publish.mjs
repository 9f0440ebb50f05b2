// Publish one task: node publish.mjs TYPE [BODY [ID]]
// npm install amqplib; AMQP_URL names the broker, EXCHANGE another exchange than verger.tasks.
import { randomUUID } from "node:crypto";
import amqp from "amqplib";

const [taskType, body = "{}", id = randomUUID()] = process.argv.slice(2);

const connection = await amqp.connect(process.env.AMQP_URL ?? "amqp://guest:guest@localhost/");
const channel = await connection.createConfirmChannel();
const message = Buffer.from(JSON.stringify({ id, taskBody: JSON.parse(body) }));
channel.publish(process.env.EXCHANGE ?? "verger.tasks", taskType, message, {
  contentType: "application/json",
  persistent: true,
});
await channel.waitForConfirms(); // rejects unless the broker has the message
await connection.close();
console.log(id);
