"""Publish one task: python publish.py TYPE [BODY [ID]]

pip install pika; AMQP_URL names the broker, EXCHANGE another exchange than verger.tasks.
"""

import json
import os
import sys
import uuid

import pika

task_type = sys.argv[1]
body = sys.argv[2] if len(sys.argv) > 2 else "{}"
task_id = sys.argv[3] if len(sys.argv) > 3 else str(uuid.uuid4())

connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/")))
channel = connection.channel()
channel.confirm_delivery()  # from here on basic_publish returns once the broker has the message, or raises
channel.basic_publish(
    os.environ.get("EXCHANGE", "verger.tasks"),
    routing_key=task_type,
    body=json.dumps({"id": task_id, "taskBody": json.loads(body)}),
    properties=pika.BasicProperties(content_type="application/json", delivery_mode=2),
)
connection.close()
print(task_id)
